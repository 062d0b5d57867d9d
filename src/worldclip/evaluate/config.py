"""What a checkpoint is measured on."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

DATASETS = ("emoji_tone", "emoji_base")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Data sets to evaluate on and how."""

    datasets: tuple[str, ...] = ()
    """Data sets: `emoji_tone`, `emoji_base` (held out by the emoji pool)."""
    languages: tuple[str, ...] = ()
    """Languages to ask in; empty: all that a data set has."""
    batch_size: int = 256
    """Images or texts a forward pass."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs."""
    gallery_size: int = 12
    """Held-out images of each data set shown in the report, half of them right where there are as many."""

    def problems(self) -> list[str]:
        found = []
        for name in self.datasets:
            if name not in DATASETS:
                near = difflib.get_close_matches(name, DATASETS, n=1)
                meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(DATASETS)}"
                found.append(f"evaluate.datasets names {name!r}, which is no data set; {meant}")
        if self.batch_size < 1:
            found.append(
                f"evaluate.batch_size is {self.batch_size}; it counts images a forward pass and must be at least 1"
            )
        if self.gallery_size < 0:
            found.append(f"evaluate.gallery_size is {self.gallery_size}; it counts images and cannot be negative")
        return found
