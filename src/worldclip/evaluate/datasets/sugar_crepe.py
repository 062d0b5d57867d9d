"""SugarCrepe: which of two captions, one of them subtly wrong, belongs to the image.

    FOLDER/<kind>.json   add_att, add_obj, replace_att, replace_obj, replace_rel, swap_att, swap_obj:
                         {"0": {"filename": "000000085329.jpg", "caption": "...", "negative_caption": "..."}, ...}
    FOLDER/images/       COCO's val2017

One task over all questions (micro average); parts are by kind.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.errors import UserError
from worldclip.evaluate.datasets.class_names import read_json_record
from worldclip.evaluate.datasets.files import file_reader, find_images
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Dataset
from worldclip.formats import digest, fingerprint

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FIELDS = ("filename", "caption", "negative_caption")


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`, of the kinds that are there.  UserError for each way in which the layout is wrong."""
    files = [path for kind in KINDS if (path := folder / f"{kind}.json").exists()]
    if not files:
        raise UserError(f"{folder} holds none of {', '.join(f'{kind}.json' for kind in KINDS)}")
    questions = [
        (path.stem, record, f"{path}: {key}") for path in files for key, record in read_json_record(path).items()
    ]
    if not questions:
        raise UserError(f"{folder}: its files hold no question")
    for _, record, where in questions:
        if lacking := [field for field in FIELDS if not record.get(field)]:
            raise UserError(f"{where} lacks {', '.join(lacking)}")
    stems = [Path(record["filename"]).stem for _, record, _ in questions]
    keys = sorted(set(stems))
    position = {key: i for i, key in enumerate(keys)}
    kinds = np.array([kind for kind, _, _ in questions])
    task = Choice(
        options=[[record["caption"], record["negative_caption"]] for _, record, _ in questions],
        answer=np.zeros(len(questions), np.int64),
        image_idx=np.array([position[stem] for stem in stems]),
        slices={kind: kinds == kind for kind in dict.fromkeys(kinds.tolist())},
        protocol={"average": "micro over questions"},
    )
    paths = find_images(folder / "images", keys, folder)
    images = [fingerprint(path, folder) for path in paths]
    return Dataset(
        name=name,
        digest=digest([images, [fingerprint(path, folder) for path in files]]),
        images_digest=digest(images),
        image_keys=keys,
        read_images=file_reader(paths),
        languages=("en",),
        tasks=lambda lang: [task],
    )
