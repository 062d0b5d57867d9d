"""Every dataset of the catalog, and one in each further layout, in miniature; docs/datasets.md shows these trees.

A file is text or bytes, a tar a dict of its members; an image is the word for what it shows.
"""

from __future__ import annotations

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


def parquet(*rows: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def webdataset(name: str) -> Files:
    info = CATALOG[name]
    words = ["tench", "goldfish"] if info.classes == "imagenet" else ["cat", "dog", "owl", "bee", "stove", "hat"]
    words = words[:2] if info.metrics == ("roc_auc",) else words
    members: dict[str, bytes] = {}
    for i, word in enumerate([*words, words[0]]):
        label = words.index(word)
        members[f"s{i:07}.jpg"] = word.encode()
        if "mean_average_precision" in info.metrics:
            members[f"s{i:07}.npy"] = array([int(word == other) for other in words])
            continue
        members[f"s{i:07}.cls"] = str(label).encode()
        if info.fields:
            members[f"s{i:07}.npy"] = array([i % 2 if field != "y" else label for field in info.fields])
    files: dict[str, Any] = {
        "classnames.txt": "".join(f"{word}\n" for word in words),
        "zeroshot_classification_templates.txt": "a photo of a {c}.\na blurry photo of a {c}.\n",
        "test/nshards.txt": "1\n",
        "test/0.tar": members,
    }
    if "mean_average_precision" in info.metrics:
        files = {"dataset_type.txt": "multilabel\n", **files}
    return files


def karpathy(name: str) -> Files:
    places = {"mscoco": "val2014/COCO_val2014_{:012}.jpg", "flickr30k": "{}.jpg"}
    split = {"mscoco": "dataset_coco.json", "flickr30k": "dataset_flickr30k.json"}[name]
    numbers = {"cat": 391895, "dog": 60623, "owl": 483108}
    place = {word: places[name].format(number) for word, number in numbers.items()}
    records = [
        {
            "filename": Path(place[word]).name,
            "split": "train" if word == "owl" else "test",
            "sentences": [{"raw": f"A {word} on a chair."}, {"raw": f"This is a {word}."}],
        }
        for word in numbers
    ]
    others = dict.fromkeys([f"dataset_{other}.json" for other in ("coco", "flickr30k", "flickr8k")], '{"images": []}')
    written = {split: json.dumps({"images": records, "dataset": name})}
    return {**others, **written, **{f"images/{place[word]}": word for word in ("cat", "dog")}}


def winogavil(name: str) -> Files:
    rows = [
        "cue,candidates,associations",
        "cat,\"['cat', 'dog', 'owl', 'bee', 'hat']\",\"['cat']\"",
        f'"dog","{["dog", "cat", *(f"other{i}" for i in range(8))]}","[\'dog\']"',
    ]
    words = ["cat", "dog", "owl", "bee", "hat", *(f"other{i}" for i in range(8))]
    return {"winogavil_dataset.csv": "\n".join(rows) + "\n"} | {f"images/{word}.jpg": word for word in words}


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
    lines = [
        {
            "image/key": f"{i:016x}",
            "image/locale": locale,
            "en": {"caption": [f"A {word}", f"{word} in the sun"]},
            "sw": {"caption": [own]},
        }
        for i, (word, own, locale) in enumerate([("cat", "paka", "sw"), ("dog", "mbwa", "sw"), ("owl", "bundi", "en")])
    ]
    return {"captions.jsonl": jsonl(*lines)} | {
        f"images/{i:016x}.jpg": word for i, word in enumerate(("cat", "dog", "owl"))
    }


def cvqa(name: str) -> Files:
    def question(number: str, image: str, subset: str, own: list[str], english: list[str]) -> dict[str, Any]:
        return {
            "image": {"bytes": image.encode(), "path": f"{number}.jpg"}, "ID": number, "Subset": subset,
            "Question": "Ni nini?", "Translated Question": "What is it?", "Options": own,
            "Translated Options": english, "Label": -1,
        }  # fmt: skip

    english = ["cat", "dog", "owl", "bee"]
    rows = [
        question("6001_0", "cat", "('Swahili', 'Kenya')", ["paka", "mbwa", "bundi", "nyuki"], english),
        question(
            "6001_1", "cat", "('Swahili', 'Kenya')", ["mbwa", "paka", "bundi", "nyuki"], ["dog", "cat", "owl", "bee"]
        ),
        question("7001_0", "bee", "('Japanese', 'Japan')", ["猫", "犬", "梟", "蜂"], english),
    ]
    labels = {"6001_0": 0, "6001_1": 1, "7001_0": 3}
    return {"data/test-00000-of-00001.parquet": parquet(*rows), "labels.json": json.dumps(labels)}


CAPTIONS = {
    "en": ["A cat", "A dog"],
    "de": ["Eine Katze", "Ein Hund"],
    "jp": ["猫", "犬"],
    "fr": ["Un chat", "Un chien"],
}


def lines(name: str) -> Files:
    of_coco = name.startswith("xtd")
    images = ["COCO_val2014_000000391895.jpg", "COCO_val2014_000000060623.jpg"] if of_coco else ["1007.jpg", "1009.jpg"]
    listed = {"flickr30k_200": "filenames.txt", "multi30k": "test_2016_flickr.txt"}.get(name, "test_image_names.txt")
    file = {
        "xtd10": lambda lang: f"test_1kcaptions_{lang}.txt",
        "multi30k": lambda lang: f"test_2016_flickr.{lang}",
    }.get(name, lambda lang: {"en": "eng_Latn", "de": "deu_Latn", "jp": "jpn_Jpan", "fr": "fra_Latn"}[lang] + ".txt")
    langs = ("en", "de", "fr") if name == "multi30k" else tuple(CAPTIONS)
    captions = {file(lang): "".join(f"{line}\n" for line in CAPTIONS[lang]) for lang in langs}
    pictures = dict(zip((f"images/{image}" for image in images), ("cat", "dog"), strict=True))
    return {listed: "".join(f"{image}\n" for image in images), **captions, **pictures}


def iglue(name: str) -> Files:
    words = {"en": ["A cat", "A dog"], "id": ["cat", "dog"], "ja": ["猫", "犬"]}
    if name == "bloom":
        words |= {"eng": words.pop("en"), "sw": ["paka", "mbwa"]}
    line: Callable[[int, str], dict[str, Any]] = {
        "xflickrco": lambda i, text: {"sentences": [text], "id": f"10071298{i}", "img_path": f"10071298{i}.jpg"},
        "wit_iglue": lambda i, text: {"caption_reference_description": text, "wit_ix": f"wit-test_{i}"},
        "bloom": lambda i, text: {"image_id": f"3c8a{i}", "caption": text, "license": "cc-by"},
    }[name]
    file = "test_{}.jsonl" if name == "wit_iglue" else "{}/test.jsonl"
    stem = {"xflickrco": "10071298{}", "wit_iglue": "wit-test_{}", "bloom": "3c8a{}"}[name]
    texts = {
        f"annotations/{file.format(lang)}": jsonl(*(line(i, text) for i, text in enumerate(of_lang)))
        for lang, of_lang in words.items()
    }
    return texts | {f"images/{stem.format(i)}.jpg": word for i, word in enumerate(("cat", "dog"))}


def mvl_sib(name: str) -> Files:
    words = ("cat", "dog", "owl", "bee")
    keys = [f"image-{word}_0" for word in words]
    corpus = [{"id": key, "image": {"bytes": word.encode(), "path": f"{word}_0.jpg"}, "modality": "image"}
              for key, word in zip(keys, words, strict=True)]  # fmt: skip
    files: dict[str, Any] = {"data/corpus/test.parquet": parquet(*corpus)}
    for lang, texts in {"eng_Latn": ["A cat", "A dog"], "swh_Latn": ["paka", "mbwa"]}.items():
        rows = list(enumerate(texts))
        files |= {
            f"data/{lang}/queries.parquet": parquet(
                *({"id": f"query-{i}", "text": text, "modality": "text"} for i, text in rows)
            ),
            f"data/{lang}/top_ranked.parquet": parquet(
                *({"query-id": f"query-{i}", "corpus-ids": keys[::-1]} for i, _ in rows)
            ),
            f"data/{lang}/qrels.parquet": parquet(
                *({"query-id": f"query-{i}", "corpus-id": keys[i], "score": 1} for i, _ in rows)
            ),
        }
    return files


def sugar_crepe(name: str) -> Files:
    kinds = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
    record = {"filename": "000000085329.jpg", "caption": "A cat", "negative_caption": "A dog"}
    files: dict[str, Any] = {f"{kind}.json": json.dumps({"0": record}) for kind in kinds}
    return files | {"images/val2017/000000085329.jpg": "cat"}


def winoground(name: str) -> Files:
    examples = [
        {"id": i, "image_0": f"ex_{i}_img_0", "image_1": f"ex_{i}_img_1", "caption_0": f"not a {b} but a {a}",
         "caption_1": f"not a {a} but a {b}", "collapsed_tag": tag}
        for i, (a, b, tag) in enumerate([("cat", "dog", "Object"), ("owl", "bee", "Relation")])
    ]  # fmt: skip
    pictures = {"images/ex_0_img_0.png": "cat", "images/ex_0_img_1.png": "dog"}
    return {"examples.jsonl": jsonl(*examples), **pictures} | {
        "images/ex_1_img_0.png": "owl", "images/ex_1_img_1.png": "bee",
    }  # fmt: skip


PLACES = [("Kenya", "af"), ("Peru", "am")]


def dollar_street(name: str) -> Files:
    rows, pictures = ["id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id"], {}
    for i in range(14):
        country, region = PLACES[i % 2]
        word, index = (("tench", 0), ("goldfish", 1))[i // 7]
        path = f"assets/{i:024x}/{i:024x}.jpg"
        rows.append(f'{i:024x},{country},{region},{40 * (i + 1)},{path},"[{index}, {998 + i % 2}]"')
        pictures[path] = word
    return {"images_v2_imagenet_test.csv": "\n".join(rows) + "\n", **pictures}


def geode(name: str) -> Files:
    rows, pictures = ["file_path,object,region,ip_country"], {}
    for i in range(14):
        country, region = (("Nigeria", "Africa"), ("Italy", "Europe"))[i % 2]
        thing = ("stove", "hat")[i // 7]
        rows.append(f"{region}/{i}.jpg,{thing},{region},{country}")
        pictures[f"images/{region}/{i}.jpg"] = thing
    return {"index.csv": "\n".join(rows) + "\n", **pictures}


def landmarks(name: str) -> Files:
    pairs = {"0a1b2c3d4e5f6071": ("tower", "7"), "1f2e3d4c5b6a7980": ("bridge", "12")}
    solution = ["id,landmarks,Usage", *(f"{key},{landmark},Public" for key, (_, landmark) in pairs.items())]
    names = ["landmark_id,category", *(
        f"{landmark},http://commons.wikimedia.org/wiki/Category:Great_{word.title()}"
        for word, landmark in pairs.values()
    )]  # fmt: skip
    pictures = {f"test/{key[0]}/{key[1]}/{key[2]}/{key}.jpg": word for key, (word, _) in pairs.items()}
    return {
        "recognition_solution_v2.1.csv": "\n".join([*solution, "ffffffffffffffff,,Private"]) + "\n",
        "train_label_to_category.csv": "\n".join(names) + "\n",
        **pictures,
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
    "webdataset": webdataset, "karpathy": karpathy, "winogavil": winogavil, "babel_imagenet": babel_imagenet,
    "captions": xm3600, "cvqa": cvqa, "lines": lines, "sugar_crepe": sugar_crepe, "winoground": winoground,
    "iglue": iglue, "mvl_sib": mvl_sib, "dollar_street": dollar_street, "geode": geode, "landmarks": landmarks,
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
