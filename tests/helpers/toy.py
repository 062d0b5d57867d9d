"""A toy world: 300 pairs of drawn shapes with captions in four languages, and the tools that make it."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tars import write_tar

TOY_WORDS = {
    "en": ("red green blue yellow black", "circle square triangle star cross"),
    "ar": ("أحمر أخضر أزرق أصفر أسود", "دائرة مربع مثلث نجمة صليب"),
    "th": ("สีแดง สีเขียว สีน้ำเงิน สีเหลือง สีดำ", "วงกลม สี่เหลี่ยม สามเหลี่ยม ดาว กากบาท"),
    "zh": ("红色 绿色 蓝色 黄色 黑色", "圆形 方形 三角形 星星 十字"),
}
TOY_CAPTIONS = {"en": "a photo of a {} {}", "ar": "صورة {1} {0} جميل", "th": "รูป{1}{0}", "zh": "一张{}{}的照片"}
TOY_RGB = np.array([(220, 30, 30), (30, 160, 60), (40, 60, 220), (235, 205, 30), (15, 15, 15)], np.uint8)


@dataclass(frozen=True)
class ToyWorld:
    """A pool of 300 pairs of drawn shapes in 4 languages, 40 entries, and the recipe that takes it to an export."""

    folder: Path
    recipe: Path

    @property
    def pool(self) -> Path:
        return self.folder / "pool"


def draw_shape(shape: int, rgb: np.ndarray, shift: int, size: int = 32) -> bytes:
    """PNG of a circle, square, triangle, star or cross."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    x = x + shift / size
    masks = (
        x**2 + y**2 < 0.5,
        np.maximum(abs(x), abs(y)) < 0.6,
        (y < 0.6) & (y > 2.4 * abs(x) - 0.8),
        np.sqrt(abs(x)) + np.sqrt(abs(y)) < 0.95,
        np.minimum(abs(x), abs(y)) < 0.2,
    )
    pixels = np.full((size, size, 3), 255, np.uint8)
    pixels[masks[shape]] = rgb
    return encode_png(pixels)


def encode_png(pixels: np.ndarray) -> bytes:
    """(height, width, 3) uint8 -> PNG, in the ten lines that the format needs."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def build_toy_world(folder: Path) -> ToyWorld:
    """75 images x 4 texts in 3 tars; every text names one of 5 colours and one of 5 shapes."""
    words = {lang: [part.split() for part in parts] for lang, parts in TOY_WORDS.items()}
    for lang, (colours, shapes) in words.items():
        (folder / "lists").mkdir(parents=True, exist_ok=True)
        (folder / "lists" / f"{lang}.txt").write_text("\n".join([*colours, *shapes]) + "\n", encoding="utf-8")
    for shard in range(3):
        members: list[tuple[str, bytes]] = []
        for n in range(25 * shard, 25 * shard + 25):
            colour, shape = n % 5, n // 5 % 5
            texts = [TOY_CAPTIONS[lang].format(words[lang][0][colour], words[lang][1][shape]) for lang in words]
            record = {"texts": texts, "lang_truth": list(words)}
            members.append((f"{n:05}.png", draw_shape(shape, TOY_RGB[colour], n % 7 - 3)))
            members.append((f"{n:05}.json", json.dumps(record, ensure_ascii=False).encode()))
        write_tar(folder / "pool" / f"{shard:05}.tar", members)
    recipe = folder / "toy.toml"
    recipe.write_text(
        f"""
[pool]
path = "{folder / "pool"}"
[languages]
codes = ["en", "ar", "th", "zh"]
[metadata]
lists = {{ {", ".join(f'{lang} = "{folder / "lists" / f"{lang}.txt"}"' for lang in words)} }}
[match]
restrict_to_recipe_languages = true
[balance]
tail_fraction = 0.3
[curate]
text_policy = "all"
[train]
samples_seen = 640
global_batch_size = 32
warmup_samples = 64
lr = 1e-3
checkpoint_every_samples = 320
[train.model]
preset = "tiny"
image_size = 32
[train.tokenizer]
vocab_size = 200
""",
        encoding="utf-8",
    )
    return ToyWorld(folder, recipe)


def markdown_rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of every table row in a Markdown text, heads and rules included."""
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in lines if line.startswith("|")]
