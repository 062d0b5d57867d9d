"""Write miniature datasets: an image is a word that the made-up model reads (tests/helpers/worlds.py)."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tars import write_tar
from worldclip.evaluate import engine
from worldclip.evaluate.datasets import layout_module
from worldclip.evaluate.tasks import Dataset
from worlds import WordModel

Files = Mapping[str, str | bytes | Mapping[str, bytes] | None]
"""Path below a folder -> its text, bytes, or members as a tar; None: no such file or folder."""


def write_files(folder: Path, files: Files) -> Path:
    """Write the contents of each path below `folder` and return it; of an image, its word."""
    for name, contents in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if contents is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif isinstance(contents, Mapping):
            write_tar(path, contents)
        else:
            path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return folder


def read(layout: str, folder: Path, files: Files | None = None, name: str = "mine", **options: Any) -> Dataset:
    """Write files, if they are given, and return the dataset in `folder`.  options: of the layout."""
    write_files(folder, files or {})
    dataset: Dataset = layout_module(layout).load(name, folder, **options)
    return dataset


def records_of(dataset: Dataset, folder: Path, model: Any = None) -> dict[str, dict[str, Any]]:
    """Evaluate a dataset with one task per language and return {language: record}."""
    path = folder / "results.jsonl"
    records, _, _ = engine.evaluate(model or WordModel(), {"model": "m", "model_digest": "m"}, [dataset], [], path)
    return {record["lang"]: record for record in records}
