"""What a person reads of an evaluation, whole: tables, page and comparison of two made-up models.

After a change that is meant: pytest tests/evaluate/test_approved_evaluation.py --snapshot-update, then read the diff.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from approved import masked, shown
from miniature import write_files
from model_folders import put_any_model_in_hub_cache
from upstream import CONCEPTS, files_of, jsonl
from worldclip.cli import main
from worldclip.model import load as model_load
from worlds import WordModel, vector

CLASSES = ["owl", "cat", "bee", "dog", "elk", "fox"]
IMAGES = (
    *("cat", "dog+cat", "cat", "broken", "elk", "cat+dog", "bee", "dog", "cat", "owl", "dog", "cat", "broken"),
    *("bee+elk", "dog", "cat", "fox+owl", "cat+bee", "dog"),
)
GERMAN = {"classes": ["x/owl", ["x/cat", "y/cat"], "x/bee", "x/dog", "x/fox", "x/elk"], "templates": ["{}", "ein/{}"]}
SWAHILI = {"classes": ["z/owl", "z/cat", "z/bee", "z/bee", "z/elk", "z/fox"]}  # one name for two classes


class Blurred(WordModel):
    """See `cat+dog` as a dog, and somewhat as a cat; `weak` words are seen as noise.  A text is its last word."""

    def __init__(self, *weak: str) -> None:
        super().__init__()
        self.weak = weak

    def see(self, image):
        first, *others = image.decode().split("+")
        seen = vector(f"noise of {first}" if first in self.weak else first)
        total = seen + sum(1.2 * vector(word) for word in others)
        return (total / np.linalg.norm(total)).astype(np.float32)

    def encode_text(self, texts):
        words = [re.findall(r"\w+", text.lower())[-1] for text in texts]
        return np.stack([vector(CONCEPTS.get(word, word)) for word in words])


def animals() -> dict:
    """Return 19 images of six classes, of one to seven images each, two of them broken, in two tars and no order."""
    members = {}
    for number, words in enumerate(IMAGES):
        name = words.split("+")[0]
        label = CLASSES.index(name) if name != "broken" else number % 2
        members |= {f"{99 - number}.jpg": words.encode(), f"{99 - number}.cls": str(label).encode()}
    items = list(members.items())
    return {
        "classnames.txt": "".join(f"{name}\n" for name in CLASSES),
        "zeroshot_classification_templates.txt": "a photo of/{c}\nart of/{c}\n",
        "languages.json": json.dumps({"de": GERMAN, "sw": SWAHILI}),
        "test/nshards.txt": "2\n",
        "test/0.tar": dict(items[:10]),
        "test/1.tar": dict(items[10:]),
    }


def captions() -> dict:
    """Return nine images with none to three captions in each of four languages; a word names several images."""
    records, files = [], {}
    for number, words in enumerate(["cat", "dog+fox", "cat+bee", "broken", "owl", "cat", "dog", "elk", "bee+elk"]):
        name = words.split("+")[0]
        key = f"{(7 * number) % 9:02}"
        of_langs = {
            "en": [f"a/{name}"] * (number % 3) + [name],
            "de": [f"x/{name}"] if number % 4 else [],
            "th": [f"t/{name}"] if number in (1, 4, 8) else [" "],
            "sw": [f"z/{name}", "z/fox"] if number == 6 else [],
        }
        records.append({"image/key": key, "image/locale": "en", **{k: {"caption": v} for k, v in of_langs.items()}})
        files[f"images/{key}.jpg"] = words
    return {"captions.jsonl": jsonl(*records), **files}


LAYOUTS = {"animals": "webdataset", "sentences": "captions", "cvqa": "cvqa", "winogavil": "winogavil", "geode": "geode"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The results of two models on five datasets."""
    folder = tmp_path_factory.mktemp("evaluations")
    data = {"animals": animals(), "sentences": captions(), **{name: files_of(name) for name in ("cvqa", "geode")}}
    data["winogavil"] = files_of("winogavil") | {"images/other3.jpg": "broken", "images/owl.jpg": "owl+cat"}
    folders = []
    for name, files in data.items():
        write_files(folder / "data" / name, files)
        folders += [f"--folders.{name}", f"{LAYOUTS[name]}:{folder / 'data' / name}"]
    with pytest.MonkeyPatch.context() as patch:
        put_any_model_in_hub_cache("me/model", folder, patch)
        for name, weak in {"one": (), "two": ("dog", "stove")}.items():
            patch.setattr(model_load, "load", lambda source, weak=weak, **options: Blurred(*weak))
            words = ["evaluate", "me/model", "--out", str(folder / name), "--datasets", ",".join(data), *folders]
            assert main([*words, "--also", "alignment"]) == 0
    return folder


@pytest.mark.parametrize("name", ["results.csv", "table.md"])
def test_tables(name, folder, snapshot):
    text = (folder / "one" / name).read_text(encoding="utf-8")
    assert masked(text, FOLDER=folder) == snapshot


def test_page(folder, snapshot):
    assert masked(shown((folder / "one" / "report.html").read_text(encoding="utf-8")), FOLDER=folder) == snapshot


def test_comparison(folder, capsys, snapshot):
    assert main(["compare", str(folder / "one"), str(folder / "two")]) == 0
    assert masked(capsys.readouterr().out, FOLDER=folder) == snapshot
