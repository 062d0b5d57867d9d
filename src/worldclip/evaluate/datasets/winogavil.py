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
from worldclip.evaluate.datasets.common.build import build_dataset
from worldclip.evaluate.datasets.common.images import images_by_stem
from worldclip.evaluate.datasets.common.text_files import parse_list, read_columns
from worldclip.evaluate.selection import Association
from worldclip.evaluate.tasks import Dataset


def load(name: str, folder: Path) -> Dataset:
    path = folder / "winogavil_dataset.csv"
    columns = read_columns(path)
    candidates = list(map(parse_list, columns["candidates"]))
    right = list(map(parse_list, columns["associations"]))
    is_right = []
    for names, associations in zip(candidates, right, strict=True):
        if not associations or not set(associations) <= set(names):
            raise ValueError(f"{path}: associations {associations} are not some of the candidates {names}")
        is_right.append(np.isin(names, associations))
    cues = []
    for cue in map(str.lower, columns["cue"]):
        article = "An" if cue[:1] in set("aeiou") else "A"
        cues.append(f"{article} {cue}")
    keys = np.unique(list(itertools.chain.from_iterable(candidates)))
    images = images_by_stem(folder, keys.tolist(), path)
    task = Association(
        cues=cues,
        candidates=[np.searchsorted(keys, names) for names in candidates],
        is_right=is_right,
        protocol={"text": "article + cue"},
    )
    return build_dataset(name, images, {"en": [task]}, [images.fingerprints, fingerprint(path, folder)])
