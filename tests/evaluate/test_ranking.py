"""Ranks and intervals against the plainest counts; the same numbers as CLIP_benchmark and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worldclip.evaluate import ranking
from worldclip.evaluate.interval import (
    class_mean_interval,
    mean_interval,
    mean_of_shares_interval,
    statistic_interval,
)
from worldclip.evaluate.probes import logistic_predict, ridge_predict
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Classification, MultiLabel
from worlds import rows_of, unit


def plain_ranks(queries, candidates, right, ties="against"):
    """Sort each query's candidates, of equal scores the wrong (against) or the earlier (first) ones before the others.

    The rank is the number of wrong candidates before the first right one; -1 without a right one.
    """
    found = []
    for q, query in enumerate(queries):
        scores = [float(np.dot(query, candidate)) for candidate in candidates]
        is_right = [(q, c) in right for c in range(len(candidates))]
        order = sorted(range(len(candidates)), key=lambda c: (-scores[c], is_right[c] if ties == "against" else c))
        found.append([is_right[c] for c in order].index(True) if any(is_right) else -1)
    return found


@st.composite
def worlds(draw):
    """Small integers as features: every score is exact, and ties are the rule rather than the exception."""
    num_queries, num_candidates, dim = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    features = st.integers(-2, 2).map(float)
    queries = draw(arrays(np.float32, (num_queries, dim), elements=features))
    candidates = draw(arrays(np.float32, (num_candidates, dim), elements=features))
    pairs = st.tuples(st.integers(0, num_queries - 1), st.integers(0, num_candidates - 1))
    return queries, candidates, draw(st.lists(pairs, max_size=12))


@settings(max_examples=200, deadline=None)
@given(worlds(), st.integers(1, 300), st.sampled_from(["against", "first"]))
def test_ranks_agree_with_plain_sorting_for_any_block_size(world, block_bytes, ties):
    queries, candidates, right = world
    pairs = np.array(right, np.int64).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_BYTES", block_bytes)
        found = ranking.ranks(queries, candidates, pairs[:, 0], pairs[:, 1], ties)
    assert found.tolist() == plain_ranks(queries, candidates, set(right), ties)


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
    theirs["f1_macro"] = metrics.f1_score(target, best, average="macro")
    if num_classes == 2:
        theirs["roc_auc"] = metrics.roc_auc_score(target, scores[:, 1] - scores[:, 0])
    if num_classes > 5:
        theirs["acc5"] = metrics.top_k_accuracy_score(target, scores, k=5, labels=np.arange(num_classes))
    assert ours == pytest.approx(theirs, **EXACT)


def test_mean_average_precision_agrees_with_clip_benchmark():
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    random = np.random.default_rng(0)
    images, classes, is_there = unit(random, 90), unit(random, 5), random.random((90, 5)) < 0.2
    is_there[:, 3] = False  # a class without an image counts 0
    task = MultiLabel(class_names=[[str(c)] for c in range(5)], is_there=is_there, image_idx=np.arange(90))
    score = task.score(images, rows_of(classes))
    theirs = peer.average_precision_per_class(torch.from_numpy(images @ classes.T), torch.from_numpy(is_there))
    assert score.metrics == {"mean_average_precision": pytest.approx(theirs.mean().item(), **EXACT)}
    assert score.chance == {"mean_average_precision": pytest.approx(is_there.mean())}


def test_nan_scores_rank_last():
    queries = np.array([[np.nan], [1.0]], np.float32)
    candidates = np.array([[1.0], [0.0], [-1.0]], np.float32)
    for ties in ("against", "first"):
        assert ranking.ranks(queries, candidates, [0, 1], [0, 0], ties).tolist() == [2, 0]
        assert ranking.ranks(queries[1:], np.array([[1.0], [np.nan]], np.float32), [0], [0], ties).tolist() == [1]


def test_edges_of_ranks_shares_and_chance():
    features = np.ones((2, 1), np.float32)
    for right in (([0], [2]), ([-1], [0])):
        with pytest.raises(ValueError, match="is not one of the 2"):
            ranking.ranks(features, features, *right)
    assert ranking.share_within(np.array([0, -1, 3]), 1) == 0.5  # a query without a right candidate does not count
    with pytest.raises(ValueError, match="nothing to measure"):
        ranking.share_within(np.array([-1, -1]), 1)
    assert ranking.recall_chance(4, 8)["image_retrieval_recall@10"] == 1.0
    assert ranking.recall_chance(4, 8)["text_retrieval_recall@1"] == 0.125


@pytest.mark.parametrize("seed", range(5))
def test_recall_agrees_with_sorting_for_tied_scores(seed):
    random = np.random.default_rng(seed)
    images = random.integers(-1, 2, (12, 3)).astype(np.float32)
    texts = random.integers(-1, 2, (30, 3)).astype(np.float32)
    pair_image, pair_text = random.integers(0, 11, 40), np.arange(40) % 30  # image 11 has no caption, some texts two
    metrics = ranking.recalls(*ranking.retrieval_ranks(images, texts, pair_image, pair_text))
    to_image = set(zip(pair_text.tolist(), pair_image.tolist(), strict=True))
    plain = {
        "image_retrieval": plain_ranks(texts, images, to_image),
        "text_retrieval": plain_ranks(images, texts, {(image, text) for text, image in to_image}),
    }
    for direction, ranks in plain.items():
        asked = [rank for rank in ranks if rank >= 0]
        for k in (1, 5, 10):
            assert metrics[f"{direction}_recall@{k}"] == pytest.approx(np.mean([rank < k for rank in asked]))


EXACT = {"abs": 1e-6}


class Features:
    """A model as CLIP_benchmark asks for it: rows of features of images, or pixels that are features, and of texts."""

    def __init__(self, texts, images=None):
        self.texts, self.images = texts, images

    def encode_image(self, batch):
        return batch.reshape(-1, 24) if self.images is None else self.images[batch]

    def encode_text(self, rows):
        return self.texts[rows]


def test_zeroshot_metrics_agree_with_clip_benchmark():
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    random = np.random.default_rng(0)
    images, texts = unit(random, 200), unit(random, 12 * 3)  # 12 classes, 3 templates
    target = random.integers(0, 12, 200)
    model = Features(torch.from_numpy(texts), torch.from_numpy(images))
    rows = {f"t{t} c{c}": 3 * c + t for c in range(12) for t in range(3)}
    templates = [f"t{t} {{c}}" for t in range(3)]
    classifier = peer.zero_shot_classifier(
        model, lambda names: torch.tensor([rows[name] for name in names]), [f"c{c}" for c in range(12)], templates,
        "cpu", amp=False,
    )  # fmt: skip
    batches = list(zip(torch.arange(200).split(16), torch.from_numpy(target).split(16), strict=True))
    logits, true = peer.run_classification(model, classifier, batches, "cpu", amp=False)
    best = logits.topk(5).indices == true[:, None]  # its own `accuracy` fails with numpy 2.4
    theirs = {"acc1": best[:, :1].sum().item() / 200, "acc5": best.sum().item() / 200}
    theirs["mean_per_class_recall"] = peer.balanced_accuracy_score(true, logits.argmax(axis=1))
    task = Classification(
        class_names=[[f"c{c}"] for c in range(12)],
        templates=[template.replace("{c}", "{}") for template in templates],
        target=target,
        image_idx=np.arange(200),
    )
    ours = task.score(images, rows_of({name: texts[row] for name, row in rows.items()})).metrics
    assert ours == pytest.approx(theirs, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_recall_agrees_with_clip_benchmark(seed):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    random = np.random.default_rng(seed)
    images, texts = unit(random, 40), unit(random, 90)
    pair_image = np.sort(np.concatenate([np.arange(40), random.integers(0, 40, 50)]))  # every image has a caption
    captions = [np.flatnonzero(pair_image == i).tolist() for i in range(40)]
    model = Features(torch.from_numpy(texts), torch.from_numpy(images))
    batches = [(torch.arange(40)[i : i + 8], captions[i : i + 8]) for i in range(0, 40, 8)]
    theirs = peer.evaluate(model, batches, torch.tensor, "cpu", amp=False, recall_k_list=[1, 5, 10])
    ours = ranking.recalls(*ranking.retrieval_ranks(images, texts, pair_image, np.arange(90)))
    assert ours == pytest.approx(theirs, **EXACT)


def test_selection_agrees_with_clip_benchmark():
    """An image, its caption and a wrong one, as in SugarCrepe."""
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("clip_benchmark.metrics.image_caption_selection")
    random = np.random.default_rng(0)
    images, texts = unit(random, 30), unit(random, 60)
    pixels = torch.from_numpy(images).reshape(30, 24, 1, 1)
    rows = np.arange(60).reshape(30, 2)
    theirs = peer.evaluate(Features(torch.from_numpy(texts)), [(pixels, rows.tolist())], torch.tensor, "cpu", amp=False)
    pairs = [(str(first), str(second)) for first, second in rows]
    task = Choice(options=pairs, answer=np.zeros(30, np.int64), image_idx=np.arange(30))
    ours = task.score(images, rows_of(texts)).metrics
    assert ours["accuracy"] == pytest.approx(theirs["text_acc"], **EXACT)
    assert 0 < ours["accuracy"] < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_probes_agree_with_scikit_learn(seed):
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(seed)
    train, test, classes = unit(random, 30), unit(random, 50), random.integers(0, 4, 30)
    peer = linear_model.RidgeClassifier(alpha=1.0).fit(train.astype(float), classes)
    np.testing.assert_array_equal(ridge_predict(train, classes, test), peer.predict(test.astype(float)))
    assert set(logistic_predict(train, classes.astype(str), test)) <= set(classes.astype(str))


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


def test_dependent_captions_widen_the_interval():
    hits = np.repeat(np.arange(40) < 20, 5)  # 5 captions an image, all right or all wrong
    alone = mean_interval(hits)
    together = mean_interval(hits, np.repeat(np.arange(40), 5))
    assert np.ptp(together) > 2 * np.ptp(alone)
    assert together == mean_interval(hits, np.repeat(np.arange(40), 5))  # the same at every call


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


def test_statistic_interval_ignores_nan_and_is_the_same_at_every_call():
    values = np.arange(50) / 49

    def mean(times):
        return float("nan") if times[0] else float(np.average(values, weights=times))

    low, high = statistic_interval(mean, 50)
    assert 0.35 < low < values[1:].mean() < high < 0.66
    assert statistic_interval(mean, 50) == (low, high)
    right, num = np.array([3, 5]), np.array([9, 7])
    assert class_mean_interval(right, num) == class_mean_interval(right, num)
    assert mean_of_shares_interval([0.3, 0.5], [9, 7]) == mean_of_shares_interval([0.3, 0.5], [9, 7])


def test_interval_over_languages_is_that_of_drawing_languages_and_queries():
    shares, sizes = [0.2, 0.8, 0.5], [40, 10, 200]
    random = np.random.default_rng(7)
    means = []
    for _ in range(4000):
        drawn = random.integers(0, 3, 3)
        means.append(np.mean([(random.random(sizes[i]) < shares[i]).mean() for i in drawn]))
    found = mean_of_shares_interval(shares, sizes)
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    assert mean_of_shares_interval([1.0, 1.0], [5, 5]) == mean_interval(np.ones(10, bool))
