#!/bin/bash
# Curate a pool on a Ray cluster; run it on one of the cluster's nodes (`ray job submit` does).
#
#   curate.sh RECIPE RUN     the cluster is RAY_ADDRESS, or the one of this node
#
# RUN is a folder that all nodes share.
set -euo pipefail
worldclip run "$1" --out "$2" --until curate --executor "ray:${RAY_ADDRESS:-auto}"
