"""Measures beside the tasks: geometry, probes; on paper, and against the plainest loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from worldclip.core.errors import UserError
from worldclip.evaluate import engine
from worldclip.evaluate.measures import Geometry, potentials, squared_distances, uniformity, with_measures
from worldclip.evaluate.probes import FewShot, LinearProbe, hashed_order
from worldclip.report.results import NO_LANGUAGE
from worlds import WordModel, unit, vector, word_dataset

WORDS = [f"word{i}" for i in range(12)]


def plain_uniformity(features):
    found = [
        np.exp(-2 * np.sum((a - b) ** 2)) for i, a in enumerate(features) for j, b in enumerate(features) if i != j
    ]
    return np.log(np.mean(found))


def test_alignment_and_uniformity_agree_with_wang_and_isola():
    random = np.random.default_rng(0)
    images, texts = unit(random, 20), unit(random, 20)
    plain = np.mean([np.sum((a - b) ** 2) for a, b in zip(images, texts, strict=True)])
    assert squared_distances(images, texts).mean() == pytest.approx(plain, abs=1e-6)
    assert uniformity(potentials(images)) == pytest.approx(plain_uniformity(images), abs=1e-5)
    times = random.integers(0, 3, 20)
    points = np.repeat(np.arange(20), times)  # pairs of a point with its own copies do not count
    among = [(i, j) for i in points for j in points if i != j]
    plain = np.log(np.mean([np.exp(-2 * np.sum((images[i] - images[j]) ** 2)) for i, j in among]))
    assert uniformity(potentials(images), times) == pytest.approx(plain, abs=1e-5)


def test_equal_points_are_aligned_and_not_uniform():
    point = np.tile(np.eye(1, 8, dtype=np.float32), (5, 1))
    task = Geometry(texts=["a"] * 5, image_idx=np.arange(5), image_keys=list("abcde"))
    score = task.score(point, lambda texts: point[: len(texts)])
    assert score.metrics == {"alignment": 0.0, "uniformity_image": 0.0, "uniformity_text": 0.0}
    assert score.n == 5


def test_alignment_is_measured_in_each_language_of_a_retrieval(tmp_path):
    dataset = with_measures(word_dataset("a", WORDS), ["alignment"])
    model = WordModel()
    records, _, _ = engine.evaluate(model, {"model": "m"}, [dataset], [], tmp_path / "r.jsonl")
    alignment = [record["metrics"]["alignment"] for record in records if record["task"] == "alignment_uniformity"]
    assert alignment == [pytest.approx(0, abs=1e-6)] * 2
    assert len(model.texts) == len(set(model.texts)), "texts of the retrieval were encoded again"


def probed(labels, is_train=None):
    dataset = word_dataset("a", WORDS)
    return dataclasses.replace(dataset, labels=labels, is_train=is_train)


def test_probes_have_no_language():
    dataset = with_measures(probed({"country": ["a", "b"] * 6, "class": ["x"] * 12}), ["few_shot", "linear_probe"])
    assert dataset.languages == ("en", "de", NO_LANGUAGE)
    assert [task.name for task in dataset.tasks(NO_LANGUAGE)] == [
        "few_shot_country", "linear_probe_country", "linear_probe_class",
    ]  # fmt: skip
    assert [task.name for task in dataset.tasks("de")] == ["zeroshot_classification", "image_text_retrieval"]


def clusters(num, spread, seed=0):
    """`num` images around three places, and where each is."""
    random = np.random.default_rng(seed)
    places = np.array([["kenya", "peru", "nepal"][i % 3] for i in range(num)])
    features = np.stack([vector(place) for place in places]) + spread * random.standard_normal((num, 32))
    features = features.astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True), places.tolist()


def few_shot(features, places, keys=None):
    keys = keys or [str(i) for i in range(len(places))]
    return FewShot(label="country", values=places, image_keys=keys).score(features, len)


def test_few_shot_accuracy_grows_with_shots():
    features, places = clusters(120, spread=0.35)
    score = few_shot(features, places)
    assert list(score.metrics) == ["acc1_5_shot", "acc1_10_shot", "acc1_25_shot"]
    assert 0.5 < score.metrics["acc1_5_shot"] < score.metrics["acc1_25_shot"]
    low, high = score.interval["acc1_5_shot"]
    assert low < score.metrics["acc1_5_shot"] < high
    assert score.chance["acc1_5_shot"] == pytest.approx(1 / 3)
    shuffled = np.random.default_rng(1).permutation(120)
    again = few_shot(features[shuffled], [places[i] for i in shuffled], [str(i) for i in shuffled])
    assert again.metrics == score.metrics  # the draw is by key, not by position


def test_few_shot_ignores_small_classes_and_unknown_labels():
    features, places = clusters(40, spread=0.1)
    places[0] = ""
    places[3] = "atlantis"
    assert few_shot(features, places).more["num_classes"] == {"5": 3, "10": 3}  # 25 shots leave none
    with pytest.raises(UserError, match="fewer than two values have more than 5 images"):
        few_shot(features[:9], places[:9])


def test_linear_probe_learns_from_the_train_split_only():
    pytest.importorskip("sklearn")
    features, places = clusters(90, spread=0.1)
    keys = [str(i) for i in range(90)]
    probe = LinearProbe(label="class", values=places, image_keys=keys, is_train=np.arange(90) < 60)
    score = probe.score(features, len)
    assert (score.n, score.metrics["acc1"]) == (30, 1.0)
    swapped = dataclasses.replace(probe, values=places[:60] + ["kenya"] * 30)  # answers that training did not see
    assert swapped.score(features, len).metrics["acc1"] == pytest.approx(1 / 3)
    halves = dataclasses.replace(probe, is_train=None)
    assert halves.score(features, len).n == 45
    assert halves.protocol["split"] == "half"


def test_hashed_order_depends_on_seed_and_key_only():
    keys = [f"k{i}" for i in range(30)]
    assert [keys[i] for i in hashed_order(keys, 0)] == [keys[::-1][i] for i in hashed_order(keys[::-1], 0)]
    assert hashed_order(keys, 0).tolist() != hashed_order(keys, 1).tolist()


def test_too_few_images_and_duplicate_keys_for_a_probe_are_errors_before_any_work():
    dataset = probed({"country": ["kenya"] * 7 + ["peru"] * 5})
    with pytest.raises(UserError, match=r"few-shot probes of country: fewer than two .* than 5 images in a;"):
        with_measures(dataset, ["few_shot"])
    with pytest.raises(UserError, match="two images have the same key"):
        with_measures(dataclasses.replace(dataset, image_keys=["same"] * 12), ["few_shot"])
