"""Classification where an image may show several classes (Pascal VOC): mean average precision over classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldclip.evaluate import zeroshot
from worldclip.evaluate.interval import statistic_interval
from worldclip.evaluate.tasks import Encode, Score, decoded


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiLabel:
    """Which classes are in the image; a class without an image counts 0, as in scikit-learn and CLIP_benchmark."""

    class_names: Sequence[Sequence[str]]
    is_there: np.ndarray
    """(n, C) bool."""
    image_idx: np.ndarray
    """(n,) position of each row's image among the dataset's images."""
    templates: Sequence[str] = ("{}",)
    protocol: dict[str, Any] = field(default_factory=dict)
    name: str = "multilabel_classification"

    def texts_to_encode(self) -> list[str]:
        return zeroshot.class_texts(self.class_names, self.templates)

    def score(self, image_ND: np.ndarray, encode: Encode) -> Score:
        class_CD = zeroshot.class_embeddings(self.class_names, self.templates, encode)
        is_good = decoded(image_ND)[self.image_idx]
        is_there = self.is_there[is_good]
        score_nC = image_ND[self.image_idx[is_good]] @ class_CD.T

        def mean_average_precision(times: np.ndarray | None = None) -> float:
            columns = zip(score_nC.T, is_there.T, strict=True)
            return float(np.mean([zeroshot.average_precision(scores, right, times) for scores, right in columns]))

        return Score(
            n=len(is_there),
            metrics={"mean_average_precision": mean_average_precision()},
            chance={"mean_average_precision": float(is_there.mean())},
            interval={"mean_average_precision": statistic_interval(mean_average_precision, len(is_there))},
            more={"num_classes": is_there.shape[1]},
        )
