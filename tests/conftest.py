"""What tests share: the folder of real data where there is one, and small worlds that tests make themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the repository (or at WORLDCLIP_SHARED); tests that read it are skipped where it is not."""
    folder = Path(os.environ.get("WORLDCLIP_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder}")
    return folder
