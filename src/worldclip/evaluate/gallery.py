"""Held-out images with the model's best names in several languages, right and wrong, chosen by hash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.core.coin import sample_rows
from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.ranking import top
from worldclip.evaluate.tasks import Classification, Dataset, class_embeddings, decoded
from worldclip.report.images import data_uri

NUM_NAMES = 5
NUM_IMAGES = 12
MAX_TEXTS = 10_000  # texts per language; larger datasets (ImageNet: 1,000 classes x 80 templates) are skipped


def gallery(
    dataset: Dataset, image_ND: np.ndarray, encode: TextFeatures, languages: Sequence[str], size: int = NUM_IMAGES
) -> list[Json]:
    """Return `size` images of a dataset with the NUM_NAMES best names in each language.

    Half of them are right in the first language (the best name is the image's own), as far as there are enough; the
    others are wrong.  Images are chosen by a hash of their key.  Returns [] for a dataset with more than MAX_TEXTS
    texts.
    """
    tasks: dict[str, Classification] = {}
    class_CD: dict[str, np.ndarray] = {}
    for lang in languages:
        task = next((task for task in dataset.tasks(lang) if isinstance(task, Classification)), None)
        if task is not None and len(task.texts_to_encode()) <= MAX_TEXTS:
            tasks[lang] = task
            class_CD[lang] = class_embeddings(task.class_names, task.templates, encode.in_language(lang))
    if not tasks:
        return []
    first_lang = next(iter(tasks))
    first = tasks[first_lang]
    # All rows of the task in order of hashes.  One is right if its best name is one of its right classes.
    features_ND = image_ND[first.image_idx]
    is_decoded = decoded(features_ND)
    keys = [dataset.image_keys[int(idx)] for idx in first.image_idx[is_decoded]]
    in_order = np.flatnonzero(is_decoded)[sample_rows(keys, 0, len(keys))[0]]
    best_class = top(features_ND[in_order], class_CD[first_lang], 1)[0][:, 0]
    further_rows, further_classes = first.also_right
    num_classes = len(class_CD[first_lang])
    is_further = np.isin(in_order * num_classes + best_class, further_rows * num_classes + further_classes)
    is_right = (best_class == first.target[in_order]) | is_further
    num_wrong = min(size // 2, int((~is_right).sum()))
    num_right = min(int(is_right.sum()), size - num_wrong)
    rows = np.array([*in_order[is_right][:num_right], *in_order[~is_right][: size - num_right]], np.int64)
    image_idx = first.image_idx[rows]
    best = {lang: top(image_ND[image_idx], classes, NUM_NAMES) for lang, classes in class_CD.items()}
    images: list[Json] = []
    for i, idx in enumerate(image_idx.tolist()):
        names: dict[str, Json] = {}
        for lang, task in tasks.items():
            row = int(rows[i])
            if lang != first_lang:
                rows_of_image = np.flatnonzero(task.image_idx == idx)
                if not len(rows_of_image):  # the class of this image has no name in this language
                    continue
                row = int(rows_of_image[0])
            # The classes that count as right, the target first.
            further_rows, further_classes = task.also_right
            right_classes = [int(task.target[row]), *further_classes[further_rows == row].tolist()]
            best_names: list[Json] = []
            class_ids, scores = best[lang]
            for c, score in zip(class_ids[i].tolist(), scores[i].tolist(), strict=True):
                name = task.class_names[c][0]
                best_names.append({"name": name, "score": round(score, 4), "is_right": c in right_classes})
            truth = ", ".join(task.class_names[c][0] for c in right_classes)
            names[lang] = {"truth": truth, "best": best_names}
        image = data_uri(dataset.read_images(idx, idx + 1)[0])
        images.append({"dataset": dataset.name, "key": dataset.image_keys[idx], "image": image, "names": names})
    return images
