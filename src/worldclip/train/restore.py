"""A checkpoint into the state of this rank: each tensor or row is read from the disk by the ranks that need it.

Under FSDP a rank reads its own rows of weights, moments and EMA; under HSDP each machine reads them once.  Under DDP
rank 0 reads for all, and sends what it has read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from worldclip.train.checkpoint import CheckpointReader
from worldclip.train.distributed import World, local_tensor, shard_rows
from worldclip.train.sparse_embedding import NAME as TOKEN_EMBEDDING
from worldclip.train.sparse_embedding import SparseEmbedding

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Restorer:
    """Fills the tensors of a training, whatever the world size that wrote them.  Every rank calls each method."""

    reader: CheckpointReader
    parameters: Mapping[str, torch.nn.Parameter]
    """By their names in a checkpoint."""
    world: World
    sharding: World
    """The ranks among which FSDP cuts a tensor."""

    @torch.no_grad()
    def fill_weights(self) -> None:
        """Fill every parameter: of an adapted layer what its adapter is added to, not the sum."""
        for name, parameter in self.parameters.items():
            kind = next((kind for kind in ("adapter", "base") if f"{kind}.{name}" in self.reader), "weights")
            self._fill(parameter.detach(), kind, name)

    @torch.no_grad()
    def fill_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Create the optimizer's state, unless the checkpoint comes before the first update."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[parameter]
                if f"exp_avg.{name}" not in self.reader:
                    continue
                moments = {moment: torch.zeros_like(parameter) for moment in MOMENTS}
                for moment, tensor in moments.items():
                    self._fill(tensor, moment, name)
                # fused AdamW keeps its step count on the parameter's device, the others on the CPU
                device = parameter.device if group.get("fused") else "cpu"
                step = torch.tensor(float(self.reader.updates), device=device)
                optimizer.state[parameter] = {"step": step, **moments}

    @torch.no_grad()
    def fill_ema(self, shadow: Mapping[str, torch.Tensor]) -> None:
        """Fill this rank's rows of the average of each parameter."""
        for name, tensor in shadow.items():
            self._fill(tensor, "ema", name)

    def _fill(self, target: torch.Tensor, kind: str, name: str) -> None:
        """Fill a tensor of a parameter's shape, or this rank's rows of one."""
        parameter = self.parameters[name]
        if isinstance(parameter, DTensor):
            rows = slice(*shard_rows(len(parameter), self.sharding))
            local_tensor(target).copy_(self.reader.read(f"{kind}.{name}", rows))
            return
        if self.world.is_first:
            target.copy_(self.reader.read(f"{kind}.{name}"))
        if self.world.size > 1:
            dist.broadcast(target, src=0)


def fill_rows(embedding: SparseEmbedding, reader: CheckpointReader) -> None:
    """Read this rank's rows of the sparse embedding, and the history of updates that all ranks share."""
    for kind, tensor in embedding.state().items():
        tensor.copy_(reader.read(f"{kind}.{TOKEN_EMBEDDING}", embedding.own_rows))
    idle = {kind: reader.read(f"{kind}.{TOKEN_EMBEDDING}") for kind in embedding.idle.state()}
    embedding.idle.restore(reader.updates, idle)
