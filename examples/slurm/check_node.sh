#!/bin/bash
# Measure the bandwidth of this node: among its GPUs, then with one other node at a time, in three rounds.
#
#   srun check_node.sh FOLDER NODE...     on each NODE of a job; train.sh calls it, GPUS in the environment
#
# In each round the nodes are paired anew, so that a slow node has another partner.  Writes FOLDER/NODE (bandwidth.py).
set -uo pipefail
folder=$1 && shift
nodes=("$@") count=$#
here=$(dirname "$0")
for i in "${!nodes[@]}"; do
    if [[ ${nodes[i]} == "$SLURMD_NODENAME" ]]; then me=$i; fi
done

measure() { # ROUND NODES FIRST: a node that does not come costs its partner a round, and no more
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT=10 timeout --kill-after=20 180 \
        torchrun --nnodes "$2" --nproc-per-node "$GPUS" --rdzv-backend c10d \
        --rdzv-endpoint "$3:$((${PORT:-29500} + 1 + $1))" --rdzv-id "$SLURM_JOB_ID-$1-$3" \
        "$here/bandwidth.py" "$folder/$SLURMD_NODENAME"
}

measure 0 1 "$SLURMD_NODENAME"
for round in 1 2 3; do
    place=$(((me + round) % count))
    partner=$((place ^ 1)) # 0 and 1, 2 and 3, ...; the last of an odd number has none
    if ((partner < count)); then
        first=$((place < partner ? place : partner))
        measure "$round" 2 "${nodes[$(((first + count - round % count) % count))]}"
    fi
done
exit 0 # a measurement that is missing says what failed
