"""A name that others wrote never leads out of its folder, nor to the file of another name where the disk folds case."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools import run_pool
from tars import sample, write_tar
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor, Shard
from worldclip.core.safe_path import UnsafeName, is_safe_name, safe_join
from worldclip.core.same_name import refuse_equal_names
from worldclip.evaluate import engine
from worlds import WordModel, word_dataset

SAFE = ["a", "a/b.tar", "./a", "a//b", "a..b", "...", ".a", "猫/кот", "~a", "a/./b"]
UNSAFE = ["", ".", "/", "..", "../a", "a/..", "a/../../b", "/etc/passwd", "a\0b", "./..", "//a", None, 3, b"a"]


@pytest.mark.parametrize("name", SAFE)
def test_names_below_the_folder_are_joined(name):
    assert safe_join(Path("/data"), name) == Path("/data") / name


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_out_are_refused(name):
    assert not is_safe_name(name)
    with pytest.raises(UnsafeName, match="is not a path below /data"):
        safe_join(Path("/data"), "a", name)
    assert issubclass(UnsafeName, UserError)


@given(st.text(st.sampled_from("./a\0~"), max_size=12))
def test_what_is_joined_always_lies_below_the_folder(name):
    if is_safe_name(name):
        joined = safe_join(Path("/data/x"), name).resolve()
        assert joined != Path("/data/x")
        assert joined.is_relative_to("/data/x")


@pytest.mark.parametrize("name", ["x" * 256, "\u4e00" * 86, "a/" * 2000 + "b"])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    with pytest.raises(UnsafeName):
        safe_join(tmp_path, name)
    assert safe_join(tmp_path, "x" * 255) == tmp_path / ("x" * 255)


# names of one file

E_COMPOSED, E_DECOMPOSED = "caf\u00e9.tar", "cafe\u0301.tar"
PAIRS = [("A.tar", "a.tar"), ("x/Train/0.tar", "x/train/0.tar"), (E_COMPOSED, E_DECOMPOSED), ("stra\u00dfe", "STRASSE")]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _real(path: str) -> str:
    """Return the path as the names in its folders are spelt."""
    folder, name = os.path.split(path)
    if not name or folder == path:
        return path
    folder = _real(folder)
    try:
        spelt = next((other for other in os.listdir(folder) if _fold(other) == _fold(name)), name)
    except OSError:
        spelt = name
    return os.path.join(folder, spelt)


@pytest.fixture
def folding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let os.stat and os.open find files below tmp_path by any spelling, as macOS does."""

    def folded(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            is_path = isinstance(path, str | os.PathLike) and options.get("dir_fd") is None
            if is_path and os.fspath(path).startswith(str(tmp_path)):
                path = str(tmp_path) + _real(os.fspath(path))[len(str(tmp_path)) :]
            return plain(path, *arguments, **options)

        return call

    for name in ("stat", "open"):
        monkeypatch.setattr(os, name, folded(getattr(os, name)))


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


def test_a_map_over_shards_begins_with_their_names(folding: None, tmp_path: Path) -> None:
    shards = [Shard(name=name, path="") for name in ("A.tar", "a.tar")]
    with pytest.raises(UserError, match="for one file"):
        LocalExecutor(quiet=True).map(pytest.fail, shards, label="x", done_dir=tmp_path / "done", key={})


def test_a_pool_from_elsewhere_is_refused_before_it_is_indexed(folding: None, tmp_path: Path) -> None:
    """The pool is in two roots, as it would come from an object store; the run's disk folds case."""
    roots = {"Photos": str(tmp_path / "one"), "photos": str(tmp_path / "two")}
    for folder in roots.values():
        write_tar(Path(folder) / "0.tar", sample("a", "text"))
    with pytest.raises(UserError, match=r"Photos/0\.tar and photos/0\.tar"):
        run_pool(tmp_path / "run", roots=roots)


def test_datasets_of_equal_names_do_not_share_their_ranks(folding: None, tmp_path: Path) -> None:
    sets = [word_dataset("Mine", ["cat"]), word_dataset("mine", ["dog"])]
    with pytest.raises(UserError, match="Mine and mine"):
        engine.evaluate(WordModel(), {"model": "m"}, sets, [], tmp_path / "results.jsonl")
