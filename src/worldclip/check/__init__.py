"""A pool you can answer for: duplicates, decontamination, text, image and model rules, deny lists.

check: writes the valid keys, every removal with its reason, and a report.
look_at_shards: the part of it that costs most, for some shards alone.
hash_images: a file of hashes, made once, for decontamination against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.check.config import CheckConfig as CheckConfig
from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.check.images import hash_images as hash_images
    from worldclip.check.stage import check as check
    from worldclip.check.stage import load_config as load_config
    from worldclip.check.stage import look_at_shards as look_at_shards

_HOMES = {
    "check": "worldclip.check.stage",
    "hash_images": "worldclip.check.images",
    "load_config": "worldclip.check.stage",
    "look_at_shards": "worldclip.check.stage",
}
__all__ = ["CheckConfig", "check", "hash_images", "load_config", "look_at_shards"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
