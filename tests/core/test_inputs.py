"""Inputs that change while they are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from worldclip.core.errors import InputChanged, StageFailed
from worldclip.core.execute import LocalExecutor, Shard, reads_input
from worldclip.core.execute.shards import read_unchanged
from worldclip.core.job import MAX_TRIES, Job, Result


def shard_of(path: Path, text: str = "first") -> Shard:
    path.write_text(text)
    return Shard.of_file("a.tar", str(path))


def read(shard: Shard) -> dict:
    return {"text": Path(shard.path).read_text()}


@pytest.mark.parametrize("change", [lambda path: path.write_text("other"), Path.unlink])
def test_a_file_that_changes_or_goes_before_or_during_the_read_is_not_accepted(tmp_path: Path, change) -> None:
    shard = shard_of(tmp_path / "a.tar")

    def read_and_change(shard: Shard) -> dict:
        report = read(shard)
        change(Path(shard.path))
        return report

    for function in (read_and_change, read):
        with pytest.raises(InputChanged, match="changed after it was listed"):
            read_unchanged(function, shard)


def test_a_file_that_changes_and_changes_back_is_read_again(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.tar")
    original = shutil.copy2(shard.path, tmp_path / "original")
    contents = ["second", "first"]

    def read_at_a_bad_moment(shard: Shard) -> dict:
        if contents[0] == "second":
            Path(shard.path).write_text(contents.pop(0))
        report = read(shard)
        if report["text"] == "second":
            shutil.copy2(original, shard.path)  # with its modification time
        return report

    assert read_unchanged(read_at_a_bad_moment, shard) == {"text": "first"}


def test_an_error_of_a_torn_read_says_that_the_file_changed(tmp_path: Path) -> None:
    def read_torn(shard: Shard) -> dict:
        Path(shard.path).write_text("fi")
        raise ValueError("truncated")

    with pytest.raises(InputChanged, match="changed while it was read"):
        read_unchanged(read_torn, shard_of(tmp_path / "a.tar"))


@reads_input
def read_input(shard: Shard) -> dict:
    Path(shard.path).write_text("other")
    return {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shard_that_changed_has_no_marker(tmp_path: Path, workers: int) -> None:
    shards = [shard_of(tmp_path / "a.tar"), Shard(name="b", path=str(tmp_path / "b"), fingerprint={"path": "b"})]
    with pytest.raises(StageFailed) as failed:
        LocalExecutor(quiet=True, workers=workers).map(
            read_input, shards, label="x", done_dir=tmp_path / "done", key={}
        )
    assert set(failed.value.failures) == {"a.tar", "b"}
    assert not (tmp_path / "done").exists()


def test_work_is_done_again_until_its_inputs_stay(tmp_path: Path) -> None:
    source, seen = tmp_path / "list.txt", list[str]()
    source.write_text("1")

    def job() -> Job:
        return Job("demo", tmp_path / "demo", {}, lambda: {"list": source.read_text()})

    def work(num_changes: int) -> Result:
        seen.append(source.read_text())
        if len(seen) <= num_changes:
            source.write_text(source.read_text() + "+")
        return Result(report={"seen": seen[-1]}, counts={})

    assert job().run(lambda: work(1)) == {"seen": "1+"}
    assert seen == ["1", "1+"]
    assert job().reason_to_run() is None
    seen.clear()
    with pytest.raises(StageFailed, match="list: changed while demo ran, 3 times"):
        job().run(lambda: work(99))
    assert len(seen) == MAX_TRIES
    assert not (tmp_path / "demo" / "manifest.json").exists()


def test_work_that_is_not_redone_records_the_inputs_from_before(tmp_path: Path) -> None:
    inputs = iter("abc")
    job = Job("demo", tmp_path, {}, lambda: {"pool": next(inputs)}, is_redone=False)
    job.run(lambda: Result(report={}, counts={}))
    assert Job("demo", tmp_path, {}, lambda: {"pool": "b"}).reason_to_run() == "its inputs changed: pool was a, is b"
