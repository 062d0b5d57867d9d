"""Several ranks give the loss, gradients and weights of one, under DDP, FSDP and HSDP, with every option of the step.

Two ranks are on two machines, four on two machines of two (LOCAL_WORLD_SIZE).
"""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from on_ranks import ACCUMULATED, SAVED, VARIANTS, make_batch, make_state, run_on_ranks, start_ranks
from worldclip.train.checkpoint import CheckpointReader, consolidate
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import ALONE, World, connected_ranks
from worldclip.train.step import train_step
from worldclip.train.train_state import create_optimizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder in which one rank and then two ranks have written what `on_ranks.py steps` writes."""
    folder = tmp_path_factory.mktemp("steps")
    for world_size in (1, 2):
        run_on_ranks("steps", folder, world_size)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Return {world size: {variant: tensors}}."""
    return {
        world_size: {name: load_file(folder / f"{name}.{world_size}.safetensors") for name in VARIANTS}
        for world_size in (1, 2)
    }


def tolerance_of(variant: str) -> float:
    """AdamW moves a bias from 0 by the gradient's sign, and rounding decides that of small ones in bfloat16.

    FSDP runs other products than one rank does (train/cpu_towers.py).
    """
    if variant == "bf16":
        return 0.15
    return 3e-5 if "fsdp" in variant or "hsdp" in variant else 1e-5


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Compare norms of whole tensors: a single gradient that cancels to nothing has no relative precision."""
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-6))


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_give_the_loss_gradients_and_weights_of_one(results, variant):
    assert_equal(results[2][variant], results[1][variant], tolerance_of(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_hold_equal_weights_to_the_bit(folder, variant):
    assert json.loads((folder / "differing.2.json").read_text())[variant] == []


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert set(actual) == set(expected)
    assert any(name.startswith("gradient ") for name in expected)
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape, name
        if not name.endswith("k_proj.bias"):  # changes no softmax: its gradient is only rounding
            assert relative_difference(actual[name], tensor) < tolerance, name


@pytest.mark.slow
def test_four_ranks_on_two_machines_give_the_results_of_one_and_of_each_other(results, folder):
    """Each variant, and the checkpoints of HSDP read by one rank; those of one rank were resumed by four."""
    run_on_ranks("steps", folder, 4)
    for variant in VARIANTS:
        four = load_file(folder / f"{variant}.4.safetensors")
        assert_equal(four, results[1][variant], tolerance_of(variant))
    assert not any(json.loads((folder / "differing.4.json").read_text()).values())
    for variant in ("hsdp siglip", "fsdp"):
        ranks = json.loads((folder / "bytes.4.json").read_text())[variant]
        (alone,) = json.loads((folder / "bytes.1.json").read_text())[variant]
        assert sum(rank["copied"] for rank in ranks) == alone["copied"]
        assert max(rank["copied"] for rank in ranks) < 1.1 * alone["copied"] / 4
        assert_checkpoints_agree(folder, variant, 4)


@pytest.mark.parametrize("variant", ACCUMULATED)
@pytest.mark.parametrize("world_size", [1, 2])
def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(results, variant, world_size):
    whole, accumulated = results[world_size][variant], results[world_size][ACCUMULATED[variant]]
    assert whole.keys() >= {name for name in accumulated if not name.startswith("resumed")}
    for name, expected in whole.items():
        if name.startswith(("gradient", "loss", "norm 0")) and not name.endswith("k_proj.bias"):
            assert relative_difference(accumulated[name], expected) < 1e-5, name


@pytest.mark.parametrize(("accum_steps", "exchanges"), [(1, ["image", "exchange", "text"]), (2, ["image", "text"])])
def test_image_features_are_exchanged_while_texts_are_encoded(monkeypatch, accum_steps, exchanges):
    events = []
    monkeypatch.setattr(torch.distributed, "all_gather_into_tensor", lambda *_, **__: events.append("exchange"))
    state, batch = make_state({"accum_steps": accum_steps}, ALONE), make_batch({}, 0, 1)
    if state.model.world is not None:
        state.model.world = World(size=2)
    for name, norm in [
        ("image", state.model.clip.vision_model.post_layernorm),
        ("text", state.model.clip.text_model.final_layer_norm),
    ]:
        norm.register_forward_hook(lambda *_, name=name: events.append(name))
    state.model(batch.images, batch.tokens)
    assert list(dict.fromkeys(events)) == exchanges


def test_on_one_rank_fsdp_gives_the_bytes_of_ddp(results):
    fsdp, ddp = results[1]["fsdp"], results[1]["ddp"]
    assert all(torch.equal(fsdp[name], ddp[name]) for name in fsdp)


def test_a_frozen_encoder_has_no_gradient_but_its_projection_has(results):
    frozen, plain = results[1]["frozen"], results[1]["ddp"]
    names = [name for name in frozen if name.startswith("weight vision_model")]
    assert names
    assert not any(name.startswith("gradient vision_model") for name in frozen)
    assert "gradient visual_projection.weight" in frozen
    assert "gradient vision_model.post_layernorm.weight" in plain


def test_with_adapters_only_they_and_the_projections_have_a_gradient(results):
    names = {name for name in results[1]["lora"] if name.startswith("gradient ")}
    assert names == {name for name in names if "lora_" in name} | {
        "gradient visual_projection.weight",
        "gradient text_projection.weight",
    }
    assert sum("lora_" in name for name in names) == 2 * 2 * 6 * 2  # towers, blocks, layers, A and B


def test_clipping_reports_the_norm_before_clipping(results):
    plain, clipped = results[1]["ddp"], results[1]["clipped"]
    assert plain["norm 0"] == clipped["norm 0"] > 0.05
    assert relative_difference(clipped["weight logit_scale"], plain["weight logit_scale"]) > 0


def test_a_gradient_below_the_maximum_norm_is_not_scaled():
    states = [make_state(variant, ALONE) for variant in ({}, {"max_grad_norm": 1e3})]
    for state in states:
        train_step(state, make_batch({}, 0, 1), 1e-3)
    plain, bounded = (state.model.state_dict() for state in states)
    assert all(torch.equal(plain[name], bounded[name]) for name in plain)


@pytest.mark.parametrize("variant", SAVED)
def test_each_rank_copies_and_writes_its_share_of_a_checkpoint(folder, variant):
    """Of `ddp` too, where every rank holds all of it.  A row of these models has at most 256 bytes, times 4 kinds."""
    (alone,) = json.loads((folder / "bytes.1.json").read_text())[variant]
    ranks = json.loads((folder / "bytes.2.json").read_text())[variant]
    assert sum(rank["copied"] for rank in ranks) == alone["copied"]
    for rank in ranks:
        assert rank["copied"] == pytest.approx(alone["copied"] / 2, rel=0.02)
        assert 0 < rank["written"] - rank["copied"] < 40_000  # the header, with a name for each tensor


@pytest.mark.parametrize(("variant", "shares"), [("ddp", (1, 0)), ("fsdp", (0.5, 0.5)), ("hsdp siglip", (1, 1))])
def test_a_resume_reads_each_tensor_once_or_each_rank_its_own_rows(folder, variant, shares):
    """Under HSDP two ranks are two machines, each of which holds the whole model."""
    (alone,) = json.loads((folder / "bytes.1.json").read_text())[variant]
    ranks = json.loads((folder / "bytes.2.json").read_text())[variant]
    assert alone["read"] == alone["copied"]
    for rank, share in zip(ranks, shares, strict=True):
        assert rank["read"] == pytest.approx(share * alone["read"], rel=0.02)


@pytest.mark.parametrize("variant", SAVED)
def test_a_checkpoint_of_two_ranks_is_that_of_one(folder, variant):
    assert_checkpoints_agree(folder, variant, 2)


def assert_checkpoints_agree(folder: Path, variant: str, world_size: int) -> None:
    """Compare the checkpoint of several ranks with that of one, and resume both on one rank, under another plan."""
    one, two = (folder / f"{variant}.{size}" / f"step_{3:09}" for size in (1, world_size))
    readers = CheckpointReader(one), CheckpointReader(two)
    assert set(readers[0].tensors) == set(readers[1].tensors)
    for name in readers[0].tensors:
        if "k_proj.bias" not in name:  # changes no softmax: its gradient is only rounding
            own, expected = (reader.read(name).double() for reader in (readers[1], readers[0]))
            assert relative_difference(own, expected) < tolerance_of(variant), name
    losses = [
        train_step(make_state(VARIANTS[variant], ALONE, checkpoint), make_batch(VARIANTS[variant], 0, 1), 1e-3).loss
        for checkpoint in (one, two)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    consolidate(two)
    assert (two / "model.safetensors").stat().st_size == (one / "model.safetensors").stat().st_size


def test_ranks_wait_for_a_late_start_and_record_but_not_for_a_step(tmp_path):
    """Rank 0 is late by three time-outs of a step, each time."""
    run_on_ranks("waits", tmp_path, 2)
    assert "imed out" in (tmp_path / "step.1.txt").read_text()


def test_a_rank_may_open_sockets_to_hundreds_of_others():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with connected_ranks("cpu"):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(8_192, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_write_that_hangs_on_one_rank_ends_all_ranks(tmp_path):
    processes = start_ranks("hang", tmp_path, 2)
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert 0 not in [process.returncode for process in processes]
    assert "step_000000001: rank 1 has not written its part" in errors[1]
    assert "its file system hangs" in errors[1]
    assert "rank 1 has not written 00001_of_00002" in errors[0]
    assert not list(tmp_path.glob("step_*"))


@pytest.mark.parametrize("is_plain", [False, True], ids=["cpu_towers", "towers"])
@pytest.mark.parametrize(("chosen", "times"), [(False, [1, 1]), (1, [2, 1]), (True, [2, 2])])
def test_every_chosen_block_is_recomputed_once_and_the_last_one_too(chosen, times, is_plain, monkeypatch):
    """The last block has a forward of its own, which computes one token."""
    monkeypatch.delattr(PreTrainedModel, "gradient_checkpointing_enable", raising=False)  # gone in transformers 6
    state, batch = make_state({"activation_checkpointing": chosen}, ALONE), make_batch({}, 0, 1)
    if is_plain:
        state.model._towers = None
    calls: dict[tuple[str, int], int] = {}
    for name, tower in (("image", state.model.clip.vision_model), ("text", state.model.clip.text_model)):
        for i, block in enumerate(tower.encoder.layers):
            calls[name, i] = 0

            def count(*_: object, key: tuple[str, int] = (name, i)) -> None:
                calls[key] += 1

            block.layer_norm1.register_forward_pre_hook(count)  # recomputing stops before the end
    train_step(state, batch, 1e-3)
    expected = {("image", i): times[i] for i in (0, 1)}
    expected |= {("text", i): times[i] * (state.model.text_chunks if is_plain else 1) for i in (0, 1)}
    assert calls == expected


def test_one_dimensional_parameters_have_no_weight_decay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    model.logit_scale = torch.nn.Parameter(torch.tensor(1.0))
    decayed, plain = create_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.3
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(), (2,), (2,), (2,)]
    assert plain["weight_decay"] == 0
