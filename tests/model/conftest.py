"""A Hugging Face folder as on the hub, at reduced size, to be read; and a copy of it for each test, to be changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def hugging_face(published_model: Callable[[str], Path]) -> Path:
    return published_model("metaclip-2-worldwide-b32")


@pytest.fixture
def folder(hugging_face: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hugging_face, tmp_path / "model"))
