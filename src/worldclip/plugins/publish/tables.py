"""The samples of RUN/curate/tars as tables: with the images inside, and which member of a tar has which text."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.artifacts import whole_file
from worldclip.core.regular_file import open_regular

ROWS_PER_GROUP = 100  # images of one row group, which the hub's viewer and random readers load whole
# How `datasets` and the hub's viewer show the columns: pictures, and texts next to them
_FEATURES = {
    "image": {"_type": "Image"},
    "key": {"dtype": "string", "_type": "Value"},
    "text": {"dtype": "string", "_type": "Value"},
    "texts": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    "lang": {"dtype": "string", "_type": "Value"},
}
IMAGES = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("key", pa.string()),
        ("text", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("lang", pa.string()),
    ],
    metadata={b"huggingface": json.dumps({"info": {"features": _FEATURES}}).encode()},
)
MEMBERS = pa.schema([("file_name", pa.string()), ("key", pa.string()), ("text", pa.string()), ("lang", pa.string())])


def write_images(tar: Path, path: Path) -> None:
    """Write the samples of a tar as a Parquet file with the images inside."""
    samples = _samples(tar)
    with whole_file(path) as aside, pq.ParquetWriter(aside, IMAGES, compression="zstd") as writer:
        while rows := list(islice(samples, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(rows, IMAGES))


def write_members(tars: Sequence[Path], path: Path) -> None:
    """Write which image of the tars has which key, first text and language: Croissant cannot join members by stem."""
    with whole_file(path) as aside, pq.ParquetWriter(aside, MEMBERS, compression="zstd") as writer:
        for tar in tars:
            rows = [{"file_name": row["image"]["path"], **row} for row in _samples(tar)]
            writer.write_table(pa.Table.from_pylist(rows, MEMBERS))


def _samples(tar: Path) -> Iterator[dict[str, Any]]:
    """Yield the row of each sample; its members follow each other, the .json last (curate/write_tars.py)."""
    with open_regular(tar) as file, tarfile.open(fileobj=file, mode="r:") as members:
        image: dict[str, Any] = {}
        for member in members:
            content = members.extractfile(member)
            if content is None:
                continue
            suffix = PurePosixPath(member.name).suffix
            if suffix == ".json":
                record = json.loads(content.read())
                texts = record["texts"]
                lang = record["lang"][0]
                yield {"image": image, "key": record["key"], "text": texts[0], "texts": texts, "lang": lang}
            elif suffix != ".txt":
                image = {"bytes": content.read(), "path": member.name}
