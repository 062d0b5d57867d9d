"""Collectives of the sizes of a training step, by themselves: what gpu_check.py measures with several ranks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from worldclip.train import budget
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World, all_reduce, gather_records, start_gathering

WARM_UPS, ROUNDS = 3, 5
BUS_BYTES_PER_S = 3.7e11  # of a node with eight cards of 400 Gbit/s (docs/5_train.md): an assumption


@dataclass(frozen=True)
class Exchange:
    """A collective of a step's size, by itself."""

    what: str
    num_bytes: int
    """Bytes that each rank would send if it had no share of the result: twice the tensor's for a sum."""
    ms: float
    """Of the slowest rank."""
    bus_gb_s: float
    expected_ms: float


def measure_exchanges(config: TrainConfig, vocab_size: int, world: World, device: torch.device) -> list[Exchange]:
    """Sum all gradients and those of the token table, and gather the features of a tower, as a step does."""
    if world.size == 1:
        return []
    sizes = config.model.architecture()
    counts = budget.count_parameters(sizes, vocab_size)
    pairs = config.global_batch_size // world.size
    return [
        measure_sum("all-reduce, all gradients", sum(counts.values()), world, device),
        measure_sum("all-reduce, token table", counts["token table"], world, device),
        measure_gathering("all-gather, features of a tower", (pairs, sizes.embed_dim), world, device),
    ]


def measure_sum(what: str, num_values: int, world: World, device: torch.device) -> Exchange:
    """Time the sum over ranks of so many float32."""
    values = torch.zeros(num_values, device=device)
    seconds = time_exchange(lambda: all_reduce(values, world), device)
    return exchange_of(what, 2 * values.nbytes, seconds, world)


def measure_gathering(what: str, shape: tuple[int, int], world: World, device: torch.device) -> Exchange:
    """Time the exchange of each rank's float32 rows."""
    rows = torch.zeros(shape, device=device)
    seconds = time_exchange(lambda: start_gathering(rows, world).wait(), device)
    return exchange_of(what, world.size * rows.nbytes, seconds, world)


def time_exchange(exchange: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of an exchange."""
    times_s = []
    for _ in range(WARM_UPS + ROUNDS):
        started_at = time.perf_counter()
        exchange()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - started_at)
    return statistics.median(times_s[WARM_UPS:])


def exchange_of(what: str, num_bytes: int, seconds: float, world: World) -> Exchange:
    """Return an exchange with its bus bandwidth: num_bytes less the rank's own share, per second."""
    slowest_s = max(gather_records(seconds, world))
    sent = num_bytes * (world.size - 1) / world.size
    return Exchange(what, num_bytes, 1000 * slowest_s, sent / slowest_s / 1e9, 1000 * sent / BUS_BYTES_PER_S)


def exchange_table(exchanges: Mapping[str, Sequence[Exchange]]) -> list[str]:
    """Return the lines of a Markdown table, none for one rank."""
    lines = [
        f"| {model}: {row.what} | {row.num_bytes / 2**20:,.1f} MiB | {row.ms:,.2f} ms | {row.bus_gb_s:,.1f} GB/s | "
        f"{row.expected_ms:,.2f} ms |"
        for model, rows in exchanges.items()
        for row in rows
    ]
    if not lines:
        return []
    return [
        "", "Exchanges of a step's sizes, by themselves (bytes: twice a sum's, once those that are gathered):", "",
        "| exchange | bytes | time | bus bandwidth | expected at 370 GB/s |", "|---|---:|---:|---:|---:|", *lines,
    ]  # fmt: skip
