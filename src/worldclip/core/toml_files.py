"""The TOML files of recipes: read whole, with the nearest known name of an unknown section, and written."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldclip.core import job_files
from worldclip.core.errors import UserError
from worldclip.core.local_path import nearest_path
from worldclip.core.regular_file import NotRegular, read_regular
from worldclip.core.safe_path import is_safe_name
from worldclip.core.suggest import suggest

Table = dict[str, Any]  # a TOML table
SECTIONS = ("pool", "languages", "metadata", "match", "balance", "curate", "train", "evaluate", "export")
"""The sections of a recipe's file; worldclip.config.Recipe has a field for each."""


def read_toml(path: Path) -> Table:
    """Read the tables of a TOML file, or of a run's recipe.toml.

    `base = "other.toml"` in its first lines, a file next to it, gives the keys that it does not set itself.  Raises
    UserError where there is no file.
    """
    tables = _parse(path)
    if "base" not in tables:
        return tables
    name = tables.pop("base")
    if not is_safe_name(name) or "/" in name:
        raise UserError(f'{path}: base = {name!r}: must be the name of a recipe in the same folder, as in "emoji.toml"')
    folder = path if path.is_dir() else path.parent
    file = folder / name
    base = _parse(file)
    if "base" in base:
        raise UserError(f"{path}: base = {name!r}: {file} has a base itself; give the whole recipe")
    return _merge(base, tables)


def _merge(base: Table, tables: Table) -> Table:
    """Return the keys of both, table by table; those of `tables` win."""
    merged = {**base, **tables}
    for name in base.keys() & tables.keys():
        if isinstance(base[name], dict) and isinstance(tables[name], dict):
            merged[name] = _merge(base[name], tables[name])
    return merged


def _parse(path: Path) -> Table:
    file = job_files.recipe(path) if path.is_dir() else path
    if path.is_dir() and file.exists() and not job_files.is_run(path):
        raise UserError(f"{path} is an exported model, not a run; give {file}, or the run that it is from")
    if not file.exists():
        if path.is_dir():
            remedy = f"for a folder of pairs: worldclip init {path}"
            raise UserError(f"{path} holds no recipe.toml; give a recipe (.toml) or the folder of a run; {remedy}")
        raise UserError(f"{path} does not exist; {nearest_path(str(path))}give a recipe (.toml) or the folder of a run")
    try:
        return tomllib.loads(read_regular(file).decode("utf-8-sig"))  # editors on Windows begin files with a mark
    except NotRegular as error:
        raise UserError(f"{file} {error.strerror}; give a recipe (.toml) or the folder of a run") from error
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8" if path.suffix == ".toml" else f"for a file of pairs: worldclip init {path}"
        raise UserError(f"{file} is not valid TOML: {error}; {remedy}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # the latter: nested too deeply
        raise UserError(f"{file} is not valid TOML: {error}") from error


def read_sections(path: Path) -> Table:
    """Read the sections of a recipe, a TOML file or a run's recipe.toml; their keys are checked when one is used.

    Raises UserError where there is no file, and for unknown sections.
    """
    tables = read_toml(path)
    unknown = [name for name in tables if name not in SECTIONS]
    if unknown:
        raise UserError([f"{path}: unknown section {name}; {suggest(name, SECTIONS)}" for name in unknown])
    return tables


def to_dict(config: Any) -> Table:
    """Return nested dicts of a config, ready for JSON and TOML: unset keys left out, tuples as lists."""
    values = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return list(map(_plain, value))
    return value


def to_toml(sections: Any) -> str:
    """Return TOML of a config with all defaults, or of {section: config or its table}; loadable as it is."""
    import tomli_w

    if isinstance(sections, Mapping):
        return tomli_w.dumps({name: _plain(config) for name, config in sections.items()})
    return tomli_w.dumps(to_dict(sections))
