"""Registry of dataset layouts: each module of evaluate/datasets is one, and is called like it.

To add a layout, write evaluate/datasets/NAME.py with a docstring that shows its folder and one registered function:

    @layout("NAME")
    def load(name: str, folder: Path) -> Dataset: ...

A further parameter of this function that is called like one of OPTIONS gets that option's value.
This module imports nothing but the standard library, so that the configuration can list the layouts.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worldclip.evaluate.tasks import Dataset

OPTIONS = ("captions", "names_path", "prompts", "ties", "with_train")  # see datasets.load

NAMES = tuple(
    module.name
    for module in pkgutil.iter_modules([str(Path(__file__).with_name("datasets"))])
    if not module.ispkg  # common: what layouts share; drawn: of drawn pools
)
"""Every layout, in alphabetical order."""


class Layout(NamedTuple):
    """A loader, (name, folder, **options) -> Dataset, which raises UserError for a folder of another layout."""

    load: Callable[..., Dataset]
    options: tuple[str, ...]
    """The names of OPTIONS that `load` takes."""


_registered: dict[str, Layout] = {}


def layout(name: str) -> Callable[[Callable[..., Dataset]], Callable[..., Dataset]]:
    """Register the decorated function as the loader of layout `name`."""

    def register(load: Callable[..., Dataset]) -> Callable[..., Dataset]:
        parameters = inspect.signature(load).parameters
        _registered[name] = Layout(load, tuple(option for option in OPTIONS if option in parameters))
        return load

    return register


def find_layout(name: str) -> Layout:
    """Return the layout `name`, one of NAMES."""
    importlib.import_module(f"worldclip.evaluate.datasets.{name}")
    return _registered[name]
