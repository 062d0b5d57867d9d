"""Stage 1, metadata: WordNets, word lists and numbers -> a list of entries for each language, and its matchers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.metadata.matchers import load_matcher as load_matcher
    from worldclip.metadata.stage import build as build
    from worldclip.metadata.stage import read_entries as read_entries

_HOMES = {
    "load_matcher": "worldclip.metadata.matchers",
    "read_entries": "worldclip.metadata.stage",
    "build": "worldclip.metadata.stage",
}
__all__ = ["build", "load_matcher", "read_entries"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
