"""Drawn datasets under a model whose scores are exact give the accuracies and recalls that plain Python counts.

Images are axes of space, and so are texts, so that ties are the rule; a class is the mean of its texts.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature import read, write_files
from worldclip.core.errors import UserError
from worldclip.evaluate import engine
from worldclip.evaluate.tasks import Classification, Dataset

Vector = tuple[int, ...]
AXES = ("x", "y", "z")
NAMES = [f"{sign}{axis}{number}" for axis in AXES for sign in ("", "-") for number in (1, 2)]  # x1 and x2 score alike
IMAGES = st.sampled_from([*NAMES[::2], *NAMES[::2], "broken"])


def vector(text: str) -> Vector:
    """Return the axis that a text ends with; a text with "not" is its opposite, as `-` is."""
    name = text.split("/")[-1]
    sign = (-1) ** (name.count("-") + text.count("not"))
    return tuple(sign * (axis in name) for axis in AXES)


class AxisModel:
    """A model as evaluation asks for it; b"broken" cannot be decoded."""

    def __init__(self) -> None:
        self.preprocess: dict[str, Any] = {}
        self.processor = self.tokenizer = None

    def encode_each(self, images: Sequence[bytes]) -> tuple[np.ndarray, dict[int, str]]:
        bad = {row: "not an image" for row, image in enumerate(images) if image == b"broken"}
        nan = (float("nan"),) * len(AXES)
        features = [nan if row in bad else vector(image.decode()) for row, image in enumerate(images)]
        return np.array(features, np.float32), bad

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([vector(text) for text in texts], np.float32)


def evaluate(dataset: Dataset, folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the record of each language and task."""
    path = folder / "results.jsonl"
    path.unlink(missing_ok=True)
    records, _, _ = engine.evaluate(AxisModel(), {"model": "m", "model_digest": "m"}, [dataset], [], path, batch_size=3)
    return {(record["lang"], record["task"]): record for record in records}


# --- plain Python -----------------------------------------------------------------------------------------------------


def score(image: str, texts: Sequence[str]) -> Fraction:
    """Return cosine * |cosine| of an image and the mean of some texts; 0 where they cancel out."""
    total = [sum(values) for values in zip(*map(vector, texts), strict=True)]
    dot = sum(a * b for a, b in zip(vector(image), total, strict=True))
    return Fraction(dot * abs(dot), max(1, sum(value * value for value in total)))


def rank(scores: Sequence[Fraction], right: set[int], ties: str = "against") -> int:
    """Return the number of wrong candidates before the best right one."""
    best = max(scores[i] for i in right)
    first = min(i for i in right if scores[i] == best)
    before = 0
    for i, value in enumerate(scores):
        is_tie_lost = value == best and (ties == "against" or i < first)
        before += i not in right and (value > best or is_tie_lost)
    return before


def share(ranks: Sequence[int], k: int) -> float:
    return sum(number < k for number in ranks) / len(ranks)


def plain_accuracies(ranks: Sequence[int], targets: Sequence[Any], num_classes: int) -> dict[str, float]:
    by_class = defaultdict(list)
    for number, target in zip(ranks, targets, strict=True):
        by_class[target].append(number)
    recalls = [share(of_class, 1) for of_class in by_class.values()]
    metrics = {"acc1": share(ranks, 1), "mean_per_class_recall": sum(recalls) / len(recalls)}
    return metrics | ({"acc5": share(ranks, 5)} if num_classes > 5 else {})


def plain_recalls(images: Sequence[str], texts: Sequence[str], pairs: set[tuple[int, int]]) -> dict[str, float]:
    """Return the recalls among images and texts.  pairs: (image, text)."""
    table = [[score(image, [text]) for text in texts] for image in images]
    of_texts = {i: {t for image, t in pairs if image == i} for i in range(len(images))}
    of_images = {t: {i for i, text in pairs if text == t} for t in range(len(texts))}
    ranks = {
        "text": [rank(table[i], right) for i, right in of_texts.items() if right],
        "image": [rank([row[t] for row in table], right) for t, right in of_images.items()],
    }
    return {f"{kind}_retrieval_recall@{k}": share(ranks[kind], k) for kind in ranks for k in (1, 5, 10)}


def check(record: dict[str, Any], metrics: dict[str, float], **more: int) -> None:
    """Compare a record with what is expected; of two classes it has one metric more."""
    found = {name: value for name, value in record["metrics"].items() if name != "roc_auc"}
    assert found == pytest.approx(metrics)
    for name, (low, high) in record["interval_95"].items():
        assert low - 1e-9 <= record["metrics"][name] <= high + 1e-9, name
    assert {name: record[name] for name in more} == more


# --- classes ----------------------------------------------------------------------------------------------------------

SYNONYMS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)


@st.composite
def classifications(draw: st.DrawFn) -> tuple[list[str], list[list[str]], list[str], list[tuple[int, set[int]]], str]:
    """Return images, names of classes, templates, (image, its right classes) of each question, and the rule of ties."""
    images = draw(st.lists(IMAGES, min_size=1, max_size=8))
    classes = draw(st.lists(SYNONYMS, min_size=1, max_size=8))
    templates = draw(st.sampled_from([["{}"], ["a/{}", "not a/{}"], ["a/{}", "my/{}"]]))
    right = st.sets(st.integers(0, len(classes) - 1), min_size=1, max_size=3)
    questions = draw(st.lists(st.tuples(st.integers(0, len(images) - 1), right), min_size=1, max_size=8))
    return images, classes, templates, questions, draw(st.sampled_from(["against", "first"]))


def dataset_of(images: Sequence[str], task: Classification) -> Dataset:
    return Dataset(
        name="drawn",
        digest="drawn",
        image_keys=[str(number) for number in range(len(images))],
        read_images=lambda start, stop: [image.encode() for image in images[start:stop]],
        languages=("en",),
        tasks=lambda lang: [task],
    )


@settings(max_examples=200, deadline=None)
@given(drawn=classifications())
def test_classes_with_synonyms_and_several_right_ones(drawn, tmp_path_factory):
    images, classes, templates, questions, ties = drawn
    targets = [min(right) for _, right in questions]
    further = [(number, c) for number, (_, right) in enumerate(questions) for c in right - {min(right)}]
    also_right = np.array(further, np.int64).reshape(-1, 2).T
    halves = np.arange(len(questions)) % 2 == 0
    task = Classification(
        class_names=classes,
        templates=templates,
        target=np.array(targets),
        image_idx=np.array([image for image, _ in questions]),
        also_right=(also_right[0], also_right[1]),
        slices={"even": halves},
        ties=ties,
    )
    texts = [[template.replace("{}", name) for name in names for template in templates] for names in classes]
    kept = [number for number, (image, _) in enumerate(questions) if images[image] != "broken"]
    folder = tmp_path_factory.mktemp("drawn")
    if not kept:
        with pytest.raises(UserError, match="can be decoded"):
            evaluate(dataset_of(images, task), folder)
        return
    ranks = {}
    for number in kept:
        image, right = questions[number]
        ranks[number] = rank([score(images[image], of_class) for of_class in texts], right, ties)
    record = evaluate(dataset_of(images, task), folder)["en", task.name]
    in_one_guess = [len(questions[number][1]) / len(classes) for number in kept]
    assert record["chance"]["acc1"] == pytest.approx(sum(in_one_guess) / len(kept))
    metrics = plain_accuracies([*ranks.values()], [targets[number] for number in kept], len(classes))
    check(record, metrics, n=len(kept), num_classes=len(classes))
    even = [ranks[number] for number in kept if halves[number]]
    assert record.get("slices", {}).get("even", {}).get("n", 0) == len(even)
    if even:
        assert record["slices"]["even"]["metrics"]["acc1"] == pytest.approx(share(even, 1))


# --- files ------------------------------------------------------------------------------------------------------------

NUM_SUBJECTS = 6
NAMES_OF_LANG = st.lists(st.sampled_from([*NAMES, None]), min_size=NUM_SUBJECTS, max_size=NUM_SUBJECTS)
PICTURES = st.lists(st.tuples(IMAGES, st.integers(0, NUM_SUBJECTS - 1)), min_size=1, max_size=7)


def write_names(folder: Path, pictures: Sequence[tuple[str, int]], names: dict[str, list], classes: list[int]) -> None:
    members = {f"{number}.png": image.encode() for number, (image, _) in enumerate(pictures)}
    record: dict[str, Any] = {
        "subjects": {str(i): subject for i, (_, subject) in enumerate(pictures)},
        "about": "drawn",
    }
    record |= {"classes": classes} if classes else {}
    files = {"0.tar": members, "set.json": json.dumps(record), "names.json": json.dumps({"lang": names})}
    write_files(folder, files)


@settings(max_examples=200, deadline=None)
@given(
    pictures=PICTURES,
    names=st.dictionaries(st.sampled_from(["en", "de", "sw", "xx"]), NAMES_OF_LANG, min_size=1),
    others=st.sets(st.integers(0, NUM_SUBJECTS - 1)) | st.none(),
)
def test_names_in_languages_that_lack_some(pictures, names, others, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    classes = [] if others is None else sorted(others | {subject for _, subject in pictures})
    write_names(folder, pictures, names, classes)
    asked = {}
    for lang, in_lang in names.items():
        named = [picture for picture in pictures if in_lang[picture[1]] is not None]
        if lang != "xx" and 2 * len(named) >= len(pictures) and named:
            asked[lang] = [picture for picture in named if picture[0] != "broken"]
    dataset = read("names", folder)
    assert dataset.languages == tuple(asked)
    if not asked:
        return
    if not all(asked.values()):
        with pytest.raises(UserError, match="can be decoded"):
            evaluate(dataset, folder)
        return
    records = evaluate(dataset, folder)
    for lang, kept in asked.items():
        candidates = sorted({names[lang][c] for c in classes or range(NUM_SUBJECTS)} - {None})
        targets = [names[lang][subject] for _, subject in kept]
        images = [image for image, _ in kept]
        ranks = []
        for image, target in zip(images, targets, strict=True):
            scores = [score(image, [name]) for name in candidates]
            ranks.append(rank(scores, {candidates.index(target)}))
        accuracies = plain_accuracies(ranks, targets, len(candidates))
        check(records[lang, "zeroshot_classification"], accuracies, n=len(kept), num_classes=len(candidates))
        texts = sorted({*targets})  # a name of several images is one text
        pairs = {(number, texts.index(target)) for number, target in enumerate(targets)}
        recalls = plain_recalls(images, texts, pairs)
        check(records[lang, "image_text_retrieval"], recalls, n=len(kept), num_texts=len(texts))


CAPTIONS = st.lists(st.sampled_from([*NAMES, " ", "a/x1", "a/-y2"]), max_size=3)
RECORDS = st.lists(st.tuples(IMAGES, st.dictionaries(st.sampled_from(["en", "sw"]), CAPTIONS)), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(drawn=RECORDS)
def test_captions_that_images_repeat_or_lack(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    lines = []
    files: dict[str, Any] = {}
    captions: dict[str, list[tuple[int, str]]] = {}
    for number, (image, texts_of) in enumerate(drawn):
        files[f"images/{number}.png"] = image.encode()
        lines.append(json.dumps({"image/key": str(number), **{lang: {"caption": t} for lang, t in texts_of.items()}}))
        for lang, texts in texts_of.items():
            captions.setdefault(lang, []).extend((number, text) for text in texts if text.strip())
    write_files(folder, files | {"captions.jsonl": "\n".join(lines)})
    captions = {lang: pairs for lang, pairs in captions.items() if pairs}
    if not captions:
        with pytest.raises(ValueError, match="there is no caption"):
            read("captions", folder)
        return
    kept = [number for number, (image, _) in enumerate(drawn) if image != "broken"]
    pairs_of = {lang: [(i, text) for i, text in pairs if i in kept] for lang, pairs in captions.items()}
    if not all(pairs_of.values()):
        with pytest.raises(UserError, match="can be decoded"):
            evaluate(read("captions", folder), folder)
        return
    records = evaluate(read("captions", folder), folder)
    assert sorted(lang for lang, _ in records) == sorted(captions)
    for lang, pairs in pairs_of.items():
        right = {(kept.index(image), number) for number, (image, _) in enumerate(pairs)}
        recalls = plain_recalls([drawn[number][0] for number in kept], [text for _, text in pairs], right)
        record = records[lang, "image_text_retrieval"]
        check(record, recalls, n=len(kept), num_texts=len(pairs))
        chances = [record["chance"][f"{kind}_retrieval_recall@1"] for kind in ("image", "text")]
        images_with_text = {image for image, _ in pairs}  # an image has its share of all texts, on average
        assert chances == pytest.approx([1 / len(kept), 1 / len(images_with_text)])
