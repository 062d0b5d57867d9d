"""A pool you can answer for: duplicates, decontamination, text, image and model rules, deny lists.

check: looks at each pair, writes the valid keys, every removal with its reason, and a report.
look_at_shards: the part of it that costs most, for some shards alone.
hash_images: a file of hashes, made once, for decontamination against it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from worldclip.pool.check.config import CheckConfig as CheckConfig

if TYPE_CHECKING:
    from worldclip.pool.check.images import hash_images as hash_images
    from worldclip.pool.check.run import check as check
    from worldclip.pool.check.run import load_config as load_config
    from worldclip.pool.check.run import load_pool as load_pool
    from worldclip.pool.check.run import look_at_shards as look_at_shards

_HOMES = {
    **dict.fromkeys(("check", "load_config", "load_pool", "look_at_shards"), "run"),
    "hash_images": "images",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
