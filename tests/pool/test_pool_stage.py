"""The pool stage: which files are shards, their index, mistakes of the recipe, and what a changed key redoes."""

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from pools import pool_recipe, run_pool, texts_of, write_lines, write_table
from stages import context
from tars import sample, write_tar
from toy import ToyWorld, build_toy_world
from worldclip import pool
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.settings import deciding
from worldclip.pool.config import PoolConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars, one of them in a folder, as img2dataset leaves them: with Parquet and statistics beside them."""
    write_tar(tmp_path / "pool" / "00001.tar", sample("000010000", "one"))
    write_tar(tmp_path / "pool" / "sub" / "00000.tar", sample("000000000", "zero"))
    for beside in ("00001.parquet", "00001_stats.json", ".00002.tar.77.tmp"):
        (tmp_path / "pool" / beside).write_bytes(b"beside")
    return tmp_path / "pool"


def test_names_of_several_folders_begin_with_the_folders_name(folder: Path, tmp_path: Path) -> None:
    shards = pool.list_shards(PoolConfig(path=str(folder)))
    assert [shard.name for shard in shards] == ["00001.tar", "sub/00000.tar"]
    assert [Path(shard.path) for shard in shards] == [folder / "00001.tar", folder / "sub" / "00000.tar"]
    assert shards[0].fingerprint["size"] == (folder / "00001.tar").stat().st_size
    shutil.copytree(folder, tmp_path / "other")
    config = PoolConfig(path=(str(folder), f"{tmp_path}/other/"))
    keys = {shard.name: texts_of(shard, config).key.to_pylist() for shard in pool.list_shards(config)}
    assert list(keys.items()) == [
        *(("other/00001.tar", ["other/000010000"]), ("other/sub/00000.tar", ["other/sub/000000000"])),
        *(("pool/00001.tar", ["pool/000010000"]), ("pool/sub/00000.tar", ["pool/sub/000000000"])),
    ]
    shutil.copytree(folder, tmp_path / "deep" / "pool")
    with pytest.raises(UserError, match=r"several folders are named pool"):
        pool.list_shards(PoolConfig(path=(str(folder), str(tmp_path / "deep/pool"))))


def test_a_pattern_takes_some_files_of_a_folder_and_their_names(folder: Path, tmp_path: Path) -> None:
    def names(*patterns: str) -> list[str]:
        return [
            shard.name for shard in pool.list_shards(PoolConfig(path=tuple(f"{folder}/{item}" for item in patterns)))
        ]

    write_tar(folder / "00002.tar", sample("2", "two"))
    assert names("0000[2-9].tar") == names("????2.tar") == ["00002.tar"]
    assert names("s*") == names("*/*.tar") == ["sub/00000.tar"]
    config = PoolConfig(path=f"{folder}/s*")
    assert texts_of(pool.list_shards(config)[0], config).key.to_pylist() == ["sub/000000000"]
    shutil.copytree(folder, folder.with_name("[other]"))
    assert names("0*.tar", "../[other]/*2.tar") == ["[other]/00002.tar", "pool/00001.tar", "pool/00002.tar"]
    places = ({"path": f"{folder}/0*.tar", "lang": "en"}, {"path": f"{folder}/../[other]/*2.tar", "lang": "de"})
    config = load_recipe({"pool": {"place": [*places]}, "balance": {"tail_fraction": 0.1}}).pool
    langs = [pool.options_of(config, shard.name).lang for shard in pool.list_shards(config)]
    assert langs == ["de", "en", "en"]
    write_tar(folder / "sub/deep/00003.tar", sample("3", "three"))
    assert names("**/*.tar") == ["00001.tar", "00002.tar", "sub/00000.tar", "sub/deep/00003.tar"]
    with pytest.raises(UserError, match=r"pool\.path = .*9\*\.tar': no \.tar, .* files, nothing in it"):
        names("9*.tar")


def test_problems_of_all_folders_are_reported_together(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_tar(folder / "old" / "1.tar.gz", [])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    paths = [str(tmp_path / name) for name in ("missing", "empty", "pool", "images")]
    with pytest.raises(UserError) as error:
        pool.list_shards(PoolConfig(path=tuple(paths)))
    words = ("no such folder", "nothing in it", "unpack them", "worldclip pool pack")
    for path, word, problem in zip(paths, words, error.value.problems, strict=True):
        assert problem.startswith(f"pool.path = {path!r}")
        assert word in problem


def test_linked_folders_and_shards_count_once(folder: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "elsewhere" / "deep" / "1.tar", sample("1", "one"))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder / "sub")
    (folder / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "deep" / "loop").symlink_to(tmp_path / "elsewhere")
    (folder / "00000-link.tar").symlink_to(folder / "00001.tar")
    names = [shard.name for shard in pool.list_shards(PoolConfig(path=str(folder)))]
    assert names == ["00001.tar", "linked/deep/1.tar", "sub/00000.tar"]


@pytest.mark.parametrize("step", [1, -1])
def test_links_to_a_shard_are_its_first_name_in_any_order_of_the_folder(folder: Path, tmp_path, monkeypatch, step):
    shard = write_tar(tmp_path / "elsewhere" / "1.tar", sample("1", "one"))
    for name in ("c", "a", "b"):
        (folder / f"{name}.tar").symlink_to(shard)
    walk = os.walk

    def in_order(*args, **options):
        for place, folders, names in walk(*args, **options):
            yield place, folders, sorted(names)[::step]

    monkeypatch.setattr(os, "walk", in_order)
    names = [shard.name for shard in pool.list_shards(PoolConfig(path=str(folder)))]
    assert names == ["00001.tar", "a.tar", "sub/00000.tar"]


def test_what_is_left_out_is_hidden_or_said(folder: Path, monkeypatch, capsys) -> None:
    write_tar(folder / ".trash" / "0.tar", sample("0", "gone"))
    write_tar(folder / ".hidden.tar", sample("0", "gone"))
    write_tar(folder / "more" / "._00001.tar", sample("0", "gone"))  # macOS writes such files next to those it copies
    for name in ("other.parquet", "a.jpg"):
        (folder / name).touch()
    plain = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path)

    plain_stat = os.stat

    def stat(path, *arguments, **options):
        if "/sub/" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain_stat(path, *arguments, **options)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "stat", stat)
    assert [shard.name for shard in pool.list_shards(PoolConfig(path=str(folder)))] == ["00001.tar"]
    said = capsys.readouterr().err
    for part in ("sub: left out, cannot be entered (Permission denied)", ".parquet", "worldclip pool pack FOLDER"):
        assert part in said


# --- the index --------------------------------------------------------------------------------------------------------


def test_stage_indexes_each_shard_and_second_run_does_nothing(folder: Path, tmp_path: Path) -> None:
    recipe, run_dir = pool_recipe(path=str(folder)), tmp_path / "run"
    assert run_pool(run_dir, path=str(folder))
    assert not run_pool(run_dir, path=str(folder))
    shards = pool.indexed_shards(context(recipe, run_dir))
    keys = [pool.read_images(run_dir, shard.name, pool.EVERY_KEY)["key"].to_pylist() for shard in shards]
    assert keys == [["000010000"], ["sub/000000000"]]
    assert set(read_json(run_dir / "pool/manifest.json")["inputs"]["shards"]) == {"number", "digest"}, (
        "no list of shards"
    )
    counts = dict.fromkeys(("shards", "rows", "samples", "images", "pairs", "texts"), 2)
    counts |= dict.fromkeys(("left_out", "ignored_members", "bad_pair", "duplicate", "no_text"), 0)
    assert read_json(run_dir / "pool" / "report.json") == counts | {"skipped": {}}


def test_shards_that_cannot_be_read_fail_alone_with_their_reason(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:700])
    (folder / "00002.tar").symlink_to(tmp_path / "gone.tar")
    (folder / "part").symlink_to(tmp_path / "not mounted")
    write_tar(folder / "00003.tar", sample("3", "three"))
    plain = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("00003.tar"):  # a superuser may read it all the same
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StageFailed) as failed:
        run_pool(tmp_path / "run", path=str(folder))
    reasons = {"00001.tar": "cut off", "00002.tar": "No such file or directory", "00003.tar": "Permission denied"}
    assert failed.value.failures.keys() == reasons.keys()
    assert all(reasons[name] in reason for name, reason in failed.value.failures.items())
    assert (tmp_path / "run/pool/pairs/sub/00000.tar.parquet").exists()


def test_pool_of_which_every_row_is_left_out_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "0.jsonl", [{"uid": "a", "text": "red", "size": 1}] * 4)
    with pytest.raises(UserError, match=r"without any pair.*4 left out by pool\.where"):
        run_pool(tmp_path / "run", path=str(path), key="uid", where=[["size", ">", 1]])


@pytest.mark.parametrize("settings", [{}, {"key": "json:x", "lang": "json:x"}, {"path": "lines", "key": "x"}])
def test_pool_without_any_sample_is_an_error(tmp_path: Path, settings: dict) -> None:
    """It tells nothing of the fields: a call with --shards may have such shards alone."""
    write_tar(tmp_path / "pool" / "0.tar", [("README", b"?")])
    write_lines(tmp_path / "lines" / "0.jsonl", [])
    path = str(tmp_path / settings.get("path", "pool"))
    with pytest.raises(UserError, match="1 shard without any pair"):
        run_pool(tmp_path / "run", **settings | {"path": path})


# --- broken shards ----------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> ToyWorld:
    """The toy world; the second of its three tars is cut off."""
    world = build_toy_world(tmp_path / "world")
    os.truncate(world.pool / "00001.tar", 9999)
    return world


@pytest.fixture
def skipping(broken: ToyWorld) -> Path:
    """The recipe of the broken world, which goes on without its broken shards."""
    path = broken.folder / "skipping.toml"
    path.write_text(broken.recipe.read_text().replace("[pool]", '[pool]\nbroken_shards = "skip"'))
    return path


@pytest.mark.parametrize(
    "command", ["run {} --out {} --until curate", "pool check {} --out {}", "pool dedup {} --out {}"]
)
def test_a_cut_off_tar_stops_a_command_unless_the_recipe_skips_it(
    command: str, broken: ToyWorld, skipping: Path, toy_world: ToyWorld, tmp_path: Path, capfd
) -> None:
    assert main(command.format(broken.recipe, tmp_path / "stopped").split()) == 1
    said = capfd.readouterr().err
    assert "00001.tar: " in said
    assert 'pool.broken_shards = "skip" goes on without all of their pairs' in said
    words = command.format(skipping, tmp_path / "out").split()
    for _ in range(2):  # a call that finds the work finished says it too
        assert main(words) == 0
        shown = capfd.readouterr()
        said = shown.err if "run" in words else shown.out
        assert said.rstrip().splitlines()[-1].startswith("skipped broken shards, 1 in all: 00001.tar: ")
    job = tmp_path / "out" / ("pool" if "run" in words else "")
    assert [[*read_json(job / name)["skipped"]] for name in ("manifest.json", "report.json")] == [["00001.tar"]] * 2
    for page in (tmp_path / "out").glob("report.html"):
        assert "00001.tar" in page.read_text(encoding="utf-8")
    shutil.copy(toy_world.pool / "00001.tar", broken.pool)
    assert main(words) == 0
    assert "skipped broken" not in capfd.readouterr().err
    assert len(list((tmp_path / "out").rglob("match/texts/*.parquet"))) == (3 if "run" in words else 0)


def test_a_slice_of_only_broken_shards_ends_and_names_them(skipping: Path, tmp_path: Path, capfd) -> None:
    for command in ("pool", "pool check"):
        assert main([*command.split(), str(skipping), "--out", str(tmp_path / command), "--shards", "2/3"]) == 0
        said = capfd.readouterr().err
        assert "skipped broken shards, 1 in all: 00001.tar: " in said
        assert "0 shards" in said


def test_a_list_whose_keys_may_be_in_a_skipped_shard_is_taken(skipping: Path, tmp_path: Path) -> None:
    (tmp_path / "denied.txt").write_text("00030\n")
    denied = f'pool.deny_keys=["{tmp_path / "denied.txt"}"]'
    assert main(["run", str(skipping), "--out", str(tmp_path / "run"), "--until", "match", "--set", denied]) == 0


# --- mistakes of the recipe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "is_refused"), [("pool/run", True), ("pool/.run", False), ("poo", False)])
def test_a_run_in_a_folder_of_tables_is_refused(
    tmp_path: Path, out: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "pool/a.parquet", {"uid": ["1"], "text": ["one"]})
    refused = pytest.raises(UserError, match=r"is in the pool's folder .* \.parquet files .* choose a folder outside")
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / out, Path(out)):
        with refused if is_refused else contextlib.nullcontext():
            run_pool(place, path=str(tmp_path / "pool"), key="uid")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "now set: none"),
        ({"path": "a", "key": "json:"}, r'pool\.key = "json:": must be'),
        ({"path": "s3://me:secret@bucket/pool"}, r"pool\.path: holds a credential"),
        ({"path": "https://token@host/pool"}, r"pool\.path: holds a credential"),
        ({"build": "emoji", "parts": {"cldr": "x"}}, r"pool\.parts\.cldr = .* is no part of the emoji pool"),
        ({"path": "a", "where": [["status", "==", "x"]]}, "each condition is"),
        ({"path": "a", "where": [["status", "success"]]}, "each condition is"),
        ({"path": "a", "where": [["status", "=", ["success"]]]}, 'only "in" and "not in" take a list'),
    ],
)
def test_config_problems_are_reported(settings: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        pool_recipe(**settings)


def test_section_within_a_section_has_marks_of_its_own() -> None:
    sections = {"pool": {"path": "p"}, "train": {"pool": {"path": "q", "key": "uid"}}}
    recipe = load_recipe({**sections, "balance": {"tail_fraction": 0.1}})
    assert deciding(recipe.train, "train")["pool"] == {"key": "uid"}


# --- single faults ----------------------------------------------------------------------------------------------------


def test_a_run_inside_its_pool_of_csv_leaves_the_pool_unchanged(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("uid,text\na,one\n")
    settings = {"path": str(tmp_path), "key": "uid", "texts": ["text"]}
    assert run_pool(tmp_path / "run", **settings)
    (tmp_path / "run/curate").mkdir()
    (tmp_path / "run/curate/kept.csv").write_text("uid,text\nb,two\n")
    assert not run_pool(tmp_path / "run", **settings)
    assert [shard.name for shard in pool.list_shards(PoolConfig(path=str(tmp_path)))] == ["0.csv"]


def test_moved_places_are_found_and_may_have_grown(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    shutil.copy(folder / "00001.tar", tmp_path / "one.tar")
    names = ["one.tar", "other", "pool"]
    run_pool(tmp_path / "run", path=[f"{tmp_path}/{name}" for name in names])
    (tmp_path / "moved").mkdir()
    for name in names:
        (tmp_path / name).rename(tmp_path / "moved" / name)
    places = [f"{tmp_path}/moved/{name}" for name in names]
    run = context(pool_recipe(path=places), tmp_path / "run")
    files = [places[0], *(f"{place}/{name}" for place in places[1:] for name in ("00001.tar", "sub/00000.tar"))]
    assert [shard.path for shard in pool.indexed_shards(run)] == files
    (tmp_path / "run/recipe.toml").unlink()
    write_tar(tmp_path / "moved/pool/z.tar", sample("2", "two"))
    assert run_pool(tmp_path / "run", path=places)
    assert [shard.path for shard in pool.indexed_shards(run)] == [*files, f"{places[2]}/z.tar"]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("suffix", ["tar", "jsonl", "parquet"])
def test_what_cannot_be_read_is_not_skipped_as_damage(tmp_path: Path, monkeypatch, number: int, suffix: str) -> None:
    for name in ("a", "b"):
        if suffix == "tar":
            write_tar(tmp_path / f"pool/{name}.tar", sample(name, "one", {"uid": name}))
        elif suffix == "jsonl":
            write_lines(tmp_path / f"pool/{name}.jsonl", [{"uid": name, "txt": "one"}])
        else:
            write_table(tmp_path / f"pool/{name}.parquet", {"uid": [name], "txt": ["one"]})
    plain = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(f"b.{suffix}"):
            raise OSError(number, os.strerror(number), str(path))
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    settings = {"path": str(tmp_path / "pool"), "key": "json:uid", "texts": ["txt"], "broken_shards": "skip"}
    with pytest.raises((StageFailed, OSError), match=re.escape(os.strerror(number))):
        run_pool(tmp_path / "run", **settings)
    monkeypatch.undo()
    assert run_pool(tmp_path / "run", **settings)
    assert read_json(tmp_path / "run/pool/report.json")["skipped"] == {}


@pytest.mark.parametrize("change", ["another pool", "written again"])
def test_an_older_pool_and_a_file_written_again_with_its_old_time_are_noticed(tmp_path: Path, change: str) -> None:
    for name in ("pool", "older"):  # all of it is written before the pool is read
        write_tar(tmp_path / name / "0.tar", sample("a", name.ljust(5)))
    tar = tmp_path / "pool/0.tar"
    run_pool(tmp_path / "run", path=str(tmp_path / "pool"))
    run = context(pool_recipe(path=str(tmp_path / "pool")), tmp_path / "run")
    pool.refuse_replaced_files(run)
    if change == "another pool":
        (tmp_path / "pool").rename(tmp_path / "newer")
        (tmp_path / "older").rename(tmp_path / "pool")
    else:
        stat = tar.stat()
        write_tar(tar, sample("a", "newer"))
        os.utime(tar, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as rsync -t, or a restored backup
    with pytest.raises(UserError, match=r"0\.tar changed since the stage pool read the pool"):
        pool.refuse_replaced_files(run)
