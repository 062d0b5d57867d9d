"""What a command says about its work, on standard error: standard output is for results."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape


def say(stage: str, message: str) -> None:
    """Print one line about a stage."""
    Console(stderr=True, highlight=False).print(f"[bold]{stage:>9}[/bold]  {escape(message)}", soft_wrap=True)
