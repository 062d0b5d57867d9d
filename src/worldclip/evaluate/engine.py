"""One pass: each image is encoded once for all languages, each text once for all tasks that hold it.

N images of a dataset, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from worldclip.contracts.records import IDENTITY_TYPES, read_results
from worldclip.core.artifacts import Json, digest, write_array, write_json_lines
from worldclip.core.errors import UserError
from worldclip.core.printable import counted
from worldclip.core.safe_path import safe_join
from worldclip.evaluate import nllb
from worldclip.evaluate.image_features import ImageFeatures, Model, cache_folder, encode_images, preprocess_of
from worldclip.evaluate.tasks import Dataset, NoneDecoded, Score, Task
from worldclip.language.table import INSTALLED
from worldclip.model import decode
from worldclip.report.results import ResultRecord

PROTOCOL_VERSION = 5  # protocol behind the numbers; records of another version are evaluated again
TEXTS_KEPT = 100_000  # texts whose features stay in memory for the next task
GROUP_TEXTS = 4_096  # texts of several languages that are encoded together, for full batches of similar length

Pair = tuple[Dataset, str]
"""A dataset and one of its languages."""


class TextFeatures:
    """Texts -> features; a text that is still in memory is not encoded again.

    NLLB-CLIP, which is told the language of a text, has other features per language: `in_language` gives them.
    """

    def __init__(self, model: Model, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size
        self._features: dict[str, np.ndarray] = {}
        self._told: tuple[str, TextFeatures] | None = None  # the last language

    def in_language(self, lang: str) -> TextFeatures:
        """Return the text features for a language; these if the model is told none."""
        if not nllb.is_told_language(self._model):
            return self
        if self._told is None or self._told[0] != lang:
            self._told = lang, TextFeatures(nllb.in_language(self._model, lang), self._batch_size)
        return self._told[1]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, D) float32."""
        self.encode(texts)
        return np.stack([self._features[text] for text in texts])

    def encode(self, texts: Sequence[str]) -> None:
        """Encode those of `texts` that are not in memory, in batches of similar length."""
        missing = sorted(set(texts) - self._features.keys(), key=lambda text: (len(text), text))
        # Keep what the present texts need, forget all others: in a sweep they are of languages that are done.
        if len(self._features) + len(missing) > TEXTS_KEPT:
            self._features = {text: self._features[text] for text in set(texts) if text in self._features}
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            features = np.asarray(self._model.encode_text(batch), np.float32)
            self._features.update(zip(batch, features, strict=True))


def evaluate(
    model: Model,
    model_id: Json,
    datasets: Sequence[Dataset],
    languages: Sequence[str],
    results_path: Path,
    *,
    batch_size: int = 256,
    cache: Path | None = None,
    part: tuple[int, int] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[list[ResultRecord], dict[str, ImageFeatures], TextFeatures]:
    """Return a record of every dataset, language and task, in this order, and the features (for galleries).

    languages: empty for all that a dataset has; a language that a dataset lacks has no record, never zero.  cache:
    folder of image features.  Records that `results_path` has of this model and these data are not computed again, and
    those of other models, data and languages stay in it.  It is written after each group of texts, so that a sweep that
    was interrupted resumes there.  part: (I, N): only slice I of N, whose records go into a file next to
    `results_path`; a call without it takes the records of all slices and removes their files.
    """
    pairs = list_pairs(datasets, languages)
    model_id = {**model_id, "preprocess": preprocess_of(model)}
    slices = sorted(results_path.parent.glob("slice_*_of_*.jsonl"))
    stored = [record for path in [results_path, *slices] for record in read_results(path, IDENTITY_TYPES)]
    records = {record["digest"]: record for record in stored}
    if part is not None:
        pairs = pairs_of_part(pairs, datasets, part)
        index, number = part
        results_path = results_path.with_name(f"slice_{index}_of_{number}.jsonl")
    asked = [key for pair in pairs for key in keys_of(model_id, pair)]
    if part is not None:  # those of other slices and of results.jsonl have files of their own
        stored = read_results(results_path, IDENTITY_TYPES)
    others = {record["digest"]: record for record in stored if record["digest"] not in set(asked)}
    with_pairs = {dataset.name for dataset, _ in pairs}
    features = {}
    for dataset in datasets:
        if dataset.name not in with_pairs:
            if part is None:
                say(
                    f"{dataset.name} has none of these languages and is left out; it has {', '.join(dataset.languages)}"
                )
            continue
        folder = None
        if cache is not None:
            folder = cache_folder(cache, model, model_id["model_digest"], dataset)
        features[dataset.name] = encode_images(model, dataset, batch_size, folder, say)
    if untold := nllb.untold(model, dict.fromkeys(lang for _, lang in pairs)):
        say(f"the model has no token of {', '.join(untold)}; their texts have that of its default language")
    encode_text = TextFeatures(model, batch_size)
    todo = [pair for pair in pairs if not records.keys() >= set(keys_of(model_id, pair))]
    num_done = 0
    for group in grouped(todo):
        # All texts of the group first: batches of similar length from several languages waste no padding.
        if not nllb.is_told_language(model):
            encode_text.encode(texts_of(group))
        for pair in group:
            score_pair(model_id, pair, features[pair[0].name].features_ND, encode_text, results_path.parent, records)
        done = [records[key] for key in asked if key in records]
        write_json_lines(results_path, [*others.values(), *_in_order(done, datasets)])
        num_done += len(group)
        say(f"{num_done:,} of {len(todo):,} datasets x languages scored, last: {group[-1][1]} of {group[-1][0].name}")
    if not todo:
        say(f"nothing to do: results.jsonl has all {len(asked):,} records")
    if others:
        say(f"{counted(len(others), 'record')} of other models, data or languages stay in {results_path.name}")
    in_order = _in_order([records[key] for key in asked], datasets)
    write_json_lines(results_path, [*others.values(), *in_order])
    for path in slices if part is None else ():
        path.unlink()
    return in_order, features, encode_text


def pairs_of_part(pairs: Sequence[Pair], datasets: Sequence[Dataset], part: tuple[int, int]) -> list[Pair]:
    """Return slice I of N of the pairs, dataset by dataset, so that few slices encode the images of one dataset."""
    index, number = part
    place = {dataset.name: i for i, dataset in enumerate(datasets)}
    by_dataset = sorted(pairs, key=lambda pair: place[pair[0].name])
    return by_dataset[len(pairs) * (index - 1) // number : len(pairs) * index // number]


def list_pairs(datasets: Sequence[Dataset], languages: Sequence[str]) -> list[Pair]:
    """Return (dataset, language) in the order of the sweep: all datasets of a language, then the next language.

    Raises UserError for a language that no dataset has.
    """
    available = list(dict.fromkeys(lang for dataset in datasets for lang in dataset.languages))
    missing = [lang for lang in languages if lang not in available]
    if missing:
        names = ", ".join(dataset.name for dataset in datasets)
        meant = [code for code in map(INSTALLED.from_tag, missing) if code in available]
        near = f"did you mean {', '.join(map(str, meant))}? " if meant else ""
        raise UserError(
            f"evaluate.languages: no text in {', '.join(missing)} in {names}; {near}available: {', '.join(available)}"
        )
    pairs = []
    for lang in languages or available:
        pairs += [(dataset, lang) for dataset in datasets if lang in dataset.languages]
    return pairs


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """Return the texts that the tasks of some pairs encode."""
    texts: list[str] = []
    for dataset, lang in pairs:
        for task in dataset.tasks(lang):
            texts += task.texts_to_encode()
    return texts


def grouped(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Yield consecutive pairs, as many at a time as have GROUP_TEXTS texts together."""
    group: list[Pair] = []
    num_texts = 0
    for pair in pairs:
        group.append(pair)
        num_texts += len(texts_of([pair]))
        if num_texts >= GROUP_TEXTS:
            yield group
            group = []
            num_texts = 0
    if group:
        yield group


def keys_of(model_id: Json, pair: Pair) -> list[str]:
    """Return the digests of the records of a pair's tasks."""
    dataset, lang = pair
    return [_identity(model_id, pair, task)["digest"] for task in dataset.tasks(lang)]


def score_pair(
    model_id: Json,
    pair: Pair,
    image_ND: np.ndarray,
    encode_text: TextFeatures,
    folder: Path,
    records: dict[str, ResultRecord],
) -> None:
    """Add the records of a pair's tasks that `records` (by digest) lacks, and write their ranks below `folder`."""
    dataset, lang = pair
    for task in dataset.tasks(lang):
        identity = _identity(model_id, pair, task)
        if identity["digest"] in records:
            continue
        try:
            score = task.score(image_ND, encode_text.in_language(lang))
        except NoneDecoded as error:
            raise UserError(f"dataset {dataset.name}: {task.name} in {lang}: {error}") from error
        for kind, ranks in score.ranks.items():
            write_array(ranks_path(folder, identity, kind), ranks.astype(np.int32))
            write_array(images_path(folder, identity, kind), score.images[kind].astype(np.int32))
        records[identity["digest"]] = _record(identity, score)


def _record(identity: Json, score: Score) -> ResultRecord:
    record = {**identity, "n": score.n, **score.more, "metrics": score.metrics, "chance": score.chance}
    record["interval_95"] = {name: list(bounds) for name, bounds in score.interval.items()}
    if score.slices:
        record["slices"] = score.slices
    return record


def _identity(model_id: Json, pair: Pair, task: Task) -> Json:
    """Return the fields of a record that say what was measured, and their digest, in which a model has no name."""
    dataset, lang = pair
    identity = dict(model_id)
    name = identity.pop("model")
    preprocess = identity.pop("preprocess")
    identity |= {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "lang": lang,
        "task": task.name,
        "protocol": {
            "version": PROTOCOL_VERSION,
            "decoder": decode.VERSION,
            **task.protocol,
            "preprocess": preprocess,
        },
    }
    return {"model": name, **identity, "digest": digest(identity)}


def ranks_path(folder: Path, record: ResultRecord, kind: str) -> Path:
    """Return the path of a record's ranks.  kind: of query, `acc` for acc1 and acc5, `image_retrieval_recall@`, ..."""
    return safe_join(folder / "ranks", f"{record['digest']}.{kind.rstrip('@')}.npy")


def images_path(folder: Path, record: ResultRecord, kind: str) -> Path:
    """Return the path of the image that each of these ranks is about, as its position in the dataset."""
    return ranks_path(folder, record, kind).with_suffix(".images.npy")


def _in_order(records: Sequence[ResultRecord], datasets: Sequence[Dataset]) -> list[ResultRecord]:
    place = {dataset.name: i for i, dataset in enumerate(datasets)}
    return sorted(records, key=lambda record: place[record["dataset"]])
