"""7  checkpoint -> a folder that other libraries load, loaded again and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Formats to export to."""

    formats: tuple[Literal["huggingface"], ...] = ("huggingface",)
    """Formats, each a folder RUN/export/<format>."""

    def problems(self) -> list[str]:
        return []
