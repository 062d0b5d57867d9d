"""Data sets by name: each layout is a small module with `load(name, folder, ...) -> Dataset`."""

from __future__ import annotations

from pathlib import Path

from worldclip.core.errors import UserError
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import HELD_OUT, EvaluateConfig
from worldclip.evaluate.datasets import (
    babel_imagenet,
    captions,
    cvqa,
    dollar_street,
    emoji,
    folders,
    geode,
    karpathy,
    landmarks,
    lines,
    pool,
    sugar_crepe,
    webdataset,
    winogavil,
    winoground,
)
from worldclip.evaluate.measures import with_measures
from worldclip.evaluate.tasks import Dataset

PLAIN = {
    "lines": lines, "cvqa": cvqa, "sugar_crepe": sugar_crepe, "winoground": winoground, "winogavil": winogavil,
}  # fmt: skip
NAMED = {  # classes may have names in more languages
    "folders": folders, "dollar_street": dollar_street, "geode": geode, "landmarks": landmarks,
}  # fmt: skip
CAPTIONED = {"captions": captions, "karpathy": karpathy, "pool": pool}  # several captions an image


def load(name: str, config: EvaluateConfig, run_dir: Path) -> Dataset:
    """The data set `name` with the measures that `config` asks for.

    A part of the run's pool, one of evaluate.folders in its layout, or one of the catalog below evaluate.data.
    """
    return with_measures(_load(name, config, run_dir), config.also)


def _load(name: str, config: EvaluateConfig, run_dir: Path) -> Dataset:
    if name in HELD_OUT:
        return emoji.load(name.removeprefix("emoji_"), run_dir)
    layout, folder = _place(name, config)
    names_path = Path(config.class_names[name]).expanduser() if name in config.class_names else None
    if names_path is not None and layout not in ("webdataset", *NAMED):
        raise UserError(f"evaluate.class_names.{name} is given, but layout {layout} takes no names; leave it out")
    if layout == "webdataset":
        with_train = "linear_probe" in config.also
        return webdataset.load(name, folder, names_path=names_path, captions=config.captions, with_train=with_train)
    if layout == "babel_imagenet":
        return babel_imagenet.load(name, folder, config.prompts)
    if layout in NAMED:
        return NAMED[layout].load(name, folder, names_path=names_path)
    if layout in CAPTIONED:
        return CAPTIONED[layout].load(name, folder, config.captions)
    return PLAIN[layout].load(name, folder)


def _place(name: str, config: EvaluateConfig) -> tuple[str, Path]:
    """(layout, folder); UserError where the folder is not there."""
    if name in config.folders:
        layout, _, path = config.folders[name].partition(":")
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"evaluate.folders.{name} is {config.folders[name]!r}; {folder} is not a folder")
        return layout, folder
    return CATALOG[name].layout, config.folder_of(name)
