"""`worldclip pool check`: from a pool to its valid keys, every removal with its reason, and a report.

In order: look at the images; run the models; judge each pair alone; find duplicates among what is left; write.  Each
step is a map over shards (or search units), so an interrupted check goes on where it stopped, and a changed rule
repeats only the steps from its own on.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.against import EvaluationSets, hash_sets
from worldclip.check.config import CheckConfig, ImageRules
from worldclip.check.deny import read_deny_lists
from worldclip.check.duplicates import DUPLICATES, find_duplicates
from worldclip.check.images import COUNTS, HashKind, look_at_pool_shard
from worldclip.check.models import run_models, write_faces
from worldclip.check.pair_rules import ELSEWHERE, JudgeWork, judge_shard, judged_path
from worldclip.check.report import write_report
from worldclip.check.text_rules import phrase_matcher
from worldclip.check.write import final_path, merge_texts, write_rows, write_tars
from worldclip.core import settings
from worldclip.core.artifacts import (
    REMOVED,
    REMOVED_TEXTS,
    VALID_KEYS,
    digest,
    fingerprint,
    read_table,
    write_table,
)
from worldclip.core.coin import hash_keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, add_counts
from worldclip.core.job import ALL_SHARDS, Job, Result, Run, RunLock, remove_stale
from worldclip.core.reasons import Reason
from worldclip.core.settings import to_dict
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.config import LanguagesConfig
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import format_of

UNUSABLE = (Reason.BAD_PAIR.label, Reason.NO_TEXT.label)  # counted by match too, whatever the valid keys say


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> CheckConfig:
    """CheckConfig from a TOML file or nested dicts, with `key=value` overrides; UserError with every problem."""
    loaded: CheckConfig = settings.load_config(CheckConfig, source, overrides)
    return loaded


def check(
    pool: PoolConfig | Run, out: str | Path, config: CheckConfig | None = None, *, executor: Executor | None = None
) -> dict[str, Any]:
    """Check a pool into the folder `out`: valid_keys.parquet (for pool.valid_keys), removed.parquet,
    removed_texts.parquet, report.json, report.html and the manifest.  Return the report.

    pool: where the pairs are, or the context of a run or .toml with such a section (pool.open_pool).
    Raises UserError for mistakes in the config, StageFailed if shards failed.
    """
    work = _plan(pool, Path(out), config, executor)
    record = {"pool": to_dict(work.pool), "lid_model": work.lid_model, "check": to_dict(work.config)}
    return Job("check", work.folder, record, lambda: work.inputs).run_once(lambda: _check(work))


def look_at_shards(
    pool: PoolConfig | Run,
    out: str | Path,
    part: slice,
    config: CheckConfig | None = None,
    *,
    executor: Executor | None = None,
) -> int:
    """Do what costs most of a check, reading images and running models, for some of the pool's shards alone.

    Safe beside calls for other shards; `check` then finishes.  Return the number of shards.  Raises as check.
    """
    work = _plan(pool, Path(out), config, executor, part)
    if not looks_at_images(work.config):
        raise UserError("--shards with rules that look at no image: run the check at once, without --shards")
    with RunLock(work.folder, is_shared=True):
        if _look(work)["images"]:
            run_models(work.config, work.pool, work.folder, work.shards, work.executor)
    say("check", f"{len(work.shards):,} shards scanned. Rerun without --shards to finish.")
    return len(work.shards)


@dataclass(frozen=True, slots=True)
class _Work:
    pool: PoolConfig
    lid_model: str
    config: CheckConfig
    folder: Path
    kind: HashKind
    shards: list[Shard]
    executor: Executor
    inputs: dict[str, Any]
    sets: EvaluationSets


def _plan(
    pool: PoolConfig | Run,
    folder: Path,
    config: CheckConfig | None,
    executor: Executor | None,
    part: slice = ALL_SHARDS,
) -> _Work:
    run = pool if isinstance(pool, Run) else Run.of(folder, pool)
    rules = config or CheckConfig()
    sets = EvaluationSets.of(rules, run.section(EvaluateConfig), run.dir)
    _refuse_mistakes(rules, sets)
    kind = HashKind.of(rules)
    shards = pools.shards(run, part)
    tables = [shard.name for shard in shards if not format_of(shard.name).has_images]
    if tables and rules.write == "tars":
        raise UserError(f'write = "tars" with {tables[0]}: only tars hold images; use write = "keys"')
    return _Work(
        pool=run.section(PoolConfig),
        lid_model=run.section(LanguagesConfig).lid_model,
        config=rules,
        folder=folder,
        kind=kind,
        shards=shards,
        executor=executor or LocalExecutor(),
        inputs=_inputs(shards, rules, sets, kind),
        sets=sets,
    )


def _refuse_mistakes(config: CheckConfig, sets: EvaluationSets) -> None:
    """Every mistake at once, before any work: values, files that are not there."""
    problems = config.problems()
    files = {
        "texts.deny_phrases": config.texts.deny_phrases,
        **{f"deny.{name}": getattr(config.deny, name) for name in ("keys", "urls", "hosts")},
        **{f"classifiers.{name}.path": (rule.path,) for name, rule in config.classifiers.items() if rule.path},
        "faces.path": (config.faces.path,) if config.faces.path else (),
    }
    for setting, paths in files.items():
        problems += [f"{setting} names {path!r}, which is no file" for path in paths if not Path(path).is_file()]
    problems += sets.problems()
    if problems:
        raise UserError(problems)
    read_deny_lists(config.deny)
    if config.texts.deny_phrases:
        phrase_matcher(config.texts.deny_phrases)


def _inputs(shards: Sequence[Shard], config: CheckConfig, sets: EvaluationSets, kind: HashKind) -> dict[str, Any]:
    named = (*config.texts.deny_phrases, *config.deny.keys, *config.deny.urls, *config.deny.hosts)
    models = [rule.path for rule in config.classifiers.values()] + ([config.faces.path] if config.faces.path else [])
    return {
        "shards": {shard.name: shard.fingerprint for shard in shards},
        "files": {file: fingerprint(Path(file), Path(file).parent) for file in (*named, *models)},
        "against": sets.known(),
        "hash": kind.name,
    }


def looks_at_images(config: CheckConfig) -> bool:
    """Whether any rule asks for an image; a check of texts and addresses alone decodes nothing."""
    rules = config.images != ImageRules() or config.classifiers or config.faces.path or config.reference_sets
    return bool(rules) or config.duplicates != "keep"


def _check(work: _Work) -> Result:
    config, folder = work.config, work.folder
    images = dict.fromkeys(COUNTS, 0)
    if looks_at_images(config):
        images = _look(work)
        hash_sets(work.sets, work.inputs["against"], work.kind, folder / "against", work.executor)
    has_images = images["images"] > 0
    if has_images:
        run_models(work.config, work.pool, folder, work.shards, work.executor)
    judged = _judge(work, has_images)
    elsewhere = _remove_elsewhere(work)
    duplicates, histogram = DUPLICATES.empty_table(), list[int]()
    if has_images and config.duplicates != "keep":
        duplicates, histogram = find_duplicates(folder, work.shards, config, work.kind, work.executor)
    counts = _write_lists(work, duplicates)
    if has_images and config.faces.path:
        write_faces(folder, work.shards)
    if config.merge_texts:
        merge_texts(folder, work.shards, work.pool)
    if config.write == "tars":
        counts["written"] = write_tars(config, work.pool, folder, work.shards, work.executor)
    _remove_stale(work)
    rejected, num_texts = Counter[str](), 0
    for report in judged:
        rejected.update(report["rejected_texts"])
        num_texts += report["texts"]
    report = {
        "counts": counts,
        "images": images,
        "texts": {"read": num_texts, "rejected": dict(sorted(rejected.items()))},
        "keys_in_several_shards": elsewhere,
        "duplicate_groups": pc.count_distinct(duplicates["other_key"]).as_py(),
        "pairs_by_distance": histogram,
        "radius": config.radius,
        "against": {**config.against, **dict.fromkeys(config.against_datasets, "dataset of evaluate")},
    }
    write_report(folder, report, work.sets.readers())
    return Result(report=report, counts=counts)


def _look(work: _Work) -> dict[str, int]:
    work.kind.require_model()
    look = functools.partial(look_at_pool_shard, pool=work.pool, folder=work.folder, kind=work.kind)
    key = {"key": work.pool.key, "hash": work.kind.name}
    reports = work.executor.map(look, work.shards, label="images", done_dir=work.folder / "done/images", key=key)
    return add_counts(reports, COUNTS)


def _judge(work: _Work, has_images: bool) -> Sequence[Report]:
    judge = JudgeWork(
        pool=work.pool,
        config=work.config,
        folder=work.folder,
        kind=work.kind,
        lid_model=work.lid_model,
        references=digest(work.inputs["against"]),
        has_images=has_images,
    )
    decides = {name: value for name, value in work.inputs.items() if name != "shards"}
    key = {"pool": to_dict(work.pool), "check": to_dict(work.config), "images": has_images, "inputs": decides}
    fn = functools.partial(judge_shard, work=judge)
    return work.executor.map(fn, work.shards, label="judge", done_dir=work.folder / "done/judged", key=key)


def _remove_elsewhere(work: _Work) -> int:
    """A key that a rule removes in one shard goes in every shard, before duplicates are looked for: keys are a set.

    Returns how many keys occur in several shards.
    """
    hashes, is_removed = [], []
    for shard in work.shards:
        judged = read_table(judged_path(work.folder, shard), REMOVED, ["key", "rule"])
        rule = judged["rule"].cast(pa.string())
        hashes.append(hash_keys(judged["key"]))
        is_removed.append(pc.is_valid(rule).to_numpy() & ~pc.is_in(rule, pa.array(UNUSABLE)).to_numpy())
    everywhere = np.concatenate(hashes)
    values, counts = np.unique(everywhere, return_counts=True)
    several = values[counts > 1]
    gone = np.intersect1d(several, everywhere[np.concatenate(is_removed)])
    for shard, of_shard in zip(work.shards, hashes, strict=True):
        again = np.isin(of_shard, gone)
        if again.any():
            judged = read_table(judged_path(work.folder, shard), REMOVED)
            again &= pc.is_null(judged["rule"]).to_numpy()
            rule = pc.if_else(pa.array(again), ELSEWHERE, judged["rule"].cast(pa.string()))
            write_table(judged_path(work.folder, shard), judged.set_column(2, "rule", rule), REMOVED)
    return len(several)


def _write_lists(work: _Work, duplicates: pa.Table) -> dict[str, Any]:
    """valid_keys, removed and removed_texts, in order of shards; returns pairs in, by rule, by language and valid."""
    rules: Counter[str] = Counter()
    by_lang: dict[str, Counter[str]] = {}
    bounds = np.searchsorted(duplicates["shard"].to_numpy(), np.arange(len(work.shards) + 1))
    for shard, start, stop in zip(work.shards, bounds[:-1], bounds[1:], strict=True):
        final = _with_duplicates(work.folder, shard, duplicates.slice(start, stop - start))
        for row in final.group_by(["rule", "lang"]).aggregate([([], "count_all")]).to_pylist():
            rules[row["rule"] or "valid"] += row["count_all"]
            by_lang.setdefault(row["lang"], Counter())[row["rule"] or "valid"] += row["count_all"]
    folder = work.folder
    rows = functools.partial(_read_final, folder, work.shards)
    rejected = (read_table(folder / "removed_texts" / f"{shard.name}.parquet", REMOVED_TEXTS) for shard in work.shards)
    write_rows(folder / "valid_keys.parquet", VALID_KEYS, rows(is_valid=True))
    write_rows(folder / "removed.parquet", REMOVED, rows(is_valid=False))
    write_rows(folder / "removed_texts.parquet", REMOVED_TEXTS, rejected)
    return {
        "pairs_in": sum(rules.values()),
        "valid": rules.pop("valid", 0),
        "removed": dict(sorted(rules.items())),
        "by_language": {lang: dict(sorted(found.items())) for lang, found in sorted(by_lang.items())},
    }


def _read_final(folder: Path, shards: Sequence[Shard], is_valid: bool) -> Iterator[pa.Table]:
    for shard in shards:
        final = read_table(final_path(folder, shard), REMOVED)
        yield final.filter(pc.equal(pc.is_null(final["rule"]), is_valid))


def _with_duplicates(folder: Path, shard: Shard, duplicates: pa.Table) -> pa.Table:
    """Write final/<shard>.parquet: the verdicts of a shard with its duplicates removed."""
    judged = read_table(judged_path(folder, shard), REMOVED)
    if len(duplicates):
        keys = judged["key"].combine_chunks()
        rows = pc.index_in(duplicates["key"].cast(keys.type), keys).combine_chunks().to_numpy()
        goes, in_order = np.zeros(len(judged), bool), duplicates.take(pa.array(np.argsort(rows)))
        goes[rows] = True
        for name, kind in (("rule", pa.string()), ("other_key", pa.string()), ("distance", pa.int16())):
            old, new = (table[name].cast(kind).combine_chunks() for table in (judged, in_order))
            column = pc.replace_with_mask(old, pa.array(goes), new)
            judged = judged.set_column(judged.column_names.index(name), name, column)
    write_table(final_path(folder, shard), judged, REMOVED)
    return judged


def _remove_stale(work: _Work) -> None:
    """Files of shards that are no longer in the pool."""
    scores = [f"scores/{name}" for name in work.config.classifiers]
    for part in ("images", "judged", "final", "removed_texts", "faces", *scores):
        keep = [work.folder / part / f"{shard.name}.parquet" for shard in work.shards]
        remove_stale(work.folder / part, keep)
    for part in ("images", "judged", "faces", *scores):
        folder = work.folder / "done" / part
        remove_stale(folder, [folder / f"{shard.name}.json" for shard in work.shards])
