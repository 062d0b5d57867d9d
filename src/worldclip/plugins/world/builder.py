"""Pool builder `world`: drawings, icons and photographs with names in more than 200 languages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from worldclip.contracts.layout import DONE
from worldclip.plugins.world.sets import FOLDERS, REQUIRES, SETS, check_folders

if TYPE_CHECKING:  # configs ask for the names of its held-out sets, and stay light
    from worldclip.core.execute import Executor, Report
    from worldclip.core.job import Record
    from worldclip.pool.config import PoolConfig

requires = REQUIRES
HELD_OUT = {item.dataset: item.about for item in SETS}
OUTPUTS = (
    *FOLDERS,
    *("names.json", "keywords.json", "counts.json", "README.md", f"{DONE}/compare", f"{DONE}/draw"),
)
FOLDER_PARTS = ("cldr", "fluent", "flags", "appstream", "stamps", "gcompris")
"""Parts that are folders of the user (docs/world.md)."""


def problems(config: PoolConfig) -> Iterator[str]:
    """Yield a problem for each part whose folder is missing."""
    for problem in check_folders(_folders(config)):
        yield f"pool.parts.{problem}"


def inputs(config: PoolConfig) -> Record:
    """Return the versions of the packages and digests of the folders that decide the pool."""
    from worldclip.plugins.drawings import package_versions
    from worldclip.plugins.world.build import PACKAGES, folder_inputs

    return {"sources": package_versions(PACKAGES), "parts": folder_inputs(_folders(config))}


def build(folder: Path, config: PoolConfig, executor: Executor) -> Report:
    """Draw the pool into `folder`."""
    from worldclip.plugins.world.build import build_world

    return build_world(folder, _folders(config), executor=executor)


def _folders(config: PoolConfig) -> dict[str, Path]:
    return {name: Path(path).expanduser() for name, path in config.parts.items()}
