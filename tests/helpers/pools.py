"""Pools that tests write themselves, in any format; what is read of them, and what a check removes from them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages import QUIET, run_stage
from tars import shard_of
from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.contracts.reasons import Reason
from worldclip.core.execute import Shard
from worldclip.pool.config import PoolConfig

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
Row = tuple[str, int, str | None, str]
"""Key, position, text and reason of a text."""

# --- tars -------------------------------------------------------------------------------------------------------------


def read_tar(path: Path) -> dict[str, bytes]:
    """Return the members of a tar by their names."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def rows_of_tar(path: Path) -> list[dict[str, Any]]:
    """Return key, image, name, and the texts and other fields of the .json or .txt of each sample."""
    rows: dict[str, dict[str, Any]] = {}
    for name, content in read_tar(path).items():
        stem, _, suffix = name.partition(".")
        row = rows.setdefault(stem, {"key": stem})
        if suffix == "json":
            row |= json.loads(content)
        elif suffix == "txt":
            row["texts"] = [content.decode()]
        else:
            row |= {"image": content, "name": name}
    return list(rows.values())


# --- tables -----------------------------------------------------------------------------------------------------------


def parquet_of(columns: Mapping[str, Any], row_group_size: int | None = None) -> bytes:
    """Return a Parquet file with these columns."""
    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), file, row_group_size=row_group_size)
    return file.getvalue()


def write_table(path: Path, columns: Mapping[str, Any], row_group_size: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parquet_of(columns, row_group_size))
    return path


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def structs(images: Sequence[bytes | None], paths: Sequence[str | None] | None = None) -> pa.Array:
    """Return images as `datasets` writes them; paths: default 0.png, 1.png, ..."""
    paths = paths or [f"{number}.png" for number in range(len(images))]
    values = [{"bytes": image, "path": path} for image, path in zip(images, paths, strict=True)]
    return pa.array(values, IMAGE)


def write_parquet(path: Path, rows: list[dict[str, Any]], kind: str = "struct", row_group_size: int = 4) -> Path:
    """Write rows of `rows_of_tar`; kind: the column `image` is `struct` or `paths` of files."""
    images, names = ([row.get(name) for row in rows] for name in ("image", "name"))
    if kind == "paths":
        names = [f"{path.stem}/{name}" for name in names]
        for name, image in zip(names, images, strict=True):
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / name).write_bytes(image)
        image_column = pa.array(names, pa.string())
    else:
        image_column = structs(images, names)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name not in ("image", "name")}
    return write_table(path, {**columns, "image": image_column}, row_group_size)


def write_parquet_pool(tars: Path, folder: Path, kind: str = "struct", row_group_size: int = 4) -> Path:
    """Write `folder`/<name>.parquet of each tar."""
    for path in sorted(tars.glob("*.tar")):
        write_parquet(folder / f"{path.stem}.parquet", rows_of_tar(path), kind, row_group_size)
    return folder


# --- reading ----------------------------------------------------------------------------------------------------------


def pool_recipe(**settings: Any) -> Recipe:
    """Return a recipe with `settings` as [pool]."""
    return load_recipe({"pool": settings, "balance": {"tail_fraction": 0.1}})


def run_pool(run_dir: Path, **settings: Any) -> bool:
    """Run the stage pool unless it is finished and unchanged; return whether it ran."""
    return run_stage("pool", pool_recipe(**settings), run_dir, QUIET)


def rows_of(texts: pool.PoolTexts) -> list[Row]:
    reasons = [Reason(code).label for code in texts.reason]
    return list(zip(texts.key.to_pylist(), texts.text_idx.to_pylist(), texts.text.to_pylist(), reasons, strict=True))


def texts_of(shard: Shard, config: PoolConfig) -> pool.PoolTexts:
    """Return the texts of a shard, as the stage pool writes them."""
    return pool.read_shard(shard, config).texts


def images_of(shard: Shard, config: PoolConfig) -> tuple[pa.Table, list[bytes]]:
    """Return where the images of a shard are, and the images."""
    images = pool.read_shard(shard, config, needs_texts=False).images
    return images, list(pool.read_contents(pool.image_places(shard, images)))


def read_rows(path: Path, name: str | None = None, **settings: Any) -> list[Row]:
    """Return the texts of a shard.  name: of the shard, default: the file's."""
    return rows_of(texts_of(shard_of(path, name), PoolConfig(path="pool", **settings)))


# --- checks -----------------------------------------------------------------------------------------------------------


def photograph(seed: int = 0, size: tuple[int, int] = (120, 90)) -> Image:
    """Return smooth random colours: energy in the low frequencies, as photographs have it."""
    from PIL import Image

    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pair(stem: str, image: bytes | None, *texts: str, suffix: str = "png", **fields: Any) -> list[tuple[str, bytes]]:
    """Return the members of a sample of an image, if there is one, and a .json of its texts and other fields."""
    record = json.dumps({"texts": texts, **fields}, ensure_ascii=False).encode()
    images = [] if image is None else [(f"{stem}.{suffix}", image)]
    return [*images, (f"{stem}.json", record)]


def check_pool(folder: Path, *, out: Path | None = None, pool: Mapping[str, Any] | None = None, **config: Any) -> Any:
    """Check FOLDER/pool into FOLDER/out; return the report.  pool: more keys of [pool]."""
    from worldclip.check import CheckConfig, check

    settings = PoolConfig(**{"path": str(folder / "pool"), **(pool or {})})
    return check(settings, out or folder / "out", CheckConfig(**config), executor=QUIET)


def removals(out: Path) -> dict[str, tuple[Any, ...]]:
    """Return {key: (rule, other_key, distance)} of removed.parquet."""
    rows = pq.read_table(out / "removed.parquet").to_pylist()
    return {row["key"]: (row["rule"], row["other_key"], row["distance"]) for row in rows}
