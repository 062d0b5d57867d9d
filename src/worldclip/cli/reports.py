"""Commands that look and change nothing: estimate, inspect, compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldclip.core import layout
from worldclip.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EstimateCommand:
    """What other thresholds would keep, by language, before anything is written."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of a run whose stage match is finished."""
    threshold: tuple[str, ...] = ()
    """English thresholds to try, with commas or blanks between them: 20000,170K."""
    tail_fraction: tuple[str, ...] = ()
    """Tail fractions to try, likewise: 0.03,0.06."""
    pairs: str | None = None
    """How many pairs to keep (10000, 10M, 1.5B): solves for the threshold or tail fraction that the recipe sets."""
    plot: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also draw size against threshold into this .svg file and into the run's report.html."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def _estimate(command: EstimateCommand) -> int:
    from worldclip.tools.estimate import check_plot_path, estimate, to_text

    if command.plot is not None:
        check_plot_path(Path(command.plot))
    pairs = None if command.pairs is None else _read_count("--pairs", command.pairs)
    thresholds = [int(value) for value in _read_counts("--threshold", command.threshold)]
    fractions = _read_counts("--tail-fraction", command.tail_fraction)
    found = estimate(command.run, thresholds=thresholds, tail_fractions=fractions, pairs=pairs)
    if command.plot is not None:
        _plot_sizes(Path(command.run), Path(command.plot))
    print(json.dumps(found, ensure_ascii=False) if command.json else to_text(found))
    return 0


def _plot_sizes(run_dir: Path, path: Path) -> None:
    """The curve as a picture, as RUN/estimate.json, and in the run's report."""
    from worldclip.core.artifacts import write_json
    from worldclip.core.job import RunLock
    from worldclip.report import write_report
    from worldclip.tools.estimate import plot, size_curve

    with RunLock(run_dir):
        sizes = size_curve(run_dir)
        plot(sizes, path)
        write_json(layout.estimates(run_dir), sizes)
        write_report(run_dir)


def _read_counts(flag: str, words: Sequence[str]) -> list[float]:
    """The numbers of `1000,20K 3` and the like."""
    return [_read_count(flag, number) for word in words for number in word.split(",") if number]


def _read_count(flag: str, text: str) -> float:
    """10000, 10M, 1.5B as a number."""
    factors = {"K": 1e3, "M": 1e6, "B": 1e9}
    digits, factor = (text[:-1], factors[text[-1].upper()]) if text[-1:].upper() in factors else (text, 1.0)
    try:
        return float(digits) * factor
    except ValueError as error:
        raise UserError(f"{flag} is {text!r}; it is a number, K, M or B may follow, for example 10M") from error


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Why a pair was kept or dropped, what an entry is worth and why it is there, what a file holds."""

    path: Annotated[str, tyro.conf.Positional]
    """Folder of a run (with --key or --entry), its metadata folder (alone, or with --lang and --find), or a file."""
    key: str | None = None
    """Identity of a pair."""
    entry: str | None = None
    """An entry, with --lang."""
    find: str | None = None
    """In RUN/metadata: why this entry is in the list --lang, and its rank."""
    lang: str | None = None
    """Language of the entry; default for --entry: en."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def _inspect(command: InspectCommand) -> int:
    from worldclip.tools import inspect_metadata
    from worldclip.tools import inspect_run as inspect

    found: Mapping[str, Any]
    if inspect_metadata.is_metadata(Path(command.path)) and command.key is None and command.entry is None:
        found, text = inspect_metadata.inspect(Path(command.path), command.lang, command.find)
    elif command.key is not None:
        found = explained_key = inspect.inspect_key(command.path, command.key)
        text = inspect.key_to_text(explained_key)
    elif command.entry is not None:
        found = explained_entry = inspect.inspect_entry(command.path, command.entry, command.lang or "en")
        text = inspect.entry_to_text(explained_entry)
    else:
        found = inspect.inspect_path(command.path)
        text = json.dumps(found, ensure_ascii=False, indent=1, default=str)
    print(json.dumps(found, ensure_ascii=False, default=str) if command.json else text)
    return 0


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Two evaluations side by side, query by query, with the interval of each difference."""

    first: Annotated[str, tyro.conf.Positional]
    """A run, or a folder that evaluate wrote."""
    second: Annotated[str, tyro.conf.Positional]
    """Another one."""
    out: str = ""
    """Page to write (.html)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def _compare(command: CompareCommand) -> int:
    from worldclip.evaluate.compare import compare
    from worldclip.evaluate.tables import comparison_text, write_comparison

    rows = compare(Path(command.first), Path(command.second))
    if command.out:
        write_comparison(Path(command.out), rows, command.first, command.second)
    print(json.dumps(rows, ensure_ascii=False) if command.json else comparison_text(rows))
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {
    "estimate": _estimate,
    "compare": _compare,
    "inspect": _inspect,
}
