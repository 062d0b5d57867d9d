"""Pools of pairs: WebDataset tars, Parquet or JSONL, or the emoji pool that a run draws itself.

shards: the pool's files.  read_texts: one file's texts with the reason of each that is bad.  write_index, read_index,
read_member: where its images are.  run: the stage.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldclip.pool.read import index_of as index_of
    from worldclip.pool.read import read_index as read_index
    from worldclip.pool.read import read_keys as read_keys
    from worldclip.pool.read import read_member as read_member
    from worldclip.pool.read import read_texts as read_texts
    from worldclip.pool.read import write_index as write_index
    from worldclip.pool.stage import inputs as inputs
    from worldclip.pool.stage import list_shards as list_shards
    from worldclip.pool.stage import relevant_config as relevant_config
    from worldclip.pool.stage import root as root
    from worldclip.pool.stage import run as run
    from worldclip.pool.stage import run_shards as run_shards
    from worldclip.pool.stage import shards as shards
    from worldclip.pool.texts import REASONS as REASONS
    from worldclip.pool.texts import PoolTexts as PoolTexts
    from worldclip.pool.webdataset import IMAGE_SUFFIXES as IMAGE_SUFFIXES

_HOMES = {
    **dict.fromkeys(("REASONS", "PoolTexts"), "texts"),
    **dict.fromkeys(("index_of", "read_index", "read_keys", "read_member", "read_texts", "write_index"), "read"),
    **dict.fromkeys(("inputs", "list_shards", "relevant_config", "root", "run", "run_shards", "shards"), "stage"),
    "IMAGE_SUFFIXES": "webdataset",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
