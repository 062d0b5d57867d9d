"""What a checkpoint is measured on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Data sets to evaluate on and how."""

    datasets: tuple[str, ...] = ()
    """Data sets: `emoji_tone`, `emoji_base` (held out by the emoji pool)."""
    batch_size: int = 256
    """Images or texts a forward pass."""
    device: str = "auto"

    def problems(self) -> list[str]:
        return []
