"""Tasks, accuracies, class embeddings, geometry and probes: on paper, and against plain loops."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldclip.core.errors import UserError
from worldclip.evaluate import engine, measures, zeroshot
from worldclip.evaluate.measures import Geometry, potentials, squared_distances, uniformity, with_measures
from worldclip.evaluate.probes import FewShot, LinearProbe, hashed_order
from worldclip.evaluate.selection import Association, Choice
from worldclip.evaluate.tasks import Classification, MultiLabel, NoneDecoded, Retrieval
from worldclip.report.results import NO_LANGUAGE
from worlds import WordModel, rows_of, unit, vector, word_dataset


def test_choice_averages_over_questions_and_drops_undecodable_images():
    images = np.stack([vector("cat"), vector("dog"), np.full(32, np.nan, np.float32)])
    task = Choice(
        options=[["cat", "dog"], ["cow", "dog"], ["cat", "bee"], ["cat", "dog"]],
        answer=np.array([0, 1, 1, 0]),
        image_idx=np.array([0, 1, 0, 2]),
        slices={"farm": np.array([False, True, True, True]), "nowhere": np.zeros(4, bool)},
    )
    score = task.score(images, WordModel().encode_text)
    assert score.n == 3
    assert score.metrics == {"accuracy": pytest.approx(2 / 3)}
    assert score.chance == {"accuracy": 0.5}
    assert score.slices == {"farm": {"n": 2, "metrics": {"accuracy": 0.5}}}


@pytest.mark.parametrize("num_options", [2, 5])
def test_equal_options_are_never_right_or_the_first_is(num_options):
    images = np.stack([vector("cat"), vector("dog")])
    options = [["cat"] * num_options, ["dog"] * num_options]
    for ties, accuracy in (("against", 0.0), ("first", 0.5)):
        task = Choice(options=options, answer=np.array([0, 1]), image_idx=np.arange(2), ties=ties)
        assert task.score(images, WordModel().encode_text).metrics["accuracy"] == accuracy


def test_captions_of_an_undecodable_image_are_no_candidates():
    images = np.stack([vector("cat"), np.full(32, np.nan, np.float32), vector("owl")])
    task = Retrieval(
        texts=["cat", "a cat", "dog", "owl"],
        pair_image=np.array([0, 0, 1, 2]),
        pair_text=np.arange(4),
        image_idx=np.arange(3),
    )
    score = task.score(images, WordModel().encode_text)
    assert (score.n, score.more["num_texts"]) == (2, 3)
    assert score.metrics["text_retrieval_recall@1"] == 1.0
    assert score.chance["image_retrieval_recall@1"] == 0.5


def test_association_chooses_as_many_images_as_are_right():
    images = np.eye(5, dtype=np.float32)
    task = Association(
        cues=["cue", "tied"],
        candidates=[np.arange(5), np.arange(5)],
        is_right=[np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 0, 0], bool)],
    )
    rows = {"cue": [9, 1, 8, 0, 0], "tied": [1, 1, 0, 0, 0]}  # {0, 2} for {0, 1}; a tie goes against the model
    score = task.score(images, rows_of(rows))
    assert score.metrics["jaccard"] == pytest.approx((1 / 3 + 0) / 2)
    assert score.slices == {"candidates 5-6": {"n": 2, "metrics": {"jaccard": pytest.approx(1 / 6)}}}
    score = dataclasses.replace(task, ties="first").score(images, rows_of(rows))
    assert score.metrics["jaccard"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("dim", [32, 768])
def test_equal_images_and_texts_tie_in_every_task(dim):
    random = np.random.default_rng(0)
    images = random.standard_normal((60, dim)).astype(np.float32)
    images[1::2] = images[::2]
    encode = rows_of(random.standard_normal((9, dim)).astype(np.float32))
    pairs = np.arange(60).reshape(-1, 2)
    every = np.arange(60)
    association = Association(cues=["0"] * 30, candidates=list(pairs), is_right=[np.array([True, False])] * 30)
    assert association.score(images, encode).metrics["jaccard"] == 0.0
    labels = MultiLabel(class_names=[["0"], ["1"]], is_there=np.stack([every % 2 == 0] * 2, 1), image_idx=every)
    assert labels.score(images, encode).metrics["mean_average_precision"] == pytest.approx(0.5)
    task = Classification(class_names=[["0"], ["1"]], target=every % 2, image_idx=every)
    assert task.score(images, encode).metrics["roc_auc"] == pytest.approx(0.5)
    same = Classification(class_names=[["0"], ["0"], ["1"]], target=every % 2, image_idx=every)
    assert same.score(images, encode).metrics["acc1"] == 0.0


NO_IMAGE = np.full((2, 32), np.nan, np.float32)

ONE = np.zeros(1, np.int64)


@pytest.mark.parametrize(
    "task",
    [
        Classification(class_names=[["0"], ["1"]], target=ONE, image_idx=ONE),
        MultiLabel(class_names=[["0"]], is_there=np.ones((1, 1), bool), image_idx=ONE),
        Retrieval(texts=["0"], pair_image=ONE, pair_text=ONE, image_idx=ONE),
        Choice(options=[["0", "1"]], answer=ONE, image_idx=ONE),
        Association(cues=["0"], candidates=[np.arange(2)], is_right=[np.array([True, False])]),
    ],
    ids=lambda task: task.name,
)
def test_a_task_without_a_decodable_image_is_an_error(task):
    with pytest.raises(NoneDecoded):
        task.score(NO_IMAGE, WordModel().encode_text)


def test_any_of_several_right_classes_counts():
    images = np.eye(3, dtype=np.float32)
    also_right = (np.array([1]), np.array([1]))
    names = [["0"], ["1"], ["2"]]
    task = Classification(class_names=names, target=np.zeros(3, int), image_idx=np.arange(3), also_right=also_right)
    encode = rows_of(np.eye(3))
    assert task.score(images, encode).metrics["acc1"] == pytest.approx(2 / 3)  # only image 2 is wrong
    images[0] = np.nan  # will not decode: positions move
    assert task.score(images, encode).metrics["acc1"] == pytest.approx(1 / 2)
    own = dataclasses.replace(task, target=np.arange(3), also_right=zeroshot.NO_PAIRS)
    assert own.score(images, encode).metrics["acc1"] == 1.0  # the answers move with their images


def test_roc_auc_needs_images_of_both_classes():
    images = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)

    def metrics(target):
        task = Classification(class_names=[["0"], ["1"]], target=np.array(target), image_idx=np.arange(3))
        return task.score(images, rows_of(np.eye(2))).metrics

    assert metrics([0, 0, 1])["roc_auc"] == 1.0
    assert metrics([1, 0, 1])["roc_auc"] == 0.5
    assert "roc_auc" not in metrics([0, 0, 0])


def test_of_equal_classes_the_first_or_a_wrong_one_is_predicted():
    images = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    classes = np.array([[0, 1], [1, 0], [1, 0]], np.float32)
    target = np.array([1, 2, 0])
    assert zeroshot.predictions(images, classes, target, "first").tolist() == [1, 1, 0]
    assert zeroshot.predictions(images, classes, target, "against").tolist() == [2, 1, 0]
    assert zeroshot.classification_ranks(images, classes, target, ties="first").tolist() == [0, 1, 0]


def test_equal_names_give_equal_class_embeddings_at_any_position():
    random = np.random.default_rng(0)
    rows = {word: random.standard_normal(768).astype(np.float32) for word in "abcde"}
    names = [[word, "e"] for word in "abcdabcddcba"]
    found = zeroshot.class_embeddings(names, ["{}", "{}"], rows_of(rows))
    first, _ = np.unique([name for name, _ in names], return_index=True)
    assert len(np.unique(found, axis=0)) == len(first) == 4


def test_top_5_needs_more_than_five_classes():
    assert zeroshot.accuracies(np.array([0, 4, 5]), 6) == {"acc1": pytest.approx(1 / 3), "acc5": pytest.approx(2 / 3)}
    assert zeroshot.chance(3944) == {"acc1": 1 / 3944, "acc5": 5 / 3944}
    assert zeroshot.chance(5) == {"acc1": 0.2}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_mean_per_class_recall_agrees_with_a_plain_loop(images):
    targets, found = np.array(images).T
    recalls = []
    for label in sorted(set(targets.tolist())):
        of_class = [rank == 0 for target, rank in zip(targets, found, strict=True) if target == label]
        recalls.append(sum(of_class) / len(of_class))
    assert zeroshot.mean_per_class_recall(found, targets) == pytest.approx(sum(recalls) / len(recalls))


def test_class_embedding_is_the_normalised_mean_over_templates_and_synonyms():
    dogs = {"a dog": (1, 0), "my dog": (1, 0), "a hound": (0, 1), "my hound": (1, 0)}
    encode = rows_of({"a cat": (1, 0), "my cat": (0, 1), **dogs})
    found = zeroshot.class_embeddings([["cat"], ["dog", "hound"]], ["a {}", "my {}"], encode)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], np.array([3, 1]) / 10**0.5], rtol=1e-6)
    assert found.dtype == np.float32


def test_braces_in_a_name_are_literal_and_a_class_without_a_name_is_an_error():
    assert zeroshot.class_texts([["{0} {x}"]], ["a {}"]) == ["a {0} {x}"]
    with pytest.raises(ValueError, match="class 1"):
        zeroshot.class_embeddings([["cat"], []], ["{}"], lambda texts: np.ones((len(texts), 2)))


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


def test_pairs_of_alignment_are_bounded_and_chosen_by_their_keys(monkeypatch):
    monkeypatch.setattr(measures, "NUM_PAIRS", 3)
    seen = []
    images = np.eye(8, dtype=np.float32)
    for order in (np.arange(8), np.arange(8)[::-1]):
        task = Geometry(texts=[str(i) for i in order], image_idx=np.arange(8), image_keys=[f"k{i}" for i in order])
        task.score(images[order], lambda texts: seen.append(sorted(texts)) or images[[int(text) for text in texts]])
    assert len(seen[0]) == 3
    assert seen[0] == seen[1]


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
    features, places = clusters(40, spread=0.1)
    places[0] = ""
    places[3] = "atlantis"
    assert few_shot(features, places).more["num_classes"] == {"5": 3, "10": 3}  # 25 shots leave none
    with pytest.raises(UserError, match="country"):
        few_shot(features[:9], places[:9])
    dataset = probed({"country": ["kenya"] * 7 + ["peru"] * 5})
    with pytest.raises(UserError, match="in a;"):
        with_measures(dataset, ["few_shot"])
    with pytest.raises(UserError, match="same key"):
        with_measures(dataclasses.replace(dataset, image_keys=["same"] * 12), ["few_shot"])
