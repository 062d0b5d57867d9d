"""Google Landmarks v2, zero-shot: which landmark is in the image.

    FOLDER/recognition_solution_v2.1.csv   id, landmarks (landmark ids with blanks between; empty: no landmark), Usage
    FOLDER/train_label_to_category.csv     landmark_id, category (.../wiki/Category:Eiffel_Tower)
    FOLDER/test/0/1/2/0123456789abcdef.jpg the images, in folders by the first three letters of their id

Images with a landmark are asked among the landmarks that occur; the name is the category without `Category:`, `_` as a
blank.  An image of several landmarks is right with any of them.  A CSV of the same columns with fewer rows is a subset:
the paper's own subset is not published.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from urllib.parse import unquote

from worldclip.evaluate.datasets.common.build import classification_dataset
from worldclip.evaluate.datasets.common.class_names import Names, in_languages
from worldclip.evaluate.datasets.common.images import fingerprints, images_at
from worldclip.evaluate.datasets.common.text_files import read_columns
from worldclip.evaluate.tasks import Dataset


def load(name: str, folder: Path) -> Dataset:
    solution = folder / "recognition_solution_v2.1.csv"
    categories = folder / "train_label_to_category.csv"
    answers = read_columns(solution)
    keys = []
    paths = []
    landmarks = []
    for key, ids_of_image in zip(answers["id"], map(str.split, answers["landmarks"]), strict=True):
        if ids_of_image:
            keys.append(key)
            paths.append("/".join([*key[:3], f"{key}.jpg"]))
            landmarks.append(ids_of_image)
    columns = read_columns(categories)
    name_of = {}
    for landmark, category in zip(columns["landmark_id"], columns["category"], strict=True):
        name_of[landmark] = unquote(category.rpartition("Category:")[2]).replace("_", " ")
    # Ids are numbers as text: by length, then by text, is their numeric order.
    ids = sorted(set(itertools.chain.from_iterable(landmarks)), key=lambda text: (len(text), text))
    images = images_at(folder, folder / "test", paths, solution, keys)
    names = []
    position = {}
    for i, landmark in enumerate(ids):
        names.append([name_of[landmark]])
        position[landmark] = i
    return classification_dataset(
        name,
        folder,
        images,
        in_languages(Names(names, ["a photo of {}."]), folder),
        [list(map(position.__getitem__, right)) for right in landmarks],
        fingerprints([solution, categories]),
        protocol={"names": "categories of the landmarks that occur"},
    )
