"""Pool builder `emoji`: 3,944 drawings of OpenMoji with names in 14 languages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from worldclip.contracts.layout import DONE
from worldclip.plugins.emoji.sets import HELD_OUT as HELD_OUT
from worldclip.plugins.emoji.sets import REQUIRES

if TYPE_CHECKING:  # configs ask for the names of its held-out sets, and stay light
    from worldclip.core.execute import Executor, Report
    from worldclip.core.job import Record
    from worldclip.pool.config import PoolConfig

requires = REQUIRES
KNOWS = "OpenMoji's drawings"
FOLDER_PARTS = ()
OUTPUTS = ("train", "tone", "base", "names.json", "README.md", f"{DONE}/compare", f"{DONE}/draw")


def problems(config: PoolConfig) -> Iterator[str]:
    """Yield nothing: packages carry all that the pool needs."""
    return iter(())


def inputs(config: PoolConfig) -> Record:
    """Return the versions of the packages that decide the pool."""
    from worldclip.plugins.drawings import package_versions
    from worldclip.plugins.emoji.build import SOURCES

    return {"sources": package_versions(SOURCES)}


def build(folder: Path, config: PoolConfig, executor: Executor) -> Report:
    """Draw the pool into `folder`."""
    from worldclip.plugins.emoji.build import build_emoji

    return build_emoji(folder, executor=executor)
