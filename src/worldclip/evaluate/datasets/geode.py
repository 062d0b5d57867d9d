"""GeoDE: 40 kinds of objects photographed in six regions of the world.

    FOLDER/index.csv   one image per row: file_path, object, region, ip_country
    FOLDER/images/     the images, where file_path says

The objects are the classes, `_` as a blank; parts by region.  Few-shot geo-localisation predicts country and region.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.evaluate.datasets.common.build import classification_dataset, slices_by
from worldclip.evaluate.datasets.common.class_names import PLAIN_TEMPLATE, Names, in_languages
from worldclip.evaluate.datasets.common.images import images_at
from worldclip.evaluate.datasets.common.text_files import read_columns
from worldclip.evaluate.tasks import Dataset


def load(name: str, folder: Path) -> Dataset:
    path = folder / "index.csv"
    columns = read_columns(path)
    objects, target = np.unique(columns["object"], return_inverse=True)
    english = Names([[str(thing).replace("_", " ")] for thing in objects], PLAIN_TEMPLATE)
    images = images_at(folder, folder / "images", columns["file_path"], path)
    return classification_dataset(
        name,
        folder,
        images,
        in_languages(english, folder),
        target,
        [fingerprint(path, folder)],
        protocol={"names": "objects of the index"},
        slices=slices_by(columns["region"], "region "),
        labels={"country": columns["ip_country"], "region": columns["region"]},
    )
