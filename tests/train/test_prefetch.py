"""Batches that are copied to a GPU ahead: the same numbers, each copy before the step that needs it."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import pytest
import torch

from on_ranks import make_batch, make_state
from worldclip.train import prefetch
from worldclip.train.distributed import ALONE
from worldclip.train.prefetch import copy_ahead, with_inputs
from worldclip.train.step import train_step

CPU = torch.device("cpu")


@pytest.mark.parametrize("variant", [{}, {"accum_steps": 4}, {"patch_dropout": 0.5}, {"accum_steps": 3}])
def test_copied_inputs_give_the_same_step(variant):
    batch = make_batch(variant, 0, 1)
    plain, copied = make_state(variant, ALONE), make_state(variant, ALONE)
    for state in (plain, copied):
        state.model._towers = None  # as on a GPU
    with_copies = with_inputs(batch, CPU, plain.config.accum_steps, plain.model.text_chunks)
    assert len(with_copies.inputs) == variant.get("accum_steps", 1)
    for _ in range(2):
        assert train_step(plain, batch, 1e-3) == train_step(copied, with_copies, 1e-3)
    for name, weight in plain.model.checkpoint_parameters().items():
        assert torch.equal(weight, copied.model.checkpoint_parameters()[name]), name


def test_nothing_is_copied_on_a_cpu():
    batch = make_batch({}, 0, 1)
    (only,) = copy_ahead([batch], CPU, 1, 4)
    assert only is batch


def test_the_next_batch_is_copied_before_a_step_and_awaited_by_its_stream(monkeypatch):
    """torch.cuda is a double that notes the calls: this machine need not have a GPU."""
    events: list[tuple] = []

    class Stream:
        def __init__(self, device=None):
            self.name = "step" if device is None else "copies"

        def wait_event(self, event):
            events.append((self.name, "waits for", event.batch))

    class Event:
        def record(self, stream):
            assert stream.name == "copies"
            self.batch = events[-1][1]

    @contextmanager
    def on_stream(stream):
        assert stream.name == "copies"
        yield

    def copy(batch, device, accum_steps, text_chunks):
        assert (device.type, accum_steps, text_chunks) == ("cuda", 2, 4)
        events.append(("copies", batch.keys[0]))
        return batch

    for name, double in {"Stream": Stream, "Event": Event, "stream": on_stream, "current_stream": Stream}.items():
        monkeypatch.setattr(torch.cuda, name, double)
    monkeypatch.setattr(prefetch, "with_inputs", copy)
    batches = [dataclasses.replace(make_batch({}, 0, 1), keys=[str(n)]) for n in range(3)]
    for batch in copy_ahead(batches, torch.device("cuda"), 2, 4):
        events += [("step", batch.keys[0])]
    waits = "waits for"
    assert events == [
        *[("copies", "0"), ("copies", "1"), ("step", waits, "0"), ("step", "0")],
        *[("copies", "2"), ("step", waits, "1"), ("step", "1"), ("step", waits, "2"), ("step", "2")],
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_the_pixels_and_texts_of_each_batch():
    batches = [make_batch({"patch_dropout": 0.5}, 0, 1) for _ in range(3)]
    batches = [dataclasses.replace(batch, images=(batch.images + n).pin_memory()) for n, batch in enumerate(batches)]
    device = torch.device("cuda", torch.cuda.current_device())
    for batch, copied in zip(batches, copy_ahead(batches, device, 2, 4), strict=True):
        expected = with_inputs(batch, CPU, 2, 4)
        for (images, texts, kept), (own_images, own_texts, own_kept) in zip(
            copied.inputs, expected.inputs, strict=True
        ):
            assert images.device == device
            assert torch.equal(images.cpu(), own_images)
            assert torch.equal(kept.cpu(), own_kept)
            assert torch.equal(texts.position_B.cpu(), own_texts.position_B)
            assert all(map(torch.equal, (ids.cpu() for ids in texts.ids), own_texts.ids))
