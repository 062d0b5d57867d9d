"""Dollar Street: household objects of 63 countries, asked among ImageNet's 1,000 classes.

    FOLDER/images_v2_imagenet_test.csv   one image a row: imageRelPath, imagenet_sysnet_id ("[879, 412]": any of these
                                         classes answers), region.id, country.name, income (dollars a month)
    FOLDER/assets/...                    the images, where imageRelPath says

top-1 and top-5 among OpenAI's names and templates; parts by region and by income (quarters of the images, poorest
first).  Few-shot geo-localisation predicts country and region.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.class_names import (
    NUM_IMAGENET_CLASSES,
    imagenet_names,
    name_files,
    other_languages,
)
from worldclip.evaluate.datasets.files import check_there, file_reader, read_table_rows
from worldclip.evaluate.tasks import Classification, Dataset

CSV_NAME = "images_v2_imagenet_test.csv"
COLUMNS = ("imageRelPath", "imagenet_sysnet_id", "region.id", "country.name", "income")
NUM_INCOME_GROUPS = 4


def load(name: str, folder: Path, *, names_path: Path | None = None) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong."""
    path = folder / CSV_NAME
    rows = read_table_rows(path, COLUMNS)
    classes = [_classes(row["imagenet_sysnet_id"], f"{path}:{i}") for i, row in enumerate(rows, 2)]
    paths = [folder / row["imageRelPath"] for row in rows]
    check_there(paths, folder, path)
    income = np.array([_income(row["income"], f"{path}:{i}") for i, row in enumerate(rows, 2)])
    regions = np.array([row["region.id"] for row in rows])
    slices = {f"region {region}": regions == region for region in np.unique(regions)}
    slices |= _income_groups(income)
    more = [(i, c) for i, of_image in enumerate(classes) for c in of_image[1:]]
    extra_names = name_files(folder, names_path)
    names = {"en": imagenet_names()} | other_languages(extra_names, NUM_IMAGENET_CLASSES)

    def tasks(lang: str) -> list[Classification]:
        class_names, templates = names[lang]
        return [
            Classification(
                class_names=class_names,
                templates=templates,
                target=np.array([of_image[0] for of_image in classes]),
                image_idx=np.arange(len(paths)),
                also_right=(np.array([i for i, _ in more], np.int64), np.array([c for _, c in more], np.int64)),
                slices=slices,
                protocol={"templates": len(templates), "names": "imagenet", "right": "any of the image's classes"},
            )
        ]

    images = [fingerprint(image, folder) for image in paths]
    return Dataset(
        name=name,
        digest=digest([images, fingerprint(path, folder), [fingerprint(found, found.parent) for found in extra_names]]),
        images_digest=digest(images),
        image_keys=[row["imageRelPath"] for row in rows],
        read_images=file_reader(paths),
        languages=tuple(names),
        tasks=tasks,
        labels={"country": [row["country.name"] for row in rows], "region": regions.tolist()},
    )


def _classes(text: str, where: str) -> list[int]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"{where}: imagenet_sysnet_id is {text!r}; it is a list of class indices, [879, 412]"
        ) from error
    is_list = isinstance(found, list | tuple) and len(found) > 0
    if not is_list or not all(isinstance(c, int) and 0 <= c < NUM_IMAGENET_CLASSES for c in found):
        raise UserError(f"{where}: imagenet_sysnet_id is {text!r}; classes of ImageNet are 0 to 999, at least one")
    return list(found)


def _income(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{where}: income is {text!r}; it is a number, dollars a month") from error


def _income_groups(income: np.ndarray) -> dict[str, np.ndarray]:
    """Quarters of the images by income, equal incomes in one group: `income 1` the poorest."""
    bounds = np.quantile(income, np.arange(1, NUM_INCOME_GROUPS) / NUM_INCOME_GROUPS)
    group = np.searchsorted(bounds, income, side="left")
    return {f"income {g + 1}": group == g for g in range(NUM_INCOME_GROUPS) if (group == g).any()}
