"""CVQA: questions about images with four options, asked in English (`en`) and in the language they were written in.

As published:
    FOLDER/data/test-*.parquet   columns image, ID, Subset ("('Swahili', 'Kenya')"), Question, Options,
                                 Translated Question, Translated Options, Label
    FOLDER/labels.json           {ID: 0 to 3}: the answers, as every published Label is -1 (they are kept for a
                                 leaderboard)
or as files:
    FOLDER/questions.jsonl       one question per line:
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

from worldclip.core.artifacts import Json, fingerprint
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common import text_files
from worldclip.evaluate.datasets.common.build import build_dataset, slices_by
from worldclip.evaluate.datasets.common.images import distinct_images
from worldclip.evaluate.datasets.common.parquet import images_in_parquet, read_parquet
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import INSTALLED, Languages
from worldclip.report.results import LOCAL

NUM_OPTIONS = 4
TEXTS = ("image", "lang", "country", "question", "question_en")
FIELDS = (*TEXTS, "options", "options_en", "answer")
COLUMNS = {"ID": "id", "Question": "question", "Options": "options", "Translated Question": "question_en",
           "Translated Options": "options_en", "Label": "answer"}  # fmt: skip
LABELS = "labels.json"


def load(name: str, folder: Path, languages: Languages = INSTALLED) -> Dataset:
    """Return the dataset in `folder`."""
    parquet = sorted(folder.rglob("*.parquet"))
    path = folder / "questions.jsonl"
    contents: list[Any]
    if parquet:
        questions = _read_parquet(parquet, folder, languages)
        images = images_in_parquet(parquet, "ID", _image_key, folder, is_sorted=True)
        contents = [images.fingerprints, [question["answer"] for question in questions]]
    elif path.exists():
        questions = text_files.read_records(path, "questions", FIELDS, TEXTS)
        for number, question in enumerate(questions, 1):
            _check(question, f"{path}:{number}")
        images, _ = distinct_images(folder, [Path(question["image"]).stem for question in questions], path)
        contents = [images.fingerprints, fingerprint(path, folder)]
    else:
        raise UserError(f"{folder} holds neither data/test-*.parquet nor questions.jsonl; it needs one of them")
    position = {key: i for i, key in enumerate(images.keys)}
    image_idx = np.array([position[Path(question["image"]).stem] for question in questions])
    tasks = {"en": [_task(questions, image_idx, "_en", languages)], LOCAL: [_task(questions, image_idx, "", languages)]}
    return build_dataset(name, images, tasks, contents)


def _check(question: Json, where: str) -> None:
    for field in ("options", "options_en"):
        options = question[field]
        if not text_files.is_texts(options):
            raise UserError(f"{where}: {field} is {options!r}; it must be a list of texts")
        if len(options) != NUM_OPTIONS:
            raise UserError(f"{where} has {len(options)} {field}; it must have {NUM_OPTIONS}")
    if type(question["answer"]) is not int or question["answer"] not in range(NUM_OPTIONS):
        raise UserError(f"{where} has answer {question['answer']!r}; it must be the position of the right option, 0-3")


def _task(questions: Sequence[Json], image_idx: np.ndarray, suffix: str, languages: Languages) -> Choice:
    """Return the questions in one language; suffix: of the fields that hold it."""
    options = []
    for question in questions:
        text = question[f"question{suffix}"]
        options.append([f"{text} {option}" for option in question[f"options{suffix}"]])
    by_country = slices_by([question["country"] for question in questions], "country ")
    codes = [text_files.our_code(question["lang"], languages) for question in questions]
    by_language = slices_by(codes, "lang ")
    return Choice(
        options=options,
        answer=np.array([question["answer"] for question in questions]),
        image_idx=image_idx,
        slices=by_country | by_language,
        protocol={"text": "question + ' ' + option", "average": "micro over questions"},
    )


def _read_parquet(files: Sequence[Path], folder: Path, languages: Languages) -> list[Json]:
    """Return the published questions with the fields of questions.jsonl.

    Raises UserError for missing columns and answers.
    """
    answers = text_files.read_json_object(folder / LABELS) if (folder / LABELS).exists() else {}
    questions = []
    for path in files:
        for number, row in enumerate(read_parquet(path, (*COLUMNS, "Subset"))):
            where = f"{path}, row {number}"
            question = {ours: row[theirs] for theirs, ours in COLUMNS.items()}
            text_files.check_fields(question, (), ("id", "question", "question_en"), where)
            question["lang"], question["country"] = _language_and_country(row["Subset"], where, languages)
            question["image"] = _image_key(question["id"])
            question["answer"] = answers.get(question["id"], question["answer"])
            questions.append((question, where))
    if unanswered := [question["id"] for question, _ in questions if question["answer"] == -1]:
        raise UserError(
            f"{folder}: {len(unanswered)} of {len(questions)} questions have no answer (Label is -1), the first is "
            f"{unanswered[0]}; put the answers into {folder / LABELS}: {{ID: 0 to 3}}"
        )
    for question, where in questions:
        _check(question, where)
    return [question for question, _ in questions]


def _image_key(question_id: str) -> str:
    """Return the name of a published question's image: questions of one image share their ID up to the last `_`."""
    return question_id.rpartition("_")[0] or question_id


def _language_and_country(text: str, where: str, languages: Languages) -> tuple[str, str]:
    """Return (our code, country) of "('Swahili', 'Kenya')"; a language that our table lacks keeps its name."""
    values = text_files.parse_list(text, f"{where}: Subset", "a pair, ('Swahili', 'Kenya')")
    if len(values) != 2:
        raise UserError(f"{where}: Subset is {text!r}; it must be a pair, ('Swahili', 'Kenya')")
    name, country = (str(value) for value in values)
    name = name.replace("_", " ").lower()
    codes = {language.name.lower(): language.code for language in languages.all_languages()}
    return codes.get(name, name), country
