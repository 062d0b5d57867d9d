"""The account of a run, from the rows of its pool to the kept pairs; and the end of a run that keeps none.

Log, status, report.html and the data card show the same steps in the same words:

    shards of the pool = broken and skipped + read         rows of skipped shards are not known
    rows of the shards = left out by pool.where + samples
    pairs of the samples = those without text, without a match, ... + those that go on
    samples or pairs (curate.text_policy) = dropped by the first reason that applies + kept
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.contracts.reasons import MATCHED, Reason
from worldclip.contracts.records import outdated_stages
from worldclip.core.artifacts import read_json, read_manifest
from worldclip.core.errors import UserError

NUM_LABELS = 3  # labels of texts without a language of the run that a line names

WORDS = {
    Reason.BAD_PAIR: "unreadable",
    Reason.DUPLICATE: "with a repeated key",
    Reason.NO_TEXT: "without text",
    Reason.NO_LANGUAGE: "without a language of the run",
    Reason.NO_MATCH: "without a match",
    Reason.NOT_VALID: "not valid or denied",
    Reason.EXCLUDED: "excluded",
    Reason.SAMPLED_OUT: "sampled out",
}
LEFT_OUT = "left out by pool.where"
SKIPPED = "broken and skipped"
OF_POOL = (Reason.BAD_PAIR, Reason.DUPLICATE, Reason.NO_TEXT)  # reasons that the pool's reader settles
REMEDIES = {
    Reason.BAD_PAIR: "texts must be UTF-8 (convert Latin-1), .json objects, image files where the table says",
    Reason.DUPLICATE: "pool.key does not tell the pairs apart; set it to a field or column that does",
    Reason.NO_TEXT: "set pool.texts to where the captions are: txt, json:FIELD or a column",
    Reason.NO_LANGUAGE: "add the languages to languages.codes, send labels to a list by match.merge_labels, or lower "
    "match.min_lang_prob if it is set",
    Reason.NO_MATCH: "compare the texts with the lists, RUN/metadata/LANG.parquet",
    Reason.NOT_VALID: "pool.valid_keys and pool.deny_keys must hold keys as pool.key makes them",
    Reason.EXCLUDED: "see curate.include and curate.exclude",
    Reason.SAMPLED_OUT: "the thresholds or curate.max_pairs are too low: worldclip estimate RUN",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of the account: how many of all go on, and why the others do not."""

    unit: str
    """shards, rows, samples or pairs."""
    verb: str
    kept: int
    total: int
    dropped: Mapping[str, int]
    """{why: number}, most frequent first, without zeros."""

    def __str__(self) -> str:
        """Return `5,814 of 8,917 pairs kept; 461 without a language of the run (th 269, ...); ...`."""
        parts = [f"{self.kept:,} of {self.total:,} {self.unit} {self.verb}"]
        parts += [f"{number:,} {why}" for why, number in self.dropped.items()]
        return "; ".join(parts)


def unit_of(text_policy: str) -> str:
    """Return what curate counts under a text policy: under `one`, a pair is drawn from each sample."""
    return "samples" if text_policy == "one" else "pairs"


def pool_steps(report: Mapping[str, Any]) -> list[Step]:
    """Return shards, rows and images of the pool.  report: the report of the stage pool."""
    num_shards = report["shards"]
    num_skipped = len(report["skipped"])
    samples = report["samples"]
    steps = [
        _step("shards", "read", num_shards, num_shards + num_skipped, {SKIPPED: num_skipped}),
        _step("rows", "are samples", samples, report["rows"], {LEFT_OUT: report["left_out"]}),
    ]
    if report["images"]:
        steps.append(_step("samples", "have an image", report["images"], samples, {}))
    return steps


def texts_step(report: Mapping[str, Any]) -> Step:
    """Return how many pairs of the pool have a text.  report: the report of the stage pool."""
    dropped = {WORDS[reason]: report[reason.label] for reason in OF_POOL}
    return _step("pairs", "have a text", report["texts"], report["pairs"], dropped)


def match_step(report: Mapping[str, Any]) -> Step:
    """Return what became of the pairs of the pool.  report: the report of match."""
    words = dict(WORDS)
    labels = report.get("labels_without_language")
    if labels:
        shown = [f"{label} {number:,}" for label, number in labels.items()]
        if len(labels) > NUM_LABELS:
            shown = [*shown[:NUM_LABELS], "..."]
        words[Reason.NO_LANGUAGE] = f"{WORDS[Reason.NO_LANGUAGE]} ({', '.join(shown)})"
    dropped = {words[reason]: number for reason, number in dropped_by_match(report).items()}
    return _step("pairs", "matched", report["num_matched_texts"], report["pairs"], dropped)


def dropped_by_match(report: Mapping[str, Any]) -> Mapping[Reason, int]:
    """Return the number of pairs by the reason for which they have no match."""
    dropped: Counter[Reason] = Counter()
    for counts in report["texts"].values():
        for name, number in counts.items():
            if name != MATCHED:
                dropped[Reason[name.upper()]] += number
    return dict(sorted(dropped.items()))


def curate_step(total: Mapping[str, Any], text_policy: str) -> Step:
    """Return what became of all samples or pairs.  total: the total of curate's report."""
    dropped = {WORDS[reason]: number for reason, number in dropped_by_curate(total).items()}
    return _step(unit_of(text_policy), "kept", total["pairs_out"], total["pairs_in"], dropped)


def dropped_by_curate(total: Mapping[str, Any]) -> Mapping[Reason, int]:
    """Return the number of samples or pairs by the reason for which they are not kept."""
    return {reason: total[reason.column] for reason in WORDS if total.get(reason.column)}


def account(run_dir: Path, curated: Mapping[str, Any] | None = None) -> list[Step]:
    """Return the steps of the stages that are finished with the present pool.

    curated: report of curate, where that is about to finish.
    """
    if read_manifest(run_dir / "pool") is None:
        return []
    report = read_json(layout.report_json(run_dir / "pool"))
    steps = pool_steps(report)
    outdated = outdated_stages(run_dir)
    if read_manifest(run_dir / "match") is None or "match" in outdated:
        if "pairs" in report:  # an earlier revision did not count them
            steps.append(texts_step(report))
        return steps
    matched = read_json(layout.report_json(run_dir / "match"))
    steps.append(match_step(matched))
    if curated is None and read_manifest(run_dir / "curate") is not None and "curate" not in outdated:
        curated = read_json(layout.report_json(run_dir / "curate"))
    if curated is None:
        return steps
    return [*steps, curate_step(curated["total"], curated["text_policy"])]


def _step(unit: str, verb: str, num_kept: int, total: int, dropped: Mapping[str, int]) -> Step:
    without_zeros = +Counter(dropped)
    return Step(unit=unit, verb=verb, kept=num_kept, total=total, dropped=dict(without_zeros.most_common()))


def refuse_nothing(num_kept: int, summary: str, dropped: Mapping[Reason, int]) -> None:
    """Raise UserError if nothing is kept, with the remedy for the largest reason."""
    if num_kept == 0 and dropped:
        largest = max(dropped, key=dropped.__getitem__)
        raise UserError(f"{summary}; {REMEDIES[largest]}")
