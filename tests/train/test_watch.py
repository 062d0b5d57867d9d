"""Evaluating the checkpoints of a run while it trains: a made-up training that writes and removes them step by step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from calls import before, calls_of, fail_at
from small_world import write_shapes
from trainings import train, write_shards
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.core.settings import to_toml
from worldclip.evaluate import engine
from worldclip.train import watch
from worldclip.train.checkpoint import MODEL, OPTIMIZER, CheckpointReader, find_corruption, write_digests
from worldclip.train.checkpoint_writer import LocalTensor, cut_share

STEPS = (3, 6, 9, 12)
SHORT = {"samples_seen": 12 * 16, "checkpoint_every_samples": 3 * 16, "warmup_samples": 16, "keep_last": 9}
EVALUATED = {"evaluate_every_samples": 3 * 16, "evaluate_datasets": ["shapes"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that evaluated its checkpoints itself."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder / "run", evaluate=write_shapes(folder / "shapes"), **SHORT, **EVALUATED)
    return folder / "run"


class Training:
    """The other process: it does the next thing each time the watcher waits."""

    def __init__(self, trained: Path, folder: Path) -> None:
        self.source, self.run_dir = trained / "train", folder / "run"
        self.train_dir = layout.train_dir(self.run_dir)
        recipe = load_recipe(str(trained), ["train.evaluate_every_samples=0"])
        artifacts.write_text(layout.recipe(self.run_dir), to_toml(recipe))
        self.num_waits = 0
        self._next = self._all_steps()

    def _all_steps(self) -> Iterator[None]:
        for step in STEPS:
            self.write(step)
            yield
        self.finish()
        yield

    def play(self, things: Iterable[Callable[[], None]]) -> None:
        """Do these things instead of the usual ones."""
        self._next = (thing() for thing in things)

    def write(self, step: int) -> None:
        folder = layout.step_folder(self.train_dir, step)
        shutil.copytree(self.source / folder.name, folder)

    def remove(self, step: int) -> None:
        artifacts.remove(layout.step_folder(self.train_dir, step))

    def finish(self) -> None:
        artifacts.write_manifest(self.train_dir, config={}, inputs={}, counts={})

    def wait(self, seconds: float) -> None:
        assert seconds > 1, "no busy loop"
        self.num_waits += 1
        next(self._next)

    def scored(self) -> list[int]:
        return [step for step in range(20) if layout.step_scores(layout.step_folder(self.train_dir, step)).exists()]


@pytest.fixture
def training(trained, tmp_path, monkeypatch) -> Training:
    training = Training(trained, tmp_path)
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=training.wait))  # that of `watch` alone: ranks wait, too
    return training


def evaluate(training: Training, *flags: str) -> int:
    return main(["evaluate", str(training.run_dir), "--watch", *flags])


def assert_as_trained(training: Training, trained: Path) -> None:
    for step in STEPS:
        folder = f"train/evaluate/step_{step:09}"
        names = [path.name for path in sorted((training.run_dir / folder).iterdir())]
        assert names == ["ranks", "results.jsonl", "scores.json"]
        for name in ("results.jsonl", "scores.json"):
            assert (training.run_dir / folder / name).read_bytes() == (trained / folder / name).read_bytes()
    assert artifacts.read_json(training.train_dir / "best.json") == artifacts.read_json(trained / "train/best.json")


def test_each_new_checkpoint_is_evaluated_as_training_does_it(training, trained, capfd):
    assert evaluate(training) == 0
    assert_as_trained(training, trained)
    assert training.num_waits == len(STEPS) + 1
    said = capfd.readouterr().err
    assert said.count("mean score over datasets") == len(STEPS)
    assert "training has finished; 4 checkpoints evaluated" in said
    assert evaluate(training) == 0
    assert "0 checkpoints evaluated" in capfd.readouterr().err


def test_a_stopped_watcher_resumes_what_is_missing(training, trained, monkeypatch, capfd):
    fail_at(monkeypatch.setattr, engine, "evaluate", 2, KeyboardInterrupt())
    evaluated = calls_of(monkeypatch.setattr, engine, "evaluate")
    assert evaluate(training) == 130
    assert "interrupted; rerun the same command to resume" in capfd.readouterr().err
    assert training.scored() == [3]
    assert evaluate(training) == 0
    assert [step_evaluated(*call) for call in evaluated] == [3, 6, 6, 9, 12]
    assert_as_trained(training, trained)


def step_evaluated(model, model_id, *_) -> int:
    return int(model_id["model"].removeprefix("train/step_"))


def test_a_checkpoint_that_is_removed_while_it_is_read_keeps_its_contents(training, trained, monkeypatch):
    before(monkeypatch.setattr, engine, "evaluate", lambda *call, **_: training.remove(step_evaluated(*call)))
    assert evaluate(training) == 0
    assert training.scored() == list(STEPS)
    assert layout.checkpoints(training.train_dir) == []


def test_a_checkpoint_that_goes_before_it_is_read_is_said_and_left_out(training, monkeypatch, capfd):
    def remove_sixth(path: Path, link: Path) -> None:
        if path.parent.name == "step_000000006":
            training.remove(6)

    before(monkeypatch.setattr, watch, "_link", remove_sixth)
    assert evaluate(training) == 0
    assert training.scored() == [3, 9, 12]
    assert "step_000000006 was removed before it was evaluated; raise train.keep_last" in capfd.readouterr().err
    assert not list(training.train_dir.glob("evaluate/*/checkpoint"))


def test_files_are_copied_where_there_are_no_links(training, trained, monkeypatch):
    def no_links(*_: object) -> None:
        raise PermissionError("no links")

    monkeypatch.setattr(watch.os, "link", no_links)
    training.play([lambda: training.write(3), training.finish])
    assert evaluate(training) == 0
    assert training.scored() == [3]


def shard(checkpoint: Path) -> None:
    """Write the tensors of a checkpoint as two ranks do it."""
    reader = CheckpointReader(checkpoint)
    whole = {name: reader.read(name) for name in reader.tensors}
    tensors = {name: LocalTensor(tensor, tuple(tensor.shape), 0) for name, tensor in whole.items()}
    digests = write_shards(checkpoint, [cut_share(tensors, rank, 2) for rank in range(2)])
    for name in (MODEL, OPTIMIZER):
        (checkpoint / name).unlink()
    write_digests(checkpoint, digests)


def test_the_shards_of_a_checkpoint_become_one_file(training, trained):
    folder = layout.step_folder(training.train_dir, 3)

    def write_shards() -> None:
        training.write(3)
        shard(folder)

    training.play([write_shards, training.finish])
    assert evaluate(training) == 0
    assert find_corruption(folder) is None
    assert "model.safetensors" in artifacts.read_json(folder / "trainer/files.json")
    name = "train/evaluate/step_000000003/scores.json"
    assert artifacts.read_json(training.run_dir / name)["scores"] == artifacts.read_json(trained / name)["scores"]
    assert evaluate(training) == 0
    assert training.scored() == [3]


@pytest.mark.slow
def test_two_processes_share_the_work(training, trained):
    training.play([lambda: training.write(3), training.finish])
    assert evaluate(training, "--processes", "2") == 0
    name = "train/evaluate/step_000000003/results.jsonl"
    assert (training.run_dir / name).read_bytes() == (trained / name).read_bytes()
    assert not (training.run_dir / name).with_name("features").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "train.evaluate_every_samples=48"], "training evaluates its checkpoints"),
        (["--set", "train.evaluate_datasets=[]"], "no dataset to evaluate checkpoints on"),
        (["--set", "train.evaluate_datasets=shape"], 'unknown dataset "shape"; did you mean "shapes"?'),
    ],
)
def test_what_cannot_be_watched_is_said_at_once(training, flags, words, capfd):
    assert evaluate(training, *flags) == 2
    assert words in capfd.readouterr().err
    assert training.num_waits == 0


def test_one_process_watches_a_run(training, tmp_path, capfd):
    recipe = load_recipe(str(training.run_dir))
    with RunLock(training.run_dir, name=".watch.lock"), pytest.raises(UserError, match="in use by process"):
        watch.watch(training.run_dir, recipe.train, recipe.evaluate, recipe.languages.table)
    assert main(["evaluate", str(tmp_path / "no.toml"), "--watch"]) == 2
