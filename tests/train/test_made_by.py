"""What made a training: a changed start is named and refused, another evaluation begins a new best."""

import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch

from calls import before
from model_folders import edit
from small_world import TRAIN, make_recipe, write_shapes, write_world
from stages import context, run_stage
from trainings import steps_of, stored, train, train_until
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.contracts import schemas
from worldclip.contracts.layout import best_checkpoint, checkpoints, latest_checkpoint
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.settings import to_toml
from worldclip.evaluate import engine
from worldclip.model.tokenizer import train_tokenizer
from worldclip.tools.branch import branch
from worldclip.train import before_start, loop
from worldclip.train.tokenizer import training_texts

SHORT = {"samples_seen": 12 * 16, "checkpoint_every_samples": 5 * 16, "warmup_samples": 16}


def base_run(folder, **changes):
    """Train a model that others start from; return its last checkpoint."""
    train(folder / "base" / "run", **SHORT | changes)
    return latest_checkpoint(folder / "base" / "run")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_run(tmp_path_factory.mktemp("start"))


def copy_of(checkpoint, folder):
    """Return a copy of a model without what training resumes from."""
    return shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("trainer"))


def from_start(model):
    return SHORT | {"initial_weights": str(model), "tokenizer": {"path": str(model)}}


def test_files_that_took_the_place_of_those_of_the_pool_are_not_trained_on(tmp_path):
    tars = write_world(tmp_path / "run")
    sizes = [(tars / name).stat().st_size for name in ("000.tar", "001.tar")]
    assert sizes[0] == sizes[1], "only the contents tell them apart"
    (tars / "000.tar").rename(tmp_path / "other.tar")
    (tars / "001.tar").rename(tars / "000.tar")
    (tmp_path / "other.tar").rename(tars / "001.tar")
    said = r"000\.tar, 001\.tar changed since the stage pool read the pool; run first: worldclip run .* --until curate"
    with pytest.raises(UserError, match=said):
        run_stage("train", make_recipe(tars, **SHORT), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=shutil.copyfile)  # its files are new
    with pytest.raises(UserError, match=said):
        run_stage("train", make_recipe(tars, **SHORT), tmp_path / "copy")


# best.json: the best of the scores over the same datasets


@pytest.fixture
def scored(monkeypatch):
    """A table {dataset: {step: score}} that takes the place of every evaluation's scores."""
    plain, scores = engine.evaluate, {}

    def evaluate(model, model_id, *arguments, **options):
        records, features, texts = plain(model, model_id, *arguments, **options)
        step = int(model_id["model"][-9:])
        given = [{**record, "metrics": {"acc1": scores[record["dataset"]][step]}} for record in records]
        return given, features, texts

    monkeypatch.setattr(engine, "evaluate", evaluate)
    return scores


def two_datasets(folder):
    section = write_shapes(folder / "easy")
    folders = {name: f"folders:{folder / name}" for name in ("easy", "hard")}
    write_shapes(folder / "hard")
    return {**section, "folders": folders, "datasets": ["easy"]}


def add_picture(folder):
    shutil.copy(folder / "easy/red_bar/1.png", folder / "easy/red_bar/2.png")


@pytest.mark.parametrize("change", ["another dataset", "another picture", "all languages"])
def test_another_evaluation_begins_a_new_best(tmp_path, scored, change):
    scored["easy"] = {3: 0.9, 6: 0.8, 9: 0.3, 12: 0.2}
    scored["hard"] = {6: 0.1, 9: 0.3, 12: 0.2}
    evaluate = two_datasets(tmp_path)
    keys = SHORT | {"evaluate_every_samples": 3 * 16, "keep_last": 9}
    train_until(7, tmp_path / "run", evaluate=evaluate, **keys)
    best = tmp_path / "run/train/best.json"
    assert artifacts.read_json(best)["step"] == 3
    if change == "another dataset":
        keys["evaluate_datasets"] = ["hard"]
    else:
        scored["easy"] = scored["hard"]
    if change == "another picture":
        add_picture(tmp_path)
    if change == "all languages":
        evaluate["languages"] = []
    train(tmp_path / "run", evaluate=evaluate, **keys)
    record = artifacts.read_json(best)
    assert (record["step"], record["value"]) == (9, 0.3)
    assert list(record["datasets"]) == ["hard" if change == "another dataset" else "easy"]


@pytest.mark.parametrize(
    ("samples_seen", "changes", "best", "value"),
    [
        (9 * 16, {"samples_seen": 12 * 16}, 9, 0.35),  # step 6 stays removed
        (6 * 16, {"lr": 1e-3}, 3, 0.2),  # step 6 is trained again, at another rate
        (6 * 16, {"samples_seen": 9 * 16, "evaluate_every_samples": 0}, 9, None),  # it is trained again, not evaluated
    ],
)
def test_the_score_of_a_removed_step_is_not_the_best(tmp_path, scored, samples_seen, changes, best, value):
    scored["easy"] = {3: 0.2, 6: 0.9, 9: 0.35}
    evaluate = two_datasets(tmp_path)
    keys = SHORT | {"samples_seen": samples_seen, "evaluate_every_samples": 3 * 16, "keep_last": 9}
    keys["checkpoint_every_samples"] = 3 * 16
    train(tmp_path / "run", evaluate=evaluate, **keys)
    shutil.rmtree(tmp_path / "run/train/step_000000006")
    scored["easy"] |= {6: 0.1, 12: 0.3}
    train(tmp_path / "run", evaluate=evaluate, **keys | changes)
    assert (tmp_path / "run/train/step_000000006").is_dir() == (samples_seen == 6 * 16)
    assert best_checkpoint(tmp_path / "run").name == f"step_{best:09}"
    if value is not None:
        assert artifacts.read_json(tmp_path / "run/train/best.json")["value"] == value


# starts: weights, teacher, tokenizer


def assert_refused(key, run):
    """Assert that a run is refused, and that the message has the key with two different digests."""
    with pytest.raises(UserError) as caught:
        run()
    found = re.search(rf"{re.escape(key)} was (\S+), is (\S+)", str(caught.value))
    assert found, str(caught.value)
    assert found[1] != found[2]
    assert "has checkpoints from before this change" in str(caught.value)


def change_weights(model):
    weights = safetensors.torch.load_file(model / "model.safetensors")
    safetensors.torch.save_file({name: weight + 1 for name, weight in weights.items()}, model / "model.safetensors")


def change_tokenizer(folder):
    train_tokenizer(["some other texts"], vocab_size=30, context_length=12).save(folder)


@pytest.mark.parametrize("key", ["train.initial_weights", "train.distill.teacher", "train.tokenizer.path"])
def test_a_model_that_changed_between_start_and_resume_is_named(base, tmp_path, key):
    model = copy_of(base, tmp_path / "model")
    keys, change = {
        "train.initial_weights": (from_start(base) | {"initial_weights": str(model)}, change_weights),
        "train.distill.teacher": (SHORT | {"distill": {"teacher": str(model)}}, change_weights),
        "train.tokenizer.path": (SHORT | {"tokenizer": {"path": str(model)}}, change_tokenizer),
    }[key]
    train_until(7, tmp_path / "run", **keys)
    change(model)
    assert_refused(key, lambda: train(tmp_path / "run", **keys))
    assert steps_of(tmp_path / "run/train") == [5]


def test_a_start_that_was_trained_on_since_is_named_where_training_is_finished(tmp_path):
    base_run(tmp_path)
    start, keys = tmp_path / "base/run", from_start(tmp_path / "base/run")
    keys["tokenizer"] = {"path": str(start / "train/tokenizer")}
    train(tmp_path / "run", **keys)
    recipe = make_recipe(tmp_path / "tars", **keys)
    assert not run_stage("train", recipe, tmp_path / "run")
    train(start, **SHORT | {"samples_seen": 14 * 16})
    assert_refused("train.initial_weights", lambda: run_stage("train", recipe, tmp_path / "run"))


def test_another_tokenizer_in_the_folder_of_the_run_is_named(tmp_path):
    train_until(7, tmp_path / "run", **SHORT)
    folder = tmp_path / "run/train/tokenizer"
    change_tokenizer(folder)
    assert_refused(f"the digest of {folder}", lambda: train(tmp_path / "run", **SHORT))


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("train.initial_weights", {"image_mean": [0.5] * 3}, "mean [0.5, 0.5, 0.5], and training with"),
        ("train.initial_weights", {"image_std": [0.5] * 3}, "std [0.5, 0.5, 0.5], and training with"),
        ("train.distill.teacher", {"resample": 2}, "resample 2"),
    ],
)
def test_a_start_or_teacher_that_makes_other_pixels_is_refused(base, tmp_path, key, values, said):
    model = copy_of(base, tmp_path / "model")
    edit(model / "preprocessor_config.json", **values)
    changes = from_start(model) if key == "train.initial_weights" else SHORT | {"distill": {"teacher": str(model)}}
    with pytest.raises(UserError, match=rf"{re.escape(key)} = .*{re.escape(said)}"):
        train(tmp_path / "run", **changes)


def test_the_bias_of_siglip_is_taken_from_the_start(tmp_path):
    model = base_run(tmp_path, loss="siglip", lr=0.1)
    keys = from_start(model) | {"loss": "siglip", "lr": 1e-9}
    train(tmp_path / "run", **keys)
    biases = [float(stored(run)[1]["weights.logit_bias"]) for run in (tmp_path / "base/run", tmp_path / "run")]
    assert abs(biases[0] + 10) > 0.1
    assert biases[1] == pytest.approx(biases[0], abs=1e-5)


# a teacher


def test_held_out_pairs_are_measured_with_a_teacher_of_another_size(tmp_path):
    teacher = base_run(tmp_path, model=TRAIN["model"] | {"image_size": 48})
    keys = SHORT | {"distill": {"teacher": str(teacher)}, "validation_shards": 1, "patch_dropout": 0.5}
    assert train(tmp_path / "run", **keys)["steps"] == 12
    assert (tmp_path / "run/train/validation.jsonl").read_text().count("loss") == 3


# checkpoints and the disk


def space_problems(run_dir, keys, free, monkeypatch):
    recipe = make_recipe(run_dir.parent / "tars", **keys)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    return [problem for problem in before_start._needs(context(recipe, run_dir)) if "GiB" in problem]


def size_of(checkpoint):
    return sum(path.stat().st_size for path in checkpoint.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "changes",
    [{}, {"freeze": ["vision"]}, {"freeze": ["text"]}, {"lora_rank": 4}, {"lora_rank": 4, "freeze": ["text"]}],
    ids=["whole", "vision frozen", "text frozen", "lora", "lora of vision"],
)
def test_a_training_asks_for_the_disk_of_the_checkpoints_that_are_to_come(base, tmp_path, monkeypatch, changes):
    keys = from_start(base) | changes | {"keep_last": 3}
    train_until(11, tmp_path / "run", **keys)
    assert steps_of(tmp_path / "run/train") == [5, 10]
    size = size_of(latest_checkpoint(tmp_path / "run"))
    for free, num_problems in ((0.9 * 2 * size, 1), (1.1 * 2 * size, 0)):  # two more: four, and the two that are there
        assert len(space_problems(tmp_path / "run", keys, free, monkeypatch)) == num_problems


# signals, paths, logs


@pytest.mark.parametrize("function", ["launch_step", "score_checkpoint"])
def test_a_signal_in_the_last_step_or_evaluation_ends_the_command(tmp_path, monkeypatch, capfd, function):
    keys = SHORT | {"samples_seen": 4 * 16, "evaluate_every_samples": 4 * 16}
    evaluate = two_datasets(tmp_path)
    calls = []

    def signal_at_last(*_, **__):
        calls.append(None)
        if len(calls) == {"launch_step": 4, "score_checkpoint": 1}[function]:
            signal.raise_signal(signal.SIGTERM)

    before(monkeypatch.setattr, loop, function, signal_at_last)
    with pytest.raises(SystemExit) as caught:
        train(tmp_path / "run", evaluate=evaluate, **keys)
    assert caught.value.code == 143
    assert "SIGTERM: step 4 is saved" in capfd.readouterr().err
    assert not (tmp_path / "run/train/manifest.json").exists()
    assert train(tmp_path / "run", evaluate=evaluate, **keys)["steps"] == 4


def test_a_run_that_begins_with_another_one_has_its_own_run_in_wandb(tmp_path):
    train(tmp_path / "run", **SHORT)
    (tmp_path / "run/train/wandb_id").write_text("original")
    assert branch(tmp_path / "run", tmp_path / "copy", ["train"]) == ["train"]
    assert checkpoints(tmp_path / "copy/train")
    assert not (tmp_path / "copy/train/wandb_id").exists()


def test_a_batch_that_is_larger_than_the_epoch_is_said(tmp_path, capfd):
    train(tmp_path / "run", samples_seen=160, global_batch_size=80, warmup_samples=0)
    assert "WARNING: a batch of 80 is larger than an epoch" in capfd.readouterr().err
    train(tmp_path / "other/run", samples_seen=64, warmup_samples=0)
    assert "WARNING" not in capfd.readouterr().err


# the dry run, the tokenizer, the patch


@pytest.mark.parametrize(("hardware", "precision"), [("amx_bf16", "bf16"), ("", "fp32")])
def test_a_dry_run_counts_auto_as_the_device_takes_it(tmp_path, monkeypatch, hardware, precision):
    monkeypatch.setattr("worldclip.model.precision.bf16_hardware", lambda device: hardware)
    monkeypatch.setattr("worldclip.train.speed.pairs_per_second", lambda config: 10.0)
    tars = write_world(tmp_path / "run")
    lines = []
    for value in ("auto", precision):
        recipe = make_recipe(tars, precision=value, global_batch_size=4096)
        lines.append(list(before_start.plan_lines(context(recipe, tmp_path / "run"))))
    assert lines[0] == lines[1]
    assert lines[0][-2].startswith("memory")
    assert lines[0][-2].endswith("2.0 GiB torch")


def test_train_writes_absolute_paths_into_the_recipe(base, tmp_path, monkeypatch, capfd):
    copy_of(base, tmp_path / "model")
    keys = from_start("model") | {"tokenizer": {"path": "model"}}
    recipe = make_recipe(write_world(tmp_path / "run"), **keys)
    monkeypatch.setattr("worldclip.report.write_report", lambda run_dir: None)  # the small world has no reports
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/r.toml").write_text(to_toml(recipe))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "recipes/r.toml", "--out", "run"]) == 0
    assert load_recipe(tmp_path / "run").train.initial_weights == str(tmp_path / "model")
    monkeypatch.chdir(tmp_path.parent)
    assert main(["train", str(tmp_path / "run"), "--samples-seen", "224"]) == 0
    assert "resumes from step_000000012" in capfd.readouterr().err


def test_a_language_without_a_kept_text_does_not_end_the_training_of_a_tokenizer(tmp_path):
    write_world(tmp_path / "run")
    path = tmp_path / "run/curate/000.tar.parquet"
    curated = artifacts.read_table(path, schemas.CURATED)
    english = np.array(curated["lang"].to_pylist()) == "en"
    artifacts.write_table(path, curated.filter(english), schemas.CURATED)
    texts = list(training_texts(tmp_path / "run", ["000.tar"], 0.3))
    assert len(texts) == english.sum()


def test_the_patch_is_a_key_of_the_model(tmp_path):
    model = TRAIN["model"] | {"patch_size": 16}
    train(tmp_path / "run", **SHORT, model=model)
    positions = stored(tmp_path / "run")[0]["vision_model.embeddings.position_embedding.weight"]
    assert len(positions) == (32 // 16) ** 2 + 1
