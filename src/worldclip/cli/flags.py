"""Split the words of a command into flags and positional arguments, and print the help.

A flag's words are read by the type of its key (core/settings.convert), as values of TOML and of --set are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import textwrap
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from worldclip.core.errors import UserError
from worldclip.core.fields import Text, convert, is_marked, must_be, options_of
from worldclip.core.marks import Commas, Place, Repeated
from worldclip.core.registry import ItemOf
from worldclip.core.suggest import nearest

REQUIRED = dataclasses.MISSING
OPTIONS = "options"
WIDTH = 100  # columns of the help
INDENT = 26  # columns before a description
MAX_WORDS_OF_PATH = 8  # words of a path whose blanks are not quoted that are recognised
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
        word = f"{self.word}[.NAME]" if num_tables else self.word
        return f"{word} {self.value_name}"

    @property
    def kinds(self) -> list[Any]:
        """Return the types that the value may have, without None."""
        return [kind for kind in options_of(self.hint) if kind is not type(None)]

    @property
    def element(self) -> Any:
        """Return the type of the values of a list, None for another flag."""
        for kind in self.kinds:
            if typing.get_origin(kind) is tuple:
                return typing.get_args(kind)[0]
        return None

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
        for mark in self.marks:
            if isinstance(mark, ItemOf):
                choices = "{" + ",".join(mark.names) + "}"
                return f"{choices} ..." if self.is_many else choices
        if self.metavar:
            return self.metavar
        names = "|".join(dict.fromkeys(map(_name_of_type, self.kinds)))
        if is_marked(self.marks, Place):
            names = names.replace("TEXT", "PATH")
        return names

    @property
    def full_help(self) -> str:
        """The description, with `required` or the default."""
        if self.default is REQUIRED:
            return f"{self.help} (required)"
        has_no_default = self.default is None or self.default in ((), {}, "") or "(default: " in self.help
        if has_no_default or self.is_switch:
            return self.help  # the description says what an unset flag means
        if isinstance(self.default, bool):
            return f"{self.help} (default: {str(self.default).lower()})"
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        return f"{self.help} (default: {' '.join(map(str, values))})"

    def read(self, words: Sequence[str]) -> Any:
        """Return the value of a parameter.  Raises TypeError."""
        if self.is_switch:
            return True
        if is_marked(self.marks, Commas) or typing.get_origin(self.element) is Literal:
            words = list(filter(None, ",".join(words).split(",")))
        if self.element is not None:
            return tuple(_read_word(word, self.element) for word in words)
        return _read_word(words[0], self.hint)

    def override(self, name: str, words: Sequence[str]) -> str:
        """Return what sets a key of a config, `key=value`; name: the flag as typed, with the item of a table."""
        key = self.key.removeprefix("config.") + name[len(self.word) :]
        if not words:
            return f"{key}=[]" if self.is_many else f"{key}=true"
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
    if Path in options:
        return Path(word)
    return convert(Text(word), hint)


FlagUse: TypeAlias = tuple[Flag, str, Sequence[str]]
"""A flag of the command line, its name as typed (`--folders.pets`, an item of the table `--folders`), its words."""


def parse_flags(
    flags: Sequence[Flag], arguments: Sequence[str], prog: str, remedy_of: Callable[[str], str] | None = None
) -> list[FlagUse]:
    """Return the flags that are given, then the positional arguments, each in their order.

    Positional arguments come last: of `my.toml --set a=1 --dry-run` the uses are --set with ["a=1"], --dry-run with [],
    RECIPE with ["my.toml"].  remedy_of: see core.command.Command.  Raises UserError with all wrong flags.
    """
    pointer = f"; {prog} --help lists the flags"
    problems = _unquoted_paths(arguments)
    if problems:
        raise UserError(problems)
    uses: list[FlagUse] = []
    free: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            free.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = _find(flags, name)
        max_words = 1
        if flag is not None and flag.is_many:
            max_words = len(words)
        if flag is not None and flag.is_switch:
            max_words = 0
        if flag is not None and flag.hint is bool and flag.is_key and words[:1] not in (["true"], ["false"]):
            max_words = 0
        values = [value] if equals else []
        while words and len(values) < max_words and not equals and not _is_flag(words[0]):
            values.append(words.pop(0))
        if flag is None:
            near = nearest(name, [item.word for item in flags if not item.is_positional])
            remedy = f"; did you mean {near[0]}?" if near else pointer
            if remedy_of is not None:
                remedy = remedy_of(name) or remedy
            problems.append(f"unknown flag {word!r}{remedy}")
        elif flag.is_switch and equals:
            problems.append(f"{flag.word} takes no value{pointer}")
        elif flag.metavar == "KEY=VALUE" and "=" not in "".join(values):
            problems.append(f"{' '.join([word, *values])}: must be KEY=VALUE, without blanks{pointer}")
        elif not values and max_words == 1:
            problems.append(f"{flag.word} has no value; give one{pointer}")
        else:
            uses.append((flag, _with_hyphens(name), values))
    for flag in flags:
        if flag.is_positional and (free or (flag.is_many and flag.default is REQUIRED)):
            number = len(free) if flag.is_many else 1
            uses.append((flag, flag.word, free[:number]))
            del free[:number]
    for word in free:
        problems.append(f"unknown argument {word!r} (a path with blanks needs quotes){pointer}")
    used_keys = {flag.key for flag, _, _ in uses}
    for flag in flags:
        if flag.default is REQUIRED and flag.key not in used_keys:
            problems.append(f"{flag.label} is missing: {flag.help.rstrip('.')}{pointer}")
    if problems:
        raise UserError(problems)
    return uses


def _unquoted_paths(arguments: Sequence[str]) -> list[str]:
    """Return a problem for each file or folder whose name has blanks and was typed without quotes: `my photos`."""
    problems = []
    for start, word in enumerate(arguments):
        if _is_flag(word) or os.path.exists(word):
            continue
        for end in range(start + 2, min(start + MAX_WORDS_OF_PATH, len(arguments)) + 1):
            path = " ".join(arguments[start:end])
            if os.path.exists(path):
                problems.append(f"{path} has blanks; write it in quotes: {shlex.quote(path)}")
    return problems


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit()


def _with_hyphens(name: str) -> str:
    """Return --from_run as --from-run; the name of an item, after the last dot, stays."""
    table, dot, item = name.rpartition(".")
    if not dot:
        return name.replace("_", "-")
    return f"{table.replace('_', '-')}.{item}"


def _find(flags: Sequence[Flag], name: str) -> Flag | None:
    """Return the flag of a name, or the one of the table whose item it names."""
    hyphened = name.replace("_", "-")
    for flag in flags:
        if not flag.is_positional and flag.word == hyphened:
            return flag
    for flag in flags:
        is_table = any(typing.get_origin(kind) is dict for kind in flag.kinds)
        if is_table and hyphened.startswith(f"{flag.word}."):
            return flag
    return None


def read_values(uses: Sequence[FlagUse], pointer: str) -> dict[str, Any]:
    """Return key -> value of the parameters that are given, the last one of each.  Raises UserError.

    Flags that set a key of a config are left out.
    """
    values: dict[str, Any] = {}
    problems = []
    for flag, _, words in uses:
        if flag.is_key:
            continue
        try:
            value = flag.read(words)
        except TypeError:
            problems.append(f"{flag.word} {' '.join(words)!r}: {must_be(words, flag.element or flag.hint)}{pointer}")
            continue
        if is_marked(flag.marks, Repeated):
            value = (*values.get(flag.key, ()), *value)
        values[flag.key] = value
    if problems:
        raise UserError(problems)
    return values


def help_text(flags: Sequence[Flag], summary: str, prog: str) -> str:
    """Return the help of a command: flags by group."""
    positional = []
    required = []
    for flag in flags:
        if flag.is_positional:
            positional.append(flag.metavar if flag.default is REQUIRED else f"[{flag.metavar}]")
        elif flag.default is REQUIRED:
            required.append(flag.label)
    lines = [f"usage: {' '.join([prog, *positional, *required, '[OPTIONS]'])}", ""]
    for line in summary.split("\n"):
        lines += _wrap(line)
    for group in dict.fromkeys(flag.group for flag in flags):
        title = group if group == OPTIONS else f"{group} options"
        lines += ["", f"{title}:"]
        for flag in flags:
            if flag.group == group:
                head = f"  {flag.label}"
                margin = " " * INDENT
                description = _wrap(" ".join(flag.full_help.split()), margin, margin)
                if len(head) < INDENT - 1:
                    head = head.ljust(INDENT) + description.pop(0).lstrip()
                lines += [head, *description]
    return "\n".join(lines)


def _wrap(line: str, first: str = "", margin: str = "") -> list[str]:
    """Return a line cut between words only; what follows an indented line is indented further."""
    indent = line[: len(line) - len(line.lstrip())]
    if indent and not margin:
        margin = f"{indent}    "
    options: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
    return textwrap.wrap(line, WIDTH, initial_indent=first, subsequent_indent=margin, **options) or [""]


def _name_of_type(kind: Any) -> str:
    """Return what the help calls the values of a type."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        return f"{_name_of_type(arguments[0])} ..."
    if origin is dict:
        return _name_of_type(options_of(arguments[1])[0])
    return _METAVARS.get(kind, "VALUE")
