"""Large batches on small machines: the batch's own gradient from parts of it, by features kept between two passes.

Averaging the gradients of small batches is not the gradient of a contrastive loss, in which every pair sees all others.
So the features of all parts are made first, without a graph; the loss of the whole batch gives their gradients; then
each part runs again and takes its features' gradients back.  arXiv:2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch

Part = TypeVar("Part")
Features = tuple[torch.Tensor, torch.Tensor]


def backward_in_parts(
    parts: Sequence[Part],
    forward: Callable[[Part], Features],
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    communicating: Callable[[bool], AbstractContextManager[object]],
) -> torch.Tensor:
    """Add the gradient of the loss over all parts to .grad; returns that loss, detached.

    forward: part -> (images' features, texts' features), the same for the same part each time (there is no dropout but
    the plan's).  communicating(False) is entered where ranks need not exchange gradients yet.
    """
    with torch.no_grad():
        cached = [forward(part) for part in parts]
    image_BD, text_BD = (torch.cat(side).requires_grad_() for side in zip(*cached, strict=True))
    loss = loss_of(image_BD, text_BD)
    loss.backward()
    assert image_BD.grad is not None
    assert text_BD.grad is not None
    sizes = [len(image) for image, _ in cached]
    grads = list(zip(image_BD.grad.split(sizes), text_BD.grad.split(sizes), strict=True))
    for i, (part, grad) in enumerate(zip(parts, grads, strict=True)):
        with communicating(i == len(parts) - 1):
            torch.autograd.backward(forward(part), grad)
    return loss.detach()
