"""A view of the file system that tells no upper from lower case, nor how accents are composed, as macOS does."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _real(path: str) -> str:
    """Return the path as the names in its folders are spelt."""
    folder, name = os.path.split(path)
    if not name or folder == path:
        return path
    folder = _real(folder)
    try:
        spelt = next((other for other in os.listdir(folder) if _fold(other) == _fold(name)), name)
    except OSError:
        spelt = name
    return os.path.join(folder, spelt)


@pytest.fixture
def folding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let os.stat and os.open find files below tmp_path by any spelling."""

    def folded(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            is_path = isinstance(path, str | os.PathLike) and options.get("dir_fd") is None
            if is_path and os.fspath(path).startswith(str(tmp_path)):
                path = str(tmp_path) + _real(os.fspath(path))[len(str(tmp_path)) :]
            return plain(path, *arguments, **options)

        return call

    for name in ("stat", "open"):
        monkeypatch.setattr(os, name, folded(getattr(os, name)))
