"""Options of training in whole runs: evaluation, initial weights, logs, held-out pairs, garbage."""

from __future__ import annotations

import gc
import json
import sys
from types import SimpleNamespace

import pytest
import torch

import worldclip
from calls import before
from small_world import TRAIN, picture, write_shapes
from tars import write_tar
from trainings import forget_checkpoints, losses, result_bytes, steps_of, stored, train, train_until
from worldclip.contracts.layout import best_checkpoint, latest_checkpoint
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.evaluate import engine
from worldclip.model.resolution import patches_per_side, resize_positions
from worldclip.train import garbage, loop
from worldclip.train.log import read_log
from worldclip.train.start import split_shards

SHORT = {"samples_seen": 12 * 16, "checkpoint_every_samples": 10**9, "warmup_samples": 16}
EVERY_STEP = {"checkpoint_every_samples": 16, "keep_last": 99}


def run(run_dir, **changes):
    """Train for 12 steps and return the run's folder."""
    train(run_dir, **SHORT | changes)
    return run_dir


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Return the folder of a run without options, with a checkpoint of every step."""
    return run(tmp_path_factory.mktemp("plain") / "run", **EVERY_STEP)


SCORES = {3: 0.2, 6: 0.4, 9: 0.4, 12: 0.3}  # of steps; of equal ones the earlier is the best
EVALUATED = {"evaluate_every_samples": 3 * 16, "evaluate_datasets": ["shapes"], "keep_last": 1}


def run_with_scores(run_dir, evaluate):
    """Train with a checkpoint at each step and the mean scores SCORES."""
    plain = engine.evaluate

    def evaluate_as_told(model, model_id, datasets, *arguments, **options):
        records, features, texts = plain(model, model_id, datasets, *arguments, **options)
        score = SCORES[int(model_id["model"][-9:])]
        return [{**record, "metrics": {"acc1": score}} for record in records], features, texts

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "evaluate", evaluate_as_told)
        run(run_dir, evaluate=evaluate, **EVALUATED, checkpoint_every_samples=16)


@pytest.fixture(scope="module")
def evaluated_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    run_with_scores(folder / "run", write_shapes(folder / "shapes"))
    return folder / "run"


def test_evaluated_checkpoints_keep_the_best_one_which_load_takes(evaluated_run):
    results = evaluated_run.glob("train/evaluate/*/results.jsonl")
    assert sorted(path.parent.name for path in results) == [f"step_{step:09}" for step in SCORES]
    assert artifacts.read_json(evaluated_run / "train/best.json") == {"step": 6, "metric": "mean", "value": 0.4}
    assert steps_of(evaluated_run / "train") == [6, 12]
    assert best_checkpoint(evaluated_run).name == "step_000000006"
    loaded, best = (worldclip.load(path) for path in (evaluated_run, best_checkpoint(evaluated_run)))
    assert (loaded.encode_text(["a red bar"]) == best.encode_text(["a red bar"])).all()


def test_additional_measures_choose_no_checkpoint(tmp_path):
    """Alignment is a distance: the smaller, the better."""
    texts = {
        "0.json": {"caption": ["a red square", "a red form"], "lang_truth": "en"},
        "1.json": {"caption": "ein grüner Balken", "lang_truth": "de"},
    }
    images = {"0.png": picture("red", "square"), "1.png": picture("green", "bar")}
    members = [*images.items(), *((name, json.dumps(record).encode()) for name, record in texts.items())]
    write_tar(tmp_path / "held" / "0.tar", sorted(members))
    scores = []
    for also in ([], ["alignment"]):
        run_dir = tmp_path / "_".join(["run", *also]) / "run"
        evaluate = {"folders": {"held": f"pool:{tmp_path / 'held'}"}, "device": "cpu", "also": also}
        run(run_dir, evaluate=evaluate, evaluate_every_samples=6 * 16, evaluate_datasets=["held"])
        scores.append([artifacts.read_json(path)["scores"] for path in sorted(run_dir.rglob("scores.json"))])
    assert len(scores[0]) == 2
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("step", "file"),
    [
        (6, "best.json"),
        pytest.param(6, "results.jsonl", marks=pytest.mark.slow),
        pytest.param(6, "scores.json", marks=pytest.mark.slow),
        pytest.param(12, "results.jsonl", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_whose_evaluation_was_killed_is_evaluated_on_resume(tmp_path, evaluated_run, step, file):
    """Killed before `file` is written.  The better checkpoint would be removed at the next save."""
    evaluate = write_shapes(tmp_path / "shapes")
    train_dir = tmp_path / "run" / "train"

    def die_at_step(path, fill):
        if path.name == file and steps_of(train_dir)[-1] == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        before(patched.setattr, artifacts, "write_artifact", die_at_step)
        with pytest.raises(KeyboardInterrupt):
            run_with_scores(tmp_path / "run", evaluate)
    run_with_scores(tmp_path / "run", evaluate)
    expected_dir = evaluated_run / "train"
    for name in ("best.json", *(f"evaluate/step_{at:09}/scores.json" for at in SCORES)):
        assert artifacts.read_json(train_dir / name) == artifacts.read_json(expected_dir / name), name
    assert steps_of(train_dir) == steps_of(expected_dir)


def test_training_starts_from_initial_weights_of_the_same_architecture_at_any_resolution(tmp_path, plain_run):
    source = str(latest_checkpoint(plain_run))
    settings = {"initial_weights": source, "tokenizer": {"path": source}, "freeze": ["vision", "text"], "lr": 1e-9}
    trained, _ = stored(run(tmp_path / "run", **settings, model=TRAIN["model"] | {"image_size": 48}))
    initial, _ = stored(plain_run)
    positions = "vision_model.embeddings.position_embedding.weight"
    sides = [patches_per_side(weights[positions]) for weights in (initial, trained)]
    assert sides == [32 // 8, 48 // 8]
    assert torch.equal(trained.pop(positions), resize_positions(initial.pop(positions), sides[1]))
    frozen = [name for name in initial if name.startswith(("vision", "text_model"))]
    assert all(torch.equal(initial[name], trained[name]) for name in frozen)
    projection = "visual_projection.weight"
    torch.testing.assert_close(initial[projection], trained[projection], rtol=0, atol=1e-6)
    assert worldclip.load(tmp_path / "run").encode_text(["a red bar"]).shape == (1, 16)
    with pytest.raises(UserError, match=r"train\.initial_weights = .*its architecture differs \(.*there, .*here"):
        run(tmp_path / "other" / "run", **settings, model=TRAIN["model"] | {"embed_dim": 8})


def test_pairs_seen_are_logged_by_language(tmp_path):
    run_dir = run(tmp_path / "run", checkpoint_every_samples=4 * 16, patch_dropout=0.5, num_streams=2)
    report = artifacts.read_json(run_dir / "train" / "report.json")
    records = read_log(run_dir / "train" / "seen.jsonl")
    assert [record["step"] for record in records] == [4, 8, 12]
    assert all(sum(record["seen"].values()) == record["samples_seen"] for record in records)
    assert records[-1]["seen"] == report["seen"]
    steps = read_log(run_dir / "train" / "log.jsonl")
    assert all(record["memory_bytes"] > 0 and record["flop_utilisation"] is None for record in steps)


CURVES = {"loss", "lr", "logit_scale", "grad_norm", "samples_per_s", "data_wait_fraction", "seen/en"}


def run_in_two_parts(run_dir, **changes):
    """Train for 20 steps, and again as if killed after the first ten."""
    settings = {"samples_seen": 20 * 16, "checkpoint_every_samples": 10 * 16, **changes}
    run(run_dir, **settings)
    forget_checkpoints(run_dir, 1)
    run(run_dir, **settings)


def test_wandb_gets_every_curve_and_one_run_id_for_all_resumed_parts(tmp_path, monkeypatch):
    """Use the calls that wandb documents: init with an id to resume by, log by step, finish."""
    calls = []

    class FakeRun:
        def log(self, values, step):
            calls.append(("log", step, values))

        def finish(self):
            calls.append(("finish",))

    def init(**options):
        calls.append(("init", options["project"], options["id"], options["resume"]))
        return FakeRun()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    run_in_two_parts(tmp_path / "run", wandb="tests")
    inits = [call for call in calls if call[0] == "init"]
    assert inits[0][1] == "tests"
    assert inits[0][3] == "allow"
    assert len(inits) == 2
    assert len({call[2] for call in inits}) == 1
    curves = {name: call[1] for call in calls if call[0] == "log" for name in call[2]}
    assert set(curves) >= CURVES
    assert curves["loss"] == 20
    assert calls[-1] == ("finish",)


@pytest.mark.slow
def test_compiled_encoders_give_the_same_loss(tmp_path):
    plain = run(tmp_path / "plain" / "run", patch_dropout=0.5)
    compiled = run(tmp_path / "compiled" / "run", patch_dropout=0.5, compile=True)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "compile": True}, {"accum_steps": 2}])
def test_a_gpu_gives_the_loss_of_the_cpu(tmp_path, plain_run, changes):
    tolerance = 0.05 if changes.get("precision") == "bf16" else 1e-3
    gpu = run(tmp_path / "run", device="cuda", **changes)
    assert losses(gpu) == pytest.approx(losses(plain_run), rel=tolerance)


# held-out pairs

HELD_OUT = {"validation_shards": 1, "samples_seen": 10 * 16}


def test_shards_are_held_out_by_the_hash_and_never_all():
    shards = [Shard(name=f"{n:03}.tar", path="") for n in range(20)]
    training, held_out = split_shards(shards[::-1], 3)
    assert len(held_out) == 3
    assert sorted(shard.name for shard in [*training, *held_out]) == [shard.name for shard in shards]
    assert split_shards(shards, 4)[1] != held_out
    assert {shard.name for shard in held_out} < {shard.name for shard in split_shards(shards, 4)[1]}
    with pytest.raises(UserError, match=r"train\.validation_shards = 20: the pool has only 20 shards"):
        split_shards(shards, 20)


@pytest.mark.parametrize("changes", [{}, {"accum_steps": 2, "patch_dropout": 0.5}])
def test_validation_changes_no_byte_of_the_weights_and_survives_a_kill(tmp_path, changes):
    run_dirs = [tmp_path / name / "run" for name in ("never", "often")]
    reports = [
        train(run_dir, **HELD_OUT, **changes, validate_every_samples=every)
        for run_dir, every in zip(run_dirs, (0, 2 * 16), strict=True)
    ]
    assert [report["pairs"] for report in reports] == [48, 48]  # of 72
    assert result_bytes(run_dirs[0]) == result_bytes(run_dirs[1])
    records = read_log(run_dirs[1] / "train" / "validation.jsonl")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10]
    assert records[-1]["loss"] < records[0]["loss"]
    cut = tmp_path / "cut" / "run"
    train_until(7, cut, **HELD_OUT, **changes, validate_every_samples=2 * 16)
    train(cut, **HELD_OUT, **changes, validate_every_samples=2 * 16)
    assert read_log(cut / "train" / "validation.jsonl") == records


def test_held_out_pairs_must_fill_a_batch(tmp_path):
    with pytest.raises(UserError, match="they hold 24 pairs, fewer than a batch of 32; hold out more"):
        train(tmp_path / "run", validation_shards=1, validate_every_samples=64, global_batch_size=32)


# garbage: collected at the same steps on every rank


def test_garbage_is_collected_by_step_and_after_checkpoints_and_at_will_again_afterwards(tmp_path, monkeypatch):
    collected, is_enabled = [], []
    monkeypatch.setattr(garbage, "EVERY_STEPS", 4)
    before(monkeypatch.setattr, loop, "launch_step", lambda *_, **__: is_enabled.append(gc.isenabled()))
    before(monkeypatch.setattr, gc, "collect", lambda generation=2: collected.append((len(is_enabled), generation)))
    train(tmp_path / "run", samples_seen=12 * 16, checkpoint_every_samples=5 * 16)
    assert is_enabled == [False] * 12
    assert [call for call in collected if call[0]] == [(4, 1), (5, 2), (8, 1), (10, 2), (12, 2)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_no_step_leaves_tensors_to_be_collected(tmp_path, monkeypatch):
    """Else memory would grow for garbage.EVERY_STEPS."""
    num_tensors = []

    def count(*_, **__):
        num_tensors.append(sum(isinstance(item, torch.Tensor) for item in gc.get_objects()))

    before(monkeypatch.setattr, loop, "launch_step", count)
    train(tmp_path / "run", samples_seen=8 * 16, checkpoint_every_samples=10**9)
    assert max(num_tensors[2:]) <= num_tensors[1] + 8, num_tensors
