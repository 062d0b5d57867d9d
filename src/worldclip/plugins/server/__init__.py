"""`worldclip serve`: a search page and an API in OpenAI's shape over one loaded model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.plugins.server.serve import serve as serve

_HOMES = {"serve": "worldclip.plugins.server.serve"}
__all__ = ["serve"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
