"""Packages that register items of worldclip, installed into a folder of their own as pip would install them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from worldclip.core import registry


def write_package(folder: Path, name: str, code: str, entry_points: Mapping[str, str]) -> Path:
    """Write the module `name` and its metadata into `folder`, to be put on the path.

    entry_points: group -> lines such as `tfrecord = my_plugin:TFRECORD`.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    groups = "\n".join(f"[{group}]\n{lines}\n" for group, lines in entry_points.items())
    (info / "entry_points.txt").write_text(groups, encoding="utf-8")
    return folder


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> Iterator[None]:
    """Put the folders on the path of this process and of its workers; no registry remembers them afterwards."""
    with monkeypatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(str(folder))
            patch.setenv("PYTHONPATH", str(folder), prepend=":")
        forget_names()
        yield
    forget_names()


def forget_names() -> None:
    importlib.invalidate_caches()
    registry._origins.cache_clear()


def page_code(name: str) -> str:
    """Return the Python code that docs/plugins.md shows for the file `name`."""
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    after = page.split(f"\n`{name}`", 1)[1]
    return after.split("```python\n", 1)[1].split("\n```", 1)[0] + "\n"
