"""SugarCrepe: which of two captions, one of them subtly wrong, belongs to the image.

    FOLDER/<kind>.json   add_att, add_obj, replace_att, replace_obj, replace_rel, swap_att, swap_obj:
                         {"0": {"filename": "000000085329.jpg", "caption": "...", "negative_caption": "..."}, ...}
    FOLDER/images/       COCO's val2017

One task over all questions (micro average); parts are by kind.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.class_names import read_json_record
from worldclip.evaluate.datasets.files import check_fields, file_reader, find_images
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Dataset

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FIELDS = ("filename", "caption", "negative_caption")


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`.  UserError for each way in which the layout is wrong."""
    files = [folder / f"{kind}.json" for kind in KINDS]
    if missing := [path.name for path in files if not path.exists()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}; the average is over the questions of all kinds")
    questions = [
        (path.stem, record, f"{path}: {key}") for path in files for key, record in read_json_record(path).items()
    ]
    asked = {kind for kind, _, _ in questions}
    if empty := [path.name for path in files if path.stem not in asked]:
        raise UserError(f"{folder}: {', '.join(empty)} holds no question")
    for _, record, where in questions:
        check_fields(record, FIELDS, FIELDS, where)
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
