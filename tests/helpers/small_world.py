"""A small curated pool: drawn shapes in tars, their curated texts, the pool's index."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tars import write_tar
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.job import Run
from worldclip.curate.config import CurateConfig
from worldclip.pool.config import PoolConfig
from worldclip.pool.listing import list_shards

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "black": (15, 15, 15)}
FORMS = ("square", "bar", "cross")
TEXTS = {"en": "a {} {}", "de": "ein Bild: {} {}", "zh": "一张{}的{}照片"}


def picture(colour: str, form: str, side: int = 32) -> bytes:
    """Draw a form as PNG, dark on white."""
    import torch
    from torchvision.io import encode_png

    y, x = np.mgrid[0:side, 0:side]
    near = side // 5
    inside = {
        "square": (abs(x - side // 2) < 2 * near) & (abs(y - side // 2) < 2 * near),
        "bar": abs(y - side // 2) < near,
        "cross": (abs(x - side // 2) < near) | (abs(y - side // 2) < near),
    }[form]
    pixels = np.full((3, side, side), 255, np.uint8)
    pixels[:, inside] = np.array(COLOURS[colour], np.uint8)[:, None]
    return encode_png(torch.from_numpy(pixels)).numpy().tobytes()


def write_world(
    run_dir: Path,
    *,
    num_shards: int = 3,
    per_shard: int = 8,
    broken: Iterable[int] = (),
    without_image: Iterable[int] = (),
    image: bytes = b"this is no image",
) -> Path:
    """Write tars next to RUN, and RUN/pool and RUN/curate for them.  Return the folder of the tars.

    broken: numbers of the pairs whose image is `image`.  without_image: numbers of the pairs whose key no tar has.
    """
    tars = run_dir.parent / "tars"
    for shard in range(num_shards):
        numbers = range(shard * per_shard, (shard + 1) * per_shard)
        name = f"{shard:03}.tar"
        images = {n: image if n in set(broken) else picture(list(COLOURS)[n % 4], FORMS[n % 3]) for n in numbers}
        present = sorted(set(numbers) - set(without_image))
        write_tar(tars / name, [(f"{n:05}.png", images[n]) for n in present])
        with tarfile.open(tars / name) as tar:
            places = [
                (Path(member.name).stem, row, member.name, member.offset_data, member.size)
                for row, member in enumerate(tar)
            ]
        write_rows(run_dir / "pool/images" / f"{name}.parquet", places, schemas.POOL_IMAGES)
        rows = [
            (f"{n:05}", i, text.format(list(COLOURS)[n % 4], FORMS[n % 3]), lang, 1.0)
            for n in numbers
            for i, (lang, text) in enumerate(TEXTS.items())
        ]
        write_rows(run_dir / "curate" / f"{name}.parquet", rows, schemas.CURATED)
    _write_shards(run_dir, PoolConfig(path=str(tars)))
    finish_curate(run_dir, PoolConfig(), CurateConfig())
    return tars


def _write_shards(run_dir: Path, pool: PoolConfig) -> None:
    """Write the list of shards of RUN/pool, and that those without images have none."""
    shards = list_shards(pool)
    shards.write(layout.pool_shards(run_dir))
    for shard in shards:
        path = layout.pool_images(run_dir, shard.name)
        if not path.exists():
            artifacts.write_table(path, schemas.POOL_IMAGES.empty_table(), schemas.POOL_IMAGES)


def finish_curate(run_dir: Path, pool: PoolConfig, curate: CurateConfig) -> None:
    """Write the manifests of all stages up to curate, which ran under these configs, without lists of keys."""
    if pool.paths:
        _write_shards(run_dir, pool)
    for stage in ("pool", "match", "balance"):
        manifest = artifacts.write_manifest(run_dir / stage, config={}, inputs={}, counts={})
    config = Run.of(run_dir, pool, curate).deciding("curate")
    inputs = {"balance": manifest["digest"], "key_lists": []}
    artifacts.write_manifest(run_dir / "curate", config=config, inputs=inputs, counts={})


def write_rows(path: Path, rows: Sequence[tuple], schema: pa.Schema) -> None:
    records = [dict(zip(schema.names, row, strict=True)) for row in rows]
    artifacts.write_table(path, pa.Table.from_pylist(records, schema), schema)


def write_shapes(folder: Path) -> dict[str, object]:
    """Write an image of each colour and form below `folder`; return a section `evaluate` with them as `shapes`."""
    for colour in COLOURS:
        for form in FORMS:
            place = folder / f"{colour}_{form}" / "1.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture(colour, form))
    return {"folders": {"shapes": f"folders:{folder}"}, "datasets": ["shapes"], "languages": ["en"], "device": "cpu"}


TRAIN = {
    "samples_seen": 24 * 16,
    "global_batch_size": 16,
    "warmup_samples": 32,
    "lr": 2e-3,
    "checkpoint_every_samples": 5 * 16,
    "device": "cpu",
    "model": {
        "preset": "tiny",
        "image_size": 32,
        "vision_layers": 1,
        "vision_width": 64,
        "text_layers": 1,
        "text_width": 64,
        "embed_dim": 16,
        "context_length": 12,
    },
    "tokenizer": {"vocab_size": 100},
}


def make_recipe(tars: Path, **train: object) -> Recipe:
    return load_recipe({"pool": {"path": str(tars)}, "balance": {"tail_fraction": 0.1}, "train": TRAIN | train})
