"""Winoground: two images and two captions of the same words in another order.

    FOLDER/examples.jsonl   {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "...",
                             "caption_1": "...", "collapsed_tag": "Object", ...} a line
    FOLDER/images/          ex_0_img_0.png, ...

Parts are by collapsed_tag.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.evaluate.datasets.files import file_reader, find_images, read_records
from worldclip.evaluate.selection import Matching
from worldclip.evaluate.tasks import Dataset

FIELDS = ("image_0", "image_1", "caption_0", "caption_1")


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong."""
    path = folder / "examples.jsonl"
    examples = read_records(path, "an example a line", FIELDS, texts=FIELDS)
    stems = [[Path(example[field]).stem for field in ("image_0", "image_1")] for example in examples]
    keys = sorted({stem for pair in stems for stem in pair})
    position = {key: i for i, key in enumerate(keys)}
    tags = np.array([str(example.get("collapsed_tag", "")) for example in examples])
    task = Matching(
        texts=[(example["caption_0"], example["caption_1"]) for example in examples],
        image_idx=np.array([[position[stem] for stem in pair] for pair in stems]),
        slices={tag: tags == tag for tag in dict.fromkeys(tags.tolist()) if tag},
    )
    paths = find_images(folder / "images", keys, path)
    images = [fingerprint(image, folder) for image in paths]
    return Dataset(
        name=name,
        digest=digest([images, fingerprint(path, folder)]),
        images_digest=digest(images),
        image_keys=keys,
        read_images=file_reader(paths),
        languages=("en",),
        tasks=lambda lang: [task],
    )
