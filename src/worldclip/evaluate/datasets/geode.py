"""GeoDE: 40 kinds of objects photographed in six regions of the world.

    FOLDER/index.csv   one image a row: file_path, object, region, ip_country
    FOLDER/images/     the images, where file_path says

The objects are the classes, `_` as a blank; parts by region.  Few-shot geo-localisation predicts country and region.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.evaluate.datasets.class_names import name_files, other_languages
from worldclip.evaluate.datasets.files import check_there, file_reader, read_table_rows
from worldclip.evaluate.tasks import Classification, Dataset

CSV_NAME = "index.csv"
COLUMNS = ("file_path", "object", "region", "ip_country")
TEMPLATES = ["a photo of a {}."]


def load(name: str, folder: Path, *, names_path: Path | None = None) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong."""
    path = folder / CSV_NAME
    rows = read_table_rows(path, COLUMNS)
    paths = [folder / "images" / row["file_path"] for row in rows]
    check_there(paths, folder / "images", path)
    objects, target = np.unique([row["object"] for row in rows], return_inverse=True)
    regions = np.array([row["region"] for row in rows])
    extra_names = name_files(folder, names_path)
    english = ([[str(thing).replace("_", " ")] for thing in objects], TEMPLATES)
    names = {"en": english} | other_languages(extra_names, len(objects))

    def tasks(lang: str) -> list[Classification]:
        class_names, templates = names[lang]
        return [
            Classification(
                class_names=class_names,
                templates=templates,
                target=target,
                image_idx=np.arange(len(paths)),
                slices={f"region {region}": regions == region for region in np.unique(regions)},
                protocol={"templates": len(templates), "names": "objects of the index"},
            )
        ]

    images = [fingerprint(image, folder) for image in paths]
    return Dataset(
        name=name,
        digest=digest([images, fingerprint(path, folder), [fingerprint(found, found.parent) for found in extra_names]]),
        images_digest=digest(images),
        image_keys=[row["file_path"] for row in rows],
        read_images=file_reader(paths),
        languages=tuple(names),
        tasks=tasks,
        labels={"country": [row["ip_country"] for row in rows], "region": regions.tolist()},
    )
