"""DDP's buckets before the first step of a start: a resumed run adds numbers in the order of an uninterrupted one.

DDP sums the gradients of its first backward pass in one bucket, in the order of the parameters.  Then it assigns
parameters to buckets again, in the order in which their gradients came.  Gloo and NCCL add the numbers of the ranks in
an order that depends on a number's place in its bucket.  Thus the same sum of more than two numbers is rounded
differently in the first step after a start and in the same step of an uninterrupted run.
"""

from __future__ import annotations

import torch

from worldclip.train.loader import Batch
from worldclip.train.step import split_batch
from worldclip.train.train_state import TrainState


def assign_buckets(state: TrainState, batch: Batch) -> None:
    """Let DDP assign parameters to buckets as in all later steps: one forward and backward pass that changes nothing.

    Does nothing without DDP, and for two ranks, whose sums have one order.
    """
    if state.config.parallel != "ddp" or state.world.size < 3:
        return
    if state.sparse_embedding is not None:
        state.sparse_embedding.fetch(batch.tokens.ids, is_update_next=False)
    inputs = (batch.inputs or split_batch(batch, state.config.accum_steps))[0]
    features = state.wrapped(*inputs)
    gathering = state.model.take_all_images()
    if gathering is not None:
        gathering.wait()
    torch.autograd.backward(features, [torch.zeros_like(side) for side in features])
    state.optimizer.zero_grad(set_to_none=True)
