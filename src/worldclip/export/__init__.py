"""Stage 7, export: checkpoint -> folders that other libraries load, each loaded again and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names
from worldclip.export.config import ExportConfig as ExportConfig

if TYPE_CHECKING:
    from worldclip.export.stage import export_model as export_model
    from worldclip.export.stage import inputs as inputs
    from worldclip.export.stage import relevant_config as relevant_config
    from worldclip.export.stage import run as run

_HOMES = {
    "export_model": "worldclip.export.stage",
    "inputs": "worldclip.export.stage",
    "relevant_config": "worldclip.export.stage",
    "run": "worldclip.export.stage",
}
__all__ = ["ExportConfig", "export_model", "inputs", "relevant_config", "run"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
