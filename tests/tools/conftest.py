"""What tests of embeddings share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import worldclip


@pytest.fixture(scope="session")
def world(embedded_world: Path) -> Path:
    return embedded_world


@pytest.fixture(scope="session")
def clip(embedded_world: Path) -> Any:
    return worldclip.load(embedded_world / "model", device="cpu")
