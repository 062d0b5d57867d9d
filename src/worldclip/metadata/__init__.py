"""Stage 1, metadata: WordNets, word lists and numbers -> a list of entries for each language, and its matchers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.metadata.stage import build as build
    from worldclip.metadata.stage import load_matcher as load_matcher
    from worldclip.metadata.stage import read_entries as read_entries

__getattr__, __dir__, __all__ = lazy_names(__name__)
