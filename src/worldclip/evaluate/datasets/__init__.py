"""Data sets by name: each a small module with `load(...) -> Dataset`."""

from __future__ import annotations

from pathlib import Path

from worldclip.evaluate.datasets import emoji
from worldclip.evaluate.tasks import Dataset


def load(name: str, run_dir: Path) -> Dataset:
    """The data set `name` of evaluate.config.DATASETS."""
    return emoji.load(name.removeprefix("emoji_"), run_dir)
