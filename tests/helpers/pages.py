"""The code blocks of the pages, named by their paths in the repository."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def blocks(page: str, language: str = "bash") -> list[str]:
    """Return the fenced blocks of a language."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Return the words after `worldclip` of each line in a bash block that begins with it."""
    lines = "".join(blocks(page)).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("worldclip ")]
