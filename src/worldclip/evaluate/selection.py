"""Selection: which of a few texts belongs to the image, which of two to which, which images belong to a cue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldclip.evaluate.interval import mean_interval, statistic_interval
from worldclip.evaluate.ranking import ranks
from worldclip.evaluate.tasks import Encode, Score, decoded


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which of a few texts belongs to the image; micro average over questions, those of an image drawn together."""

    options: Sequence[Sequence[str]]
    """The texts of each question, all of the same number."""
    answer: np.ndarray
    """(n,) position of the right text among its question's options."""
    image_idx: np.ndarray
    """(n,) the image each question is about."""
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "choice"

    def asked_texts(self) -> list[str]:
        return [text for options in self.options for text in options]

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        num_options = len(self.options[0])
        is_good = decoded(image_ND)[self.image_idx]
        asked = np.flatnonzero(is_good).tolist()
        features = encode([text for idx in asked for text in self.options[idx]])
        option_NKD = features.reshape(len(asked), num_options, -1)
        is_right = np.zeros(len(asked), bool)
        for row, idx in enumerate(asked):
            image = image_ND[self.image_idx[idx]][None]
            is_right[row] = ranks(image, option_NKD[row], np.zeros(1, int), self.answer[idx : idx + 1])[0] == 0
        slices = {
            name: {"n": int(mask[is_good].sum()), "metrics": {"accuracy": float(is_right[mask[is_good]].mean())}}
            for name, mask in self.slices.items()
            if mask[is_good].any()
        }
        return Score(
            n=len(asked),
            metrics={"accuracy": float(is_right.mean())},
            chance={"accuracy": 1 / num_options},
            interval={"accuracy": mean_interval(is_right, self.image_idx[asked])},
            slices=slices,
            ranks={"accuracy": np.where(is_right, 0, 1)},
            images={"accuracy": self.image_idx[asked]},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """Two images and two texts of the same words: does each image prefer its text, and each text its image?

    Winoground's scores: `text_acc` (for both images the right text scores higher), `image_acc` (for both texts the
    right image does) and `acc` (both hold); equal scores are wrong.
    """

    texts: Sequence[tuple[str, str]]
    image_idx: np.ndarray
    """(n, 2) the images that the two texts belong to."""
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "matching"

    def asked_texts(self) -> list[str]:
        return [text for pair in self.texts for text in pair]

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_good = decoded(image_ND)[self.image_idx].all(axis=1)
        asked = np.flatnonzero(is_good)
        text_n2D = encode([text for row in asked.tolist() for text in self.texts[row]]).reshape(len(asked), 2, -1)
        score_nIT = image_ND[self.image_idx[asked]] @ text_n2D.transpose(0, 2, 1)  # I images, T texts
        own_n2 = np.diagonal(score_nIT, axis1=1, axis2=2)
        hits = {
            "text_acc": (own_n2 > score_nIT[:, [0, 1], [1, 0]]).all(axis=1),
            "image_acc": (own_n2 > score_nIT[:, [1, 0], [0, 1]]).all(axis=1),
        }
        hits["acc"] = hits["text_acc"] & hits["image_acc"]
        slices = {
            name: {
                "n": int(mask[asked].sum()),
                "metrics": {metric: float(hit[mask[asked]].mean()) for metric, hit in hits.items()},
            }
            for name, mask in self.slices.items()
            if mask[asked].any()
        }
        return Score(
            n=len(asked),
            metrics={metric: float(hit.mean()) for metric, hit in hits.items()},
            chance={"text_acc": 1 / 4, "image_acc": 1 / 4, "acc": 1 / 6},
            interval={metric: mean_interval(hit) for metric, hit in hits.items()},
            slices=slices,
            ranks={metric: np.where(hit, 0, 1) for metric, hit in hits.items()},
            images=dict.fromkeys(hits, self.image_idx[asked, 0]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Association:
    """Which images of a few belong to a cue, their number given (WinoGAViL); the Jaccard index of chosen and right.

    Of equal scores those that are wrong are taken first.
    """

    cues: Sequence[str]
    candidates: Sequence[np.ndarray]
    """The images of each cue."""
    is_right: Sequence[np.ndarray]
    """Which of them belong to it, bool."""
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "association"

    def asked_texts(self) -> Sequence[str]:
        return self.cues

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_good = decoded(image_ND)
        asked = [row for row in range(len(self.cues)) if is_good[self.candidates[row]].all()]
        cue_nD = encode([self.cues[row] for row in asked])
        jaccard = np.array([self._jaccard(row, image_ND, cue) for row, cue in zip(asked, cue_nD, strict=True)])
        num_candidates = np.array([len(self.candidates[row]) for row in asked])
        slices = {}
        for name, mask in (("5-6", num_candidates <= 6), ("10-12", num_candidates >= 10)):
            if mask.any():
                slices[f"candidates {name}"] = {
                    "n": int(mask.sum()),
                    "metrics": {"jaccard": float(jaccard[mask].mean())},
                }
        return Score(
            n=len(asked),
            metrics={"jaccard": float(jaccard.mean())},
            chance={},
            interval={
                "jaccard": statistic_interval(lambda times: float(np.average(jaccard, weights=times)), len(asked))
            },
            slices=slices,
        )

    def _jaccard(self, row: int, image_ND: np.ndarray, cue_D: np.ndarray) -> float:
        is_right = self.is_right[row]
        scores = image_ND[self.candidates[row]] @ cue_D
        chosen = np.lexsort((is_right, -scores))[: is_right.sum()]
        num_hits = int(is_right[chosen].sum())
        return num_hits / (2 * int(is_right.sum()) - num_hits)
