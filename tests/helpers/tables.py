"""The pairs of a pool of tars as Parquet files with the images inside."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def rows_of_tar(path: Path) -> list[dict[str, Any]]:
    """Return key, image, name, and the texts and other fields of the .json or .txt of each sample."""
    rows: dict[str, dict[str, Any]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            stem, _, suffix = member.name.partition(".")
            content = tar.extractfile(member).read()
            row = rows.setdefault(stem, {"key": stem})
            if suffix == "json":
                row |= json.loads(content)
            elif suffix == "txt":
                row["texts"] = [content.decode()]
            else:
                row |= {"image": content, "name": member.name}
    return list(rows.values())


def write_parquet(path: Path, rows: list[dict[str, Any]], kind: str = "struct", row_group_size: int = 4) -> Path:
    """Write rows of `rows_of_tar`; kind: the type of the column `image`, `struct` or `binary`."""
    images = [row.get("image") for row in rows]
    if kind == "struct":
        values = [None if row.get("image") is None else {"bytes": row["image"], "path": row["name"]} for row in rows]
        image_column = pa.array(values, IMAGE)
    else:
        image_column = pa.array(images, pa.binary())
    others = [name for name in rows[0] if name not in ("image", "name")]
    columns = {name: [row[name] for row in rows] for name in others} | {"image": image_column}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def write_parquet_pool(tars: Path, folder: Path, kind: str = "struct", row_group_size: int = 4) -> Path:
    """Write `folder`/<name>.parquet of each tar."""
    for path in sorted(tars.glob("*.tar")):
        write_parquet(folder / f"{path.stem}.parquet", rows_of_tar(path), kind, row_group_size)
    return folder
