"""Held-out images with the model's best names in several languages, right and wrong ones, chosen by hash."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from worldclip.core.coin import sample_rows
from worldclip.evaluate import zeroshot
from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.ranking import top
from worldclip.evaluate.tasks import Classification, Dataset

NUM_NAMES = 5
MAX_TEXTS = 10_000  # of a language: what has more (ImageNet's 1,000 classes x 80 templates) is not encoded once more
MAX_BYTES, THUMBNAIL_PX = 20_000, 192  # larger images are shown small: the page carries them inline
_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"RIFF", "webp"), (b"GIF8", "gif"))


def gallery(
    dataset: Dataset, image_ND: np.ndarray, encode: TextFeatures, languages: Sequence[str], size: int
) -> list[dict[str, Any]]:
    """`size` images of `dataset` with the NUM_NAMES best names in each of `languages`; JSON-able.

    Nothing of a data set with more than MAX_TEXTS texts.  Half of them are right in the first language (the first name
    is the image's own) where there are as many; the rest are wrong.  Which ones is decided by a hash of the key, so
    that nobody picks.
    """
    tasks = {lang: task for lang in languages if (task := _classification(dataset, lang)) is not None}
    tasks = {lang: task for lang, task in tasks.items() if len(task.asked_texts()) <= MAX_TEXTS}
    if not tasks or not size:
        return []
    class_CD = {
        lang: zeroshot.class_embeddings(task.class_names, task.templates, encode) for lang, task in tasks.items()
    }
    first_lang, first = next(iter(tasks.items()))
    first_ids = (image_ND[first.image_idx] @ class_CD[first_lang].T).argmax(axis=1)
    decoded = np.flatnonzero(~np.isnan(image_ND[first.image_idx]).any(axis=1))
    keys = [dataset.image_keys[int(idx)] for idx in first.image_idx[decoded]]
    asked = decoded[sample_rows(keys, 0, len(keys))[0]]
    is_right = first_ids[asked] == first.target[asked]
    num_right = min(int(is_right.sum()), size - min(size // 2, int((~is_right).sum())))
    chosen = np.array([*asked[is_right][:num_right], *asked[~is_right][: size - num_right]], np.int64)
    best = {lang: top(image_ND[first.image_idx[chosen]], classes, NUM_NAMES) for lang, classes in class_CD.items()}
    shown = []
    for i, row in enumerate(chosen):
        idx = int(first.image_idx[row])
        names = {}
        for lang, task in tasks.items():
            target = _target(task, idx)
            if target is None:  # the class of this image has no name in this language
                continue
            names[lang] = {
                "truth": task.class_names[target][0],
                "best": [
                    {"name": task.class_names[c][0], "score": round(float(score), 4), "is_right": bool(c == target)}
                    for c, score in zip(best[lang][0][i], best[lang][1][i], strict=True)
                ],
            }
        image = thumbnail(dataset.read_images(idx, idx + 1)[0])
        shown.append({"dataset": dataset.name, "key": dataset.image_keys[idx], "image": image, "names": names})
    return shown


def _classification(dataset: Dataset, lang: str) -> Classification | None:
    if lang not in dataset.languages:
        return None
    return next((task for task in dataset.tasks(lang) if isinstance(task, Classification)), None)


def _target(task: Classification, image_idx: int) -> int | None:
    rows = np.flatnonzero(task.image_idx == image_idx)
    return int(task.target[rows[0]]) if len(rows) else None


def thumbnail(image: bytes) -> str:
    """An image file as a data: address, made smaller where it is more than MAX_BYTES.  Raises what Pillow raises."""
    return _data_uri(_small(image))


def _small(image: bytes) -> bytes:
    if len(image) <= MAX_BYTES:
        return image
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        shown = opened.convert("RGB")
    shown.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=85)
    return file.getvalue()


def _data_uri(image: bytes) -> str:
    kind = next((name for magic, name in _MAGIC if image.startswith(magic)), "octet-stream")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
