"""SugarCrepe: which of two captions, one of them subtly wrong, belongs to the image.

    FOLDER/<kind>.json   add_att, add_obj, replace_att, replace_obj, replace_rel, swap_att, swap_obj:
                         {"0": {"filename": "000000085329.jpg", "caption": "...", "negative_caption": "..."}, ...}
    FOLDER/images/       COCO's val2017

One task over all questions (micro average); parts are by kind.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import build_dataset, slices_by
from worldclip.evaluate.datasets.common.images import distinct_images, fingerprints
from worldclip.evaluate.datasets.common.text_files import check_fields, read_json_object
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Dataset

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FIELDS = ("filename", "caption", "negative_caption")


def load(name: str, folder: Path) -> Dataset:
    """Return the dataset in `folder`."""
    files = [folder / f"{kind}.json" for kind in KINDS]
    if missing := [path.name for path in files if not path.exists()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}; the average is over the questions of all kinds")
    questions: list[Json] = []
    kinds: list[str] = []
    for path in files:
        records = read_json_object(path)
        if not records:
            raise UserError(f"{path} holds no question")
        for key, record in records.items():
            check_fields(record, FIELDS, FIELDS, f"{path}: {key}")
            questions.append(record)
            kinds.append(path.stem)
    stems = [Path(question["filename"]).stem for question in questions]
    images, position = distinct_images(folder, stems, folder)
    task = Choice(
        options=[[question["caption"], question["negative_caption"]] for question in questions],
        answer=np.zeros(len(questions), np.int64),
        image_idx=np.array([position[stem] for stem in stems]),
        slices=slices_by(kinds),
        protocol={"average": "micro over questions"},
    )
    return build_dataset(name, images, {"en": [task]}, [images.fingerprints, fingerprints(files, folder)])
