"""Dollar Street: household objects of 63 countries, asked among ImageNet's 1,000 classes.

    FOLDER/images_v2_imagenet_test.csv   one image per row: imageRelPath, imagenet_sysnet_id ("[879, 412]": any of these
                                         classes answers), region.id, country.name, income (dollars per month)
    FOLDER/assets/...                    the images, where imageRelPath says

top-1 and top-5 among OpenAI's names and templates; parts by region and by income (quarters of the images, poorest
first).  Few-shot geo-localisation predicts country and region.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.evaluate.datasets.common.build import classification_dataset, slices_by
from worldclip.evaluate.datasets.common.class_names import NUM_IMAGENET_CLASSES, imagenet_names, in_languages
from worldclip.evaluate.datasets.common.images import images_at
from worldclip.evaluate.datasets.common.text_files import class_index, parse_list, read_csv
from worldclip.evaluate.tasks import Dataset

NUM_INCOME_GROUPS = 4


def load(name: str, folder: Path) -> Dataset:
    """Return the dataset in `folder`."""
    path = folder / "images_v2_imagenet_test.csv"
    rows = read_csv(path)
    classes = []
    for row in rows:
        values = parse_list(row["imagenet_sysnet_id"])
        classes.append([class_index(value, NUM_IMAGENET_CLASSES, str(path)) for value in values])
    income = np.array([float(row["income"]) for row in rows])
    if not np.isfinite(income).all():
        raise ValueError(f"{path}: each income must be a number, dollars per month")
    # Quarters of the images by income, equal incomes in one group: `income 1` is the poorest.
    group = np.searchsorted(np.quantile(income, np.arange(1, NUM_INCOME_GROUPS) / NUM_INCOME_GROUPS), income)
    income_groups = {f"income {g + 1}": group == g for g in range(NUM_INCOME_GROUPS) if (group == g).any()}
    regions = [row["region.id"] for row in rows]
    images = images_at(folder, folder, [row["imageRelPath"] for row in rows], path)
    return classification_dataset(
        name,
        folder,
        images,
        in_languages(imagenet_names(), folder),
        classes,
        [fingerprint(path, folder)],
        protocol={"names": "imagenet", "right": "any of the image's classes"},
        slices=slices_by(regions, "region ") | income_groups,
        labels={"country": [row["country.name"] for row in rows], "region": regions},
    )
