"""Choose rates and batch from the hits of the pilots, as docs/ablation/expectations.md says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hits import read_hits
from plan import ARMS, BATCH_GAIN, PAIRS_BATCH, Choice, Training, batch_pilots, rate_pilots


def accuracies(path: Path) -> tuple[float, float]:
    """Return top-1 in English and in the mean of the others."""
    by_lang = read_hits(path).sets["test"].top1_LCR.mean(axis=(1, 2))
    return float(by_lang[0]), float(by_lang[1:].mean())


def choose_rates(folder: Path) -> dict[int, float]:
    """Return the best of the rates at each width."""
    return {width: best([run for run in rate_pilots() if run.width == width], folder).rate for width in widths()}


def choose(folder: Path) -> Choice:
    """Return what the pilots in a folder decide.  Raises FileNotFoundError where one is missing."""
    rates = choose_rates(folder)
    of_batches = batch_pilots(rates[64])
    usual = next(run for run in rate_pilots() if run.width == 64 and run.rate == rates[64])
    other = best(of_batches, folder)
    is_better = score(other, folder) > BATCH_GAIN * score(usual, folder)
    return Choice(rates=rates, batch=other.batch if is_better else PAIRS_BATCH)


def widths() -> list[int]:
    return [64, *ARMS["languages"]]


def best(runs: Sequence[Training], folder: Path) -> Training:
    return max(runs, key=lambda run: score(run, folder))


def score(run: Training, folder: Path) -> float:
    """Return the mean of English and others."""
    return sum(accuracies(folder / f"{run.name}.npz")) / 2
