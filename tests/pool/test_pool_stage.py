"""The pool stage: which files are shards, their index, one report of all problems."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from pathlib import Path

import pytest

from pools import pool_recipe, run_pool, write_table
from stages import context, why_run
from tars import sample, write_tar
from worldclip import pool
from worldclip.core import inputs
from worldclip.core.artifacts import read_json
from worldclip.core.errors import StageFailed, UserError
from worldclip.pool import listing
from worldclip.pool.config import PoolConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars, one of them in a folder, as img2dataset leaves them: with Parquet and statistics beside them."""
    write_tar(tmp_path / "pool" / "00001.tar", sample("000010000", "one"))
    write_tar(tmp_path / "pool" / "sub" / "00000.tar", sample("000000000", "zero"))
    for beside in ("00001.parquet", "00001_stats.json", ".00002.tar.77.tmp"):
        (tmp_path / "pool" / beside).write_bytes(b"beside")
    return tmp_path / "pool"


def test_shards_are_tars_sorted_by_relative_path(folder: Path, tmp_path: Path) -> None:
    shards = pool.shards(context(pool_recipe(path=str(folder)), tmp_path / "run"))
    assert [shard.name for shard in shards] == ["00001.tar", "sub/00000.tar"]
    assert [Path(shard.path) for shard in shards] == [folder / "00001.tar", folder / "sub" / "00000.tar"]
    assert shards[0].fingerprint["size"] == (folder / "00001.tar").stat().st_size


def test_names_of_several_folders_begin_with_the_folders_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    recipe = pool_recipe(path=[str(folder), f"{tmp_path}/other/"])
    shards = pool.shards(context(recipe, tmp_path / "run"))
    assert [shard.name for shard in shards] == [
        *("other/00001.tar", "other/sub/00000.tar", "pool/00001.tar", "pool/sub/00000.tar")
    ]
    keys = [pool.read_texts(shard, recipe.pool).key.to_pylist() for shard in shards]
    assert keys == [["other/000010000"], ["other/sub/000000000"], ["pool/000010000"], ["pool/sub/000000000"]]
    shutil.copytree(folder, tmp_path / "deep" / "pool")
    with pytest.raises(UserError, match=r"several folders are named pool"):
        pool.list_shards(PoolConfig(path=(str(folder), str(tmp_path / "deep/pool"))))


def test_problems_of_all_folders_are_reported_together(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_tar(folder / "old" / "1.tar.gz", [])
    paths = [str(tmp_path / "missing"), str(tmp_path / "empty"), str(folder)]
    with pytest.raises(UserError) as error:
        pool.shards(context(pool_recipe(path=paths), tmp_path / "run"))
    for path, problem in zip(paths, error.value.problems, strict=True):
        assert problem.startswith(f"pool.path = {path!r}")
    assert "unpack" in error.value.problems[2]


def test_folder_without_shards_lists_the_suffixes_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"no \.tar, \.parquet, .* files, only \.jpg"):
        pool.list_shards(PoolConfig(path=str(tmp_path)))


def test_stage_indexes_each_shard_and_second_run_does_nothing(folder: Path, tmp_path: Path) -> None:
    recipe, run_dir = pool_recipe(path=str(folder)), tmp_path / "run"
    assert run_pool(run_dir, path=str(folder))
    assert not run_pool(run_dir, path=str(folder))
    keys = [pool.read_index(run_dir, shard)["key"].to_pylist() for shard in pool.shards(context(recipe, run_dir))]
    assert keys == [["000010000"], ["sub/000000000"]]
    assert read_json(run_dir / "pool" / "report.json") == {
        "shards": 2,
        "samples": 2,
        "images": 2,
        "ignored_members": 0,
        "left_out": 0,
    }


def test_only_new_shard_is_indexed_and_removed_shard_leaves_no_files(folder: Path, tmp_path: Path) -> None:
    recipe, run_dir = pool_recipe(path=str(folder)), tmp_path / "run"
    run_pool(run_dir, path=str(folder))
    old = (run_dir / "pool/index/00001.tar.parquet").stat().st_mtime_ns
    write_tar(folder / "00002.tar", sample("000020000", "two"))
    (folder / "sub" / "00000.tar").unlink()
    assert "sub/00000.tar" in str(why_run("pool", recipe, run_dir))
    run_pool(run_dir, path=str(folder))
    assert (run_dir / "pool/index/00001.tar.parquet").stat().st_mtime_ns == old
    assert (run_dir / "pool/index/00002.tar.parquet").exists()
    assert not list(run_dir.rglob("*00000*"))


def test_a_part_of_the_index_looks_at_its_own_files_only(folder: Path, tmp_path: Path, monkeypatch) -> None:
    recipe, run_dir = pool_recipe(path=str(folder)), tmp_path / "run"
    write_tar(folder / "00002.tar", sample("000020000", "two"))
    looked_at = set()
    fingerprint_of = inputs.fingerprint_of
    monkeypatch.setattr(inputs, "fingerprint_of", lambda path, name: looked_at.add(name) or fingerprint_of(path, name))
    run = context(recipe, run_dir)
    run.part = slice(0, None, 2)
    pool.index(dataclasses.replace(run, preflight=[]))
    pool.index(run)
    assert looked_at == {"00001.tar", "sub/00000.tar"}


@pytest.mark.parametrize("part", [slice(None), slice(0, None, 2)])
def test_shards_that_changed_after_the_index_are_named(folder: Path, tmp_path: Path, part: slice) -> None:
    recipe, run_dir = pool_recipe(path=str(folder)), tmp_path / "run"
    run_pool(run_dir, path=str(folder))
    shard = folder / "00001.tar"
    for change in (lambda: write_tar(shard, sample("000010000", "other")), shard.unlink):
        change()
        with pytest.raises(UserError, match=r"00001\.tar.* changed after the pool was indexed"):
            pool.indexed_shards(context(recipe, run_dir), part)


def test_the_manifest_of_a_pool_does_not_grow_with_its_shards(folder: Path, tmp_path: Path, monkeypatch) -> None:
    run_dir = tmp_path / "run"
    run_pool(run_dir, path=str(folder))
    before = read_json(run_dir / "pool" / "manifest.json")
    assert set(before["inputs"]["shards"]) == {"number", "digest"}
    write_tar(folder / "00002.tar", sample("000020000", "two"))
    assert why_run("pool", pool_recipe(path=str(folder)), run_dir) == "its inputs changed: 00002.tar (new)"
    (run_dir / "pool" / "shards.parquet").unlink()
    assert why_run("pool", pool_recipe(path=str(folder)), run_dir) == "its inputs changed: shards"


def test_truncated_tar_fails_alone_with_its_reason(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[:700])
    with pytest.raises(StageFailed) as failed:
        run_pool(tmp_path / "run", path=str(folder))
    assert list(failed.value.failures) == ["00001.tar"]
    assert "cut off" in failed.value.failures["00001.tar"]
    assert (tmp_path / "run/pool/index/sub/00000.tar.parquet").exists()


def names_and_said(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    listing._say_left_out.cache_clear()
    shards = pool.list_shards(PoolConfig(path=str(path)))
    return [shard.name for shard in shards], capsys.readouterr().err


def test_linked_folders_are_followed_once(folder: Path, tmp_path: Path, capsys) -> None:
    write_tar(tmp_path / "elsewhere" / "deep" / "1.tar", sample("1", "one"))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder / "sub")
    (folder / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "deep" / "loop").symlink_to(tmp_path / "elsewhere")
    assert names_and_said(folder, capsys)[0] == ["00001.tar", "linked/deep/1.tar", "sub/00000.tar"]


def test_hidden_folders_and_files_are_left_out(folder: Path, capsys) -> None:
    write_tar(folder / ".trash" / "0.tar", sample("0", "gone"))
    write_tar(folder / ".hidden.tar", sample("0", "gone"))
    assert names_and_said(folder, capsys)[0] == ["00001.tar", "sub/00000.tar"]


def test_folder_that_may_not_be_entered_is_said(folder: Path, monkeypatch, capsys) -> None:
    plain = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    names, said = names_and_said(folder, capsys)
    assert names == ["00001.tar"]
    assert "sub: left out, cannot be entered (Permission denied)" in said


def test_dangling_link_to_a_shard_fails_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "00002.tar").symlink_to(tmp_path / "gone.tar")
    (folder / "part").symlink_to(tmp_path / "not mounted")
    with pytest.raises(StageFailed) as failed:
        run_pool(tmp_path / "run", path=str(folder))
    assert failed.value.failures == {"00002.tar": "cannot be read (No such file or directory)"}
    assert (tmp_path / "run/pool/index/sub/00000.tar.parquet").exists()


def test_unreadable_shard_fails_alone(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (folder / "00001.tar").chmod(0)
    plain = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("00001.tar"):  # a superuser may read it all the same
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StageFailed) as failed:
        run_pool(tmp_path / "run", path=str(folder))
    assert failed.value.failures == {"00001.tar": "cannot be read (Permission denied)"}
    assert (tmp_path / "run/pool/index/sub/00000.tar.parquet").exists()


def test_tables_without_a_tar_of_their_name_are_said(folder: Path, capsys) -> None:
    (folder / "other.parquet").write_bytes(b"beside")
    names, said = names_and_said(folder, capsys)
    assert names == ["00001.tar", "sub/00000.tar"]
    assert "1 files such as other.parquet: the pool is its .tar files, see pool.format" in said


def test_image_files_outside_of_tars_name_the_way_to_tars(tmp_path: Path, capsys) -> None:
    (tmp_path / "pool" / "00000").mkdir(parents=True)
    for suffix in ("jpg", "txt", "json"):
        (tmp_path / "pool" / "00000" / f"000000000.{suffix}").touch()
    problem = r"1 image files such as 00000/000000000\.jpg lie outside .* worldclip pool pack"
    with pytest.raises(UserError, match=problem):
        pool.list_shards(PoolConfig(path=str(tmp_path / "pool")))
    (tmp_path / "pool" / "00000.parquet").touch()  # img2dataset's metadata
    names, said = names_and_said(tmp_path / "pool", capsys)
    assert names == ["00000.parquet"]
    assert "worldclip pool pack FOLDER" in said


@pytest.mark.parametrize("settings", [{}, {"key": "json:x", "lang": "json:x"}, {"format": "jsonl", "key": "x"}])
def test_pool_without_any_sample_is_an_error(tmp_path: Path, settings: dict) -> None:
    """It tells nothing of the fields: a call with --shards may have such shards alone."""
    write_tar(tmp_path / "pool" / "0.tar", [("README", b"?")])
    (tmp_path / "pool" / "0.jsonl").touch()
    with pytest.raises(UserError, match="1 shards without any pair"):
        run_pool(tmp_path / "run", path=str(tmp_path / "pool"), **{"format": "tar"} | settings)


def test_a_key_that_is_a_list_is_named_where_no_pair_has_an_image(tmp_path: Path, capsys) -> None:
    write_tar(tmp_path / "pool/0.tar", [("a.jpg", b"A"), ("a.txt", b"one"), ("a.json", b'{"tags": ["x"]}')])
    run_pool(tmp_path / "run", path=str(tmp_path / "pool"), key="json:tags")
    said = capsys.readouterr().err
    assert "no pair has an image" in said
    assert "or pool.key = 'json:tags' holds no string or integer" in said


@pytest.mark.parametrize(("out", "is_refused"), [("pool/run", True), ("pool/.run", False), ("poo", False)])
def test_a_run_in_a_folder_of_tables_is_refused(tmp_path: Path, out: str, is_refused: bool) -> None:
    write_table(tmp_path / "pool/a.parquet", {"uid": ["1"], "text": ["one"]})
    refused = pytest.raises(UserError, match=r"is in the pool's folder .* \.parquet files .* choose a folder outside")
    with refused if is_refused else contextlib.nullcontext():
        run_pool(tmp_path / out, path=str(tmp_path / "pool"), key="uid")


NO_FIELD: list[dict] = [{"key": "json:x"}, {"lang": "json:x"}, {"texts": ["json:x"]}]


@pytest.mark.parametrize("settings", NO_FIELD)
def test_a_field_of_a_pool_without_fields_is_refused(folder: Path, tmp_path: Path, settings: dict) -> None:
    with pytest.raises(UserError, match=rf"pool\.{next(iter(settings))}: no column or field 'x'; there is: nothing"):
        run_pool(tmp_path / "run", path=str(folder), **settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "now set: none"),
        ({"path": "a", "build": "emoji"}, "now set: both"),
        ({"path": "a", "key": "json:"}, r'pool\.key = "json:": must be'),
        ({"path": "s3://me:secret@bucket/pool"}, r"pool\.path: holds a credential"),
        ({"path": "a", "format": "xml"}, r'pool\.format = "xml": unknown pool format; known: tar'),
        ({"build": "emoji", "image_px": 64}, r"unknown key pool\.image_px"),
    ],
)
def test_config_problems_are_reported(settings: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        pool_recipe(**settings)
