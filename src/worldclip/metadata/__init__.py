"""Stage 1, metadata: WordNets, word lists and numbers -> a list of entries for each language, and its matchers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.metadata.stage import inputs as inputs
    from worldclip.metadata.stage import load_matcher as load_matcher
    from worldclip.metadata.stage import read_entries as read_entries
    from worldclip.metadata.stage import relevant_config as relevant_config
    from worldclip.metadata.stage import run as run

_HOMES = {
    "inputs": "worldclip.metadata.stage",
    "load_matcher": "worldclip.metadata.stage",
    "read_entries": "worldclip.metadata.stage",
    "relevant_config": "worldclip.metadata.stage",
    "run": "worldclip.metadata.stage",
}
__all__ = ["inputs", "load_matcher", "read_entries", "relevant_config", "run"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
