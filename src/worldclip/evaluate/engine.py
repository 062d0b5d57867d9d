"""One pass: each image is encoded once however many languages ask, each text once however many tasks hold it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from worldclip.errors import UserError
from worldclip.evaluate.tasks import Dataset, Score, Task
from worldclip.formats import digest, write_array, write_text

PROTOCOL_VERSION = 1  # of the numbers; a record of another version is evaluated anew
TEXTS_KEPT = 100_000  # features of this many texts stay at hand for the next task

Record = dict[str, Any]


class Model(Protocol):
    """What is asked of a model, see inference.Clip."""

    def encode_image(self, images: Sequence[bytes]) -> np.ndarray: ...
    def encode_text(self, texts: Sequence[str]) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """(N, embed_dim) float32, NaN in the rows of images that would not decode, which `bad` lists with their reason."""

    features_ND: np.ndarray
    bad: list[dict[str, str]]


class TextFeatures:
    """Texts -> features, each distinct text encoded once while it stays at hand."""

    def __init__(self, model: Model, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, embed_dim) float32."""
        missing = sorted({text for text in texts if text not in self._known}, key=lambda text: (len(text), text))
        if len(self._known) + len(missing) > TEXTS_KEPT:
            self._known = {text: self._known[text] for text in set(texts) if text in self._known}
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            self._known.update(zip(batch, np.asarray(self._model.encode_text(batch), np.float32), strict=True))
        return np.stack([self._known[text] for text in texts])


def encode_images(model: Model, dataset: Dataset, batch_size: int) -> ImageFeatures:
    """All images of `dataset`; one that will not decode is dropped and listed.  UserError where none decodes."""
    num_images = len(dataset.image_keys)
    features: np.ndarray | None = None
    bad: list[dict[str, str]] = []
    for start in range(0, num_images, batch_size):
        images = dataset.read_images(start, min(start + batch_size, num_images))
        rows, good, reasons = _encode_batch(model, images)
        bad += [{"key": dataset.image_keys[start + i], "reason": reason} for i, reason in reasons.items()]
        if features is None and len(rows):
            features = np.full((num_images, rows.shape[1]), np.nan, np.float32)
        if features is not None and len(rows):
            features[start + good] = rows
    if features is None:
        example = f": {bad[0]['key']}: {bad[0]['reason']}" if bad else ""
        raise UserError(f"data set {dataset.name}: not one of its {num_images} images decodes{example}")
    return ImageFeatures(features_ND=features, bad=bad)


def _encode_batch(model: Model, images: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Features, the positions they are of, and the reason of each image that has none."""
    try:
        return model.encode_image(images), np.arange(len(images)), {}
    except UserError:  # one of them will not decode: find out which
        rows, good, reasons = [], [], {}
    for i, image in enumerate(images):
        try:
            rows.append(model.encode_image([image])[0])
            good.append(i)
        except UserError as error:
            reasons[i] = str(error).removeprefix("image 0: ")
    return np.array(rows, np.float32), np.array(good, np.int64), reasons


def evaluate(
    model: Model,
    model_id: dict[str, str],
    datasets: Sequence[Dataset],
    languages: Sequence[str],
    results_path: Path,
    *,
    batch_size: int = 256,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[list[Record], dict[str, ImageFeatures], TextFeatures]:
    """Records of every data set, language and task, written to `results_path` after each (data set, language).

    What `results_path` already holds of this model and this data is kept.  languages: empty for all that a data set
    has; those that a data set lacks are absent from its records, never zero.  Returns the records in order (data set,
    language, task), and the features, for galleries and the like.
    """
    records = read_results(results_path)
    kept = {record["digest"]: record for record in records}
    features = {dataset.name: encode_images(model, dataset, batch_size) for dataset in datasets}
    encode_text = TextFeatures(model, batch_size)
    found: dict[str, Record] = {}
    for lang in _languages_asked(datasets, languages):
        for dataset in datasets:
            if lang not in dataset.languages:
                continue
            fresh = False
            for task in dataset.tasks(lang):
                identity = _identity(model_id, dataset, lang, task)
                known = kept.get(digest(identity))
                if known is None:
                    score = task.score(features[dataset.name].features_ND, encode_text)
                    _write_ranks(results_path.parent, identity, score)
                    record = _record(identity, score)
                else:
                    record = known
                found[record["digest"]] = record
                fresh = fresh or known is None
            if fresh:
                say(f"{dataset.name} in {lang}")
                _write_results(results_path, kept | found, datasets)  # a sweep cut here goes on after this language
    _write_results(results_path, found, datasets)
    return _in_order(found, datasets), features, encode_text


def _languages_asked(datasets: Sequence[Dataset], languages: Sequence[str]) -> list[str]:
    there = list(dict.fromkeys(lang for dataset in datasets for lang in dataset.languages))
    if not languages:
        return there
    if missing := [lang for lang in languages if lang not in there]:
        names = ", ".join(dataset.name for dataset in datasets)
        raise UserError(f"evaluate.languages names {', '.join(missing)}, which {names} have not; they have {there}")
    return list(languages)


def _identity(model_id: dict[str, str], dataset: Dataset, lang: str, task: Task) -> Record:
    return {
        **model_id,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "lang": lang,
        "task": task.name,
        "protocol": {"version": PROTOCOL_VERSION, **task.protocol},
    }


def ranks_path(folder: Path, record: Record, way: str) -> Path:
    """Where the ranks behind a record's metrics lie: `acc` of acc1 and acc5, `image_retrieval_recall@`, ..."""
    return folder / "ranks" / record["dataset"] / record["lang"] / f"{record['task']}.{way.rstrip('@')}.npy"


def _write_ranks(folder: Path, identity: Record, score: Score) -> None:
    for way, found in score.ranks.items():
        write_array(ranks_path(folder, identity, way), found.astype(np.int32))


def _record(identity: Record, score: Score) -> Record:
    record = {**identity, "n": score.n, **score.more, "metrics": score.metrics, "chance": score.chance}
    record["interval_95"] = {name: list(bounds) for name, bounds in score.interval.items()}
    if score.slices:
        record["slices"] = score.slices
    return {**record, "digest": digest(identity)}


def read_results(path: Path) -> list[Record]:
    """The records of a results.jsonl, none where there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _in_order(found: dict[str, Record], datasets: Sequence[Dataset]) -> list[Record]:
    place = {dataset.name: i for i, dataset in enumerate(datasets)}
    return sorted(found.values(), key=lambda record: place.get(record["dataset"], len(place)))


def _write_results(path: Path, found: dict[str, Record], datasets: Sequence[Dataset]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in _in_order(found, datasets)]
    write_text(path, "".join(f"{line}\n" for line in lines))
