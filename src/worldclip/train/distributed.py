"""Several processes that train one model: who they are, and what they tell each other.

torchrun says in the environment how many there are; without it there is one, and nothing here communicates.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = datetime.timedelta(hours=2)  # how long ranks wait for each other: rank 0 may write or evaluate meanwhile


@dataclass(frozen=True, slots=True)
class World:
    """The processes that train together; `rank` is this one's number."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine: the GPU that it uses."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0


def world_of_environment() -> World:
    """What torchrun set; one process where it set nothing."""
    return World(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def start(world: World, device: torch.device) -> None:
    """Meet the other ranks: NCCL between GPUs, gloo between CPUs."""
    if world.size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=PATIENCE)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier(world: World) -> None:
    if world.size > 1:
        dist.barrier()


def gather_rows(rows_BD: torch.Tensor, world: World) -> torch.Tensor:
    """(B, ...) of each rank -> (world size * B, ...) in rank order, on every rank."""
    if world.size == 1:
        return rows_BD
    rows_GD = rows_BD.new_empty((world.size * len(rows_BD), *rows_BD.shape[1:]))
    dist.all_gather_into_tensor(rows_GD, rows_BD.contiguous())
    return rows_GD


def scatter_sum(rows_GD: torch.Tensor, world: World) -> torch.Tensor:
    """The reverse: (world size * B, ...) of each rank -> the sum over ranks of this rank's (B, ...)."""
    if world.size == 1:
        return rows_GD
    own_BD = rows_GD.new_empty((len(rows_GD) // world.size, *rows_GD.shape[1:]))
    dist.reduce_scatter_tensor(own_BD, rows_GD.contiguous())
    return own_BD


def sum_over_ranks(values: torch.Tensor, world: World) -> torch.Tensor:
    """`values`, changed in place into their sum over all ranks."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def gather_records(record: Any, world: World) -> list[Any]:
    """A JSON-able record of each rank, in rank order, on every rank."""
    if world.size == 1:
        return [record]
    data = torch.frombuffer(bytearray(json.dumps(record).encode()), dtype=torch.uint8)
    lengths = gather_rows(torch.tensor([len(data)]), world)
    padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
    padded[: len(data)] = data
    rows = gather_rows(padded[None], world)
    return [json.loads(bytes(row[:length].tolist())) for row, length in zip(rows, lengths.tolist(), strict=True)]


def share_of(num_rows: int, world: World) -> tuple[int, int]:
    """[first, last) of the rows that a rank holds of a tensor cut along its first dimension, as FSDP cuts it."""
    size = -(-num_rows // world.size)
    return min(num_rows, world.rank * size), min(num_rows, (world.rank + 1) * size)
