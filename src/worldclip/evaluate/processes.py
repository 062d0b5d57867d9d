"""One sweep by several processes: each loads the model (on CUDA on its own device) and takes chunks of images, then
groups of (dataset, language) pairs.  They share the feature cache and results.jsonl on disk, so that an interrupted
sweep resumes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np

from worldclip.contracts.records import read_results
from worldclip.core.artifacts import Json
from worldclip.core.console import say
from worldclip.core.errors import StageFailed
from worldclip.core.execute.local import end_with_parent, interrupts_held_back
from worldclip.core.execute.shards import cause_of_death
from worldclip.evaluate import datasets, engine, image_features
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import INSTALLED, Languages
from worldclip.report.results import ResultRecord


@dataclass(frozen=True, slots=True)
class Sweep:
    """A model on the datasets of a config."""

    source: str | Path
    model_id: Json
    """Of engine.identify."""
    config: EvaluateConfig
    run_dir: Path
    """The folder with the emoji pool."""
    languages: Languages = INSTALLED
    """Of the recipe."""
    image_tower: str | None = None
    """Of worldclip.load, for a text tower."""

    def load_datasets(self) -> dict[str, Dataset]:
        """Return the datasets by name."""
        names = self.config.dataset_names
        return {name: datasets.load(name, self.config, self.run_dir, self.languages) for name in names}

    def load_model(self) -> image_features.Model:
        """Return the model, which turns images into pixels as the config says."""
        from worldclip.model.load import load

        rule = self.config.preprocess_rule
        return load(self.source, device=self.config.device, image_tower=self.image_tower, preprocess=rule)


@dataclass
class _Worker:
    """State of one process: the model and the datasets, loaded once."""

    sweep: Sweep
    folder: Path
    model: image_features.Model
    datasets: dict[str, Dataset]
    encode_text: engine.TextFeatures
    records: dict[str, ResultRecord]
    """By digest: those that results.jsonl had at the start."""
    features: dict[str, np.ndarray] = field(default_factory=dict)

    def cache(self, dataset: Dataset) -> Path:
        model_digest = self.sweep.model_id["model_digest"]
        return image_features.cache_folder(self.folder / "features", self.model, model_digest, dataset)

    def features_of(self, dataset: Dataset) -> np.ndarray:
        """Return (N, embed_dim) of all images of a dataset, which the sweep has encoded into the cache before."""
        if dataset.name not in self.features:
            batch_size = self.sweep.config.batch_size
            encoded = image_features.encode_images(self.model, dataset, batch_size, self.cache(dataset))
            self.features[dataset.name] = encoded.features_ND
        return self.features[dataset.name]


_worker: _Worker  # worker of this process, set by _start


def share(sweep: Sweep, loaded: Sequence[Dataset], languages: Sequence[str], folder: Path) -> None:
    """Compute every image's features and every record of the sweep into `folder`, in config.processes processes.

    Raises StageFailed if a process dies; the same call resumes.
    """
    results_path = folder / "results.jsonl"
    records = engine.by_digest(read_results(results_path))
    pairs = engine.list_pairs(loaded, languages)
    todo = [pair for pair in pairs if not engine.has_records(sweep.model_id, pair, records)]
    if not todo:
        return
    chunks = [(dataset.name, start) for dataset in loaded for start in image_features.chunk_starts(dataset)]
    groups = [[(dataset.name, lang) for dataset, lang in group] for group in engine.grouped(todo)]
    context = multiprocessing.get_context("spawn")
    device_numbers = context.Queue()
    for number in range(sweep.config.processes):
        device_numbers.put(number)
    initializer = partial(_start, sweep, folder, device_numbers)
    workers: set[BaseProcess] = set()
    with ProcessPoolExecutor(sweep.config.processes, mp_context=context, initializer=initializer) as pool:
        try:
            with interrupts_held_back():
                encoding = [pool.submit(_encode, *chunk) for chunk in chunks]
            workers.update(multiprocessing.active_children())
            for num_done, future in enumerate(as_completed(encoding), 1):
                future.result()
                say("evaluate", f"{num_done:,} of {len(chunks):,} chunks of images encoded")
            with interrupts_held_back():
                scoring = [pool.submit(_score, group) for group in groups]
            workers.update(multiprocessing.active_children())
            for scores in as_completed(scoring):
                records |= engine.by_digest(scores.result())
                engine.write_results(results_path, records, loaded)
                say("evaluate", f"{len(records):,} records")
        except BrokenProcessPool as error:
            pool.shutdown(wait=True)  # the exit codes are known then
            cause = cause_of_death((worker.exitcode for worker in workers), setting="evaluate.processes")
            raise StageFailed(
                "evaluate", {"a process": f"was lost {cause}"}, "run the same command to resume"
            ) from error
        except BaseException:  # Ctrl-C included: do not wait for the work in progress
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(sweep: Sweep, folder: Path, device_numbers: Queue[int]) -> None:
    """Load the model and the datasets in a new process."""
    global _worker
    end_with_parent()
    _choose_device(device_numbers.get())
    model = sweep.load_model()
    _worker = _Worker(
        sweep=sweep,
        folder=folder,
        model=model,
        datasets=sweep.load_datasets(),
        encode_text=engine.TextFeatures(model, sweep.config.batch_size),
        records=engine.by_digest(read_results(folder / "results.jsonl")),
    )


def _choose_device(number: int) -> None:
    """Make a CUDA device this process's default: the `number`-th, counted around."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _encode(name: str, start: int) -> None:
    """Encode a chunk of a dataset's images into the cache."""
    worker = _worker
    dataset = worker.datasets[name]
    cache = worker.cache(dataset)
    if not image_features.chunk_path(cache, start).exists():
        image_features.encode_chunk(worker.model, dataset, start, worker.sweep.config.batch_size, cache)


def _score(group: Sequence[tuple[str, str]]) -> list[ResultRecord]:
    """Return the records of some (name of the dataset, language); their texts are encoded together."""
    worker = _worker
    pairs = [(worker.datasets[name], lang) for name, lang in group]
    worker.encode_text.encode_of(pairs)
    records = []
    for pair in pairs:
        image_ND = worker.features_of(pair[0])
        model_id = worker.sweep.model_id
        records += engine.score_language(model_id, pair, image_ND, worker.encode_text, worker.folder, worker.records)
    return records
