"""`worldclip pool check`: write the valid keys of a pool, every removal with its reason, and a report.

The images are decoded and hashed once, shard by shard; all decisions follow in one process.  An interrupted check
resumes with the missing shards, and another radius decodes nothing again.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worldclip import pool as pools
from worldclip.check import decide, hashing
from worldclip.check.against import problems_of_sets, read_references, scan_dataset, units_of_sets
from worldclip.check.config import CheckConfig
from worldclip.check.images import COUNTS, hashes_path, scan_pool_shard, scan_unit
from worldclip.check.report import write_report
from worldclip.contracts import layout
from worldclip.contracts.records import skipped_shards
from worldclip.contracts.schemas import REMOVED, VALID_KEYS
from worldclip.core import keys
from worldclip.core.artifacts import digest, write_tables
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Shard, add_counts
from worldclip.core.job import ALL_SHARDS, Job, Record, Report, Result, Run, lock_folder, remove_stale
from worldclip.core.preflight import missing_packages
from worldclip.core.printable import counted
from worldclip.core.settings import to_dict
from worldclip.evaluate.config import EvaluateConfig
from worldclip.model import decode
from worldclip.model.formats.interface import TORCH
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.listing import check_place

MANY_DUPLICATES = 0.1  # share of the images beyond which the loss of their texts is worth a warning


def check(
    pool: PoolConfig | Run,
    out: str | Path,
    config: CheckConfig | None = None,
    *,
    part: slice | None = None,
    executor: Executor | None = None,
) -> Report | None:
    """Check a pool and return the report.

    Writes valid_keys.parquet (for pool.valid_keys), removed.parquet, report.json and report.html into the folder `out`,
    and its manifest last.

    pool: its config, or the context of a run or .toml with a [pool] section (pool.open_pool).  part: only scan the
    images of these shards, the slowest step, and return None; calls for other shards may run at the same time, and a
    call without it finishes.  Raises UserError for mistakes in the config, StageFailed if shards failed.
    """
    folder = Path(out)
    config = config or CheckConfig()
    run = pool if isinstance(pool, Run) else Run.of(folder, pool)
    evaluate = run.section(EvaluateConfig)
    evaluate = replace(evaluate, data=config.data or evaluate.data, also=())
    check_own(folder, "check", ("pool", "images", "against", "valid_keys.parquet", "removed.parquet"))
    problems = [*config.problems(), *problems_of_sets(config, evaluate)]
    problems += missing_packages("pool check", ["PIL"], extra="pool")
    if config.embedding_model is not None:
        problems += missing_packages("embedding_model", TORCH.modules, extra=TORCH.extra)
    if problems:
        raise UserError(problems)
    check_place(folder, pools.list_pool(run).names(), run.section(PoolConfig))
    with lock_folder(folder, is_shared=part is not None):
        executor = executor or LocalExecutor()
        pool_run, shards = pools.read_pool(run, folder, ALL_SHARDS if part is None else part, executor=executor)
        if shards and not pools.holds_images(pool_run.dir, shards):
            raise UserError(
                f"{shards[0].name}: the pool holds no images, which pool check compares; download them first"
            )
        own_folder = folder.resolve()  # a list of an earlier call takes nothing away
        key_lists = [item for item in pools.key_lists(run) if not Path(item.path).resolve().is_relative_to(own_folder)]
        work = _Work(
            run_dir=pool_run.dir,
            pool=pool_run.section(PoolConfig),
            key_lists=key_lists,
            config=config,
            evaluate=evaluate,
            folder=folder,
            shards=shards,
            executor=executor,
            units=units_of_sets(config, evaluate, pool_run.dir),
            model=hashing.find_model(config),
        )
        if part is not None:
            _scan_pool(work)
            say("check", f"{counted(len(work.shards), 'shard')} scanned. Rerun without --shards to finish.")
            return None
        record = {"pool": work.pool.identity, "check": to_dict(config), "broken_shards": work.pool.broken_shards}
        job = Job("check", folder, record, lambda: work.inputs)
        check_source(job, work.pool.location)
        return job.run_once(lambda: _check(work))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A check and what it runs on."""

    run_dir: Path
    """Where RUN/pool is."""
    pool: PoolConfig
    key_lists: Sequence[keys.KeyList]
    """The lists of the recipe, without that of an earlier check into this folder."""
    config: CheckConfig
    evaluate: EvaluateConfig
    """Where the datasets are.  `also` is empty: images that only probes learn from do not count."""
    folder: Path
    shards: Sequence[Shard]
    executor: Executor
    units: Mapping[str, Sequence[Shard]]
    """The units of work of each evaluation set."""
    model: hashing.EmbeddingModel | None
    """None: perceptual hashes are compared."""

    @property
    def hash_kind(self) -> str:
        """Return the kind of hash: `phash`, or `embedding` and the model's digest."""
        return "phash" if self.model is None else f"embedding {self.model.digest}"

    @property
    def inputs(self) -> Record:
        """Fingerprints of all that is read."""
        against = {}
        for name, units in self.units.items():
            against[name] = digest([unit.fingerprint for unit in units])
        return {
            "shards": {shard.name: shard.fingerprint for shard in self.shards},
            "against": against,
            "hash": self.hash_kind,
            "decoder": decode.identity(),
            "key_lists": keys.digests(self.key_lists),
        }


def _scan_pool(work: _Work) -> dict[str, int]:
    """Scan the images of all shards; return COUNTS."""
    if work.model is not None:
        hashing.load_model(work.model)  # one that cannot be loaded is reported before any shard
    scan = functools.partial(scan_pool_shard, run_dir=work.run_dir, folder=work.folder / "images", model=work.model)
    return _scan(work, "images", scan, work.shards, {"pool": work.pool.identity})


def _scan(
    work: _Work, part: str, scan: Callable[[Shard], Report], shards: Sequence[Shard], key: Record
) -> dict[str, int]:
    """Write folder/part/<shard>.parquet of all shards; return COUNTS.

    key: what decides the files, besides the hash.
    """
    done_dir = layout.done_dir(work.folder, part)
    key = {**key, "hash": work.hash_kind, "decoder": decode.identity()}
    label = part.partition("/")[0]
    return add_counts(work.executor.map(scan, shards, label=label, done_dir=done_dir, key=key), COUNTS)


def _remove_stale_rows(folder: Path, part: str, shards: Sequence[Shard]) -> None:
    """Remove the rows and markers of shards that are gone.

    Result.outputs would also remove the user's own files, and the rows of evaluation sets that are not set now.
    """
    markers = layout.done_dir(folder, part)  # first: a marker says that its rows are there
    remove_stale(markers, [layout.marker_in(markers, shard.name) for shard in shards])
    remove_stale(folder / part, [hashes_path(folder / part, shard) for shard in shards])


def _check(work: _Work) -> Result:
    config = work.config
    folder = work.folder
    skipped = skipped_shards(work.run_dir)
    images = _scan_pool(work)
    _remove_stale_rows(folder, "images", work.shards)
    num_references = {}  # images of each evaluation set
    for name, units in work.units.items():
        part = f"against/{name}"
        options: Report = {"folder": folder / part, "model": work.model}
        scan = functools.partial(scan_unit, **options)
        if name not in config.against:
            scan = functools.partial(scan_dataset, name=name, evaluate=work.evaluate, run_dir=work.run_dir, **options)
        num_references[name] = _scan(work, part, scan, units, {})["images"]
        _remove_stale_rows(folder, part, units)
    pairs = decide.Pairs.read(folder / "images", work.shards)
    is_listed = decide.remove_excluded(pairs, work.key_lists)
    if work.units:
        radius = config.radius if config.against_radius is None else config.against_radius
        decide.decontaminate(pairs, read_references(folder / "against", work.units), radius)
    num_repeated_keys = decide.remove_elsewhere(pairs, is_listed)
    if config.duplicates != "keep":
        decide.remove_duplicates(pairs, config)
    write_tables(folder / "valid_keys.parquet", pairs.tables(is_valid=True), VALID_KEYS)
    write_tables(folder / "removed.parquet", pairs.tables(is_valid=False), REMOVED)
    removed = Counter(pairs.rule.tolist())
    num_valid = removed.pop(None, 0)
    report: Report = {
        "counts": {"pairs_in": len(pairs.rule), "valid": num_valid, "removed": dict(sorted(removed.items()))},
        "images": images,
        "against": num_references,
        "keys_in_several_shards": num_repeated_keys,
        "radius": config.radius,
        "skipped": skipped,
        # between a near duplicate and the pair that stays; above the radius through chains
        "largest_distance": int(pairs.distance[pairs.rule == decide.NEAR_DUPLICATE].max(initial=0)),
    }
    write_report(folder, report, work.run_dir, work.shards, work.units)
    _say_cautions(work, report)
    manifest = {"source": work.pool.location, "skipped": skipped}
    return Result(report=report, counts=report["counts"], manifest=manifest)


def _say_cautions(work: _Work, report: Report) -> None:
    """Say what the list of valid keys cannot tell, and what to look at before it is used."""
    removed = report["counts"]["removed"]
    num_images = report["images"]["images"]
    num_repeated = report["keys_in_several_shards"]
    num_near = removed.get(decide.NEAR_DUPLICATE, 0)
    num_duplicates = num_near + removed.get(decide.BYTE_DUPLICATE, 0)
    cautions = []
    if num_repeated:
        cautions.append(
            f"{num_repeated:,} keys are in several shards; valid_keys cannot tell their pairs apart; set "
            "pool.deny_keys to the list of: worldclip pool dedup, then check again"
        )
    if num_duplicates > MANY_DUPLICATES * num_images:
        cautions.append(
            f"{num_duplicates:,} of {num_images:,} images are duplicates and go with all their texts, those in other "
            'languages included. To keep the pairs: duplicates = "keep"'
        )
    if num_near:
        caution = f"{num_near:,} near duplicates"
        if work.config.embedding_model is None:
            caution += " (the hash sees grey: two colours of one shape are near)"
        caution += f"; largest distance to the pair that stays: {report['largest_distance']} of 64 bits"
        if report["largest_distance"] > report["radius"]:
            caution += f", above the radius of {report['radius']} through chains of near pairs"
        page = layout.report_html(work.folder)
        cautions.append(f"{caution}. Look at the groups before you use the list: {page}")
    for caution in cautions:
        say("check", caution)
