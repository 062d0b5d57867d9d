"""Hash the evaluation sets that a pool is decontaminated against: against/<name>.parquet for each.

A set is a folder or tar of images, a file of hashes from `worldclip pool hash`, or a dataset that `evaluate` knows by
name.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from worldclip.check import images
from worldclip.check.config import CheckConfig
from worldclip.check.hashing import HashKind
from worldclip.core.artifacts import digest, fingerprint, read_json, write_json, write_table
from worldclip.core.execute import Executor, Report, Shard
from worldclip.core.job import Record
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import load
from worldclip.evaluate.tasks import Dataset
from worldclip.model import decode
from worldclip.pool.config import held_out_names

IMAGES_PER_UNIT = 5000  # images of a dataset in one unit of work
READ_AT_ONCE = 100  # images of a dataset in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSets:
    """The evaluation sets of a check: `against` by path, `against_datasets` by name."""

    config: CheckConfig
    evaluate: EvaluateConfig
    """Where the datasets are.  `also` is empty: images that only probes learn from do not count."""
    run_dir: Path

    @classmethod
    def of(cls, config: CheckConfig, evaluate: EvaluateConfig, run_dir: Path) -> EvaluationSets:
        """Return the sets of a config; its `data` overrides evaluate.data."""
        data = config.data or evaluate.data
        return cls(config=config, evaluate=replace(evaluate, data=data, also=()), run_dir=run_dir)

    def problems(self) -> list[str]:
        """Return a message for each missing path and each unknown or missing dataset."""
        problems = [
            f"against.{name} is {path!r}, which does not exist; give a folder, a .tar or a file of `worldclip pool"
            " hash`"
            for name, path in self.config.against.items()
            if not Path(path).exists()
        ]
        for name in self.config.against_datasets:
            problem = self._problem_with_dataset(name)
            if problem:
                problems.append(problem)
        return problems

    def _problem_with_dataset(self, name: str) -> str | None:
        datasets = [*held_out_names(), *self.evaluate.folders, *CATALOG]
        if name not in datasets:
            near = difflib.get_close_matches(name, datasets, n=3)
            remedy = f"did you mean {', '.join(near)}?" if near else "they are in docs/datasets.md"
            return f"against_datasets names {name!r}, which is not a dataset of evaluate; {remedy}"
        if name in self.config.against:
            return f"against_datasets and against both name {name!r}; rename one of them"
        is_in_catalog = name in CATALOG and name not in self.evaluate.folders
        if is_in_catalog and not self.evaluate.folder_of(name).is_dir():
            return (
                f"against_datasets names {name!r}, which is not below data = {self.evaluate.data!r}; set data to"
                f" the folder that holds it, or run: worldclip fetch dataset {name}"
            )
        return None

    def fingerprints(self) -> Record:
        """Return what identifies the images of each set; a changed set is hashed again."""
        by_path = {name: _fingerprint(Path(path)) for name, path in self.config.against.items()}
        datasets = {name: self.load(name) for name in self.config.against_datasets}
        return {**by_path, **{name: dataset.images_digest or dataset.digest for name, dataset in datasets.items()}}

    def load(self, name: str) -> Dataset:
        """Return a dataset by name."""
        return load(name, self.evaluate, self.run_dir)

    def readers(self) -> dict[str, Callable[[str], bytes]]:
        """Return, for each dataset, a function from an image's name to its bytes: its hash file has no offsets."""
        return {name: functools.partial(_read_image, self.load(name)) for name in self.config.against_datasets}


def _fingerprint(source: Path) -> Any:
    if source.suffix == ".parquet":
        return fingerprint(source, source.parent)
    return digest([unit.fingerprint for unit in images.source_units(source)])


def _read_image(dataset: Dataset, name: str) -> bytes:
    position = list(dataset.image_keys).index(name)
    return dataset.read_images(position, position + 1)[0]


def hash_sets(sets: EvaluationSets, fingerprints: Record, kind: HashKind, folder: Path, executor: Executor) -> None:
    """Write folder/<name>.parquet for each new or changed set; a file of hashes is copied."""
    for name, set_fingerprint in fingerprints.items():
        out = folder / f"{name}.parquet"
        marker = out.with_suffix(".json")
        record = [set_fingerprint, kind.name, decode.VERSION]
        if out.exists() and marker.exists() and read_json(marker) == record:
            continue
        marker.unlink(missing_ok=True)  # a kill must not leave it with other hashes
        path = Path(sets.config.against.get(name, ""))
        if name in sets.config.against_datasets:
            _hash_dataset(name, sets, set_fingerprint, kind, out, executor)
        elif path.suffix == ".parquet":
            write_table(out, images.read_hashes(path, kind), kind.schema(images.images_at(path)))
        else:
            images.hash_images(path, out, executor, config=sets.config)
        write_json(marker, record)


def _hash_dataset(
    name: str, sets: EvaluationSets, set_fingerprint: Any, kind: HashKind, out: Path, executor: Executor
) -> None:
    num_images = len(sets.load(name).image_keys)
    units = []
    for first in range(0, num_images, IMAGES_PER_UNIT):
        positions = {"images": [first, min(first + IMAGES_PER_UNIT, num_images)]}
        units.append(Shard(name=f"images_{first:09}", path="", fingerprint=positions))
    scan = functools.partial(_scan_dataset, name=name, sets=sets, kind=kind)
    images.hash_units(units, scan, out, executor, key={"dataset": name, "known": set_fingerprint}, kind=kind)


def _scan_dataset(unit: Shard, *, name: str, sets: EvaluationSets, kind: HashKind, folder: Path) -> Report:
    dataset = sets.load(name)
    first, end = unit.fingerprint["images"]
    places = {
        "name": pa.array(list(dataset.image_keys[first:end]), pa.string()),
        "file": pa.nulls(end - first, pa.string()),
        "offset": pa.nulls(end - first, pa.int64()),
        "size": pa.nulls(end - first, pa.int64()),
    }
    return images.scan_to_file(folder / f"{unit.name}.parquet", places, _read_range(dataset, first, end), kind)


def _read_range(dataset: Dataset, first: int, end: int) -> Iterator[bytes]:
    for start in range(first, end, READ_AT_ONCE):
        yield from dataset.read_images(start, min(start + READ_AT_ONCE, end))
