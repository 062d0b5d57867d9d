"""95% bootstrap intervals.  Seeds are fixed: equal input gives equal intervals.

Where all answers are right, or none, each resample is the same and says nothing about other queries: Wilson's bounds.

n queries, C classes, L languages, I images, R runs or resamples, N resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)  # 1.96
ROUNDING = 1e-6  # means in float32 that differ by less are equal
NUM_RESAMPLES = 2_000  # resamples of clusters; single queries need none, see mean_interval
NUM_CLASS_RESAMPLES = 500  # see class_mean_interval

RESAMPLES_AT_ONCE = 100  # 20 MB of counts for 50,000 images

Interval = tuple[float, float]
Answers = tuple[np.ndarray, np.ndarray]
"""A number for each query of a language or seed (hit or not, or a gain), and the image that the query is about."""


def mean_interval(hits: np.ndarray, cluster: np.ndarray | None = None) -> Interval:
    """Return the percentile bootstrap interval of the mean of `hits`, (n,) bool; of 0 and 1 `extreme_interval`.

    If each query is on its own, a resample of n hits with replacement is a draw of Binomial(n, mean), so the interval
    is that distribution's quantiles: exact, as of infinitely many resamples.  cluster: (n,) integers; queries of one
    cluster (the captions of an image) are drawn together, NUM_RESAMPLES times.
    """
    hits = np.asarray(hits, bool)
    clusters, cluster = np.unique(np.arange(len(hits)) if cluster is None else cluster, return_inverse=True)
    if hits.all() or not hits.any():
        return extreme_interval(hits.mean(), len(clusters))
    if len(clusters) == len(hits):
        n = len(hits)
        mean = int(hits.sum()) / n
        # The probabilities of 0 to n hits, as logarithms: the binomial coefficients overflow a float for n over 1,000.
        k = np.arange(n + 1)
        log_factorial = np.concatenate(([0.0], np.cumsum(np.log(k[1:]))))
        log_weight = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        log_weight += k * math.log(mean) + (n - k) * math.log1p(-mean)
        cumulative = np.cumsum(np.exp(log_weight))
        low, high = np.searchsorted(cumulative, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return float(low) / n, float(min(high, n)) / n
    sizes = np.bincount(cluster)
    num_right = np.bincount(cluster, weights=hits)
    random = np.random.default_rng(0)
    means = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        times = draw_with_replacement(random, len(sizes))
        means[i] = (times @ num_right) / (times @ sizes)
    return quantiles(means)


def class_mean_interval(num_right: np.ndarray, num_images: np.ndarray) -> Interval:
    """Return the interval of the plain mean over classes of each one's recall.

    num_right, num_images: (C,) of each class, images at least 1.  A resample of the images gives the classes
    Multinomial numbers of images, of which Binomial numbers are right; classes without an image in a resample do not
    count in it.
    """
    mean = float(np.mean(num_right / num_images))
    if mean in (0, 1):
        # The number of queries whose share has the variance of the plain mean of the classes' shares.
        num_independent = float(len(num_images) ** 2 / (1 / num_images).sum())
        return extreme_interval(mean, num_independent)
    random = np.random.default_rng(0)
    share = num_images / num_images.sum()
    drawn_RC = random.multinomial(int(num_images.sum()), share, NUM_CLASS_RESAMPLES)
    right_RC = random.binomial(drawn_RC, num_right / num_images)
    has_image_RC = drawn_RC > 0
    recall_RC = np.divide(right_RC, drawn_RC, out=np.zeros(drawn_RC.shape), where=has_image_RC)
    return quantiles(recall_RC.sum(axis=1) / has_image_RC.sum(axis=1))


def mean_over_seeds(answers: Sequence[Answers]) -> tuple[float, Interval]:
    """Return the mean over seeds of each one's share of hits, and its interval: images and seeds are drawn.

    answers: of each seed.  An image is drawn with the answers of all seeds about it: seeds share images, so that their
    answers are not independent.
    """
    hits_of_seeds, images_of_seeds = zip(*answers, strict=True)
    mean = float(np.mean(list(map(np.mean, hits_of_seeds))))
    if mean in (0, 1):
        return mean, extreme_interval(mean, len(np.unique(np.concatenate(images_of_seeds))))
    means_NS = resampled_means(answers)
    drawn_NS = np.random.default_rng(1).integers(0, len(answers), means_NS.shape)
    with np.errstate(invalid="ignore"):  # in a resample of few images, the drawn seeds may have no query
        mean_N = mean_of_resamples(np.take_along_axis(means_NS, drawn_NS, axis=1))
    return mean, quantiles(mean_N[~np.isnan(mean_N)])


def extreme_interval(share: float, n: float) -> Interval:
    """Return Wilson's score interval of a share of 0 or 1 among n independent queries.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    width = Z**2 / (n + Z**2)
    return (0.0, width) if share == 0 else (1 - width, 1.0)


def draw_with_replacement(random: np.random.Generator, num: int) -> np.ndarray:
    """Return (num,) how often each of `num` things is among `num` draws with replacement."""
    return np.bincount(random.integers(0, num, num), minlength=num)


def resampled_arms(runs: Sequence[np.ndarray], arm_of_run: np.ndarray) -> list[np.ndarray]:
    """Return a number of each arm in N resamples of the images and of the arm's seeds: (N,), or (N, L).

    runs: the number of each run, (N,) or (N, L), in the same resamples of images.  arm_of_run: (R,) int.
    """
    # Every run sees the same resamples of images, so that differences between arms are paired; seeds are drawn from
    # another stream than the images.
    numbers = np.stack(runs, axis=1)
    random = np.random.default_rng(1)
    arms = []
    for arm in range(arm_of_run.max() + 1):
        seeds = np.flatnonzero(arm_of_run == arm)
        drawn = seeds[random.integers(0, len(seeds), (NUM_RESAMPLES, len(seeds)))]
        arms.append(numbers[np.arange(NUM_RESAMPLES)[:, None], drawn].mean(axis=1))
    return arms


def resampled_means(answers: Sequence[Answers]) -> np.ndarray:
    """Return (N, L) float32: the mean answer of each language in NUM_RESAMPLES resamples of the images.

    NaN for a language without a query in a resample.  With an image all queries about it in all languages are drawn.
    The draws depend only on the number of images.
    """
    hits_of_langs, images_of_langs = zip(*answers, strict=True)
    images, position = np.unique(np.concatenate(images_of_langs), return_inverse=True)
    starts = np.cumsum([0, *map(len, images_of_langs)])
    sums_LI = np.zeros((len(answers), len(images)), np.float32)
    sizes_LI = np.zeros((len(answers), len(images)), np.float32)
    for i, hits in enumerate(hits_of_langs):
        positions = position[starts[i] : starts[i + 1]]
        sums_LI[i] = np.bincount(positions, weights=hits, minlength=len(images))
        sizes_LI[i] = np.bincount(positions, minlength=len(images))
    # A resample is a count per image; with sums and numbers of queries per language and image, two matrix products give
    # the means of RESAMPLES_AT_ONCE resamples in all languages without going over the queries again.
    random = np.random.default_rng(0)
    means_NL = np.empty((NUM_RESAMPLES, len(answers)), np.float32)
    for start in range(0, NUM_RESAMPLES, RESAMPLES_AT_ONCE):
        times_RI = np.empty((RESAMPLES_AT_ONCE, len(images)), np.float32)
        for times_I in times_RI:
            times_I[:] = draw_with_replacement(random, len(images))
        num_queries_RL = times_RI @ sizes_LI.T
        has_query_RL = num_queries_RL > 0
        sums_RL = times_RI @ sums_LI.T
        mean_RL = np.divide(sums_RL, num_queries_RL, out=np.full_like(num_queries_RL, np.nan), where=has_query_RL)
        means_NL[start : start + RESAMPLES_AT_ONCE] = mean_RL
    return means_NL


def mean_of_resamples(means_NL: np.ndarray) -> np.ndarray:
    """Return (N,) the mean over the languages that have a query in a resample."""
    mean: np.ndarray = np.nansum(means_NL, axis=1) / (~np.isnan(means_NL)).sum(axis=1)
    return mean


def interval_of_difference(resampled_N: np.ndarray) -> Interval | None:
    """Return the interval of a difference, over the resamples that have one (are not NaN).

    None where all of them are equal, as with the same answers: they say nothing about other images.
    """
    present = resampled_N[~np.isnan(resampled_N)]
    return None if np.ptp(present) < ROUNDING else quantiles(present)


def quantiles(values: np.ndarray) -> Interval:
    """Return the bounds between which LEVEL of the values are."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
