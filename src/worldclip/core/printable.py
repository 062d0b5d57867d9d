"""Show text of others on a terminal: control characters in a caption would move the cursor or fill the clipboard."""

from __future__ import annotations

import re
import shlex

# C0 and C1 without tab and line feed, line separators, marks that reorder the characters around them, lone surrogates.
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile("[\t\n]")
MAX_CHARS = 1000


def printable(text: str) -> str:
    r"""Return a text with each control character as an escape, `\u001b`, which JSON reads as the character."""
    return _CONTROLS.sub(_escape, text)


def one_line(text: str) -> str:
    r"""Return a key or a caption in one line of at most MAX_CHARS characters: line feeds are `\u000a`."""
    shown = _BREAKS.sub(_escape, printable(text))
    return shown if len(shown) <= MAX_CHARS else f"{shown[:MAX_CHARS]}…"


def counted(number: int, noun: str) -> str:
    """Return `1 shard`, `1,600 shards`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def command_line(*words: object) -> str:
    """Return `worldclip WORD ...` as a shell takes it: a path with a blank is quoted."""
    return f"worldclip {shlex.join(map(str, words))}"


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
