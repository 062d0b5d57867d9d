"""95% bootstrap intervals of means, the same at every call."""

from __future__ import annotations

import math

import numpy as np

LEVEL = 0.95
NUM_RESAMPLES = 2_000  # of clusters; single queries need none, see mean_interval


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
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
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
