"""The overview that `worldclip --help` prints, and the nearest known name of an unknown command.

Commands are those of commands.py and of other packages, the stages are those of recipe.STEPS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn

from worldclip.cli.commands import SECTIONS
from worldclip.core.errors import UserError
from worldclip.core.registry import Registry
from worldclip.core.suggest import nearest, suggest
from worldclip.recipe import STEPS, stage_names

COMMANDS = Registry("command", "worldclip.commands", dict(chain.from_iterable(map(dict.items, SECTIONS.values()))))
ANY_MODEL = " MODEL"
"""End of the name of a command that takes any model in place of a recipe or a run."""
REMARKS = {
    "Recipe": " (RECIPE is a .toml file or the folder of a run)",
    "Models": " (MODEL is a run, a checkpoint, a folder of another library, or a hub id)",
}
"""Section of the overview -> what its names in capitals are."""


def sections() -> dict[str, dict[str, str]]:
    """Return title of a section -> command -> what it does; the stages stand in the first section."""
    by_title: dict[str, dict[str, str]] = {}
    section_of: dict[str, dict[str, str]] = {}
    for section, places in SECTIONS.items():
        summaries: dict[str, str] = {}
        by_title[section + REMARKS.get(section, "")] = summaries
        section_of |= dict.fromkeys(places, summaries)
    for name in COMMANDS.names():
        section_of.get(name, by_title["Plug-ins"])[name] = COMMANDS.summary(name)
    recipe = next(iter(by_title.values()))
    for step in STEPS:
        recipe[step.stage] = step.help
    return by_title


def to_text() -> str:
    """Return the overview: the commands by section, in aligned columns."""
    rows = sections()
    width = max(map(len, chain.from_iterable(rows.values())))
    lines = [
        "usage: worldclip COMMAND ...",
        "",
        "worldclip COMMAND --help lists the flags of a command, with examples.",
        "--quiet shows only errors and the result, --verbose each shard too; a run keeps all lines in RUN/log.txt.",
    ]
    for title, summaries in rows.items():
        lines += ["", f"{title}:", *_aligned(summaries, width)]
    return "\n".join([*lines, "", *_aligned({"--version": "Print versions, extras and device"}, width)])


def _aligned(summaries: Mapping[str, str], width: int) -> list[str]:
    return [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]


def commands_of(first: str, head: str) -> str:
    """Return `head` and a line per command of two words that begins with `first`, such as `fetch`; "" if none does."""
    summaries: dict[str, str] = {}
    for name in COMMANDS.names():
        if name.startswith(f"{first} "):
            summaries[name.replace(ANY_MODEL, f"{ANY_MODEL} --out DIR")] = COMMANDS.summary(name)
    if not summaries:
        return ""
    return "\n".join([head, *_aligned(summaries, max(map(len, summaries)))])


def refuse_misspelt(stage: str, words: Sequence[str]) -> None:
    """Raise UserError where `worldclip pool chek` means the command `pool check`, not the stage on a recipe."""
    second_words = _second_words(stage)
    if words and words[0] not in second_words and not Path(words[0]).exists():
        for near in nearest(words[0], second_words):
            raise UserError(f"unknown command {stage} {words[0]}; did you mean {stage} {near}?")


def refuse_unknown(arguments: Sequence[str]) -> NoReturn:
    """Raise UserError with the nearest command, of two words or of one."""
    first = arguments[0]
    two_words = " ".join(arguments[:2])
    names = [f"{first} {word}" for word in _second_words(first)]
    if names:
        remedy = suggest(two_words, names) if len(arguments) > 1 else f"known: {', '.join(names)}"
        raise UserError(f"unknown command {two_words}; {remedy}")
    for name in (two_words, first):
        num_words = len(name.split())
        for near in nearest(name, [known for known in _names() if len(known.split()) == num_words]):
            raise UserError(f"unknown command {name}; did you mean {near}?")
    raise UserError(f"unknown command {first}; worldclip --help lists all commands")


def _second_words(first: str) -> list[str]:
    return [name.partition(" ")[2] for name in _names() if name.startswith(f"{first} ")]


def _names() -> list[str]:
    return [*stage_names(), *(name for name in COMMANDS.names() if not name.endswith(ANY_MODEL))]
