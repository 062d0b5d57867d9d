"""What a checkpoint is measured on."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from worldclip.core.settings import Decides
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.suite_lists import SUITES

HELD_OUT = ("emoji_tone", "emoji_base")
LAYOUTS = (
    "webdataset", "folders", "pool", "captions", "lines", "karpathy", "babel_imagenet", "cvqa", "sugar_crepe",
    "winoground", "winogavil", "dollar_street", "geode", "landmarks",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Data sets to evaluate on and how."""

    datasets: tuple[str, ...] = ()
    """Data sets: `emoji_tone`, `emoji_base` (held out by the emoji pool), names of evaluate.folders or of the
    catalog (docs/datasets.md)."""
    suite: str = ""
    """All data sets of a suite: imagenet, slip26, datacomp38, multilingual, geography, selection, or paper (all)."""
    data: Annotated[str, Decides()] = ""
    """Folder below which the catalog's data sets lie, DATA/<name>; `worldclip fetch dataset` fills it."""
    allow_missing: Annotated[bool, Decides()] = False
    """Leave out data sets of the suite that are not below evaluate.data; the table says which."""
    folders: dict[str, str] = field(default_factory=dict)
    """Data sets in folders, `name = "layout:path"`; layouts are in docs/datasets.md."""
    class_names: Annotated[dict[str, str], Decides()] = field(default_factory=dict)
    """Names of classes and templates in other languages, data set = JSON file."""
    captions: Literal["all_captions", "first_caption"] = "all_captions"
    """Captions of an image that count in retrieval: all (the paper's) or the first (CLIP_benchmark's)."""
    prompts: Literal["none", "english", "nllb"] = "none"
    """Templates around the labels of Babel-ImageNet: none, OpenAI's 80 in English, or their translations."""
    also: tuple[Literal["alignment", "consistency", "few_shot", "linear_probe"], ...] = ()
    """Measures beside the data sets' own: alignment and uniformity, cross-lingual consistency, probes."""
    languages: tuple[str, ...] = ()
    """Languages to ask in; empty: the run's own as far as a data set has them, all where the recipe names none."""
    batch_size: Annotated[int, Decides()] = 256
    """Images or texts a forward pass."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Decides()] = "auto"
    """Where the model runs."""
    processes: Annotated[int, Decides()] = 1
    """Processes that share the images and the languages; on CUDA each takes the next device."""
    against: str = "ViT-H/14 worldwide 2.3x"
    """Published model to stand beside, of published.csv."""
    clip_benchmark: str = ""
    """Folder to write the records into as CLIP_benchmark's JSON files, for `clip_benchmark build`."""
    gallery_size: int = 12
    """Images of each data set shown in the report, half of them right where there are as many; none of data sets with
    more than 10,000 texts a language."""

    @property
    def asked(self) -> tuple[str, ...]:
        """The data sets named, and those of the suite that are to be measured, each once."""
        of_suite = SUITES.get(self.suite, ())
        if self.allow_missing:
            of_suite = tuple(name for name in of_suite if name in self.folders or self._is_there(name))
        return tuple(dict.fromkeys([*self.datasets, *of_suite]))

    def folder_of(self, name: str) -> Path:
        """Where a data set of the catalog lies."""
        return Path(self.data).expanduser() / name

    def _is_there(self, name: str) -> bool:
        return bool(self.data) and self.folder_of(name).is_dir()

    def problems(self) -> list[str]:
        found = [*self._problems_of_folders(), *self._problems_of_names()]
        if self.batch_size < 1:
            found.append(
                f"evaluate.batch_size is {self.batch_size}; it counts images a forward pass and must be at least 1"
            )
        if self.processes < 1:
            found.append(f"evaluate.processes is {self.processes}; it counts processes and must be at least 1")
        if self.gallery_size < 0:
            found.append(f"evaluate.gallery_size is {self.gallery_size}; it counts images and cannot be negative")
        return found

    def _problems_of_folders(self) -> list[str]:
        found = []
        for name, place in self.folders.items():
            layout, separator, path = place.partition(":")
            if layout not in LAYOUTS or not separator or not path:
                layouts = ", ".join(LAYOUTS)
                found.append(f'evaluate.folders.{name} is {place!r}; it must be "layout:path" with one of {layouts}')
            if name in HELD_OUT:
                found.append(f"evaluate.folders names {name}, which is held out by the emoji pool; choose another name")
        for name, path in self.class_names.items():
            if not Path(path).expanduser().is_file():
                found.append(f"evaluate.class_names.{name} is {path!r}, which is no file; it is a JSON of names")
        return found

    def _problems_of_names(self) -> list[str]:
        found = []
        known = [*HELD_OUT, *self.folders, *CATALOG]
        for name in self.datasets:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
                found.append(f"evaluate.datasets names {name!r}, which is no data set; {meant}")
        if self.suite and self.suite not in SUITES:
            found.append(f"evaluate.suite is {self.suite!r}; it is one of {', '.join(SUITES)}")
            return found
        below = [name for name in self.asked if name in CATALOG and name not in self.folders]
        if below and not self.data:
            found.append(
                f"evaluate.data is not set; {below[0]} is looked for below it (or name its place in evaluate.folders)"
            )
        elif missing := [name for name in below if not self._is_there(name)]:
            names = ", ".join(missing)
            found.append(
                f"evaluate.data is {self.data!r}, which lacks {names}; get them (worldclip fetch dataset NAME --out "
                f"{self.data}, or by hand as docs/datasets.md says), or set evaluate.allow_missing to leave out "
                "those of a suite"
            )
        return found
