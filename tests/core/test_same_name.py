"""Names that a file system takes for one file are refused before any work, on that file system only."""

from __future__ import annotations

from pathlib import Path

import pytest

from folding import folding as folding  # the fixture
from pools import run_pool
from tars import sample, write_tar
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor, Shard
from worldclip.core.same_name import refuse_equal_names
from worldclip.evaluate import engine
from worlds import WordModel, word_dataset

E_COMPOSED, E_DECOMPOSED = "caf\u00e9.tar", "cafe\u0301.tar"
PAIRS = [("A.tar", "a.tar"), ("x/Train/0.tar", "x/train/0.tar"), (E_COMPOSED, E_DECOMPOSED), ("stra\u00dfe", "STRASSE")]


@pytest.mark.parametrize("pair", PAIRS)
def test_equal_names_are_refused_where_they_are_one_file(pair: tuple[str, str], folding: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"takes these names for one file: {pair[0]} and {pair[1]}; rename one"):
        refuse_equal_names(lambda: ["other.tar", *pair], tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    refuse_equal_names(lambda: ["a.tar", "b.tar", "a.tar"], tmp_path / "new")  # a name twice is one unit of work


@pytest.mark.parametrize("pair", PAIRS)
def test_names_that_differ_in_case_are_two_files_elsewhere(pair: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "probe").touch()
    if (tmp_path / "PROBE").exists():
        pytest.skip("this file system folds case")
    refuse_equal_names(lambda: pair, tmp_path)


def count(shard: Shard) -> dict[str, int]:
    raise AssertionError("worked on a shard")


def test_a_map_over_shards_begins_with_their_names(folding: None, tmp_path: Path) -> None:
    shards = [Shard(name=name, path="") for name in ("A.tar", "a.tar")]
    with pytest.raises(UserError, match="for one file"):
        LocalExecutor(quiet=True).map(count, shards, label="x", done_dir=tmp_path / "done", key={})


def test_a_pool_from_elsewhere_is_refused_before_it_is_indexed(folding: None, tmp_path: Path) -> None:
    """The pool is in two roots, as it would come from an object store; the run's disk folds case."""
    for root, name in (("one", "0.tar"), ("two", "0.tar")):
        write_tar(tmp_path / root / name, sample("a", "text"))
    roots = {"Photos": str(tmp_path / "one"), "photos": str(tmp_path / "two")}
    with pytest.raises(UserError, match=r"Photos/0\.tar and photos/0\.tar"):
        run_pool(tmp_path / "run", roots=roots)


def test_datasets_of_equal_names_do_not_share_their_ranks(folding: None, tmp_path: Path) -> None:
    sets = [word_dataset("Mine", ["cat"]), word_dataset("mine", ["dog"])]
    with pytest.raises(UserError, match="Mine and mine"):
        engine.evaluate(WordModel(), {"model": "m"}, sets, [], tmp_path / "results.jsonl")
