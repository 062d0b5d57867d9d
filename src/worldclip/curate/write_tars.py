"""The kept samples as new WebDataset tars: images copied byte by byte, with the texts that were kept.

A sample is `<9 digits>.<image suffix>`, `.txt` (its first kept text) and `.json`: the fields of the pool's .json that
hold no texts (url, sha256, ...), then key, texts, text_idx and lang of what was kept.  Its number is its position in
the whole list, so the tars are the same for any number of workers.
"""

from __future__ import annotations

import functools
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.arrow import one_array
from worldclip.core.artifacts import Json
from worldclip.core.errors import BadShard, Unreadable
from worldclip.core.execute import Report, Shard, add_counts
from worldclip.core.job import Run, remove_stale
from worldclip.core.keys import KeyTable
from worldclip.core.printable import command_line
from worldclip.core.tars import add_member
from worldclip.curate.candidates import key_starts, read_curated
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import DEFAULT_PLACES
from worldclip.pool.formats.tar import image_suffix

COUNTS = ("samples", "no_image", "cut_image")


def write_tars(run: Run, shards: Sequence[Shard], samples_per_tar: int, curate_digest: str) -> dict[str, int]:
    """Write RUN/curate/tars/<6 digits>.tar with the kept keys in the order of the list; return COUNTS.

    A kept key is left out, and keeps its number, if the pool's index has no image of it (no_image) or if its image
    is damaged (cut_image).  Raises StageFailed where an image, or the file that it is in, is not there.
    """
    # The pieces of each tar: `samples_per_tar` keys in all, fewer in the last.  A piece is keys start to stop of a
    # shard's kept keys, and the number of the first in the whole list, as JSON: a task gets its own tar's pieces, not
    # those of all tars.
    plan: list[list[Json]] = []
    number = 0
    for shard in shards:
        shard_record = {"name": shard.name, "path": shard.path, "fingerprint": shard.fingerprint}
        column = read_curated(run.dir, shard, ["key"]).column("key")
        num_keys = len(key_starts(one_array(column))) - 1
        start = 0
        while start < num_keys:
            if number % samples_per_tar == 0:
                plan.append([])
            stop = min(num_keys, start + samples_per_tar - number % samples_per_tar)
            plan[-1].append({"shard": shard_record, "start": start, "stop": stop, "first_number": number})
            number += stop - start
            start = stop
    folder = layout.curated_tars(run.dir)
    done = layout.done_dir(folder / ".work")  # hidden from tools that read all files of the folder
    outputs = []
    files = []
    for i, pieces in enumerate(plan):
        name = f"{i:06}.tar"
        outputs.append(Shard(name=name, path="", fingerprint={"pieces": pieces}))
        files += [folder / name, layout.marker_in(done, name)]
    remove_stale(folder, files)
    reports = run.executor.map(
        functools.partial(_write_tar, run_dir=run.dir, config=run.section(PoolConfig)),
        outputs,
        label="tars",
        done_dir=done,
        key={"curate": curate_digest, "samples_per_tar": samples_per_tar, "fields": "all but texts"},
    )
    return add_counts(reports, COUNTS)


def _write_tar(output: Shard, *, run_dir: Path, config: PoolConfig) -> Report:
    """Write the tar of the pieces in the fingerprint of `output`."""
    counts = Counter(dict.fromkeys(COUNTS, 0))
    path = layout.curated_tars(run_dir) / output.name
    with artifacts.whole_file(path) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for piece in output.fingerprint["pieces"]:
            _add_piece(tar, run_dir, piece, config, counts)
    return {"pairs": counts["samples"], **counts}


def _add_piece(tar: tarfile.TarFile, run_dir: Path, piece: Json, config: PoolConfig, counts: Counter[str]) -> None:
    """Add the samples of a piece to the tar, and count them."""
    shard = Shard(**piece["shard"])
    table = read_curated(run_dir, shard)
    key_column = one_array(table.column("key"))
    starts = key_starts(key_column)[piece["start"] : piece["stop"] + 1]
    images = pool.read_images(run_dir, shard.name, pool.EVERY_KEY)  # of kept keys, which the lists have let through
    image_rows = KeyTable(images.column("key")).find(key_column.take(pa.array(starts[:-1])))
    with_image = np.flatnonzero(image_rows >= 0)
    counts["no_image"] += len(image_rows) - len(with_image)
    chosen = images.take(pa.array(image_rows[with_image]))
    fields = _other_fields(shard, pool.options_of(config, shard.name), chosen["row"].to_numpy())
    members = chosen.column("member").to_pylist()
    contents = pool.read_members(pool.image_places(shard, chosen))
    for k, member, image, pool_fields in zip(with_image.tolist(), members, contents, fields, strict=True):
        if isinstance(image, BadShard):
            if isinstance(image, Unreadable) or isinstance(image.__cause__, FileNotFoundError):  # its disk may be away
                remedy = f"put it back, or read the pool again: {command_line('run', run_dir, '--from', 'pool')}"
                raise type(image)(f"{image}; {remedy}")
            counts["cut_image"] += 1
            continue
        texts = table.slice(starts[k], starts[k + 1] - starts[k]).to_pylist()
        record = {
            **pool_fields,
            "key": texts[0]["key"],
            "texts": [row["text"] for row in texts],
            "text_idx": [row["text_idx"] for row in texts],
            "lang": [row["lang"] for row in texts],
        }
        try:
            content = json.dumps(record, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot express, is an escape
            content = json.dumps(record, default=str).encode()
        name = f"{piece['first_number'] + k:09}"
        add_member(tar, name + image_suffix(member, image), image)
        add_member(tar, name + ".txt", texts[0]["text"].encode())
        add_member(tar, name + ".json", content)
        counts["samples"] += 1


def _other_fields(shard: Shard, config: PoolConfig, rows: np.ndarray) -> list[Json]:
    """Return the fields or columns of the pairs in `rows` that hold no texts and no images.

    Downloaders write a sample's .txt into its .json as well, so a pool of .txt has no field of DEFAULT_PLACES either.
    """
    read_rows = format_of(shard.name).read_rows
    if read_rows is None:
        return [{}] * len(rows)
    text_fields = set(map(bare, config.texts))
    if not text_fields or "txt" in text_fields:
        text_fields |= set(DEFAULT_PLACES)
    records = read_rows(shard, config, rows)
    other_fields = []
    for record in records:
        fields = {name: value for name, value in record.items() if name not in text_fields}
        other_fields.append(fields)
    return other_fields
