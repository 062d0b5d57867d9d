"""4  probabilities -> curated pool; the keep decision that the loader shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateConfig:
    """What is kept."""

    text_policy: Literal["one", "all"] = "one"
    """one: one of an image's matched texts is drawn, then kept or not; all: each text on its own."""
    seed: int = 0
    """Seed of the coin."""
    include: tuple[str, ...] = ()
    """Languages to keep; empty: all."""
    exclude: tuple[str, ...] = ()
    """Languages to leave out."""

    def problems(self) -> list[str]:
        return []
