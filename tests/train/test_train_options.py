"""Options in whole runs: evaluation, initial weights, LoRA, a teacher, held-out pairs, logs, the run's tokenizer."""

import gc
import shutil
import sys
import time
from collections import Counter
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import peft
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import worldclip
from calls import before, calls_of
from small_world import TRAIN, write_shapes
from trainings import (
    forget_checkpoints,
    losses,
    result_bytes,
    steps_of,
    stored,
    train,
    train_until,
)
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.contracts.layout import best_checkpoint, latest_checkpoint
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.settings import to_toml
from worldclip.evaluate import engine
from worldclip.evaluate.config import EvaluateConfig
from worldclip.export import ExportConfig, export_model
from worldclip.model.config import TokenizerConfig
from worldclip.train import held_out, loop
from worldclip.train import log as logs
from worldclip.train.budget import checkpoint_bytes
from worldclip.train.config import TrainConfig
from worldclip.train.held_out import split_shards
from worldclip.train.initial_weights import resize_positions
from worldclip.train.log import read_log
from worldclip.train.lora import adapted_layers, add_adapters
from worldclip.train.scores import config_of_scores
from worldclip.train.tokenizer import MAX_REPEATS, repeats_by_language, run_tokenizer, training_texts

SHORT = {"samples_seen": 12 * 16, "checkpoint_every_samples": 10**9, "warmup_samples": 16}


def run(run_dir, **changes):
    """Train for 12 steps and return the run's folder."""
    train(run_dir, **SHORT | changes)
    return run_dir


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Return the folder of a run without options."""
    return run(tmp_path_factory.mktemp("plain") / "run")


# evaluation of checkpoints

SCORES = {3: 0.2, 6: 0.4, 9: 0.4, 12: 0.3}  # of steps; of equal ones the earlier is the best


def run_with_scores(run_dir):
    """Train with a checkpoint at each step and the mean scores SCORES."""
    plain = engine.evaluate

    def evaluate_as_told(model, model_id, datasets, *arguments, **options):
        records, features, texts = plain(model, model_id, datasets, *arguments, **options)
        score = SCORES[int(model_id["model"][-9:])]
        return [{**record, "metrics": {"acc1": score}} for record in records], features, texts

    evaluate = write_shapes(run_dir.parent / "shapes")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "evaluate", evaluate_as_told)
        run(run_dir, evaluate=evaluate, evaluate_every_samples=3 * 16, keep_last=1, checkpoint_every_samples=16)


@pytest.fixture(scope="module")
def evaluated_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("evaluated") / "run"
    run_with_scores(run_dir)
    return run_dir


def test_evaluated_checkpoints_keep_the_best_one_which_load_takes(evaluated_run):
    results = evaluated_run.glob("train/evaluate/*/results.jsonl")
    assert sorted(path.parent.name for path in results) == [f"step_{step:09}" for step in SCORES]
    best = artifacts.read_json(evaluated_run / "train/best.json")
    assert (best["step"], best["metric"], best["value"], list(best["datasets"])) == (6, "mean", 0.4, ["shapes"])
    assert steps_of(evaluated_run / "train") == [6, 12]
    assert best_checkpoint(evaluated_run).name == "step_000000006"
    loaded, best = (worldclip.load(path) for path in (evaluated_run, best_checkpoint(evaluated_run)))
    assert (loaded.encode_text(["a red bar"]) == best.encode_text(["a red bar"])).all()
    config = EvaluateConfig(suite="paper", also=("alignment",), folders={"shapes": "captions:shapes"})
    chosen = config_of_scores(TrainConfig(evaluate_datasets=("shapes",)), config)
    assert chosen.also == (), "a distance: the smaller, the better"
    assert chosen.dataset_names == ("shapes",)


@pytest.mark.parametrize("function", ["score_checkpoint", "held_out_loss"])
def test_the_time_of_an_evaluation_is_no_time_of_a_step(tmp_path, monkeypatch, function):
    """The clock is put forward by an hour in each evaluation."""
    evaluate, plain = write_shapes(tmp_path / "shapes"), time.perf_counter
    calls = calls_of(monkeypatch.setattr, loop, function)
    monkeypatch.setattr(time, "perf_counter", lambda: plain() + 3_600 * len(calls))
    keys = {"evaluate_every_samples": 6 * 16, "checkpoint_every_samples": 6 * 16, "validation_shards": 1}
    run_dir = run(tmp_path / "run", evaluate=evaluate, **keys)
    assert len(calls) == 2
    assert [record["elapsed_s"] > 3_600 for record in read_log(run_dir / "train/log.jsonl")] == [False, False]
    assert artifacts.read_json(run_dir / "train/report.json")["samples_per_s"] > 1


def test_a_best_checkpoint_that_was_removed_by_hand_is_none(evaluated_run, tmp_path):
    copy = shutil.copytree(evaluated_run, tmp_path / "run")
    shutil.rmtree(copy / "train/step_000000006")
    assert best_checkpoint(copy).name == "step_000000012"


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
    train_dir = tmp_path / "run" / "train"

    def die_at_step(path):
        if path.name == file and steps_of(train_dir)[-1] == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        before(patched.setattr, artifacts, "whole_file", die_at_step)
        with pytest.raises(KeyboardInterrupt):
            run_with_scores(tmp_path / "run")
    run_with_scores(tmp_path / "run")
    for name in ("best.json", *(f"evaluate/step_{at:09}/scores.json" for at in SCORES)):
        assert artifacts.read_json(train_dir / name) == artifacts.read_json(evaluated_run / "train" / name), name
    assert steps_of(train_dir) == steps_of(evaluated_run / "train")


# initial weights and LoRA


@pytest.mark.parametrize(("side", "own_side"), [(27, 16), (16, 27), (12, 7), (7, 7)])
def test_positions_are_those_of_open_clip(side: int, own_side: int) -> None:
    model = pytest.importorskip("open_clip.model")
    positions_PW = torch.randn(1 + own_side**2, 24, generator=torch.Generator().manual_seed(1))
    weights = {"visual.positional_embedding": positions_PW.clone()}
    tower = SimpleNamespace(grid_size=(side, side), positional_embedding=torch.zeros(1 + side**2, 24))
    model.resize_pos_embed(weights, SimpleNamespace(visual=tower))
    own = resize_positions(positions_PW, 1 + side**2)
    torch.testing.assert_close(own, weights["visual.positional_embedding"], rtol=0, atol=1e-6)
    assert torch.equal(own[0], positions_PW[0])


def test_training_starts_from_initial_weights_of_the_same_architecture_at_any_resolution(tmp_path, plain_run):
    source = str(latest_checkpoint(plain_run))
    settings = {"initial_weights": source, "tokenizer": {"path": source}, "freeze": ["vision", "text"], "lr": 1e-9}
    trained, _ = stored(run(tmp_path / "run", **settings, model=TRAIN["model"] | {"image_size": 48}))
    initial, _ = stored(plain_run)
    positions = "vision_model.embeddings.position_embedding.weight"
    resized = trained.pop(positions)
    assert len(resized) == 1 + (48 // 8) ** 2
    assert torch.equal(resized, resize_positions(initial.pop(positions), len(resized)))
    frozen = [name for name in initial if name.startswith(("vision", "text_model"))]
    assert all(torch.equal(initial[name], trained[name]) for name in frozen)
    projection = "visual_projection.weight"
    torch.testing.assert_close(initial[projection], trained[projection], rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=r"train\.initial_weights = .*its architecture differs \(.*there, .*here"):
        run(tmp_path / "other" / "run", **settings, model=TRAIN["model"] | {"embed_dim": 8})


RANK = 4


def lora_of(run_dir):
    base = str(latest_checkpoint(run_dir))
    return {"initial_weights": base, "tokenizer": {"path": base}, "lora_rank": RANK, "lr": 1e-2}


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory, plain_run):
    return run(tmp_path_factory.mktemp("lora") / "run", **lora_of(plain_run))


@pytest.mark.parametrize("name", ["plain_run", "lora_run"])
def test_a_checkpoint_has_the_bytes_that_were_foreseen(name, request):
    run_dir = request.getfixturevalue(name)
    num_bytes = 0
    for path in latest_checkpoint(run_dir).rglob("*.safetensors"):
        num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in load_file(path).values())
    vocab_size = artifacts.read_json(layout.stage_report(run_dir, "train"))["vocab_size"]
    assert checkpoint_bytes(load_recipe(run_dir).train, vocab_size) == num_bytes


def test_adapters_and_projections_learn_and_everything_else_stays(plain_run, lora_run):
    base, (model, trainer) = stored(plain_run)[0], stored(lora_run)
    projections = {"visual_projection.weight", "text_projection.weight"}
    changed = {name for name in base if not torch.equal(base[name], model[name])}
    layers, moments, adapters = (
        {name.removeprefix(kind) for name in trainer if name.startswith(kind)}
        for kind in ("base.", "exp_avg.", "adapter.")
    )
    assert len(layers) == 2 * 6  # two towers of one block
    assert changed == layers | projections
    assert moments == adapters | projections
    for layer in layers:
        a, b = (trainer[f"adapter.{layer.removesuffix('.weight')}.lora_{side}.weight"] for side in "AB")
        assert a.shape[0] == b.shape[1] == RANK
        assert torch.equal(trainer[f"base.{layer}"], base[layer])
        torch.testing.assert_close(model[layer], base[layer] + b @ a, rtol=0, atol=1e-6)


def test_the_seed_decides_with_which_adapters_a_run_begins(plain_run):
    def first(seed):
        clip = worldclip.load(plain_run, device="cpu").backend.model
        add_adapters(clip, TrainConfig(**lora_of(plain_run), seed=seed))
        return next(iter(adapted_layers(clip).values())).lora_A.state_dict()

    one, again, other = first(1), first(1), first(2)
    assert all(torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_lora_run_ends_with_the_same_bytes_without_its_initial_weights(plain_run, lora_run, tmp_path):
    """A hub id may give other weights by then; the checkpoint holds what the adapters are added to."""
    base = shutil.copytree(latest_checkpoint(plain_run), tmp_path / "base")
    changes = SHORT | lora_of(plain_run) | {"initial_weights": str(base), "tokenizer": {"path": str(base)}}
    changes["checkpoint_every_samples"] = 5 * 16
    train_until(8, tmp_path / "run", **changes)
    assert steps_of(tmp_path / "run/train") == [5]
    shutil.rmtree(base)
    train(tmp_path / "run", **changes)
    assert result_bytes(tmp_path / "run") == result_bytes(lora_run)


def test_peft_and_exported_folders_hold_the_sum(plain_run, lora_run, tmp_path):
    checkpoint = latest_checkpoint(lora_run)
    merged, adapted = AutoModel.from_pretrained(checkpoint), AutoModel.from_pretrained(latest_checkpoint(plain_run))
    adapted = peft.PeftModel.from_pretrained(adapted, checkpoint / "adapters").merge_and_unload()
    assert adapted.state_dict().keys() == merged.state_dict().keys()
    for name, tensor in adapted.state_dict().items():
        torch.testing.assert_close(tensor, merged.state_dict()[name], rtol=0, atol=1e-6)
    export_model(lora_run, tmp_path / "out", ExportConfig(formats=("huggingface", "open_clip")))
    expected = worldclip.load(lora_run, device="cpu").encode_text(["a red bar"])
    for name in ("huggingface", "open_clip"):
        clip = worldclip.load(tmp_path / "out" / name, device="cpu")
        np.testing.assert_allclose(clip.encode_text(["a red bar"]), expected, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"compile": True}, {"precision": "bf16", "activation_checkpointing": True}])
def test_options_of_the_towers_give_nearly_the_same_loss(plain_run, lora_run, tmp_path, changes):
    tolerance = 0.02 if changes.get("precision") else 1e-3
    lora = run(tmp_path / "lora" / "run", **lora_of(plain_run), **changes)
    assert losses(lora) == pytest.approx(losses(lora_run), rel=tolerance)
    dropped = [run(tmp_path / name / "run", patch_dropout=0.5, **own) for name, own in (("a", {}), ("b", changes))]
    assert losses(dropped[1]) == pytest.approx(losses(dropped[0]), rel=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "compile": True}, {"accum_steps": 2}])
def test_a_gpu_gives_the_loss_of_the_cpu(tmp_path, plain_run, changes):
    tolerance = 0.05 if changes.get("precision") == "bf16" else 1e-3
    assert losses(run(tmp_path / "run", device="cuda", **changes)) == pytest.approx(losses(plain_run), rel=tolerance)


# a teacher


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Return the settings of a run with a teacher of 48 px and another width."""
    model = TRAIN["model"] | {"image_size": 48, "text_width": 128}
    teacher = str(latest_checkpoint(run(tmp_path_factory.mktemp("teacher") / "run", model=model)))
    steps = {"samples_seen": 8 * 16, "checkpoint_every_samples": 2 * 16, "warmup_samples": 16}
    return steps | {"distill": {"teacher": teacher, "teacher_scale": 30.0}}


def test_a_run_with_a_teacher_resumes_to_the_same_bytes(taught, tmp_path, monkeypatch):
    steps = calls_of(monkeypatch.setattr, loop, "launch_step")
    train(tmp_path / "whole/run", **taught)
    train_until(5, tmp_path / "run", **taught)
    train(tmp_path / "run", **taught)
    shapes = {(batch.images.shape[2:], features[0].shape) for _, batch, _, features, *_ in steps}
    assert shapes == {((32, 32), (16, 16))}
    assert result_bytes(tmp_path / "run") == result_bytes(tmp_path / "whole/run")
    train(tmp_path / "alone/run", **taught | {"distill": {}})
    assert result_bytes(tmp_path / "run") != result_bytes(tmp_path / "alone/run")


# held-out pairs


def test_shards_are_held_out_by_the_hash_and_never_all():
    shards = [Shard(name=f"{n:03}.tar", path="") for n in range(20)]
    training, held_out = split_shards(shards[::-1], 3)
    assert len(held_out) == 3
    assert sorted(shard.name for shard in [*training, *held_out]) == [shard.name for shard in shards]
    assert {shard.name for shard in held_out} < {shard.name for shard in split_shards(shards, 4)[1]}
    with pytest.raises(UserError, match=r"train\.validation_shards = 20: the pool has only 20 shards"):
        split_shards(shards, 20)


def test_held_out_pairs_are_the_same_whatever_training_skips(tmp_path, monkeypatch):
    keys = []

    def note(state, held_out):
        keys.append([batch.keys for batch in held_out.batches(0, 1)])
        return 0.0

    monkeypatch.setattr(loop, "held_out_loss", note)
    short = {"validation_shards": 1, "samples_seen": 16, "warmup_samples": 0}
    for name, skipped in (("whole", None), ("skipping", [[0, 16]])):
        train(tmp_path / name / "run", skip_samples=skipped, **short)
    assert keys[0] == keys[1]


def test_the_loss_on_held_out_pairs_is_that_of_their_whole_batches(tmp_path, monkeypatch):
    losses = []
    for number, (accum_steps, num_batches) in enumerate([(1, 8), (2, 8), (1, 1)]):  # 24 pairs: one batch of 16
        monkeypatch.setattr(held_out, "NUM_BATCHES", num_batches)
        run_dir = tmp_path / str(number) / "run"
        train(run_dir, validation_shards=1, samples_seen=16, warmup_samples=0, accum_steps=accum_steps)
        losses += [record["loss"] for record in read_log(run_dir / "train/validation.jsonl")]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_validation_changes_no_byte_of_the_weights_and_survives_a_kill(tmp_path):
    settings = {"validation_shards": 1, "samples_seen": 10 * 16, "accum_steps": 2, "patch_dropout": 0.5}
    run_dirs = [tmp_path / name / "run" for name in ("rarely", "often")]
    for run_dir, every in zip(run_dirs, (10**9, 2 * 16), strict=True):
        assert train(run_dir, **settings, checkpoint_every_samples=every)["pairs"] == 48  # of 72
    assert result_bytes(run_dirs[0]) == result_bytes(run_dirs[1])
    records = read_log(run_dirs[1] / "train" / "validation.jsonl")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10]
    assert records[-1]["loss"] < records[0]["loss"]
    train_until(7, tmp_path / "cut" / "run", **settings, checkpoint_every_samples=2 * 16)
    train(tmp_path / "cut" / "run", **settings, checkpoint_every_samples=2 * 16)
    assert read_log(tmp_path / "cut" / "run" / "train" / "validation.jsonl") == records
    with pytest.raises(UserError, match="they hold 24 pairs, fewer than a batch of 32; hold out more"):
        train(tmp_path / "large" / "run", validation_shards=1, global_batch_size=32)


# logs and garbage


def test_pairs_seen_are_logged_by_language(tmp_path):
    run_dir = run(tmp_path / "run", checkpoint_every_samples=4 * 16, patch_dropout=0.5, num_streams=2)
    records = read_log(run_dir / "train" / "seen.jsonl")
    assert [record["step"] for record in records] == [4, 8, 12]
    assert all(sum(record["seen"].values()) == record["samples_seen"] for record in records)
    assert records[-1]["seen"] == artifacts.read_json(run_dir / "train" / "report.json")["seen"]
    steps = read_log(run_dir / "train" / "log.jsonl")
    assert all(record["memory_bytes"] > 0 and record["flops_per_s"] > 0 for record in steps)


def test_a_logged_loss_is_the_mean_of_the_steps_since_the_record_before(tmp_path, monkeypatch):
    losses = []
    for every in (1, 3):
        monkeypatch.setattr(logs, "LOG_EVERY_STEPS", every)
        run_dir = run(tmp_path / str(every), samples_seen=7 * 16)
        losses.append([record["loss"] for record in read_log(run_dir / "train" / "log.jsonl")])
    of_steps, means = losses
    assert len(of_steps) == 7
    assert means == pytest.approx([sum(of_steps[:3]) / 3, sum(of_steps[3:6]) / 3, of_steps[6]])


CURVES = {"loss", "lr", "logit_scale", "grad_norm", "samples_per_s", "data_wait_fraction", "seen/en"}


def test_wandb_gets_every_curve_and_one_run_id_for_all_resumed_parts(tmp_path, monkeypatch):
    """Use the calls that wandb documents: init with an id to resume by, log by step, finish."""
    inits, curves, ends = [], {}, []

    def log(values, step):
        curves.update(dict.fromkeys(values, step))

    def init(**options):
        inits.append((options["project"], options["resume"], options["id"]))
        return SimpleNamespace(log=log, finish=lambda: ends.append(len(curves)))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=ModuleSpec("wandb", None)))
    for _ in range(2):  # for 20 steps, and again as if killed after the first ten
        run(tmp_path / "run", samples_seen=20 * 16, checkpoint_every_samples=10 * 16, wandb="tests")
        forget_checkpoints(tmp_path / "run", 1)
    assert inits == [("tests", "allow", inits[0][2])] * 2
    assert set(curves) >= CURVES
    assert curves["loss"] == 20
    assert len(ends) == 2


def test_garbage_is_collected_at_the_same_steps_on_all_ranks_and_no_step_leaves_tensors(tmp_path, monkeypatch):
    """Tensors that a step leaves would grow the memory for loop.COLLECT_EVERY_STEPS."""
    collected, is_enabled, num_tensors = [], [], []
    monkeypatch.setattr(loop, "COLLECT_EVERY_STEPS", 4)

    def count(*_, **__):
        is_enabled.append(gc.isenabled())
        num_tensors.append(sum(isinstance(item, torch.Tensor) for item in gc.get_objects()))

    before(monkeypatch.setattr, loop, "launch_step", count)
    before(monkeypatch.setattr, gc, "collect", lambda generation=2: collected.append((len(is_enabled), generation)))
    train(tmp_path / "run", samples_seen=12 * 16, checkpoint_every_samples=5 * 16)
    assert is_enabled == [False] * 12
    assert [call for call in collected if call[0]] == [(4, 1), (5, 2), (8, 1), (10, 2), (12, 2)]
    assert max(num_tensors[2:5]) <= num_tensors[1] + 8, num_tensors
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


# the run's tokenizer: texts balanced by language, a folder that is never overwritten

COUNTS = {"en": 4_000, "de": 400, "sw": 40}


@pytest.fixture(scope="module")
def tokenized_run(tmp_path_factory):
    """Return the folder of a run of one shard that has finished curate."""
    run_dir = tmp_path_factory.mktemp("tokenized") / "run"
    texts = [
        (f"{lang}{n:05}", f"{lang} picture number {n} of a house", lang) for lang in COUNTS for n in range(COUNTS[lang])
    ]
    rows = [(key, 0, text, lang, 1.0) for key, text, lang in sorted(texts)]
    columns = dict(zip(schemas.CURATED.names, map(list, zip(*rows, strict=True)), strict=True))
    artifacts.write_table(run_dir / "curate" / "0.tar.parquet", pa.table(columns), schemas.CURATED)
    artifacts.write_manifest(run_dir / "curate", config={}, inputs={}, counts={})
    recipe = load_recipe({"pool": {"path": "pool"}, "balance": {"tail_fraction": 0.1}})
    artifacts.write_text(run_dir / "recipe.toml", to_toml(recipe))
    return run_dir


def by_language(texts):
    return Counter(text.split()[0] for text in texts)


def test_lang_exponent_decides_how_often_a_language_is_used(tokenized_run):
    assert by_language(training_texts(tokenized_run, ["0.tar"], lang_exponent=1.0)) == COUNTS
    balanced = by_language(training_texts(tokenized_run, ["0.tar"], lang_exponent=0.3))
    for lang, repeats in repeats_by_language(COUNTS, 0.3).items():
        assert balanced[lang] == pytest.approx(COUNTS[lang] * repeats, rel=0.1)
    assert balanced["en"] < COUNTS["en"]
    assert balanced["sw"] == MAX_REPEATS * COUNTS["sw"]
    counts = {"en": 1_000_000, "de": 300_000, "sw": 100_000}
    repeats = repeats_by_language(counts, 0.3, max_texts=700_000)
    used = {lang: counts[lang] * repeats[lang] for lang in counts}
    assert sum(used.values()) == pytest.approx(700_000)
    assert used["en"] / used["sw"] == pytest.approx(10**0.3)


def test_texts_are_the_same_each_time_and_limited_in_number_and_the_tokenizer_is_made_once(tokenized_run):
    first, second = (list(training_texts(tokenized_run, ["0.tar"], 0.3, max_texts=500)) for _ in range(2))
    assert first == second
    assert len(first) == pytest.approx(500, rel=0.15)
    for vocab_size in (60, 40):
        config = TrainConfig(tokenizer=TokenizerConfig(vocab_size=vocab_size))
        tokenizer = run_tokenizer(config, tokenized_run, ["0.tar"])
        written = {path.name: path.read_bytes() for path in (tokenized_run / "train" / "tokenizer").iterdir()}
        if vocab_size == 60:
            expected = tokenizer.vocab_size, written
    assert (tokenizer.vocab_size, written) == expected
    assert expected[0] > 40
