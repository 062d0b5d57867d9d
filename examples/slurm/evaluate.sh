#!/usr/bin/env bash
# Evaluate the checkpoints of a training that runs, each once per call:
#   examples/slurm/evaluate.sh RUN [FLAGS of worldclip evaluate]
# Results are in RUN/checkpoints/step_*.  A call that was interrupted resumes with the same command.
set -uo pipefail
run=$1
shift
finished=
declare -A evaluated
until [[ -n $finished ]]; do
    [[ -e $run/train/manifest.json ]] && finished=yes || sleep 60 # the last checkpoint is older than the manifest
    for step in "$run"/train/step_*; do
        [[ $step =~ /step_[0-9]+$ ]] || continue # not step_*.corrupt
        out=$run/checkpoints/${step##*/}
        [[ -n ${evaluated[$step]:-} ]] && continue
        worldclip consolidate "$step" && worldclip evaluate "$step" --out "$out" "$@" && evaluated[$step]=yes
    done
done
