#!/bin/bash
# Train a curated run on several nodes: a torchrun on each, one process a GPU, which meet at the first node.
#
#   train.sh RUN NODES [GPUS]       GPUS of a node, 8 by default; options: SBATCH_PARTITION, ... in the environment
#
# Two minutes before its time is over Slurm sends SIGUSR1 to every process: training saves and ends, and the job puts
# itself in the queue again.  So it does after a lost node; `scancel JOB` ends it for good.
set -euo pipefail

if [[ -z ${SLURM_JOB_ID:-} ]]; then # on the login node: submit this file
    run=$(realpath "$1") nodes=$2 gpus=${3:-8}
    exec sbatch --parsable --nodes="$nodes" --ntasks-per-node=1 --gpus-per-node="$gpus" \
        --cpus-per-task="${CPUS_PER_NODE:-96}" --signal=USR1@120 --requeue --open-mode=append \
        --export=ALL,RUN="$run",GPUS="$gpus" "$0"
fi

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / GPUS)) # of each process
# batches differ in the length of their texts: blocks of fixed size would leave gaps between them
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
# after SIGTERM torchrun kills its processes in 30 s, in the middle of a save; since torch 2.12 in this many
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
# NCCL's flight recorder: the last collectives of each rank, written when one of them times out
export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-20000} TORCH_NCCL_DUMP_ON_TIMEOUT=true
export TORCH_FR_DUMP_TEMP_FILE=${TORCH_FR_DUMP_TEMP_FILE:-$PWD/nccl-$SLURM_JOB_ID/rank_}
mkdir -p "$(dirname "$TORCH_FR_DUMP_TEMP_FILE")"
options=()
if command -v nvidia-smi >/dev/null; then
    options+=(--numa-binding node) # each process on the cores beside its GPU
fi
code=0
# torchrun itself must live through the signal until its processes have saved
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec torchrun "$@"' torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$GPUS" "${options[@]}" \
    --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --rdzv-id "$SLURM_JOB_ID" \
    -m worldclip train "$RUN" || code=$?
if [[ ! -e $RUN/train/manifest.json && ${SLURM_RESTART_COUNT:-0} -lt ${MAX_RESTARTS:-100} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
