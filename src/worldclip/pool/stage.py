"""The stage: draw the pool if the recipe names a builder, list its shards, read each once.

    RUN/pool/shards.parquet            name, path and fingerprint of each shard
    RUN/pool/pairs/<shard>.parquet     its texts, with the reasons of those that are dropped
    RUN/pool/images/<shard>.parquet    where its images are

After this stage only the reader of images opens the pool.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.records import Skipped
from worldclip.contracts.schemas import POOL_IMAGES, POOL_PAIRS
from worldclip.contracts.summary import LEFT_OUT, pool_steps, texts_step
from worldclip.core import artifacts
from worldclip.core.changes import Change, changed_inputs
from worldclip.core.console import say
from worldclip.core.errors import NUM_NAMED, BadShard, StageFailed, UserError
from worldclip.core.execute import Executor, Report, Shard, add_counts
from worldclip.core.execute.shard_list import ShardList
from worldclip.core.inputs import is_remote
from worldclip.core.job import ALL_SHARDS, Job, Record, Result, Run, files_per_shard
from worldclip.core.preflight import missing_packages, problems_of
from worldclip.core.printable import counted
from worldclip.pool import hub
from worldclip.pool.builders import builder_of
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import format_of
from worldclip.pool.listing import check_place, options_of, place_of, require_place, shards_by_place
from worldclip.pool.pairs import COUNTS, read_shard, refuse_wrong_columns
from worldclip.pool.picture_files import digest_of_pictures
from worldclip.pool.shards_of_run import indexed_shards, list_pool, refuse_replaced_files, with_pictures

NUM_WARNINGS = 3  # shards without texts that the log names


def open_pool(source: str | Path, key: str | None = None) -> Run:
    """Return the context of any pool: a folder or URL of pairs, a run, or a .toml with [pool].

    key: in place of its pool.key.  Raises UserError for a missing folder, problems with the section, unknown sections.
    """
    path = Path(source)
    if path.suffix == ".toml" or layout.is_run(path):
        run = Run.open(path)
        if key is None:
            return run
    else:
        require_place(str(source))
        run = Run.of(path, PoolConfig(path=str(source)))
    config = run.section(PoolConfig)
    config = dataclasses.replace(config, key=key or config.key)
    problems = config.problems()
    if problems:
        raise UserError(problems)
    return dataclasses.replace(run, sections={**run.sections, "pool": config})


def is_run(run: Run) -> bool:
    """Return whether an opened pool is that of a run; a recipe may lie in any folder, a run's too."""
    return run.folder is None and layout.is_run(run.dir)


def read_pool(
    run: Run, folder: Path, part: slice = ALL_SHARDS, *, needs_texts: bool = True, executor: Executor | None = None
) -> tuple[Run, ShardList]:
    """Return the context under which the pairs of an opened pool are read, and its shards, for a tool.

    The pairs are those of the run, whose pool must be finished; of any other pool the stage writes FOLDER/pool first.
    folder: the tool's folder, whose lock it holds.  part: the shards to read.  needs_texts: see `read_shard`.
    """
    config = run.section(PoolConfig)
    if is_run(run) and Run.open(run.dir).section(PoolConfig).identity == config.identity:
        refuse_replaced_files(run)
        return run, indexed_shards(run, part)
    tool_run = Run.of(folder, config, executor=executor or run.executor)
    if config.image_field is not None:
        _forget_changed_pictures(tool_run, list_pool(tool_run, part))
    if part == ALL_SHARDS:
        index(tool_run, needs_texts=needs_texts, is_tool=True)
        return tool_run, indexed_shards(tool_run)
    shards = list_pool(tool_run, part)
    reports, skipped = _index_slice(tool_run, shards, needs_texts=needs_texts)
    whole = [shard for shard in shards if shard.name not in skipped]
    return tool_run, ShardList(map(with_pictures, whole, [report["pictures"] for report in reports]))


def _forget_changed_pictures(run: Run, shards: Sequence[Shard]) -> None:
    """Let the stage read those tables again whose pictures were replaced, came or went: no fingerprint covers them.

    A table that has not been read, or holds its images itself, stays as it is.
    """
    config = run.section(PoolConfig)
    stage_dir = layout.stage_dir(run.dir, "pool")
    for shard in shards:
        marker = layout.marker(stage_dir, shard.name, "shards")
        if not format_of(shard.name).is_table or not marker.exists():
            continue
        before = artifacts.read_json(marker)["report"]
        pictures = before.get("pictures", "")  # an older release wrote none, and its tables are read again
        if before["images"] and not pictures:
            continue
        try:
            images = read_shard(shard, options_of(config, shard.name), needs_texts=False).images
            is_changed = digest_of_pictures(shard.path, images) != pictures
        except BadShard:
            is_changed = True  # the stage names the reason
        if is_changed:
            say("pool", f"pictures that {shard.name} names have changed")
            (stage_dir / artifacts.MANIFEST).unlink(missing_ok=True)
            marker.unlink()


def index(run: Run, *, needs_texts: bool = True, is_tool: bool = False) -> None:
    """Build the pool that the recipe asks for, if any, then write pairs and images of every shard.

    needs_texts: see `read_shard`.  is_tool: the pool is written to the folder of a tool, not to a run.
    """
    # once per call; changes are for the next one
    listed = functools.cache(lambda: list_pool(run, run.part or ALL_SHARDS))
    begun_at = time.time_ns()
    run.stage(
        _job(run, listed),
        problems=functools.partial(_problems, listed=listed, needs_texts=needs_texts, is_tool=is_tool),
        work=functools.partial(_index_pool, listed=listed, begun_at=begun_at, needs_texts=needs_texts),
        work_on_part=lambda run, part: _index_slice(run, listed(), needs_texts=needs_texts)[0],
    )


def _job(run: Run, listed: Callable[[], ShardList]) -> Job:
    inputs = functools.partial(_inputs, listed=listed)
    return run.job("pool", inputs, changes=functools.partial(_changes, run, listed=listed))


def _problems(run: Run, *, listed: Callable[[], ShardList], needs_texts: bool, is_tool: bool) -> Iterator[str]:
    """Yield another pool, missing packages, columns that no shard has, slices of a pool that the run builds."""
    config = run.section(PoolConfig)
    builder = builder_of(config)
    if builder:
        yield from missing_packages("pool", builder.requires.modules, extra=builder.requires.extra)
        yield from builder.problems(config)
        if run.part is not None:
            yield f"--shards with pool.build = {config.build!r}; build the pool first, without --shards"
        return
    if any(map(hub.is_dataset, config.paths)):
        absent = list(missing_packages("pool", extra="hub"))
        yield from absent
        if absent:
            return
    if run.above_is_done:
        yield from problems_of(lambda: _refuse_other_pool(run, listed, is_tool=is_tool))
    if run.is_dry and not any(map(is_remote, config.paths)):  # a listing of a store may take minutes
        yield from problems_of(lambda: refuse_wrong_columns(listed(), config, needs_texts=needs_texts))


def _inputs(run: Run, *, listed: Callable[[], ShardList]) -> Record:
    config = run.section(PoolConfig)
    builder = builder_of(config)
    if builder:
        record: Record = builder.inputs(config)
        return record
    return {"shards": listed().record}


def _changes(run: Run, old: Record, new: Record, *, listed: Callable[[], ShardList]) -> list[Change]:
    """Return each shard that changed, by the list of the index; without it, that the list did."""
    before = old.get("shards")
    after = new.get("shards")
    if before == after or before is None or after is None:
        return changed_inputs(old, new)
    table = layout.pool_shards(run.dir)
    older = ShardList.read(table) if table.exists() else None
    if older is None or older.record != before:
        return [Change("shards", before, after, is_value=False)]
    return [Change(*change, is_value=False) for change in listed().changes(older)]


def reason_to_run(run: Run) -> str | None:
    """Return why the stage must run, naming the shards that changed; None if it is finished and unchanged.

    Lists only a pool of local folders: a listing of a store may take minutes.
    """
    config = run.section(PoolConfig)
    if config.build or any(map(is_remote, config.paths)):
        return None
    listed = functools.cache(lambda: list_pool(run))
    return _job(dataclasses.replace(run, sections={"pool": config}), listed).reason_to_run()


def num_left_out(run_dir: Path, shard: str) -> int:
    """Return how many rows of a shard pool.where leaves out, as the stage counted them."""
    marker = artifacts.read_json(layout.marker(layout.stage_dir(run_dir, "pool"), shard, "shards"))
    return int(marker["report"]["left_out"])


def _index_pool(run: Run, job: Job, *, listed: Callable[[], ShardList], begun_at: int, needs_texts: bool) -> Result:
    config = run.section(PoolConfig)
    report: Report = {}
    builder = builder_of(config)
    if builder:
        report["built"] = builder.build(job.folder, config, run.executor)
    pool_shards = listed()
    reports, skipped = _index(run, pool_shards, needs_texts=needs_texts, is_slice=False)
    totals = add_counts(reports, COUNTS)
    counts = {"shards": len(reports), **totals}
    if totals["samples"] == 0:
        left_out = f"; {totals['left_out']:,} {LEFT_OUT}" if totals["left_out"] else ""
        raise UserError(
            f"pool.path: {counted(len(pool_shards), 'shard')} without any pair (tar members like 000000.jpg, "
            f"000000.txt; rows, where img2dataset's status is success){left_out}"
        )
    report |= {**counts, "skipped": skipped}
    for step in (*pool_steps(report), texts_step(report)):
        say("pool", str(step))
    whole = [shard for shard in pool_shards if shard.name not in skipped]
    if needs_texts:
        num_named = 0
        for shard, shard_report in zip(whole, reports, strict=True):
            if shard_report["texts"] or not shard_report["samples"] or num_named == NUM_WARNINGS:
                continue
            num_named += 1
            number = f"{shard_report['samples']:,}"
            has = ", ".join(shard_report["names"]) or "nothing"
            say("pool", f"warning: {shard.name}: none of its {number} samples has a text; it has: {has}")
    relative = ShardList()  # paths within the places, so that a pool and a run may be moved
    for shard in pool_shards:
        place = place_of(run, shard)
        folder = os.path.dirname(place) if shard.path == place else place
        path = shard.path.removeprefix(f"{folder}/")  # of the hub: whole, at a commit
        relative.append(dataclasses.replace(shard, path=path))
    relative.write(layout.pool_shards(run.dir))
    names = [shard.name for shard in whole]
    outputs: list[str | Path] = [
        layout.pool_shards(run.dir),
        layout.pool_listed_at(run.dir),
        layout.sorted_lists(run.dir),  # match removes those that it does not look up
        *files_per_shard(layout.all_pool_pairs(run.dir), names, ".parquet"),
        *files_per_shard(layout.all_pool_images(run.dir), names, ".parquet"),
        *files_per_shard(layout.done_dir(job.folder, "shards"), names, ".json"),
    ]
    if builder:
        outputs += [job.folder / name for name in (*builder.OUTPUTS, "held_out.json")]
    present = [shard for shard in whole if not is_remote(shard.path) and os.path.exists(shard.path)]
    times = {shard.name: os.stat(shard.path).st_mtime_ns for shard in present}
    listed_at = time.time_ns() if builder else begun_at
    artifacts.write_json(layout.pool_listed_at(run.dir), {"ns": listed_at, "mtime_ns": times}, is_compact=True)
    manifest: Report = {"source": config.location, "skipped": skipped}
    pictures = {shard.name: found["pictures"] for shard, found in zip(whole, reports, strict=True) if found["pictures"]}
    artifacts.remove(layout.pool_pictures(run.dir))
    if pictures:  # no fingerprint of a table covers them
        artifacts.write_json(layout.pool_pictures(run.dir), pictures)
        manifest["digests"] = pictures
        outputs.append(layout.pool_pictures(run.dir))
    return Result(report=report, counts=counts, outputs=outputs, manifest=manifest)


def _refuse_other_pool(run: Run, listed: Callable[[], ShardList], *, is_tool: bool) -> None:
    """Raise UserError for another pool than that of the folder, and for a folder in a pool of tables."""
    config = run.section(PoolConfig)
    is_kept = not is_tool or artifacts.read_manifest(run.dir) is not None  # not what a call of a tool left unfinished
    manifest = artifacts.read_manifest(run.dir / "pool") or {}
    source = manifest.get("source", config.location)
    if source != config.location and "pool" not in run.restarted and is_kept:
        table = layout.pool_shards(run.dir)
        older: set[tuple[str, str]] = set()
        if table.exists() and not config.build:
            older = {(shard.name, artifacts.digest(shard.fingerprint)) for shard in ShardList.read(table)}
        # A pool at another place is the one that was indexed if one of its files is the same.
        if not older or not any((shard.name, artifacts.digest(shard.fingerprint)) in older for shard in listed()):
            remedy = "choose another --out" if is_tool else "choose another --out, or start anew with --from pool"
            raise UserError(f"{run.dir / 'pool'} was made from {source}, not from {config.location}; {remedy}")
    check_place(run.dir, listed().names(), config)


def _index_slice(run: Run, shards: Sequence[Shard], *, needs_texts: bool) -> tuple[Sequence[Report], Skipped]:
    """Do as `_index` for some shards of the pool, and name those that are broken."""
    reports, skipped = _index(run, shards, needs_texts=needs_texts, is_slice=True)
    for line in skipped_lines(skipped):
        say("pool", line)
    return reports, skipped


def _index(run: Run, shards: Sequence[Shard], *, needs_texts: bool, is_slice: bool) -> tuple[Sequence[Report], Skipped]:
    """Write pairs and images of each shard; return the reports, and under broken_shards = "skip" the broken shards.

    is_slice: these are not all shards of the pool, so that all of them may be broken.  Raises StageFailed for shards
    that cannot be read, and UserError where the recipe names columns that no shard has, before all shards are read.
    """
    config = run.section(PoolConfig)
    map_shards = functools.partial(
        run.executor.map,
        functools.partial(index_shard, config=config, run_dir=run.dir, needs_texts=needs_texts),
        label="pool",
        done_dir=layout.done_dir(layout.stage_dir(run.dir, "pool"), "shards"),
        key={**config.identity, "counts": [*COUNTS, "pictures"], "needs_texts": needs_texts},
    )
    try:
        first_reports = map_shards([of_place[0] for _, of_place in shards_by_place(shards, config)])
        is_right = all(report["rows"] and not report["missing"] for report in first_reports)
    except StageFailed:  # it is tried again with all others
        is_right = False
    if not is_right:
        refuse_wrong_columns(shards, config, needs_texts=needs_texts)
    try:
        return map_shards(shards), {}
    except StageFailed as error:
        all_failed = len(error.failures) == len(shards)
        is_damage = len(error.broken) == len(error.failures)
        if config.broken_shards == "skip" and is_damage and (is_slice or not all_failed):
            whole = [shard for shard in shards if shard.name not in error.broken]
            return map_shards(whole), dict(sorted(error.failures.items()))
        if all_failed:
            refuse_wrong_columns(shards, config, needs_texts=needs_texts)
        if config.broken_shards == "stop" and error.broken:
            remedy = f'{error.remedy}; pool.broken_shards = "skip" goes on without all of their pairs'
            raise StageFailed(error.stage, error.failures, remedy, error.broken) from error
        raise


def skipped_lines(skipped: Skipped) -> list[str]:
    """Return a line that says which shards were left out, and why; none if none was."""
    if not skipped:
        return []
    line = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:NUM_NAMED])
    if len(skipped) > NUM_NAMED:
        line += f"; and {len(skipped) - NUM_NAMED:,} more"
    return [f"skipped broken shards, {len(skipped):,} in all: {line}"]


def index_shard(shard: Shard, *, config: PoolConfig, run_dir: Path, needs_texts: bool) -> Report:
    """Read a shard and write its pairs and images.

    Return COUNTS, what it lacks, its columns if it has no text, and a digest of pictures in files of their own.
    """
    settled = read_shard(shard, options_of(config, shard.name), needs_texts=needs_texts)
    artifacts.write_table(layout.pool_pairs(run_dir, shard.name), settled.texts.to_table(), POOL_PAIRS)
    artifacts.write_table(layout.pool_images(run_dir, shard.name), settled.images, POOL_IMAGES)
    return {
        **settled.counts,
        "holds_images": settled.holds_images,
        "pictures": digest_of_pictures(shard.path, settled.images),
        "names": [] if settled.counts["texts"] else list(settled.names),
        "missing": list(settled.missing),
    }
