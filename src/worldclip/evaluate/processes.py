"""One sweep, several processes: each loads the model, on CUDA on its own device, and takes chunks of images, then
(data set, language) pairs.  They meet on disk, in the feature cache and in results.jsonl, so that a cut sweep goes on.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

from worldclip.errors import StageFailed
from worldclip.evaluate import datasets
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.engine import (
    Record,
    TextFeatures,
    known_records,
    questions,
    read_results,
    score_language,
    write_results,
)
from worldclip.evaluate.image_features import (
    ImageFeatures,
    Model,
    cache_folder,
    chunk_starts,
    encode_chunk,
    encode_images,
    is_encoded,
)
from worldclip.evaluate.tasks import Dataset
from worldclip.execute import say


@dataclass(frozen=True, slots=True)
class Sweep:
    """A model on the data sets of a config: what each process is told."""

    source: str | Path
    model_id: dict[str, str]
    config: EvaluateConfig
    run_dir: Path
    """Where the emoji pool is looked for."""


@dataclass
class _Worker:
    """What a process holds: the model and the data sets, read once."""

    sweep: Sweep
    folder: Path
    model: Model
    datasets: dict[str, Dataset]
    encode_text: TextFeatures
    kept: dict[str, Record]
    features: dict[str, ImageFeatures] = field(default_factory=dict)

    def cache(self, dataset: Dataset) -> Path:
        return cache_folder(self.folder / "features", self.model, self.sweep.model_id["model_digest"], dataset)


_worker: _Worker | None = None  # of this process


def share(sweep: Sweep, loaded: Sequence[Dataset], languages: Sequence[str], folder: Path) -> None:
    """Bring every image's features and every record of the sweep into `folder`, by config.processes processes.

    Raises StageFailed where a process dies; the same call goes on with what is left.
    """
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(sweep.config.processes):
        numbers.put(number)
    with ProcessPoolExecutor(
        sweep.config.processes, mp_context=context, initializer=partial(_start, sweep, folder, numbers)
    ) as pool:
        try:
            chunks = [(dataset.name, start) for dataset in loaded for start in chunk_starts(dataset)]
            for future in as_completed([pool.submit(_encode, name, start) for name, start in chunks]):
                future.result()
            _score_all(pool, sweep, loaded, languages, folder)
        except BrokenProcessPool as error:
            reason = "it was killed (out of memory?); try fewer evaluate.processes"
            raise StageFailed("evaluate", {"a process": reason}) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _score_all(
    pool: ProcessPoolExecutor, sweep: Sweep, loaded: Sequence[Dataset], languages: Sequence[str], folder: Path
) -> None:
    path = folder / "results.jsonl"
    kept = _by_digest(path)
    todo = [
        (dataset, lang)
        for dataset, lang in questions(loaded, languages)
        if known_records(sweep.model_id, dataset, lang, kept) is None
    ]
    futures = {pool.submit(_score, dataset.name, lang): (dataset.name, lang) for dataset, lang in todo}
    for future in as_completed(futures):
        kept |= {record["digest"]: record for record in future.result()}
        write_results(path, kept, loaded)
        say("evaluate", "{} in {}".format(*futures[future]))


def _by_digest(results_path: Path) -> dict[str, Record]:
    return {record["digest"]: record for record in read_results(results_path)}


def _start(sweep: Sweep, folder: Path, numbers: Queue[int]) -> None:
    from worldclip.inference import load

    global _worker
    number = numbers.get()
    _choose_device(number)
    model = load(sweep.source, device=sweep.config.device)
    loaded = [datasets.load(name, sweep.config, sweep.run_dir) for name in sweep.config.asked]
    _worker = _Worker(
        sweep,
        folder,
        model,
        {each.name: each for each in loaded},
        TextFeatures(model, sweep.config.batch_size),
        _by_digest(folder / "results.jsonl"),
    )


def _choose_device(number: int) -> None:
    """The `number`-th CUDA device, in turn, becomes this process's own."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _encode(name: str, start: int) -> None:
    worker = _here()
    dataset = worker.datasets[name]
    cache = worker.cache(dataset)
    if not is_encoded(cache, start):
        encode_chunk(worker.model, dataset, start, worker.sweep.config.batch_size, cache)


def _score(name: str, lang: str) -> list[Record]:
    worker = _here()
    dataset = worker.datasets[name]
    if name not in worker.features:
        worker.features[name] = encode_images(
            worker.model, dataset, worker.sweep.config.batch_size, worker.cache(dataset)
        )
    image_ND = worker.features[name].features_ND
    return score_language(
        worker.sweep.model_id, dataset, lang, image_ND, worker.encode_text, worker.folder, worker.kept
    )


def _here() -> _Worker:
    assert _worker is not None
    return _worker
