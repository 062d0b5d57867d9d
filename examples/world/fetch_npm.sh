#!/bin/sh
# CLDR's annotations (Unicode License v3), Fluent's emoji and flags by three artists (MIT), from the npm registry, into data/world.
set -e
mkdir -p data/world && cd data/world
npm pack --silent cldr-annotations-full@48.2.0 cldr-annotations-derived-full@48.2.0 @iconify-json/fluent-emoji-flat@1.2.6
for name in cldr-annotations-full-48.2.0 cldr-annotations-derived-full-48.2.0; do mkdir -p "cldr/$name" && tar xzf "$name.tgz" -C "cldr/$name"; done
mkdir -p fluent && tar xzf iconify-json-fluent-emoji-flat-1.2.6.tgz -C fluent
npm pack --silent @iconify-json/flag@1.2.12 @iconify-json/circle-flags@1.2.11 @iconify-json/flagpack@1.2.8
for name in flag-1.2.12 circle-flags-1.2.11 flagpack-1.2.8; do mkdir -p "flags/$name" && tar xzf "iconify-json-$name.tgz" -C "flags/$name"; done
