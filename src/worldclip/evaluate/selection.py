"""Selection: which of a few texts belongs to the image, which of two to which, which images belong to a cue.

Scores are computed by einsum rather than by a BLAS, so that equal texts and equal images score equal bits.

N images of the dataset, n questions, K options, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from worldclip.evaluate.interval import mean_interval, weighted_mean_interval
from worldclip.evaluate.ranking import Ties, rank_scores
from worldclip.evaluate.tasks import Encode, Record, Score, decoded, score_slices


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
    protocol: Record = field(default_factory=dict)
    ties: Ties = "against"
    name: str = "choice"

    def texts_to_encode(self) -> list[str]:
        return [text for options in self.options for text in options]

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        num_options = len(self.options[0])
        is_good = decoded(image_ND)[self.image_idx]
        questions = np.flatnonzero(is_good)
        features = encode([text for idx in questions.tolist() for text in self.options[idx]])
        option_nKD = features.reshape(len(questions), num_options, -1)
        score_nK = np.einsum("nd,nkd->nk", image_ND[self.image_idx[questions]], option_nKD)
        is_right = rank_scores(score_nK, np.arange(len(questions)), self.answer[questions], self.ties) == 0
        return Score(
            n=len(questions),
            metrics={"accuracy": float(is_right.mean())},
            chance={"accuracy": 1 / num_options},
            interval={"accuracy": mean_interval(is_right, self.image_idx[questions])},
            slices=score_slices(self.slices, is_good, lambda part: {"accuracy": float(is_right[part].mean())}),
            ranks={"accuracy": np.where(is_right, 0, 1)},
            images={"accuracy": self.image_idx[questions]},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageChoice:
    """Which of K images belongs to the text.  Texts with one right image are drawn together."""

    texts: Sequence[str]
    candidates: np.ndarray
    """(n, K) the images to choose from."""
    answer: np.ndarray
    """(n,) position of the right image among them."""
    protocol: Record = field(default_factory=dict)
    ties: Ties = "against"
    name: str = "image_choice"

    def texts_to_encode(self) -> Sequence[str]:
        return self.texts

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        rows = np.flatnonzero(decoded(image_ND)[self.candidates].all(axis=1))
        text_nD = encode([self.texts[row] for row in rows.tolist()])
        candidates = self.candidates[rows]
        score_nK = np.einsum("nd,nkd->nk", text_nD, image_ND[candidates])
        right = candidates[np.arange(len(rows)), self.answer[rows]]
        is_right = rank_scores(score_nK, np.arange(len(rows)), self.answer[rows], self.ties) == 0
        return Score(
            n=len(rows),
            metrics={"accuracy": float(is_right.mean())},
            chance={"accuracy": 1 / self.candidates.shape[1]},
            interval={"accuracy": mean_interval(is_right, right)},
            ranks={"accuracy": np.where(is_right, 0, 1)},
            images={"accuracy": right},
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
    protocol: Record = field(default_factory=dict)
    name: str = "matching"

    def texts_to_encode(self) -> list[str]:
        return [text for pair in self.texts for text in pair]

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_good = decoded(image_ND)[self.image_idx].all(axis=1)
        examples = np.flatnonzero(is_good)
        features = encode([text for row in examples.tolist() for text in self.texts[row]])
        text_n2D = features.reshape(len(examples), 2, -1)
        image_n2D = image_ND[self.image_idx[examples]]
        score_nIT = np.einsum("nid,ntd->nit", image_n2D, text_n2D)  # I images, T texts
        own_n2 = np.diagonal(score_nIT, axis1=1, axis2=2)
        hits = {
            "text_acc": (own_n2 > score_nIT[:, [0, 1], [1, 0]]).all(axis=1),
            "image_acc": (own_n2 > score_nIT[:, [1, 0], [0, 1]]).all(axis=1),
        }
        hits["acc"] = hits["text_acc"] & hits["image_acc"]

        def metrics(part: np.ndarray) -> dict[str, float]:
            return {metric: float(hit[part].mean()) for metric, hit in hits.items()}

        return Score(
            n=len(examples),
            metrics=metrics(np.ones(len(examples), bool)),
            chance={"text_acc": 1 / 4, "image_acc": 1 / 4, "acc": 1 / 6},
            interval={metric: mean_interval(hit) for metric, hit in hits.items()},
            slices=score_slices(self.slices, is_good, metrics),
            ranks={metric: np.where(hit, 0, 1) for metric, hit in hits.items()},
            images=dict.fromkeys(hits, self.image_idx[examples, 0]),
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
    protocol: Record = field(default_factory=dict)
    ties: Ties = "against"
    name: str = "association"

    def texts_to_encode(self) -> Sequence[str]:
        return self.cues

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        is_decoded = decoded(image_ND)
        is_good = np.array([is_decoded[candidates].all() for candidates in self.candidates])
        rows = np.flatnonzero(is_good).tolist()
        cue_nD = encode([self.cues[row] for row in rows])
        jaccard = np.array([self._jaccard(row, image_ND, cue_D) for row, cue_D in zip(rows, cue_nD, strict=True)])
        num_candidates = np.array([len(candidates) for candidates in self.candidates])
        slices = {"candidates 5-6": num_candidates <= 6, "candidates 10-12": num_candidates >= 10}
        return Score(
            n=len(rows),
            metrics={"jaccard": float(jaccard.mean())},
            chance={},
            interval={"jaccard": weighted_mean_interval(jaccard)},
            slices=score_slices(slices, is_good, lambda part: {"jaccard": float(jaccard[part].mean())}),
        )

    def _jaccard(self, row: int, image_ND: np.ndarray, cue_D: np.ndarray) -> float:
        is_right = self.is_right[row]
        scores = np.einsum("cd,d->c", image_ND[self.candidates[row]], cue_D)
        num_right = int(is_right.sum())
        place = is_right if self.ties == "against" else np.arange(len(scores))  # of equal scores: wrong before right
        best_first = np.lexsort((place, -scores))
        num_hits = int(is_right[best_first[:num_right]].sum())
        return num_hits / (2 * num_right - num_hits)
