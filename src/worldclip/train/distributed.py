"""Several processes that train one model: ranks, process group, collectives.

torchrun describes the ranks in the environment.  Without it there is one rank, and every function here returns its
input without communication.

There are two process groups.  The default one moves the tensors of a step: if a rank hangs, the others end after
STEP_TIMEOUT, with NCCL's record of what they waited for.  The other one, gloo, has barriers and records: there ranks
wait hours while rank 0 matches or joins a large pool, evaluates, or writes the last weights.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from worldclip.core.execute import usable_cores
from worldclip.core.execute.shards import raise_file_limit
from worldclip.model.clip import pick_device

Record = TypeVar("Record")

STEP_TIMEOUT = datetime.timedelta(minutes=10)  # longest exchange of a tensor; torch.compile takes minutes
LONG_TIMEOUT = datetime.timedelta(hours=12)  # longest barrier or record; a rank that dies is noticed at once


@dataclass(frozen=True, slots=True)
class World:
    """The ranks that train together, and which of them this process is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank within this machine: the index of its GPU."""
    local_size: int = 1
    """Number of ranks of this machine."""
    long_waits: dist.ProcessGroup | None = field(default=None, compare=False)
    """The group of barriers and records; None: the default one."""

    @property
    def num_machines(self) -> int:
        return self.size // self.local_size

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and messages for all."""
        return self.rank == 0


ALONE = World()


@contextmanager
def connected_ranks(device: str) -> Iterator[World]:
    """Connect the ranks that torchrun's variables describe; after the work inside wait for all, and disconnect.

    After an error disconnect at once: ranks that wait for this one fail, too.

    NCCL moves tensors on GPUs, gloo tensors on the CPU.  All ranks wait LONG_TIMEOUT for the first of them, which may
    match the pool before it trains.
    """
    defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    rank, size, local_rank, local_size = (int(os.environ.get(name, default)) for name, default in defaults.items())
    world = World(rank, size, local_rank, local_size)
    raise_file_limit()  # three sockets per rank, on GPUs too; a resume opens a file of each rank
    backend = "cpu:gloo,cuda:nccl" if pick_rank_device(device, world).type == "cuda" else "gloo"
    if world.size == 1:
        yield world
        return
    dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=LONG_TIMEOUT)
    try:
        long_waits = dist.new_group(backend="gloo", timeout=LONG_TIMEOUT)
        assert isinstance(long_waits, dist.ProcessGroup)  # a rank outside of the group would get a number
        world = replace(world, long_waits=long_waits)
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # before torch 2.15
        set_timeout(STEP_TIMEOUT)  # the ranks have met
        yield world
        barrier(world)
    except BaseException:
        # destroy_process_group may wait for collectives that the other ranks never join
        dist.distributed_c10d._abort_process_group()
        raise
    dist.destroy_process_group()


def pick_rank_device(name: str, world: World) -> torch.device:
    """Return the device of this rank; on a machine with several GPUs, the one with its local rank.

    Raises UserError for a device that this machine does not have.
    """
    device = pick_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    return device


def rank_cores() -> int:
    """Return the number of cores for this process: its share of the machine's, unless it is bound to fewer."""
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(usable_cores(), (os.cpu_count() or 1) // local_ranks))


def barrier(world: World) -> None:
    """Wait until all ranks are here, at most LONG_TIMEOUT."""
    if world.size > 1:
        dist.barrier(world.long_waits)


@dataclass(frozen=True, slots=True)
class Gathering:
    """Rows of all ranks that are still being exchanged."""

    rows_GD: torch.Tensor
    work: dist.Work | None
    """None: they are there."""

    def wait(self) -> torch.Tensor:
        """Return (world size * B, ...), in rank order; on a GPU its stream waits, not this thread."""
        if self.work is not None:
            self.work.wait()
        return self.rows_GD


def start_gathering(rows_BD: torch.Tensor, world: World) -> Gathering:
    """Begin to exchange the (B, ...) of all ranks; what is computed meanwhile hides the exchange."""
    if world.size == 1:
        return Gathering(rows_BD, None)
    rows_GD = rows_BD.new_empty((world.size * len(rows_BD), *rows_BD.shape[1:]))
    return Gathering(rows_GD, dist.all_gather_into_tensor(rows_GD, rows_BD.contiguous(), async_op=True))


def reduce_scatter_rows(rows_GD: torch.Tensor, world: World) -> torch.Tensor:
    """Return (B, ...): this rank's rows of the sum over ranks of (world size * B, ...), the adjoint of gathering."""
    if world.size == 1:
        return rows_GD
    own_BD = rows_GD.new_empty((len(rows_GD) // world.size, *rows_GD.shape[1:]))
    dist.reduce_scatter_tensor(own_BD, rows_GD.contiguous())
    return own_BD


def all_reduce(values: torch.Tensor, world: World) -> torch.Tensor:
    """Replace `values` in place by their sum over ranks, and return them."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def gather_records(record: Record, world: World) -> list[Record]:
    """Return each rank's record, in rank order, on every rank."""
    if world.size == 1:
        return [record]
    records: list[Record] = [record] * world.size
    dist.all_gather_object(records, record, world.long_waits)
    return records


def broadcast_record(record: Any, world: World) -> Any:
    """Return rank 0's record on every rank."""
    if world.size == 1:
        return record
    records = [record]
    dist.broadcast_object_list(records, src=0, group=world.long_waits)
    return records[0]


def shard_rows(num_rows: int, world: World) -> tuple[int, int]:
    """Return [first, last): this rank's rows of a tensor that is sharded along its first dimension, as FSDP2 does it.

    FSDP2 cuts with torch.chunk: every rank holds ceil(num_rows / world size) rows, the last ranks fewer or none.
    """
    size = -(-num_rows // world.size)
    return min(num_rows, world.rank * size), min(num_rows, (world.rank + 1) * size)


def sharding_ranks(parallel: str, world: World) -> World:
    """Return the ranks among which FSDP cuts a tensor: all, under HSDP those of this machine.

    parallel: train.parallel.
    """
    if parallel != "hsdp":
        return world
    return World(world.rank % world.local_size, world.local_size)


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's shard of a DTensor, any other tensor itself.  Memory is shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
