"""Stage 7, export: checkpoint -> folders that other libraries load, each loaded again and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.export.config import ExportConfig as ExportConfig
    from worldclip.export.stage import export as export
    from worldclip.export.stage import export_model as export_model

__getattr__, __dir__, __all__ = lazy_names(__name__)
