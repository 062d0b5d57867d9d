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
    by_title: dict[str, dict[str, str]] = {section + REMARKS.get(section, ""): {} for section in SECTIONS}
    section_of = {name: title for title, names in zip(by_title, SECTIONS.values(), strict=True) for name in names}
    for name in COMMANDS.names():
        by_title[section_of.get(name, "Plug-ins")][name] = COMMANDS.summary(name)
    recipe = next(iter(by_title.values()))
    recipe.update((step.stage, step.help) for step in STEPS)
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


def _commands_of(first: str) -> list[str]:
    """Return a line per command that begins with the word `first`, in aligned columns."""
    rows = {
        name.replace(ANY_MODEL, f"{ANY_MODEL} --out DIR"): COMMANDS.summary(name)
        for name in COMMANDS.names()
        if name.startswith(f"{first} ")
    }
    return _aligned(rows, max(map(len, rows), default=0))


def see_also(stage: str) -> str:
    """Return a paragraph of help with the commands that begin with a stage's name, "" if there are none."""
    lines = _commands_of(stage)
    if not lines:
        return ""
    return "\n".join(["\n", f"Commands that begin with {stage} (worldclip COMMAND --help):", *lines])


def first_word_help(first: str) -> str:
    """Return the help of the first word of two-word commands, such as `fetch`; "" for another word."""
    lines = _commands_of(first)
    if not lines:
        return ""
    return "\n".join([f"usage: worldclip {first} COMMAND ...", "", *lines])


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
