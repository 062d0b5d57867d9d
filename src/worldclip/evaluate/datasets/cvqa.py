"""CVQA: questions about images with four options, asked in English (`en`) and in the language they were written in.

As published:
    FOLDER/data/test-*.parquet   columns image, ID, Subset ("('Swahili', 'Kenya')"), Question, Options,
                                 Translated Question, Translated Options, Label; see cvqa_parquet
or as files:
    FOLDER/questions.jsonl       one question a line:
        {"id", "image": "0001.jpg", "lang": "sw", "country": "Kenya", "question", "options": [4], "question_en",
         "options_en": [4], "answer": 0 to 3}
    FOLDER/images/               the images

Protocol: the text of an option is `question + " " + option`; micro average over questions.  `local` stands for the
languages the questions were written in, taken together; parts are by country and by language.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import cvqa_parquet
from worldclip.evaluate.datasets.codes import our_code
from worldclip.evaluate.datasets.files import file_reader, find_images, read_records
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import LOCAL, Dataset, Task

NUM_OPTIONS = 4
TEXTS = ("image", "lang", "country", "question", "question_en")
FIELDS = (*TEXTS, "options", "options_en", "answer")


def load(name: str, folder: Path) -> Dataset:
    """The data set in `folder`.  UserError for images that are not there, options that are not four, and the like."""
    if parquet := sorted(folder.rglob("*.parquet")):
        records, where = cvqa_parquet.read_questions(parquet, folder)
        source: Any = folder
    else:
        path = folder / "questions.jsonl"
        if not path.exists():
            raise UserError(
                f"{folder} holds neither data/test-*.parquet nor questions.jsonl; one of them has the questions"
            )
        records, source = read_records(path, "questions", FIELDS, TEXTS), path
        where = [f"{path}:{number}" for number in range(1, len(records) + 1)]
    for record, place in zip(records, where, strict=True):
        _check(record, place)
    stems = [Path(record["image"]).stem for record in records]
    keys = sorted(set(stems))
    if parquet:
        read_images = cvqa_parquet.image_reader(parquet, keys)
        images = [fingerprint(path, folder) for path in parquet]
        contents: list[Any] = [images, [record["answer"] for record in records]]
    else:
        paths = find_images(folder / "images", keys, source)
        read_images = file_reader(paths)
        images = [fingerprint(path, folder) for path in paths]
        contents = [images, fingerprint(source, folder)]
    position = {key: i for i, key in enumerate(keys)}
    image_idx = np.array([position[stem] for stem in stems])
    return Dataset(
        name=name,
        digest=digest(contents),
        images_digest=digest(images),
        image_keys=keys,
        read_images=read_images,
        languages=("en", LOCAL),
        tasks=lambda lang: [_task(records, image_idx, lang)],
    )


def _check(record: dict[str, Any], where: str) -> None:
    for field in ("options", "options_en"):
        if not isinstance(record[field], list) or not all(isinstance(option, str) for option in record[field]):
            raise UserError(f"{where}: {field} is {record[field]!r}; it is a list of texts")
        if len(record[field]) != NUM_OPTIONS:
            raise UserError(f"{where} has {len(record[field])} {field}; there must be {NUM_OPTIONS}")
    if record["answer"] not in range(NUM_OPTIONS):
        raise UserError(f"{where} has answer {record['answer']!r}; it is the position of the right option, 0 to 3")


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
