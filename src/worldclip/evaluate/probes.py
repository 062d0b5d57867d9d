"""Probes of frozen features: few-shot and linear probes, e.g. of the country that a photograph was taken in.

A hash of (seed, image key) makes the draws, so that the same images are drawn for every model.
N images of the dataset, n images to learn from, m images to predict, D embed_dim, C classes.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError, require
from worldclip.evaluate.interval import Answers, Interval, mean_over_seeds
from worldclip.evaluate.tasks import Encode, Score, decoded

SHOTS = (5, 10, 25)  # arXiv:2507.22062, few-shot geo-localisation
NUM_SEEDS = 5
INTERVAL = "images and seeds"  # what a resample draws; records of another interval are measured again
RIDGE = 1.0  # weight of the squared norm in few-shot probes, whose loss is squared errors of +-1 targets
SCORE_DIGITS = 9  # decimal digits of a ridge's scores, which are about 1; far above rounding errors of float64
PENALTIES = tuple(10.0**power for power in range(-2, 5))  # C of the logistic regression, the best on held-out images


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    """The images as both kinds of probe see them."""

    label: str
    """The predicted attribute: country, region, ..."""
    values: Sequence[str]
    """(N,) its value for each image of the dataset; "" if unknown."""
    image_keys: Sequence[str]

    def texts_to_encode(self) -> list[str]:
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class FewShot(_Probe):
    """A ridge classifier on k images of each class, measured on all other images of these classes; k = 5, 10, 25.

    A class takes part at k if it has more than k images.
    """

    @property
    def name(self) -> str:
        return f"few_shot_{self.label}"

    @property
    def protocol(self) -> Json:
        probe = {"probe": f"ridge {RIDGE:g}", "features": "unit length, centred"}
        return {"shots": list(SHOTS), "seeds": NUM_SEEDS, "interval": INTERVAL, **probe}

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        values = np.array(self.values, dtype=object)
        names, classes = np.unique(values, return_inverse=True)
        is_known = decoded(image_ND) & (values != "")
        num_images = np.bincount(classes[is_known], minlength=len(names))
        metrics: dict[str, float] = {}
        interval: dict[str, Interval] = {}
        chance: dict[str, float] = {}
        num_classes: dict[str, int] = {}
        for shots in SHOTS:
            large = np.flatnonzero(num_images > shots)
            if len(large) < 2:
                continue
            rows = np.flatnonzero(is_known & np.isin(classes, large))
            answers: list[Answers] = []
            for seed in range(NUM_SEEDS):
                order = hashed_order(self.image_keys, rows, seed)
                train = np.sort(np.concatenate([order[classes[order] == c][:shots] for c in large]))
                test = np.setdiff1d(rows, train)
                predicted = ridge_predict(image_ND[train], classes[train], image_ND[test])
                answers.append((predicted == classes[test], test))
            name = f"acc1_{shots}_shot"
            metrics[name], interval[name] = mean_over_seeds(answers)
            chance[name] = 1 / len(large)
            num_classes[str(shots)] = len(large)
        if not metrics:
            check_enough(self.label, np.where(is_known, self.values, "").tolist(), "the images that decode")
        counts: Json = {"num_classes": num_classes}
        return Score(n=int(is_known.sum()), metrics=metrics, chance=chance, interval=interval, counts=counts)


def check_enough(label: str, values: Sequence[str], where: str) -> None:
    """Raise UserError unless two values have more images than the fewest shots take."""
    counts = Counter(values)
    del counts[""]
    if sum(times > SHOTS[0] for times in counts.values()) < 2:
        raise UserError(
            f"few-shot probes of {label}: fewer than two values have more than {SHOTS[0]} images in {where}; "
            "remove few_shot from evaluate.also"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProbe(_Probe):
    """Logistic regression on frozen features; a tenth of the images to learn from chooses the penalty.

    The images to learn from are the train split, else half of all images, drawn again for each seed.
    """

    is_train: np.ndarray | None
    """(N,) bool; None: there is no train split."""

    @property
    def name(self) -> str:
        return f"linear_probe_{self.label}"

    @property
    def protocol(self) -> Json:
        split = "half" if self.is_train is None else "given"
        probe = {"probe": "logistic", "penalties": list(PENALTIES)}
        return {"split": split, "seeds": NUM_SEEDS, "interval": INTERVAL, **probe}

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        values = np.array(self.values, dtype=object)
        rows = np.flatnonzero(decoded(image_ND) & (values != ""))
        answers: list[Answers] = []
        for seed in range(NUM_SEEDS):
            order = hashed_order(self.image_keys, rows, seed)
            is_train = np.arange(len(order)) < len(order) // 2
            if self.is_train is not None:
                is_train = self.is_train[order]
            train = order[is_train]
            test = order[~is_train]
            if len(set(values[train])) < 2 or not len(test):
                raise UserError(
                    f"linear probe of {self.label}: it needs two values to learn from and images to predict"
                )
            predicted = logistic_predict(image_ND[train], values[train].astype(str), image_ND[test])
            answers.append((predicted == values[test].astype(str), test))
        mean, interval = mean_over_seeds(answers)
        num_classes = len(set(values[rows]))
        return Score(
            n=len(answers[0][0]),
            metrics={"acc1": mean},
            chance={"acc1": 1 / num_classes},
            interval={"acc1": interval},
            counts={"num_classes": num_classes},
        )


def hashed_order(keys: Sequence[str], rows: np.ndarray, seed: int | str) -> np.ndarray:
    """Return `rows` in an order that depends on the seed and on the key of each row, never on the order of `rows`."""

    def place(row: int) -> tuple[str, str]:
        return hashlib.sha256(f"{seed} {keys[row]}".encode()).hexdigest(), keys[row]

    return np.array(sorted(rows.tolist(), key=place), np.int64)


def ridge_predict(train_nD: np.ndarray, classes: np.ndarray, test_mD: np.ndarray) -> np.ndarray:
    """Return (m,) classes by ridge regression to +-1 targets with an intercept, as scikit-learn's RidgeClassifier.

    classes: (n,) of `train_nD`.
    """
    distinct_C, target = np.unique(classes, return_inverse=True)
    target_nC = np.where(target[:, None] == np.arange(len(distinct_C)), 1.0, -1.0)
    mean_D = train_nD.mean(axis=0, dtype=np.float64)
    mean_C = target_nC.mean(axis=0)
    centred_nD = train_nD - mean_D
    # The dual form: its system is (n, n), and n is smaller than D here.
    gram_nn = centred_nD @ centred_nD.T + RIDGE * np.eye(len(train_nD))
    weight_DC = centred_nD.T @ np.linalg.solve(gram_nn, target_nC - mean_C)
    score_mC = (test_mD - mean_D) @ weight_DC + mean_C
    # Of equal scores the first class wins.  Rounding makes them equal: the solver's last bits depend on the processor.
    predicted: np.ndarray = distinct_C[score_mC.round(SCORE_DIGITS).argmax(axis=1)]
    return predicted


def logistic_predict(train_nD: np.ndarray, classes: np.ndarray, test_mD: np.ndarray) -> np.ndarray:
    """Return (m,) classes by scikit-learn's logistic regression; the last tenth of `train_nD` chooses its penalty.

    classes: (n,) of `train_nD`.
    """
    linear_model = require("sklearn.linear_model", extra="train")
    model = functools.partial(linear_model.LogisticRegression, max_iter=1_000)
    num_fit = len(train_nD) - max(1, len(train_nD) // 10)
    best = PENALTIES[0]
    if len(np.unique(classes[:num_fit])) > 1:
        accuracies = []
        for penalty in PENALTIES:
            fitted = model(C=penalty).fit(train_nD[:num_fit], classes[:num_fit])
            accuracies.append(fitted.score(train_nD[num_fit:], classes[num_fit:]))
        best = PENALTIES[int(np.argmax(accuracies))]
    predicted: np.ndarray = model(C=best).fit(train_nD, classes).predict(test_mD)
    return predicted
