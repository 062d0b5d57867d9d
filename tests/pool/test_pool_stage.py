"""The pool stage: which files are shards, their index, one report of all problems."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stages import context, run_stage, why_run
from tars import sample, write_tar
from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor

QUIET = LocalExecutor(quiet=True)


def recipe_of(**settings: object) -> Recipe:
    return load_recipe({"pool": settings, "balance": {"tail_fraction": 0.1}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars, one of them in a folder, as img2dataset leaves them: with Parquet and statistics beside them."""
    write_tar(tmp_path / "pool" / "00001.tar", sample("000010000", "one"))
    write_tar(tmp_path / "pool" / "sub" / "00000.tar", sample("000000000", "zero"))
    for beside in ("00001.parquet", "00001_stats.json", ".00002.tar.77.tmp"):
        (tmp_path / "pool" / beside).write_bytes(b"beside")
    return tmp_path / "pool"


def test_shards_are_tars_sorted_by_relative_path(folder: Path, tmp_path: Path) -> None:
    shards = pool.shards(context(recipe_of(path=str(folder)), tmp_path / "run"))
    assert [shard.name for shard in shards] == ["00001.tar", "sub/00000.tar"]
    assert [Path(shard.path) for shard in shards] == [folder / "00001.tar", folder / "sub" / "00000.tar"]
    assert shards[0].fingerprint["size"] == (folder / "00001.tar").stat().st_size


def test_keys_begin_with_name_of_root(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    recipe = recipe_of(roots={"b": str(folder), "a": str(tmp_path / "other")})
    shards = pool.shards(context(recipe, tmp_path / "run"))
    assert [shard.name for shard in shards] == ["a/00001.tar", "a/sub/00000.tar", "b/00001.tar", "b/sub/00000.tar"]
    keys = [pool.read_texts(shard, recipe.pool).key.to_pylist() for shard in shards]
    assert keys == [["a/000010000"], ["a/sub/000000000"], ["b/000010000"], ["b/sub/000000000"]]


def test_problems_of_all_roots_are_reported_together(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_tar(folder / "old" / "1.tar.gz", [])
    roots = {"a": str(tmp_path / "missing"), "b": str(tmp_path / "empty"), "c": str(folder)}
    with pytest.raises(UserError) as error:
        pool.shards(context(recipe_of(roots=roots), tmp_path / "run"))
    assert [problem.split(" ")[0].rstrip(":") for problem in error.value.problems] == [
        "pool.roots.a",
        "pool.roots.b",
        "pool.roots.c",
    ]
    assert "unpack" in error.value.problems[2]


def test_folder_without_shards_lists_the_suffixes_in_it(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.jpg").touch()
    with pytest.raises(UserError, match=r"no \.tar, \.parquet, .* files, only \.jpg"):
        pool.shards(context(recipe_of(path=str(tmp_path / "pool")), tmp_path / "run"))


def test_stage_indexes_each_shard_and_second_run_does_nothing(folder: Path, tmp_path: Path) -> None:
    recipe, run_dir = recipe_of(path=str(folder)), tmp_path / "run"
    assert run_stage("pool", recipe, run_dir, QUIET)
    assert not run_stage("pool", recipe, run_dir, QUIET)
    keys = [pool.read_index(run_dir, shard)["key"].to_pylist() for shard in pool.shards(context(recipe, run_dir))]
    assert keys == [["000010000"], ["sub/000000000"]]
    assert read_json(run_dir / "pool" / "report.json") == {
        "shards": 2,
        "samples": 2,
        "images": 2,
        "ignored_members": 0,
    }


def test_only_new_shard_is_indexed_and_removed_shard_leaves_no_files(folder: Path, tmp_path: Path) -> None:
    recipe, run_dir = recipe_of(path=str(folder)), tmp_path / "run"
    run_stage("pool", recipe, run_dir, QUIET)
    old = (run_dir / "pool/index/00001.tar.parquet").stat().st_mtime_ns
    write_tar(folder / "00002.tar", sample("000020000", "two"))
    (folder / "sub" / "00000.tar").unlink()
    assert "sub/00000.tar" in str(why_run("pool", recipe, run_dir))
    run_stage("pool", recipe, run_dir, QUIET)
    assert (run_dir / "pool/index/00001.tar.parquet").stat().st_mtime_ns == old
    assert (run_dir / "pool/index/00002.tar.parquet").exists()
    assert not list(run_dir.rglob("*00000*"))


def test_truncated_tar_fails_alone_with_its_reason(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[:700])
    with pytest.raises(StageFailed) as failed:
        run_stage("pool", recipe_of(path=str(folder)), tmp_path / "run", QUIET)
    assert list(failed.value.failures) == ["00001.tar"]
    assert "cut off" in failed.value.failures["00001.tar"]
    assert (tmp_path / "run/pool/index/sub/00000.tar.parquet").exists()


def test_pool_without_any_sample_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "0.tar", [("README", b"?")])
    with pytest.raises(UserError, match="without any pair"):
        run_stage("pool", recipe_of(path=str(tmp_path / "pool")), tmp_path / "run", QUIET)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "now set: none"),
        ({"path": "a", "build": "emoji"}, "now set: path, build"),
        ({"path": "a", "key": "json:"}, r'pool\.key = "json:": must be'),
        ({"path": "s3://me:secret@bucket/pool"}, r"pool\.path: holds a password"),
        ({"path": "a", "format": "csv"}, r'pool\.format = "csv": must be one of "auto", "tar"'),
        ({"roots": {"a/b": "x"}}, r'pool\.roots: the name "a/b"'),
        ({"build": "emoji", "image_px": 64}, r"unknown key pool\.image_px"),
    ],
)
def test_config_problems_are_reported(settings: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        recipe_of(**settings)
