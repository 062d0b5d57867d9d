"""WinoGAViL: which images of a few a cue is associated with.

    FOLDER/winogavil_dataset.csv   cue, candidates and associations; the last two as lists of image names
    FOLDER/images/                 <image name>.jpg

The text is the cue with its article, in lower case but for the first letter: `A wolf`, `An owl` (DataComp's prompt).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import build_dataset
from worldclip.evaluate.datasets.common.images import distinct_images
from worldclip.evaluate.datasets.common.text_files import parse_list, read_rows
from worldclip.evaluate.selection import Association
from worldclip.evaluate.tasks import Dataset

IMAGE_NAMES = "a list of image names, ['wolf', 'moon']"


def load(name: str, folder: Path) -> Dataset:
    """Return the dataset in `folder`."""
    path = folder / "winogavil_dataset.csv"
    rows = read_rows(path, ("cue", "candidates", "associations"))
    candidates: list[list[str]] = []
    is_right: list[np.ndarray] = []
    for number, row in enumerate(rows, 2):
        names, right = (_image_names(row, column, f"{path}:{number}") for column in ("candidates", "associations"))
        if not right or not set(right) <= set(names):
            raise UserError(f"{path}:{number}: associations {right} are not some of the candidates {names}")
        candidates.append(names)
        is_right.append(np.isin(names, right))
    cues = [row["cue"].lower() for row in rows]
    images, position = distinct_images(folder, itertools.chain.from_iterable(candidates), path)
    task = Association(
        cues=[f"{'An' if cue[:1] in set('aeiou') else 'A'} {cue}" for cue in cues],
        candidates=[np.array(list(map(position.__getitem__, names))) for names in candidates],
        is_right=is_right,
        protocol={"text": "article + cue"},
    )
    return build_dataset(name, images, {"en": [task]}, [images.fingerprints, fingerprint(path, folder)])


def _image_names(row: dict[str, str], column: str, where: str) -> list[str]:
    return [str(image) for image in parse_list(row[column], f"{where}: {column}", IMAGE_NAMES)]
