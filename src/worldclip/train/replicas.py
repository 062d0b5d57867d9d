"""Compare the copies of weights, moments and EMA that several ranks hold: under DDP all, under HSDP one per machine.

Averaged gradients keep copies equal to the bit.  Nothing else shows that they have drifted apart, and a checkpoint
would mix them: its rows come from different ranks.
"""

from __future__ import annotations

import torch

from worldclip.core.errors import WorkStopped
from worldclip.train.distributed import gather_records, sharding_ranks
from worldclip.train.train_state import TrainState, held_tensors


def require_equal_replicas(state: TrainState, step: int) -> None:
    """Compare checksums over ranks.  Raises WorkStopped, on every rank, that names the ranks that differ."""
    world = state.world
    if world.size == 1:
        return
    replicated, sharded = held_tensors(state)
    sums = checksums({name: local.tensor for name, local in (replicated | sharded).items()})
    first_holder = sharding_ranks(state.config.parallel, world).rank
    holders = {name: first_holder if name in sharded else 0 for name in sums}
    records = gather_records((sums, holders), world)
    problems = []
    for rank, (own_sums, own_holders) in enumerate(records):
        differing = [name for name, own in own_sums.items() if own != records[own_holders[name]][0][name]]
        if differing:
            holder = own_holders[differing[0]]
            problems.append(f"rank {rank} differs from rank {holder} in {len(differing)} tensors ({differing[0]}, ...)")
    if problems:
        raise WorkStopped(
            f"step {step}: ranks hold different copies of the same tensors, and no checkpoint is written: "
            f"{'; '.join(problems[:3])}; {len(problems)} of {world.size} ranks in all. Run the same command again to "
            "resume from the checkpoint before. If it recurs, leave out the machine of a rank that is named each time, "
            "and compare devices and package versions of the machines (worldclip --version)"
        )


def checksums(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Return the sum of each tensor's 32-bit words, modulo 2**32: one reading pass, no copy of a tensor."""
    words = [tensor.detach().reshape(-1).view(torch.int32) for tensor in tensors.values()]
    sums = torch.stack([part.sum(dtype=torch.int32) for part in words])
    return dict(zip(tensors, sums.tolist(), strict=True))
