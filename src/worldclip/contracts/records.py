"""JSON records that a stage writes and another stage reads: one definition for both sides.

Tables and arrays have their schemas in contracts/schemas.  Counts per reason are named by contracts/reasons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired, TypeAlias, TypedDict, cast

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, read_manifest, write_json
from worldclip.core.changes import changed_keys
from worldclip.core.errors import UserError
from worldclip.core.execute.loop import CpuTime
from worldclip.core.job_files import read_record
from worldclip.core.printable import counted
from worldclip.core.regular_file import read_regular
from worldclip.core.settings import read_toml

ReasonCounts: TypeAlias = dict[str, dict[str, int]]  # {language: {reason: number}}, without zeros


# all stages

RECORDED = ("pool", "metadata", "match", "balance", "curate", "train")  # the config has keys as the recipe has them
STAGES = (*RECORDED, "evaluate", "export")
_OF_POOL_SOURCE = ("lid_model", "merge_labels", "min_lang_prob", "restrict_to_recipe_languages")
# What stages add to the keys that decide them.
NO_KEYS = {"matchers", "icu", "train.num_streams", *(f"pool.{name}" for name in _OF_POOL_SOURCE)}


def outdated_stages(run_dir: Path, recipe: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return {stage: why} of those that the recipe, or what the stages above have now, did not make, in their order.

    recipe: default RUN/recipe.toml; {} compares no keys, only what the stages have of each other.  An unfinished stage
    is not named, but what was made of it before is outdated.  Of train, config.json has config and inputs of its
    checkpoints, and what follows train is about these.
    """
    if recipe is None:
        recipe = read_toml(run_dir) if layout.recipe(run_dir).is_file() else {}
    digests: dict[str, tuple[str | None, ...]] = {}
    outdated: dict[str, str] = {}
    unfinished: dict[str, str] = {}
    for stage in STAGES:
        manifest = read_manifest(layout.stage_dir(run_dir, stage))
        record = manifest
        path = layout.train_dir(run_dir) / "config.json"
        if stage == "train" and path.exists():
            record = read_json(path)
        if record is None:
            if layout.stage_dir(run_dir, stage).is_dir():
                unfinished[stage] = f"{stage} is unfinished"
            continue
        inputs = record.get("inputs", {})
        for name, reason in {**outdated, **unfinished}.items():
            if name in inputs or name == "train":
                outdated[stage] = reason
                break
        for name, present in digests.items():
            if name in inputs and inputs[name] not in present:
                outdated.setdefault(stage, f"{name} ran again")
        if stage in RECORDED and recipe:
            for change in changed_keys(record.get("config", {}), recipe):
                if change.old is not None and change.name not in NO_KEYS:  # a key that is new to it may decide nothing
                    outdated.setdefault(stage, str(change))
        if manifest is not None:
            digests[stage] = (manifest["digest"], manifest.get("list"))
    return outdated


# run.json


def add_cpu_time(run_dir: Path, cpu_time: Mapping[str, CpuTime]) -> None:
    """Add the CPU time of a call's maps over shards to RUN/run.json, by label."""
    path = layout.run_record(run_dir)
    record = read_record(path)
    if record is None or not cpu_time:
        return
    sums = record.setdefault("cpu_time", {})
    for label, of_call in cpu_time.items():
        older = sums.get(label, {"shards": 0, "seconds": 0.0})
        seconds = round(older["seconds"] + of_call["seconds"], 3)
        sums[label] = {"shards": older["shards"] + of_call["shards"], "seconds": seconds}
    write_json(path, record)


def read_cpu_time(run_dir: Path) -> dict[str, CpuTime]:
    """Return the CPU time of the maps over shards of all calls on a run, by label."""
    cpu_time: dict[str, CpuTime] = (read_record(layout.run_record(run_dir)) or {}).get("cpu_time", {})
    return cpu_time


# pool

Skipped: TypeAlias = dict[str, str]  # {shard: why it cannot be read}; of pool.broken_shards = "skip"


def skipped_shards(run_dir: Path) -> Skipped:
    """Return the shards that the stage pool left out, and why."""
    skipped: Skipped = (read_manifest(run_dir / "pool") or {}).get("skipped", {})
    return skipped


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
    """The part of RUN/match/report.json that curate and estimate go on from: the texts and keys that match settled."""

    pairs: int
    num_keys: int
    texts: ReasonCounts  # counts of all texts; `matched` for those that go on
    keys: ReasonCounts  # counts of the keys without a match
    samples: dict[str, list[UnmatchedSample]]  # {reason: examples}
    bad: list[BadText]


class MatchReport(MatchAccounting):
    """RUN/match/report.json."""

    num_matched_texts: int
    num_matched_keys: int
    labels_without_language: dict[str, int]  # {label: number of texts}, most first
    labels_of_words: dict[str, int]  # the same of texts with letters


def read_accounting(run_dir: Path) -> MatchAccounting:
    """Return what match says of the pairs that it settled."""
    return cast(MatchAccounting, read_json(layout.stage_report(run_dir, "match")))


# balance


class ListThreshold(TypedDict):
    """The threshold of an entry list, and what it was found from."""

    threshold: int | None  # None: no entry matched
    tail_fraction: float | None
    num_entries: int
    num_matched_entries: int
    num_matches: int


class Thresholds(TypedDict):
    """RUN/balance/thresholds.json."""

    english_threshold: int | None
    tail_fraction: float | None  # the one that all lists share
    lists: dict[str, ListThreshold]


class HeadTailCurve(TypedDict):
    """Matches by rank of a list's entries, most first."""

    rank: list[int]
    matches: list[int]
    balanced: list[int]  # matches that an entry's own probability would leave
    effective_entries: list[float]  # before and after balancing


class MatchedEntry(TypedDict):
    """An entry of a list with its matches."""

    entry: str
    source: str
    matches: int
    prob: float


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


# evaluate


MAX_SCORE = 2**53  # larger integers are no float
RESULT_TYPES = {
    "dataset": str,
    "lang": str,
    "task": str,
    "n": int,
    "metrics": dict,
    "chance": dict,
    "interval_95": dict,
}
"""The keys of a record of results.jsonl that every reader needs; a folder of results may be somebody else's."""
IDENTITY_TYPES = {"digest": str, "model_digest": str, "dataset_digest": str, "protocol": dict}
"""Those that say what was measured; `digest` is of all of them, and names the record's ranks."""


def read_results(path: Path, more_types: Mapping[str, type] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Return the records of results.jsonl; none if the file is missing.  Raises UserError that names invalid lines.

    more_types: further keys that each record must have, with their types.
    """
    if not path.exists():
        return []
    records = []
    problems = []
    for number, line in enumerate(read_regular(path).splitlines(), 1):
        try:
            record = json.loads(line)
            _check_result(record, {**RESULT_TYPES, **more_types})
            records.append(record)
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number} is not a record ({error}); remove the line and rerun")
    if problems:
        raise UserError(problems)
    return records


def results_of(folder: Path) -> list[dict[str, Any]]:
    """Return the records that the numbers of a folder of results are from: those of its last finished evaluation.

    results.jsonl may hold records of further models and data; report.json names those that it was made from.  Without
    it, all records must be of one model and of one state of each dataset.  Raises UserError for a mixture, and while a
    later evaluation is unfinished.
    """
    path = folder / "results.jsonl"
    records = read_results(path, IDENTITY_TYPES)
    report = folder / "report.json"
    recorded = (read_record(report) or {}).get("records")
    if isinstance(recorded, list):
        if read_manifest(folder) is None:
            raise UserError(f"{folder} has an unfinished evaluation; finish it with its command")
        by_digest = {record["digest"]: record for record in records}
        digests = list(map(str, recorded))
        missing = set(digests) - by_digest.keys()
        if missing:
            raise UserError(
                f"{path} lacks {counted(len(missing), 'record')} that {report} was made from; evaluate again"
            )
        return [by_digest[digest] for digest in digests]
    models: dict[str, str] = {}
    states: dict[str, set[str]] = {}  # digests of each dataset
    places = set()
    for record in records:
        models[record["model_digest"]] = record.get("model", "?")
        states.setdefault(record["dataset"], set()).add(record["dataset_digest"])
        places.add((record["dataset"], record["lang"], record["task"]))
    if len(models) > 1:
        raise UserError(
            f"{path} holds an unfinished evaluation next to records of other models ({', '.join(models.values())}); "
            "finish it with its command, or evaluate each model into a folder of its own"
        )
    if max(map(len, states.values()), default=0) > 1 or len(places) < len(records):
        raise UserError(
            f"{path} holds an unfinished evaluation next to records of other data or of another protocol; finish it "
            "with its command"
        )
    return records


def _check_result(record: Any, types: Mapping[str, type]) -> None:
    """Raise ValueError for what is not a line of results.jsonl."""
    if not isinstance(record, dict):
        raise ValueError(f"it is a JSON {type(record).__name__}, not an object")
    wrong = [name for name, kind in types.items() if not isinstance(record.get(name), kind)]
    for name in ("metrics", "chance"):
        if name in wrong:
            continue
        for score in record[name].values():
            if not isinstance(score, int | float) or isinstance(score, bool) or abs(score) > MAX_SCORE:
                wrong.append(name)
                break
    if wrong:
        raise ValueError(f"{', '.join(wrong)} missing or of another type")
