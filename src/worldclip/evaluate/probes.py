"""What frozen features know: few-shot and linear probes, e.g. of the country that a photograph was taken in.

Chance draws come from a hash of (seed, image key), so that the same images are drawn for every model.
n images, D embed_dim, C classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldclip.core.errors import UserError, require
from worldclip.evaluate.interval import seeds_interval
from worldclip.evaluate.tasks import Encode, Score, decoded

SHOTS = (5, 10, 25)  # arXiv:2507.22062, few-shot geo-localisation
NUM_SEEDS = 5
RIDGE = 1.0  # weight of the squared norm in few-shot probes, beside squared errors of +-1 targets
PENALTIES = tuple(10.0**power for power in range(-2, 5))  # C of the logistic regression, the best on held-out images


@dataclass(frozen=True, kw_only=True, slots=True)
class FewShot:
    """A ridge classifier on k images of each class, asked on all other images of these classes; k = 5, 10, 25.

    A class takes part at k where it has more than k images.
    """

    label: str
    """What is predicted: country, region, ..."""
    values: Sequence[str]
    """Of all images of the data set; "" where it is not known."""
    image_keys: Sequence[str]

    @property
    def name(self) -> str:
        return f"few_shot_{self.label}"

    def asked_texts(self) -> list[str]:
        return []

    @property
    def protocol(self) -> dict[str, Any]:
        return {
            "shots": list(SHOTS),
            "seeds": NUM_SEEDS,
            "probe": f"ridge {RIDGE:g}",
            "features": "unit length, centred",
        }

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        names, classes = np.unique(np.array(self.values, dtype=object), return_inverse=True)
        is_known = decoded(image_ND) & (np.array(self.values, dtype=object) != "")
        metrics, interval, chance, num_classes = {}, {}, {}, {}
        for shots in SHOTS:
            big = [c for c in range(len(names)) if (is_known & (classes == c)).sum() > shots]
            if len(big) < 2:
                continue
            rows = np.flatnonzero(is_known & np.isin(classes, big))
            hits = [self._hits(image_ND[rows], classes[rows], rows, shots, seed) for seed in range(NUM_SEEDS)]
            name = f"acc1_{shots}_shot"
            metrics[name] = float(np.mean([of_seed.mean() for of_seed in hits]))
            interval[name], chance[name] = seeds_interval(hits), 1 / len(big)
            num_classes[str(shots)] = len(big)
        if not metrics:
            check_enough(self.label, np.where(is_known, self.values, "").tolist(), "those that decode")
        return Score(
            n=int(is_known.sum()), metrics=metrics, chance=chance, interval=interval, more={"num_classes": num_classes}
        )

    def _hits(
        self, features_nD: np.ndarray, classes: np.ndarray, rows: np.ndarray, shots: int, seed: int
    ) -> np.ndarray:
        """Whether each image that was not learnt from is put into its class."""
        order = hashed_order([self.image_keys[row] for row in rows.tolist()], seed)
        is_shot = np.zeros(len(rows), bool)
        for c in np.unique(classes):
            is_shot[order[classes[order] == c][:shots]] = True
        predicted = ridge_predict(features_nD[is_shot], classes[is_shot], features_nD[~is_shot])
        return predicted == classes[~is_shot]


def check_enough(label: str, values: Sequence[str], where: str) -> None:
    """UserError where not even the fewest shots leave an image to ask of two values."""
    counts = Counter(value for value in values if value)
    if sum(times > SHOTS[0] for times in counts.values()) < 2:
        raise UserError(
            f"few-shot probes of {label}: fewer than two values have more than {SHOTS[0]} images in {where}; "
            "leave few_shot out of evaluate.also"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearProbe:
    """Logistic regression on frozen features; the penalty is chosen on a tenth of the learnt-from images.

    The images to learn from are those set apart for it, else half of all, drawn anew for each seed.
    """

    label: str
    values: Sequence[str]
    image_keys: Sequence[str]
    is_train: np.ndarray | None

    @property
    def name(self) -> str:
        return f"linear_probe_{self.label}"

    def asked_texts(self) -> list[str]:
        return []

    @property
    def protocol(self) -> dict[str, Any]:
        split = "half" if self.is_train is None else "given"
        return {"split": split, "seeds": NUM_SEEDS, "probe": "logistic", "penalties": list(PENALTIES)}

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        values = np.array(self.values, dtype=object)
        rows = np.flatnonzero(decoded(image_ND) & (values != ""))
        hits = [self._hits(image_ND, values, rows, seed) for seed in range(NUM_SEEDS)]
        name = "acc1"
        return Score(
            n=len(hits[0]),
            metrics={name: float(np.mean([of_seed.mean() for of_seed in hits]))},
            chance={name: 1 / len(set(values[rows]))},
            interval={name: seeds_interval(hits)},
            more={"num_classes": len(set(values[rows]))},
        )

    def _hits(self, image_ND: np.ndarray, values: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
        rows = rows[hashed_order([self.image_keys[row] for row in rows.tolist()], seed)]
        is_train = np.arange(len(rows)) < len(rows) // 2 if self.is_train is None else self.is_train[rows]
        train, test = rows[is_train], rows[~is_train]
        if len(set(values[train])) < 2 or not len(test):
            raise UserError(f"linear probe of {self.label}: there must be two values to learn from and images to ask")
        predicted = logistic_predict(image_ND[train], values[train].astype(str), image_ND[test])
        return predicted == values[test].astype(str)


def hashed_order(keys: Sequence[str], seed: int) -> np.ndarray:
    """Positions of `keys` in an order that depends on the seed and on each key, never on their order."""
    hashes = [hashlib.sha256(f"{seed} {key}".encode()).hexdigest() for key in keys]
    return np.array(sorted(range(len(keys)), key=lambda i: (hashes[i], keys[i])), np.int64)


def ridge_predict(train_nD: np.ndarray, classes: np.ndarray, test_mD: np.ndarray) -> np.ndarray:
    """(m,) classes by ridge regression to +-1 targets with an intercept, as scikit-learn's RidgeClassifier.

    Solved over images rather than dimensions, as there are few.
    """
    known, target = np.unique(classes, return_inverse=True)
    target_nC = np.where(target[:, None] == np.arange(len(known)), 1.0, -1.0)
    mean_D, mean_C = train_nD.mean(axis=0, dtype=np.float64), target_nC.mean(axis=0)
    centred_nD = train_nD - mean_D
    gram_nn = centred_nD @ centred_nD.T + RIDGE * np.eye(len(train_nD))
    weight_DC = centred_nD.T @ np.linalg.solve(gram_nn, target_nC - mean_C)
    return known[((test_mD - mean_D) @ weight_DC + mean_C).argmax(axis=1)]


def logistic_predict(train_nD: np.ndarray, classes: np.ndarray, test_mD: np.ndarray) -> np.ndarray:
    """(m,) classes by scikit-learn's logistic regression, its penalty chosen on the last tenth of `train_nD`."""
    linear_model = require("sklearn.linear_model", extra="eval")
    num_held_out = max(1, len(train_nD) // 10)
    fit, held_out = slice(0, len(train_nD) - num_held_out), slice(len(train_nD) - num_held_out, None)

    def model(penalty: float) -> Any:
        return linear_model.LogisticRegression(C=penalty, max_iter=1_000)

    best = PENALTIES[0]
    if len(np.unique(classes[fit])) > 1:
        found = [
            model(c).fit(train_nD[fit], classes[fit]).score(train_nD[held_out], classes[held_out]) for c in PENALTIES
        ]
        best = PENALTIES[int(np.argmax(found))]
    predicted: np.ndarray = model(best).fit(train_nD, classes).predict(test_mD)
    return predicted
