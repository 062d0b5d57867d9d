"""Every dataset of the catalog, and one in each further layout, in miniature.

A file is text or bytes, a tar a dict of its members; an image is the word for what it shows.
"""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miniature import Files, write_files
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import EvaluateConfig
from worlds import WordModel, vector

MEANINGS = {
    "cat": "katze paka chat 猫", "dog": "hund mbwa chien 犬", "owl": "eule bundi hibou 梟", "bee": "nyuki abeille 蜂",
    "tench": "", "goldfish": "", "stove": "jiko", "hat": "kofia", "tower": "", "bridge": "",
}  # fmt: skip
CONCEPTS = {name: concept for concept, names in MEANINGS.items() for name in (concept, *names.split())}
VECTORS = {concept: vector(concept) for concept in ["", *MEANINGS]}  # "": a text without a known word


class Polyglot(WordModel):
    """Encode an image as what it shows, and a text of any language as its last known word."""

    def encode_text(self, texts):
        self.texts += texts
        words = [re.findall(r"\w+", text.lower()) for text in texts]
        concepts = [[CONCEPTS[word] for word in of_text if word in CONCEPTS] for of_text in words]
        return np.stack([VECTORS[names[-1] if names else ""] for names in concepts])


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def jsonl(*records: Mapping[str, Any]) -> str:
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


def parquet(*rows: Mapping[str, Any], row_group_size: int | None = None) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file, row_group_size=row_group_size)
    return file.getvalue()


def lines_of(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def webdataset(name: str) -> Files:
    info = CATALOG[name]
    if info.metrics == ("mean_recall@1",):
        members = {"0.jpg": b"cat", "0.txt": b"A cat on a chair.\nThis is a cat.", "1.jpg": b"dog", "1.txt": b"A dog."}
        return {"dataset_type.txt": "retrieval\n", "test/nshards.txt": "1\n", "test/0.tar": members}
    words = ["tench", "goldfish"] if info.classes == "imagenet" else ["cat", "dog", "owl", "bee", "stove", "hat"]
    words = words[:2] if info.metrics == ("roc_auc",) else words
    is_multilabel = "mean_average_precision" in info.metrics
    members = {}
    for i, word in enumerate([*words, words[0]]):
        label = words.index(word)
        members[f"s{i:07}.jpg"] = word.encode()
        if is_multilabel:
            members[f"s{i:07}.npy"] = array([int(word == other) for other in words])
            continue
        members[f"s{i:07}.cls"] = str(label).encode()
        if info.fields:
            members[f"s{i:07}.npy"] = array([i % 2 if field != "y" else label for field in info.fields])
    return {
        **({"dataset_type.txt": "multilabel\n"} if is_multilabel else {}),
        "classnames.txt": lines_of(*words),
        "zeroshot_classification_templates.txt": "a photo of a {c}.\na blurry photo of a {c}.\n",
        "test/nshards.txt": "1\n",
        "test/0.tar": members,
    }


def winogavil(name: str) -> Files:
    others = [f"other{i}" for i in range(8)]
    rows = [
        "cue,candidates,associations",
        "cat,\"['cat', 'dog', 'owl', 'bee', 'hat']\",\"['cat']\"",
        f'"dog","{["dog", "cat", *others]}","[\'dog\']"',
    ]
    pictures = {f"images/{word}.jpg": word for word in ("cat", "dog", "owl", "bee", "hat", *others)}
    return {"winogavil_dataset.csv": lines_of(*rows), **pictures}


def babel_imagenet(name: str) -> Files:
    labels = {
        "EN": [[0, 1, 281], ["tench", "goldfish", "cat"]],
        "DE": [[1, 281], ["Goldfish", "Katze"]],
        "ZH_YUE": [[281], ["猫"]],
    }
    members = {}
    for i, (word, index) in enumerate({"tench": 0, "goldfish": 1, "cat": 281}.items()):
        members |= {f"s{i:07}.jpg": word.encode(), f"s{i:07}.cls": str(index).encode()}
    return {
        "babel_imagenet-298.json": json.dumps(labels, ensure_ascii=False),
        "nllb_dist13b_prompts.json": json.dumps({"EN": ["a photo of a {}."], "DE": ["ein Bild von {}."]}),
        "images/0.tar": members,
    }


def xm3600(name: str) -> Files:
    records, pictures = [], {}
    for i, (word, own, locale) in enumerate([("cat", "paka", "sw"), ("dog", "mbwa", "sw"), ("owl", "bundi", "en")]):
        captions = {"en": {"caption": [f"A {word}", f"{word} in the sun"]}, "sw": {"caption": [own]}}
        records.append({"image/key": f"{i:016x}", "image/locale": locale, **captions})
        pictures[f"images/{i:016x}.jpg"] = word
    return {"captions.jsonl": jsonl(*records), **pictures}


def cvqa_row(number: str, image: str, subset: str, order: str = "cat dog owl bee") -> dict[str, Any]:
    """Return a published question about an image; order: of the options."""
    own = {"cat": "paka", "dog": "mbwa", "owl": "bundi", "bee": "nyuki"}
    if "Japan" in subset:
        own = {"cat": "猫", "dog": "犬", "owl": "梟", "bee": "蜂"}
    return {
        "image": {"bytes": image.encode(), "path": f"{number}.jpg"}, "ID": number, "Subset": subset,
        "Question": "Ni nini?", "Translated Question": "What is it?", "Label": -1,
        "Options": [own[word] for word in order.split()], "Translated Options": order.split(),
    }  # fmt: skip


def cvqa(name: str) -> Files:
    rows = [
        cvqa_row("6001_0", "cat", "('Swahili', 'Kenya')"),
        cvqa_row("6001_1", "cat", "('Swahili', 'Kenya')", "dog cat owl bee"),
        cvqa_row("7001_0", "bee", "('Japanese', 'Japan')"),
    ]
    labels = {"6001_0": 0, "6001_1": 1, "7001_0": 3}
    return {"data/test-00000-of-00001.parquet": parquet(*rows), "labels.json": json.dumps(labels)}


CAPTIONS = {
    "en": ("A cat", "A dog", "eng_Latn"),
    "de": ("Eine Katze", "Ein Hund", "deu_Latn"),
    "jp": ("猫", "犬", "jpn_Jpan"),
    "fr": ("Un chat", "Un chien", "fra_Latn"),
}
"""Two captions, and FLORES' code of their language."""


def lines(name: str) -> Files:
    listed, file, langs = {
        "xtd10": ("test_image_names.txt", "test_1kcaptions_{0}.txt", tuple(CAPTIONS)),
        "xtd200": ("test_image_names.txt", "{1}.txt", tuple(CAPTIONS)),
        "flickr30k_200": ("filenames.txt", "{1}.txt", tuple(CAPTIONS)),
        "multi30k": ("test_2016_flickr.txt", "test_2016_flickr.{0}", ("en", "de", "fr")),
    }[name]
    images = ("1007.jpg", "1009.jpg")
    if name.startswith("xtd"):
        images = ("COCO_val2014_000000391895.jpg", "COCO_val2014_000000060623.jpg")
    captions = {file.format(lang, CAPTIONS[lang][2]): lines_of(*CAPTIONS[lang][:2]) for lang in langs}
    return {listed: lines_of(*images), **captions, f"images/{images[0]}": "cat", f"images/{images[1]}": "dog"}


def dollar_street(name: str) -> Files:
    rows, pictures = ["id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id"], {}
    for i in range(14):
        word = ("tench", "goldfish")[i // 7]
        path = f"assets/{i:024x}/{i:024x}.jpg"
        place = ("Kenya,af", "Peru,am")[i % 2]
        rows.append(f'{i:024x},{place},{40 * (i + 1)},{path},"[{i // 7}, {998 + i % 2}]"')
        pictures[path] = word
    return {"images_v2_imagenet_test.csv": lines_of(*rows), **pictures}


def geode(name: str) -> Files:
    rows, pictures = ["file_path,object,region,ip_country"], {}
    for i in range(14):
        region, country = (("Africa", "Nigeria"), ("Europe", "Italy"))[i % 2]
        thing = ("stove", "hat")[i // 7]
        rows.append(f"{region}/{i}.jpg,{thing},{region},{country}")
        pictures[f"images/{region}/{i}.jpg"] = thing
    return {"index.csv": lines_of(*rows), **pictures}


def landmarks(name: str) -> Files:
    wiki = "http://commons.wikimedia.org/wiki/Category:Great"
    return {
        "recognition_solution_v2.1.csv": "id,landmarks,Usage\n0a1b2c3d4e5f6071,7,Public\n1f2e3d4c5b6a7980,12,Public\n"
        "ffffffffffffffff,,Private\n",
        "train_label_to_category.csv": f"landmark_id,category\n7,{wiki}_Tower\n12,{wiki}_Bridge\n",
        "test/0/a/1/0a1b2c3d4e5f6071.jpg": "tower",
        "test/1/f/2/1f2e3d4c5b6a7980.jpg": "bridge",
    }


def folders(name: str) -> Files:
    return {"cat/a.jpg": "cat", "cat/b.jpg": "cat", "dog/a.jpg": "dog"}


def pool(name: str) -> Files:
    texts = {"texts": ["a dog", "ein Hund"], "lang_truth": ["en", "de"]}
    pairs = {"0.jpg": b"cat", "0.txt": b"a cat", "1.jpg": b"dog", "1.json": json.dumps(texts).encode()}
    return {"0.tar": pairs, "more/1.tar": {"2.jpg": b"owl", "2.txt": b"an owl"}}


def names(name: str) -> Files:
    of_subjects = {"en": ["cat", "dog", "owl"], "sw": ["paka", None, "bundi"]}
    return {
        "000000.tar": {"a.jpg": b"cat", "b.jpg": b"dog", "c.jpg": b"owl"},
        "set.json": json.dumps({"subjects": {"a": 0, "b": 1, "c": 2}, "about": "all"}),
        "names.json": json.dumps({"lang": of_subjects}),
    }


OF_LAYOUT: dict[str, Callable[[str], Files]] = {
    "webdataset": webdataset, "winogavil": winogavil, "babel_imagenet": babel_imagenet, "captions": xm3600,
    "cvqa": cvqa, "lines": lines, "dollar_street": dollar_street, "geode": geode, "landmarks": landmarks,
    "folders": folders, "pool": pool, "names": names,
}  # fmt: skip


def files_of(name: str) -> Files:
    """Return the miniature of a dataset of the catalog, or of a layout that no dataset of the catalog has."""
    layout = CATALOG[name].layout if name in CATALOG else name
    return OF_LAYOUT[layout](name)


def write_miniature(name: str, data: Path, files: Files | None = None) -> Path:
    """Write the miniature into data/name, with these files instead of its own, and return the folder."""
    return write_files(data / name, {**files_of(name), **(files or {})})


def config_of(names: Sequence[str], data: Path, **values: Any) -> EvaluateConfig:
    """Return the config of miniatures below `data`.  values: of evaluate."""
    folders = {name: f"{name}:{data / name}" for name in names if name not in CATALOG}
    return EvaluateConfig(datasets=tuple(names), data=str(data), folders=folders, **values)


def is_image(path: str) -> bool:
    return path.endswith((".jpg", ".png"))
