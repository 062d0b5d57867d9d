"""CVQA: questions about images with four options, asked in English (`en`) and in the language they were written in.

    FOLDER/data/test-*.parquet   columns image, ID, Subset ("('Swahili', 'Kenya')"), Question, Options,
                                 Translated Question, Translated Options, Label
    FOLDER/labels.json           {ID: 0 to 3}: the answers, as every published Label is -1 (they are kept for a
                                 leaderboard)

Protocol: the text of an option is `question + " " + option`; micro average over questions.  `local` stands for the
languages the questions were written in, taken together; parts are by country and by language.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.artifacts import Json
from worldclip.core.errors import BadShard, UserError
from worldclip.core.parquet_size import check_parquet
from worldclip.core.regular_file import open_regular
from worldclip.evaluate.datasets.common.build import build_dataset, slices_by
from worldclip.evaluate.datasets.common.images import Images, fingerprints
from worldclip.evaluate.datasets.common.text_files import class_index, our_code, parse_list, read_json
from worldclip.evaluate.selection import Choice
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import INSTALLED, Languages
from worldclip.report.results import LOCAL

NUM_OPTIONS = 4
COLUMNS = ["ID", "Subset", "Question", "Options", "Translated Question", "Translated Options", "Label"]


def load(name: str, folder: Path, languages: Languages = INSTALLED) -> Dataset:
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise ValueError(f"{folder} holds no data/test-*.parquet")
    questions: list[Json] = []
    for path in files:
        questions += _open(path).read(COLUMNS).to_pylist()
    labels_path = folder / "labels.json"
    labels = read_json(labels_path) if labels_path.exists() else {}
    stated = [labels.get(question["ID"], question["Label"]) for question in questions]
    if -1 in stated:
        first = questions[stated.index(-1)]["ID"]
        raise UserError(
            f"{folder}: {stated.count(-1)} of {len(stated)} questions have no answer (Label is -1), the first is "
            f"{first}; put the answers into {labels_path}: {{ID: 0 to 3}}"
        )
    answers = [class_index(answer, NUM_OPTIONS, str(labels_path)) for answer in stated]
    images = _images(files, folder)
    position = {key: i for i, key in enumerate(images.keys)}
    # Parts by country and by language, by our code where our table has one.
    codes = {language.name.lower(): language.code for language in languages.all_languages()}
    images_of_questions = []
    countries = []
    langs = []
    for question in questions:
        images_of_questions.append(position[_image_key(question["ID"])])
        language_name, country = parse_list(question["Subset"])  # "('Swahili', 'Kenya')"
        language_name = language_name.replace("_", " ").lower()
        countries.append(country)
        langs.append(our_code(codes.get(language_name, language_name), languages))
    image_idx = np.array(images_of_questions)
    slices = slices_by(countries, "country ") | slices_by(langs, "lang ")
    tasks = {
        "en": [_task(questions, "Translated ", answers, image_idx, slices)],
        LOCAL: [_task(questions, "", answers, image_idx, slices)],
    }
    return build_dataset(name, images, tasks, [images.fingerprints, answers])


def _open(path: Path) -> pq.ParquetFile:
    """Return a file after a look at its footer, which may promise more than fits into memory."""
    with open_regular(path):
        check_parquet(path, path.stat().st_size)
    return pq.ParquetFile(path)


def _task(
    questions: Sequence[Json],
    prefix: str,
    answers: Sequence[int],
    image_idx: np.ndarray,
    slices: dict[str, np.ndarray],
) -> Choice:
    """Return the questions in one language.  prefix: of the columns that hold it."""
    options = []
    for question in questions:
        text = question[f"{prefix}Question"]
        texts = [f"{text} {option}" for option in question[f"{prefix}Options"]]
        if text is None or len(texts) != NUM_OPTIONS:
            raise ValueError(f"question {question['ID']} must have a text and {NUM_OPTIONS} options")
        options.append(texts)
    return Choice(
        options=options,
        answer=np.array(answers),
        image_idx=image_idx,
        slices=slices,
        protocol={"text": "question + ' ' + option", "average": "micro over questions"},
    )


def _image_key(question_id: str) -> str:
    """Return the name of a question's image: questions of one image share their ID up to the last `_`."""
    return question_id.rpartition("_")[0] or question_id


def _images(files: Sequence[Path], folder: Path) -> Images:
    """Return the distinct images, sorted by name, each from the first row that has it."""
    places: dict[str, tuple[Path, int, int]] = {}
    for path in files:
        file = _open(path)
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["ID"])["ID"].to_pylist()
            for row, question_id in enumerate(ids):
                places.setdefault(_image_key(question_id), (path, group, row))
    keys = sorted(places)
    # The row group that was read last: keys are mostly in the order of the rows, so that it has the next image too.
    latest: dict[tuple[Path, int], pa.Table] = {}

    def read(start: int, stop: int) -> list[bytes]:
        images = []
        for key in keys[start:stop]:
            path, group, row = places[key]
            if (path, group) not in latest:
                latest.clear()
                latest[path, group] = _open(path).read_row_group(group, columns=["image"])
            image = latest[path, group]["image"][row].as_py() or {}
            if image.get("bytes") is None:
                raise BadShard(f"{path}: the image {key} has no bytes; fetch the dataset again")
            images.append(image["bytes"])
        return images

    return Images(keys=keys, read=read, fingerprints=fingerprints(files, folder))
