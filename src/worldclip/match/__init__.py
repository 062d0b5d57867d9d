"""Stage 2, match: text -> language, entry ids; and how often each entry matched.

Matcher: which entries occur in a text.  identify: which language a text is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.language.identify import identify as identify
    from worldclip.match.matcher.matcher import Matcher as Matcher
    from worldclip.match.stage import match as match

__getattr__, __dir__, __all__ = lazy_names(__name__)
