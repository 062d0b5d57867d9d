"""Write a small random model and pools of pictures to embed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from transformers import MetaClip2Config

from miniature import write_files
from pools import encode
from small_models import random_model, save_hugging_face
from stages import QUIET
from toy import write_tar
from worldclip.contracts.schemas import EMBEDDED_IMAGES
from worldclip.core.artifacts import read_table, write_table
from worldclip.model import published
from worldclip.tools.embed import embed

SHARDS, PER_SHARD, BAD = 3, 12, 7
B32 = published.find("metaclip-2-worldwide-b32")


def picture(seed: int) -> bytes:
    """Return a PNG of a few coarse colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels).resize((60, 40)))


def key_of(shard: int, i: int) -> str:
    return f"{shard:05}{i:04}"


def text_of(shard: int, i: int) -> str:
    return f"a red apple {shard} {i} 赤いリンゴ"


def write_pool(folder: Path) -> None:
    """Write SHARDS tars of PER_SHARD pairs; the picture of pair BAD of each is truncated."""
    for shard in range(SHARDS):
        members = []
        for i in range(PER_SHARD):
            image = picture(100 * shard + i)
            members.append((f"{key_of(shard, i)}.png", image[:80] if i == BAD else image))
            members.append((f"{key_of(shard, i)}.txt", text_of(shard, i).encode()))
        write_tar(folder / f"{shard:05}.tar", members)


def segment_of(folder: Path, shard: str, suffix: str, of: str = "images") -> Path:
    """Return the .npy or .parquet of a shard in a folder that embed wrote."""
    stem = json.loads((folder / "manifest.json").read_text())["segments"][of][shard]
    return folder / of / f"{stem}.{suffix}"


def change_places(folder: Path, shard: str = "00000.tar", **columns: object) -> None:
    """Set columns of the images of a shard to one value each."""
    path = segment_of(folder, shard, "parquet")
    table = read_table(path, EMBEDDED_IMAGES)
    values = {name: [columns[name]] * len(table) if name in columns else table[name] for name in table.column_names}
    write_table(path, pa.table(values), EMBEDDED_IMAGES)


def write_world(root: Path) -> None:
    """Write ROOT/model, ROOT/pool, and ROOT/photos: a folder of image files, one of which is not an image."""
    save_hugging_face(B32, root / "model")
    write_pool(root / "pool")
    write_files(root / "photos", {"bad.jpg": "no image", **{f"sub/{i}.png": picture(i) for i in range(4)}})


def write_embedded_world(root: Path) -> None:
    """Write ROOT/model, ROOT/pool and ROOT/embedded with its images and texts."""
    write_world(root)
    embed(root / "model", root / "pool", root / "embedded", of=("images", "texts"), executor=QUIET)


def write_other_weights(model: Path) -> None:
    """Replace the weights of a copy of ROOT/model."""
    random_model(MetaClip2Config.from_pretrained(model), seed=1).save_pretrained(model)
