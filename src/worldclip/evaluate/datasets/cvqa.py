"""CVQA: questions about images with four options, asked in English (`en`) and in the language they were written in.

    FOLDER/questions.jsonl   one question a line:
        {"id", "image": "0001.jpg", "lang": "sw", "country": "Kenya", "question", "options": [4], "question_en",
         "options_en": [4], "answer": 0 to 3}
    FOLDER/images/           the images

Protocol: the text of an option is `question + " " + option`; micro average over questions.  `local` stands for the
languages the questions were written in, taken together; parts are by country and by language.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.errors import UserError
from worldclip.evaluate.datasets.captions import our_code
from worldclip.evaluate.datasets.files import file_reader, images_by_stem, read_lines
from worldclip.evaluate.tasks import LOCAL, Choice, Dataset, Task
from worldclip.formats import digest, fingerprint

NUM_OPTIONS = 4
FIELDS = ("image", "lang", "country", "question", "options", "question_en", "options_en", "answer")


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`.  UserError for images that are not there, options that are not four, and the like."""
    path = folder / "questions.jsonl"
    questions = [_question(line, f"{path}:{number}") for number, line in enumerate(read_lines(path, "questions"), 1)]
    there = images_by_stem(folder / "images")
    stems = [Path(question["image"]).stem for question in questions]
    if missing := sorted({stem for stem in stems if stem not in there}):
        raise UserError(
            f"{path} asks about {len(missing)} images that {folder / 'images'} lacks: {', '.join(missing[:5])}"
        )
    keys = sorted(set(stems))
    position = {key: i for i, key in enumerate(keys)}
    image_idx = np.array([position[stem] for stem in stems])
    paths = [there[key] for key in keys]
    return Dataset(
        name=name,
        digest=digest([fingerprint(path, folder), *(fingerprint(image, folder) for image in paths)]),
        image_keys=keys,
        read_images=file_reader(paths),
        languages=("en", LOCAL),
        tasks=lambda lang: [_task(questions, image_idx, lang)],
    )


def _question(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    if missing := [field for field in FIELDS if field not in record]:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    for field in ("options", "options_en"):
        if len(record[field]) != NUM_OPTIONS:
            raise UserError(f"{where} has {len(record[field])} {field}; there must be {NUM_OPTIONS}")
    if record["answer"] not in range(NUM_OPTIONS):
        raise UserError(f"{where} has answer {record['answer']!r}; it is the position of the right option, 0 to 3")
    return record


def _task(questions: Sequence[dict[str, Any]], image_idx: np.ndarray, lang: str) -> Task:
    suffix = "" if lang == LOCAL else "_en"
    slices: dict[str, np.ndarray] = {}
    for field in ("country", "lang"):
        values = np.array([our_code(question[field]) if field == "lang" else question[field] for question in questions])
        slices |= {f"{field} {value}": values == value for value in np.unique(values)}
    return Choice(
        options=[
            [f"{question[f'question{suffix}']} {option}" for option in question[f"options{suffix}"]]
            for question in questions
        ],
        answer=np.array([question["answer"] for question in questions]),
        image_idx=image_idx,
        slices=slices,
        protocol={"text": "question + ' ' + option", "average": "micro over questions"},
    )
