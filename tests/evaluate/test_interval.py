"""Bootstrap intervals against resampling in the plainest way."""

from __future__ import annotations

import numpy as np
import pytest

from worldclip.evaluate.interval import (
    class_mean_interval,
    mean_interval,
    mean_of_shares_interval,
    statistic_interval,
)


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


def test_dependent_captions_widen_the_interval():
    hits = np.repeat(np.arange(40) < 20, 5)  # 5 captions an image, all right or all wrong
    alone = mean_interval(hits)
    together = mean_interval(hits, np.repeat(np.arange(40), 5))
    assert np.ptp(together) > 2 * np.ptp(alone)
    assert together == mean_interval(hits, np.repeat(np.arange(40), 5))  # the same at every call


def test_interval_of_a_million_queries_does_not_overflow():
    low, high = mean_interval(np.arange(1_000_000) < 400_000)
    assert 0.399 < low < 0.4 < high < 0.401


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


def test_statistic_interval_ignores_nan():
    values = np.arange(50) / 49

    def mean(times):
        return float("nan") if times[0] else float(np.average(values, weights=times))

    low, high = statistic_interval(mean, 50)
    assert 0.35 < low < values[1:].mean() < high < 0.66


def test_seeds_that_disagree_widen_the_interval():
    narrow = mean_of_shares_interval([0.5] * 5, [100] * 5)
    assert np.ptp(mean_of_shares_interval([0.3, 0.4, 0.5, 0.6, 0.7], [100] * 5)) > 1.3 * np.ptp(narrow)
    assert narrow[0] < 0.5 < narrow[1]


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
