"""What a command says: by level to standard error, all of it to the log of the run, and without control characters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toy import ToyWorld
from worldclip.cli import main
from worldclip.cli.command import Command, run_command
from worldclip.core.console import complain, logged_to, note, progress_bar, say, say_detail
from worldclip.core.errors import first_line
from worldclip.core.printable import MAX_CHARS, one_line, printable
from worldclip.tools.explain_text import key_to_text
from worldclip.tools.search import SEARCH

LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} +(\w+)  (.*)$")


def said_by(capsys: pytest.CaptureFixture[str], *flags: str, world: ToyWorld, out: Path) -> str:
    assert main(["run", str(world.recipe), "--out", str(out), "--until", "metadata", *flags]) == 0
    return capsys.readouterr().err


def test_log_file_keeps_every_line_whatever_the_terminal_shows_and_is_appended_to(
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
    before = (tmp_path / "c/log.txt").read_text(encoding="utf-8")
    said_by(capsys, world=toy_world, out=tmp_path / "c")
    after = (tmp_path / "c/log.txt").read_text(encoding="utf-8")
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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (EOFError("\n"), "EOFError"),
        (KeyError("key"), "'key'"),
    ],
)
def test_first_line_of_an_error_is_its_text_or_its_kind(error: Exception, expected: str) -> None:
    assert first_line(error) == expected


# text of others


EVIL = "\x1b]52;c;ZXZpbA==\x07 a\x9b2J \x7f\u202e b\r\udc80"


def test_control_characters_become_escapes_and_other_text_stays() -> None:
    for text in ("ein Apfel\n\tzwei", "تفاحة \u200f حمراء", "👩\u200d🚀", "नमस्ते\u200c", "\ufeffa"):
        assert printable(text) == text
    assert printable("\x1b[2J\x9b\u202e\r") == r"\u001b[2J\u009b\u202e\u000d"
    assert one_line("a\nb\tc") == r"a\u000ab\u0009c"
    assert len(one_line("a" * 5000)) == MAX_CHARS + 1


def _is_clean(shown: str) -> bool:
    return all(character in "\n\t" or character.isprintable() for character in shown)


@pytest.mark.parametrize("write", [note, complain, lambda text: say("match", text)])
def test_messages_show_names_of_others_without_controls(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write(f"shard {EVIL}")
    shown = capsys.readouterr().err
    assert _is_clean(shown)
    assert "2J" in shown


def test_log_of_a_run_holds_no_controls(tmp_path: Path) -> None:
    with logged_to(tmp_path / "log"):
        say_detail("match", EVIL)
    assert _is_clean((tmp_path / "log").read_text(encoding="utf-8"))


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_results_of_every_command_are_printed_without_controls(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def show() -> dict[str, str]:
        """Show a caption."""
        return {"caption": EVIL}

    run_command(Command(show, lambda result, flags: str(result["caption"])), "show", "", flags)
    shown = capsys.readouterr().out
    assert _is_clean(shown)
    if flags:
        assert json.loads(shown)["caption"] == EVIL


def test_keys_and_captions_of_a_search_stay_in_their_line() -> None:
    hit = {"score": 0.5, "key": f"{EVIL}\n  0.999  forged", "text": f"\n{EVIL}", "shard": "a\nb"}
    assert SEARCH.to_text is not None
    lines = SEARCH.to_text([{"query": "a\nb", "hits": [hit]}], SimpleNamespace()).split("\n")
    assert len(lines) == 2
    assert all(map(_is_clean, lines))


def test_an_inspected_key_stays_in_its_line() -> None:
    explained: Any = {"key": f"{EVIL}\nx", "shard": "0.tar", "kept": False}
    text = {"text_idx": 0, "text": None, "place": None, "reason": "bad_pair", "problem": f"{EVIL}\n"}
    explained |= {"not_valid_because": [EVIL], "texts": [text]}
    lines = key_to_text(explained).split("\n")
    assert len(lines) == 4
    assert all(map(_is_clean, lines))
