"""The small data that digests.py runs on: a pool in five formats, sources of entries, evaluation datasets.

Everything is drawn from a hash of its name, so that equal packages write equal bytes on every machine.
"""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NUM_PAIRS, NUM_SHARDS = 360, 4
WORDS = {  # colours, shapes, places
    "en": ("red green blue yellow black", "circle square triangle star cross", "garden house river street market"),
    "de": ("rot grün blau gelb schwarz", "Kreis Quadrat Dreieck Stern Kreuz", "Garten Haus Fluss Straße Markt"),
    "sw": ("nyekundu kijani bluu njano nyeusi", "duara mraba pembetatu nyota msalaba", "bustani nyumba mto soko msitu"),
    "ar": ("أحمر أخضر أزرق أصفر أسود", "دائرة مربع مثلث نجمة صليب", "حديقة بيت نهر شارع سوق"),
    "th": ("สีแดง สีเขียว สีน้ำเงิน สีเหลือง สีดำ", "วงกลม สี่เหลี่ยม สามเหลี่ยม ดาว กากบาท", "สวน บ้าน แม่น้ำ ถนน ตลาด"),
    "zh": ("红色 绿色 蓝色 黄色 黑色", "圆形 方形 三角形 星星 十字", "花园 房子 河流 街道 市场"),
}
CAPTIONS = {
    "en": "a photo of a {} {} in front of the {}",
    "de": "ein Bild von {} und {} in der Nähe, {}",
    "sw": "picha ya {1} ya rangi ya {0} karibu na {2}",
    "ar": "صورة {1} {0} جميل بالقرب من {2}",
    "th": "รูป{1}{0}ใกล้{2}",
    "zh": "一张{0}{1}在{2}旁边的照片",
}
LANGS = tuple(WORDS)


def number(*names: object) -> int:
    """Return 32 bits of a hash of the names."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4], "big")


def pick(words: Sequence[str], *names: object) -> str:
    """Return one of the words; earlier ones are more frequent."""
    return words[int(len(words) * (number(*names) / 2**32) ** 2)]


def words_of(lang: str) -> list[list[str]]:
    return [part.split() for part in WORDS[lang]]


def caption(lang: str, *names: object) -> str:
    return CAPTIONS[lang].format(*(pick(words, *names, lang, i) for i, words in enumerate(words_of(lang))))


# --- files


def write_bytes(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    data = "".join(f"{line}\n" for line in lines).encode()
    return write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_json(path: Path, value: Any) -> Path:
    return write_bytes(path, json.dumps(value, ensure_ascii=False).encode())


def write_json_lines(path: Path, records: Iterable[Any]) -> Path:
    return write_lines(path, (json.dumps(record, ensure_ascii=False) for record in records))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_keys(path: Path, keys: Sequence[str]) -> Path:
    pq.write_table(pa.table({"key": list(keys)}), path)
    return path


# --- pictures


def clouds(name: object, size: tuple[int, int] = (64, 56)) -> Image.Image:
    """Return coloured clouds; each name has its own."""
    drawn = np.random.RandomState(number("picture", name)).randint(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(drawn).resize(size, Image.Resampling.BICUBIC)


def picture(name: object, kind: str = "png") -> bytes:
    return encoded(clouds(name), kind)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, {"png": "PNG", "jpg": "JPEG"}[kind], **options)
    return file.getvalue()


def image_of(row: int) -> tuple[str, bytes] | None:
    """Return (suffix, bytes) of a pair's picture: most are sound, some are copies, cut, CMYK, turned, or missing."""
    kind = "jpg" if row % 2 else "png"
    if row % 45 == 44:
        return None
    if row % 40 == 39:
        return kind, picture(row, kind)[:300]
    if row % 30 == 29:
        return "png", picture(row - 5)
    if row % 31 == 30:
        return "jpg", encoded(clouds(row - 7), "jpg", quality=40)
    if row % 50 == 49:
        return "jpg", encoded(clouds(row).convert("CMYK"), "jpg")
    if row % 52 == 51:
        turned = Image.Exif()
        turned[0x0112] = 6
        return "jpg", encoded(clouds(row), "jpg", exif=turned)
    return kind, picture(row, kind)


# --- the pool


def text_of(row: int, place: str) -> tuple[str, str]:
    """Return (language, text) of a pair's place; some are noise, blank, empty or decorated."""
    lang = pick(LANGS, row, place)
    if row % 11 == 10:
        return lang, ""
    if row % 17 == 16:
        return lang, "   "
    if row % 13 == 12:
        return lang, f"IMG_{row:04}.jpg"
    text = caption(lang, row, place)
    ways = {1: text.upper(), 2: f"“{text}”", 3: f"{text}, No. {row % 4}!", 4: f'{text} "x", y', 5: f"{text} (2)-3"}
    return lang, ways.get(number(row, place, "way") % 9, text)


@functools.cache
def pairs() -> list[dict[str, Any]]:
    """Return the pairs of the pool: key, two texts, the first one's language, address, size, picture."""
    found = []
    for row in range(NUM_PAIRS):
        owner = row  # of the key: some are repeated in their shard, some in another one
        if row % 60 == 59:
            owner = row - 3
        elif row % 73 == 72:
            owner = row % 90
        (lang, alt), (_, text) = text_of(row, "alt"), text_of(row, "caption")
        pair = {"uid": hashlib.md5(b"%d" % owner).hexdigest(), "alt": alt, "caption": text, "alt_lang": lang}
        found.append({**pair, "url": f"https://example.org/{row}", "width": 64, "image": image_of(row)})
    return found


def write_pool(folder: Path, kind: str) -> Path:
    """Write the pool as tars, Parquet with images, CSV, TSV or JSONL, if it is not there; return its folder."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    size = NUM_PAIRS // NUM_SHARDS
    for shard in range(NUM_SHARDS):
        rows = range(shard * size, (shard + 1) * size)
        write_shard(folder / f"{shard:03}.{kind}", kind, {row: pairs()[row] for row in rows})
    return folder


def write_shard(path: Path, kind: str, rows: dict[int, dict[str, Any]]) -> None:
    plain = {row: {name: value for name, value in pair.items() if name != "image"} for row, pair in rows.items()}
    if kind == "tar":
        members = []
        for row, pair in rows.items():
            if pair["image"] is not None:
                members.append((f"{row:05}.{pair['image'][0]}", pair["image"][1]))
            members.append((f"{row:05}.json", json.dumps(plain[row], ensure_ascii=False).encode()))
        write_tar(path, members)
    elif kind == "parquet":
        images = {row: {"bytes": p["image"][1], "path": f"a.{p['image'][0]}"} for row, p in rows.items() if p["image"]}
        table = pa.Table.from_pylist([{**pair, "image": images.get(row)} for row, pair in plain.items()])
        pq.write_table(table, path, row_group_size=25)
    elif kind == "jsonl":
        write_json_lines(path, plain.values())
    else:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if kind == "tsv" else {}
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(next(iter(plain.values()))), lineterminator="\n", **dialect)
            writer.writeheader()
            writer.writerows(plain.values())


def write_bad_pools(folder: Path) -> dict[str, Path]:
    """Write a pool per format in which some pairs cannot be read; return their folders."""
    good = b'{"uid": "1", "alt": "a red circle", "caption": "a star"}'
    lines = [good, b'{"uid": "2", "alt": ', b'{"uid": "3", "alt": "a \xff star"}', b'["uid"]', b""]
    lines += [b'{"uid": "", "alt": "x"}', b'{"uid": "4", "alt": 7}', b'{"uid": "1", "alt": "again"}']
    table = [b"uid,alt,caption", b"1,a red circle,a star", b"2,two fields", b"3,a,b,c", b'4,"a, ""b""\nc",a star']
    table += [b"5,\xff\xfe,a star", b",a cross,x", b"1,again,x"]
    files = {"jsonl": lines, "csv": table, "tsv": [line.replace(b",", b"\t") for line in table]}
    for kind, content in files.items():
        write_bytes(folder / kind / f"0.{kind}", b"\n".join(content) + b"\n")
    members = [(f"{i}.json", line) for i, line in enumerate(lines)]
    write_tar(folder / "tar/0.tar", [*members, ("9.png", picture(9)), ("nostem", b"x"), (".json", b"{}")])
    return {kind: folder / kind for kind in ("tar", *files)}


# --- sources of entries


def write_entry_lists(folder: Path) -> dict[str, str]:
    """Write a list per language: words in two cases, numbers, pairs of words; return the paths."""
    paths = {}
    for lang in LANGS:
        colours, shapes, places = words_of(lang)
        gap = "" if lang in ("th", "zh") else " "
        words = [*colours, *shapes, *places, *(word.title() for word in (*colours, *shapes)), "2", "3"]
        entries = dict.fromkeys([*words, *(f"{colour}{gap}{shape}" for colour in colours for shape in shapes)])
        paths[lang] = str(write_lines(folder / f"{lang}.txt", entries))
    return paths


def write_dumps(folder: Path) -> dict[str, Any]:
    """Write Wikipedias, an hour of page views and WordNets; return the section [metadata] that reads them."""
    views = []
    for lang in ("de", "sw", "zh"):
        pages = (
            f"<page><title>T{page}</title><ns>0</ns><revision><text>{article(lang, page)}</text></revision></page>"
            for page in range(60)
        )
        dump = folder / lang / f"{lang}wiki-20240101-pages-articles.xml.bz2"
        write_bytes(dump, bz2.compress(f"<mediawiki>{''.join(pages)}</mediawiki>".encode()))
        names = {"namespaces": {"6": {"*": "File", "canonical": "File"}}, "namespacealiases": []}
        write_json(dump.with_name(f"{lang}wiki-20240101-siteinfo-namespaces.json"), {"query": names})
        titles = [f"Title_{i}" if i % 4 else f"File:{i}.jpg" for i in range(50)]
        views += [f"{lang}{'.m' * (i % 2)} {title} {number(lang, title) % 900} 0" for i, title in enumerate(titles)]
    write_lines(folder / "pageviews/pageviews-20240101-120000.gz", views)
    wordnets = {}
    for lang, code in {"en": "eng", "de": "deu"}.items():
        lemmas = [f"{i:08}-n\t{code}:lemma\t{word}_{i}" for i, word in enumerate(words_of(lang)[1])]
        wordnets[lang] = str(write_lines(folder / f"{lang}.tab", [f"# Own\t{code}\turl\tfree", *lemmas]))
    return {
        "sources": ["number", "wordnet", "unigram", "bigram", "title"],
        "dumps": str(folder),
        "wordnets": wordnets,
        "overrides": {"unigram_top_fraction": 0.4, "bigram_min_count": 2},
    }


def article(lang: str, page: int) -> str:
    """Return wikitext: words of no language, captions, and what a stripper removes; some pages are redirects."""
    if page % 9 == 0:
        return "#REDIRECT [[T1]]"
    words = [f"{'bcdfgklmnprst'[number(lang, page, i) % 13]}a{number(lang, i) % 400}" for i in range(120)]
    texts = [caption(lang, page, i) for i in range(9)]
    head = f"'''T{page}''' [[File:x.png|thumb]] {{{{box|a=1}}}} {' '.join(words)}\n== {texts[0]} ==\n"
    return f"{head}{'. '.join(texts)} [[{texts[1]}|{texts[2]}]]"


# --- evaluation datasets

CLASSES = ("circle", "square", "star", "cross", "house", "river")
NUM_IMAGES = 48


def write_datasets(folder: Path) -> dict[str, str]:
    """Write a dataset in each layout that stays; return name -> layout:path."""
    images = [picture(("evaluated", i), "jpg") for i in range(NUM_IMAGES)]
    write_classes(folder, images)
    write_captions(folder, images)
    write_regions(folder, images)
    layouts = {"binary": "webdataset", "multilabel": "webdataset"}
    return {path.name: f"{layouts.get(path.name, path.name)}:{path}" for path in sorted(folder.iterdir())}


def write_classes(folder: Path, images: Sequence[bytes]) -> None:
    """Write folders, webdataset (six classes, two, several labels), babel_imagenet."""
    for i, image in enumerate(images):
        write_bytes(folder / "folders" / CLASSES[i % 6] / f"{i}.jpg", image)
    names = {
        "en": {"classes": CLASSES, "templates": ["a photo of a {}."]},
        "de": {"classes": [*words_of("de")[1], "Haus"]},
    }
    write_json(folder / "folders/languages.json", names)
    for name, num_classes in {"webdataset": 6, "binary": 2, "multilabel": 6}.items():
        write_lines(folder / name / "classnames.txt", CLASSES[:num_classes])
        templates = ["a photo of a {c}.", "a bad photo of a {c}."]
        write_lines(folder / name / "zeroshot_classification_templates.txt", templates)
        write_lines(folder / name / "test/nshards.txt", ["1"])
        labels = [number(name, i) % num_classes for i in range(NUM_IMAGES)]
        answers = [(".cls", b"%d" % label) for label in labels]
        if name == "multilabel":
            write_lines(folder / name / "dataset_type.txt", ["multilabel"])
            answers = [(".npy", array([number(i, word) % 3 == 0 for word in CLASSES])) for i in range(NUM_IMAGES)]
        write_tar(folder / name / "test/0.tar", samples(images, answers))
    write_tar(folder / "babel_imagenet/images/0.tar", samples(images, [(".cls", b"%d" % (i % 6)) for i in range(48)]))
    labels_of = {"EN": [[*range(6)], [f"thing {i}" for i in range(6)]], "DE": [[1, 2, 5], words_of("de")[1][:3]]}
    write_json(folder / "babel_imagenet/babel_imagenet-298.json", labels_of)
    write_json(folder / "babel_imagenet/nllb_dist13b_prompts.json", {"EN": ["a photo of a {}."]})


def write_captions(folder: Path, images: Sequence[bytes]) -> None:
    """Write captions, lines, pool, names and cvqa."""
    texts = {
        lang: [[caption(lang, i, n, "set") for n in (0, 1)] for i in range(NUM_IMAGES)] for lang in ("en", "de", "zh")
    }
    records, questions, stated = [], [], []
    for i, image in enumerate(images):
        for layout in ("captions", "lines"):
            write_bytes(folder / layout / "images" / f"{i:04}.jpg", image)
        about = {"image/key": f"{i:04}", "image/locale": ("de", "sw", "zh")[i % 3]}
        records.append({**about, **{lang: {"caption": of_lang[i]} for lang, of_lang in texts.items()}})
        own, english = ([texts[lang][(i + n) % NUM_IMAGES][0] for n in range(4)] for lang in ("zh", "en"))
        place = ("('Chinese', 'China')", "('Chinese', 'Singapore')")[i % 2]
        asked = {"image": {"bytes": image, "path": f"{i}.jpg"}, "ID": f"{i:04}_0", "Subset": place, "Label": -1}
        asked |= {"Question": "什么?", "Options": own, "Translated Question": "what?", "Translated Options": english}
        questions.append(asked)
        of_image = {"texts": texts["en"][i] + texts["de"][i], "lang_truth": ["en", "en", "de", "de"]}
        stated.append((".json", json.dumps(of_image).encode()))
    write_json_lines(folder / "captions/captions.jsonl", records)
    write_lines(folder / "lines/test_image_names.txt", (f"{i:04}.jpg" for i in range(NUM_IMAGES)))
    for lang, code in (("en", "eng_Latn"), ("de", "deu_Latn")):
        write_lines(folder / "lines" / f"{code}.txt", (first for first, _ in texts[lang]))
    (folder / "cvqa/data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(questions), folder / "cvqa/data/test-00000-of-00001.parquet")
    write_json(folder / "cvqa/labels.json", {question["ID"]: i % 4 for i, question in enumerate(questions)})
    write_tar(folder / "pool/0.tar", samples(images, stated))
    write_tar(folder / "names/0.tar", samples(images))
    names = {
        lang: [None if (i + len(lang)) % 5 == 0 else first for i, (first, _) in enumerate(of_lang)]
        for lang, of_lang in texts.items()
    }
    write_json(folder / "names/names.json", {"lang": names})
    write_json(folder / "names/set.json", {"subjects": {f"{i:04}": i for i in range(NUM_IMAGES)}, "about": "all"})


def write_regions(folder: Path, images: Sequence[bytes]) -> None:
    """Write geode, dollar_street, landmarks and winogavil."""
    wiki = "http://commons.wikimedia.org/wiki/Category:Great_Tower"
    geode, landmarks, cues = (
        ["file_path,object,region,ip_country"],
        ["id,landmarks,Usage"],
        ["cue,candidates,associations"],
    )
    streets = ["id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id"]
    for i, image in enumerate(images):
        region, country = (("Africa", "Nigeria"), ("Europe", "Italy"), ("Europe", "Spain"))[i % 3]
        geode.append(f"{region}/{i}.jpg,{CLASSES[i % 6]},{region},{country}")
        write_bytes(folder / "geode/images" / region / f"{i}.jpg", image)
        place = f"assets/{i:024x}/{i:024x}.jpg"
        streets.append(f'{i:024x},{country},{region[:2].lower()},{40 * (i + 1)},{place},"[{i % 6}, {990 + i % 3}]"')
        write_bytes(folder / "dollar_street" / place, image)
        mark = hashlib.md5(b"%d" % i).hexdigest()[:16]
        landmarks.append(f"{mark},{i % 7},Public")
        write_bytes(folder / "landmarks/test" / mark[0] / mark[1] / mark[2] / f"{mark}.jpg", image)
        candidates = [f"thing{(i + n) % NUM_IMAGES}" for n in range(5 + i % 6)]
        cues.append(f'cue{i},"{candidates}","{candidates[: 1 + i % 3]}"')
        write_bytes(folder / "winogavil/images" / f"thing{i}.jpg", image)
    write_lines(folder / "geode/index.csv", geode)
    write_lines(folder / "dollar_street/images_v2_imagenet_test.csv", streets)
    write_lines(folder / "landmarks/recognition_solution_v2.1.csv", landmarks)
    categories = [f"{i},{wiki}_{i}" for i in range(7)]
    write_lines(folder / "landmarks/train_label_to_category.csv", ["landmark_id,category", *categories])
    write_lines(folder / "winogavil/winogavil_dataset.csv", cues)


def samples(images: Sequence[bytes], others: Sequence[tuple[str, bytes]] = ()) -> list[tuple[str, bytes]]:
    """Return members of a tar: images, each followed by its other file, (suffix, bytes)."""
    members = []
    for i, image in enumerate(images):
        members.append((f"{i:04}.jpg", image))
        members += [(f"{i:04}{suffix}", data) for suffix, data in others[i : i + 1]]
    return members


def array(values: Sequence[int]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, np.int64))
    return file.getvalue()
