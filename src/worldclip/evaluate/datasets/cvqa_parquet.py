"""CVQA as published: Parquet files that hold questions and images.

The published Label is -1 throughout, as the answers are kept for a leaderboard: who has them puts FOLDER/labels.json
beside, {ID: 0 to 3}.  Questions of one image share the part of their ID before the last `_`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate.datasets.class_names import read_json_record
from worldclip.language import table as languages

COLUMNS = {"ID": "id", "Question": "question", "Options": "options", "Translated Question": "question_en",
           "Translated Options": "options_en", "Label": "answer"}  # fmt: skip
LABELS = "labels.json"


def read_questions(files: Sequence[Path], folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Records as of questions.jsonl and where each stands.  UserError for absent columns and answers."""
    labels = read_json_record(folder / LABELS) if (folder / LABELS).exists() else {}
    found, where = [], []
    for path in files:
        names = _open(path).schema_arrow.names
        if lacking := [name for name in (*COLUMNS, "Subset", "image") if name not in names]:
            raise UserError(f"{path} lacks the columns {', '.join(lacking)}; it has {', '.join(names)}")
        for row, question in enumerate(_open(path).read(columns=[*COLUMNS, "Subset"]).to_pylist()):
            record = {ours: question[theirs] for theirs, ours in COLUMNS.items()}
            record["lang"], record["country"] = _subset(question["Subset"], f"{path}, row {row}")
            record["image"] = image_key(record["id"])
            record["answer"] = labels.get(record["id"], record["answer"])
            found.append(record)
            where.append(f"{path}, row {row}")
    if hidden := [record["id"] for record in found if record["answer"] == -1]:
        raise UserError(
            f"{folder}: {len(hidden)} of {len(found)} questions have no answer (Label is -1), the first is "
            f"{hidden[0]}; put them into {folder / LABELS}: {{ID: 0 to 3}}"
        )
    return found, where


def image_key(question_id: str) -> str:
    return question_id.rpartition("_")[0] or question_id


def _subset(text: str, where: str) -> tuple[str, str]:
    """(our code, country) of "('Swahili', 'Kenya')"; a language that the table lacks keeps its name."""
    try:
        name, country = map(str, ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError) as error:
        raise UserError(f"{where}: Subset is {text!r}; it is a pair, ('Swahili', 'Kenya')") from error
    name = name.replace("_", " ")
    codes = {language.name.lower(): language.code for language in languages.all_languages()}
    return codes.get(name.lower(), name.lower()), country


def image_reader(files: Sequence[Path], keys: Sequence[str]) -> Callable[[int, int], list[bytes]]:
    """Dataset.read_images over the images of `keys`, the first of each image's rows; a row group is read at a time."""
    place: dict[str, tuple[Path, int, int]] = {}
    for path in files:
        file = _open(path)
        for group in range(file.num_row_groups):
            for row, question_id in enumerate(file.read_row_group(group, columns=["ID"])["ID"].to_pylist()):
                place.setdefault(image_key(question_id), (path, group, row))
    latest: dict[tuple[Path, int], pa.Table] = {}

    def read(start: int, stop: int) -> list[bytes]:
        found = []
        for key in keys[start:stop]:
            path, group, row = place[key]
            if (path, group) not in latest:
                latest.clear()
                latest[path, group] = _open(path).read_row_group(group, columns=["image"])
            found.append(latest[path, group]["image"][row].as_py()["bytes"])
        return found

    return read


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadShard(f"{path}: not a readable Parquet file ({error})") from error
