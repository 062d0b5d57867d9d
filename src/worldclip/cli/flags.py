"""Flags that many commands take, and what they all do with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from worldclip.core import layout
from worldclip.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Work:
    executor: Annotated[str, tyro.conf.arg(metavar="local|ray[:ADDRESS]")] = "local"
    """local (processes of this machine), ray (the cluster at RAY_ADDRESS, else one started here) or ray:ADDRESS."""
    workers: int | None = None
    """Shards at a time; default: one a core."""


@dataclass(frozen=True, kw_only=True)
class Common(Work):
    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe (.toml) or folder of a run."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the run; default: the run given, or runs/<name of the recipe>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """section.key=value, over the recipe; may be repeated (none: back to the default)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the reports of the stages as JSON."""


def executor_of(command: Work) -> Any:
    from worldclip.core.execute import create_executor

    return create_executor(command.executor, command.workers)


def read_part(text: str) -> slice:
    """--shards, I/N, as every N-th of a list, from the I-th on."""
    index, _, number = text.partition("/")
    if not (index.isdigit() and number.isdigit() and 1 <= int(index) <= int(number)):
        raise UserError(f"--shards is {text!r}; it is I/N, the I-th of N equal parts, I from 1 to N, for example 3/16")
    return slice(int(index) - 1, None, int(number))


def run_folder_of(command: Common) -> Path:
    from worldclip.recipe import run_folder

    return run_folder(command.recipe, command.out)


def print_results(run_dir: Path, stages: Sequence[str], as_json: bool) -> None:
    if as_json:
        reports = {stage: read_report(run_dir / stage) for stage in stages}
        print(json.dumps({"run": str(run_dir), "stages": reports}, ensure_ascii=False))
        return
    table = layout.results_table(run_dir)
    if "evaluate" in stages and table.exists():
        print(table.read_text(encoding="utf-8"))
    if (layout.report_html(run_dir)).exists():
        Console(stderr=True, highlight=False).print(f"report: {run_dir / 'report.html'}", soft_wrap=True)


def read_report(folder: Path) -> Any:
    path = folder / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
