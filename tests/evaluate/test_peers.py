"""The same numbers as CLIP_benchmark and scikit-learn on the same features, to 1e-6."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from worldclip.evaluate import ranking, zeroshot
from worldclip.evaluate.probes import logistic_predict, ridge_predict
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Classification
from worlds import rows_of, unit

EXACT = {"abs": 1e-6}


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_mean_per_class_recall_agree_with_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    images, classes, target = unit(random, 300), unit(random, 12), random.integers(0, 12, 300)
    target[target == 4] = 5  # a class without an image
    found = zeroshot.classification_ranks(images, classes, target)
    scores = images @ classes.T
    ours = zeroshot.accuracies(found, 12)
    assert ours["acc1"] == pytest.approx(metrics.accuracy_score(target, scores.argmax(axis=1)), **EXACT)
    top5 = metrics.top_k_accuracy_score(target, scores, k=5, labels=np.arange(12))
    assert ours["acc5"] == pytest.approx(top5, **EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the class that is missing
        peer = metrics.balanced_accuracy_score(target, scores.argmax(axis=1))
    assert zeroshot.mean_per_class_recall(found, target) == pytest.approx(peer, **EXACT)
    f1 = metrics.f1_score(target, scores.argmax(axis=1), average="macro")
    assert zeroshot.f1_macro(zeroshot.predictions(images, classes, target), target) == pytest.approx(f1, **EXACT)


@pytest.mark.parametrize("num_levels", [1, 3, 1000])  # all scores equal, many ties, next to none
@pytest.mark.parametrize("seed", range(3))
def test_roc_auc_and_average_precision_agree_with_scikit_learn_also_for_ties(num_levels, seed):
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    scores = random.integers(0, num_levels, 120).astype(np.float32)
    is_positive = random.random(120) < 0.3
    assert zeroshot.roc_auc(scores, is_positive) == pytest.approx(metrics.roc_auc_score(is_positive, scores), **EXACT)
    peer = metrics.average_precision_score(is_positive, scores)
    assert zeroshot.average_precision(scores, is_positive) == pytest.approx(peer, **EXACT)
    times = random.integers(0, 3, 120)
    repeated = np.repeat(np.arange(120), times)
    weighted = zeroshot.roc_auc(scores, is_positive, times)
    assert weighted == pytest.approx(zeroshot.roc_auc(scores[repeated], is_positive[repeated]), **EXACT)
    weighted = zeroshot.average_precision(scores, is_positive, times)
    assert weighted == pytest.approx(zeroshot.average_precision(scores[repeated], is_positive[repeated]), **EXACT)


def test_single_class_has_no_roc_auc_and_zero_precision():
    assert np.isnan(zeroshot.roc_auc(np.arange(3.0), np.ones(3, bool)))
    assert zeroshot.average_precision(np.arange(3.0), np.zeros(3, bool)) == 0.0


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


def test_mean_average_precision_agrees_with_clip_benchmark():
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    random = np.random.default_rng(0)
    scores, is_there = random.standard_normal((90, 5)), random.random((90, 5)) < 0.2
    is_there[:, 3] = False
    theirs = peer.average_precision_per_class(torch.from_numpy(scores), torch.from_numpy(is_there))
    ours = [zeroshot.average_precision(scores[:, c], is_there[:, c]) for c in range(5)]
    assert ours == pytest.approx(theirs.tolist(), **EXACT)


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


@pytest.mark.parametrize("num_classes", [1, 2])
def test_one_and_two_classes_agree_with_scikit_learn(num_classes):
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    images, classes, target = unit(random, 60), unit(random, num_classes), random.integers(0, num_classes, 60)
    task = Classification(class_names=[[str(c)] for c in range(num_classes)], target=target, image_idx=np.arange(60))
    ours = task.score(images, rows_of(classes)).metrics
    scores = images @ classes.T
    theirs = {"acc1": metrics.accuracy_score(target, scores.argmax(axis=1))}
    theirs["mean_per_class_recall"] = metrics.recall_score(target, scores.argmax(axis=1), average="macro")
    if num_classes == 2:
        theirs["roc_auc"] = metrics.roc_auc_score(target, scores[:, 1] - scores[:, 0])
    assert ours == pytest.approx(theirs, **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_probes_agree_with_scikit_learn(seed):
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(seed)
    train, test, classes = unit(random, 30), unit(random, 50), random.integers(0, 4, 30)
    peer = linear_model.RidgeClassifier(alpha=1.0).fit(train.astype(float), classes)
    np.testing.assert_array_equal(ridge_predict(train, classes, test), peer.predict(test.astype(float)))
    assert set(logistic_predict(train, classes.astype(str), test)) <= set(classes.astype(str))
