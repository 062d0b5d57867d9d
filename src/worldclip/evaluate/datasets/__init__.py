"""Data sets by name: each a small module with `load(...) -> Dataset`."""

from __future__ import annotations

from pathlib import Path

from worldclip.errors import UserError
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import babel_imagenet, captions, cvqa, emoji, webdataset
from worldclip.evaluate.tasks import Dataset


def load(name: str, config: EvaluateConfig, run_dir: Path) -> Dataset:
    """The data set `name`: a part of the run's pool, or one of evaluate.folders in its layout."""
    if name not in config.folders:
        return emoji.load(name.removeprefix("emoji_"), run_dir)
    layout, _, path = config.folders[name].partition(":")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"evaluate.folders.{name} is {config.folders[name]!r}; {folder} is not a folder")
    if layout == "captions":
        return captions.load(name, folder, config.captions)
    if layout == "babel_imagenet":
        return babel_imagenet.load(name, folder, config.prompts)
    return {"webdataset": webdataset.load, "cvqa": cvqa.load}[layout](name, folder)
