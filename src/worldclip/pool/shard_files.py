"""List the shards of a pool: which files they are, and what the files are known by."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from worldclip.core import image_names
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute.shard_list import InputFile, ShardList
from worldclip.core.job import ALL_SHARDS
from worldclip.pool import hub
from worldclip.pool.config import POOL_FORMATS, PoolConfig
from worldclip.pool.files import PoolFile
from worldclip.pool.formats import pool_formats
from worldclip.pool.listing import list_files

NUM_SAID = 5  # names of what is left out, in one message; the report has all
LOOSE_IMAGES = "a pool with images is tars; write them: worldclip pool pack FOLDER --out TARS"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def list_shards(pool: PoolConfig, setting: str = "pool", part: slice = ALL_SHARDS) -> ShardList:
    """Return the shards of any pool, as `shards` does; setting: the section of the recipe that problems name.

    What is left out is said, once per process.
    """
    files, skipped = _list_pool(pool, setting)
    if skipped:
        _say_skipped(setting, tuple(skipped.items()))
    return ShardList.of_files(files[part])


def left_out(pool: PoolConfig) -> dict[str, str]:
    """Return what is left out of a pool's shards, by name with the reason."""
    return _list_pool(pool, "pool")[1]


def _roots(pool: PoolConfig) -> dict[str, str]:
    """Return what names begin with -> the folder or URL that they are in."""
    return {f"{name}/": path for name, path in pool.roots.items()} or {"": pool.path or ""}


@functools.cache
def _say_skipped(setting: str, skipped: tuple[tuple[str, str], ...]) -> None:
    first = "; ".join(f"{name} ({reason})" for name, reason in skipped[:NUM_SAID])
    more = f"; and {len(skipped) - NUM_SAID:,} more" if len(skipped) > NUM_SAID else ""
    say(setting, f"{len(skipped):,} left out: {first}{more}")


def _list_pool(pool: PoolConfig, setting: str) -> tuple[list[InputFile], dict[str, str]]:
    """Return (the files of the shards, sorted by name; why the rest is left out, by name)."""
    problems: list[str] = []
    files: list[InputFile] = []
    skipped: dict[str, str] = {}
    for prefix, path in _roots(pool).items():
        key = f"{setting}.roots.{prefix[:-1]}" if prefix else f"{setting}.path"
        shards, reasons = _shard_files(key, path, pool, problems)
        while shards:  # frees names as it goes: one list of a million files is enough
            file = shards.pop()
            files.append(InputFile(f"{prefix}{file.name}" if prefix else file.name, file.path, file.name))
        skipped |= {f"{prefix}{name}": reason for name, reason in reasons.items()}
    if problems:
        raise UserError(problems)
    files.sort()
    return files, dict(sorted(skipped.items()))


def _shard_files(
    setting: str, path: str, pool: PoolConfig, problems: list[str]
) -> tuple[list[PoolFile], dict[str, str]]:
    """Return (the files of pool.format, what is left out); under "auto", of the first of pool_formats() that has any.

    A link to nothing with the suffix of a shard is a shard, which fails when it is read.
    """
    wanted = pool.format
    candidates = pool_formats() if wanted == "auto" else (POOL_FORMATS.load(wanted),)
    suffixes = tuple(suffix for pool_format in candidates for suffix in pool_format.suffixes)
    try:
        if hub.is_dataset(path):
            listing = hub.list_dataset(path, suffixes, pool.config, pool.split)
        else:
            listing = list_files(path, suffixes)
    except UserError as error:
        problems.append(f"{setting} = {error}")
        return [], {}
    files = [*listing.files, *(PoolFile(name, f"{path}/{name}") for name in listing.broken_links)]
    compressed = sorted(file.name for file in files if file.name.endswith(COMPRESSED))
    if compressed and wanted in ("auto", "tar"):
        # Images are read from the middle of a tar, which a compressed one does not allow.
        problems.append(
            f"{setting} = {path!r}: {len(compressed)} compressed tar(s) such as {compressed[0]}; unpack them to .tar"
        )
        return [], {}
    images = [file.name for file in files if file.name.lower().endswith(image_names.SUFFIXES)]
    loose = f"{len(images):,} image files such as {images[0]} lie outside of tars; {LOOSE_IMAGES}" if images else ""
    for pool_format in candidates:
        if shards := [file for file in files if file.name.endswith(pool_format.suffixes)]:
            left_out = {name: reason for name, reason in listing.broken_links.items() if not name.endswith(suffixes)}
            left_out |= listing.skipped | _other_shards(files, shards, suffixes)
            return shards, left_out | ({"images": loose} if loose else {})
    kinds = ", ".join(sorted({Path(file.name).suffix or file.name for file in files})[:5])
    contents = f"only {kinds} files" if files else "nothing"
    left_out_names = "".join(
        f"; left out: {name} ({reason})" for name, reason in list(listing.skipped.items())[:NUM_SAID]
    )
    remedy = loose or "set it to the folder of the shards"
    problems.append(f"{setting} = {path!r}: no {', '.join(suffixes)} files, {contents} in it{left_out_names}; {remedy}")
    return [], {}


def _other_shards(files: Sequence[PoolFile], shards: Sequence[PoolFile], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Return the shards of later formats by suffix; one next to a shard of the same stem is its metadata."""
    if len(shards) == len(files):
        return {}
    chosen = {file.name for file in shards}
    stems = {_stem(file.name) for file in shards}
    others = [file.name for file in files if file.name.endswith(suffixes) and file.name not in chosen]
    kinds = Counter(Path(name).suffix for name in others if _stem(name) not in stems)
    taken = Path(shards[0].name).suffix
    return {
        f"*{suffix}": f"{count:,} files: the pool is its {taken} files; set pool.format or remove one kind"
        for suffix, count in kinds.items()
    }


def _stem(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"
