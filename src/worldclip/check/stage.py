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
from worldclip.contracts.records import Skipped
from worldclip.contracts.schemas import REMOVED, VALID_KEYS
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
from worldclip.pool.broken import map_pool
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.stage import check_names, check_place

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
    plan = functools.partial(_plan, pool, Path(out), config, executor)
    work = plan()
    record = {
        "pool": work.pool.identity_of_texts,
        "check": to_dict(work.config),
        "broken_shards": work.pool.broken_shards,
    }
    job = Job("check", work.folder, record, lambda: plan().inputs)
    check_source(job, work.pool.place)
    return job.run_once(lambda: _check(plan()))


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
    work = _plan(pool, Path(out), config, executor, part)
    with RunLock(work.folder, is_shared=True, owner="check"):
        _scan_pool(work)
    say("check", f"{counted(len(work.shards), 'shard')} scanned. Rerun without --shards to finish.")
    return len(work.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A check and what it runs on."""

    pool: PoolConfig
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
        }


def _plan(
    pool: PoolConfig | Run,
    folder: Path,
    config: CheckConfig | None,
    executor: Executor | None,
    part: slice = ALL_SHARDS,
) -> _Work:
    """Find the inputs.  Raises UserError for mistakes in the config, before any work."""
    check_own(folder, "check")
    run = pool if isinstance(pool, Run) else Run.of(folder, pool)
    pool_config, rules = run.section(PoolConfig), config or CheckConfig()
    sets = EvaluationSets.of(rules, run.section(EvaluateConfig), run.dir)
    problems = [*rules.problems(), *sets.problems(), *missing_packages("pool check", ["PIL"], extra="pool")]
    if rules.embedding_model is not None:
        problems += missing_packages("embedding_model", TORCH.modules, extra=TORCH.extra)
    if problems:
        raise UserError(problems)
    shards = pools.shards(run, part)
    check_place(folder, shards, pool_config)
    check_names(shards, pool_config)
    if not pools.holds_images(shards, pool_config):
        raise UserError(f"{shards[0].name}: the pool holds no images, which pool check compares; download them first")
    return _Work(
        pool=pool_config,
        config=rules,
        folder=folder,
        shards=shards,
        executor=executor or LocalExecutor(),
        sets=sets,
        units=sets.units(),
        hash_kind=hashing.hash_kind(rules),
    )


def _scan_pool(work: _Work) -> tuple[dict[str, int], Skipped]:
    """Scan the images of all shards; return COUNTS, and the broken shards."""
    model = work.config.embedding_model
    if model is not None:
        hashing.load_model(model)  # one that cannot be loaded is reported before any shard
    scan = functools.partial(scan_pool_shard, pool=work.pool, folder=work.folder / "images", model=model)
    return _scan(work, work.pool, "images", scan, work.shards, {"pool": work.pool.identity_of_texts})


def _scan_sets(work: _Work) -> dict[str, int]:
    """Scan the images of the evaluation sets; return their number by set."""
    num_images = {}
    for name, units in work.units.items():
        part = f"against/{name}"
        scan = work.sets.scan(name, work.folder / part, work.config.embedding_model)
        num_images[name] = _scan(work, PoolConfig(), part, scan, units, {})[0]["images"]
        _remove_stale_rows(work.folder, part, units)
    return num_images


def _scan(
    work: _Work, pool: PoolConfig, part: str, scan: Callable[[Shard], Report], shards: Sequence[Shard], key: Record
) -> tuple[dict[str, int], Skipped]:
    """Write folder/part/<shard>.parquet of all shards; return COUNTS, and the broken shards that `pool` skips.

    key: what decides the files, besides the hash.
    """
    done_dir = layout.done_dir(work.folder, part)
    key = {**key, "hash": work.hash_kind, "decoder": decode.VERSION}
    label = part.partition("/")[0]
    reports, skipped = map_pool(work.executor, pool, scan, shards, label=label, done_dir=done_dir, key=key)
    return add_counts(reports, COUNTS), skipped


def _remove_stale_rows(folder: Path, part: str, shards: Sequence[Shard]) -> None:
    """Remove the rows and markers of shards that are gone.

    Result.outputs would also remove the user's own files, and the rows of evaluation sets that are not set now.
    """
    markers = layout.done_dir(folder, part)  # first: a marker says that its rows are there
    remove_stale(markers, [layout.marker_in(markers, shard.name) for shard in shards])
    remove_stale(folder / part, [hashes_path(folder / part, shard) for shard in shards])


def _check(work: _Work) -> Result:
    config, folder = work.config, work.folder
    images, skipped = _scan_pool(work)
    shards = [shard for shard in work.shards if shard.name not in skipped]
    _remove_stale_rows(folder, "images", shards)
    num_references = _scan_sets(work)
    pairs = decide.Pairs.read(folder / "images", shards)
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
    manifest = {"source": work.pool.place, "skipped": skipped}
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
