"""Options of training that a whole run shows: evaluation and the best step, the slow copy, streams and online runs."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

import worldclip
from small_world import COLOURS, FORMS, TRAIN, picture, write_world
from worldclip.config import load_recipe
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.layout import best_checkpoint, checkpoints, latest_checkpoint
from worldclip.train import stage as train
from worldclip.train.log import read_log

SHORT = {"samples_seen": 12 * 16, "checkpoint_every_samples": 10**9, "warmup_samples": 16}


def run(run_dir, tars, evaluate=None, **changes):
    sections = {"pool": {"path": str(tars)}, "balance": {"tail_fraction": 0.1}, "evaluate": evaluate or {}}
    return train.run(load_recipe({**sections, "train": TRAIN | SHORT | changes}), run_dir, LocalExecutor(quiet=True))


def test_evaluations_come_with_a_checkpoint_and_the_best_one_is_kept_and_loaded(tmp_path):
    tars = write_world(tmp_path / "run")
    for colour in COLOURS:
        for form in FORMS:
            place = tmp_path / "shapes" / f"{colour}_{form}" / "1.png"
            place.parent.mkdir(parents=True)
            place.write_bytes(picture(colour, form))
    evaluate = {"folders": {"shapes": f"folders:{tmp_path / 'shapes'}"}, "languages": ["en"], "device": "cpu"}
    settings = {"evaluate_every_samples": 3 * 16, "evaluate_datasets": ["shapes"], "keep_last": 1}
    run(tmp_path / "run", tars, evaluate, **settings)
    results = sorted((tmp_path / "run" / "train" / "evaluate").glob("step_*/results.jsonl"))
    assert [path.parent.name for path in results] == [f"step_{step:09}" for step in (3, 6, 9, 12)]
    scores = [json.loads(path.read_text().splitlines()[0])["metrics"]["acc1"] for path in results]
    best = artifacts.read_json(tmp_path / "run" / "train" / "best.json")
    assert best["value"] == max(scores)
    assert best["step"] == 3 * (scores.index(max(scores)) + 1)
    there = [folder.name for folder in checkpoints(tmp_path / "run" / "train")]
    assert there == sorted({f"step_{best['step']:09}", "step_000000012"})
    assert best_checkpoint(tmp_path / "run").name == f"step_{best['step']:09}"
    found, expected = (worldclip.load(each) for each in (tmp_path / "run", best_checkpoint(tmp_path / "run")))
    assert (found.encode_text(["a red bar"]) == expected.encode_text(["a red bar"])).all()


def test_the_slow_copy_is_what_the_folder_holds(tmp_path):
    """Its value by hand, from the weights of each step; and a run that is cut goes on with both."""
    from safetensors.torch import load_file

    every = {"checkpoint_every_samples": 16, "keep_last": 99}
    tars = write_world(tmp_path / "run")
    run(tmp_path / "run", tars, ema_decay=0.75, **every)
    plain = write_world(tmp_path / "plain" / "run")
    run(tmp_path / "plain" / "run", plain, **every)
    name = "visual_projection.weight"
    of = {
        kind: [load_file(folder / "model.safetensors")[name] for folder in checkpoints(root / "train")]
        for kind, root in (("slow", tmp_path / "run"), ("fast", tmp_path / "plain" / "run"))
    }
    stored = load_file(latest_checkpoint(tmp_path / "run") / "trainer" / "optimizer.safetensors")
    assert torch.equal(stored[f"weights.{name}"], of["fast"][-1])
    for step in range(1, 12):
        expected = 0.75 * of["slow"][step - 1] + 0.25 * of["fast"][step]
        torch.testing.assert_close(of["slow"][step], expected, rtol=1e-5, atol=1e-7)
    for folder in checkpoints(tmp_path / "run" / "train")[5:]:
        folder.rename(tmp_path / folder.name)
    (tmp_path / "run" / "train" / "manifest.json").unlink()
    run(tmp_path / "run", tars, ema_decay=0.75, **every)
    again = load_file(latest_checkpoint(tmp_path / "run") / "model.safetensors")[name]
    assert torch.equal(again, of["slow"][-1])


def test_rows_of_the_table_go_on_to_the_same_bytes(tmp_path):
    every = {"checkpoint_every_samples": 16, "keep_last": 99, "token_table": "rows"}
    tars = write_world(tmp_path / "run")
    run(tmp_path / "run", tars, **every)
    files = ("model.safetensors", "trainer/optimizer.safetensors")
    whole = [(latest_checkpoint(tmp_path / "run") / file).read_bytes() for file in files]
    for folder in checkpoints(tmp_path / "run" / "train")[5:]:
        folder.rename(tmp_path / folder.name)
    (tmp_path / "run" / "train" / "manifest.json").unlink()
    run(tmp_path / "run", tars, **every)
    assert [(latest_checkpoint(tmp_path / "run") / file).read_bytes() for file in files] == whole
    assert worldclip.load(tmp_path / "run").encode_text(["a red bar"]).shape == (1, 16)


def test_training_starts_from_given_weights_and_refuses_those_of_another_shape(tmp_path):
    from safetensors.torch import load_file

    first = write_world(tmp_path / "first" / "run")
    run(tmp_path / "first" / "run", first)
    source = str(latest_checkpoint(tmp_path / "first" / "run"))
    tars = write_world(tmp_path / "run")
    settings = {"initial_weights": source, "tokenizer": {"path": source}, "freeze": ["vision", "text"], "lr": 1e-9}
    run(tmp_path / "run", tars, **settings)
    given, found = (load_file(latest_checkpoint(root) / "model.safetensors") for root in
                    (tmp_path / "first" / "run", tmp_path / "run"))  # fmt: skip
    assert all(torch.equal(given[name], found[name]) for name in given if name.startswith(("vision", "text_model")))
    torch.testing.assert_close(given["visual_projection.weight"], found["visual_projection.weight"], rtol=0, atol=1e-6)
    write_world(tmp_path / "other" / "run")
    wider = settings | {"model": TRAIN["model"] | {"embed_dim": 8}}
    with pytest.raises(UserError, match=r"train\.initial_weights is .*its model is another one \(.*there, .*here"):
        run(tmp_path / "other" / "run", tars, **wider)


def test_pairs_seen_are_logged_by_language(tmp_path):
    tars = write_world(tmp_path / "run")
    report = run(tmp_path / "run", tars, checkpoint_every_samples=4 * 16, patch_dropout=0.5, num_streams=2)
    records = read_log(tmp_path / "run" / "train" / "seen.jsonl")
    assert [record["step"] for record in records] == [4, 8, 12]
    assert all(sum(record["seen"].values()) == record["samples_seen"] for record in records)
    assert records[-1]["seen"] == report["seen"]
    steps = read_log(tmp_path / "run" / "train" / "log.jsonl")
    assert all(record["memory_bytes"] > 0 and record["flop_utilisation"] is None for record in steps)


def test_wandb_that_is_not_installed_is_asked_for_by_name(tmp_path):
    from importlib.util import find_spec

    if find_spec("wandb"):
        pytest.skip("wandb is installed here")
    tars = write_world(tmp_path / "run")
    with pytest.raises(ImportError, match="wandb is needed here"):
        run(tmp_path / "run", tars, wandb="tests")


def test_wandb_gets_every_curve_and_one_run_for_all_parts(tmp_path, monkeypatch):
    """The calls that wandb documents: init with an id to go on by, log by step, finish."""
    calls = []

    class FakeRun:
        def log(self, values, step):
            calls.append(("log", step, values))

        def finish(self):
            calls.append(("finish",))

    def init(**how):
        calls.append(("init", how["project"], how["id"], how["resume"]))
        return FakeRun()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    tars = write_world(tmp_path / "run")
    settings = {"wandb": "tests", "samples_seen": 20 * 16, "checkpoint_every_samples": 10 * 16}
    run(tmp_path / "run", tars, **settings)
    train_dir = tmp_path / "run" / "train"
    (train_dir / "manifest.json").unlink()
    shutil.rmtree(checkpoints(train_dir)[-1])  # as if it had been killed before the end
    run(tmp_path / "run", tars, **settings)
    inits = [call for call in calls if call[0] == "init"]
    assert inits[0][1] == "tests"
    assert inits[0][3] == "allow"
    assert len(inits) == 2
    assert len({call[2] for call in inits}) == 1
    curves = {name: step for call in calls if call[0] == "log" for name in call[2] for step in [call[1]]}
    assert {"loss", "lr", "logit_scale", "grad_norm", "samples_per_s", "data_wait_fraction", "seen/en"} <= set(curves)
    assert curves["loss"] == 20
    assert calls[-1] == ("finish",)


def test_bfloat16_gives_about_the_same_loss(tmp_path):
    logs = {}
    for precision in ("fp32", "bf16"):
        run_dir = tmp_path / precision / "run"
        run(run_dir, write_world(run_dir), precision=precision)
        logs[precision] = [record["loss"] for record in read_log(run_dir / "train" / "log.jsonl")]
        assert not json.loads((run_dir / "train" / "report.json").read_text())["skipped_steps"]
    assert logs["bf16"] == pytest.approx(logs["fp32"], rel=0.05)
    assert logs["bf16"] != logs["fp32"]


@pytest.mark.slow
def test_compiled_towers_give_the_same_loss(tmp_path):
    plain, compiled = tmp_path / "plain" / "run", tmp_path / "compiled" / "run"
    run(plain, write_world(plain), patch_dropout=0.5)
    run(compiled, write_world(compiled), patch_dropout=0.5, compile=True)
    ours, theirs = (read_log(each / "train" / "log.jsonl") for each in (compiled, plain))
    assert [record["loss"] for record in ours] == pytest.approx([record["loss"] for record in theirs], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bf16", "compile": True}, {"token_table": "rows", "accum_steps": 2}]
)
def test_a_gpu_gives_the_cpus_loss(tmp_path, changes):
    cpu, gpu = tmp_path / "cpu" / "run", tmp_path / "gpu" / "run"
    run(cpu, write_world(cpu))
    run(gpu, write_world(gpu), device="cuda", **changes)
    ours, theirs = (read_log(each / "train" / "log.jsonl") for each in (gpu, cpu))
    tolerance = 0.05 if changes.get("precision") == "bf16" else 1e-3
    assert [record["loss"] for record in ours] == pytest.approx([record["loss"] for record in theirs], rel=tolerance)
