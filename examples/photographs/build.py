"""Build a pool of photographs with captions in many languages, from a folder of classes and a table of their names.

    python build.py PHOTOS NAMES.csv OUT --test TEST --templates TEMPLATES.json

PHOTOS/<class>/**/<image>, and TEST likewise; NAMES.csv has the columns class, lang, name; TEMPLATES.json (optional) is
{LANG: ["a photo of a {}", ...]}.  The pool is like the web: English is 44% of the captions, the other languages follow
by Zipf, and a share of the captions is noise.  Caption `text_idx` of a photograph is a function of its path, this
number and the seed: each of its numbers is a hash.

    OUT/pool/<shard>.tar     the photographs, each with KEY.json: {"texts": [...], "langs": [the label of each]}
    OUT/truth.parquet        key, text_idx, class, lang, kind: what each text really is, which no stage reads
    OUT/names/<lang>.txt     the list of entries: the names; as .parquet, too, which metadata.lists = "OUT/names" reads
    OUT/test/                the photographs of TEST, to be asked in each language (layout `names` of evaluation),
                             and classes.json: the classes in the order of their names
    OUT/withheld.json        {"classes": [...], "langs": [...]}: names that no caption says, with --withhold
"""

from __future__ import annotations

import argparse
import csv
import json
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.coin import hash_keys, uniform_of_hashes
from worldclip.core.image_names import SUFFIXES
from worldclip.core.tars import add_member
from worldclip.metadata.lists import write_whole_list

ENGLISH_SHARE = 0.44  # of the captions, arXiv:2507.22062
ZIPF = 1.1  # of the other languages, in the order of how many classes they name
PER_SHARD = 10_000
ASKED_TEMPLATES = 8  # of the 80 that captions have; all of them find as much, and take ten times as long
NAME, FILE_NAME, BOILERPLATE, WRONG_LABEL = KINDS = ("name", "file name", "boilerplate", "wrong label")
FILE_NAMES = ("IMG_{:04}.JPG", "DSC{:05}.jpg", "image-{:03}.png", "P{:07}.JPG", "thumb_{:04}.jpg")
BOILERPLATE_TEXTS = (
    "Click to enlarge", "Share this page", "Photo gallery", "Home | About | Contact", "Read more", "No caption",
    "All rights reserved", "Loading, please wait", "Log in to see this image", "Advertisement",
)  # fmt: skip
# What each number of a caption decides.
KIND, LANG, TEMPLATE, OTHER = range(4)


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Writes the captions of a photograph of a class."""

    names: Mapping[str, Mapping[str, str]]
    """{class: {language: name}}."""
    templates: Mapping[str, Sequence[str]]
    """{language: sentences with {} in place of the name}; of other languages the name is the caption."""
    shares: Mapping[str, float]
    """How often each language is spoken, where it names the class."""
    noise: float
    """The share of captions that say nothing of the photograph, or have the label of another language."""

    def write(self, class_name: str, draws: np.ndarray) -> tuple[str, str, str, str]:
        """Return (text, label, language, kind) of the caption that four numbers in [0, 1) decide."""
        langs = list(self.names[class_name])
        lang = choose(langs, [self.shares[code] for code in langs], draws[LANG])
        templates = self.templates.get(lang, ["{}"])
        template = templates[int(draws[TEMPLATE] * len(templates))]
        text = " ".join(template.replace("{}", self.names[class_name][lang]).split())
        other_langs = [code for code in self.shares if code != lang]
        if draws[KIND] >= self.noise or not other_langs:
            return text, lang, lang, NAME
        kind = (FILE_NAME, BOILERPLATE, WRONG_LABEL)[int(draws[KIND] / self.noise * 3)]
        if kind == FILE_NAME:
            text = FILE_NAMES[int(draws[TEMPLATE] * len(FILE_NAMES))].format(int(draws[OTHER] * 1000))
            return text, lang, "", kind
        if kind == BOILERPLATE:
            return BOILERPLATE_TEXTS[int(draws[OTHER] * len(BOILERPLATE_TEXTS))], lang, "en", kind
        return text, other_langs[int(draws[OTHER] * len(other_langs))], lang, kind


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """Names that no caption says: those of some classes in some languages."""

    classes: Sequence[str]
    langs: Sequence[str]

    def spoken(self, names: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
        """Return the names without those that are withheld."""
        spoken = {class_name: dict(of_class) for class_name, of_class in names.items()}
        for class_name in self.classes:
            for lang in self.langs:
                spoken[class_name].pop(lang, None)
        return spoken


def choose(items: Sequence[str], weights: Sequence[float], draw: float) -> str:
    """Return the item that a number in [0, 1) chooses by weight."""
    ends = np.cumsum(weights)
    return items[int(np.searchsorted(ends, draw * ends[-1], side="right"))]


def language_shares(names: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Return the share of each language: English first, then Zipf by the number of classes that a language names."""
    num_named: dict[str, int] = defaultdict(int)
    for of_class in names.values():
        for lang in of_class:
            num_named[lang] += 1
    others = sorted((lang for lang in num_named if lang != "en"), key=lambda lang: (-num_named[lang], lang))
    weights = np.arange(1, len(others) + 1) ** -ZIPF
    weights *= (1 - ENGLISH_SHARE) / max(weights.sum(), 1e-9)
    return {"en": ENGLISH_SHARE, **dict(zip(others, weights.tolist(), strict=True))}


def read_names(path: Path, min_named: int) -> dict[str, dict[str, str]]:
    """Return {class: {language: name}} of the languages that name at least min_named classes."""
    names: dict[str, dict[str, str]] = defaultdict(dict)
    num_named: dict[str, int] = defaultdict(int)
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            names[row["class"]].setdefault(row["lang"], row["name"])
    for of_class in names.values():
        for lang in of_class:
            num_named[lang] += 1
    chosen = {}
    for class_name, of_class in names.items():
        chosen[class_name] = {lang: name for lang, name in of_class.items() if num_named[lang] >= min_named}
    return chosen


def choose_withheld(names: Mapping[str, object], shares: Mapping[str, float], number: int, seed: int) -> Withheld:
    """Return `number` classes by hash, and every second of the 40 languages after English that name the most."""
    hashes = hash_keys([f"withheld {seed} {class_name}" for class_name in names])
    classes = [class_name for _, class_name in sorted(zip(hashes.tolist(), names, strict=True))]
    return Withheld(classes=classes[:number], langs=list(shares)[1:41:2])


def list_photographs(folder: Path, names: Mapping[str, object]) -> list[tuple[str, Path]]:
    """Return (class, path) of the images of the named classes, in an order without classes: that of their hashes."""
    photographs = []
    for class_folder in sorted(folder.iterdir()):
        if class_folder.name in names:
            paths = (path for path in sorted(class_folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
            photographs += [(class_folder.name, path) for path in paths]
    if not photographs:
        raise SystemExit(f"{folder} holds no photographs of the classes in the table of names")
    order = np.argsort(hash_keys([path.relative_to(folder).as_posix() for _, path in photographs]), kind="stable")
    return [photographs[row] for row in order]


def thin_out(photographs: Sequence[tuple[str, Path]], tail: float) -> list[tuple[str, Path]]:
    """Return the photographs of a tail of classes: of the class of rank r (by hash) its first r^-tail."""
    classes = sorted({class_name for class_name, _ in photographs}, key=lambda name: int(hash_keys([name])[0]))
    num_of_class: dict[str, int] = defaultdict(int)
    for class_name, _ in photographs:
        num_of_class[class_name] += 1
    room = {name: max(1, round(num_of_class[name] * rank**-tail)) for rank, name in enumerate(classes, 1)}
    chosen = []
    for class_name, path in photographs:
        if room[class_name] > 0:
            room[class_name] -= 1
            chosen.append((class_name, path))
    return chosen


def write_pool(
    out: Path, photos: Path, photographs: Sequence[tuple[str, Path]], captions: Captions, per_photo: int, seed: int
) -> None:
    """Write the pool and truth.parquet."""
    hashes = hash_keys([path.relative_to(photos).as_posix() for _, path in photographs])
    truth: dict[str, list[str | int]] = {"key": [], "text_idx": [], "class": [], "lang": [], "kind": []}
    (out / "pool").mkdir(parents=True)
    for start in range(0, len(photographs), PER_SHARD):
        with tarfile.open(out / "pool" / f"{start // PER_SHARD:05}.tar", "w") as tar:
            for row in range(start, min(start + PER_SHARD, len(photographs))):
                class_name, path = photographs[row]
                key = f"{row:08}"
                texts = []
                labels = []
                for text_idx in range(per_photo):
                    draws = uniform_of_hashes(np.repeat(hashes[row], 4), np.arange(4), seed, text_idx)
                    text, label, lang, kind = captions.write(class_name, draws)
                    texts.append(text)
                    labels.append(label)
                    for column, value in zip(truth, (key, text_idx, class_name, lang, kind), strict=True):
                        truth[column].append(value)
                add_member(tar, f"{key}{path.suffix.lower()}", path.read_bytes())
                add_member(tar, f"{key}.json", json.dumps({"texts": texts, "langs": labels}).encode())
    pq.write_table(pa.table(truth), out / "truth.parquet")


def write_lists(out: Path, names: Mapping[str, Mapping[str, str]]) -> None:
    """Write the list of entries of each language: its names of the classes."""
    entries: dict[str, dict[str, None]] = defaultdict(dict)
    for of_class in names.values():
        for lang, name in of_class.items():
            entries[lang][name] = None
    (out / "names").mkdir(parents=True, exist_ok=True)
    for lang, of_lang in entries.items():
        path = out / "names" / f"{lang}.txt"
        path.write_text("".join(f"{name}\n" for name in of_lang), encoding="utf-8")
        write_whole_list(str(path), path.with_suffix(".parquet"))


def write_test(
    out: Path,
    folder: Path,
    names: Mapping[str, Mapping[str, str]],
    langs: Sequence[str],
    templates: Mapping[str, Sequence[str]],
) -> None:
    """Write the evaluation set: all photographs of a folder of classes, their names, and some of the templates."""
    classes = list(names)
    subjects = {}
    (out / "test").mkdir(parents=True, exist_ok=True)
    with tarfile.open(out / "test" / "test.tar", "w") as tar:
        for row, (class_name, path) in enumerate(list_photographs(folder, names)):
            subjects[f"{row:06}"] = classes.index(class_name)
            add_member(tar, f"{row:06}{path.suffix.lower()}", path.read_bytes())
    of_lang = {lang: [names[class_name].get(lang) for class_name in classes] for lang in langs}
    asked = {}
    for lang in langs:
        if lang in templates:
            asked[lang] = templates[lang][:: -(-len(templates[lang]) // ASKED_TEMPLATES)]
    record = {"lang": of_lang, "templates": asked}
    (out / "test" / "names.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    (out / "test" / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    record = {"subjects": subjects, "about": f"{len(subjects)} photographs of {len(classes)} classes"}
    (out / "test" / "set.json").write_text(json.dumps(record), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("names", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--test", type=Path, help="folder of classes to test on")
    parser.add_argument("--templates", type=Path, help="{LANG: [sentence with {}, ...]}")
    parser.add_argument("--captions", type=int, default=12, help="of each photograph")
    parser.add_argument("--noise", type=float, default=0.25, help="share of the captions")
    parser.add_argument("--class-tail", type=float, default=0.0, help="exponent of the tail of classes; 0: all alike")
    parser.add_argument("--min-named", type=int, default=1, help="classes that a language must name to take part")
    parser.add_argument("--withhold", type=int, default=0, help="classes whose names 20 languages never say")
    parser.add_argument("--langs", nargs="*", help="only these languages")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if (given.out / "pool").exists():
        raise SystemExit(f"{given.out} holds a pool; remove it, or give another folder")
    names = read_names(given.names, given.min_named)
    if given.langs:
        for class_name, of_class in names.items():
            names[class_name] = {lang: name for lang, name in of_class.items() if lang in given.langs}
    names = {class_name: of_class for class_name, of_class in names.items() if of_class}
    templates = {}
    if given.templates:
        templates = json.loads(given.templates.read_text(encoding="utf-8"))
    shares = language_shares(names)
    withheld = choose_withheld(names, shares, given.withhold, given.seed)
    captions = Captions(names=withheld.spoken(names), templates=templates, shares=shares, noise=given.noise)
    photographs = thin_out(list_photographs(given.photos, names), given.class_tail)
    write_pool(given.out, given.photos, photographs, captions, given.captions, given.seed)
    write_lists(given.out, names)
    if given.withhold:
        record = {"classes": withheld.classes, "langs": withheld.langs}
        (given.out / "withheld.json").write_text(json.dumps(record), encoding="utf-8")
    if given.test:
        write_test(given.out, given.test, names, list(shares), templates)
    print(f"{given.out}: {len(photographs):,} photographs of {len(names):,} classes, {len(shares):,} languages")


if __name__ == "__main__":
    main()
