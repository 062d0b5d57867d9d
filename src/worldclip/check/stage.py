"""`worldclip pool check`: write the valid keys of a pool, every removal with its reason, and a report.

The steps, in order: scan the images; run the models; apply the rules that need only the pair; find duplicates among the
remaining pairs; write.  Each step is a map over shards or units of work.  An interrupted check therefore resumes, and a
changed rule repeats only its own step and the later ones.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check import duplicates as near
from worldclip.check import images, models, similarity, write
from worldclip.check.against import EvaluationSets, hash_sets
from worldclip.check.config import CheckConfig, ImageRules
from worldclip.check.context import CheckContext
from worldclip.check.hashing import HashKind
from worldclip.check.pair_rules import ELSEWHERE, PairRules, apply_pair_rules
from worldclip.check.report import CheckReport, Texts, write_report
from worldclip.check.similarity import Similarities
from worldclip.check.text_rules import UNKNOWN, phrase_matcher
from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import REMOVED
from worldclip.core import settings
from worldclip.core.artifacts import digest, fingerprint, read_table, write_table
from worldclip.core.coin import hash_keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Shard, add_counts
from worldclip.core.job import ALL_SHARDS, Job, Record, Report, Result, Run, RunLock, remove_stale
from worldclip.core.preflight import missing_packages
from worldclip.core.settings import to_dict
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import how_to_know
from worldclip.model import decode
from worldclip.model.formats.interface import TORCH, LoadOptions
from worldclip.model.load import find, missing_of
from worldclip.model.worker import WorkerModel
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.stage import check_names, check_place

# Reasons that remove the key only from its own shard: match drops the first two itself, with or without a check.
NOT_ELSEWHERE = (Reason.BAD_PAIR.label, Reason.NO_TEXT.label, ELSEWHERE)
MANY_DUPLICATES = 0.1  # share of the images beyond which the loss of their texts is worth a warning
_IN_A_POOL = "is a rule of pool check, and this file is the pool; move it to a file of rules for --config"


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> CheckConfig:
    """Return the config of a TOML file or nested dicts, with `key=value` overrides.

    Raises UserError that lists all problems; sections of a recipe are none of a file of rules.
    """
    names = [] if isinstance(source, Mapping) else settings.read_toml(Path(source))
    problems = [
        f"{source}: [{name}] is a section of a recipe, and --config takes rules; give the recipe as POOL"
        for name in names
        if name in settings.SECTIONS
    ]
    if problems:
        raise UserError(problems)
    config: CheckConfig = settings.load_config(CheckConfig, source, overrides)
    return config


def open_pool(source: str | Path) -> Run:
    """Return the context of any pool, as pool.open_pool does.

    Raises UserError for a .toml file with rules: those of --config count, and others would have no effect.
    """
    path = Path(source)
    if path.suffix == ".toml":
        settings.read_sections(path, dict.fromkeys(CheckConfig.__slots__, _IN_A_POOL))
    return pools.open_pool(source)


def check(
    pool: PoolConfig | Run, out: str | Path, config: CheckConfig | None = None, *, executor: Executor | None = None
) -> Report:
    """Check a pool and return the report.

    Writes valid_keys.parquet (for pool.valid_keys), removed.parquet, removed_texts.parquet, report.json and report.html
    into the folder `out`, and its manifest last.

    pool: its config, or the context of a run or .toml with a [pool] section (pool.open_pool).  Raises UserError for
    mistakes in the config, StageFailed if shards failed.
    """
    plan = functools.partial(_plan, pool, Path(out), config, executor)
    context = plan().context
    record = {"pool": context.pool_record, "lid_model": context.lid_model, "check": to_dict(context.config)}
    job = Job("check", context.folder, record, lambda: plan().inputs)
    check_source(job, context.pool.place)
    return job.run_once(lambda: _check(plan()))


def scan_shards(
    pool: PoolConfig | Run,
    out: str | Path,
    part: slice,
    config: CheckConfig | None = None,
    *,
    executor: Executor | None = None,
) -> int:
    """Scan images and run models, the slowest steps, for some of the pool's shards; return the number of these shards.

    Calls for other shards may run at the same time; `check` finishes.  Raises as `check` does.
    """
    work = _plan(pool, Path(out), config, executor, part)
    if not needs_images(work.context.config):
        raise UserError("--shards: no rule of this check needs an image; run it without --shards")
    with RunLock(work.context.folder, is_shared=True, owner="check"):
        if _scan(work)["images"]:
            _run_models(work)
    say("check", f"{len(work.shards):,} shards scanned. Rerun without --shards to finish.")
    return len(work.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A check and what it runs on."""

    context: CheckContext
    shards: Sequence[Shard]
    executor: Executor
    sets: EvaluationSets
    inputs: Record
    """Fingerprints of all that is read."""


def _plan(
    pool: PoolConfig | Run,
    folder: Path,
    config: CheckConfig | None,
    executor: Executor | None,
    part: slice = ALL_SHARDS,
) -> _Work:
    """Find the inputs.  Raises UserError for mistakes in the config."""
    check_own(folder, "check")
    run = pool if isinstance(pool, Run) else Run.of(folder, pool)
    pool_config, languages = run.section(PoolConfig), run.section(LanguagesConfig)
    rules = config or CheckConfig()
    sets = EvaluationSets.of(rules, run.section(EvaluateConfig), run.dir)
    similarity_model = _find_mistakes(rules, sets)
    kind = HashKind.of(rules)
    unknown = set(rules.texts.languages) - {*languages.table.by_code(), UNKNOWN}
    if unknown:
        raise UserError([f"texts.languages: {lang!r} is no language; {how_to_know(lang)}" for lang in sorted(unknown)])
    shards = pools.shards(run, part)
    check_place(folder, shards, pool_config, has_tars=rules.write == "tars")
    check_names(shards, pool_config)
    has_images = pools.holds_images(shards, pool_config)
    if not has_images:
        _refuse_pool_without_images(rules, shards)
    if rules.reference_sets or (needs_images(rules) and has_images):
        _require_packages(rules, similarity_model)
    context = CheckContext(
        pool=pool_config,
        lid_model=languages.lid_model,
        languages=languages.table,
        config=rules,
        folder=folder,
        kind=kind,
        similarity_model=similarity_model,
    )
    files = [path for paths in _files_by_setting(rules).values() for path in paths]
    inputs = {
        "shards": {shard.name: shard.fingerprint for shard in shards},
        "files": {file: fingerprint(Path(file), Path(file).parent) for file in files},
        "against": sets.fingerprints(),
        "hash": kind.name,
    }
    if similarity_model is not None:
        inputs["similarity"] = similarity_model.source.digest()
    return _Work(context=context, shards=shards, executor=executor or LocalExecutor(), sets=sets, inputs=inputs)


def _files_by_setting(config: CheckConfig) -> dict[str, tuple[str, ...]]:
    """Return the lists and models that a config names, by the key that names them."""
    return {
        "texts.deny_phrases": config.texts.deny_phrases,
        **{f"classifiers.{name}.path": (rule.path,) for name, rule in config.classifiers.items() if rule.path},
        "faces.path": (config.faces.path,) if config.faces.path else (),
    }


def _refuse_pool_without_images(config: CheckConfig, shards: Sequence[Shard]) -> None:
    """Raise UserError if the config asks for what only images allow."""
    remedies = {'write = "tars"': 'use write = "keys"'} if config.write == "tars" else {}
    if config.similarity.model:
        remedies["similarity.model"] = "unset it with its percentile or threshold"
    if remedies:
        name = shards[0].name
        raise UserError([f"{key} with {name}: it holds no images; {remedy}" for key, remedy in remedies.items()])


def _find_mistakes(config: CheckConfig, sets: EvaluationSets) -> WorkerModel | None:
    """Return the model of [similarity], if it is set.

    Raises UserError with all problems at once, before any work: invalid values, missing files, unreadable lists.
    """
    problems = config.problems()
    for setting, paths in _files_by_setting(config).items():
        problems += [f"{setting} names {path!r}, which is not a file" for path in paths if not Path(path).is_file()]
    problems += sets.problems()
    model = None
    try:
        if config.similarity.model is not None:
            model = WorkerModel(find(config.similarity.model), LoadOptions())
    except UserError as error:
        problems += [f"similarity.model: {problem}" for problem in error.problems]
    if problems:
        raise UserError(problems)
    if config.texts.deny_phrases:
        phrase_matcher(config.texts.deny_phrases)
    return model


def _require_packages(config: CheckConfig, similarity_model: WorkerModel | None) -> None:
    """Raise UserError for the extras that the rules of images need and that are not installed."""
    modules = ["PIL", "onnxruntime"] if config.classifiers or config.faces.path else ["PIL"]
    problems = list(missing_packages("pool check", modules, extra="pool"))
    if config.hash == "embedding":
        problems += missing_packages('hash = "embedding"', TORCH.modules, extra=TORCH.extra)
    if similarity_model is not None:
        problems += missing_of(similarity_model.source, similarity_model.options)
    if problems:
        raise UserError(problems)


def needs_images(config: CheckConfig) -> bool:
    """Return whether any rule needs an image; a check of texts and addresses only decodes nothing."""
    rules = config.images != ImageRules() or config.classifiers or config.faces.path or config.reference_sets
    return bool(rules) or config.duplicates != "keep" or config.similarity.model is not None


def _check(work: _Work) -> Result:
    context, config, shards, executor = work.context, work.context.config, work.shards, work.executor
    image_counts = dict.fromkeys(images.COUNTS, 0)
    if needs_images(config):
        image_counts = _scan(work)
        hash_sets(work.sets, work.inputs["against"], context.kind, context.folder / "against", executor)
    has_images = image_counts["images"] > 0
    if has_images:
        _run_models(work)
    similarities = similarity.summarise(context, shards) if has_images and config.similarity.model else None
    texts = _apply_pair_rules(work, has_images, similarities)
    if num_repeated_keys := _remove_elsewhere(context, shards):
        remedy = "also set pool.deny_keys to the list of: worldclip pool dedup"
        say(
            "check",
            f"{num_repeated_keys:,} keys are in several shards; valid_keys cannot tell their pairs apart; {remedy}",
        )
    duplicates, histogram = near.DUPLICATES.empty_table(), list[int]()
    if has_images and config.duplicates != "keep":
        duplicates, histogram = near.find_duplicates(context, shards, executor)
    _warn_of_lost_texts(config, len(duplicates), image_counts["images"])
    _say_largest_distance(context, duplicates)
    counts = write.write_lists(context, shards, duplicates)
    if has_images and config.faces.path:
        models.write_faces(context, shards)
    if config.merge_texts:
        write.merge_texts(context, shards)
    if config.write == "tars":
        counts["written"] = write.write_tars(context, shards, executor)
    _remove_stale_tables(context, shards)
    report: CheckReport = {
        "counts": counts,
        "images": image_counts,
        "texts": texts,
        "keys_in_several_shards": num_repeated_keys,
        "duplicate_groups": pc.count_distinct(duplicates["other_key"]).as_py(),
        "pairs_by_distance": histogram,
        "radius": config.radius,
        "against": {**config.against, **dict.fromkeys(config.against_datasets, "dataset of evaluate")},
    }
    if similarities is not None:
        report["similarity"] = similarities
    write_report(context.folder, report, work.sets.readers(), context.languages)
    return Result(report=report, counts=counts, manifest={"source": context.pool.place})


def _warn_of_lost_texts(config: CheckConfig, num_duplicates: int, num_images: int) -> None:
    """Say what many duplicates take with them: pools often hold an image once per language."""
    if config.merge_texts or num_duplicates <= MANY_DUPLICATES * num_images:
        return
    say(
        "check",
        f"{num_duplicates:,} of {num_images:,} images are duplicates and go with all their texts, those in other "
        'languages included. To keep the texts: merge_texts = true with write = "tars"; to keep the pairs: '
        'duplicates = "keep"',
    )


def _say_largest_distance(context: CheckContext, duplicates: pa.Table) -> None:
    """Say how near the near duplicates are that go: groups are joined by chains, and the hash sees no colour."""
    near_ones = duplicates.filter(pc.equal(duplicates["rule"], near.NEAR_DUPLICATE))
    if not near_ones.num_rows:
        return
    radius, largest = context.config.radius, pc.max(near_ones["distance"]).as_py()
    far = pc.sum(pc.greater(near_ones["distance"], radius)).as_py()
    chains = f", {far:,} above the radius of {radius} through chains of near pairs" if far else ""
    colours = " (the hash sees grey: two colours of one shape are near)" if context.config.hash == "phash" else ""
    say(
        "check",
        f"{near_ones.num_rows:,} near duplicates{colours}; largest distance to the pair that stays: {largest} of 64 "
        f"bits{chains}. Look at the groups before you use the list: {layout.report_html(context.folder)}. A smaller "
        "radius removes fewer",
    )


def _scan(work: _Work) -> dict[str, int]:
    """Scan the images of all shards; return images.COUNTS."""
    context = work.context
    context.kind.require_model()
    similarity.require_model(context, work.executor)
    scan = functools.partial(images.scan_pool_shard, context=context)
    key = {**context.pool.identity, "hash": context.kind.name, "decoder": decode.VERSION}
    reports = work.executor.map(
        scan, work.shards, label="images", done_dir=layout.done_dir(context.folder, "images"), key=key
    )
    return add_counts(reports, images.COUNTS)


def _run_models(work: _Work) -> None:
    """Run the models that look at images, and keep what they say by shard."""
    models.run_models(work.context, work.shards, work.executor)
    if work.context.similarity_model is not None:
        similarity.measure(work.context, work.shards, work.executor)


def _apply_pair_rules(work: _Work, has_images: bool, similarities: Similarities | None) -> Texts:
    """Apply the rules that need only the pair; return the number of texts and of rejected ones by rule."""
    context = work.context
    rules = PairRules(
        context=context,
        references=digest(work.inputs["against"]),
        has_images=has_images,
        min_similarity=similarities and {lang: row["threshold"] for lang, row in similarities["by_language"].items()},
    )
    key = {
        "pool": context.pool_record,
        "check": to_dict(context.config),
        "images": has_images,
        "min_similarity": rules.min_similarity,
        "inputs": {name: value for name, value in work.inputs.items() if name != "shards"},
    }
    apply = functools.partial(apply_pair_rules, rules=rules)
    num_texts, rejected = 0, Counter[str]()
    done_dir = layout.done_dir(context.folder, "judged")
    for report in work.executor.map(apply, work.shards, label="rules", done_dir=done_dir, key=key):
        num_texts += report["texts"]
        rejected.update(report["rejected_texts"])
    return {"read": num_texts, "rejected": dict(sorted(rejected.items()))}


def _remove_elsewhere(context: CheckContext, shards: Sequence[Shard]) -> int:
    """Remove a key from every shard if a rule removes it in one, because a list of valid keys does not name shards.

    Runs before the search for duplicates.  Return the number of keys that several shards have.  Decide again on keys
    that an earlier check removed for this reason: the other shard may have changed, or be gone.
    """
    hashes, is_removed, has_elsewhere = [], [], []
    for shard in shards:
        verdicts = read_table(context.table_path("judged", shard), REMOVED, ["key", "rule"])
        rule = verdicts["rule"].cast(pa.string())
        hashes.append(hash_keys(verdicts["key"]))
        is_removed.append(pc.is_valid(rule).to_numpy() & ~pc.is_in(rule, pa.array(NOT_ELSEWHERE)).to_numpy())
        has_elsewhere.append(pc.any(pc.equal(rule, ELSEWHERE)).as_py())
    all_hashes = np.concatenate(hashes)
    values, counts = np.unique(all_hashes, return_counts=True)
    repeated = values[counts > 1]
    removed = np.intersect1d(repeated, all_hashes[np.concatenate(is_removed)])
    for shard, shard_hashes, is_old in zip(shards, hashes, has_elsewhere, strict=True):
        mask = np.isin(shard_hashes, removed)
        if not (mask.any() or is_old):
            continue
        path = context.table_path("judged", shard)
        verdicts = read_table(path, REMOVED)
        before = verdicts["rule"].cast(pa.string()).combine_chunks()
        own = pc.if_else(pc.fill_null(pc.equal(before, ELSEWHERE), False), None, before)
        mask &= pc.is_null(own).to_numpy(zero_copy_only=False)
        rule = pc.if_else(pa.array(mask), ELSEWHERE, own)
        write_table(path, verdicts.set_column(2, "rule", rule), REMOVED)
    return len(repeated)


def _remove_stale_tables(context: CheckContext, shards: Sequence[Shard]) -> None:
    """Remove the tables and markers of shards that are no longer in the pool.

    They are not declared as Result.outputs, which would remove anything else: the user's own files, and the scores,
    hashes and faces of rules that are not set now, which make setting them again cheap.
    """
    scores = [f"scores/{name}" for name in context.config.classifiers]
    for step in ("images", "judged", "final", "removed_texts", "faces", "similarity", *scores):
        markers = layout.done_dir(context.folder, step)  # first: a marker says that its table is there
        remove_stale(markers, [layout.marker_in(markers, shard.name) for shard in shards])
        remove_stale(context.folder / step, [context.table_path(step, shard) for shard in shards])
