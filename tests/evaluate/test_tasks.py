"""Ranks, intervals, tasks and probes against the plainest counts, CLIP_benchmark and scikit-learn."""

import dataclasses
import itertools

import numpy as np
import pytest

from worldclip.evaluate import engine, measures, ranking, tasks
from worldclip.evaluate.interval import (
    class_mean_interval,
    mean_interval,
    mean_over_seeds,
)
from worldclip.evaluate.measures import Geometry, with_measures
from worldclip.evaluate.selection import Association, Choice
from worldclip.evaluate.tasks import Classification, MultiLabel, NoneDecoded, Retrieval
from worlds import WordModel, rows_of, unit, vector, word_dataset


@pytest.mark.parametrize(
    ("num_candidates", "dim", "block_bytes"), [(1003, 512, 1), (1003, 512, 50_000), (97, 768, 10**6)]
)
def test_equal_candidates_tie_at_any_position(num_candidates, dim, block_bytes, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block_bytes)  # 1: a query at a time
    random = np.random.default_rng(0)
    candidates = random.standard_normal((num_candidates, dim)).astype(np.float32)
    source, copy = random.permutation(num_candidates)[:80].reshape(2, 40)
    candidates[copy] = candidates[source]
    queries = candidates[source] + 0.1 * random.standard_normal((40, dim)).astype(np.float32)
    found = ranking.ranks(queries, candidates, np.arange(40), source)
    assert found.tolist() == [1] * 40  # its copy alone scores as high, to the last bit
    found = ranking.ranks(queries, candidates, np.arange(40), source, ties="first")
    assert found.tolist() == (copy < source).tolist()
    sizes = [scores.nbytes for _, scores in ranking.score_blocks(queries, candidates)]
    assert max(sizes) <= max(block_bytes, 4 * num_candidates)  # at least one query
    ids, _ = ranking.top(queries, candidates, 2)
    assert ids.tolist() == np.sort([source, copy], axis=0).T.tolist()


@pytest.mark.parametrize(("num_classes", "seed"), [(1, 0), (2, 0), (2, 1), (12, 0), (12, 1)])
def test_metrics_of_classes_agree_with_scikit_learn(num_classes, seed):
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    images, classes, target = unit(random, 300), unit(random, num_classes), random.integers(0, num_classes, 300)
    target[target == 4] = 5  # a class without an image
    names = [[str(c)] for c in range(num_classes)]
    task = Classification(class_names=names, target=target, image_idx=np.arange(300), use_f1=True)
    ours = task.score(images, rows_of(classes)).metrics
    scores = images @ classes.T
    best = scores.argmax(axis=1)
    recalls = [np.mean(best[target == c] == c) for c in np.unique(target)]
    theirs = {"acc1": metrics.accuracy_score(target, best), "mean_per_class_recall": np.mean(recalls)}
    theirs["f1_macro"] = metrics.f1_score(target, best, average="macro", labels=np.unique(target))  # as WILDS
    if num_classes == 2:
        theirs["roc_auc"] = metrics.roc_auc_score(target, scores[:, 1] - scores[:, 0])
    if num_classes > 5:
        theirs["acc5"] = metrics.top_k_accuracy_score(target, scores, k=5, labels=np.arange(num_classes))
    assert ours == pytest.approx(theirs, **EXACT)


def test_an_image_of_two_equal_classes_is_put_into_the_wrong_one(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 1)  # an image at a time
    classes = unit(np.random.default_rng(0), 2)[[0, 0, 1]]
    target = np.array([2, 0, 1, 1, 0])
    assert tasks.predictions(classes[target], classes, target).tolist() == [2, 1, 0, 0, 1]
    assert tasks.predictions(classes[target], classes, target, "first").tolist() == [2, 0, 0, 0, 0]


@pytest.mark.parametrize("ties", ["against", "first"])
@pytest.mark.parametrize("block_bytes", [1, 200, 10**6])
def test_ranks_agree_with_a_plain_count_for_right_pairs_in_any_order(ties, block_bytes, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", block_bytes)
    random = np.random.default_rng(0)
    queries, candidates = (random.integers(-2, 3, (size, 3)).astype(np.float32) for size in (30, 20))  # many ties
    is_right = random.random((30, 20)) < 0.1
    plain = []
    for query, is_right_C in zip(queries, is_right, strict=True):
        scores = (candidates @ query).tolist()
        right = sorted(np.flatnonzero(is_right_C).tolist(), key=lambda c: (-scores[c], c))
        places = [(-scores[c], c if ties == "first" else is_right_C[c]) for c in range(20)]
        before = [c for c in range(20) if right and not is_right_C[c] and places[c] < places[right[0]]]
        plain.append(len(before) if right else -1)
    pairs = random.permutation(np.argwhere(is_right))
    assert ranking.ranks(queries, candidates, *pairs.T, ties).tolist() == plain


def test_nan_scores_rank_last():
    queries = np.array([[np.nan], [1.0]], np.float32)
    candidates = np.array([[1.0], [0.0], [-1.0]], np.float32)
    for ties in ("against", "first"):
        assert ranking.ranks(queries, candidates, [0, 1], [0, 0], ties).tolist() == [2, 0]
        assert ranking.ranks(queries[1:], np.array([[1.0], [np.nan]], np.float32), [0], [0], ties).tolist() == [1]


EXACT = {"abs": 1e-6}


def test_mean_average_precision_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    images, classes, is_there = unit(random, 90), unit(random, 5), random.random((90, 5)) < 0.2
    is_there[:, 3] = False  # a class without an image counts 0
    task = MultiLabel(class_names=[[c] for c in "01234"], is_there=is_there, image_idx=np.arange(90))
    score = task.score(images, rows_of(classes))
    theirs = [metrics.average_precision_score(is_there[:, c], images @ classes[c]) for c in (0, 1, 2, 4)]
    assert score.metrics == {"mean_average_precision": pytest.approx(sum(theirs) / 5, **EXACT)}
    assert score.chance == {"mean_average_precision": pytest.approx(is_there.mean())}


@pytest.mark.parametrize("num_right", [1, 20, 50, 99])
def test_mean_interval_agrees_with_resampling(num_right):
    hits = np.arange(100) < num_right
    random = np.random.default_rng(1)
    means = hits[random.integers(0, 100, (20_000, 100))].mean(axis=1)
    np.testing.assert_allclose(mean_interval(hits), np.quantile(means, [0.025, 0.975]), atol=0.0101)


def test_interval_of_equal_hits_is_that_of_wilson():
    """Bounds by the formula for any share: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    assert mean_interval(np.zeros(30, bool)) == (0.0, pytest.approx(0.11351, abs=1e-5))
    assert mean_interval(np.ones(3, bool)) == (pytest.approx(0.43850, abs=1e-5), 1.0)
    captions = np.repeat(np.arange(3), 5)
    assert mean_interval(np.ones(15, bool), captions) == mean_interval(np.ones(3, bool))
    assert class_mean_interval(np.array([0, 0]), np.array([15, 15])) == mean_interval(np.zeros(30, bool))
    few = class_mean_interval(np.array([1, 29]), np.array([1, 29]))  # half of the mean rests on one image
    assert mean_interval(np.ones(2, bool)) < few < mean_interval(np.ones(4, bool))
    low, high = mean_interval(np.arange(1_000_000) < 400_000)  # binomial coefficients overflow a float
    assert 0.399 < low < 0.4 < high < 0.401


def test_interval_of_clusters_of_any_sizes_is_that_of_drawing_clusters():
    random = np.random.default_rng(3)
    sizes = random.integers(1, 12, 60)
    cluster = np.repeat(np.arange(60), sizes)
    hits = (random.random(60) < 0.7)[cluster] ^ (random.random(len(cluster)) < 0.1)  # those of a cluster are alike
    drawn = random.integers(0, 60, (1_000, 60))
    hits_of = [hits[cluster == c] for c in range(60)]
    means = [np.concatenate([hits_of[c] for c in clusters]).mean() for clusters in drawn]
    assert mean_interval(hits, cluster) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_class_mean_interval_agrees_with_resampling():
    random = np.random.default_rng(2)
    target = random.integers(0, 4, 200)
    hits = random.random(200) < np.array([0.9, 0.5, 0.2, 0.7])[target]
    right, num = np.bincount(target, hits), np.bincount(target)
    means = []
    for _ in range(3_000):
        rows = random.integers(0, 200, 200)
        means.append(np.mean([hits[rows][target[rows] == c].mean() for c in range(4)]))
    np.testing.assert_allclose(class_mean_interval(right, num), np.quantile(means, [0.025, 0.975]), atol=0.02)


def test_interval_over_seeds_is_that_of_drawing_seeds_and_images_of_all_of_them():
    random = np.random.default_rng(7)
    answers = []
    for size in (40, 10, 80):  # the images that a seed asks about
        images = random.permutation(80)[:size]
        answers.append((images % 5 > random.integers(0, 5, size), images))
    means = []
    for _ in range(4000):
        times = np.bincount(random.integers(0, 80, 80), minlength=80)
        drawn = [answers[i] for i in random.integers(0, 3, 3)]
        means.append(
            np.mean([np.average(hits, weights=times[images]) for hits, images in drawn if times[images].any()])
        )
    found = mean_over_seeds(answers)[1]
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    hits = np.arange(200) % 4 > 0
    same = mean_over_seeds([(hits, np.arange(200))] * 5)[1]
    assert same == pytest.approx(mean_interval(hits), abs=0.02), "five seeds of one answer are no more images"
    right = [(np.ones(5, bool), np.arange(start, start + 5)) for start in (0, 2)]
    assert mean_over_seeds(right) == (1, mean_interval(np.ones(7, bool)))


def test_choice_averages_over_questions_and_drops_undecodable_images():
    images = np.stack([vector("cat"), vector("dog"), np.full(32, np.nan, np.float32)])
    task = Choice(
        options=[["cat", "dog"], ["cat", "dog"], ["cow", "dog"], ["cat", "bee"]],
        answer=np.array([0, 0, 1, 1]),
        image_idx=np.array([2, 0, 1, 0]),
        slices={"farm": np.array([True, False, True, True]), "nowhere": np.zeros(4, bool)},
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


@pytest.mark.parametrize(
    "task",
    [
        Classification(class_names=[["0"], ["1"], ["2"]], target=np.arange(3), image_idx=np.arange(3)),
        Classification(class_names=[["0"], ["1"]], target=np.array([1, 0]), image_idx=np.array([2, 0])),
        Retrieval(texts=["0", "1", "2"], pair_image=np.arange(3), pair_text=np.arange(3), image_idx=np.arange(3)),
        Choice(options=[["0", "1"]] * 3, answer=np.zeros(3, int), image_idx=np.array([2, 0, 1])),
    ],
)
def test_queries_name_images_by_their_positions_in_the_dataset_where_one_does_not_decode(task):
    images = np.eye(3, dtype=np.float32)
    images[0] = np.nan
    score = task.score(images, rows_of(np.eye(3)))
    assert score.images.keys() == score.ranks.keys()
    for of_query in score.images.values():
        assert set(of_query.tolist()) == set(task.image_idx.tolist()) - {0}


def test_a_cue_counts_where_all_of_its_images_decode():
    random = np.random.default_rng(0)
    images, cues = unit(random, 12), rows_of(unit(random, 40))
    candidates = [random.permutation(12)[:5] for _ in range(40)]
    is_right = [random.permutation(np.arange(5) < 2) for _ in range(40)]
    images[[3, 7]] = np.nan
    whole = [row for row in range(40) if not {3, 7} & set(candidates[row].tolist())]

    def score(rows):
        names, of_cues, right = (list(map(values.__getitem__, rows)) for values in (range(40), candidates, is_right))
        return Association(cues=list(map(str, names)), candidates=of_cues, is_right=right).score(images, cues)

    assert 0 < len(whole) < 40
    assert score(range(40)) == score(whole)


def test_roc_auc_needs_images_of_both_classes():
    images = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)

    def metrics(target):
        task = Classification(class_names=[["0"], ["1"]], target=np.array(target), image_idx=np.arange(3))
        return task.score(images, rows_of(np.eye(2))).metrics

    assert metrics([0, 0, 1])["roc_auc"] == 1.0
    assert metrics([1, 0, 1])["roc_auc"] == 0.5
    assert "roc_auc" not in metrics([0, 0, 0])


def test_equal_names_give_equal_class_embeddings_at_any_position():
    random = np.random.default_rng(0)
    rows = {word: random.standard_normal(768).astype(np.float32) for word in "abcde"}
    names = [[word, "e"] for word in "abcdabcddcba"]
    found = tasks.class_embeddings(names, ["{}", "{}"], rows_of(rows))
    first, _ = np.unique([name for name, _ in names], return_index=True)
    assert len(np.unique(found, axis=0)) == len(first) == 4


def test_class_embedding_is_the_normalised_mean_over_templates_and_synonyms():
    dogs = {"a dog": (1, 0), "my dog": (1, 0), "a hound": (0, 1), "my hound": (1, 0)}
    encode = rows_of({"a cat": (1, 0), "my cat": (0, 1), **dogs})
    found = tasks.class_embeddings([["cat"], ["dog", "hound"]], ["a {}", "my {}"], encode)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], np.array([3, 1]) / 10**0.5], rtol=1e-6)
    assert found.dtype == np.float32


WORDS = [f"word{i}" for i in range(12)]


def test_alignment_and_uniformity_agree_with_wang_and_isola():
    random = np.random.default_rng(0)
    images, texts = unit(random, 20), unit(random, 20)
    plain = np.mean([np.sum((a - b) ** 2) for a, b in zip(images, texts, strict=True)])
    assert measures.alignment(images, texts) == pytest.approx(plain, abs=1e-6)
    pairs = [(a, b) for i, a in enumerate(images) for j, b in enumerate(images) if i != j]
    plain = np.log(np.mean([np.exp(-2 * np.sum((a - b) ** 2)) for a, b in pairs]))
    assert measures.uniformity(images) == pytest.approx(plain, abs=1e-5)


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
    records, _, _ = engine.evaluate(model, {"model": "m", "model_digest": "m"}, [dataset], [], tmp_path / "r.jsonl")
    alignment = [record["metrics"]["alignment"] for record in records if record["task"] == "alignment_uniformity"]
    assert alignment == [pytest.approx(0, abs=1e-6)] * 2
    assert len(model.texts) == len(set(model.texts)), "texts of the retrieval were encoded again"


def test_chance_of_a_recall_is_that_of_every_order():
    pairs = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (5, 3)]  # image, text; images 6 and 7 have none
    pair_image, pair_text = np.array(pairs).T
    task = Retrieval(texts=list("abcd"), pair_image=pair_image, pair_text=pair_text, image_idx=np.arange(8))
    images = np.eye(8, dtype=np.float32)
    chance = task.score(images, lambda texts: images[: len(texts)]).chance
    for k in (1, 5):
        shares = []
        for num_right in (2, 3, 1, 1):
            places = list(itertools.combinations(range(8), num_right))
            shares.append(np.mean([min(of_right) < k for of_right in places]))
        assert chance[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(shares))
    assert chance["text_retrieval_recall@1"] == pytest.approx((5 * 1 / 4 + 2 / 4) / 6)
    assert chance["text_retrieval_recall@10"] == 1
