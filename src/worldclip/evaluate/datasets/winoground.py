"""Winoground: two images and two captions of the same words in another order.

    FOLDER/examples.jsonl   one example per line: {"id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1",
                            "caption_0": "...", "caption_1": "...", "collapsed_tag": "Object", ...}
    FOLDER/images/          ex_0_img_0.png, ...

Parts are by collapsed_tag.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from worldclip.core.artifacts import fingerprint
from worldclip.evaluate.datasets.common.build import build_dataset
from worldclip.evaluate.datasets.common.images import distinct_images
from worldclip.evaluate.datasets.common.text_files import read_records
from worldclip.evaluate.selection import Matching
from worldclip.evaluate.tasks import Dataset

FIELDS = ("image_0", "image_1", "caption_0", "caption_1")


def load(name: str, folder: Path) -> Dataset:
    """Return the dataset in `folder`."""
    path = folder / "examples.jsonl"
    examples = read_records(path, "one example per line", FIELDS, texts=FIELDS)
    stems = [(Path(example["image_0"]).stem, Path(example["image_1"]).stem) for example in examples]
    images, position = distinct_images(folder, itertools.chain.from_iterable(stems), path)
    tags = np.array([str(example.get("collapsed_tag", "")) for example in examples])
    task = Matching(
        texts=[(example["caption_0"], example["caption_1"]) for example in examples],
        image_idx=np.array([(position[first], position[second]) for first, second in stems]),
        slices={tag: tags == tag for tag in dict.fromkeys(tags.tolist()) if tag},
    )
    return build_dataset(name, images, {"en": [task]}, [images.fingerprints, fingerprint(path, folder)])
