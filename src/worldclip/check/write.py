"""Write what a check found: the lists, the texts of removed duplicates, and the valid pairs as a new pool.

A new pool has the shards of the old one.  Each sample is an image and a .json whose `texts` keep their positions: a
rejected text becomes empty, and merged texts follow the others.  The fields and .txt of the old texts are left out.
"""

from __future__ import annotations

import functools
import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.context import CheckContext
from worldclip.check.duplicates import DUPLICATE_RULES
from worldclip.check.report import Counts, Written
from worldclip.check.text_rules import mask_personal_data
from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import FACES, MERGED_TEXTS, REMOVED, REMOVED_TEXTS, VALID_KEYS
from worldclip.core import artifacts
from worldclip.core.artifacts import read_table, write_tables
from worldclip.core.errors import require
from worldclip.core.execute import Executor, Report, Shard, add_counts, reads_input
from worldclip.core.job import remove_stale
from worldclip.core.tars import add_member
from worldclip.model.decode import open_image
from worldclip.pool.formats import tar as webdataset
from worldclip.pool.records import encode_record, without_texts

# Faces are blurred as in "A Study of Face Obfuscation in ImageNet" (arXiv:2103.06191): each box grows by a tenth of its
# diagonal, and the Gaussian's sigma is a tenth of the longest diagonal in the image.
GROWTH_FRACTION = 0.1
SIGMA_FRACTION = 0.1
JPEG_QUALITY = 95

# --- lists ------------------------------------------------------------------------------------------------------------


def write_lists(context: CheckContext, shards: Sequence[Shard], duplicates: pa.Table) -> Counts:
    """Write valid_keys.parquet, removed.parquet and removed_texts.parquet in the order of shards; return the counts.

    duplicates: DUPLICATES of check/duplicates.py, sorted by shard.
    """
    rules: Counter[str] = Counter()
    by_language: dict[str, Counter[str]] = {}
    bounds = np.searchsorted(duplicates["shard"].to_numpy(), np.arange(len(shards) + 1))
    for shard, start, stop in zip(shards, bounds[:-1], bounds[1:], strict=True):
        verdicts = _write_final(context, shard, duplicates.slice(start, stop - start))
        for row in verdicts.group_by(["rule", "lang"]).aggregate([([], "count_all")]).to_pylist():
            rule = row["rule"] or "valid"
            rules[rule] += row["count_all"]
            by_language.setdefault(row["lang"], Counter())[rule] += row["count_all"]
    folder = context.folder
    rejected = (read_table(context.table_path("removed_texts", shard), REMOVED_TEXTS) for shard in shards)
    write_tables(folder / "valid_keys.parquet", _read_final(context, shards, is_valid=True), VALID_KEYS)
    write_tables(folder / "removed.parquet", _read_final(context, shards, is_valid=False), REMOVED)
    write_tables(folder / "removed_texts.parquet", rejected, REMOVED_TEXTS)
    return {
        "pairs_in": sum(rules.values()),
        "valid": rules.pop("valid", 0),
        "removed": dict(sorted(rules.items())),
        "by_language": {lang: dict(sorted(counts.items())) for lang, counts in sorted(by_language.items())},
    }


def _write_final(context: CheckContext, shard: Shard, duplicates: pa.Table) -> pa.Table:
    """Write final/<shard>.parquet: the verdicts of the pair rules, with the shard's duplicates removed."""
    verdicts = read_table(context.table_path("judged", shard), REMOVED)
    if len(duplicates):
        keys = verdicts["key"].combine_chunks()
        rows = pc.index_in(duplicates["key"].cast(keys.type), keys).combine_chunks().to_numpy()
        is_duplicate = np.zeros(len(verdicts), bool)
        is_duplicate[rows] = True
        in_row_order = duplicates.take(pa.array(np.argsort(rows)))  # the order that replace_with_mask takes
        for name, kind in (("rule", pa.string()), ("other_key", pa.string()), ("distance", pa.int16())):
            old, new = (table[name].cast(kind).combine_chunks() for table in (verdicts, in_row_order))
            column = pc.replace_with_mask(old, pa.array(is_duplicate), new)
            verdicts = verdicts.set_column(verdicts.column_names.index(name), name, column)
    artifacts.write_table(context.table_path("final", shard), verdicts, REMOVED)
    return verdicts


def _read_final(context: CheckContext, shards: Sequence[Shard], is_valid: bool) -> Iterator[pa.Table]:
    for shard in shards:
        verdicts = read_table(context.table_path("final", shard), REMOVED)
        yield verdicts.filter(pc.equal(pc.is_null(verdicts["rule"]), is_valid))


# --- texts of duplicates ----------------------------------------------------------------------------------------------


def merge_texts(context: CheckContext, shards: Sequence[Shard]) -> None:
    """Write merged_texts.parquet: the texts of removed duplicates for the pairs that stay, each text once per pair."""
    stays: dict[tuple[str, str], str] = {}
    """(shard, removed key) -> key that stays; another shard may hold another pair of the removed key"""
    for shard in shards:
        verdicts = read_table(context.table_path("final", shard), REMOVED, ["key", "rule", "other_key"])
        is_duplicate = pc.is_in(verdicts["rule"].cast(pa.string()), pa.array(DUPLICATE_RULES))
        removed = verdicts.filter(is_duplicate)
        for key, other_key in zip(removed["key"].to_pylist(), removed["other_key"].to_pylist(), strict=True):
            stays[shard.name, key] = other_key
    own_texts: dict[str, set[str]] = {}
    candidates: list[tuple[str, int, str, str]] = []
    involved = pa.array(sorted({*(key for _, key in stays), *stays.values()}), pa.string())
    for shard in shards:
        for key, text_idx, text in _read_usable(context, shard, involved):
            if (shard.name, key) in stays:
                candidates.append((key, text_idx, text, stays[shard.name, key]))
            else:
                own_texts.setdefault(key, set()).add(text)
    rows = []
    for from_key, text_idx, text, key in sorted(candidates):
        texts = own_texts.setdefault(key, set())
        if text not in texts:
            texts.add(text)
            rows.append({"key": key, "text": text, "from_key": from_key, "from_text_idx": text_idx})
    rows.sort(key=lambda row: (row["key"], row["from_key"], row["from_text_idx"]))
    merged = pa.Table.from_pylist(rows, MERGED_TEXTS)
    artifacts.write_table(context.folder / "merged_texts.parquet", merged, MERGED_TEXTS)


def _read_usable(context: CheckContext, shard: Shard, keys: pa.Array) -> Iterator[tuple[str, int, str]]:
    """Yield (key, text_idx, text) of the usable texts of these keys: not dropped by the reader, not rejected."""
    texts = pools.read_texts(shard, context.pool)
    rejected = _read_rejected(context, shard)
    mask = pc.and_(pc.is_in(texts.key, keys), pa.array(texts.reason == Reason.KEPT))
    columns = [column.filter(mask).to_pylist() for column in (texts.key, texts.text_idx, texts.text)]
    for key, text_idx, text in zip(*columns, strict=True):
        if (key, text_idx) not in rejected:
            yield key, text_idx, text


def _read_rejected(context: CheckContext, shard: Shard) -> set[tuple[str, int]]:
    """Return (key, text_idx) of the rejected texts of a shard."""
    table = read_table(context.table_path("removed_texts", shard), REMOVED_TEXTS, ["key", "text_idx"])
    return set(zip(table["key"].to_pylist(), table["text_idx"].to_pylist(), strict=True))


# --- a new pool -------------------------------------------------------------------------------------------------------


def write_tars(context: CheckContext, shards: Sequence[Shard], executor: Executor) -> Written:
    """Write the valid pairs of each shard as a tar, pairs/<shard>; return what the new pool holds."""
    config, folder = context.config, context.folder
    lists = [folder / f"{name}.parquet" for name in ("valid_keys", "removed_texts", "merged_texts")]
    key = {
        "pool": context.pool.identity_of_texts,
        "lists": [artifacts.fingerprint(path, folder) for path in lists if path.exists()],
        "merge": config.merge_texts,
        "mask": config.texts.personal_data,
        "faces": (
            artifacts.digest(artifacts.fingerprint(folder / "faces.parquet", folder)) if config.faces.path else None
        ),
    }
    write = functools.partial(_write_tar, context=context)
    reports = executor.map(write, shards, label="write", done_dir=layout.done_dir(folder, "pairs"), key=key)
    remove_stale(folder / "pairs", [folder / "pairs" / _tar_name(shard) for shard in shards])
    counts = add_counts(reports, ("pairs", "texts", "blurred"))
    return {"pairs": counts["pairs"], "texts": counts["texts"], "blurred": counts["blurred"]}


def _tar_name(shard: Shard) -> str:
    return f"{shard.name.removesuffix('.parquet')}.tar" if pools.is_table(shard.name) else shard.name


@reads_input
def _write_tar(shard: Shard, *, context: CheckContext) -> Report:
    index, images = pools.read_images(shard, context.pool)
    records = dict(zip(*(column[::-1] for column in pools.read_records(shard, context.pool, None)), strict=True))
    verdicts = read_table(context.table_path("final", shard), REMOVED, ["key", "rule"])
    remaining = set(verdicts.filter(pc.is_null(verdicts["rule"]))["key"].to_pylist())
    texts = _texts_to_write(shard, context)
    faces: dict[str, list[list[float]]] = {}
    if context.config.faces.path:
        table = read_table(context.table_path("faces", shard), FACES)
        faces = dict(zip(table["key"].to_pylist(), table["face_bboxes"].to_pylist(), strict=True))
    counts = {"pairs": 0, "texts": 0, "blurred": 0}
    index_columns = [index[name].to_pylist() for name in ("key", "member")]

    def write(aside: Path) -> None:
        with tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
            for number, (key, member, image) in enumerate(zip(*index_columns, images, strict=True)):
                if key not in remaining:
                    continue
                name = PurePosixPath(member)
                if pools.is_table(shard.name):  # the names of its images are anyone's, and may repeat
                    name = PurePosixPath(f"{number:09}{webdataset.image_suffix(member, image)}")
                if faces.get(key):
                    image, name = _blur_faces(image, faces[key], name)
                    counts["blurred"] += 1
                record = {**without_texts(records[key], context.pool), "texts": texts[key]}
                json_name = str(name.parent / f"{name.name.split('.')[0]}.json")
                add_member(tar, str(name), image)
                add_member(tar, json_name, encode_record(record))
                counts["pairs"] += 1
                counts["texts"] += sum(bool(text) for text in texts[key])

    artifacts.write_artifact(context.folder / "pairs" / _tar_name(shard), write)
    return counts


def _texts_to_write(shard: Shard, context: CheckContext) -> dict[str, list[str]]:
    """Return the texts of each key by position, "" for one that is rejected or unusable; merged texts come last."""
    texts = pools.read_texts(shard, context.pool)
    is_masked = context.config.texts.personal_data == "mask"
    column = mask_personal_data(texts.text) if is_masked else texts.text
    rejected = _read_rejected(context, shard)
    by_key: dict[str, list[str]] = {}
    rows = zip(texts.key.to_pylist(), texts.text_idx.to_pylist(), column.to_pylist(), texts.reason, strict=True)
    for key, text_idx, text, reason in rows:
        if reason != Reason.DUPLICATE:
            is_usable = reason == Reason.KEPT and (key, text_idx) not in rejected
            by_key.setdefault(key, []).append(text if is_usable else "")
    if context.config.merge_texts:
        merged = read_table(context.folder / "merged_texts.parquet", MERGED_TEXTS)
        merged = merged.filter(pc.is_in(merged["key"], pa.array(list(by_key), pa.string())))
        added = merged["text"].combine_chunks()
        added = mask_personal_data(added) if is_masked else added
        for key, text in zip(merged["key"].to_pylist(), added.to_pylist(), strict=True):
            by_key[key].append(text)
    return by_key


def _blur_faces(content: bytes, boxes: list[list[float]], name: PurePosixPath) -> tuple[bytes, PurePosixPath]:
    """Return the image with blurred faces and its name: in its own format if that can be written, else as PNG.

    boxes: (left, top, right, bottom) as fractions of the sides.
    """
    image_filter: Any = require("PIL.ImageFilter", extra="pool")
    original = open_image(content)
    image = original.convert("RGB")
    sides = [(image.width * (box[2] - box[0]), image.height * (box[3] - box[1])) for box in boxes]
    diagonals = [(width * width + height * height) ** 0.5 for width, height in sides]
    blur = image_filter.GaussianBlur(SIGMA_FRACTION * max(diagonals))
    for (left, top, right, bottom), diagonal in zip(boxes, diagonals, strict=True):
        growth = GROWTH_FRACTION * diagonal
        area = (
            max(0, int(left * image.width - growth)),
            max(0, int(top * image.height - growth)),
            min(image.width, int(right * image.width + growth) + 1),
            min(image.height, int(bottom * image.height + growth) + 1),
        )
        image.paste(image.crop(area).filter(blur), area[:2])
    file = io.BytesIO()
    if original.format in ("JPEG", "WEBP"):
        image.save(file, original.format, quality=JPEG_QUALITY)
    else:
        image.save(file, "PNG")
    is_same_format = original.format in ("JPEG", "WEBP", "PNG")
    return file.getvalue(), name if is_same_format else name.with_name(f"{name.name.split('.')[0]}.png")
