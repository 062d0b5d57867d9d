"""Looking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from worldclip.cli.command import Command, Flags
from worldclip.core.errors import UserError
from worldclip.core.marks import Commas, Metavar
from worldclip.recipe import stage_names
from worldclip.tools import doctor, list_languages, status
from worldclip.tools.embed import embed
from worldclip.tools.search import build_index, search


@Command
def estimate(
    run: Path,
    *,
    threshold: Annotated[Sequence[str], Metavar("N"), Commas()] = (),
    tail_fraction: Annotated[Sequence[str], Metavar("FRACTION"), Commas()] = (),
    pairs: str | None = None,
    plot: Annotated[Path | None, Metavar("FILE")] = None,
) -> tuple[Any, str]:
    """Estimate by language what other thresholds would keep; write nothing.

    run: folder of a run whose stage match is finished.
    threshold: English thresholds to try, separated by commas or spaces: 20000,170K.
    tail_fraction: tail fractions to try, separated by commas or spaces: 0.03,0.06.
    pairs: number of pairs to keep (10000, 10M, 1.5B); solves for the threshold or tail fraction that the recipe sets.
    plot: also plot size against threshold into this .svg file and into the run's report.html.
    """
    from worldclip.tools import estimate

    if plot is not None:
        estimate.check_plot_path(plot)
    thresholds = [int(_read_count("--threshold", text)) for text in threshold]
    fractions = [_read_count("--tail-fraction", text) for text in tail_fraction]
    size = None if pairs is None else _read_count("--pairs", pairs)
    report = estimate.estimate(run, thresholds=thresholds, tail_fractions=fractions, pairs=size)
    if plot is not None:
        _plot_sizes(run, plot)
    return report, estimate.to_text(report)


def _plot_sizes(run_dir: Path, path: Path) -> None:
    """Write the size curve as a plot, as RUN/estimate.json, and into the run's report."""
    from worldclip.contracts import layout
    from worldclip.core.artifacts import write_json
    from worldclip.core.job import RunLock
    from worldclip.report import write_report
    from worldclip.tools.estimate import plot, size_curve

    with RunLock(run_dir):
        sizes = size_curve(run_dir)
        plot(sizes, path)
        write_json(layout.estimates(run_dir), sizes)
        write_report(run_dir)


def _read_count(flag: str, text: str) -> float:
    """Return 10000, 10M, 1.5B as a number.  Raises UserError."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1:].upper())
    try:
        return float(text) if factor is None else float(text[:-1]) * factor
    except ValueError as error:
        raise UserError(f"{flag} {text!r}: must be a number, optionally with K, M or B, for example 10M") from error


@Command
def inspect(
    path: Path,
    *,
    key: str | None = None,
    entry: str | None = None,
    find: Annotated[str | None, Metavar("WORD")] = None,
    lang: str | None = None,
) -> tuple[Any, str]:
    """Explain why a pair was kept or dropped and where an entry is from; show a file.

    path: folder of a run (alone, or with --key or --entry), its metadata folder (alone, or with --lang and --find), or
        a file.
    key: key of a pair: why it was kept or dropped.
    entry: an entry, with --lang: how often it matched, and its probability.
    find: an entry of RUN/metadata, with --lang: why it is in the list, and its rank.
    lang: language of the entry (default for --entry: en).
    """
    from worldclip.tools import inspect_metadata, inspect_run

    if inspect_metadata.is_metadata(path) and key is None and entry is None:
        return inspect_metadata.inspect(path, lang, find)
    if key is not None:
        explained_key = inspect_run.inspect_key(path, key)
        return explained_key, inspect_run.key_to_text(explained_key)
    if entry is not None:
        explained_entry = inspect_run.inspect_entry(path, entry, lang or "en")
        return explained_entry, inspect_run.entry_to_text(explained_entry)
    if (path / "recipe.toml").is_file():
        run_status = status.status(path, stage_names())
        return run_status, status.to_text(run_status)
    record = inspect_run.inspect_path(path)
    return record, json.dumps(record, ensure_ascii=False, indent=1, default=str)


@Command
def compare(runs: Sequence[Path], *, out: Path | None = None) -> tuple[Any, str]:
    """Compare evaluations query by query, with confidence intervals over images and seeds.

    runs: runs, or folders that evaluate wrote.  Runs that differ in seeds alone count as one, with several seeds.
    out: page to write (.html).
    """
    from worldclip.evaluate.compare import compare
    from worldclip.evaluate.comparison_page import comparison_text, write_comparison

    if len(runs) < 2:
        raise UserError("worldclip compare takes two or more runs")
    comparison = compare(*runs)
    if out is not None:
        write_comparison(out, comparison)
    record = {
        "arms": [{"name": arm.name, "folders": list(map(str, arm.folders))} for arm in comparison.arms],
        "rows": comparison.rows,
        "by_language": comparison.by_language,
    }
    return record, comparison_text(comparison)


def _embedded_text(report: Mapping[str, Any], flags: Flags) -> str:
    lines = []
    for kind in ("images", "texts"):
        counts = dict(report.get(kind, {}))
        if not counts:
            continue
        shown = ("shards", "pairs", "embedded", "bad")
        others = [
            f", {count:,} {name.replace('_', ' ')}" for name, count in counts.items() if name not in shown and count
        ]
        lines.append(f"{counts['embedded']:,} {kind} embedded{''.join(others)}: {flags.out}")
        lines += [f"  {sample['key']}: {sample['reason']}" for sample in counts["bad"]]
    return "\n".join(lines)


def _index_text(report: Mapping[str, Any], flags: Flags) -> str:
    rows = f"{report['rows']:,} {report['of']} are searched"
    if flags.library == "exact":
        return f"{rows} exactly; for millions use --library faiss"
    return f"{rows} by faiss, which finds {report['recall_at_10']:.1%} of the 10 nearest for a sample of its own rows"


def _hits_text(results: Sequence[Mapping[str, Any]], flags: Flags) -> str:
    lines = []
    for result in results:
        lines.append(result["query"])
        for hit in result["hits"]:
            text = f"  {hit['text']}" if "text" in hit else ""
            lines.append(f"  {hit['score']:6.3f}  {hit['key']}{text}  ({hit['shard']})")
    return "\n".join(lines)


LANGUAGES = Command(list_languages.list_languages, lambda rows, flags: list_languages.to_text(rows), ("run",))
"""List the languages with their codes, labels and entry lists."""

DOCTOR = Command(doctor.diagnose, lambda diagnosis, flags: doctor.to_text(diagnosis))
"""Check this installation: extras, devices, BLAS kernels, memory, disk."""

EMBED = Command(embed, _embedded_text, has_own_workers=True)
"""Embed the images or texts of a pool into a folder to search."""

INDEX = Command(build_index, _index_text)
"""Choose how embeddings are searched: exactly, or by an index for millions."""

SEARCH = Command(search, _hits_text, positional=("texts",))
"""Find the nearest images or texts for texts in any language and for images."""
