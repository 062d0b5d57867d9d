"""Google Landmarks v2, zero-shot: which landmark is in the image.

    FOLDER/recognition_solution_v2.1.csv   id, landmarks (landmark ids with blanks between; empty: no landmark), Usage
    FOLDER/train_label_to_category.csv     landmark_id, category (.../wiki/Category:Eiffel_Tower)
    FOLDER/test/0/1/2/0123456789abcdef.jpg the images, in folders by the first three letters of their id

Images with a landmark are asked among the landmarks that occur; the name is the category without `Category:`, `_` as a
blank.  An image of several landmarks is right with any of them.  A CSV of the same columns with fewer rows is a subset:
the paper's own subset is not published.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.class_names import name_files, other_languages
from worldclip.evaluate.datasets.files import check_there, file_reader, read_table_rows
from worldclip.evaluate.tasks import Classification, Dataset

SOLUTION, NAMES = "recognition_solution_v2.1.csv", "train_label_to_category.csv"
TEMPLATES = ["a photo of {}."]


def load(name: str, folder: Path, *, names_path: Path | None = None) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong."""
    rows = [row for row in read_table_rows(folder / SOLUTION, ("id", "landmarks")) if row["landmarks"].strip()]
    if not rows:
        raise UserError(f"{folder / SOLUTION} has no image with a landmark")
    name_of = {
        row["landmark_id"]: _name(row["category"])
        for row in read_table_rows(folder / NAMES, ("landmark_id", "category"))
    }
    landmarks = [row["landmarks"].split() for row in rows]
    ids = sorted({landmark for of_image in landmarks for landmark in of_image}, key=lambda text: (len(text), text))
    if unnamed := [landmark for landmark in ids if landmark not in name_of]:
        raise UserError(f"{folder / NAMES} has no name for {len(unnamed)} landmarks: {', '.join(unnamed[:5])}")
    paths = [folder / "test" / row["id"][0] / row["id"][1] / row["id"][2] / f"{row['id']}.jpg" for row in rows]
    check_there(paths, folder / "test", folder / SOLUTION)
    position = {landmark: i for i, landmark in enumerate(ids)}
    more = [(i, position[landmark]) for i, of_image in enumerate(landmarks) for landmark in of_image[1:]]
    extra_names = name_files(folder, names_path)
    names = {"en": ([[name_of[landmark]] for landmark in ids], TEMPLATES)} | other_languages(extra_names, len(ids))

    def tasks(lang: str) -> list[Classification]:
        class_names, templates = names[lang]
        return [
            Classification(
                class_names=class_names,
                templates=templates,
                target=np.array([position[of_image[0]] for of_image in landmarks]),
                image_idx=np.arange(len(paths)),
                also_right=(np.array([i for i, _ in more], np.int64), np.array([c for _, c in more], np.int64)),
                protocol={"templates": len(templates), "names": "categories of the landmarks that occur"},
            )
        ]

    images = [fingerprint(path, folder) for path in paths]
    return Dataset(
        name=name,
        digest=digest(
            [images, [fingerprint(path, path.parent) for path in (folder / SOLUTION, folder / NAMES, *extra_names)]]
        ),
        images_digest=digest(images),
        image_keys=[row["id"] for row in rows],
        read_images=file_reader(paths),
        languages=tuple(names),
        tasks=tasks,
    )


def _name(category: str) -> str:
    return unquote(category.rpartition("Category:")[2]).replace("_", " ")
