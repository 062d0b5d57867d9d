"""A Hugging Face folder as on the hub, at reduced size, to be read; and a copy of it for each test, to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from small_models import save_hugging_face
from worldclip.model import published


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface")
    save_hugging_face(published.find("metaclip-2-worldwide-b32"), folder)
    return folder


@pytest.fixture
def folder(hugging_face: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hugging_face, tmp_path / "model"))
