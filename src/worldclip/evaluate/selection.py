"""Selection: which of a few texts belongs to the image, and which images belong to a cue.

Scores are computed by einsum rather than by a BLAS, so that equal texts and equal images score equal bits.

N images of the dataset, n questions, K options, D embed_dim.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.evaluate.interval import mean_interval
from worldclip.evaluate.ranking import Ties, rank_scores
from worldclip.evaluate.tasks import Encode, Score, decoded, rows_left, score_slices


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which of a few texts belongs to the image: micro average over questions, those of one image drawn together."""

    options: Sequence[Sequence[str]]
    """The texts of each question, K for all of them."""
    answer: np.ndarray
    """(n,) position of the right text among its question's options."""
    image_idx: np.ndarray
    """(n,) the image of each question."""
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    protocol: Json = field(default_factory=dict)
    ties: Ties = "against"
    name: str = "choice"

    def texts_to_encode(self) -> list[str]:
        return list(itertools.chain.from_iterable(self.options))

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_good = decoded(image_ND)[self.image_idx]
        questions = rows_left(is_good)
        texts: list[str] = []
        for row in questions.tolist():
            texts += self.options[row]
        features = encode(texts)
        image_idx = self.image_idx[questions]
        option_nKD = features.reshape(len(questions), len(self.options[0]), -1)
        score_nK = np.einsum("nd,nkd->nk", image_ND[image_idx], option_nKD)
        is_right = rank_scores(score_nK, np.arange(len(questions)), self.answer[questions], self.ties) == 0
        slices = score_slices(self.slices, is_good, lambda part: {"accuracy": float(is_right[part].mean())})
        return Score(
            n=len(is_right),
            metrics={"accuracy": float(is_right.mean())},
            chance={"accuracy": 1 / len(self.options[0])},
            interval={"accuracy": mean_interval(is_right, image_idx)},
            slices=slices,
            ranks={"accuracy": np.where(is_right, 0, 1)},
            images={"accuracy": image_idx},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Association:
    """Which images of a few belong to a cue, given how many do (WinoGAViL): Jaccard index of chosen and right images.

    Ties `against`: among equal scores the wrong images are chosen first.
    """

    cues: Sequence[str]
    candidates: Sequence[np.ndarray]
    """The images of each cue."""
    is_right: Sequence[np.ndarray]
    """Which of them belong to it, bool."""
    protocol: Json = field(default_factory=dict)
    ties: Ties = "against"
    name: str = "association"

    def texts_to_encode(self) -> Sequence[str]:
        return self.cues

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_decoded = decoded(image_ND)
        is_good = np.array([is_decoded[candidates].all() for candidates in self.candidates])
        rows = rows_left(is_good).tolist()
        cue_nD = encode([self.cues[row] for row in rows])
        jaccard = np.empty(len(rows))
        for i, row in enumerate(rows):
            is_right = self.is_right[row]
            scores = np.einsum("cd,d->c", image_ND[self.candidates[row]], cue_nD[i])
            num_right = int(is_right.sum())
            place = np.arange(len(scores))
            if self.ties == "against":
                place = is_right  # a wrong image comes before a right one of the same score
            best_first = np.lexsort((place, -scores))
            num_hits = int(is_right[best_first[:num_right]].sum())
            jaccard[i] = num_hits / (2 * num_right - num_hits)
        num_candidates = np.array(list(map(len, self.candidates)))
        slices = {"candidates 5-6": num_candidates <= 6, "candidates 10-12": num_candidates >= 10}
        return Score(
            n=len(rows),
            metrics={"jaccard": float(jaccard.mean())},
            chance={},
            slices=score_slices(slices, is_good, lambda part: {"jaccard": float(jaccard[part].mean())}),
        )
