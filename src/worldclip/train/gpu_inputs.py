"""The inputs of a step, copied to a GPU one batch ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch

from worldclip.model.clip import TextChunks
from worldclip.model.tokenizer import Tokens
from worldclip.train.loader import Batch, ModelInputs
from worldclip.train.step import split_batch


def copy_ahead(batches: Iterable[Batch], device: torch.device, accum_steps: int, text_chunks: int) -> Iterator[Batch]:
    """Yield batches with their `inputs` on a GPU, each after the copy of the next one has begun.

    The loader's images are in pinned memory.  Their copy, and that of token ids and their places, runs on a stream of
    its own; the step's stream waits for it on the device, and Python for neither.
    accum_steps: micro-batches of a batch.  text_chunks: chunks of texts of each.  On other devices batches are yielded
    as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    copied: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            on_device = with_inputs(batch, device, accum_steps, text_chunks)
            event = torch.cuda.Event()
            event.record(stream)
        if copied is not None:
            yield _await(*copied)
        copied = on_device, event
    if copied is not None:
        yield _await(*copied)


def with_inputs(batch: Batch, device: torch.device, accum_steps: int, text_chunks: int) -> Batch:
    """Return the batch with the inputs of its micro-batches, copied without waiting."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        if device.type == "cuda" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    whole = dataclasses.replace(batch, images=copy(batch.images))
    if batch.patches is not None:
        whole = dataclasses.replace(whole, patches=copy(batch.patches))
    inputs: list[ModelInputs] = []
    for images, tokens, patches in split_batch(whole, accum_steps):
        assert isinstance(tokens, Tokens)
        inputs.append((images, TextChunks.of(tokens, text_chunks).map(copy), patches))
    return dataclasses.replace(batch, inputs=inputs)


def _await(batch: Batch, event: torch.cuda.Event) -> Batch:
    """Let the step's stream wait for the copy, and keep the memory until that stream has used it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(event)
    for images, texts, patches in batch.inputs:
        assert isinstance(texts, TextChunks)
        tensors = [images, *texts.ids, texts.position_B]
        if patches is not None:
            tensors.append(patches)
        for tensor in tensors:
            tensor.record_stream(stream)
    return batch
