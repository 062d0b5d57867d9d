"""Check the images of a pool: undecodable ones, near duplicates, decontamination.

check: write the valid keys, every removal with its reason, and a report; or only decode and hash some shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.check.config import CheckConfig as CheckConfig
    from worldclip.check.stage import check as check

__getattr__, __dir__, __all__ = lazy_names(__name__)
