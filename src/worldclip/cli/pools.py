"""Commands on pools: build, check, deduplicate, hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldclip.cli.flags import Work, executor_of, read_part


@dataclass(frozen=True, kw_only=True)
class PoolEmojiCommand:
    """Draw the emoji pool: 3,944 images with names in 14 languages, and two held-out sets."""

    out: str
    """Folder to write."""
    image_px: int = 64
    """Side of a drawing in pixels."""
    samples_per_shard: int = 500
    """Samples in a tar."""


def _pool_emoji(command: PoolEmojiCommand) -> int:
    from worldclip.pool.emoji import build_emoji

    build_emoji(Path(command.out), image_px=command.image_px, samples_per_shard=command.samples_per_shard)
    print(command.out)
    return 0


@dataclass(frozen=True, kw_only=True)
class PoolWatCommand(Work):
    """Image links and their texts of Common Crawl's WAT files as a Parquet pool, ready for img2dataset."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional]
    """WAT files, paths or URLs; files that are done are skipped, new ones extend the pool."""
    out: str
    """Folder of the pool."""
    num_shards: int | None = None
    """Parquet files; default: one for 2,000,000 links. A pool keeps its number."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the counts as JSON."""


def _pool_wat(command: PoolWatCommand) -> int:
    from worldclip.tools.wat import build_wat

    report = build_wat(command.files, Path(command.out), num_shards=command.num_shards, executor=executor_of(command))
    print(json.dumps(report, ensure_ascii=False, indent=None if command.json else 1))
    return 0


@dataclass(frozen=True, kw_only=True)
class PoolCheckCommand(Work):
    """Duplicates, decontamination, text, image and model rules, deny lists: which pairs of a pool are valid, and why.

    The keys of --config and --set are in docs/pool_check.md; without any, near duplicates and undecodable images go.
    """

    pool: Annotated[str, tyro.conf.Positional]
    """Folder of the pool, a run, or a .toml with a [pool] section."""
    out: str
    """Folder to write; its valid_keys.parquet is what pool.valid_keys takes."""
    config: Annotated[str | None, tyro.conf.arg(metavar="TOML")] = None
    """File of rules."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """key=value, over the file: --set radius=6, --set texts.min_chars=3; may be repeated."""
    shards: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Look at the images of the I-th of N parts of the shards alone, as the jobs of an array do beside each other; the
    same command without --shards then finishes the check."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


def _pool_check(command: PoolCheckCommand) -> int:
    from worldclip.check import check, load_config, look_at_shards
    from worldclip.pool import open_pool

    rules = load_config(command.config or {}, command.set)
    pool, executor = open_pool(command.pool), executor_of(command)
    if command.shards:
        look_at_shards(pool, command.out, read_part(command.shards), rules, executor=executor)
        return 0
    report = check(pool, command.out, rules, executor=executor)
    counts = report["counts"]
    if command.json:
        print(json.dumps(report, ensure_ascii=False))
        return 0
    print(f"{counts['valid']:,} of {counts['pairs_in']:,} pairs are valid: {Path(command.out) / 'valid_keys.parquet'}")
    for rule, count in counts["removed"].items():
        print(f"  {rule:<24} {count:>12,}")
    print(f"report: {Path(command.out) / 'report.html'}")
    return 0


@dataclass(frozen=True, kw_only=True)
class PoolDedupCommand(Work):
    """Keys that stand in several shards: which copies go, as a list for pool.deny_keys; the first shard's stays."""

    pool: Annotated[str, tyro.conf.Positional]
    """Folder of the pool, a run, or a .toml with a [pool] section."""
    out: str
    """Folder to write; its duplicates.parquet is what pool.deny_keys takes."""
    key: str | None = None
    """Where a pair's identity is: member, json:FIELD or a column; default: as the run or .toml says, else member."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the counts as JSON."""


def _pool_dedup(command: PoolDedupCommand) -> int:
    from worldclip.pool import open_pool
    from worldclip.tools.dedup import dedup

    report = dedup(open_pool(command.pool, key=command.key), command.out, executor=executor_of(command))
    if command.json:
        print(json.dumps(report))
        return 0
    listed = Path(command.out) / "duplicates.parquet"
    print(f"{report['copies']:,} of {report['pairs']:,} pairs repeat a key of an earlier shard: {listed}")
    print(f"{report['repeated_in_shard']:,} repeat one of their own shard (match drops them), "
          f"{report['no_identity']:,} have none")  # fmt: skip
    print(f'to leave the copies out: pool.deny_keys = ["{listed}"]')
    return 0


@dataclass(frozen=True, kw_only=True)
class PoolHashCommand(Work):
    """Hashes of a set of images in one file, to decontaminate pools against it where the images are not."""

    source: Annotated[str, tyro.conf.Positional]
    """Folder of images or tars, or one .tar."""
    out: str
    """File to write (.parquet)."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """hash=embedding and embedding_model=MODEL, as the check will have them."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the counts as JSON."""


def _pool_hash(command: PoolHashCommand) -> int:
    from worldclip.check import hash_images, load_config

    out, rules = Path(command.out), load_config({}, command.set)
    counts = hash_images(Path(command.source), out, executor_of(command), config=rules)
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    print(json.dumps({"out": str(out), **counts}) if command.json else f"{out}: {told}")
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {
    "pool emoji": _pool_emoji,
    "pool wat": _pool_wat,
    "pool check": _pool_check,
    "pool hash": _pool_hash,
    "pool dedup": _pool_dedup,
}
