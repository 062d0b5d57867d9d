"""Text of others reaches the terminal without control characters."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worldclip.cli.command import Command, run_command
from worldclip.core import console
from worldclip.core.printable import MAX_CHARS, one_line, printable
from worldclip.tools.explain_text import key_to_text
from worldclip.tools.search import SEARCH

EVIL = "\x1b]52;c;ZXZpbA==\x07 a\x9b2J \x7f\u202e b\r\udc80"


def test_control_characters_become_escapes_and_other_text_stays() -> None:
    for text in ("ein Apfel\n\tzwei", "تفاحة \u200f حمراء", "👩\u200d🚀", "नमस्ते\u200c", "\ufeffa"):
        assert printable(text) == text
    assert printable("\x1b[2J\x9b\u202e\r") == r"\u001b[2J\u009b\u202e\u000d"
    assert one_line("a\nb\tc") == r"a\u000ab\u0009c"
    assert len(one_line("a" * 5000)) == MAX_CHARS + 1


def _is_clean(shown: str) -> bool:
    return all(character in "\n\t" or character.isprintable() for character in shown)


@pytest.mark.parametrize("say", [console.note, console.complain, lambda text: console.say("match", text)])
def test_messages_show_names_of_others_without_controls(say: Any, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"shard {EVIL}")
    shown = capsys.readouterr().err
    assert _is_clean(shown)
    assert "2J" in shown


def test_log_of_a_run_holds_no_controls(tmp_path: Path) -> None:
    with console.logged_to(tmp_path / "log"):
        console.say_detail("match", EVIL)
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
    explained: Any = {
        "key": f"{EVIL}\nx",
        "shard": "0.tar",
        "kept": False,
        "texts": [],
        "not_valid_because": [EVIL],
        "left_out_because": [f"{EVIL}\n"],
    }
    lines = key_to_text(explained).split("\n")
    assert len(lines) == 2
    assert all(map(_is_clean, lines))
