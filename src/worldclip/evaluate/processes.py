"""One sweep, several processes: each loads the model, on CUDA on its own device, and takes chunks of images, then
(data set, language) pairs.  They meet on disk, in the feature cache and in results.jsonl, so that a cut sweep goes on.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from worldclip.core.console import say
from worldclip.core.errors import StageFailed
from worldclip.core.execute.local import end_with_parent
from worldclip.evaluate import datasets
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.engine import (
    Record,
    TextFeatures,
    grouped,
    known_records,
    questions,
    read_results,
    score_language,
    write_results,
)
from worldclip.evaluate.image_features import (
    Model,
    cache_folder,
    chunk_starts,
    encode_chunk,
    encode_images,
    is_encoded,
)
from worldclip.evaluate.tasks import Dataset


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
    features: dict[str, np.ndarray] = field(default_factory=dict)

    def cache(self, dataset: Dataset) -> Path:
        return cache_folder(self.folder / "features", self.model, self.sweep.model_id["model_digest"], dataset)

    def image_features(self, dataset: Dataset) -> np.ndarray:
        """(N, embed_dim) of all its images, which the chunks' turn has brought into the cache."""
        if dataset.name not in self.features:
            found = encode_images(self.model, dataset, self.sweep.config.batch_size, self.cache(dataset))
            self.features[dataset.name] = found.features_ND
        return self.features[dataset.name]


_worker: _Worker | None = None  # of this process


def share(sweep: Sweep, loaded: Sequence[Dataset], languages: Sequence[str], folder: Path) -> None:
    """Bring every image's features and every record of the sweep into `folder`, by config.processes processes.

    Raises StageFailed where a process dies; the same call goes on with what is left.
    """
    kept = _by_digest(folder / "results.jsonl")
    todo = [
        (dataset, lang)
        for dataset, lang in questions(loaded, languages)
        if known_records(sweep.model_id, dataset, lang, kept) is None
    ]
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(sweep.config.processes):
        numbers.put(number)
    initializer = partial(_start, sweep, folder, numbers)
    with ProcessPoolExecutor(sweep.config.processes, mp_context=context, initializer=initializer) as pool:
        try:
            chunks = [(dataset.name, start) for dataset in loaded for start in chunk_starts(dataset)]
            for done, chunk in enumerate(as_completed([pool.submit(_encode, *chunk) for chunk in chunks]), 1):
                chunk.result()
                say("evaluate", f"{done:,} of {len(chunks):,} parts of the images encoded")
            groups = [[(dataset.name, lang) for dataset, lang in group] for group, _ in grouped(todo)]
            for records in as_completed([pool.submit(_score, group) for group in groups]):
                kept |= {record["digest"]: record for record in records.result()}
                write_results(folder / "results.jsonl", kept, loaded)
                say("evaluate", f"{len(kept):,} records")
        except BrokenProcessPool as error:
            reason = "it was killed (out of memory?); try fewer evaluate.processes"
            raise StageFailed("evaluate", {"a process": reason}) from error
        except BaseException:  # Ctrl-C among them: nobody waits for what is under way
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _by_digest(results_path: Path) -> dict[str, Record]:
    return {record["digest"]: record for record in read_results(results_path)}


def _start(sweep: Sweep, folder: Path, numbers: Queue[int]) -> None:
    from worldclip.model.load import load

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the first process answers, and ends the others
    end_with_parent()
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


def _score(group: Sequence[tuple[str, str]]) -> list[Record]:
    """The records of some (data set, language) pairs, their texts encoded together."""
    worker = _here()
    pairs = [(worker.datasets[name], lang) for name, lang in group]
    worker.encode_text.encode(
        [text for dataset, lang in pairs for task in dataset.tasks(lang) for text in task.asked_texts()]
    )
    records = []
    for dataset, lang in pairs:
        image_ND = worker.image_features(dataset)
        records += score_language(
            worker.sweep.model_id, dataset, lang, image_ND, worker.encode_text, worker.folder, worker.kept
        )
    return records


def _here() -> _Worker:
    assert _worker is not None
    return _worker
