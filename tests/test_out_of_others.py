"""A tool refuses --out on a folder that another tool began and did not finish: it would remove that one's files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from killed import contents
from toy import build_toy_world
from worldclip.cli import main
from worldclip.core.artifacts import write_manifest
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.core.job_files import owner_of
from worldclip.pool.files import check_own

WRITERS = ("check", "dedup", "embed", "pool emoji", "pool pack", "pool world", "wat")  # the jobs that call check_own


def test_every_tool_that_removes_files_of_its_folder_is_in_this_table():
    source = Path(__file__).parents[1] / "src" / "worldclip"
    calls = [line for path in source.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    names = {line.split('"')[1] for line in calls if "check_own(" in line and '"' in line}
    assert names == set(WRITERS)


@pytest.mark.parametrize("owner", WRITERS)
@pytest.mark.parametrize("is_killed", [True, False])
def test_unfinished_folder_of_another_tool_is_refused(owner, is_killed, tmp_path):
    lock = RunLock(tmp_path / "out", owner=owner)
    lock.__enter__()
    (tmp_path / "out" / "part.npy").write_bytes(b"work of hours")
    if is_killed:
        lock._file.close()  # as the system does for a process that is killed
    else:
        lock.__exit__()
    assert owner_of(tmp_path / "out") == owner
    check_own(tmp_path / "out", owner)
    for other in {*WRITERS} - {owner}:
        with pytest.raises(UserError, match=f"was written by {owner}, not by {other}"):
            check_own(tmp_path / "out", other)


def test_unfinished_folder_without_an_owner_is_refused(tmp_path):
    with RunLock(tmp_path):
        check_own(tmp_path, "embed")  # nothing would be lost
        (tmp_path / "part").touch()
    with pytest.raises(UserError, match="holds the unfinished work of another command"):
        check_own(tmp_path, "embed")


def test_finished_folder_is_its_writers(tmp_path):
    with RunLock(tmp_path, owner="embed"):
        write_manifest(tmp_path, config={}, inputs={}, counts={}, job="embed")
    check_own(tmp_path, "embed")
    with pytest.raises(UserError, match="was written by embed, not by check"):
        check_own(tmp_path, "check")


@pytest.mark.parametrize("command", ["run toy.toml --out .", "pool toy.toml --out .", "run ."])
def test_pool_next_to_its_recipe_is_not_taken_for_a_stage(command: str, tmp_path: Path, monkeypatch, capfd) -> None:
    """The stage pool would remove the tars: they are not among its outputs."""
    world = build_toy_world(tmp_path)
    shutil.copy(world.recipe, tmp_path / "recipe.toml")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert main(command.split()) == 2
    assert "is no run and holds a folder 'pool', whose files the stage pool would remove" in capfd.readouterr().err
    assert contents(tmp_path) == before


def test_lock_says_who_holds_it_and_not_who_owns_the_folder(tmp_path: Path) -> None:
    with RunLock(tmp_path, owner="embed"), pytest.raises(UserError, match=r"in use by process \d+; wait"):
        RunLock(tmp_path, owner="embed").__enter__()


@pytest.mark.parametrize(
    "command",
    [
        "run {}.toml --out out --until pool",
        "pool check {} --out out",
        "pool dedup {} --out out",
        "embed {model} {} --out out",
    ],
)
def test_finished_folder_of_another_pool_is_refused(
    command: str, world: Path, tmp_path: Path, monkeypatch, capfd
) -> None:
    """A pool that grew or was moved is the same one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "pool", "a")
    Path("b").mkdir()
    shutil.move("a/00002.tar", "b")
    for name in ("a", "b", "moved"):
        Path(f"{name}.toml").write_text(f'[pool]\npath = "{name}"\nkey = "member"\n[balance]\ntail_fraction = 0.1\n')

    def call(name: str, *more: str) -> int:
        return main([*command.format(name, model=world / "model").split(), *more])

    assert call("a") == 0
    shutil.copy("a/00000.tar", "a/00001b.tar")
    assert call("a") == 0
    before = contents(tmp_path / "out")
    capfd.readouterr()
    assert call("b") == 2
    said = capfd.readouterr().err
    assert f"was made from {tmp_path}/a, not from {tmp_path}/b; choose another --out" in said
    assert contents(tmp_path / "out") == before
    if "--from pool" in said:
        assert call("b", "--from", "pool") == 0
        return
    Path("a").rename("moved")
    assert call("moved") == 0
