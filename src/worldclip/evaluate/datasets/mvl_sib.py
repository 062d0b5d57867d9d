"""MVL-SIB, sentence to image: which of four images is about the topic of the sentence, in mteb's packaging.

FOLDER/data/corpus/test.parquet          columns id ("image-geography_3"), image (struct of bytes and path)
FOLDER/data/<lang>/queries.parquet       id, text; <lang> is a FLORES code (eng_Latn)
FOLDER/data/<lang>/top_ranked.parquet    query-id, corpus-ids: the images to choose from
FOLDER/data/<lang>/qrels.parquet         query-id, corpus-id: the right one
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import build_dataset
from worldclip.evaluate.datasets.common.images import fingerprints
from worldclip.evaluate.datasets.common.parquet import images_in_parquet, read_parquet
from worldclip.evaluate.datasets.common.text_files import our_codes
from worldclip.evaluate.selection import ImageChoice
from worldclip.evaluate.tasks import Dataset, Task
from worldclip.language.table import INSTALLED, Languages

FILES = ("queries", "top_ranked", "qrels")


def load(name: str, folder: Path, languages: Languages = INSTALLED) -> Dataset:
    """Return the dataset in `folder`."""
    corpus = folder / "data" / "corpus" / "test.parquet"
    images = images_in_parquet([corpus], "id", str, corpus.parent, is_sorted=False)
    langs = sorted(path.name for path in (folder / "data").iterdir() if path.is_dir() and path.name != "corpus")
    if not langs:
        raise UserError(f"{folder / 'data'} has no folder of a language; each must hold {', '.join(FILES)} (.parquet)")
    position = {key: i for i, key in enumerate(images.keys)}
    ours = our_codes(langs, languages)
    tasks: dict[str, list[Task]] = {ours[lang]: [_task(folder / "data" / lang, position)] for lang in langs}
    paths = [folder / "data" / lang / f"{file}.parquet" for lang in langs for file in FILES]
    return build_dataset(name, images, tasks, [images.fingerprints, fingerprints(paths, folder)])


def _task(folder: Path, position: dict[str, int]) -> ImageChoice:
    """Return the questions of a language."""
    queries, top_ranked, qrels = (folder / f"{name}.parquet" for name in FILES)
    candidates = {row["query-id"]: row["corpus-ids"] for row in read_parquet(top_ranked, ("query-id", "corpus-ids"))}
    right = {row["query-id"]: row["corpus-id"] for row in read_parquet(qrels, ("query-id", "corpus-id"))}
    questions = read_parquet(queries, ("id", "text"))
    sizes = {len(candidates.get(question["id"]) or ()) for question in questions}
    if len(sizes) != 1 or sizes == {0}:
        raise UserError(f"{top_ranked} must list equally many images for each sentence of {queries.name}")
    for question in questions:
        key = question["id"]
        unknown = [image for image in candidates[key] if image not in position]
        if unknown or right.get(key) not in candidates[key] or not isinstance(question["text"], str):
            raise UserError(
                f"{folder}: sentence {key!r}: its text, its images in {top_ranked.name} (all in corpus/test.parquet) "
                f"and the right one in {qrels.name} (one of them) do not fit together; fetch the files again"
            )
    images = [candidates[question["id"]] for question in questions]
    answers = [right[question["id"]] for question in questions]
    return ImageChoice(
        texts=[question["text"] for question in questions],
        candidates=np.array([list(map(position.__getitem__, keys)) for keys in images]),
        answer=np.array([keys.index(answer) for keys, answer in zip(images, answers, strict=True)]),
    )
