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
from worldclip.config import Recipe
from worldclip.core import settings
from worldclip.core.artifacts import (
    MANIFEST,
    REMOVED,
    REMOVED_TEXTS,
    VALID_KEYS,
    digest,
    fingerprint,
    read_json,
    read_manifest,
    read_table,
    write_json,
    write_manifest,
    write_table,
)
from worldclip.core.coin import hash_keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, add_counts
from worldclip.core.job import ALL_SHARDS, RunLock, changed_keys, remove_stale
from worldclip.core.settings import to_dict
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.config import LanguagesConfig
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import format_of

UNUSABLE = ("bad_pair", "no_text")  # counted by match too, whatever the valid keys say


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> CheckConfig:
    """CheckConfig from a TOML file or nested dicts, with `key=value` overrides; UserError with every problem."""
    loaded: CheckConfig = settings.load_config(CheckConfig, source, overrides)
    return loaded


def load_pool(source: str | Path) -> Recipe:
    """A recipe of the sections that a check reads, of a folder of tars, a run, or a .toml."""
    path = Path(source)
    if path.suffix != ".toml" and not (path / "recipe.toml").exists():
        return Recipe(pool=PoolConfig(path=str(source)))
    values = settings.read_toml(path)
    sections = {"pool": PoolConfig, "languages": LanguagesConfig, "evaluate": EvaluateConfig}
    return Recipe(**{name: settings.load_config(cls, values.get(name, {})) for name, cls in sections.items()})


def check(
    pool: PoolConfig | Recipe,
    out: str | Path,
    config: CheckConfig | None = None,
    *,
    executor: Executor | None = None,
    run_dir: Path | None = None,
) -> dict[str, Any]:
    """Check a pool into the folder `out`: valid_keys.parquet (for pool.valid_keys), removed.parquet,
    removed_texts.parquet, report.json, report.html and the manifest.  Returns the report.

    pool: where the pairs are, or a recipe with such a section; run_dir: the run of a recipe that builds its pool.
    Raises UserError for mistakes in the config, StageFailed where shards failed.
    """
    work = _plan(pool, Path(out), config, executor, run_dir)
    folder, recipe = work.folder, work.recipe
    record = {"pool": to_dict(recipe.pool), "lid_model": recipe.languages.lid_model, "check": to_dict(work.config)}
    with RunLock(folder):
        manifest = read_manifest(folder)
        if manifest is not None and not changed_keys([manifest["config"], manifest["inputs"]], [record, work.inputs]):
            say("check", "is finished and unchanged")
            return dict(read_json(folder / "report.json"))
        (folder / MANIFEST).unlink(missing_ok=True)
        report = _run(work)
        write_json(folder / "report.json", report)
        write_report(folder, report, work.sets.readers())
        write_manifest(folder, config=record, inputs=work.inputs, counts=report["counts"])
    return report


def look_at_shards(
    pool: PoolConfig | Recipe,
    out: str | Path,
    part: slice,
    config: CheckConfig | None = None,
    *,
    executor: Executor | None = None,
    run_dir: Path | None = None,
) -> int:
    """What costs most of a check, looking at images and running models, for some of the pool's shards alone.

    Safe beside calls for other shards; `check` then finishes.  Returns the number of shards.  Raises as check.
    """
    work = _plan(pool, Path(out), config, executor, run_dir, part)
    if not looks_at_images(work.config):
        raise UserError("--shards with rules that look at no image: run the check at once, without --shards")
    with RunLock(work.folder, is_shared=True):
        if _look(work)["images"]:
            run_models(work.config, work.recipe.pool, work.folder, work.shards, work.executor)
    say("check", f"{len(work.shards):,} shards are looked at; the same command without --shards finishes the check")
    return len(work.shards)


@dataclass(frozen=True, slots=True)
class _Work:
    recipe: Recipe
    config: CheckConfig
    folder: Path
    kind: HashKind
    shards: list[Shard]
    executor: Executor
    inputs: dict[str, Any]
    sets: EvaluationSets


def _plan(
    pool: PoolConfig | Recipe,
    folder: Path,
    config: CheckConfig | None,
    executor: Executor | None,
    run_dir: Path | None,
    part: slice = ALL_SHARDS,
) -> _Work:
    recipe = pool if isinstance(pool, Recipe) else Recipe(pool=pool)
    settings = config or CheckConfig()
    sets = EvaluationSets.of(settings, recipe.evaluate, run_dir or folder)
    _refuse_mistakes(settings, sets)
    kind = HashKind.of(settings)
    shards = pools.shards(recipe, run_dir or folder, part)
    tables = [shard.name for shard in shards if not format_of(shard.name).has_images]
    if tables and settings.write == "tars":
        raise UserError(f'write = "tars" with {tables[0]}: only tars hold images; use write = "keys"')
    inputs = _inputs(shards, settings, sets, kind)
    return _Work(recipe, settings, folder, kind, shards, executor or LocalExecutor(), inputs, sets)


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


def _run(work: _Work) -> dict[str, Any]:
    config, folder = work.config, work.folder
    images = dict.fromkeys(COUNTS, 0)
    if looks_at_images(config):
        images = _look(work)
        hash_sets(work.sets, work.inputs["against"], work.kind, folder / "against", work.executor)
    has_images = images["images"] > 0
    if has_images:
        run_models(work.config, work.recipe.pool, folder, work.shards, work.executor)
    judged = _judge(work, has_images)
    elsewhere = _remove_elsewhere(work)
    duplicates, histogram = DUPLICATES.empty_table(), list[int]()
    if has_images and config.duplicates != "keep":
        duplicates, histogram = find_duplicates(folder, work.shards, config, work.kind, work.executor)
    counts = _write_lists(work, duplicates)
    if has_images and config.faces.path:
        write_faces(folder, work.shards)
    if config.merge_texts:
        merge_texts(folder, work.shards, work.recipe.pool)
    if config.write == "tars":
        counts["written"] = write_tars(config, work.recipe.pool, folder, work.shards, work.executor)
    _remove_stale(work)
    rejected, num_texts = Counter[str](), 0
    for report in judged:
        rejected.update(report["rejected_texts"])
        num_texts += report["texts"]
    return {
        "counts": counts,
        "images": images,
        "texts": {"read": num_texts, "rejected": dict(sorted(rejected.items()))},
        "keys_in_several_shards": elsewhere,
        "duplicate_groups": pc.count_distinct(duplicates["other_key"]).as_py(),
        "pairs_by_distance": histogram,
        "radius": config.radius,
        "against": {**config.against, **dict.fromkeys(config.against_datasets, "data set of evaluate")},
    }


def _look(work: _Work) -> dict[str, int]:
    work.kind.require_model()
    look = functools.partial(look_at_pool_shard, pool=work.recipe.pool, folder=work.folder, kind=work.kind)
    key = {"key": work.recipe.pool.key, "hash": work.kind.name}
    reports = work.executor.map(look, work.shards, label="images", done_dir=work.folder / "done/images", key=key)
    return add_counts(reports, COUNTS)


def _judge(work: _Work, has_images: bool) -> Sequence[Report]:
    judge = JudgeWork(
        pool=work.recipe.pool,
        config=work.config,
        folder=work.folder,
        kind=work.kind,
        lid_model=work.recipe.languages.lid_model,
        references=digest(work.inputs["against"]),
        has_images=has_images,
    )
    decides = {name: value for name, value in work.inputs.items() if name != "shards"}
    key = {"pool": to_dict(work.recipe.pool), "check": to_dict(work.config), "images": has_images, "inputs": decides}
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
