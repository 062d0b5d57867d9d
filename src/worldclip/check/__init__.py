"""Clean a pool: duplicates, decontamination, text, image and model rules.

check: write the valid keys, every removal with its reason, and a report.
scan_shards: run the slowest steps of a check for some shards only.
hash_images: write a file of hashes, for decontamination without the images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.check.config import CheckConfig as CheckConfig
    from worldclip.check.images import hash_images as hash_images
    from worldclip.check.stage import check as check
    from worldclip.check.stage import load_config as load_config
    from worldclip.check.stage import open_pool as open_pool
    from worldclip.check.stage import scan_shards as scan_shards

__getattr__, __dir__, __all__ = lazy_names(__name__)
