"""The TOML files of recipes: read whole, with the nearest known name of an unknown section."""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from worldclip.core import job_files
from worldclip.core.errors import UserError
from worldclip.core.regular_file import NotRegular, read_regular

Table = dict[str, Any]  # a TOML table
SECTIONS = ("pool", "languages", "metadata", "match", "balance", "curate", "train", "evaluate", "export")
"""The sections of a recipe's file; worldclip.config.Recipe has a field for each."""


def read_toml(path: Path) -> Table:
    """Read the tables of a TOML file, or of a run's recipe.toml.  Raises UserError where there is none."""
    file = job_files.recipe(path) if path.is_dir() else path
    if path.is_dir() and file.exists() and not job_files.is_run(path):
        raise UserError(f"{path} is an exported model, not a run; give {file}, or the run that it is from")
    if not file.exists():
        if path.is_dir():
            remedy = f"for a folder of pairs: worldclip init {path}"
            raise UserError(f"{path} holds no recipe.toml; give a recipe (.toml) or the folder of a run; {remedy}")
        raise UserError(f"{path} does not exist; give a recipe (.toml) or the folder of a run")
    try:
        return tomllib.loads(read_regular(file).decode("utf-8-sig"))  # editors on Windows begin files with a mark
    except NotRegular as error:
        raise UserError(f"{file} {error.strerror}; give a recipe (.toml) or the folder of a run") from error
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8" if path.suffix == ".toml" else f"for a file of pairs: worldclip init {path}"
        raise UserError(f"{file} is not valid TOML: {error}; {remedy}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # the latter: nested too deeply
        raise UserError(f"{file} is not valid TOML: {error}") from error


def read_sections(path: Path, elsewhere: Mapping[str, str] = types.MappingProxyType({})) -> Table:
    """Read the sections of a recipe, a TOML file or a run's recipe.toml.

    Their keys are checked when a section is used.  elsewhere: names that belong to another file, and why.  Raises
    UserError where there is no file, and for all other sections.
    """
    tables = read_toml(path)
    known = (*SECTIONS, *elsewhere)
    problems = [
        f"{path}: {name} {elsewhere[name]}"
        if name in elsewhere
        else f"{path}: unknown section {name}; {suggest(name, known if nearest(name, known) else SECTIONS)}"
        for name in tables
        if name not in SECTIONS
    ]
    if problems:
        raise UserError(problems)
    return tables


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the nearest of the known names, none where no one is near."""
    return difflib.get_close_matches(name, list(known), n=1)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the remedy for an unknown name: the nearest known one, or all of them."""
    near = nearest(name, known)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
