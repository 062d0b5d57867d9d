"""What a command says about its work, on standard error: standard output is for results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from worldclip.core.redact import redact


def say(stage: str, message: str) -> None:
    """Print one line about a stage, without the credentials in its addresses."""
    text = f"[bold]{stage:>9}[/bold]  {escape(redact(message))}"
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


@contextmanager
def progress_bar(label: str, total: int, *, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error; yields what advances it by a number of items."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), disable=not is_shown) as bar:
        task = bar.add_task(label, total=total)
        yield lambda number: bar.advance(task, number)
