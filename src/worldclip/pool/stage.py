"""The stage: draw the pool if the recipe names a builder, list the pool's shards, index their images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.records import Skipped, skipped_shards
from worldclip.contracts.schemas import POOL_INDEX
from worldclip.core import artifacts, keys
from worldclip.core.changes import Change, changed_inputs
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Report, Shard, add_counts, reads_input
from worldclip.core.execute.shard_list import ShardList, read_shards
from worldclip.core.inputs import is_remote
from worldclip.core.job import ALL_SHARDS, Job, Record, Result, Run, files_per_shard
from worldclip.core.preflight import missing_packages, problems_of
from worldclip.core.printable import counted
from worldclip.pool import hub
from worldclip.pool.broken import map_pool
from worldclip.pool.builders import builder_of
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_source
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import INDEX_COUNTS
from worldclip.pool.formats.columns_format import ColumnsFormat
from worldclip.pool.formats.parquet import PARQUET, Footers
from worldclip.pool.listing import list_shards, split_pattern
from worldclip.pool.read import holds_images, index_of


def open_pool(source: str | Path, key: str | None = None) -> Run:
    """Return the context of any pool: a folder or URL of pairs, a run, or a .toml with [pool].

    key: in place of its pool.key.  Raises UserError for problems with the section, and for unknown sections.
    """
    path = Path(source)
    is_recipe = path.suffix == ".toml" or layout.is_run(path)
    run = Run.open(path) if is_recipe else Run.of(path, PoolConfig(path=str(source)))
    if key is None and is_recipe:
        return run
    config = run.section(PoolConfig)
    config = dataclasses.replace(config, key=key or config.key)
    if problems := config.problems():
        raise UserError(problems)
    return dataclasses.replace(run, sections={**run.sections, "pool": config})


def shards(run: Run, part: slice = ALL_SHARDS) -> ShardList:
    """Return the pool's files as `list_shards` does, of a pool that the run builds those in RUN/pool/pairs.

    part: which of the sorted files; the others are not opened.
    """
    config = run.section(PoolConfig)
    if config.build:
        config = dataclasses.replace(config, path=str(layout.built_pairs(run.dir)))
    return list_shards(config, part=part)


def indexed_shards(run: Run, part: slice = ALL_SHARDS) -> ShardList:
    """Return `shards` as the pool's index has them, without the broken ones: what later stages read.

    Raises UserError that names shards which changed after the index was written, and if there is no index.
    """
    indexed = artifacts.require_manifest(run.dir, "pool")["inputs"].get("shards")
    found = shards(run, part)
    if indexed is None:  # a pool that the run builds has only itself as input
        return found
    changed = [name for name, *_ in found.changes(read_shards(layout.pool_shards(run.dir))[part])]
    if changed:
        names = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise UserError(f"pool.path: {names} changed after the pool was indexed; run: worldclip run {run.dir}")
    skipped = skipped_shards(run.dir)
    return ShardList(shard for shard in found if shard.name not in skipped) if skipped else found


def key_lists(run: Run) -> tuple[keys.KeyList, ...]:
    """Return the valid list and the deny lists of the recipe.  Raises UserError naming all other files."""
    config = run.section(PoolConfig)
    return keys.key_lists(config.valid_keys, config.deny_keys, layout.sorted_lists(run.dir))


def index(run: Run) -> None:
    """Build the pool that the recipe asks for, if any, then write RUN/pool/index/<shard>.parquet of every shard."""
    run.stage(
        "pool", inputs=_inputs, work=_index_pool, needs=_needs, check=_check, work_on_part=_index_part, changes=_changes
    )


def _needs(run: Run) -> Iterator[str]:
    config = run.section(PoolConfig)
    if builder := builder_of(config):
        yield from missing_packages("pool", builder.requires.modules, extra=builder.requires.extra)
        yield from builder.problems(config)
    elif any(map(hub.is_dataset, config.paths)):
        yield from missing_packages("pool", extra="hub")
    elif not any(map(is_remote, config.paths)):  # a listing of a store may take minutes
        yield from problems_of(lambda: check_names(shards(run, run.part_or_all), config))


def _inputs(run: Run) -> Record:
    config = run.section(PoolConfig)
    if builder := builder_of(config):
        record: Record = builder.inputs(config)
        return record
    return {"shards": shards(run).record}


def _changes(run: Run, old: Record, new: Record) -> list[Change]:
    """Return each shard that changed, by the list of the index; without it, that the list did."""
    before, after = old.get("shards"), new.get("shards")
    if before == after or before is None or after is None:
        return changed_inputs(old, new)
    table = layout.pool_shards(run.dir)
    older = read_shards(table) if table.exists() else None
    if older is None or older.record != before:
        return [Change("shards", before, after, is_value=False)]
    return [Change(*change, is_value=False) for change in shards(run).changes(older)]


def _index_pool(run: Run, job: Job) -> Result:
    config = run.section(PoolConfig)
    report: Report = {}
    builder = builder_of(config)
    if builder:
        report["built"] = builder.build(job.folder, config, run.executor)
    pool_shards = shards(run)
    has_images = holds_images(pool_shards, config)
    reports, skipped = _index(run, pool_shards)
    totals = add_counts(reports, INDEX_COUNTS)
    counts = {"shards": len(reports), "samples": totals.pop("pairs"), **totals}
    left_out = f"; {totals['left_out']:,} left out by pool.where" if totals["left_out"] else ""
    if counts["samples"] == 0:
        members = "tar members like 000000.jpg, 000000.txt; rows, where img2dataset's status is success"
        raise UserError(f"pool.path: {counted(len(pool_shards), 'shard')} without any pair ({members}){left_out}")
    without = counts["samples"] - totals["images"]
    note = f", {without:,} without an image" if has_images and without else ""
    say("pool", f"{counted(counts['samples'], 'pair')} in {counted(counts['shards'], 'shard')}{note}{left_out}")
    pool_shards.write(layout.pool_shards(run.dir))
    names = [name for name in pool_shards.names() if name not in skipped]
    own: list[str | Path] = [
        layout.pool_shards(run.dir),
        *files_per_shard(job.folder / "index", names, ".parquet"),
        *files_per_shard(layout.done_dir(job.folder, "index"), names, ".json"),
        *(job.folder / name for name in ((*builder.OUTPUTS, "held_out.json") if builder else ())),
    ]
    report |= {**counts, "skipped": skipped}
    return Result(report=report, counts=counts, outputs=own, manifest={"source": config.place, "skipped": skipped})


def _index_part(run: Run, part: slice) -> Sequence[Report]:
    return _index(run, shards(run, part))[0]


def _check(run: Run, job: Job) -> None:
    """Raise UserError for another pool, a column that no shard has, and slices of a pool that the run builds."""
    config = run.section(PoolConfig)
    if "pool" not in run.restarted:
        check_source(job, config.place, "choose another --out, or start anew with --from pool")
    if not config.build:
        pool_shards = shards(run, run.part_or_all)
        check_place(run.dir, pool_shards, config)
        check_names(pool_shards, config)
    elif run.part is not None:
        raise UserError(f"--shards with pool.build = {config.build!r}; build the pool first, without --shards")


def _index(run: Run, shards: Sequence[Shard]) -> tuple[Sequence[Report], Skipped]:
    pool, folder = run.section(PoolConfig), layout.stage_dir(run.dir, "pool")
    check_names(shards, pool)
    index = functools.partial(index_shard, pool, folder / "index")
    key = {**pool.identity, "counts": INDEX_COUNTS}
    done_dir = layout.done_dir(folder, "index")
    return map_pool(run.executor, pool, index, shards, label="index", done_dir=done_dir, key=key)


def check_place(folder: Path, shards: Sequence[Shard], pool: PoolConfig, *, has_tars: bool = False) -> None:
    """Raise UserError if what is written to a folder would become shards of the pool: tables in a pool of tables.

    has_tars: tars are written as well.
    """
    written = (*PARQUET.suffixes, ".tar") if has_tars else PARQUET.suffixes
    if not shards or not shards[0].name.endswith(written):
        return
    place = folder.resolve()
    for path in pool.paths:
        if is_remote(path):
            continue
        top = Path(split_pattern(path)[0]).resolve()
        if top in place.parents and not any(part.startswith(".") for part in place.relative_to(top).parts):
            raise UserError(
                f"{folder} is in the pool's folder {path}, so the {Path(shards[0].name).suffix} files that are "
                "written there would be shards of the pool; choose a folder outside (--out)"
            )


def check_names(shards: Sequence[Shard], pool: PoolConfig, *, is_key_only: bool = False) -> None:
    """Raise UserError for a column that no shard has: the recipe is wrong.  If some shards have it, the others are bad.

    is_key_only: check only pool.key.  Stops at the first shard that has it, so it opens one shard of a right recipe.
    """
    if pool.image_field is not None and not any(isinstance(format_of(s.name), ColumnsFormat) for s in shards):
        raise UserError("pool.image_field: only Parquet, CSV and TSV have columns of images or of paths; remove it")
    if pool.where and shards and shards[0].name.endswith(".tar"):
        raise UserError("pool.where: only tables have rows to choose; list the keys of tars in pool.valid_keys")
    first: WrongColumns | None = None
    for shard in shards:
        try:
            format_of(shard.name).check_columns(shard, pool, is_key_only=is_key_only)
        except WrongColumns as error:
            first = first or error
        except BadShard:  # reported when the shard is indexed, or without pairs
            continue
        else:
            return
    if first is not None:
        raise UserError(first.problems)


@reads_input
def index_shard(config: PoolConfig, folder: Path, shard: Shard) -> Report:
    """Write where the image of each pair is; return INDEX_COUNTS."""
    if format_of(shard.name) is PARQUET:
        Footers().read_texts(shard, config)  # match would find a wrong column hours later
    table, counts = index_of(shard, config)
    artifacts.write_table(folder / f"{shard.name}.parquet", table, POOL_INDEX)
    return counts
