"""Datasets by name.  Each module of this package is one layout of a folder, an item of `worldclip.dataset_layouts`.

A layout is a module whose docstring shows the folder and whose function `load` reads it (docs/plugins.md):

    def load(name: str, folder: Path) -> Dataset

Further parameters of this function get the value of the option of the same name in `load` below.  It raises UserError
for a folder that is laid out otherwise.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from worldclip.core.errors import UserError
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import HELD_OUT, LAYOUTS, EvaluateConfig
from worldclip.evaluate.datasets.drawn import emoji, world
from worldclip.evaluate.measures import with_measures
from worldclip.evaluate.slip import with_slip_names
from worldclip.evaluate.tasks import Dataset, with_ties


def load(name: str, config: EvaluateConfig, run_dir: Path) -> Dataset:
    """Return dataset `name` with the additional measures and the ties of `config`.

    name: a held-out set of the pool that the run drew, a key of evaluate.folders, or a dataset of the catalog below
    evaluate.data.  Raises UserError if its folder is missing or not laid out as it must be.
    """
    if name in HELD_OUT:
        is_world = HELD_OUT[name] == "world"
        dataset = world.load(name, run_dir) if is_world else emoji.load(name.removeprefix("emoji_"), run_dir)
        return with_ties(with_measures(dataset, config.also), config.tie_rule)
    if name in config.folders:
        layout_name, _, path = config.folders[name].partition(":")
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"evaluate.folders.{name} is {config.folders[name]!r}: {folder} is not a folder")
    else:
        layout_name, folder = CATALOG[name].layout, config.folder_of(name)
    read = LAYOUTS.load(layout_name).load
    options = {
        "captions": config.captions,
        "names_path": Path(config.class_names[name]).expanduser() if name in config.class_names else None,
        "prompts": config.prompts,
        "ties": config.tie_rule,
        "with_train": "linear_probe" in config.also,
    }
    parameters = inspect.signature(read).parameters
    if options["names_path"] is not None and "names_path" not in parameters:
        raise UserError(f"evaluate.class_names.{name}: layout {layout_name} takes no class names; remove this entry")
    dataset = read(name, folder, **{option: options[option] for option in options if option in parameters})
    dataset = with_measures(dataset, config.also)
    if config.uses_slip_names:
        dataset = with_slip_names(dataset)
    return with_ties(dataset, config.tie_rule)
