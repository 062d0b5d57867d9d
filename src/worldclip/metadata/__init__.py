"""Stage 1, metadata: WordNets, word lists and numbers -> a list of entries for each language, and its matchers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldclip.metadata.build import inputs as inputs
    from worldclip.metadata.build import load_matcher as load_matcher
    from worldclip.metadata.build import read_entries as read_entries
    from worldclip.metadata.build import relevant_config as relevant_config
    from worldclip.metadata.build import run as run

__all__ = ["inputs", "load_matcher", "read_entries", "relevant_config", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.build"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
