"""Measure how fast the processes of torchrun sum a tensor, and find the nodes that are slower than others.

    torchrun --nproc-per-node 8 bandwidth.py FILE          appends "NODES GB/s" to FILE of each node
    python bandwidth.py --judge FOLDER NODE...             prints the nodes that fail, joined by commas

A node fails if FOLDER/NODE lacks a measurement, or if it is slower than SLOW times the median of all nodes: its own
GPUs among themselves, or the fastest of its measurements with another node.  One slow node makes its partner slow too,
but not that node's next partner.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SLOW = 0.7  # of the median: measurements of equal nodes differ by a tenth
MAX_FAILED = 0.25  # of the nodes; more is a fault of the network or of this test, and no nodes can be left out for it
WARM_UPS, ROUNDS = 3, 10
TIMEOUT = datetime.timedelta(seconds=60)


def measure(num_mib: int) -> tuple[int, float]:
    """Return (nodes, bus bandwidth in GB/s of an all-reduce of num_mib MiB), of the processes that torchrun started.

    Bus bandwidth as in NVIDIA's nccl-tests: 2 (n - 1) / n times the bytes per second, of n processes.
    """
    import torch
    import torch.distributed as dist

    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    is_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if is_gpu else torch.device("cpu")
    if is_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_gpu else "gloo", timeout=TIMEOUT)
    values = torch.ones(num_mib * 2**20 // 4, device=device)
    size, times_s = dist.get_world_size(), []
    for _ in range(WARM_UPS + ROUNDS):
        started_at = time.perf_counter()
        dist.all_reduce(values, op=dist.ReduceOp.MAX)  # of ones: nothing overflows
        if is_gpu:
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - started_at)
    assert bool((values == 1).all())
    dist.destroy_process_group()
    bus_bytes = 2 * (size - 1) / size * values.nbytes
    return size // local_size, bus_bytes / statistics.median(times_s[WARM_UPS:]) / 1e9


def read_speeds(path: Path) -> dict[int, float]:
    """Return the fastest measurement of a node, by the number of nodes that took part."""
    speeds: dict[int, float] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        num_nodes, speed = line.split()
        speeds[int(num_nodes)] = max(float(speed), speeds.get(int(num_nodes), 0.0))
    return speeds


def find_failed(folder: Path, nodes: Sequence[str]) -> dict[str, str]:
    """Return the reason of each node that fails."""
    speeds = {node: read_speeds(folder / node) for node in nodes}
    failed: dict[str, str] = {}
    for num_nodes, what in ((1, "among its GPUs"), (2, "to other nodes"))[: len(nodes)]:
        measured = [speeds[node][num_nodes] for node in nodes if num_nodes in speeds[node]]
        median = statistics.median(measured) if measured else 0.0
        for node in nodes:
            speed = speeds[node].get(num_nodes)
            if speed is None:
                failed.setdefault(node, f"no measurement {what}")
            elif speed < SLOW * median:
                failed.setdefault(node, f"{speed:.1f} GB/s {what}, the median node {median:.1f}")
    return failed


def judge(folder: Path, nodes: Sequence[str]) -> int:
    """Print the nodes that fail, and why to stderr.  Return the exit code: 1 if they are too many to leave out."""
    failed = find_failed(folder, nodes)
    for node, reason in failed.items():
        print(f"bandwidth.py: {node} fails: {reason}", file=sys.stderr)
    if len(failed) > max(1, MAX_FAILED * len(nodes)):
        print(f"bandwidth.py: {len(failed)} of {len(nodes)} nodes fail; look at the network", file=sys.stderr)
        return 1
    print(",".join(failed))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the node's file, with --judge the folder of all")
    parser.add_argument("nodes", nargs="*")
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--mib", type=int, default=256)
    chosen = parser.parse_args(arguments)
    if chosen.judge:
        return judge(chosen.path, chosen.nodes)
    num_nodes, speed = measure(chosen.mib)
    if os.environ["LOCAL_RANK"] == "0":
        with open(chosen.path, "a", encoding="utf-8") as file:
            file.write(f"{num_nodes} {speed:.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
