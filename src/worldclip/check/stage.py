"""`worldclip pool check`: write the valid keys of a pool, every removal with its reason, and a report.

The images are decoded and hashed once, shard by shard; all decisions follow in one process.  An interrupted check
resumes with the missing shards, and another radius decodes nothing again.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldclip import pool as pools
from worldclip.check import decide, hashing
from worldclip.check.against import EvaluationSets, read_references
from worldclip.check.config import CheckConfig
from worldclip.check.images import COUNTS, hashes_path, scan_pool_shard
from worldclip.check.report import CheckReport, write_report
from worldclip.contracts import layout
from worldclip.contracts.records import skipped_shards
from worldclip.contracts.schemas import REMOVED, VALID_KEYS
from worldclip.core import keys
from worldclip.core.artifacts import digest, write_tables
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Shard, add_counts
from worldclip.core.job import ALL_SHARDS, Job, Record, Report, Result, Run, RunLock, remove_stale
from worldclip.core.preflight import missing_packages
from worldclip.core.printable import counted
from worldclip.core.settings import to_dict
from worldclip.evaluate.config import EvaluateConfig
from worldclip.model import decode
from worldclip.model.formats.interface import TORCH
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.stage import check_place

MANY_DUPLICATES = 0.1  # share of the images beyond which the loss of their texts is worth a warning


def check(
    pool: PoolConfig | Run, out: str | Path, config: CheckConfig | None = None, *, executor: Executor | None = None
) -> Report:
    """Check a pool and return the report.

    Writes valid_keys.parquet (for pool.valid_keys), removed.parquet, report.json and report.html into the folder `out`,
    and its manifest last.

    pool: its config, or the context of a run or .toml with a [pool] section (pool.open_pool).  Raises UserError for
    mistakes in the config, StageFailed if shards failed.
    """
    request = _Request.of(pool, Path(out), config, executor)
    with RunLock(request.folder):
        work = request.read_pool(ALL_SHARDS)
        record = {"pool": work.pool.identity, "check": to_dict(work.config), "broken_shards": work.pool.broken_shards}
        job = Job("check", work.folder, record, lambda: work.inputs)
        check_source(job, work.pool.location)
        return job.run_once(lambda: _check(work))


def scan_shards(
    pool: PoolConfig | Run,
    out: str | Path,
    part: slice,
    config: CheckConfig | None = None,
    *,
    executor: Executor | None = None,
) -> int:
    """Scan the images of some of the pool's shards, the slowest step; return the number of these shards.

    Calls for other shards may run at the same time; `check` finishes.  Raises as `check` does.
    """
    request = _Request.of(pool, Path(out), config, executor)
    with RunLock(request.folder, is_shared=True):
        work = request.read_pool(part)
        _scan_pool(work)
    say("check", f"{counted(len(work.shards), 'shard')} scanned. Rerun without --shards to finish.")
    return len(work.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """A check that is asked for, before the pool is read."""

    run: Run
    config: CheckConfig
    folder: Path
    executor: Executor
    sets: EvaluationSets

    @classmethod
    def of(
        cls, pool: PoolConfig | Run, folder: Path, config: CheckConfig | None, executor: Executor | None
    ) -> _Request:
        """Raise UserError for mistakes in the config, before any work."""
        check_own(folder, "check", ("pool", "images", "against", "valid_keys.parquet", "removed.parquet"))
        run, rules = pool if isinstance(pool, Run) else Run.of(folder, pool), config or CheckConfig()
        sets = EvaluationSets.of(rules, run.section(EvaluateConfig), run.dir)
        problems = [*rules.problems(), *sets.problems(), *missing_packages("pool check", ["PIL"], extra="pool")]
        if rules.embedding_model is not None:
            problems += missing_packages("embedding_model", TORCH.modules, extra=TORCH.extra)
        if problems:
            raise UserError(problems)
        check_place(folder, pools.list_pool(run), run.section(PoolConfig))
        return cls(run=run, config=rules, folder=folder, executor=executor or LocalExecutor(), sets=sets)

    def read_pool(self, part: slice) -> _Work:
        """Read the pool if that is not done, and find the other inputs.  Raises UserError for a pool without images."""
        run, shards = pools.read_pool(self.run, self.folder, part, executor=self.executor)
        if shards and not pools.holds_images(run.dir, shards):
            raise UserError(
                f"{shards[0].name}: the pool holds no images, which pool check compares; download them first"
            )
        lists = [item for item in pools.key_lists(run) if self.folder not in Path(item.path).parents]
        return _Work(
            run_dir=run.dir,
            pool=run.section(PoolConfig),
            key_lists=lists,  # without that of an earlier check into this folder
            config=self.config,
            folder=self.folder,
            shards=shards,
            executor=self.executor,
            sets=self.sets,
            units=self.sets.units(),
            hash_kind=hashing.hash_kind(self.config),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A check and what it runs on."""

    run_dir: Path
    """Where RUN/pool is."""
    pool: PoolConfig
    key_lists: Sequence[keys.KeyList]
    config: CheckConfig
    folder: Path
    shards: Sequence[Shard]
    executor: Executor
    sets: EvaluationSets
    units: Mapping[str, Sequence[Shard]]
    """The units of work of each evaluation set."""
    hash_kind: str

    @property
    def inputs(self) -> Record:
        """Fingerprints of all that is read."""
        return {
            "shards": {shard.name: shard.fingerprint for shard in self.shards},
            "against": {name: digest([unit.fingerprint for unit in units]) for name, units in self.units.items()},
            "hash": self.hash_kind,
            "key_lists": keys.digests(self.key_lists),
        }


def _scan_pool(work: _Work) -> dict[str, int]:
    """Scan the images of all shards; return COUNTS."""
    model = work.config.embedding_model
    if model is not None:
        hashing.load_model(model)  # one that cannot be loaded is reported before any shard
    scan = functools.partial(scan_pool_shard, run_dir=work.run_dir, folder=work.folder / "images", model=model)
    return _scan(work, "images", scan, work.shards, {"pool": work.pool.identity})


def _scan_sets(work: _Work) -> dict[str, int]:
    """Scan the images of the evaluation sets; return their number by set."""
    num_images = {}
    for name, units in work.units.items():
        part = f"against/{name}"
        scan = work.sets.scan(name, work.folder / part, work.config.embedding_model)
        num_images[name] = _scan(work, part, scan, units, {})["images"]
        _remove_stale_rows(work.folder, part, units)
    return num_images


def _scan(
    work: _Work, part: str, scan: Callable[[Shard], Report], shards: Sequence[Shard], key: Record
) -> dict[str, int]:
    """Write folder/part/<shard>.parquet of all shards; return COUNTS.

    key: what decides the files, besides the hash.
    """
    done_dir = layout.done_dir(work.folder, part)
    key = {**key, "hash": work.hash_kind, "decoder": decode.VERSION}
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
    config, folder = work.config, work.folder
    skipped = skipped_shards(work.run_dir)
    images = _scan_pool(work)
    _remove_stale_rows(folder, "images", work.shards)
    num_references = _scan_sets(work)
    pairs = decide.Pairs.read(folder / "images", work.shards)
    decide.remove_excluded(pairs, work.key_lists)
    if work.units:
        radius = config.radius if config.against_radius is None else config.against_radius
        decide.decontaminate(pairs, read_references(folder / "against", work.units), radius)
    num_repeated_keys = decide.remove_elsewhere(pairs)
    if config.duplicates != "keep":
        decide.remove_duplicates(pairs, config)
    write_tables(folder / "valid_keys.parquet", pairs.tables(is_valid=True), VALID_KEYS)
    write_tables(folder / "removed.parquet", pairs.tables(is_valid=False), REMOVED)
    removed = Counter(pairs.rule.tolist())
    num_valid = removed.pop(None, 0)
    report: CheckReport = {
        "counts": {"pairs_in": len(pairs.rule), "valid": num_valid, "removed": dict(sorted(removed.items()))},
        "images": images,
        "against": num_references,
        "keys_in_several_shards": num_repeated_keys,
        "radius": config.radius,
        "skipped": skipped,
        "largest_distance": int(pairs.distance[pairs.rule == decide.NEAR_DUPLICATE].max(initial=0)),
    }
    write_report(folder, report)
    _say_cautions(work, report)
    manifest = {"source": work.pool.location, "skipped": skipped}
    return Result(report=report, counts=report["counts"], manifest=manifest)


def _say_cautions(work: _Work, report: CheckReport) -> None:
    """Say what the list of valid keys cannot tell, and what to look at before it is used."""
    removed, num_images = report["counts"]["removed"], report["images"]["images"]
    num_near = removed.get(decide.NEAR_DUPLICATE, 0)
    num_duplicates = num_near + removed.get(decide.BYTE_DUPLICATE, 0)
    cautions = []
    if num_repeated := report["keys_in_several_shards"]:
        cautions.append(
            f"{num_repeated:,} keys are in several shards; valid_keys cannot tell their pairs apart; also set "
            "pool.deny_keys to the list of: worldclip pool dedup"
        )
    if num_duplicates > MANY_DUPLICATES * num_images:
        cautions.append(
            f"{num_duplicates:,} of {num_images:,} images are duplicates and go with all their texts, those in other "
            'languages included. To keep the pairs: duplicates = "keep"'
        )
    if num_near:
        radius, largest = report["radius"], report["largest_distance"]
        chains = f", above the radius of {radius} through chains of near pairs" if largest > radius else ""
        is_grey = work.config.embedding_model is None
        colours = " (the hash sees grey: two colours of one shape are near)" if is_grey else ""
        cautions.append(
            f"{num_near:,} near duplicates{colours}; largest distance to the pair that stays: {largest} of 64 bits"
            f"{chains}. Look at the groups before you use the list: {layout.report_html(work.folder)}"
        )
    for caution in cautions:
        say("check", caution)
