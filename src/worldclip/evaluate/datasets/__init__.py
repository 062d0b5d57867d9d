"""Datasets by name.  Each module of this package is one layout of a folder.

A layout is a module whose docstring shows the folder and whose function `load` reads it:

    def load(name: str, folder: Path) -> Dataset

Further parameters of this function get the value of the option of the same name in `load` below, such as `languages`.
What it cannot read raises any ordinary error; `load` below says which folder and layout it concerns.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import pyarrow as pa

from worldclip.contracts.layout import stage_dir
from worldclip.core.artifacts import digest
from worldclip.core.errors import BadShard, MissingPackage, UserError
from worldclip.core.registry import check_name
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import LAYOUTS, EvaluateConfig
from worldclip.evaluate.measures import with_measures
from worldclip.evaluate.slip import with_slip_names
from worldclip.evaluate.tasks import Dataset, with_ties
from worldclip.language.table import INSTALLED, Languages
from worldclip.pool.builders import read_held_out

# The errors of a folder that is laid out in another way: files, fields, texts or numbers that are not there.
NOT_IN_LAYOUT = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
    RecursionError,
    csv.Error,
    pa.ArrowException,
)


def layout_module(name: str) -> Any:
    """Import a layout.  Raises UserError for an unknown one."""
    check_name("dataset layout", name, LAYOUTS)
    return importlib.import_module(f"{__name__}.{name}")


def load(name: str, config: EvaluateConfig, run_dir: Path, languages: Languages = INSTALLED) -> Dataset:
    """Return dataset `name` with the additional measures and the ties of `config`.

    name: a held-out set of the pool that the run drew, a key of evaluate.folders, or a dataset of the catalog below
    evaluate.data.  languages: those of the recipe, which say what a dataset's codes mean.  Raises UserError if its
    folder is missing or not laid out as it must be.
    """
    layout_name, folder = _locate(name, config, run_dir)
    layout = layout_module(layout_name)
    options = {
        "languages": languages,
        "prompts": config.prompts,
        "ties": config.tie_rule,
        "run_dir": run_dir,
        "with_train": "linear_probe" in config.also,
    }
    parameters = inspect.signature(layout.load).parameters
    options = {option: value for option, value in options.items() if option in parameters}
    try:
        dataset = layout.load(name, folder, **options)
    except (UserError, BadShard, MissingPackage, MemoryError):
        raise
    except NOT_IN_LAYOUT as error:
        raise UserError(
            f"dataset {name}: {folder} is not in the layout {layout_name} ({type(error).__name__}: {error}); "
            f"it must be\n{inspect.getdoc(layout)}"
        ) from error
    if languages.added and "languages" in parameters:  # they may take labels and codes of others
        added = list(map(dataclasses.asdict, languages.added))
        dataset = dataclasses.replace(dataset, digest=digest([dataset.digest, added]))
    if config.also:
        dataset = with_measures(dataset, config.also)
    if config.is_paper:
        dataset = with_slip_names(dataset)
    return with_ties(dataset, config.tie_rule)


def _locate(name: str, config: EvaluateConfig, run_dir: Path) -> tuple[str, Path]:
    if name in config.folders:
        layout_name, _, path = config.folders[name].partition(":")
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(f"evaluate.folders.{name} is {config.folders[name]!r}: {folder} is not a folder")
        return layout_name, folder
    if name in CATALOG:
        return CATALOG[name].layout, config.folder_of(name)
    held_out = read_held_out(run_dir)
    if name not in held_out:
        names = ", ".join(held_out) or "no held-out sets"
        raise UserError(
            f"evaluate.datasets names {name}, a held-out set of a pool that worldclip draws, and the pool in "
            f"{stage_dir(run_dir, 'pool')} has {names}; set pool.build (and pool.parts, for its part), or leave it out"
        )
    layout_name, _, path = held_out[name].location.partition(":")
    return layout_name, Path(path)
