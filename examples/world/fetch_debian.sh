#!/bin/sh
# Tux Paint's stamps (GPL-2), GCompris' photographs (GPL-3) and AppStream's icons, from Debian's archive, into data/world.
# Needs root: apt reads AppStream's catalogue only after `apt-get install appstream`.
set -e
mkdir -p data/world/appstream && cd data/world
apt-get install -y --no-install-recommends appstream
apt-get update -o Acquire::IndexTargets::deb::DEP-11-icons-large::DefaultEnabled=true
cp /var/lib/apt/lists/*_dep11_* appstream/
apt-get download tuxpaint-stamps-default gcompris-qt-data
dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
dpkg-deb -x gcompris-qt-data_*.deb gcompris
