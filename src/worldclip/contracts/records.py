"""JSON records that match, balance, curate and evaluate write and others read: one definition for both sides.

Tables and arrays have their schemas in contracts/schemas.  Counts per reason are named by contracts/reasons.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypeAlias, TypedDict, cast

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.core.job import Record

ReasonCounts: TypeAlias = dict[str, dict[str, int]]  # {language: {reason: number}}, without zeros


# match


class BadText(TypedDict):
    """A text that cannot be read, as an example."""

    key: str
    text_idx: int
    reason: str  # why, in words
    shard: NotRequired[str]


class UnmatchedSample(TypedDict):
    """A text without a language or without a match, as an example."""

    number: float  # samples of all shards are chosen by the smallest of these
    shard: str
    key: str
    text_idx: int
    text: str
    lang: str
    label: str
    lang_prob: float


class MatchAccounting(TypedDict):
    """RUN/match/accounting.json: what match says of the texts and keys that it settled, for curate and estimate."""

    pairs: int
    num_keys: int
    texts: ReasonCounts  # counts of all texts; `matched` for those that go on
    keys: ReasonCounts  # counts of the keys without a match
    samples: dict[str, list[UnmatchedSample]]  # {reason: examples}
    bad: list[BadText]


def read_accounting(run_dir: Path) -> MatchAccounting:
    """Read what match says of the pairs that it settled.  Raises UserError for a match without it."""
    path = layout.match_accounting(run_dir)
    if not path.is_file():
        raise UserError(
            f"{path} is missing (an older worldclip wrote this match); run: worldclip run {run_dir} --from match"
        )
    return cast(MatchAccounting, read_json(path))


class MatchReport(MatchAccounting):
    """RUN/match/report.json."""

    num_matched_texts: int
    num_matched_keys: int
    labels_without_language: dict[str, int]
    labels_of_words: dict[str, int]
    """Of these, texts that are likely to be of the label's language: no file names."""


# balance


class ListBalance(TypedDict):
    """One list of entries in RUN/balance/thresholds.json."""

    threshold: int | None  # None for a list without a match
    tail_fraction: float
    num_entries: int
    num_matched_entries: int
    num_matches: int


class Thresholds(TypedDict):
    """RUN/balance/thresholds.json."""

    english_threshold: int | None
    tail_fraction: float | None
    lists: dict[str, ListBalance]


class HeadTailCurve(TypedDict):
    """Matches of a list's entries by rank, 1 = the most frequent entry."""

    rank: list[int]
    matches: list[int]
    balanced: list[int]
    effective_entries: list[float]  # before and after


class TopEntry(TypedDict):
    """A frequent entry."""

    entry: str
    source: str
    matches: int
    prob: float


class BalanceReport(Thresholds):
    """RUN/balance/report.json."""

    warnings: list[str]
    curves: dict[str, HeadTailCurve]
    top_entries: dict[str, list[TopEntry]]


# curate


class PairCounts(TypedDict):
    """A row of curate's report: pairs_in is the sum of all reasons and pairs_out."""

    pairs_in: int
    bad_pair: int
    duplicate: int
    no_text: int
    no_language: int
    no_match: int
    not_valid: int
    excluded: int
    sampled_out: int
    pairs_out: int
    expected_pairs: float


class Cap(TypedDict):
    """A language over its cap."""

    max_pairs: int | None
    factor: float  # on the probabilities of its texts


class SampledCurve(TypedDict):
    """Matches of a list's entries in the pool and among the kept texts, by rank in the pool."""

    rank: list[int]
    matches: list[float]
    kept: list[float]
    effective_entries: list[float]  # before and after


class SampleEntry(TypedDict):
    """An entry of a text that is shown as an example."""

    entry_id: int
    prob: float
    entry: NotRequired[str]
    matches: NotRequired[int]


class CurateSample(TypedDict):
    """A matched text as an example of what was kept or dropped."""

    number: float
    key: str
    text_idx: int
    text: str
    lang: str
    keep_prob: float
    coin: float
    list: str
    entries: list[SampleEntry]


Samples: TypeAlias = dict[str, Sequence[CurateSample | UnmatchedSample | BadText]]
"""{column of the reason: examples}."""


class CurateReport(TypedDict):
    """RUN/curate/report.json."""

    text_policy: str
    languages: dict[str, PairCounts]
    total: PairCounts
    caps: dict[str, Cap]
    num_keys_in_list: int | None  # keys in keys.npy; None without that file
    effect: dict[str, SampledCurve]  # {list: matches before and after sampling}
    samples: Samples
    tars: NotRequired[dict[str, int]]  # {samples, no_image, cut_image}
    parquet: NotRequired[dict[str, int]]  # {rows}


# evaluate


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the records of results.jsonl; none if the file is missing.  Raises UserError for an invalid line."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}:{number} is not a record ({error}); remove the line and rerun") from error
    return records


Metrics = dict[str, float]


class Slice(TypedDict):
    """The metrics of a part of a dataset: a country, an income, head or tail."""

    n: int
    metrics: Metrics


class LanguageResult(TypedDict):
    n: int
    metrics: Metrics
    chance: Metrics
    interval_95: dict[str, list[float]]
    slices: NotRequired[dict[str, Slice]]
    num_classes: NotRequired[int]


class Mean(TypedDict):
    """Means over the languages named; metrics of a slice are called slice/metric."""

    languages: list[str]
    metrics: Metrics
    chance: Metrics


class Headline(TypedDict):
    """One number that stands for a task."""

    metric: str
    value: float
    languages: list[str]
    interval_95: list[float] | None
    chance: float | None
    n: int | None


class TaskResult(TypedDict):
    mean: Mean
    languages: dict[str, LanguageResult]
    headlines: list[Headline]
    is_averaged: bool
    """Whether the mean over languages is a meaningful number."""
    is_share: bool
    """Whether metrics are shares, shown in percent, and not distances."""
    plotted: NotRequired[str]
    """The metric that is plotted by language."""


class DatasetResult(TypedDict):
    about: NotRequired[str]
    """The content of the dataset in one sentence."""
    num_images: int
    num_bad_images: int
    tasks: dict[str, TaskResult]


class PublishedRow(TypedDict):
    """Our number next to a published one, in percent; None for a missing one."""

    figure: NotRequired[str]
    title: str
    ours_pct: float | None
    published_pct: float | None
    difference_pct: float | None
    differs: bool
    """By more than evaluate.suites allows."""
    languages: NotRequired[list[str]]
    over: NotRequired[str]
    """The languages in short."""
    missing: NotRequired[list[str]]
    """Datasets of a suite."""
    source: str | None
    is_secondary: bool
    protocol: str


class Names(TypedDict):
    """The right name of an image and the model's best ones: name, score, is_right."""

    truth: str
    best: Sequence[Record]


class GalleryImage(TypedDict):
    dataset: str
    key: str
    image: str  # data: URI
    names: dict[str, Names]


class EvaluateReport(TypedDict):
    """The part of evaluate's report.json that the page shows."""

    model: str
    datasets: dict[str, DatasetResult]
    gallery: list[GalleryImage]
    protocol: NotRequired[str]
    """How images became pixels, and who wins a tie."""
    suite: NotRequired[Record]
    """name, mean over its datasets (None if some are missing), missing."""
    held_out: NotRequired[list[Record]]
    """Rows of evaluate.report.held_out_combinations."""
    published: NotRequired[Record]
    """against, rows: a list of PublishedRow."""
