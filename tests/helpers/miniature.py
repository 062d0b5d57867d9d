"""Write miniature datasets: an image is a word that the made-up model reads (tests/helpers/worlds.py)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldclip.evaluate import engine
from worldclip.evaluate.tasks import Dataset
from worlds import WordModel


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a tar with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write the contents of each path below `folder`; of an image, its word."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def records_of(dataset: Dataset, folder: Path, model: Any = None) -> dict[str, dict[str, Any]]:
    """Evaluate a dataset with one task per language and return {language: record}."""
    path = folder / "results.jsonl"
    records, _, _ = engine.evaluate(model or WordModel(), {"model": "m"}, [dataset], [], path)
    return {record["lang"]: record for record in records}
