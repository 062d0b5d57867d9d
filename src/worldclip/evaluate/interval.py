"""95% bootstrap intervals of means, the same at every call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

LEVEL = 0.95
NUM_RESAMPLES = 2_000  # of clusters; single queries need none, see mean_interval
NUM_STATISTIC_RESAMPLES = 500  # of statistics that take a pass over all queries, see statistic_interval


def mean_interval(hits: np.ndarray, cluster: np.ndarray | None = None) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `hits`, (n,) bool.

    Where each query stands alone, a resample of n hits with replacement is a draw of Binomial(n, mean), so the
    interval is that distribution's quantiles: exact, as of endlessly many resamples.  cluster: (n,) integers; queries
    of one cluster (the captions of an image) are drawn together, NUM_RESAMPLES times, from a fixed seed.
    """
    hits = np.asarray(hits, bool)
    if cluster is None or len(np.unique(cluster)) == len(hits):
        return _binomial_quantiles(len(hits), int(hits.sum()))
    _, cluster = np.unique(cluster, return_inverse=True)
    sizes = np.bincount(cluster)
    right = np.bincount(cluster, weights=hits)
    random = np.random.default_rng(0)
    means = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        times = np.bincount(random.integers(0, len(sizes), len(sizes)), minlength=len(sizes))
        means[i] = (times @ right) / (times @ sizes)
    return _quantiles(means)


def class_mean_interval(num_right: np.ndarray, num_images: np.ndarray) -> tuple[float, float]:
    """The same for the plain mean over classes of each one's recall.

    num_right, num_images: (C,) of each class, images at least 1.  A resample of the images gives each class
    Multinomial many, and Binomial many of these are right; classes that a resample leaves empty do not count in it.
    """
    random = np.random.default_rng(0)
    share = num_images / num_images.sum()
    drawn = random.multinomial(int(num_images.sum()), share, NUM_STATISTIC_RESAMPLES)
    right = random.binomial(drawn, num_right / num_images)
    is_there = drawn > 0
    recall = np.divide(right, drawn, out=np.zeros(drawn.shape), where=is_there)
    return _quantiles(recall.sum(axis=1) / is_there.sum(axis=1))


def statistic_interval(statistic: Callable[[np.ndarray], float], num_queries: int) -> tuple[float, float]:
    """The same for any statistic of weighted queries: it takes (num_queries,) how often each one is in the resample.

    Resamples in which the statistic is not a number (one class only, say) do not count.
    """
    random = np.random.default_rng(0)
    found = np.empty(NUM_STATISTIC_RESAMPLES)
    for i in range(NUM_STATISTIC_RESAMPLES):
        found[i] = statistic(np.bincount(random.integers(0, num_queries, num_queries), minlength=num_queries))
    return _quantiles(found[~np.isnan(found)])


def seeds_interval(hits: Sequence[np.ndarray]) -> tuple[float, float]:
    """The same for the mean over seeds of each one's mean: seeds are drawn, and the queries within each.

    hits: one bool array a seed.
    """
    random = np.random.default_rng(0)
    sizes = np.array([len(of_seed) for of_seed in hits])
    means = np.array([of_seed.mean() for of_seed in hits])
    chosen = random.integers(0, len(hits), (NUM_RESAMPLES, len(hits)))
    return _quantiles((random.binomial(sizes[chosen], means[chosen]) / sizes[chosen]).mean(axis=1))


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _binomial_quantiles(n: int, num_right: int) -> tuple[float, float]:
    if num_right in (0, n):
        mean = num_right / n
        return mean, mean
    k = np.arange(n + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(k[1:]))))
    mean = num_right / n
    log_weight = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    log_weight += k * math.log(mean) + (n - k) * math.log1p(-mean)
    reached = np.cumsum(np.exp(log_weight))
    low, high = np.searchsorted(reached, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low) / n, float(min(high, n)) / n
