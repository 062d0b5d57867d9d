"""Formats of models on disk, items of the registry `worldclip.model_formats`: one module per library.

interface.py says what such a module holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worldclip.core.registry import Registry

if TYPE_CHECKING:
    from worldclip.model.formats.interface import Format

MODEL_FORMATS = Registry("model format", "worldclip.model_formats")


def readable_formats() -> dict[str, Format]:
    """Return the formats that worldclip.load reads, by name."""
    return {name: item for name, item in MODEL_FORMATS.items() if hasattr(item, "read")}


def written_formats() -> dict[str, Any]:
    """Return the formats that can be exported to, by name; some are only read."""
    return {name: item for name, item in MODEL_FORMATS.items() if hasattr(item, "write") or hasattr(item, "writer")}
