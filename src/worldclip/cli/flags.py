"""Parse flags with argparse: lists with commas or spaces, tables as pairs, and every problem in one sentence.

argparse splits the words and prints the help.  Values are read here, so that a message names flag, value and remedy.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import itertools
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldclip.core.errors import UserError
from worldclip.core.marks import Commas, Place, Repeated
from worldclip.core.registry import ItemOf
from worldclip.core.settings import options_of

REQUIRED = dataclasses.MISSING
OPTIONS = "options"
_METAVARS = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH", bool: "{true,false}"}
_TYPE_NAMES = {int: "a whole number", float: "a number"}
_NONE = ("none", "None")
_BOOLS = {"true": True, "false": False}


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
    group_help: str = ""
    is_positional: bool = False
    has_negation: bool = False
    """Whether a bool has the flag --no-NAME, too."""

    @property
    def word(self) -> str:
        """The flag as typed: `--model.preset`; the metavar of a positional argument."""
        name = self.key.removeprefix("config.").rstrip("_").replace("_", "-")
        return self.metavar if self.is_positional else f"--{name}"

    @property
    def words(self) -> list[str]:
        """All that the user may type: `--x`, and `--no-x` where it has a negation."""
        return [self.word, f"--no-{self.word[2:]}"] if self.has_negation else [self.word]

    @property
    def label(self) -> str:
        """The flag with the name of its value."""
        return self.word if self.is_positional else f"{self.word} {self.value_name}"

    @property
    def kinds(self) -> list[Any]:
        """Return the types that the value may have, without None."""
        return [kind for kind in options_of(self.hint) if kind is not type(None)]

    @property
    def is_many(self) -> bool:
        """Return whether the flag takes any number of words."""
        return any(typing.get_origin(kind) in (tuple, dict) for kind in self.kinds) and not self.has(Repeated)

    @property
    def takes_commas(self) -> bool:
        elements = [typing.get_args(kind)[0] for kind in self.kinds if typing.get_origin(kind) is tuple]
        return self.has(Commas) or any(typing.get_origin(element) is Literal for element in elements)

    def has(self, mark: type) -> bool:
        """Return whether the flag has a mark."""
        return any(isinstance(item, mark) for item in self.marks)

    @property
    def value_name(self) -> str:
        """The name of the value in the help: the metavar, the choices, or the name of the type."""
        if items := next((mark for mark in self.marks if isinstance(mark, ItemOf)), None):
            choices = "{" + ",".join(items.names()) + "}"
            return f"{choices} ..." if self.is_many else choices
        text = "PATH" if self.has(Place) else "TEXT"
        return self.metavar or "|".join(map(_name_of_type, self.kinds)).replace("TEXT", text)

    @property
    def full_help(self) -> str:
        """The description, with `required` or the default."""
        if self.default is REQUIRED:
            return f"{self.help} (required)"
        has_no_default = self.default is None or self.default in ((), {}, "") or "(default: " in self.help
        if has_no_default or (self.hint is bool and not self.has_negation):
            return self.help  # the description says what an unset flag means
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        shown = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
        return f"{self.help} (default: {' '.join(shown)})"

    def read(self, words: list[str]) -> Any:
        """Return the value that the words say.  Raises ValueError with the word and the remedy."""
        if type(None) in options_of(self.hint) and len(words) == 1 and words[0] in _NONE:
            return None
        if self.takes_commas:
            words = [name for word in words for name in word.split(",") if name]
        problems = []
        for kind in self.kinds:
            try:
                return _read(words, kind)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError("; or ".join(problems))


def parse_flags(
    flags: Sequence[Flag],
    summary: str,
    arguments: Sequence[str],
    prog: str,
    remedy_of: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Return key -> value of the flags that are given; remedy_of: of core.command.Command.

    Prints the help and raises SystemExit for -h or --help.  Raises UserError with each wrong flag and its remedy.
    """
    if {"-h", "--help"} & {*arguments}:
        print(help_text(flags, summary, prog))
        raise SystemExit(0)
    refuse_blanks(arguments)
    pointer = f"; {prog} --help lists the flags"
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in flags:
        if not flag.is_positional:
            parser.add_argument(flag.word, dest=flag.key, default=argparse.SUPPRESS, **_parsing(flag))
    try:
        namespace, rest = parser.parse_known_args([_with_hyphens(word) for word in arguments])
    except argparse.ArgumentError as error:
        name = (error.argument_name or "").partition("/")[0]
        state = "has no value; give one" if "expected" in error.message else "takes no value"
        raise UserError(f"{name} {state}{pointer}") from error
    words = vars(namespace)
    problems = list(_assign(rest, flags, words, pointer, remedy_of))
    missing = [flag for flag in flags if flag.default is REQUIRED and flag.key not in words]
    problems += [f"{flag.label} is missing: {flag.help.rstrip('.')}{pointer}" for flag in missing]
    values = {}
    for flag in flags:
        if flag.key in words:
            try:
                values[flag.key] = words[flag.key] if flag.hint is bool else flag.read(words[flag.key])
            except ValueError as error:
                problems.append(f"{flag.word} {error}{pointer}")
    if problems:
        raise UserError(problems)
    return values


def refuse_blanks(arguments: Sequence[str]) -> None:
    """Raise UserError for each --set KEY VALUE, which is two words in place of one."""
    triples = zip(arguments, arguments[1:], arguments[2:], strict=False)
    problems = [
        f"--set {key} {value}: has a blank in place of =; write --set {key}={value.removeprefix('=')}"
        for word, key, value in triples
        if word == "--set" and "=" not in key and not _is_flag(value)
    ]
    if problems:
        raise UserError(problems)


def _parsing(flag: Flag) -> dict[str, Any]:
    """Return how argparse collects the words of a flag."""
    if flag.hint is bool:
        return {"action": argparse.BooleanOptionalAction if flag.has_negation else "store_true"}
    if flag.has(Repeated):
        return {"action": "append"}
    return {"nargs": "*" if flag.is_many else 1}


def _with_hyphens(word: str) -> str:
    """Return --from_run as --from-run; values stay."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _assign(
    rest: Sequence[str],
    flags: Sequence[Flag],
    words: dict[str, list[str]],
    pointer: str,
    remedy_of: Callable[[str], str] | None,
) -> Iterator[str]:
    """Give the words that belong to no flag to the positional arguments; yield a problem for each word too many."""
    known = [word for flag in flags if not flag.is_positional for word in flag.words]
    free = []
    for previous, word in itertools.pairwise(["", *rest]):
        if _is_flag(word):
            name = word.partition("=")[0]
            near = difflib.get_close_matches(name, known, n=1)
            remedy = remedy_of(name) if remedy_of is not None else ""
            yield f"unknown flag {word!r}{remedy or (f'; did you mean {near[0]}?' if near else pointer)}"
        elif not _is_flag(previous) or "=" in previous:  # else the value of an unknown flag
            free.append(word)
    for flag in flags:
        if flag.is_positional and (free or (flag.is_many and flag.default is REQUIRED)):
            number = len(free) if flag.is_many else 1
            words[flag.key] = free[:number]
            free = free[number:]
    yield from (f"unknown argument {word!r}{pointer}" for word in free)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Breaks lines between words only: argparse's own breaks --dry-run after its second hyphen."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(_wrap_line(line, width) for line in text.split("\n"))


def _wrap_line(line: str, width: int) -> str:
    """Return a line of a description cut between words; what follows an indented line is indented further."""
    margin = line[: len(line) - len(line.lstrip())]
    hang = f"{margin}    " if margin else ""
    lines = textwrap.wrap(line, width, subsequent_indent=hang, break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines)


def help_text(flags: Sequence[Flag], summary: str, prog: str) -> str:
    """Return the help of a command: flags by group."""
    required = [flag.label for flag in flags if flag.default is REQUIRED and not flag.is_positional]
    positional = [
        flag.metavar if flag.default is REQUIRED else f"[{flag.metavar}]" for flag in flags if flag.is_positional
    ]
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=" ".join([prog, *positional, *required, "[OPTIONS]"]),
        description=summary,
        formatter_class=_HelpFormatter,
    )
    titles: dict[str, Any] = {OPTIONS: parser}
    for flag in flags:
        if flag.group not in titles:
            titles[flag.group] = parser.add_argument_group(f"{flag.group} options", flag.group_help or None)
        names = [flag.key] if flag.is_positional else flag.words
        how = {"action": "store_true"} if flag.hint is bool else {"metavar": flag.value_name}
        titles[flag.group].add_argument(*names, help=flag.full_help.replace("%", "%%"), **how)
    return parser.format_help().rstrip("\n")


def _name_of_type(kind: Any) -> str:
    """Return what the help calls the values of a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        return f"{_name_of_type(arguments[0])} ..."
    if origin is dict:
        return f"NAME {_METAVARS.get(arguments[1], 'VALUE')} ..."
    return _METAVARS[kind]


def _read(words: Sequence[str], kind: Any) -> Any:
    """Return the words of a flag as a value of a type.  Raises ValueError with the remedy."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return tuple(_read_value(word, arguments[0]) for word in words)
    if typing.get_origin(kind) is dict:
        if len(words) % 2:
            raise ValueError(f"{words[-1]!r}: a name without a value; give pairs, NAME VALUE")
        return {name: _read_value(word, arguments[1]) for name, word in zip(words[::2], words[1::2], strict=True)}
    if len(words) != 1:
        raise ValueError(f"{' '.join(words)!r}: must be one value")
    return _read_value(words[0], kind)


def _read_value(word: str, kind: Any) -> Any:
    """Return a word of the command line as str, int, float, bool, Path, choice, or the first of a union that fits.

    Raises ValueError with the remedy.
    """
    *others, kind = options_of(kind)
    for option in others:
        with contextlib.suppress(ValueError):
            return _read_value(word, option)
    if typing.get_origin(kind) is tuple:
        return tuple(_read_value(part, typing.get_args(kind)[0]) for part in word.split(","))
    if kind is bool or typing.get_origin(kind) is Literal:
        choices = _BOOLS if kind is bool else {str(choice): choice for choice in typing.get_args(kind)}
        if word not in choices:
            must = "true or false" if kind is bool else f"one of {', '.join(choices)}"
            raise ValueError(f"{word!r}: must be {must}")
        return choices[word]
    try:
        return kind(word)
    except ValueError as error:
        raise ValueError(f"{word!r}: must be {_TYPE_NAMES[kind]}") from error


def values_of(flag: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the values of a flag that takes one value, before all flags are parsed."""
    for word, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name == flag:
            yield value if equals else following
