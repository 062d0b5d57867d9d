"""What a check writes besides lists: texts of duplicates given to the pair that stays, the valid pairs as a new pool.

A written pool has the shards of the old one, each sample an image and a .json whose `texts` keep their positions: a
rejected text becomes empty, a merged one comes behind the others.  The fields and .txt of the old texts are left out.
"""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip import pool as pools
from worldclip.check.config import CheckConfig
from worldclip.check.duplicates import DUPLICATE_RULES
from worldclip.check.hashing import open_image
from worldclip.check.text_rules import mask_personal_data
from worldclip.core.artifacts import (
    FACES,
    MERGED_TEXTS,
    REMOVED,
    REMOVED_TEXTS,
    digest,
    fingerprint,
    read_table,
    write_artifact,
    write_table,
)
from worldclip.core.errors import require
from worldclip.core.execute import Executor, Report, Shard, add_counts
from worldclip.core.job import remove_stale
from worldclip.core.reasons import Reason
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes
from worldclip.pool.formats import tar as webdataset
from worldclip.pool.records import DEFAULT_FIELDS

# A face is blurred as in "A Study of Face Obfuscation in ImageNet" (arXiv:2103.06191): the box grows by a tenth of its
# diagonal, and the Gaussian's sigma is a tenth of the image's largest such diagonal.
GROWTH_FRACTION = SIGMA_FRACTION = 0.1
JPEG_QUALITY = 95


def final_path(folder: Path, shard: Shard) -> Path:
    """Verdicts of a shard once duplicates are known; as judged/, rule null where the pair is valid."""
    return folder / "final" / f"{shard.name}.parquet"


def write_rows(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """One Parquet file from many tables, a group of rows each, never all in memory."""

    def write(aside: Path) -> None:
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            for table in tables:
                plain = [table[field.name] for field in schema]
                columns = [
                    one if one.type == field.type else _cast(one, field.type)
                    for one, field in zip(plain, schema, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    write_artifact(path, write)


def _cast(column: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(to) and not pa.types.is_dictionary(column.type):
        return column.cast(to.value_type).dictionary_encode().cast(to)
    return column.cast(to)


def merge_texts(folder: Path, shards: Sequence[Shard], pool: PoolConfig) -> int:
    """merged_texts.parquet: texts of removed duplicates for the pairs that stay, each text once.  Returns how many."""
    stays: dict[str, str] = {}
    for shard in shards:
        final = read_table(final_path(folder, shard), REMOVED, ["key", "rule", "other_key"])
        final = final.filter(pc.is_in(final["rule"].cast(pa.string()), pa.array(DUPLICATE_RULES)))
        stays.update(zip(final["key"].to_pylist(), final["other_key"].to_pylist(), strict=True))
    involved = pa.array(sorted({*stays, *stays.values()}), pa.string())
    own: dict[str, set[str]] = {}
    offered: list[tuple[str, int, str]] = []
    for shard in shards:
        texts = pools.read_texts(shard, pool)
        rejected = _rejected(folder, shard)
        asked = pc.and_(pc.is_in(texts.key, involved), pa.array(texts.reason == Reason.KEPT))
        columns = [column.filter(asked).to_pylist() for column in (texts.key, texts.text_idx, texts.text)]
        for key, text_idx, text in zip(*columns, strict=True):
            if (key, text_idx) in rejected:
                continue
            if key in stays:
                offered.append((key, text_idx, text))
            else:
                own.setdefault(key, set()).add(text)
    merged: list[tuple[str, str, str, int]] = []
    for key, text_idx, text in sorted(offered):
        there = own.setdefault(stays[key], set())
        if text not in there:
            there.add(text)
            merged.append((stays[key], text, key, text_idx))
    merged.sort(key=lambda row: (row[0], row[2], row[3]))
    rows = [dict(zip(MERGED_TEXTS.names, row, strict=True)) for row in merged]
    write_table(folder / "merged_texts.parquet", pa.Table.from_pylist(rows, MERGED_TEXTS), MERGED_TEXTS)
    return len(merged)


def _rejected(folder: Path, shard: Shard) -> set[tuple[str, int]]:
    table = read_table(folder / "removed_texts" / f"{shard.name}.parquet", REMOVED_TEXTS, ["key", "text_idx"])
    return set(zip(table["key"].to_pylist(), table["text_idx"].to_pylist(), strict=True))


def write_tars(
    config: CheckConfig, pool: PoolConfig, folder: Path, shards: Sequence[Shard], executor: Executor
) -> dict[str, int]:
    """pairs/<shard>: the valid pairs as tars.  Returns pairs, texts and images with a blurred face."""
    lists = {name: folder / f"{name}.parquet" for name in ("valid_keys", "removed_texts", "merged_texts")}
    key = {
        "pool": [pool.key, *pool.texts],
        "lists": [fingerprint(path, folder) for path in lists.values() if path.exists()],
        "merge": config.merge_texts,
        "mask": config.texts.personal_data,
        "faces": digest(fingerprint(folder / "faces.parquet", folder)) if config.faces.path else None,
    }
    work = functools.partial(_write_tar, config=config, pool=pool, folder=folder)
    reports = executor.map(work, shards, label="write", done_dir=folder / "done/pairs", key=key)
    remove_stale(folder / "pairs", [folder / "pairs" / shard.name for shard in shards])
    return add_counts(reports, ("pairs", "texts", "blurred"))


def _write_tar(shard: Shard, *, config: CheckConfig, pool: PoolConfig, folder: Path) -> Report:
    samples = webdataset.read_samples(shard, read_bytes(shard.path))
    keys = samples.keys(pool.key)[0].to_pylist()
    records = samples.read_records()
    final = read_table(final_path(folder, shard), REMOVED, ["key", "rule"])
    left = set(final.filter(pc.is_null(final["rule"]))["key"].to_pylist())
    texts = _texts_to_write(shard, config, pool, folder)
    faces = _faces_of(folder, shard) if config.faces.path else {}
    counts = {"pairs": 0, "texts": 0, "blurred": 0}

    def write(aside: Path) -> None:
        with tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
            for sample, key in enumerate(keys):
                if key not in left or samples.image[sample] == webdataset.NO_MEMBER:
                    continue
                left.discard(key)  # the first of equal keys
                name = PurePosixPath(samples.member_name(samples.image[sample]))
                image = samples.content(samples.image[sample])
                if faces.get(key):
                    image, name = _blurred(image, faces[key], name)
                    counts["blurred"] += 1
                record = records[sample]
                kept = _without_texts(record if isinstance(record, Mapping) else {}, pool)
                stem = name.parent / name.name.split(".")[0]
                _add(tar, str(name), image)
                _add(tar, f"{stem}.json", json.dumps({**kept, "texts": texts[key]}, ensure_ascii=False).encode())
                counts["pairs"] += 1
                counts["texts"] += sum(bool(text) for text in texts[key])

    write_artifact(folder / "pairs" / shard.name, write)
    return counts


def _without_texts(record: Mapping[str, Any], pool: PoolConfig) -> dict[str, Any]:
    """The record without the fields that texts came from: what is rejected or masked must not live on beside."""
    fields = {place.removeprefix("json:") for place in pool.texts} or set(DEFAULT_FIELDS)
    return {name: value for name, value in record.items() if name not in fields}


def _texts_to_write(shard: Shard, config: CheckConfig, pool: PoolConfig, folder: Path) -> dict[str, list[str]]:
    texts = pools.read_texts(shard, pool)
    column = texts.text
    if config.texts.personal_data == "mask":
        column = mask_personal_data(column)
    rejected = _rejected(folder, shard)
    found: dict[str, list[str]] = {}
    rows = zip(texts.key.to_pylist(), texts.text_idx.to_pylist(), column.to_pylist(), texts.reason, strict=True)
    for key, text_idx, text, reason in rows:
        if reason != Reason.DUPLICATE:
            usable = reason == Reason.KEPT and (key, text_idx) not in rejected
            found.setdefault(key, []).append(text if usable else "")
    if config.merge_texts:
        merged = read_table(folder / "merged_texts.parquet", MERGED_TEXTS)
        merged = merged.filter(pc.is_in(merged["key"], pa.array(list(found), pa.string())))
        added = merged["text"].combine_chunks()
        if config.texts.personal_data == "mask":
            added = mask_personal_data(added)
        for key, text in zip(merged["key"].to_pylist(), added.to_pylist(), strict=True):
            found[key].append(text)
    return found


def _faces_of(folder: Path, shard: Shard) -> dict[str, list[list[float]]]:
    table = read_table(folder / "faces" / f"{shard.name}.parquet", FACES)
    return dict(zip(table["key"].to_pylist(), table["face_bboxes"].to_pylist(), strict=True))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # time and owner stay 0: equal bytes for equal pairs
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _blurred(content: bytes, boxes: list[list[float]], name: PurePosixPath) -> tuple[bytes, PurePosixPath]:
    """The image with its faces blurred, in its own format where that can be written, else PNG."""
    image_filter: Any = require("PIL.ImageFilter", extra="pool")
    image = open_image(content)
    kind = image.format if image.format in ("JPEG", "PNG", "WEBP") else "PNG"
    picture = image.convert("RGB")
    sides = [(picture.width * (box[2] - box[0]), picture.height * (box[3] - box[1])) for box in boxes]
    diagonals = [(w * w + h * h) ** 0.5 for w, h in sides]
    blur = image_filter.GaussianBlur(SIGMA_FRACTION * max(diagonals))
    for box, diagonal in zip(boxes, diagonals, strict=True):
        grown = GROWTH_FRACTION * diagonal
        area = (
            max(0, int(box[0] * picture.width - grown)),
            max(0, int(box[1] * picture.height - grown)),
            min(picture.width, int(box[2] * picture.width + grown) + 1),
            min(picture.height, int(box[3] * picture.height + grown) + 1),
        )
        picture.paste(picture.crop(area).filter(blur), area[:2])
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": JPEG_QUALITY} if kind != "PNG" else {}))
    return file.getvalue(), name if kind == image.format else name.with_name(f"{name.name.split('.')[0]}.png")
