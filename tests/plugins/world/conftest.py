"""Tests of the world pool are skipped where its packages are not installed."""

from __future__ import annotations

import pytest

from worldclip.core.preflight import is_installed
from worldclip.plugins.world.sets import REQUIRES


@pytest.fixture(scope="session", autouse=True)
def extra() -> None:
    """Skip without the extra `world`."""
    if missing := [name for name in REQUIRES.modules if not is_installed(name)]:
        pytest.skip(f"extra world is not installed: {', '.join(missing)}")
