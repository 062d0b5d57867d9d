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
from worldclip.evaluate.datasets.common.text_files import class_index, parse_list, read_columns
from worldclip.evaluate.tasks import Dataset

NUM_INCOME_GROUPS = 4


def load(name: str, folder: Path) -> Dataset:
    path = folder / "images_v2_imagenet_test.csv"
    columns = read_columns(path)
    classes = []
    for text in columns["imagenet_sysnet_id"]:
        values = parse_list(text)
        classes.append([class_index(value, NUM_IMAGENET_CLASSES, str(path)) for value in values])
    income = np.array(columns["income"]).astype(float)
    if not np.isfinite(income).all():
        raise ValueError(f"{path}: each income must be a number, dollars per month")
    # Quarters of the images by income, equal incomes in one group: `income 1` is the poorest.
    group = np.searchsorted(np.quantile(income, np.arange(1, NUM_INCOME_GROUPS) / NUM_INCOME_GROUPS), income)
    income_groups = slices_by(group + 1, "income ")
    regions = columns["region.id"]
    images = images_at(folder, folder, columns["imageRelPath"], path)
    return classification_dataset(
        name,
        folder,
        images,
        in_languages(imagenet_names(), folder),
        classes,
        [fingerprint(path, folder)],
        protocol={"names": "imagenet", "right": "any of the image's classes"},
        slices=slices_by(regions, "region ") | income_groups,
        labels={"country": columns["country.name"], "region": regions},
    )
