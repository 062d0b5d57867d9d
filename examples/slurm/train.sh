#!/bin/bash
# Train a curated run on several nodes: a torchrun on each, one process per GPU, which meet at the first node.
#
#   train.sh RUN NODES [GPUS]       GPUS of a node, 8 by default; options: SBATCH_PARTITION, ... in the environment
#
# Two minutes before its time is over Slurm sends SIGUSR1 to every process: training saves and ends, and the job puts
# itself in the queue again.  So it does after a lost node, but not after a mistake that a person must correct (exit code
# 2).  `scancel JOB` ends it for good.
set -euo pipefail
if [[ -z ${SLURM_JOB_ID:-} ]]; then # on the login node
    exec sbatch --nodes="$2" --ntasks-per-node=1 --gpus-per-node="${3:-8}" --cpus-per-task="${CPUS_PER_NODE:-96}" \
        --signal=USR1@120 --requeue --open-mode=append --export=ALL,RUN="$(realpath "$1")",GPUS="${3:-8}" "$0"
fi
records=$PWD/nccl-$SLURM_JOB_ID options=() code=0
mkdir -p "$records"
if command -v nvidia-smi >/dev/null; then options+=(--numa-binding node); fi # each process on the cores beside its GPU
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / GPUS))                       # of each process
# batches differ in the length of their texts: blocks of fixed size would leave gaps between them
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
# after SIGTERM torchrun kills its processes in 30 s, in the middle of a save; since torch 2.12 in this many
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
# NCCL's flight recorder: the last collectives of each rank, written when one of them times out
export TORCH_FR_BUFFER_SIZE=20000 TORCH_NCCL_DUMP_ON_TIMEOUT=true TORCH_FR_DUMP_TEMP_FILE=$records/rank_
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)" # sockets to all ranks, and open tars
exec {errors}> >(trap "" USR1 && exec tee "$records/stderr" >&2)
tee=$!
# torchrun itself must live through the signal until its processes have saved
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'trap "" USR1; exec torchrun "$@"' torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$GPUS" "${options[@]}" --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):${PORT:-29500}" \
    -m worldclip train "$RUN" 2>&"$errors" || code=$?
exec {errors}>&-
wait "$tee"
if [[ -e $RUN/train/manifest.json ]]; then exit "$code"; fi
if grep -q "exitcode *: 2 " "$records/stderr"; then # torchrun itself always ends with 1
    echo "train.sh: not queued again, since the same command would fail again; see the error above" >&2
    exit 2
fi
if ((${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-100})); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
