"""Evaluating the checkpoints of a run while it trains: a made-up training that writes and removes them step by step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from small_world import write_shapes
from trainings import train
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.core.settings import to_toml
from worldclip.evaluate import engine
from worldclip.train import checkpoint_writer, watch
from worldclip.train.checkpoint import CheckpointReader, find_corruption, read_state
from worldclip.train.checkpoint_writer import CheckpointWriter, LocalTensor, cut_share
from worldclip.train.distributed import World

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
    plain, evaluated = engine.evaluate, []

    def stop_at_the_second(model, model_id, *arguments, **options):
        evaluated.append(model_id["model"])
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return plain(model, model_id, *arguments, **options)

    monkeypatch.setattr(engine, "evaluate", stop_at_the_second)
    assert evaluate(training) == 130
    assert "interrupted; rerun the same command to resume" in capfd.readouterr().err
    assert training.scored() == [3]
    assert evaluate(training) == 0
    assert evaluated == [f"train/step_{step:09}" for step in (3, 6, 6, 9, 12)]
    assert_as_trained(training, trained)


def test_a_checkpoint_that_is_removed_while_it_is_read_keeps_its_contents(training, trained, monkeypatch):
    plain = engine.evaluate

    def remove_first(model, model_id, *arguments, **options):
        training.remove(int(model_id["model"][-9:]))
        return plain(model, model_id, *arguments, **options)

    monkeypatch.setattr(engine, "evaluate", remove_first)
    assert evaluate(training) == 0
    assert training.scored() == list(STEPS)
    assert layout.checkpoints(training.train_dir) == []


def test_a_checkpoint_that_goes_before_it_is_read_is_said_and_left_out(training, monkeypatch, capfd):
    plain = watch._link

    def remove_third(path: Path, link: Path) -> None:
        if path.parent.name == "step_000000006":
            training.remove(6)
        plain(path, link)

    monkeypatch.setattr(watch, "_link", remove_third)
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
    """Write a checkpoint as two ranks do it."""
    reader, state = CheckpointReader(checkpoint), read_state(checkpoint)
    whole = {name: reader.read(name) for name in reader.tensors}
    tensors = {name: LocalTensor(tensor, tuple(tensor.shape), 0) for name, tensor in whole.items()}
    source = checkpoint.with_name("whole")
    checkpoint.rename(source)

    def copy_rest(folder: Path) -> None:
        for path in source.iterdir():
            if path.is_file() and path.name != "model.safetensors":
                shutil.copy(path, folder)

    writers = [CheckpointWriter(checkpoint.parent, World(rank, 2), 9) for rank in range(2)]
    step = state.pop("step")
    for rank, writer in enumerate(writers):
        own = {name: local for name, local in cut_share(tensors, rank, 2).items() if local.num_rows}
        writer.start(step, own, state, copy_rest)
    for writer in writers:
        writer.wait()
        writer.close()


def test_the_shards_of_a_checkpoint_become_one_file(training, trained, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "barrier", lambda world: None)
    folder = layout.step_folder(training.train_dir, 3)

    def write_shards() -> None:
        training.write(3)
        shard(folder)
        assert not (folder / "model.safetensors").exists()

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
