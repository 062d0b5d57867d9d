"""The options of evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from worldclip.core.registry import name_problem
from worldclip.core.settings import AtLeast, Config, Decides, Place, Problems
from worldclip.core.suggest import nearest
from worldclip.evaluate.catalog import CATALOG, SUITES, read_csv
from worldclip.pool.config import held_out_names

NO_DATASET = "no dataset to evaluate; set evaluate.datasets, or a suite that has data"
LAYOUTS = (
    "babel_imagenet",
    "captions",
    "cvqa",
    "dollar_street",
    "folders",
    "geode",
    "landmarks",
    "lines",
    "names",
    "pool",
    "webdataset",
    "winogavil",
)
"""Modules of evaluate/datasets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Config):
    """Datasets to evaluate on, and how.

    Examples:
        worldclip evaluate runs/my_images --datasets mine --folders.mine folders:photos
        worldclip evaluate runs/my_images --out results --suite multilingual --data ~/data
    """

    datasets: tuple[str, ...] = ()
    """Datasets: `emoji_tone`, `emoji_base` (held out by the emoji pool), `world_tone`, `world_base`, `world_flags`,
    `world_flags_held`, `world_stamps`, `world_photos` (by the world pool), names in evaluate.folders or in the catalog
    (`worldclip fetch dataset NAME --show`)."""
    suite: str = ""
    """Add all datasets of a suite: imagenet, slip26, datacomp38, multilingual, geography, or paper (all)."""
    data: Annotated[str, Decides(), Place()] = ""
    """Folder of the catalog's datasets, DATA/<name>; `worldclip fetch dataset` writes them."""
    allow_missing: Annotated[bool, Decides()] = False
    """Skip datasets of the suite that are not in evaluate.data; the table names them."""
    folders: Annotated[dict[str, str], Place(prefix_until=":")] = field(default_factory=dict)
    """Datasets in folders, `name = "layout:path"`; docs/6_evaluate.md has the layouts."""
    prompts: Literal["none", "english", "nllb"] = "none"
    """Templates around the labels of Babel-ImageNet: none, OpenAI's 80 in English, or their translations."""
    protocol: Literal["auto", "own", "paper"] = "auto"
    """Our own protocol, or the paper's (arXiv:2507.22062): of equal scores the first candidate wins, the reference's
    preprocessing, and SLIP's class names for SLIP-26's datasets too; auto: paper for suite paper."""
    also: tuple[Literal["alignment", "few_shot", "linear_probe"], ...] = ()
    """Additional measures: alignment and uniformity, few-shot and linear probes."""
    languages: tuple[str, ...] = ()
    """Languages to evaluate in (default: the run's own languages that a dataset has; all, if the recipe names none)."""
    batch_size: Annotated[int, AtLeast(1, "images per forward pass"), Decides()] = 256
    """Images or texts per forward pass."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Decides()] = "auto"
    """Device of the model; auto: cuda if available, else mps, else cpu."""
    against: str = "ViT-H/14 worldwide 2.3x"
    """Published model, from published.csv, to compare with."""

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """Return the datasets to evaluate on: those named, then those of the suite."""
        suite = SUITES.get(self.suite, ())
        if self.allow_missing:
            suite = tuple(name for name in suite if name in self.folders or self._exists(name))
        return tuple(dict.fromkeys([*self.datasets, *suite]))

    @property
    def is_paper(self) -> bool:
        """Return whether the paper's protocol holds."""
        return self.protocol == "paper" or (self.protocol == "auto" and self.suite == "paper")

    @property
    def tie_rule(self) -> Literal["against", "first"]:
        """Return who wins among equal scores: a wrong candidate (against), or the first."""
        return "first" if self.is_paper else "against"

    @property
    def preprocess_rule(self) -> Literal["source", "reference"]:
        """Return the preprocessing: as the model's folder states (source), or the paper's."""
        return "reference" if self.is_paper else "source"

    def folder_of(self, name: str) -> Path:
        """Return the folder of a dataset of the catalog."""
        return Path(self.data).expanduser() / name

    def _exists(self, name: str) -> bool:
        return bool(self.data) and os.path.isdir(self.folder_of(name))

    def own_problems(self) -> Problems:
        """Yield unknown layouts, datasets and suites, and missing files."""
        held_out = held_out_names()
        for name, location in self.folders.items():
            layout, _, path = location.partition(":")
            problem = name_problem("dataset layout", layout, LAYOUTS)
            if not path:
                yield f"folders.{name}", f'must be "layout:path", with a layout of {", ".join(LAYOUTS)}'
            elif problem:
                yield f"folders.{name}", problem
            if name in held_out:
                yield f"folders.{name}", f"is a held-out set of the {held_out[name]} pool; choose another name"
        available = [*held_out, *self.folders, *CATALOG]
        for name in self.datasets:
            if name not in available:
                near = nearest(name, available)
                hint = f'did you mean "{near[0]}"?' if near else f"known datasets: {', '.join(available)}"
                yield "datasets", f'unknown dataset "{name}"; {hint}'
        models = dict.fromkeys(row["model"] for row in read_csv("published.csv"))
        if self.suite == "paper" and self.against not in models:
            yield "against", f"unknown model; known models: {'; '.join(models)}"
        if self.suite and self.suite not in SUITES:
            yield "suite", f"must be one of {', '.join(SUITES)}"
            return
        in_catalog = [name for name in self.dataset_names if name in CATALOG and name not in self.folders]
        missing = [name for name in in_catalog if not self._exists(name)]
        if in_catalog and not self.data:
            yield "data", f"must be the folder of {in_catalog[0]}; or set evaluate.folders.{in_catalog[0]}"
        elif missing:
            yield (
                "data",
                f"lacks {', '.join(missing)}; fetch them (worldclip fetch dataset NAME --out {self.data}, or by hand "
                "as the same command says with --show), or set evaluate.allow_missing to skip those of a suite",
            )
