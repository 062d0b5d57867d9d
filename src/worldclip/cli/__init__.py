"""The command line.  Results go to standard output, progress and problems to standard error.

Exit codes: 0 all done; 1 something failed (listed); 2 a mistake in the command or its input (each printed with key,
value, meaning and remedy); 130 Ctrl-C; 143 SIGTERM.  A command's module is imported when the command runs, so that the
overview stays fast.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from worldclip.cli.overview import ANY_MODEL, COMMANDS, commands_of, refuse_misspelt, refuse_unknown, to_text
from worldclip.contracts import layout
from worldclip.core.console import complain, set_level
from worldclip.core.errors import (
    BadShard,
    StageFailed,
    UserError,
    WorkStopped,
    describe_disk,
    disk_error,
    first_line,
    is_no_memory,
)
from worldclip.recipe import stage_names
from worldclip.train.launch import num_ranks

MAX_SHOWN = 300  # characters of a text that is refused
RESUME = "rerun the same command to resume"
UNNAMED = Path("a file")  # where a library's error names no file
REMEDIES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EROFS: "make it writable or choose another folder",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f) or choose another folder",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which docker, Slurm and systemd end a program: a command ends as after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if argv is None:
        argv = sys.argv[1:]
    try:
        with _sigterm_raises():
            return _dispatch(_choose_level(argv))
    except UserError as error:
        return _complain(error.problems, 2)
    except (BadShard, StageFailed, WorkStopped) as error:
        return _complain([str(error)], 1)
    except ImportError as error:
        return _complain([str(error)], 2)
    except UnicodeEncodeError as error:  # Arrow, JSON and pages take no name that is not UTF-8
        refused = error.object[error.start : error.end]
        if not all("\ud800" <= character <= "\udfff" for character in refused):  # stand for the bytes of such a name
            raise
        return _complain([f"{error.object[:MAX_SHOWN]!r} holds bytes that are not UTF-8; rename the file or folder"], 2)
    except BrokenPipeError:  # the reader is gone, as in `worldclip ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or else the flush at exit fails again
        return 1
    except KeyboardInterrupt as error:
        code = 143 if isinstance(error, Terminated) else 130
        return _complain([f"interrupted; {RESUME}"], code)
    except Exception as error:
        if is_no_memory(error):
            remedy = f"use fewer workers or smaller batches, then {RESUME}"
            return _complain([f"memory ran out ({first_line(error)}); {remedy}"], 1)
        failure = disk_error(error, UNNAMED) or error
        if not isinstance(failure, OSError):
            raise
        path = Path(failure.filename or UNNAMED)
        problem = f"{path}: {failure.strerror or failure}"
        if failure.errno in REMEDIES:
            if path != UNNAMED:
                problem += f"; {describe_disk(path)}"
            problem += f"; {REMEDIES[failure.errno]}, then {RESUME}"
        return _complain([problem], 1)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Raise Terminated at SIGTERM; training and `worldclip serve` have their own answers to it.

    A process of torchrun ends at once: in C++, where it waits for others, no exception would reach it.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if num_ranks() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _choose_level(arguments: Sequence[str]) -> list[str]:
    """Set what standard error shows by --quiet and --verbose, of any command; return the other arguments."""
    level = logging.INFO
    if "--quiet" in arguments:
        level = logging.WARNING
    if "--verbose" in arguments:
        if level == logging.WARNING:
            raise UserError("--quiet and --verbose exclude each other; leave out one")
        level = logging.DEBUG
    set_level(level)
    return [argument for argument in arguments if argument not in ("--quiet", "--verbose")]


def _dispatch(arguments: Sequence[str]) -> int:
    command, *words = arguments or ["--help"]
    if command in ("-h", "--help"):
        print(to_text())
        return 0
    if command == "--version":
        from worldclip.tools import doctor

        installed = doctor.describe()
        print(json.dumps(installed) if "--json" in words else doctor.to_text(installed))
        return 0
    two_words = " ".join(arguments[:2])
    is_stage = command in stage_names()
    if is_stage:
        refuse_misspelt(command, words)
    if two_words in COMMANDS.names():
        return _run_item(two_words, two_words, arguments[2:])
    for_any_model = f"{command}{ANY_MODEL}"
    if for_any_model in COMMANDS.names() and _names_model(words):
        return _run_item(for_any_model, command, words)
    if is_stage:
        from worldclip.cli.stages import run_one_stage

        return run_one_stage(command, words)
    if command in COMMANDS.names():
        return _run_item(command, command, words)
    if words and words[0] in ("-h", "--help"):
        text = commands_of(command, f"usage: worldclip {command} COMMAND ...\n")
        if text:
            print(text)
            return 0
    refuse_unknown(arguments)


def _run_item(name: str, words: str, arguments: Sequence[str]) -> int:
    """Import and run a command.  Raises UserError for an item of another package that is none.

    A command for any model takes the options of a run from its recipe.
    """
    from worldclip.cli.command import Command, run_command

    item = COMMANDS.load(name)
    if not isinstance(item, Command):
        package = COMMANDS.points()[name].dist
        assert package is not None
        raise UserError(f"command {name!r} of the package {package.name} is no worldclip.core.command.Command")
    section = None
    if name.endswith(ANY_MODEL) and arguments and layout.is_run(Path(arguments[0])):
        from worldclip.config import load_recipe

        section = getattr(load_recipe(arguments[0]), words)
    return run_command(item, words, f"{COMMANDS.summary(name)}.", arguments, config=section)


def _names_model(words: Sequence[str]) -> bool:
    """Return whether the first word is a model: no flag, no recipe, no run that is watched or has no other --out."""
    if not words or words[0].startswith("-") or words[0].endswith(".toml"):
        return False
    source = Path(words[0])
    if not layout.is_run(source):
        return True
    for word, following in itertools.pairwise([*words, ""]):
        folder = ""
        if word == "--out":
            folder = following
        elif word.startswith("--out="):
            folder = word.removeprefix("--out=")
        if folder:
            return Path(folder).resolve() != source.resolve() and not layout.is_run(Path(folder))
    return False


def _complain(problems: Sequence[str], code: int) -> int:
    complain(problems)
    return code
