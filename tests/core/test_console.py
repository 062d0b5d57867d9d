"""What a command says: to standard error by level, and all of it to the log file of the run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toy import ToyWorld
from worldclip.cli import main
from worldclip.core.console import logged_to, progress_bar, say, say_detail

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} +(\w+)  (.*)$")


def said_by(capsys: pytest.CaptureFixture[str], *flags: str, world: ToyWorld, out: Path) -> str:
    assert main(["run", str(world.recipe), "--out", str(out), "--until", "metadata", *flags]) == 0
    return capsys.readouterr().err


def test_log_file_keeps_every_line_whatever_the_terminal_shows(
    toy_world: ToyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = said_by(capsys, "--quiet", world=toy_world, out=tmp_path / "a")
    assert "starts" not in quiet
    plain = said_by(capsys, world=toy_world, out=tmp_path / "b")
    verbose = said_by(capsys, "--verbose", world=toy_world, out=tmp_path / "c")
    assert "is done" not in plain
    assert "00000.tar is done" in verbose
    for name in "abc":
        lines = (tmp_path / name / "log.txt").read_text(encoding="utf-8").splitlines()
        assert all(LINE.match(line) for line in lines)
        assert ("index", "00000.tar is done") in {LINE.match(line).groups() for line in lines}  # type: ignore[union-attr]


def test_later_commands_are_appended(toy_world: ToyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said_by(capsys, world=toy_world, out=tmp_path / "a")
    before = (tmp_path / "a/log.txt").read_text()
    said_by(capsys, world=toy_world, out=tmp_path / "a")
    after = (tmp_path / "a/log.txt").read_text()
    assert after.startswith(before)
    assert "pool  is finished and unchanged" in after[len(before) :]


def test_secrets_reach_neither_terminal_nor_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logged_to(tmp_path / "log.txt"):
        say("pool", "reads https://user:secret@host/x")
        say_detail("pool", "https://user:secret@host/y is done")
    assert "secret" not in capsys.readouterr().err + (tmp_path / "log.txt").read_text()


def test_markup_in_a_message_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    say("pool", "[red]a caption[/red] %s")
    assert "[red]a caption[/red] %s" in capsys.readouterr().err


def test_bar_is_hidden_unless_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("texts", 2, is_shown=False) as advance:
        advance(2)
    assert capsys.readouterr().err == ""
