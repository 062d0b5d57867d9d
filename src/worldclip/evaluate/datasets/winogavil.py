"""WinoGAViL: which images of a few a cue is associated with.

    FOLDER/winogavil_dataset.csv   cue, candidates and associations; the last two as lists of image names
    FOLDER/images/                 <image name>.jpg

The text is the cue with its article, in lower case but for the first letter: `A wolf`, `An owl` (DataComp's prompt).
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.files import file_reader, find_images, read_table_rows
from worldclip.evaluate.selection import Association
from worldclip.evaluate.tasks import Dataset

COLUMNS = ("cue", "candidates", "associations")
CSV_NAME = "winogavil_dataset.csv"


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong."""
    path = folder / CSV_NAME
    rows = read_table_rows(path, COLUMNS)
    candidates = [_names(row["candidates"], f"{path}:{i}: candidates") for i, row in enumerate(rows, 2)]
    associations = [_names(row["associations"], f"{path}:{i}: associations") for i, row in enumerate(rows, 2)]
    for i, (of_cue, right) in enumerate(zip(candidates, associations, strict=True), 2):
        if not right or not set(right) <= set(of_cue):
            raise UserError(f"{path}:{i}: associations {right} are not some of the candidates {of_cue}")
    keys = sorted({image for of_cue in candidates for image in of_cue})
    position = {key: i for i, key in enumerate(keys)}
    task = Association(
        cues=[_prompt(row["cue"]) for row in rows],
        candidates=[np.array([position[image] for image in of_cue]) for of_cue in candidates],
        is_right=[np.isin(of_cue, right) for of_cue, right in zip(candidates, associations, strict=True)],
        protocol={"text": "article + cue"},
    )
    paths = find_images(folder / "images", keys, path)
    images = [fingerprint(image, folder) for image in paths]
    return Dataset(
        name=name,
        digest=digest([images, fingerprint(path, folder)]),
        images_digest=digest(images),
        image_keys=keys,
        read_images=file_reader(paths),
        languages=("en",),
        tasks=lambda lang: [task],
    )


def _names(text: str, where: str) -> list[str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, list | tuple):
        raise UserError(f"{where} is {text!r}; it is a list of image names, ['wolf', 'moon']")
    return [str(item) for item in found]


def _prompt(cue: str) -> str:
    cue = cue.lower()
    return f"{'An' if cue[:1] in set('aeiou') else 'A'} {cue}"
