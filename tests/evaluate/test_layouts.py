"""A tiny folder of each layout: what it gives stands next to it; and the held-out sets of a drawn pool."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from count_files import write_count_file
from matched import write_matched_texts
from miniature import read, records_of, write_files
from tars import write_tar
from upstream import Polyglot, array, cvqa_row, files_of, jsonl, parquet, write_miniature
from worldclip.core.artifacts import write_json, write_manifest
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate import datasets
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import load as load_by_name
from worldclip.evaluate.datasets.pool import MIN_TEXTS
from worldclip.evaluate.suites import value
from worldclip.evaluate.tasks import Dataset
from worldclip.pool.builders import HeldOut, write_held_out

IMAGE, TEXT = "image_retrieval_recall@1", "text_retrieval_recall@1"


def look_up(dataset: Dataset, records: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a path: en.metrics.acc1 of a record, dataset.image_keys, task.en.class_names, languages."""
    tasks = {lang: dataset.tasks(lang)[0] for lang in dataset.languages}
    node: Any = {"dataset": dataset, "task": tasks, "languages": list(records), **records}
    for part in path.split("."):
        node = node[part] if isinstance(node, Mapping) else getattr(node, part)
    return node.tolist() if isinstance(node, np.ndarray) else node


def check(dataset: Dataset, folder, expected: Mapping[str, Any], model: Any = None) -> None:
    records = records_of(dataset, folder, model)
    found = {path: look_up(dataset, records, path) for path in expected}
    assert found == {
        path: pytest.approx(number) if isinstance(number, float) else number for path, number in expected.items()
    }


# --- classes
GERMAN = {"classes": ["x/cat", ["x/dog", "y/dog"], "x/owl"], "templates": ["ein/{}"]}
WEBDATASET = {
    "classnames.txt": "cat\ndog\nowl\n",
    "zeroshot_classification_templates.txt": "a photo of/{c}\nart of/{c}\n",
    "languages.json": json.dumps({"de": GERMAN}),
    "test/nshards.txt": "2\n",
    "test/0.tar": {"s0.jpg": b"cat", "s0.cls": b"0", "s1.cls": b"1", "s1.jpg": b"dog"},
    "test/1.tar": {
        "s2.webp": b"owl", "s2.cls": b"2", "s3.png": b"dog", "s3.cls": b"1\n", "s4.jpg": b"cat", "s4.cls": b"2"
    },
}  # fmt: skip


def one_tar(members, **files):
    return {**WEBDATASET, "test/nshards.txt": "1\n", "test/0.tar": members, "test/1.tar": None, **files}


LINES_OF_TXT = {
    "dataset_type.txt": "retrieval\n", "test/nshards.txt": "1\n",
    "test/0.tar": {"a.jpg": b"cat", "a.txt": b"cat\r\nelk\r\n", "b.jpg": b"dog", "b.txt": b"dog"},
}  # fmt: skip
FOLDERS = {
    "test/polar_bear/1.png": "polar bear", "test/cat/1.png": "cat", "test/cat/deep/2.jpg": "dog",
    "templates.txt": "a/{}\n",
}  # fmt: skip
LABELS = {
    "EN": [[0, 1, 5], ["cat", "dog", "owl"]], "ZH_YUE": [[0, 5], ["x/cat", "x/owl"]],
    "DE": [[0, 1], ["y/dog", "y/dog"]], "SW": [[7], ["bee"]],
}  # fmt: skip
BABEL = {
    "babel_imagenet.json": json.dumps(LABELS),
    "nllb_dist13b_prompts.json": json.dumps({"EN": ["a/{}", "my/{}"]}),
    "images/0.tar": {
        "n1.jpg": b"cat", "n1.cls": b"0", "n2.jpg": b"owl", "n2.json": b'{"class_index": 5}',
        "n3.jpg": b"dog", "n3.cls": b"1",
    },
}  # fmt: skip
GEODE = files_of("geode")


GEODE |= {
    "index.csv": GEODE["index.csv"].replace(",hat,", ",sun_hat,"),
    "languages.json": '{"sw": {"classes": ["jiko", "kofia"]}}',
    "images/Europe/13.jpg": "stove",  # where the index says sun_hat
}


WIKI = "http://commons.wikimedia.org/wiki/Category"
LANDMARKS = {
    "recognition_solution_v2.1.csv": "id,landmarks,Usage\nabc1,7 12,Public\nabd2,,Public\nbcd3,12,Private\n",
    "train_label_to_category.csv": f"landmark_id,category\n7,{WIKI}:Eiffel_Tower\n12,{WIKI}:Machu_Picchu_%28ruins%29\n",
    "test/a/b/c/abc1.jpg": "a photo of Machu Picchu (ruins).",
    "test/b/c/d/bcd3.jpg": "a photo of b.",
    "languages.json": '{"fr": {"classes": ["Tour Eiffel", "Machu Picchu"], "templates": ["{}"]}}',
}
# --- captions
XM3600 = {
    "captions.jsonl": jsonl(
        {"image/key": "k1", "image/locale": "en", "en": {"caption": ["fox", "cat"]}, "fil": {"caption": ["x/cat"]}},
        {"image/key": "k2", "image/locale": "en", "en": {"caption": ["dog", " "]}, "fil": {"caption": ["x/dog"]}},
        {"image/key": "k3", "image/locale": "en", "en": {"caption": ["owl"]}, "th": {"caption": []}},
    ),
    "images/k1.jpg": "cat", "images/k2.png": "dog", "images/k3.jpg": "owl",
}  # fmt: skip
LIST = "COCO_1.jpg\nCOCO_2.jpg\nCOCO_3.jpg\n"
PICTURES = {"images/COCO_1.jpg": "cat", "images/sub/COCO_2.jpg": "dog", "images/COCO_3.jpg": "owl"}
WORDS = "cat\ndog\nowl\n"
XTD10 = {
    **PICTURES, "test_image_names.txt": LIST, "test_1kcaptions_en.txt": "cat\ndog\nelk\n",
    "MIC/test_1kcaptions_de.txt": "x/cat\nx/dog\nx/owl\n", "STAIR/test_1kcaptions_jp.txt": "y/cat\ny/dog\ny/owl",
}  # fmt: skip
FLORES = {
    **PICTURES, "filenames.txt": LIST,
    **{f"captions/{code}.txt": WORDS for code in ("deu_Latn", "zho_Hans", "zho_Hant", "swh_Latn", "tlh_Latn")},
}  # fmt: skip


def sidecar(**fields):
    return json.dumps(fields).encode()


POOL = {
    "a/0.tar": {
        "1.jpg": b"cat", "1.json": sidecar(texts=["cat", "x/cat"], lang_truth=["en", "de"]),
        "2.jpg": b"dog", "2.json": sidecar(texts=["dog", " "], lang_truth=["en", "de"]),
    },
    "b/0.tar": {"1.jpg": b"owl", "1.txt": b"owl", "3.jpg": b"bee", "3.json": sidecar(caption="bee")},
}  # fmt: skip
SENTENCES = {
    "en": "this is a photo of the old house number {} in the city",
    "de": "das ist ein Foto von dem alten Haus Nummer {} in der Stadt",
    "th": "นี่คือรูปถ่ายของบ้านเก่าหลังที่ {} ในเมือง",
}


def captions_in(lang, number):
    return [SENTENCES[lang].format(i) for i in range(number)]


def sentences(num_of_lang, **fields):
    """Members of a tar with images that have a long caption each."""
    members = {}
    for lang, number in num_of_lang.items():
        for i, text in enumerate(captions_in(lang, number)):
            members |= {f"{lang}{i}.jpg": b"house", f"{lang}{i}.json": sidecar(text=text, **fields)}
    return members


# --- choices
WINOGAVIL = {
    "winogavil_dataset.csv": "cue,candidates,associations\n"
    "Cat,\"['cat', 'dog', 'bee']\",\"['cat']\"\ndog,\"['cat', 'dog']\",\"['cat']\"\n",
    **{f"images/{name}.jpg": f"A {name}" for name in ("cat", "dog", "bee")},
}
CASES: dict[str, tuple[str, Mapping[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: layout, files, options (`model` too), what stands where
    "webdataset in every language that has names": ("webdataset", WEBDATASET, {}, {
        "languages": ["en", "de"], "en.metrics.acc1": 4 / 5, "de.metrics.acc1": 4 / 5,  # s4 says owl and shows a cat
        "en.metrics.mean_per_class_recall": (1 + 1 + 1 / 2) / 3, "en.protocol.templates": 2, "de.protocol.templates": 1,
        "dataset.is_train": None,
    }),
    "each line of a txt is a caption": ("webdataset", LINES_OF_TXT, {}, {
        "en.n": 2, "task.en.texts": ["cat", "elk", "dog"], f"en.metrics.{TEXT}": 1.0,
    }),
    "pictures of the train split are no candidates of a retrieval": (
        "webdataset",
        {**LINES_OF_TXT, "train/nshards.txt": "1\n", "train/0.tar": {"c.jpg": b"owl", "c.txt": b"owl"}},
        {"with_train": True},
        {
            "en.n": 2, "dataset.is_train": [False, False, True],
            "task.en.image_idx": [0, 1], "task.en.texts": ["cat", "elk", "dog"],
        },
    ),
    "train split for probes": (
        "webdataset",
        {**WEBDATASET, "train/nshards.txt": "1\n", "train/0.tar": {"s0.jpg": b"owl", "s0.cls": b"2"}},
        {"with_train": True},
        {
            "dataset.is_train": [False] * 5 + [True], "dataset.labels.class": ["0", "1", "2", "1", "2", "2"],
            "task.en.image_idx": [0, 1, 2, 3, 4],
            "dataset.image_keys": ["test/0/s0", "test/0/s1", "test/1/s2", "test/1/s3", "test/1/s4", "train/0/s0"],
        },
    ),
    "classes have the names of their folders": ("folders", FOLDERS, {}, {
        "dataset.image_keys": ["cat/1.png", "cat/deep/2.jpg", "polar_bear/1.png"],
        "en.n": 3, "en.protocol.names": "folders", "task.en.class_names": [["cat"], ["polar bear"]],
    }),
    "names, templates and languages come from files": ("folders", {
        **FOLDERS, "classnames.txt": "cat\r\npolar bear\r\n\r\n", "templates.txt": "a/{}\r\nmy/{}\r\n",
        "languages.json": json.dumps({"de": {"classes": ["x/cat", ["x/polar bear", "y/bear"]], "templates": ["{c}"]}}),
    }, {}, {
        "languages": ["en", "de"], "en.protocol.names": "given", "task.en.templates": ["a/{}", "my/{}"],
        "task.de.templates": ["{}"], "task.de.class_names": [["x/cat"], ["x/polar bear", "y/bear"]],
    }),
    "image takes part where its class has a label": ("babel_imagenet", BABEL, {}, {
        "languages": ["en", "zh_yue", "de"],  # no image of a class that sw names
        "en.n": 3, "en.num_classes": 3, "en.metrics.acc1": 1.0, "en.protocol.prompts": "none",
        "zh_yue.n": 2, "zh_yue.num_classes": 2, "zh_yue.metrics.acc1": 1.0,
        "de.n": 2, "de.num_classes": 1, "de.metrics.acc1": 1.0,  # equal labels are one class
    }),
    "only languages with prompts take part": ("babel_imagenet", BABEL, {"prompts": "nllb"}, {
        "languages": ["en"], "en.protocol.prompts": "nllb", "en.protocol.templates": 2,
    }),
    "objects and regions": ("geode", GEODE, {"model": Polyglot()}, {
        "languages": ["en", "sw"], "en.metrics.acc1": 13 / 14, "sw.metrics.acc1": 13 / 14,
        "en.slices.region Africa.metrics.acc1": 1.0, "en.slices.region Europe.metrics.acc1": 6 / 7,
        "dataset.labels": {"country": ["Nigeria", "Italy"] * 7, "region": ["Africa", "Europe"] * 7},
    }),
    "landmarks have names of categories, images without one are left out": ("landmarks", LANDMARKS, {}, {
        "dataset.image_keys": ["abc1", "bcd3"], "languages": ["en", "fr"], "en.n": 2,
        "task.en.class_names": [["Eiffel Tower"], ["Machu Picchu (ruins)"]],
        "task.fr.class_names": [["Tour Eiffel"], ["Machu Picchu"]],
        "en.metrics.acc1": 0.5,  # the first image shows its second landmark
    }),
    "any caption counts and every caption is a query": ("captions", XM3600, {}, {
        "languages": ["en", "tl"],  # Filipino by our code; Thai has no caption and is absent
        "dataset.labels": {"country": ["en"] * 3},
        "en.n": 3, "en.num_texts": 4, "en.protocol.captions": "all_captions",
        f"en.metrics.{IMAGE}": 3 / 4, f"en.metrics.{TEXT}": 1.0,  # fox finds nothing
        # An image without a caption is a candidate and no query.
        "tl.n": 3, "tl.num_texts": 2, f"tl.chance.{IMAGE}": 1 / 3, f"tl.metrics.{TEXT}": 1.0,
    }),
    "a caption may be one text, and a locale null": ("captions", {
        "captions.jsonl": jsonl(
            {"image/key": "k1", "image/locale": None, "en": {"caption": "a red cat"}},
            {"image/key": "k2", "en": {"caption": ["dog"]}},
        ) + "\n\n",
        "images/k1.jpg": "cat", "images/k2.png": "dog",
    }, {}, {
        "task.en.texts": ["a red cat", "dog"], "dataset.labels": {"country": ["", ""]},
    }),
    "a caption per image in each language": ("lines", XTD10, {}, {
        "languages": ["de", "en", "ja"],  # its `jp` is our ja
        "de.n": 3, "de.num_texts": 3, f"de.metrics.{IMAGE}": 1.0, f"en.metrics.{IMAGE}": 2 / 3,
    }),
    "codes of FLORES become ours unless two share a language": ("lines", FLORES, {}, {
        "languages": ["de", "sw", "tlh_Latn", "zho_Hans", "zho_Hant"],  # of Klingon there is no code of ours
    }),
    "texts of a pool have the languages that the pairs state": ("pool", POOL, {}, {
        "de.n": 4, "de.num_texts": 1, "en.n": 4, "en.num_texts": 2, "und.n": 4, "und.num_texts": 2,
        **{f"{lang}.metrics.{IMAGE}": 1.0 for lang in ("de", "en", "und")},
        "dataset.image_keys": ["a/0/1", "a/0/2", "b/0/1", "b/0/3"],
    }),
    "texts whose language no pair states have the one that is identified": (
        "pool", {"0.tar": sentences({"en": 25, "de": 22, "th": MIN_TEXTS - 1})}, {}, {
        "languages": ["de", "en", "und"],  # too few texts in Thai
        "task.de.texts": captions_in("de", 22), "task.und.texts": captions_in("th", MIN_TEXTS - 1),
    }),
    "a stated language is not identified": ("pool", {"0.tar": sentences({"en": 25}, lang_truth="sw")}, {}, {
        "languages": ["sw"],
    }),
    "tags of one language are one row": (
        "pool", {f"{tag}/0.tar": sentences({"de": 2}, lang_truth=tag) for tag in ("de-DE", "de_AT", "deu", "tlh")},
        {}, {
        "languages": ["de", "tlh"], "task.de.texts": 3 * captions_in("de", 2),
    }),
    "WinoGAViL chooses as many images as are right": ("winogavil", WINOGAVIL, {}, {
        "en.metrics": {"jaccard": 0.5},  # `A cat` finds its image, `A dog` another than the association
        "en.slices": {"candidates 5-6": {"n": 2, "metrics": {"jaccard": 0.5}}},
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_folder_gives_what_stands_next_to_it(case, tmp_path):
    layout, files, options, expected = CASES[case]
    dataset = read(layout, tmp_path, files, **{name: options[name] for name in options if name != "model"})
    check(dataset, tmp_path, expected, options.get("model"))


def test_languages_of_few_identified_texts_are_named(tmp_path, capsys):
    for _ in range(2):  # a run loads a dataset several times
        read("pool", tmp_path, {"0.tar": sentences({"en": 25, "th": MIN_TEXTS - 3})})
    said = "dataset mine: 17 texts of languages with fewer than 20 identified texts: results under 'und' (th 17);"
    assert " ".join(capsys.readouterr().err.split()).count(said) == 1
    read("pool", tmp_path / "stated", {"0.tar": sentences({"th": MIN_TEXTS - 1}, lang_truth="th")})
    assert capsys.readouterr().err == ""


def test_labels_change_the_digest_and_only_images_that_of_the_cached_features(tmp_path):
    before = read("webdataset", tmp_path, WEBDATASET)
    after = read("webdataset", tmp_path, {"classnames.txt": "cat\ndog\nbird\n"})
    assert before.digest != after.digest
    assert before.images_digest == after.images_digest


def test_datacomp_groups_are_parts_and_the_worst_represents_fmow(tmp_path):
    members = {}
    samples = [(b"cat", 0, 0), (b"dog", 1, 0), (b"owl", 2, 1), (b"cat", 2, 1), (b"cat", 1, 5)]
    for i, (word, label, region) in enumerate(samples):
        members |= {f"{i}.jpg": word, f"{i}.cls": str(label).encode(), f"{i}.npy": array([region, 3, label])}
    record = records_of(read("webdataset", tmp_path, one_tar(members), name="fmow"), tmp_path)["en"]
    assert {name: part["metrics"]["acc1"] for name, part in record["slices"].items()} == {
        "region 0": 1.0, "region 1": 0.5,
    }  # fmt: skip
    assert value(CATALOG["fmow"].metrics[0], record) == 0.5


def test_imagenets_classes_have_openais_names_and_templates(tmp_path):
    pytest.importorskip("open_clip")
    files = {**WEBDATASET, "languages.json": None}
    task = read("webdataset", tmp_path / "1k", files, name="imagenet1k").tasks("en")[0]
    assert (len(task.class_names), len(task.templates), task.protocol["names"]) == (1000, 80, "imagenet")
    ids = {"n01440764/1.jpg": "a", "n15075141/1.jpg": "b", "n02391049/1.jpg": "c"}
    task = read("folders", tmp_path / "ids", ids).tasks("en")[0]
    assert task.class_names == [["tench"], ["zebra"], ["toilet paper"]]
    assert len(task.templates) == 80
    with pytest.raises(UserError, match="n00000001 is no class of ImageNet-1k"):
        read("folders", tmp_path / "ids", {"n00000001/1.jpg": "a"})
    task = read("folders", tmp_path / "v2", {f"{number}/1.jpg": "a" for number in range(1000)}).tasks("en")[0]
    names = [name for (name,) in task.class_names]
    assert names[:2] == ["tench", "goldfish"]  # folders sort as text: 0, 1, 10, ...
    assert names[sorted(map(str, range(1000))).index("340")] == "zebra"
    task = read("babel_imagenet", tmp_path / "babel", BABEL, prompts="english").tasks("zh_yue")[0]
    assert len(task.templates) == 80
    assert "a bad photo of a {}." in task.templates


def test_dollar_street_uses_imagenet_classes_and_accepts_any_of_several(tmp_path):
    pytest.importorskip("open_clip")
    dataset = read("dollar_street", write_miniature("dollar_street", tmp_path))
    task = dataset.tasks("en")[0]
    assert (len(task.class_names), len(task.templates)) == (1000, 80)
    assert [of_pairs.tolist() for of_pairs in task.also_right] == [list(range(14)), [998, 999] * 7]
    sizes = {name: int(mask.sum()) for name, mask in task.slices.items()}
    assert sizes == {"region af": 7, "region am": 7, "income 1": 4, "income 2": 3, "income 3": 3, "income 4": 4}
    assert task.slices["income 1"].tolist() == [True] * 4 + [False] * 10
    assert dataset.labels["country"] == ["Kenya", "Peru"] * 7


def test_equal_labels_stay_apart_under_the_papers_ties_and_the_first_is_taken(tmp_path):
    folder = write_files(tmp_path / "babel", BABEL)
    config = EvaluateConfig(datasets=("babel",), folders={"babel": f"babel_imagenet:{folder}"}, protocol="paper")
    # A cat is called a dog in German: class 0 is the first of both.
    expected = {"de.num_classes": 2, "de.metrics.acc1": 0.5, "de.protocol.equal_labels": "apart"}
    expected |= {"en.metrics.acc1": 1.0, "zh_yue.metrics.acc1": 1.0, "de.protocol.ties": "first"}
    check(datasets.load("babel", config, tmp_path), tmp_path, expected)
    ours = dataclasses.replace(config, protocol="auto")
    check(datasets.load("babel", ours, tmp_path), tmp_path, {"de.protocol.ties": "against", "de.metrics.acc1": 1.0})


def test_published_questions_share_images_and_answers_come_from_labels_json(tmp_path):
    first = cvqa_row("11_0", "cat", "('Swahili', 'Kenya')") | {"Label": 0}
    others = [cvqa_row("11_1", "cat", "('Swahili', 'Kenya')"), cvqa_row("12_0", "bee", "('Egyptian_Arabic', 'Egypt')")]
    tables = {"data/a.parquet": parquet(first), "data/b.parquet": parquet(*others, row_group_size=1)}
    dataset = read("cvqa", tmp_path, {**tables, "labels.json": json.dumps({"11_1": 2, "12_0": 3})})
    assert dataset.image_keys == ["11", "12"]
    assert dataset.read_images(0, 2) == [b"cat", b"bee"]
    write_files(tmp_path, {"data/b.parquet": parquet(*others[:1], others[1] | {"image": None})})
    with pytest.raises(BadShard, match=r"b\.parquet: the image 12 has no bytes"):
        read("cvqa", tmp_path).read_images(1, 2)
    task = dataset.tasks("local")[0]
    assert task.options[1][2] == "Ni nini? bundi"
    assert (task.answer.tolist(), task.image_idx.tolist()) == ([0, 2, 3], [0, 0, 1])
    assert set(task.slices) == {"country Kenya", "country Egypt", "lang sw", "lang arz"}
    assert dataset.tasks("en")[0].options[2][3] == "What is it? bee"


def test_questions_read_the_images_of_every_row_group(tmp_path):
    images = ["cat", "bee", "owl", "dog"]
    rows = [cvqa_row(f"{i}_0", image, "('Swahili', 'Kenya')") | {"Label": 0} for i, image in enumerate(images)]
    dataset = read("cvqa", tmp_path, {"data/a.parquet": parquet(*rows, row_group_size=2)})
    assert dataset.read_images(0, 4) == [image.encode() for image in images]


EMOJI = [f"1F60{i}" for i in range(8)]
EMOJI_NAMES = {
    "en": ["red apple", "green apple", "pear", "red ring", "ring", "gem stone", "gem", "kiwi"],
    "ja": ["リンゴ", "リンゴ", "洋ナシ", "赤い指輪", "指輪", "宝石", "宝石", "キウイ"],
}


def load_held_out(name, run_dir):
    return load_by_name(name, EvaluateConfig(datasets=(name,)), run_dir)


@pytest.fixture
def run_dir(tmp_path):
    """RUN with a pool whose base set holds the emoji 0 to 5 in two tars, and whose tone set holds two."""
    samples = [(f"{key}.png", key.encode()) for key in EMOJI]
    info = json.dumps({"texts": [], "emoji": "?"}).encode()
    for part, chosen in {"base/000000": samples[:4], "base/000001": samples[4:6], "tone/000000": samples[6:]}.items():
        members = [member for name, data in chosen for member in ((name, data), (name.replace("png", "json"), info))]
        write_tar(tmp_path / "pool" / f"{part}.tar", dict(members))
    pool = tmp_path / "pool"
    write_json(pool / "names.json", {"keys": EMOJI, "lang": EMOJI_NAMES})
    subjects = {key: number for number, key in enumerate(EMOJI)}
    for part in ("base", "tone"):
        write_json(pool / part / "set.json", {"subjects": subjects, "about": "all", "thirds": part == "base"})
    write_held_out(pool, {f"emoji_{part}": HeldOut(f"names:{part}", f"About {part}.") for part in ("base", "tone")})
    return tmp_path


def write_matches(run_dir):
    """red 0, apple 1, ring 2, gem 3, stone 4; counts over two shards; `pear` and `kiwi` match nothing."""
    matched = [("red apple", [0, 1]), ("green apple", [1]), ("red ring", [0, 2]), ("ring", [2]), ("gem stone", [3, 4])]
    table = pa.table(
        {
            "key": EMOJI[:5],
            "text_idx": np.zeros(5, np.int32),
            "place": np.zeros(5, np.int16),
            "text": [text for text, _ in matched],
            "lang": ["en"] * 5,
            "lang_prob": np.ones(5, np.float32),
            "entries_lang": ["en"] * 5,
            "entry_ids": pa.array([ids for _, ids in matched], pa.large_list(pa.int32())),
        }
    )
    write_matched_texts(run_dir, "a.tar", table)
    for shard, counts in {"a": [(0, 10), (1, 3)], "b": [(0, 90), (2, 1), (3, 4), (4, 25)]}.items():
        # The first row is of another list, so that each shard has a dictionary of its own.
        rows = [("de" if shard == "a" else "zh", 0, 77), *(("en", *count) for count in counts)]
        write_count_file(run_dir / f"match/counts/{shard}.tar.parquet", rows)
    write_manifest(run_dir / "match", config={}, inputs={}, counts={})


def test_base_is_reported_by_thirds_of_match_counts(run_dir):
    write_matches(run_dir)
    task, _ = load_held_out("emoji_base", run_dir).tasks("ja")
    thirds = {name: [EMOJI_NAMES["en"][i] for i in np.flatnonzero(mask)] for name, mask in task.slices.items()}
    # geometric means: red apple sqrt(300), green apple 3, pear 0, red ring 10, ring 1, gem stone 10
    assert thirds == {
        "head": ["red apple", "red ring"],
        "middle": ["green apple", "gem stone"],
        "tail": ["pear", "ring"],
    }
    tone, _ = load_held_out("emoji_tone", run_dir).tasks("en")
    assert tone.slices == {}
    digests = {load_held_out("emoji_base", run_dir).digest}
    other_names = {"keys": EMOJI, "lang": EMOJI_NAMES | {"ja": EMOJI_NAMES["ja"][::-1]}}
    for change in (
        lambda: write_json(run_dir / "pool/names.json", other_names),
        lambda: write_tar(run_dir / "pool/base/000001.tar", {f"{EMOJI[4]}.png": b"another"}),
        lambda: shutil.rmtree(run_dir / "match"),
    ):
        change()
        digests.add(load_held_out("emoji_base", run_dir).digest)
    assert len(digests) == 4


def change_set(run_dir, **changes):
    path = run_dir / "pool/base/set.json"
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_a_language_is_asked_if_it_names_half_of_the_images_or_about_those_of_the_set(run_dir):
    many = [None if number in (0, 2, 3) else name for number, name in enumerate(EMOJI_NAMES["en"])]
    write_json(run_dir / "pool/names.json", {"lang": {**EMOJI_NAMES, "fr": many, "not-a-language": many}})
    assert load_held_out("emoji_base", run_dir).languages == ("en", "ja", "fr")
    change_set(run_dir, classes=[1, 2, 4, 5], asked={"fr": [EMOJI[4], EMOJI[1]], "en": []})
    dataset = load_held_out("emoji_base", run_dir)
    assert dataset.languages == ("fr",)  # `asked` has no Japanese
    classification, _ = dataset.tasks("fr")
    assert classification.image_idx.tolist() == [1, 4]
    assert [name for [name] in classification.class_names] == ["gem stone", "green apple", "ring"]


def test_names_are_asked_in_the_templates_of_their_language(run_dir):
    names = {"lang": EMOJI_NAMES, "templates": {"en": ["a {}", "the {c}!"]}}
    plain = load_held_out("emoji_base", run_dir)
    write_json(run_dir / "pool/names.json", names)
    dataset = load_held_out("emoji_base", run_dir)
    english, _ = dataset.tasks("en")
    assert english.texts_to_encode()[:2] == ["a gem", "the gem!"]
    assert english.protocol["templates"] == 2
    assert dataset.tasks("ja")[0].texts_to_encode() == plain.tasks("ja")[0].texts_to_encode()
    for templates, problem in (
        ({"en": ["no place"]}, "in place of the name"),
        (["a {}"], "templates must be a table of lists"),
        ({"en": "a {}"}, "templates must be a list of sentences: 'a {}'"),
        ({"en": [1]}, r"templates must be a list of sentences: \[1\]"),
    ):
        write_json(run_dir / "pool/names.json", {**names, "templates": templates})
        with pytest.raises(UserError, match=problem) as refused:
            load_held_out("emoji_base", run_dir)
        assert "AttributeError" not in str(refused.value)


def test_a_name_that_is_a_number_is_refused_before_any_work(run_dir):
    numbers = [*EMOJI_NAMES["ja"][:-1], 7]
    write_json(run_dir / "pool/names.json", {"lang": {**EMOJI_NAMES, "ja": numbers}})
    with pytest.raises(UserError, match=r"names\.json: a name in ja must be text or null, not 7"):
        load_held_out("emoji_base", run_dir)


def test_sets_that_are_missing_or_elsewhere_are_refused_with_a_remedy(tmp_path, run_dir):
    with pytest.raises(UserError, match=r"emoji_tone.*has no held-out sets.*pool\.build"):
        load_held_out("emoji_tone", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"world_stamps.*has emoji_base, emoji_tone.*pool\.parts"):
        load_held_out("world_stamps", run_dir)
    for location, problem in (("geodes:x", "did you mean geode?"), ("geode", 'must be "layout:path"')):
        (found,) = EvaluateConfig(folders={"mine": location}).problems()
        assert found.startswith(f'evaluate.folders.mine = "{location}": ')
        assert problem in found
    write_held_out(run_dir / "pool", {"emoji_tone": HeldOut("names:../../elsewhere", "?")})
    with pytest.raises(UserError, match="not below"):
        load_held_out("emoji_tone", run_dir)


def test_corrupt_pools_are_named(run_dir):
    tar = run_dir / "pool/base/000001.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(BadShard, match=r"000001\.tar"):
        load_held_out("emoji_base", run_dir)
    write_tar(tar, {"1F999.png": b"?"})
    with pytest.raises(BadShard, match=r"set\.json, the first is 1F999"):
        load_held_out("emoji_base", run_dir)
    subjects = dict.fromkeys([*EMOJI, "1F999"], 0)
    for changes in ({"subjects": {"1F999": 8}}, {"subjects": {"1F999": -1}}, {"classes": 3}):
        change_set(run_dir, **{"subjects": subjects, "classes": [0], "asked": {}, **changes})
        with pytest.raises(UserError, match=r"emoji_base: .*base is not in the layout names"):
            load_held_out("emoji_base", run_dir)
    change_set(run_dir, subjects=subjects | {"1F999": 1}, classes=[0], asked={"en": ["1F999"]})
    with pytest.raises(BadShard, match=r"the subject of image 1F999 is not one of classes"):
        load_held_out("emoji_base", run_dir)
