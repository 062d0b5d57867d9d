"""What a checkpoint is measured on."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

DATASETS = ("emoji_tone", "emoji_base")
LAYOUTS = ("webdataset", "captions", "babel_imagenet", "cvqa")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Data sets to evaluate on and how."""

    datasets: tuple[str, ...] = ()
    """Data sets: `emoji_tone`, `emoji_base` (held out by the emoji pool), or names of evaluate.folders."""
    folders: dict[str, str] = field(default_factory=dict)
    """Data sets in folders, `name = "layout:path"`; layout: webdataset, captions, babel_imagenet or cvqa."""
    captions: Literal["all_captions", "first_caption"] = "all_captions"
    """Captions of an image that count in layout captions: all (the paper's) or the first (CLIP_benchmark's)."""
    prompts: Literal["none", "english", "nllb"] = "none"
    """Templates around the labels of Babel-ImageNet: none, OpenAI's 80 in English, or their translations."""
    languages: tuple[str, ...] = ()
    """Languages to ask in; empty: the run's own as far as a data set has them, all where the recipe names none."""
    batch_size: int = 256
    """Images or texts a forward pass."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs."""
    gallery_size: int = 12
    """Held-out images of each data set shown in the report, half of them right where there are as many."""

    def problems(self) -> list[str]:
        found = []
        for name, place in self.folders.items():
            layout, separator, path = place.partition(":")
            if layout not in LAYOUTS or not separator or not path:
                layouts = ", ".join(LAYOUTS)
                found.append(f'evaluate.folders.{name} is {place!r}; it must be "layout:path" with one of {layouts}')
            if name in DATASETS:
                found.append(f"evaluate.folders names {name}, which is held out by the emoji pool; choose another name")
        known = [*DATASETS, *self.folders]
        for name in self.datasets:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
                found.append(f"evaluate.datasets names {name!r}, which is no data set; {meant}")
        if self.batch_size < 1:
            found.append(
                f"evaluate.batch_size is {self.batch_size}; it counts images a forward pass and must be at least 1"
            )
        if self.gallery_size < 0:
            found.append(f"evaluate.gallery_size is {self.gallery_size}; it counts images and cannot be negative")
        return found
