"""The same numbers as CLIP_benchmark and scikit-learn on the same features, where those are installed."""

from __future__ import annotations

import numpy as np
import pytest

from worldclip.evaluate import retrieval, zeroshot


def unit(random, num, dim=24):
    features = random.standard_normal((num, dim)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_mean_per_class_recall_agree(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    images, classes, target = unit(random, 300), unit(random, 12), random.integers(0, 12, 300)
    found = zeroshot.classification_ranks(images, classes, target)
    scores = images @ classes.T
    ours = zeroshot.accuracies(found, 12)
    assert ours["acc1"] == pytest.approx(metrics.accuracy_score(target, scores.argmax(axis=1)), abs=1e-6)
    top5 = metrics.top_k_accuracy_score(target, scores, k=5, labels=np.arange(12))
    assert ours["acc5"] == pytest.approx(top5, abs=1e-6)
    peer = metrics.balanced_accuracy_score(target, scores.argmax(axis=1))
    assert zeroshot.mean_per_class_recall(found, target) == pytest.approx(peer, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_recall_agrees_with_clip_benchmark(seed):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    random = np.random.default_rng(seed)
    images, texts = unit(random, 40), unit(random, 90)
    pair_image = np.concatenate([np.arange(40), random.integers(0, 40, 50)])  # every image has a caption at least
    metrics = retrieval.recalls(*retrieval.retrieval_ranks(images, texts, pair_image, np.arange(90)))
    scores = torch.from_numpy(texts @ images.T)
    positive = torch.zeros(90, 40, dtype=torch.bool)
    positive[torch.arange(90), torch.from_numpy(pair_image)] = True
    for k in (1, 5, 10):
        image_recall = (peer.recall_at_k(scores, positive, k) > 0).float().mean().item()
        text_recall = (peer.recall_at_k(scores.T, positive.T, k) > 0).float().mean().item()
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(image_recall, abs=1e-6)
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(text_recall, abs=1e-6)
