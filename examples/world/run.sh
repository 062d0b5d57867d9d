#!/bin/sh
# Run recipes/world.toml with the parts of the world pool that are in data/world, and evaluate on theirs too.
datasets='"world_tone", "world_base", "world_flags", "world_flags_held"'
test -d data/world/stamps && datasets="$datasets, \"world_stamps\""
test -d data/world/gcompris && datasets="$datasets, \"world_photos\""
for part in cldr fluent flags appstream stamps gcompris; do
    test -d "data/world/$part" && set -- "$@" --set "pool.parts.$part=data/world/$part"
done
exec .venv/bin/worldclip run recipes/world.toml --out runs/world --set "evaluate.datasets=[$datasets]" "$@"
