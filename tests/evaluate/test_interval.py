"""Bootstrap intervals against resampling in the plainest way."""

from __future__ import annotations

import numpy as np
import pytest

from worldclip.evaluate.interval import mean_interval


@pytest.mark.parametrize("num_right", [1, 20, 50, 99])
def test_the_interval_of_single_queries_is_what_resampling_gives(num_right):
    hits = np.arange(100) < num_right
    random = np.random.default_rng(1)
    means = hits[random.integers(0, 100, (20_000, 100))].mean(axis=1)
    np.testing.assert_allclose(mean_interval(hits), np.quantile(means, [0.025, 0.975]), atol=0.0101)


def test_all_right_and_all_wrong_have_intervals_of_no_width():
    assert mean_interval(np.ones(7, bool)) == (1.0, 1.0)
    assert mean_interval(np.zeros(7, bool)) == (0.0, 0.0)


def test_captions_that_fall_together_widen_the_interval():
    hits = np.repeat(np.arange(40) < 20, 5)  # 5 captions an image, all right or all wrong
    alone = mean_interval(hits)
    together = mean_interval(hits, np.repeat(np.arange(40), 5))
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])
    assert together == mean_interval(hits, np.repeat(np.arange(40), 5))  # the same at every call


def test_large_sets_do_not_overflow():
    low, high = mean_interval(np.arange(1_000_000) < 400_000)
    assert 0.399 < low < 0.4 < high < 0.401
