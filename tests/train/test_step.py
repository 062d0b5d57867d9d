"""One step on one rank: the losses, the towers of a CPU, the update, and inputs copied ahead to a GPU."""

import dataclasses
import functools
import math
from contextlib import contextmanager
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import PreTrainedModel
from transformers.models.metaclip_2 import modeling_metaclip_2

from on_ranks import make_batch, make_state
from pages import blocks
from worldclip.train import gpu_inputs
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.gpu_inputs import copy_ahead, with_inputs
from worldclip.train.loss import LOSSES, contrastive_loss, distillation_loss, siglip_loss
from worldclip.train.step import compute_loss, train_step
from worldclip.train.train_state import create_optimizer

NEWER_NAME = "image_text_contrastive_loss"
reference_loss = getattr(modeling_metaclip_2, NEWER_NAME, None) or modeling_metaclip_2.metaclip_2_loss

# losses: chunked against the full matrix, in float64 so that rounding hides no error


def features(num_pairs, dim=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num_pairs + dim)
    return [normalize(torch.randn(num_pairs, dim, generator=generator, dtype=dtype), dim=-1) for _ in range(2)]


def value_and_gradients(compute_loss, num_pairs, dtype):
    image, text = (rows.requires_grad_() for rows in features(num_pairs, dtype=dtype))
    log_scale = torch.tensor(math.log(9.0), dtype=dtype, requires_grad=True)
    bias = torch.tensor(-3.0, dtype=dtype, requires_grad=True)
    loss = compute_loss(image, text, log_scale.exp(), bias)
    (3 * loss).backward()  # a factor, so that the incoming gradient is not 1
    return [loss.detach(), image.grad, text.grad, log_scale.grad, *([] if bias.grad is None else [bias.grad])]


def assert_same(compute_loss, expected_loss, num_pairs, dtype=torch.float64, rtol=1e-12, atol=1e-13):
    """Compare values and gradients of two losses of (image, text, scale, bias)."""
    actual, expected = (value_and_gradients(loss, num_pairs, dtype) for loss in (compute_loss, expected_loss))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def contrastive(image, text, scale, bias, **options):
    return contrastive_loss(image, text, scale, **options)


def plain_siglip(image, text, scale, bias):
    """arXiv:2303.15343, algorithm 1, word for word."""
    logits = image @ text.T * scale + bias
    labels = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -torch.nn.functional.logsigmoid(labels * logits).sum() / len(image)


def taught(image, text, scale, bias):
    """Cross-entropy against a teacher's softmax, in both directions."""
    teacher_image, teacher_text = features(len(image), dim=5)
    logits, target = scale * image @ text.T, 20.0 * teacher_image @ teacher_text.T
    return (cross_entropy(logits, target.softmax(1)) + cross_entropy(logits.T, target.T.softmax(1))) / 2


def chunked_taught(image, text, scale, bias, **options):
    return distillation_loss(image, text, scale, features(len(image), dim=5), 20.0, **options)


@pytest.mark.parametrize("num_pairs", [1, 2, 64, 101])
@pytest.mark.parametrize("chunk_rows", [1, 7, 40])
@pytest.mark.parametrize(
    ("chunked", "plain"),
    [(contrastive, contrastive), (siglip_loss, plain_siglip), (chunked_taught, taught)],
    ids=["contrastive", "siglip", "distillation"],
)
def test_chunks_change_neither_value_nor_gradient(num_pairs, chunk_rows, chunked, plain):
    assert_same(functools.partial(chunked, chunk_rows=chunk_rows), plain, num_pairs, rtol=1e-10, atol=1e-12)


def test_chunks_agree_within_rounding_in_float32_and_stay_finite():
    chunked = functools.partial(contrastive, chunk_rows=70)
    assert_same(chunked, contrastive, 300, torch.float32, rtol=2e-6, atol=1e-7)
    image, text = features(30, dtype=torch.float32)
    assert torch.isfinite(contrastive_loss(image, text, torch.tensor(1e4), chunk_rows=2)), "exp overflows above 88"
    assert torch.isfinite(siglip_loss(image, text, torch.tensor(1e4), torch.tensor(0.0)))


def test_chunked_loss_equals_those_of_transformers_and_open_clip():
    chunked = functools.partial(contrastive, chunk_rows=3)
    assert_same(chunked, lambda i, t, s, b: reference_loss(s * t @ i.T), 40)
    open_clip = pytest.importorskip("open_clip")
    assert_same(chunked, lambda i, t, s, b: open_clip.ClipLoss()(i, t, s), 40)


def test_the_loss_of_a_student_has_the_teachers_with_its_weight():
    images_and_texts, teacher = features(12), features(12, dim=5)
    clip = SimpleNamespace(logit_scale=torch.tensor(math.log(9.0), dtype=torch.float64))
    model = SimpleNamespace(clip=clip, logit_bias=None, take_all_images=lambda: None)
    distill = SimpleNamespace(weight=0.3, teacher_scale=20.0)
    config = SimpleNamespace(loss="contrastive", distill=distill)
    state = SimpleNamespace(model=model, config=config, world=World())
    plain = contrastive(*images_and_texts, 9.0, None) + 0.3 * taught(*images_and_texts, 9.0, None)
    torch.testing.assert_close(compute_loss(state, images_and_texts, teacher), plain)


def test_no_tensor_as_large_as_the_matrix_is_allocated():
    """The profiler sees every allocation of forward and backward; none is larger than a chunk or the features."""
    num_pairs, chunk_rows = 512, 8
    image, text = (rows.requires_grad_() for rows in features(num_pairs, dim=8, dtype=torch.float32))
    with torch.profiler.profile(profile_memory=True) as profile:
        contrastive_loss(image, text, torch.tensor(5.0), chunk_rows=chunk_rows).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 4 * 4 * num_pairs * max(chunk_rows, 8) < 4 * num_pairs**2


def test_the_loss_of_the_page_is_torchs_with_label_smoothing(monkeypatch):
    assert tuple(LOSSES) == get_args(get_type_hints(TrainConfig)["loss"])
    monkeypatch.setitem(LOSSES, "smoothed", None)  # taken out again after the test
    (code,) = (block for block in blocks("docs/5_train.md", "python") if "LOSSES" in block)
    exec(code, {})

    def smoothed(image, text, scale, bias, **options):
        return LOSSES["smoothed"](image, text, scale, **options)

    def plain(image, text, scale, bias):
        logits, own = scale * image @ text.T, torch.arange(len(image))
        return sum(cross_entropy(side, own, label_smoothing=0.1) for side in (logits, logits.T)) / 2

    for chunk_rows in (7, 64):
        assert_same(functools.partial(smoothed, chunk_rows=chunk_rows), plain, 40)
    state, batch = make_state({}), make_batch({})
    image, text = state.wrapped(batch.images, batch.tokens)
    expected = plain(image, text, state.model.clip.logit_scale.exp(), None).item()
    named = dataclasses.replace(state, config=dataclasses.replace(state.config, loss="smoothed"))
    assert train_step(named, batch, 1e-3).loss == pytest.approx(expected, rel=1e-5)


# towers of a CPU: float32 up to rounding; bfloat16 close to it, exact where it is exact

BF16 = {"precision": "bf16"}
VARIANTS = {
    "plain": {},
    "siglip": {"loss": "siglip"},
    "patch dropout": {"patch_dropout": 0.5},
    "lora": {"lora_rank": 4},
    "frozen": {"freeze": ("vision",)},
}


def gradients(variant, *, is_plain=False):
    """Return loss and gradients of one step; is_plain: by model/towers.py, with padded texts."""
    state = make_state(variant)
    if is_plain:
        state.model.towers = None
    loss = train_step(state, make_batch(variant), 0.0).loss
    parameters = state.model.checkpoint_parameters().items()
    return loss, {name: parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_float32_gradients_are_those_of_the_plain_towers(name, capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    loss, expected = gradients(VARIANTS[name], is_plain=True)
    own_loss, own = gradients(VARIANTS[name])
    assert own_loss == pytest.approx(loss, rel=1e-5)
    assert own.keys() == expected.keys()
    for key, grad in expected.items():
        assert (own[key] - grad).norm() <= 3e-5 * grad.norm() + 1e-6, key


@pytest.mark.parametrize("name", [*VARIANTS, "accumulation"])
def test_bfloat16_gradients_are_those_of_float32_up_to_rounding(name):
    loss, expected = gradients(VARIANTS.get(name, {}))
    own_loss, own = gradients(VARIANTS.get(name, {"accum_steps": 4}) | BF16)
    assert own_loss == pytest.approx(loss, rel=0.01)
    assert own_loss != loss
    assert own.keys() == expected.keys()
    total = torch.cat([grad.flatten() for grad in expected.values()])
    difference = torch.cat([(own[key] - grad).flatten() for key, grad in expected.items()])
    assert difference.norm() < 0.05 * total.norm()
    assert all(grad.dtype == torch.float32 for grad in own.values())


@pytest.mark.parametrize(
    "changes", [{"activation_checkpointing": True}, {"activation_checkpointing": 1, "patch_dropout": 0.5}]
)
def test_recomputed_blocks_give_the_same_bits(changes):
    loss, expected = gradients(changes | BF16 | {"activation_checkpointing": False})
    own_loss, own = gradients(changes | BF16)
    assert own_loss == loss
    assert all(torch.equal(own[name], grad) for name, grad in expected.items())


def test_steps_in_bfloat16_train_as_in_float32():
    """They multiply copies of the weights, which each step renews."""
    curves = []
    for variant in ({}, BF16):
        state, batch = make_state(variant), make_batch(variant)
        curves.append([train_step(state, batch, 1e-3).loss for _ in range(8)])
    assert curves[1] == pytest.approx(curves[0], rel=0.03, abs=0.05)
    assert curves[0][-1] < curves[0][0]


@pytest.mark.parametrize("is_plain", [False, True], ids=["cpu_towers", "towers"])
@pytest.mark.parametrize(("chosen", "times"), [(False, [1, 1]), (1, [2, 1]), (True, [2, 2])])
def test_every_chosen_block_is_recomputed_once_and_the_last_one_too(chosen, times, is_plain, monkeypatch):
    """The last block has a forward of its own, which computes one token."""
    monkeypatch.delattr(PreTrainedModel, "gradient_checkpointing_enable", raising=False)  # gone in transformers 6
    state, calls = make_state({"activation_checkpointing": chosen}), {}
    if is_plain:
        state.model.towers = None
    for name, tower in (("image", state.model.clip.vision_model), ("text", state.model.clip.text_model)):
        for i, block in enumerate(tower.encoder.layers):
            calls[name, i] = 0

            def count(*_, key=(name, i)):
                calls[key] += 1

            block.layer_norm1.register_forward_pre_hook(count)  # recomputing stops before the end
    train_step(state, make_batch({}), 1e-3)
    expected = {("image", i): times[i] for i in (0, 1)}
    expected |= {("text", i): times[i] * (state.model.text_chunks if is_plain else 1) for i in (0, 1)}
    assert calls == expected


# the update


def test_matrices_decay_and_gains_biases_and_scalars_do_not():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = create_optimizer(model, TrainConfig(weight_decay=0.3))
    shapes = [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    assert shapes == [[(2, 3)], [(2,), (2,), (2,)], [()]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0, 0]
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.95), 1e-6)


def test_a_gradient_below_the_maximum_norm_is_not_scaled_and_one_above_is():
    norms, scales = [], []
    for max_grad_norm in (0.0, 1e3, 0.05):
        state = make_state({"max_grad_norm": max_grad_norm})
        norms.append(train_step(state, make_batch({}), 1e-3).grad_norm)
        scales.append(state.model.state_dict())
    assert norms[0] == norms[1] == norms[2] > 0.05, "the norm before clipping is reported"
    assert all(torch.equal(scales[0][name], scales[1][name]) for name in scales[0])
    assert not torch.equal(scales[0]["clip.logit_scale"], scales[2]["clip.logit_scale"])


@pytest.mark.parametrize(("start", "sign"), [(math.log(100), 1), (0.0, -1)])
def test_the_logit_scale_stays_within_its_limits(start, sign, monkeypatch):
    state = make_state({})
    state.model.clip.logit_scale.data.fill_(start)
    monkeypatch.setitem(LOSSES, "contrastive", lambda image, text, scale, *_, **__: -sign * scale + 0 * image.sum())
    assert train_step(state, make_batch({}), 1.0).logit_scale == pytest.approx(math.exp(start))


@pytest.mark.parametrize(("accum_steps", "exchanges"), [(1, ["image", "exchange", "text"]), (2, ["image", "text"])])
def test_image_features_are_exchanged_while_texts_are_encoded(monkeypatch, accum_steps, exchanges):
    events = []
    monkeypatch.setattr(torch.distributed, "all_gather_into_tensor", lambda *_, **__: events.append("exchange"))
    state, batch = make_state({"accum_steps": accum_steps}), make_batch({})
    if state.model.world is not None:
        state.model.world = World(size=2)
    for name, norm in [
        ("image", state.model.clip.vision_model.post_layernorm),
        ("text", state.model.clip.text_model.final_layer_norm),
    ]:
        norm.register_forward_hook(lambda *_, name=name: events.append(name))
    state.model(batch.images, batch.tokens)
    assert list(dict.fromkeys(events)) == exchanges


# inputs that are copied to a GPU ahead: the same numbers, each copy before the step that needs it

CPU = torch.device("cpu")


@pytest.mark.parametrize("variant", [{}, {"accum_steps": 4}, {"patch_dropout": 0.5}, {"accum_steps": 3}])
def test_copied_inputs_give_the_same_step(variant):
    batch = make_batch(variant)
    (only,) = copy_ahead([batch], CPU, 1, 4)
    assert only is batch, "nothing is copied on a CPU"
    plain, copied = make_state(variant), make_state(variant)
    for state in (plain, copied):
        state.model.towers = None  # as on a GPU
    with_copies = with_inputs(batch, CPU, plain.config.accum_steps, plain.model.text_chunks)
    assert len(with_copies.inputs) == variant.get("accum_steps", 1)
    for _ in range(2):
        assert train_step(plain, batch, 1e-3) == train_step(copied, with_copies, 1e-3)


def test_the_next_batch_is_copied_before_a_step_and_awaited_by_its_stream(monkeypatch):
    """torch.cuda is a double that notes the calls: this machine need not have a GPU."""
    events = []

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
    monkeypatch.setattr(gpu_inputs, "with_inputs", copy)
    batches = [dataclasses.replace(make_batch({}), keys=[str(n)]) for n in range(3)]
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
    batches = [make_batch({"patch_dropout": 0.5}) for _ in range(3)]
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
