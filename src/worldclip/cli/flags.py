"""Split the words of a command into flags and positional arguments, and print the help.

A flag's words are read by the type of its key (core/settings.convert), as values of TOML and of --set are.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from worldclip.core.errors import UserError
from worldclip.core.marks import Commas, Place, Repeated
from worldclip.core.registry import ItemOf
from worldclip.core.settings import Text, convert, is_marked, must_be, options_of
from worldclip.core.suggest import nearest

REQUIRED = dataclasses.MISSING
OPTIONS = "options"
WIDTH, INDENT = 100, 26  # columns of the help; those before a description
_METAVARS = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH", bool: "{true,false}"}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag or a positional argument of a command."""

    key: str
    """The parameter, or `config.` and the names of the fields that lead to a value."""
    hint: Any
    """Type of the value, without marks."""
    marks: tuple[Any, ...] = ()
    help: str = ""
    default: Any = REQUIRED
    metavar: str = ""
    group: str = OPTIONS
    is_positional: bool = False

    @property
    def is_key(self) -> bool:
        """Whether it sets a key of a config, as --set does."""
        return self.key.startswith("config.")

    @property
    def word(self) -> str:
        """The flag as typed: `--model.preset`; the metavar of a positional argument."""
        name = self.key.removeprefix("config.").rstrip("_").replace("_", "-")
        return self.metavar if self.is_positional else f"--{name}"

    @property
    def label(self) -> str:
        """The flag with the name of its value: `--tail-fractions.NAME NUMBER` for an item of a table."""
        if self.is_positional or self.is_switch:
            return self.word
        num_tables = sum(typing.get_origin(kind) is dict for kind in self.kinds)
        if num_tables == len(self.kinds):
            return f"{self.word}.NAME {self.value_name}"
        return f"{self.word}{'[.NAME]' if num_tables else ''} {self.value_name}"

    @property
    def kinds(self) -> list[Any]:
        """Return the types that the value may have, without None."""
        return [kind for kind in options_of(self.hint) if kind is not type(None)]

    @property
    def element(self) -> Any:
        """Return the type of the values of a list, None for another flag."""
        lists = [kind for kind in self.kinds if typing.get_origin(kind) is tuple]
        return typing.get_args(lists[0])[0] if lists else None

    @property
    def is_many(self) -> bool:
        """Return whether the flag takes any number of words."""
        return self.element is not None and not is_marked(self.marks, Repeated)

    @property
    def is_switch(self) -> bool:
        """Return whether the flag takes no word."""
        return self.hint is bool and not self.is_key

    @property
    def value_name(self) -> str:
        """The name of the value in the help: the metavar, the choices, or the name of the type."""
        if items := next((mark for mark in self.marks if isinstance(mark, ItemOf)), None):
            choices = "{" + ",".join(items.registry.names()) + "}"
            return f"{choices} ..." if self.is_many else choices
        text = "PATH" if is_marked(self.marks, Place) else "TEXT"
        return self.metavar or "|".join(dict.fromkeys(map(_name_of_type, self.kinds))).replace("TEXT", text)

    @property
    def full_help(self) -> str:
        """The description, with `required` or the default."""
        if self.default is REQUIRED:
            return f"{self.help} (required)"
        has_no_default = self.default is None or self.default in ((), {}, "") or "(default: " in self.help
        if has_no_default or self.is_switch:
            return self.help  # the description says what an unset flag means
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        shown = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
        return f"{self.help} (default: {' '.join(shown)})"

    def read(self, words: Sequence[str]) -> Any:
        """Return the value of a parameter.  Raises TypeError."""
        if self.is_switch:
            return True
        if is_marked(self.marks, Commas) or typing.get_origin(self.element) is Literal:
            words = [name for word in words for name in word.split(",") if name]
        if self.element is not None:
            return tuple(_read_word(word, self.element) for word in words)
        return _read_word(words[0], self.hint)

    def override(self, name: str, words: Sequence[str]) -> str:
        """Return what sets a key of a config, `key=value`; name: the flag as typed, with the item of a table."""
        key = self.key.removeprefix("config.") + name[len(self.word) :]
        if not words:
            return f"{key}={'[]' if self.is_many else 'true'}"
        if is_marked(self.marks, Place) and len(words) > 1:  # paths may hold commas
            return f"{key}={json.dumps(words, ensure_ascii=False)}"
        return f"{key}={','.join(words)}"


def _read_word(word: str, hint: Any) -> Any:
    """Return a word as a value of a parameter's type.  Raises TypeError."""
    options = options_of(hint)
    if type(None) in options and word in ("none", "None"):
        return None
    if str in options:
        return word
    return Path(word) if Path in options else convert(Text(word), hint)


Given: TypeAlias = tuple[Flag, str, Sequence[str]]
"""A flag of the command line, its name as typed (`--folders.pets`, an item of the table `--folders`), its words."""


def parse_flags(
    flags: Sequence[Flag], arguments: Sequence[str], prog: str, remedy_of: Callable[[str], str] | None = None
) -> list[Given]:
    """Return the flags and positional arguments that are given, in their order.

    remedy_of: of core.command.Command.  Raises UserError with each wrong flag and its remedy.
    """
    pointer = f"; {prog} --help lists the flags"
    problems: list[str] = []
    given: list[Given] = []
    free: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            free.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = _find(flags, name)
        most = 1 if flag is None or not flag.is_many else len(words)
        if flag is not None and flag.is_switch:
            most = 0
        if flag is not None and flag.hint is bool and flag.is_key and words[:1] not in (["true"], ["false"]):
            most = 0
        values = [value] if equals else _take(words, most)
        if flag is None:
            near = nearest(name, [item.word for item in flags if not item.is_positional])
            remedy = remedy_of(name) if remedy_of is not None else ""
            problems.append(f"unknown flag {word!r}{remedy or (f'; did you mean {near[0]}?' if near else pointer)}")
        elif flag.is_switch and equals:
            problems.append(f"{flag.word} takes no value{pointer}")
        elif flag.metavar == "KEY=VALUE" and "=" not in "".join(values):
            problems.append(f"{' '.join([word, *values])}: must be KEY=VALUE, without blanks{pointer}")
        elif not values and most == 1:
            problems.append(f"{flag.word} has no value; give one{pointer}")
        else:
            given.append((flag, _with_hyphens(name), values))
    given += _assign(free, flags)
    problems += [f"unknown argument {word!r}{pointer}" for word in free]
    missing = [flag for flag in flags if flag.default is REQUIRED and not any(one is flag for one, *_ in given)]
    problems += [f"{flag.label} is missing: {flag.help.rstrip('.')}{pointer}" for flag in missing]
    if problems:
        raise UserError(problems)
    return given


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit()


def _with_hyphens(name: str) -> str:
    """Return --from_run as --from-run; the name of an item, after the last dot, stays."""
    table, dot, item = name.rpartition(".")
    return f"{table.replace('_', '-')}{dot}{item}" if dot else name.replace("_", "-")


def _take(words: list[str], most: int) -> list[str]:
    """Take the next words that are no flags."""
    taken: list[str] = []
    while words and len(taken) < most and not _is_flag(words[0]):
        taken.append(words.pop(0))
    return taken


def _find(flags: Sequence[Flag], name: str) -> Flag | None:
    """Return the flag of a name, or the one of the table whose item it names."""
    hyphened = name.replace("_", "-")
    for flag in flags:
        if not flag.is_positional and flag.word == hyphened:
            return flag
    tables = [flag for flag in flags if any(typing.get_origin(kind) is dict for kind in flag.kinds)]
    return next((flag for flag in tables if hyphened.startswith(f"{flag.word}.")), None)


def _assign(free: list[str], flags: Sequence[Flag]) -> Iterator[Given]:
    """Take the words that belong to no flag for the positional arguments, in their order."""
    for flag in flags:
        if flag.is_positional and (free or (flag.is_many and flag.default is REQUIRED)):
            number = len(free) if flag.is_many else 1
            yield flag, flag.word, free[:number]
            del free[:number]


def read_values(given: Sequence[Given], pointer: str) -> dict[str, Any]:
    """Return key -> value of the parameters that are given, the last one of each.  Raises UserError."""
    values: dict[str, Any] = {}
    problems = []
    for flag, _, words in given:
        try:
            value = flag.read(words)
        except TypeError:
            problems.append(f"{flag.word} {' '.join(words)!r}: {must_be(words, flag.element or flag.hint)}{pointer}")
            continue
        is_repeated = is_marked(flag.marks, Repeated) and flag.key in values
        values[flag.key] = (*values[flag.key], *value) if is_repeated else value
    if problems:
        raise UserError(problems)
    return values


def help_text(flags: Sequence[Flag], summary: str, prog: str) -> str:
    """Return the help of a command: flags by group."""
    required = [flag.label for flag in flags if flag.default is REQUIRED and not flag.is_positional]
    positional = [
        flag.metavar if flag.default is REQUIRED else f"[{flag.metavar}]" for flag in flags if flag.is_positional
    ]
    lines = [f"usage: {' '.join([prog, *positional, *required, '[OPTIONS]'])}", ""]
    lines += [piece for line in summary.split("\n") for piece in _wrap(line)]
    for group in dict.fromkeys(flag.group for flag in flags):
        lines += ["", f"{group}:" if group == OPTIONS else f"{group} options:"]
        for flag in flags:
            if flag.group == group:
                lines += _described(flag)
    return "\n".join(lines)


def _wrap(line: str, first: str = "", margin: str = "") -> list[str]:
    """Return a line cut between words only; what follows an indented line is indented further."""
    own = line[: len(line) - len(line.lstrip())]
    after = margin or (f"{own}    " if own else "")
    options: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
    return textwrap.wrap(line, WIDTH, initial_indent=first, subsequent_indent=after, **options) or [""]


def _described(flag: Flag) -> list[str]:
    head, margin = f"  {flag.label}", " " * INDENT
    lines = _wrap(" ".join(flag.full_help.split()), margin, margin)
    if len(head) < INDENT - 1:
        return [head.ljust(INDENT) + lines[0].lstrip(), *lines[1:]]
    return [head, *lines]


def _name_of_type(kind: Any) -> str:
    """Return what the help calls the values of a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        return f"{_name_of_type(arguments[0])} ..."
    if origin is dict:
        return _name_of_type(options_of(arguments[1])[0])
    return _METAVARS.get(kind, "VALUE")
