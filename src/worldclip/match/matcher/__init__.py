"""Find which entries occur in a text: matcher.py, over tokens (tokenise.py), a trie (trie.py) and a loop (loop.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.match.matcher.matcher import Matcher as Matcher

__all__ = ["Matcher"]
__getattr__, __dir__ = lazy_names(__name__, {"Matcher": "worldclip.match.matcher.matcher"})
