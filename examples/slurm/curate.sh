#!/bin/bash
# Curate a pool with arrays of Slurm jobs.
#
#   curate.sh RECIPE RUN [JOBS]     options for every job: SBATCH_PARTITION, SBATCH_ACCOUNT, ... in the environment
#
# RUN is a folder that all nodes share.  Every job of an array takes its own part of the shards (--shards I/N); the job
# behind an array starts however it ended, does what a lost job left, and lists shards that cannot be read.
set -euo pipefail
recipe=$(realpath "$1") run=$(realpath "$2") jobs=${3:-16} cpus=${CPUS_PER_JOB:-16}

submit() { sbatch --parsable --cpus-per-task="$cpus" "$@"; }
slices() { # STAGE: the command of one job of an array
    echo "worldclip $1 '$recipe' --out '$run' --shards \$SLURM_ARRAY_TASK_ID/$jobs --workers $cpus"
}

upto() { # STAGE: the command that finishes a stage, and those before it
    echo "worldclip run '$recipe' --out '$run' --until $1"
}

index=$(submit --array="1-$jobs" --wrap="$(slices pool)")
metadata=$(submit --dependency="afterany:$index" --wrap="$(upto metadata)")
match=$(submit --array="1-$jobs" --dependency="afterok:$metadata" --wrap="$(slices match)")
balance=$(submit --dependency="afterany:$match" --wrap="$(upto balance)")
curate=$(submit --array="1-$jobs" --dependency="afterok:$balance" --wrap="$(slices curate)")
submit --dependency="afterany:$curate" --wrap="$(upto curate)"
