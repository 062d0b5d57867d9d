"""Messages of a command about its work, on standard error: standard output is for results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worldclip.core.errors import naming
from worldclip.core.printable import printable
from worldclip.core.redact import redact

LOGGER = logging.getLogger("worldclip.console")
BAR_WIDTH = 18
"""A bar, its numbers and its times fit into 80 columns."""
LOG_FORMAT = "%(asctime)s  %(stage)9s  %(message)s"


class _ToTerminal(logging.Handler):
    """Print records on standard error, as it is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        _print_line(f"{record.__dict__['stage']:>9}  ", record.getMessage())


class _ToFile(logging.FileHandler):
    """Append records to a file; raise an OSError that names it where its disk is full."""

    def emit(self, record: logging.LogRecord) -> None:
        with naming(Path(self.baseFilename)):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error of an `emit`; logging itself would print its traceback and go on."""
        raise


def _print_line(head: str, message: str, style: str = "bold") -> None:
    """Print a message after its head: one line in a file, on a terminal cut between words and never within a flag."""
    from rich.console import Console  # not at the top: `worldclip --help` needs only the level
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble((head, style), message), soft_wrap=not console.is_terminal)


_TERMINAL = _ToTerminal(logging.INFO)
LOGGER.addHandler(_TERMINAL)
LOGGER.setLevel(logging.DEBUG)
LOGGER.propagate = False


def set_level(level: int) -> None:
    """Choose what standard error shows: logging.WARNING for nothing, INFO, or DEBUG for each shard too."""
    _TERMINAL.setLevel(level)


def is_quiet() -> bool:
    """Return whether standard error shows neither lines nor bars."""
    return _TERMINAL.level > logging.INFO


def say(stage: str, message: str, *, is_detail: bool = False) -> None:
    """Print one line about a stage, without credentials and control characters; details only under --verbose.

    A run's log file has them all.
    """
    level = logging.DEBUG if is_detail else logging.INFO
    LOGGER.log(level, "%s", printable(redact(message)), extra={"stage": stage})


def note(text: str) -> None:
    """Print a line about a result to standard error, whatever the level."""
    _print_line("", printable(redact(text)))


def complain(problems: Iterable[str]) -> None:
    """Print each problem to standard error, whatever the level."""
    for problem in problems:
        _print_line("worldclip: ", printable(redact(problem)), "bold red")


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append all lines, with their time, to a file.  Raises OSError that names it where its disk is full."""
    handler = _ToFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        with naming(path):
            handler.close()


@contextmanager
def progress_bar(label: str, total: int, *, is_shown: bool, num_done: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar on standard error; yields what advances it by a number of items, with a note behind their number."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description:>9}"),
        progress.BarColumn(BAR_WIDTH),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), disable=not is_shown or is_quiet()) as bar:
        task = bar.add_task(label, total=total, completed=num_done, note="")

        def advance(number: int, note: str = "") -> None:
            bar.update(task, advance=number, note=note)

        yield advance
