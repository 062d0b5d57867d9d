"""Thumbnails of the pictures of some pairs, from the pool's tars; a picture is named by its number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from worldclip.contracts import layout
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.job import Run
from worldclip.core.keys import KeyTable
from worldclip.plugins.explorer.chunks import Chunks
from worldclip.pool.read import read_index, read_member
from worldclip.report.images import thumbnail

MAX_PICTURES = 20_000  # about 3 kB each
UNREADABLE = (BadShard, OSError, ValueError)  # a tar is gone, or an image cannot be decoded: the pair has no picture


def write_pictures(
    chunks: Chunks, run: Run, shards: Sequence[Shard], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Write a picture for each of the first MAX_PICTURES different (shard, key) that has one; return their files."""
    keys_of_shard: dict[str, list[str]] = defaultdict(list)
    for shard_name, key in list(dict.fromkeys(pairs))[:MAX_PICTURES]:
        keys_of_shard[shard_name].append(key)
    files: dict[tuple[str, str], str] = {}
    for shard in shards:
        if shard.name not in keys_of_shard or not layout.pool_index(run.dir, shard.name).exists():
            continue
        index = read_index(run.dir, shard)
        keys = keys_of_shard[shard.name]
        rows = KeyTable(index.column("key")).find(keys)
        for key, row in zip(keys, rows.tolist(), strict=True):
            if row < 0:
                continue
            try:
                place = index.column("offset")[row].as_py(), index.column("size")[row].as_py()
                content, suffix = thumbnail(read_member(shard.path, *place))
            except UNREADABLE:
                continue
            file = f"pictures/{len(files) // 1000}/{len(files)}.{suffix}"
            chunks.write_file(file, content)
            files[shard.name, key] = file
    return files
