"""Probes: scikit-learn's answers, and which images each learns from."""

import dataclasses

import numpy as np
import pytest

from calls import calls_of
from worldclip.core.errors import UserError
from worldclip.evaluate import probes
from worldclip.evaluate.measures import with_measures
from worldclip.evaluate.probes import PENALTIES, FewShot, LinearProbe, logistic_predict, ridge_predict
from worldclip.report.results import NO_LANGUAGE
from worlds import unit, vector, word_dataset


@pytest.mark.parametrize("seed", range(3))
def test_probes_agree_with_scikit_learn(seed):
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(seed)
    train, test, classes = unit(random, 30), unit(random, 50), random.integers(0, 4, 30)
    peer = linear_model.RidgeClassifier(alpha=1.0).fit(train.astype(float), classes)
    np.testing.assert_array_equal(ridge_predict(train, classes, test), peer.predict(test.astype(float)))
    names = classes.astype(str)
    found = logistic_predict(train, names, test).tolist()
    peers = [linear_model.LogisticRegression(C=penalty, max_iter=1_000).fit(train, names) for penalty in PENALTIES]
    assert found in [peer.predict(test).tolist() for peer in peers], "it learns from all images"


def probed(labels, is_train=None):
    dataset = word_dataset("a", [f"word{i}" for i in range(12)])
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


def few_shot(features, places):
    keys = [str(i) for i in range(len(places))]
    return FewShot(label="country", values=places, image_keys=keys).score(features, len)


def test_few_shot_accuracy_grows_with_shots():
    features, places = clusters(120, spread=0.35)
    score = few_shot(features, places)
    assert list(score.metrics) == ["acc1_5_shot", "acc1_10_shot", "acc1_25_shot"]
    assert 0.5 < score.metrics["acc1_5_shot"] < score.metrics["acc1_25_shot"]
    low, high = score.interval["acc1_5_shot"]
    assert low < score.metrics["acc1_5_shot"] < high
    assert score.chance["acc1_5_shot"] == pytest.approx(1 / 3)


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


@pytest.mark.parametrize(
    ("kind", "options", "function", "num_calls"),
    [(LinearProbe, {"is_train": None}, "logistic_predict", 5), (FewShot, {}, "ridge_predict", 10)],  # 5 and 10 shots
)
def test_each_seed_of_a_probe_learns_from_other_images_which_their_keys_decide(
    kind, options, function, num_calls, monkeypatch
):
    pytest.importorskip("sklearn")
    features, places = clusters(60, spread=0.1)
    calls = calls_of(monkeypatch.setattr, probes, function)
    learnt_from = []
    for order in (np.arange(60), np.random.default_rng(0).permutation(60)):
        keys = [str(i) for i in order]
        kind(label="class", values=[places[i] for i in order], image_keys=keys, **options).score(features[order], len)
        learnt_from.append([frozenset(row.tobytes() for row in train) for train, *_ in calls])
        calls.clear()
    first, second = learnt_from
    assert first == second
    assert len(set(first)) == len(first) == num_calls


def test_too_few_images_and_duplicate_keys_for_a_probe_are_errors_before_any_work():
    features, places = clusters(40, spread=0.1)
    places[0] = ""
    places[3] = "atlantis"
    assert few_shot(features, places).counts["num_classes"] == {"5": 3, "10": 3}  # 25 shots leave none
    with pytest.raises(UserError, match="country"):
        few_shot(features[:9], places[:9])
    dataset = probed({"country": ["kenya"] * 7 + ["peru"] * 5})
    with pytest.raises(UserError, match="in a;"):
        with_measures(dataset, ["few_shot"])
    with pytest.raises(UserError, match="same key"):
        with_measures(dataclasses.replace(dataset, image_keys=["same"] * 12), ["few_shot"])


@pytest.mark.parametrize("number", [4, 5])
def test_values_with_too_few_images_take_no_part_in_a_few_shot_probe(number):
    features, places = clusters(40, spread=0.5)
    alone = few_shot(features, places)
    others = clusters(number, spread=0.5, seed=1)[0][:number]  # 5: none would be left to predict
    with_others = few_shot(np.concatenate([features, others]), [*places, *["atlantis"] * number])
    assert (with_others.metrics, with_others.chance) == (alone.metrics, alone.chance)
