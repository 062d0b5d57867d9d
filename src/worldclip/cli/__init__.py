"""The command line.  Results go to standard output, progress and problems to standard error.

Exit codes: 0 all done; 1 something failed (listed); 2 a mistake in the command or its input (each printed with key,
value, meaning and remedy); 130 Ctrl-C.  A command's module is imported when the command runs, so that the overview
stays fast.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldclip.cli.overview import (
    ANY_MODEL,
    COMMANDS,
    commands_of,
    refuse_misspelt,
    refuse_unknown,
    summary_of,
    to_text,
)
from worldclip.contracts import layout
from worldclip.core.console import set_level
from worldclip.core.errors import BadShard, StageFailed, UserError, disk_error
from worldclip.core.redact import redact
from worldclip.recipe import stage_names

if TYPE_CHECKING:
    from worldclip.cli.command import Command
    from worldclip.core.settings import Config

RESUME = "rerun the same command to resume"
REMEDIES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EROFS: "make it writable or choose another folder",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(_choose_level(arguments))
    except UserError as error:
        return _complain(error.problems, 2)
    except (BadShard, StageFailed) as error:
        return _complain([str(error)], 1)
    except ImportError as error:
        return _complain([str(error)], 2)
    except BrokenPipeError:  # the reader is gone, as in `worldclip ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or else the flush at exit fails again
        return 1
    except KeyboardInterrupt:
        return _complain([f"interrupted; {RESUME}"], 130)
    except Exception as error:
        failure = disk_error(error, Path("a file")) or error
        if not isinstance(failure, OSError):
            raise
        remedy = f"; {REMEDIES[failure.errno]}, then {RESUME}" if failure.errno in REMEDIES else ""
        return _complain([f"{failure.filename or 'a file'}: {failure.strerror or failure}{remedy}"], 1)


def _choose_level(arguments: Sequence[str]) -> list[str]:
    """Set what standard error shows by --quiet and --verbose, of any command; return the other arguments."""
    levels = {"--quiet": logging.WARNING, "--verbose": logging.DEBUG}
    named = [argument for argument in arguments if argument in levels]
    if len(set(named)) > 1:
        raise UserError("--quiet and --verbose exclude each other; leave out one")
    set_level(levels[named[0]] if named else logging.INFO)
    return [argument for argument in arguments if argument not in levels]


def _dispatch(arguments: Sequence[str]) -> int:
    command, *rest = arguments or ["--help"]
    if command in ("-h", "--help"):
        print(to_text())
        return 0
    if command == "--version":
        from worldclip.tools.doctor import version_text

        print(version_text(as_json="--json" in rest))
        return 0
    if command in stage_names():
        refuse_misspelt(command, rest)
    names = [(" ".join(arguments[:2]), 2)]
    if command not in stage_names():
        names.append((command, 1))
    elif _names_model(rest):
        names.append((f"{command}{ANY_MODEL}", 1))
    for name, num_words in names:
        if name in COMMANDS.names():
            config = _section_of_run(command, rest) if name.endswith(ANY_MODEL) else None
            words = " ".join(arguments[:num_words])
            return _load(name).run(words, f"{summary_of(name)}.", arguments[num_words:], config=config)
    if command in stage_names():
        from worldclip.cli.stages import run_one_stage

        return run_one_stage(command, rest)
    if rest and rest[0] in ("-h", "--help") and (lines := commands_of(command)):
        print("\n".join([f"usage: worldclip {command} COMMAND ...", "", *lines]))
        return 0
    refuse_unknown(arguments)


def _load(name: str) -> Command:
    """Import a command.  Raises UserError for an item of another package that is none."""
    from worldclip.cli.command import Command

    item = COMMANDS.load(name)
    if not isinstance(item, Command):
        origin = COMMANDS.origins()[name][0]
        raise UserError(f"command {name!r} of the package {origin.package} is no worldclip.cli.command.Command")
    return item


def _names_model(rest: Sequence[str]) -> bool:
    """Return whether the first word is a model: no flag, no recipe, no run that is watched or has no other --out."""
    if not rest or rest[0].startswith("-") or rest[0].endswith(".toml") or "--watch" in rest:
        return False
    source, out = Path(rest[0]), _out_of(rest)
    if not layout.is_run(source):
        return True
    return out is not None and out.resolve() != source.resolve() and not layout.is_run(out)


def _out_of(rest: Sequence[str]) -> Path | None:
    """Return the value of --out."""
    for word, following in zip(rest, [*rest[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--out":
            return Path(value if equals else following)
    return None


def _section_of_run(stage: str, rest: Sequence[str]) -> Config | None:
    """Return a stage's section of the run that the first word names, None for another model."""
    if not rest or not layout.is_run(Path(rest[0])):
        return None
    from worldclip.config import load_recipe

    section: Config = getattr(load_recipe(rest[0]), stage)
    return section


def _complain(problems: Sequence[str], code: int) -> int:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    for problem in problems:
        console.print(f"[bold red]worldclip:[/bold red] {escape(redact(problem))}", soft_wrap=True)
    return code
