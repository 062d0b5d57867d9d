"""Pools that a run draws before it reads them.

A builder of POOL_BUILDERS (config.py) is a module `builder` of a plug-in:

    requires, OUTPUTS                   what it imports; files and folders below RUN/pool that it writes
    HELD_OUT                            {dataset: one sentence about it, for readers of the report}
    KNOWS                               the only pictures that a model of this pool knows; may be left out
    FOLDER_PARTS                        names that pool.parts may give folders
    problems(config)                    yields what is missing on this machine
    inputs(config)                      what decides the bytes of the pool: versions, digests of folders
    build(folder, config, executor)     draws the pool into RUN/pool; finished tars are skipped

It writes a pool of tars and, next to it, evaluation folders of what it holds out:

    RUN/pool/pairs/*.tar      the pool
    RUN/pool/<set>/           a held-out set: an evaluation folder in any layout of docs/6_evaluate.md
    RUN/pool/held_out.json    {dataset: {"location": "layout:<set>", "about": one sentence}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, write_json
from worldclip.core.errors import UserError
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.pool.config import PoolConfig, builder_module


class HeldOut(NamedTuple):
    """A held-out set of a drawn pool."""

    location: str
    """`layout:path`, the path below RUN/pool."""
    about: str


def builder_of(config: PoolConfig) -> Any:
    """Return the builder of a pool that the run draws, None for a pool of files."""
    return None if config.build is None else builder_module(config.build)


def write_held_out(folder: Path, sets: Mapping[str, HeldOut]) -> None:
    """Write held_out.json; folder: RUN/pool."""
    write_json(folder / "held_out.json", {name: item._asdict() for name, item in sets.items()})


def read_held_out(run_dir: Path) -> dict[str, HeldOut]:
    """Return the held-out sets of the pool that a run drew, their paths made absolute; empty where there are none.

    Raises UserError for a path outside of RUN/pool.
    """
    path = layout.held_out(run_dir)
    if not path.exists():
        return {}
    sets = {}
    for name, record in read_json(path).items():
        layout_name, _, place = str(record["location"]).partition(":")
        if not is_safe_name(place):
            raise UserError(f"{path}: {name} is at {place!r}, which is not below {path.parent}")
        sets[name] = HeldOut(f"{layout_name}:{safe_join(path.parent, place)}", str(record["about"]))
    return sets
