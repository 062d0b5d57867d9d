"""Stage 2, match: text -> language, entry ids; and how often each entry matched.

Matcher: which entries occur in a text.  identify: which language a text is in.  run: the stage.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldclip.match.lid import identify as identify
    from worldclip.match.match import inputs as inputs
    from worldclip.match.match import relevant_config as relevant_config
    from worldclip.match.match import run as run
    from worldclip.match.match import run_shards as run_shards
    from worldclip.match.matcher import Matcher as Matcher

_HOMES = {
    "Matcher": "matcher",
    "identify": "lid",
    **dict.fromkeys(("run", "run_shards", "inputs", "relevant_config"), "match"),
}

__all__ = ["Matcher", "identify", "inputs", "relevant_config", "run", "run_shards"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
