"""One pass: each image is encoded once for all languages, each text once for all tasks that hold it.

N images of a dataset, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from worldclip.contracts.records import IDENTITY_TYPES, read_results
from worldclip.core.artifacts import Json, digest, write_array, write_json_lines
from worldclip.core.errors import UserError
from worldclip.core.printable import counted
from worldclip.core.safe_path import safe_join
from worldclip.evaluate import nllb
from worldclip.evaluate.image_features import ImageFeatures, Model, cache_folder, encode_images
from worldclip.evaluate.tasks import Dataset, NoneDecoded, Task
from worldclip.language.table import INSTALLED
from worldclip.model import decode
from worldclip.report.results import ResultRecord

# Raised when a number changes or a metric is added: records of another version are evaluated again.
PROTOCOL_VERSION = 5
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
        self._latest: tuple[str, TextFeatures] | None = None  # of one language

    def in_language(self, lang: str) -> TextFeatures:
        """Return the text features for a language; these if the model is told none."""
        if not nllb.is_told_language(self._model):
            return self
        if self._latest is None or self._latest[0] != lang:
            self._latest = (lang, TextFeatures(nllb.in_language(self._model, lang), self._batch_size))
        return self._latest[1]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return (n, D) float32."""
        self.encode(texts)
        return np.stack(list(map(self._features.__getitem__, texts)))

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
    folder of image features.  Records that `results_path` has of this model and these data are not computed again; its
    other records stay.  It is written after each group of texts, so that an interrupted sweep resumes there.  part:
    (I, N): only slice I of N, whose records go into a file next to `results_path`; a call without it takes the records
    of all slices and removes their files.
    """
    pairs = list_pairs(datasets, languages)
    model_id = {**model_id, "preprocess": model.preprocess}
    slices = sorted(results_path.parent.glob("slice_*_of_*.jsonl"))
    records = _read_records([results_path, *slices])
    stored = records
    if part is not None:
        pairs = pairs_of_part(pairs, datasets, part)
        results_path = results_path.with_name(f"slice_{part[0]}_of_{part[1]}.jsonl")
        stored = _read_records([results_path])  # those of other slices and of results.jsonl have their own files
    todo, keys_of_dataset = _find_unmeasured(pairs, model_id, records)
    keys: dict[str, None] = {}  # the digests of the records to return, in order
    features: dict[str, ImageFeatures] = {}
    for dataset in datasets:
        if dataset.name in keys_of_dataset:
            keys |= dict.fromkeys(keys_of_dataset[dataset.name])
            folder = cache and cache_folder(cache, model, model_id["model_digest"], dataset)
            features[dataset.name] = encode_images(model, dataset, batch_size, folder, say)
        elif part is None:
            langs_of_dataset = ", ".join(dataset.languages) or "none that worldclip knows"
            say(f"{dataset.name} has none of these languages and is left out; it has {langs_of_dataset}")
    other_records = [record for key, record in stored.items() if key not in keys]

    def write() -> list[ResultRecord]:
        """Write the records of `keys` that there are so far after all others, and return them."""
        measured = [records[key] for key in keys if key in records]
        write_json_lines(results_path, [*other_records, *measured])
        return measured

    untold = nllb.untold(model, dict.fromkeys(lang for _, lang in pairs))
    if untold:
        say(f"the model has no token of {', '.join(untold)}; their texts have that of its default language")
    encode_text = TextFeatures(model, batch_size)
    num_done = 0
    for group, texts in grouped(todo):
        # All texts of the group first: batches of similar length from several languages waste no padding.
        if not nllb.is_told_language(model):
            encode_text.encode(texts)
        for dataset, lang in group:
            images = features[dataset.name]
            records |= score_pair(model_id, dataset, lang, images, encode_text, results_path.parent, records.keys())
        write()
        num_done += len(group)
        say(f"{num_done:,} of {len(todo):,} datasets x languages scored, last: {lang} of {dataset.name}")
    if not todo:
        say(f"nothing to do: results.jsonl has all {len(keys):,} records")
    if other_records:
        others = counted(len(other_records), "record")
        say(f"{others} of other models, data or languages stay in {results_path.name}")
    measured = write()
    if part is None:
        for path in slices:
            path.unlink()
    return measured, features, encode_text


def _find_unmeasured(
    pairs: Sequence[Pair], model_id: Json, records: Mapping[str, ResultRecord]
) -> tuple[list[Pair], dict[str, list[str]]]:
    """Return the pairs without a record of each task, and by dataset the digests of the records of all its pairs."""
    unmeasured: list[Pair] = []
    keys_of_dataset: dict[str, list[str]] = {}
    for dataset, lang in pairs:
        keys_of_pair = [_identity(model_id, dataset, lang, task)["digest"] for task in dataset.tasks(lang)]
        keys_of_dataset.setdefault(dataset.name, []).extend(keys_of_pair)
        if not records.keys() >= set(keys_of_pair):
            unmeasured.append((dataset, lang))
    return unmeasured, keys_of_dataset


def _read_records(paths: Sequence[Path]) -> dict[str, ResultRecord]:
    """Return the records of some files by their digests."""
    records: dict[str, ResultRecord] = {}
    for path in paths:
        for record in read_results(path, IDENTITY_TYPES):
            records[record["digest"]] = record
    return records


def pairs_of_part(pairs: Sequence[Pair], datasets: Sequence[Dataset], part: tuple[int, int]) -> list[Pair]:
    """Return slice I of N of the pairs, dataset by dataset, so that few slices encode the images of one dataset."""
    index, number = part
    names = [dataset.name for dataset in datasets]
    by_dataset = sorted(pairs, key=lambda pair: names.index(pair[0].name))
    return by_dataset[len(pairs) * (index - 1) // number : len(pairs) * index // number]


def list_pairs(datasets: Sequence[Dataset], languages: Sequence[str]) -> list[Pair]:
    """Return (dataset, language) in the order of the sweep: all datasets of a language, then the next language.

    Raises UserError for a language that no dataset has.
    """
    available: dict[str, None] = {}
    for dataset in datasets:
        available |= dict.fromkeys(dataset.languages)
    missing = [lang for lang in languages if lang not in available]
    if missing:
        names = ", ".join(dataset.name for dataset in datasets)
        problem = f"evaluate.languages: no text in {', '.join(missing)} in {names}; "
        near_codes = [code for code in map(INSTALLED.from_tag, missing) if code in available]
        if near_codes:
            problem += f"did you mean {', '.join(map(str, near_codes))}? "
        raise UserError(f"{problem}available: {', '.join(available)}")
    pairs = []
    for lang in languages or available:
        pairs += [(dataset, lang) for dataset in datasets if lang in dataset.languages]
    return pairs


def grouped(pairs: Sequence[Pair]) -> Iterator[tuple[list[Pair], list[str]]]:
    """Yield consecutive pairs and the texts of their tasks, as many pairs at a time as have GROUP_TEXTS texts."""
    group: list[Pair] = []
    texts: list[str] = []
    for dataset, lang in pairs:
        group.append((dataset, lang))
        for task in dataset.tasks(lang):
            texts += task.texts_to_encode()
        if len(texts) >= GROUP_TEXTS:
            yield group, texts
            group = []
            texts = []
    if group:
        yield group, texts


def score_pair(
    model_id: Json,
    dataset: Dataset,
    lang: str,
    images: ImageFeatures,
    encode_text: TextFeatures,
    folder: Path,
    digests: Collection[str],
) -> dict[str, ResultRecord]:
    """Return the records of a language's tasks that are not in `digests`, and write their ranks below `folder`."""
    records: dict[str, ResultRecord] = {}
    for task in dataset.tasks(lang):
        identity = _identity(model_id, dataset, lang, task)
        if identity["digest"] in digests:
            continue
        try:
            score = task.score(images.features_ND, encode_text.in_language(lang))
        except NoneDecoded as error:
            raise UserError(f"dataset {dataset.name}: {task.name} in {lang}: {error}") from error
        for kind, ranks in score.ranks.items():
            write_array(ranks_path(folder, identity, kind), ranks.astype(np.int32))
            write_array(images_path(folder, identity, kind), score.images[kind].astype(np.int32))
        record = {**identity, "n": score.n, **score.counts, "metrics": score.metrics, "chance": score.chance}
        record["interval_95"] = {name: list(bounds) for name, bounds in score.interval.items()}
        if score.slices:
            record["slices"] = score.slices
        records[record["digest"]] = record
    return records


def _identity(model_id: Json, dataset: Dataset, lang: str, task: Task) -> Json:
    """Return the fields of a record that say what was measured, and their digest, in which a model has no name."""
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
