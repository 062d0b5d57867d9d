"""7  checkpoint -> folders that other libraries load, each loaded again with them and compared before it is called
done (submodules load on first use).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from worldclip.export.config import ExportConfig as ExportConfig

if TYPE_CHECKING:
    from worldclip.export.export import export_model as export_model
    from worldclip.export.export import inputs as inputs
    from worldclip.export.export import relevant_config as relevant_config
    from worldclip.export.export import run as run

_CALLS = ("run", "inputs", "relevant_config", "export_model")


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        return getattr(importlib.import_module("worldclip.export.export"), name)
    raise AttributeError(f"module 'worldclip.export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_CALLS])
