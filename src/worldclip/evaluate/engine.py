"""One pass: each image is encoded once however many languages ask, each text once however many tasks hold it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import digest, write_array, write_text
from worldclip.core.errors import UserError
from worldclip.evaluate.image_features import ImageFeatures, Model, cache_folder, encode_images
from worldclip.evaluate.tasks import Dataset, Score, Task

PROTOCOL_VERSION = 3  # of the numbers; a record of another version is evaluated anew
TEXTS_KEPT = 100_000  # features of this many texts stay at hand for the next task
GROUP_TEXTS = 4_096  # texts of languages that are encoded together, so that batches are full and of like length

Record = dict[str, Any]


class TextFeatures:
    """Texts -> features, each distinct text encoded once while it stays at hand."""

    def __init__(self, model: Model, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, embed_dim) float32."""
        self.encode(texts)
        return np.stack([self._known[text] for text in texts])

    def encode(self, texts: Sequence[str]) -> None:
        """Bring the features of `texts` to hand, in batches of like length."""
        missing = sorted({text for text in texts if text not in self._known}, key=lambda text: (len(text), text))
        if len(self._known) + len(missing) > TEXTS_KEPT:
            self._known = {text: self._known[text] for text in set(texts) if text in self._known}
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            self._known.update(zip(batch, np.asarray(self._model.encode_text(batch), np.float32), strict=True))


def evaluate(
    model: Model,
    model_id: dict[str, str],
    datasets: Sequence[Dataset],
    languages: Sequence[str],
    results_path: Path,
    *,
    batch_size: int = 256,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[list[Record], dict[str, ImageFeatures], TextFeatures]:
    """Records of every data set, language and task, written to `results_path` after each (data set, language).

    What `results_path` already holds of this model and this data is kept.  languages: empty for all that a data set
    has; those that a data set lacks are absent from its records, never zero.  cache: folder of image features, see
    image_features.  Returns the records in order (data set, language, task), and the features, for galleries and the
    like.
    """
    asked = questions(datasets, languages)
    kept = {record["digest"]: record for record in read_results(results_path)}
    features = {
        dataset.name: encode_images(
            model,
            dataset,
            batch_size,
            cache and cache_folder(cache, model, model_id.get("model_digest", ""), dataset),
            say,
        )
        for dataset in datasets
    }
    encode_text = TextFeatures(model, batch_size)
    found: dict[str, Record] = {}
    todo = []
    for dataset, lang in asked:
        records = known_records(model_id, dataset, lang, kept)
        if records is None:
            todo.append((dataset, lang))
        else:
            found |= {record["digest"]: record for record in records}
    if not todo:
        say(f"nothing to do: results.jsonl has all {len(found):,} records")
    for group, texts in grouped(todo):
        encode_text.encode(texts)
        for dataset, lang in group:
            image_ND = features[dataset.name].features_ND
            records = score_language(model_id, dataset, lang, image_ND, encode_text, results_path.parent, kept)
            found |= {record["digest"]: record for record in records}
            say(f"{dataset.name} in {lang}")
            write_results(results_path, kept | found, datasets)  # a sweep cut here goes on after this language
    found = {each: found[each] for each in _digests(model_id, datasets, languages)}
    write_results(results_path, found, datasets)
    return _in_order(found, datasets), features, encode_text


def questions(datasets: Sequence[Dataset], languages: Sequence[str]) -> list[tuple[Dataset, str]]:
    """(data set, language) in the order of the sweep: all data sets of a language, then the next language.

    UserError for a language that no data set has.
    """
    there = list(dict.fromkeys(lang for dataset in datasets for lang in dataset.languages))
    if missing := [lang for lang in languages if lang not in there]:
        names = ", ".join(dataset.name for dataset in datasets)
        raise UserError(f"evaluate.languages names {', '.join(missing)}, which {names} have not; they have {there}")
    return [(dataset, lang) for lang in (languages or there) for dataset in datasets if lang in dataset.languages]


def _digests(model_id: dict[str, str], datasets: Sequence[Dataset], languages: Sequence[str]) -> Iterator[str]:
    """Those of the sweep's records, in its order."""
    for dataset, lang in questions(datasets, languages):
        for task in dataset.tasks(lang):
            yield digest(_identity(model_id, dataset, lang, task))


def grouped(todo: Sequence[tuple[Dataset, str]]) -> Iterator[tuple[list[tuple[Dataset, str]], list[str]]]:
    """Consecutive (data set, language) pairs with the texts that they ask, as many as reach GROUP_TEXTS together."""
    group: list[tuple[Dataset, str]] = []
    texts: list[str] = []
    for dataset, lang in todo:
        group.append((dataset, lang))
        texts += [text for task in dataset.tasks(lang) for text in task.asked_texts()]
        if len(texts) >= GROUP_TEXTS:
            yield group, texts
            group, texts = [], []
    if group:
        yield group, texts


def known_records(
    model_id: dict[str, str], dataset: Dataset, lang: str, kept: dict[str, Record]
) -> list[Record] | None:
    """The records of a data set in a language where `kept` (by digest) has them all, else None."""
    digests = [digest(_identity(model_id, dataset, lang, task)) for task in dataset.tasks(lang)]
    return [kept[each] for each in digests] if all(each in kept for each in digests) else None


def score_language(
    model_id: dict[str, str],
    dataset: Dataset,
    lang: str,
    image_ND: np.ndarray,
    encode_text: TextFeatures,
    folder: Path,
    kept: dict[str, Record],
) -> list[Record]:
    """The records of a data set's tasks in a language, those in `kept` (by digest) as they are.

    The ranks behind new ones go below `folder`.
    """
    records = []
    for task in dataset.tasks(lang):
        identity = _identity(model_id, dataset, lang, task)
        if (known := kept.get(digest(identity))) is None:
            score = task.score(image_ND, encode_text)
            _write_ranks(folder, identity, score)
            known = _record(identity, score)
        records.append(known)
    return records


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


def images_path(folder: Path, record: Record, way: str) -> Path:
    """Where the image lies that each of the ranks is about, as its position in the data set."""
    return ranks_path(folder, record, way).with_suffix(".images.npy")


def _write_ranks(folder: Path, identity: Record, score: Score) -> None:
    for way, found in score.ranks.items():
        write_array(ranks_path(folder, identity, way), found.astype(np.int32))
        write_array(images_path(folder, identity, way), score.images[way].astype(np.int32))


def _record(identity: Record, score: Score) -> Record:
    record = {**identity, "n": score.n, **score.more, "metrics": score.metrics, "chance": score.chance}
    record["interval_95"] = {name: list(bounds) for name, bounds in score.interval.items()}
    if score.slices:
        record["slices"] = score.slices
    return {**record, "digest": digest(identity)}


def read_results(path: Path) -> list[Record]:
    """The records of a results.jsonl, none where there is no such file; UserError names a line that is none."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path}:{number} is no record ({error}); remove the line, and it is measured anew"
            ) from error
    return found


def _in_order(found: dict[str, Record], datasets: Sequence[Dataset]) -> list[Record]:
    place = {dataset.name: i for i, dataset in enumerate(datasets)}
    return sorted(found.values(), key=lambda record: place.get(record["dataset"], len(place)))


def write_results(path: Path, found: dict[str, Record], datasets: Sequence[Dataset]) -> None:
    """results.jsonl: `found` by digest, in the data sets' order."""
    lines = [json.dumps(record, ensure_ascii=False) for record in _in_order(found, datasets)]
    write_text(path, "".join(f"{line}\n" for line in lines))
