"""Dollar Street: household objects of 63 countries, asked among ImageNet's 1,000 classes.

    FOLDER/images_v2_imagenet_test.csv   one image per row: imageRelPath, imagenet_sysnet_id ("[879, 412]": any of these
                                         classes answers), region.id, country.name, income (dollars per month)
    FOLDER/assets/...                    the images, where imageRelPath says

top-1 and top-5 among OpenAI's names and templates; parts by region and by income (quarters of the images, poorest
first).  Few-shot geo-localisation predicts country and region.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import classification_dataset, slices_by
from worldclip.evaluate.datasets.common.class_names import NUM_IMAGENET_CLASSES, imagenet_names, in_languages
from worldclip.evaluate.datasets.common.images import fingerprints, images_at
from worldclip.evaluate.datasets.common.text_files import parse_list, read_rows
from worldclip.evaluate.tasks import Dataset

COLUMNS = ("imageRelPath", "imagenet_sysnet_id", "region.id", "country.name", "income")
NUM_INCOME_GROUPS = 4


def load(name: str, folder: Path, names_path: Path | None = None) -> Dataset:
    """Return the dataset in `folder`."""
    path = folder / "images_v2_imagenet_test.csv"
    rows = read_rows(path, COLUMNS)
    classes = [_classes(row["imagenet_sysnet_id"], f"{path}:{number}") for number, row in enumerate(rows, 2)]
    income = np.array([_income(row["income"], f"{path}:{number}") for number, row in enumerate(rows, 2)])
    # Quarters of the images by income, equal incomes in one group: `income 1` is the poorest.
    group = np.searchsorted(np.quantile(income, np.arange(1, NUM_INCOME_GROUPS) / NUM_INCOME_GROUPS), income)
    income_groups = {f"income {g + 1}": group == g for g in range(NUM_INCOME_GROUPS) if (group == g).any()}
    regions = [row["region.id"] for row in rows]
    images = images_at(folder, folder, [row["imageRelPath"] for row in rows], path)
    names, files = in_languages(imagenet_names(), folder, names_path)
    return classification_dataset(
        name,
        images,
        names,
        classes,
        [images.fingerprints, fingerprint(path, folder), fingerprints(files)],
        protocol={"names": "imagenet", "right": "any of the image's classes"},
        slices=slices_by(regions, "region ") | income_groups,
        labels={"country": [row["country.name"] for row in rows], "region": regions},
    )


def _classes(text: str, where: str) -> list[int]:
    expected = "a list of class indices, [879, 412]: at least one, from 0 to 999"
    classes = parse_list(text, f"{where}: imagenet_sysnet_id", expected)
    if not classes or not all(isinstance(c, int) and 0 <= c < NUM_IMAGENET_CLASSES for c in classes):
        raise UserError(f"{where}: imagenet_sysnet_id is {text!r}; it must be {expected}")
    return classes


def _income(text: str, where: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(income := float(text)):
            return income
    raise UserError(f"{where}: income is {text!r}; it must be a number, dollars per month")
