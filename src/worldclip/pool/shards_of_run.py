"""The shards of a run's pool: as they lie there now, and as the stage pool recorded them."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress

from worldclip.contracts import layout
from worldclip.contracts.records import skipped_shards
from worldclip.core import artifacts, job_files
from worldclip.core.changes import changed_keys, name_changes
from worldclip.core.errors import NUM_NAMED, UserError
from worldclip.core.execute import Shard
from worldclip.core.execute.shard_list import InputFile, ShardList
from worldclip.core.inputs import fingerprint_of, is_remote
from worldclip.core.job import ALL_SHARDS, Run
from worldclip.core.printable import command_line
from worldclip.pool.config import PoolConfig
from worldclip.pool.listing import list_input_files, list_shards, place_of


def list_pool(run: Run, part: slice = ALL_SHARDS) -> ShardList:
    """List the pool's files as `list_shards` does; a pool that the run builds has them in RUN/pool/train.

    part: which of the sorted files; the others are not opened.
    """
    config = run.section(PoolConfig)
    if config.build:
        config = dataclasses.replace(config, path=str(layout.built_pool(run.dir)))
    return list_shards(config, part=part)


def expected_files(run: Run, *, at_urls: bool) -> list[InputFile]:
    """Return the files of the shards that the stage will find; empty for a pool that it builds or does not read.

    For checks before the stage works; what is wrong with the places is said by the stage itself.  at_urls: list a pool
    at URLs too, which may take minutes.
    """
    config = run.section(PoolConfig)
    if not run.asks_for("pool") or config.build or (any(map(is_remote, config.paths)) and not at_urls):
        return []
    with suppress(UserError):
        return list_input_files(config)
    return []


def indexed_shards(run: Run, part: slice = ALL_SHARDS) -> ShardList:
    """Return the shards as the stage recorded them, without the broken ones: what later stages read.

    Raises UserError if the stage is not finished.
    """
    artifacts.require_manifest(run.dir, "pool")
    skipped = skipped_shards(run.dir)
    pictures = job_files.read_record(layout.pool_pictures(run.dir)) or {}
    shards = ShardList()
    for shard in ShardList.read(layout.pool_shards(run.dir))[part]:
        if shard.name in skipped:
            continue
        if not is_remote(shard.path) and not os.path.isabs(shard.path):
            path = place_of(run, shard)
            if not path.endswith(f"/{shard.path}"):  # a place may be one file
                path = f"{path}/{shard.path}"
            shard = dataclasses.replace(shard, path=path)
        shards.append(with_pictures(shard, pictures.get(shard.name)))
    return shards


def with_pictures(shard: Shard, pictures: str | None) -> Shard:
    """Return the shard; the digest of its pictures in files of their own, if any, is part of the fingerprint."""
    if not pictures:
        return shard
    return dataclasses.replace(shard, fingerprint={**shard.fingerprint, "pictures": pictures})


def refuse_replaced_files(run: Run) -> None:
    """Raise UserError for local files of the pool that are not those that the stage read: images lie elsewhere in them.

    For readers of images in a call of their own; `worldclip run` reads such files again.  Only files that were written,
    renamed or copied since the stage listed them, or have another time than then, are hashed.
    """
    listed = job_files.read_record(layout.pool_listed_at(run.dir)) or {"ns": 0, "mtime_ns": {}}
    replaced = []
    for shard in indexed_shards(run):
        if is_remote(shard.path) or not os.path.exists(shard.path):
            continue
        stat = os.stat(shard.path)
        is_newer = max(stat.st_mtime_ns, stat.st_ctime_ns) >= listed["ns"]
        if is_newer or stat.st_mtime_ns != listed["mtime_ns"].get(shard.name):
            present = fingerprint_of(shard.path, shard.fingerprint["path"])
            if any(shard.fingerprint[name] != value for name, value in present.items()):
                replaced.append(shard.name)
    if replaced:
        names = ", ".join(replaced[:NUM_NAMED])
        if len(replaced) > NUM_NAMED:
            names += f" and {len(replaced) - NUM_NAMED:,} more"
        raise UserError(
            f"{names} changed since the stage pool read the pool; run first: "
            f"{command_line('run', run.dir, '--until', 'curate')}"
        )


def refuse_changed_keys(run: Run) -> None:
    """Raise UserError where RUN/pool was made under other keys of [pool] than those of the recipe."""
    changes = changed_keys(artifacts.require_manifest(run.dir, "pool")["config"], run.deciding("pool"))
    if changes:
        raise UserError(
            f"{run.dir / 'pool'} is out of date: {name_changes(changes)}; run first: {command_line('run', run.dir)}"
        )
