#!/bin/bash
# Train a curated run on several nodes: a torchrun on each, one process a GPU, which meet at the first node.
#
#   train.sh RUN NODES [GPUS]       GPUS of a node, 8 by default; options: SBATCH_PARTITION, ... in the environment
#
# Two minutes before its time is over Slurm sends SIGUSR1 to every process: training saves and ends, and the job puts
# itself in the queue again.  So it does after a lost node, but not after a mistake that a person must correct (exit code
# 2), nor after three starts without a newer checkpoint.  `scancel JOB` ends it for good.
#
# First each node with GPUs is measured (check_node.sh).  If one fails, another job is submitted without it.
set -euo pipefail

submit() { # RUN NODES GPUS: submit this file, without the nodes in EXCLUDED
    sbatch --parsable --nodes="$2" --ntasks-per-node=1 --gpus-per-node="$3" \
        --cpus-per-task="${CPUS_PER_NODE:-96}" --signal=USR1@120 --requeue --open-mode=append \
        ${EXCLUDED:+--exclude="$EXCLUDED"} --export=ALL,RUN="$1",GPUS="$3" "$EXAMPLES/train.sh"
}

if [[ -z ${SLURM_JOB_ID:-} ]]; then # on the login node
    EXAMPLES=$(dirname "$(realpath "$0")") # Slurm runs a copy of this file in another folder
    export EXAMPLES
    submit "$(realpath "$1")" "$2" "${3:-8}"
    exit
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes[0]}
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / GPUS)) # of each process
# batches differ in the length of their texts: blocks of fixed size would leave gaps between them
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
# after SIGTERM torchrun kills its processes in 30 s, in the middle of a save; since torch 2.12 in this many
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
# NCCL's flight recorder: the last collectives of each rank, written when one of them times out
export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-20000} TORCH_NCCL_DUMP_ON_TIMEOUT=true
records=$PWD/nccl-$SLURM_JOB_ID
export TORCH_FR_DUMP_TEMP_FILE=${TORCH_FR_DUMP_TEMP_FILE:-$records/rank_}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN} # says why a connection failed
mkdir -p "$records" "$(dirname "$TORCH_FR_DUMP_TEMP_FILE")"
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)" # sockets to all ranks, and open tars

find_failed_nodes() {
    rm -rf "$records/bandwidth"
    mkdir "$records/bandwidth"
    srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        "$EXAMPLES/check_node.sh" "$records/bandwidth" "${nodes[@]}" >&2 || true
    python "$EXAMPLES/bandwidth.py" --judge "$records/bandwidth" "${nodes[@]}"
}

options=()
if command -v nvidia-smi >/dev/null; then
    options+=(--numa-binding node) # each process on the cores beside its GPU
    failed=$(find_failed_nodes)
    if [[ -n $failed ]]; then
        export EXCLUDED=${EXCLUDED:+$EXCLUDED,}$failed
        num_nodes=$SLURM_JOB_NUM_NODES
        IFS=, read -ra excluded <<<"$EXCLUDED"
        if ((${#excluded[@]} > (num_nodes < 8 ? 2 : num_nodes / 4))); then
            echo "train.sh: not submitted again, since many nodes have failed: $EXCLUDED; is it the test?" >&2
            exit 1
        fi
        for name in "${!SLURM_@}"; do # sbatch would take the limits of this job from them
            if [[ $name != SLURM_CONF ]]; then unset "$name"; fi
        done
        job=$(submit "$RUN" "$num_nodes" "$GPUS")
        echo "train.sh: submitted again as job $job without $failed, which failed the test of bandwidth" >&2
        exit 0
    fi
fi
exec {errors}> >(trap "" USR1 && exec tee "$records/stderr" >&2)
tee=$! code=0
# torchrun itself must live through the signal until its processes have saved
# srun since Slurm 22.05 does not inherit the job's cores per task
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'trap "" USR1; exec torchrun "$@"' torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$GPUS" "${options[@]}" \
    --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --rdzv-id "$SLURM_JOB_ID" \
    -m worldclip train "$RUN" 2>&"$errors" || code=$?
exec {errors}>&-
wait "$tee"
if [[ -e $RUN/train/manifest.json ]]; then
    exit "$code"
fi
if grep -q "exitcode *: 2 " "$records/stderr"; then # torchrun itself always ends with 1
    echo "train.sh: not queued again, since the same command would fail again; see the error above" >&2
    exit 2
fi
newest=$(find "$RUN/train" -maxdepth 1 -name "step_*[0-9]" 2>/dev/null | sort | tail -n 1 || true)
printf '%s\n' "${newest:-none}" >>"$records/starts" # the newest checkpoint after each start
starts=$(tail -n 4 "$records/starts" | grep -cxF "${newest:-none}" || true)
if [[ $starts -gt 3 ]]; then
    echo "train.sh: not queued again after 3 restarts without a newer checkpoint than ${newest:-none}" >&2
elif [[ ${SLURM_RESTART_COUNT:-0} -lt ${MAX_RESTARTS:-100} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
