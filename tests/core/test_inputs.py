"""Inputs that change while they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldclip.core.errors import InputChanged, StageFailed, UserError
from worldclip.core.execute import LocalExecutor, Shard, reads_input
from worldclip.core.execute.shard_list import InputFile, ShardList, read_shards
from worldclip.core.execute.shards import read_unchanged
from worldclip.core.job import Job, Result


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


def test_an_error_of_a_torn_read_says_that_the_file_changed(tmp_path: Path) -> None:
    def read_torn(shard: Shard) -> dict:
        Path(shard.path).write_text("fi")
        raise ValueError("truncated")

    with pytest.raises(InputChanged, match="changed after it was listed"):
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


def test_an_input_that_changes_during_the_work_makes_the_next_call_work_again(tmp_path: Path) -> None:
    inputs = iter("abc")
    job = Job("demo", tmp_path, {}, lambda: {"pool": next(inputs)})
    job.run(lambda: Result(report={}, counts={}))
    assert Job("demo", tmp_path, {}, lambda: {"pool": "b"}).reason_to_run() == "its inputs changed: pool was a, is b"


def test_changes_of_a_list_are_named(tmp_path: Path) -> None:
    files = [InputFile(f"root/{i}.tar", str(tmp_path / f"{i}.tar"), f"{i}.tar") for i in range(4)]
    for i in range(3):
        (tmp_path / f"{i}.tar").write_text(f"contents {i}")
    before = ShardList.of_files(files[:3])
    before.write(tmp_path / "shards.parquet")
    assert read_shards(tmp_path / "shards.parquet").record == before.record
    (tmp_path / "1.tar").write_text("other")
    (tmp_path / "2.tar").touch()  # with the same contents
    after = ShardList.of_files(files[1:])
    changes = {name: (old is None, new is None) for name, old, new in after.changes(before)}
    assert changes == {"root/0.tar": (False, True), "root/1.tar": (False, False), "root/3.tar": (True, False)}
    assert "unreadable" in after[-1].fingerprint
    assert before.record != after.record
    with pytest.raises(UserError, match="must be UTF-8; rename the file"):
        ShardList.of_files([InputFile("\udcff.tar", "a.tar", "a.tar")])
