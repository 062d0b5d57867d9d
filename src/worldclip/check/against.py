"""The evaluation sets that a pool is decontaminated against: folders of images, and datasets that `evaluate` knows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from worldclip.check.config import CheckConfig
from worldclip.check.images import hashes_path, scan_images_of_set, scan_unit, source_units
from worldclip.contracts.schemas import IMAGE_HASHES
from worldclip.core.artifacts import read_table
from worldclip.core.execute import Report, Shard
from worldclip.core.suggest import nearest
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import load
from worldclip.evaluate.tasks import Dataset
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
            f"against.{name} is {path!r}, which does not exist; give a folder of images, a .tar or a .parquet"
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
            near = nearest(name, datasets, most=3)
            remedy = f"did you mean {', '.join(near)}?" if near else "they are in docs/6_evaluate.md"
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

    def units(self) -> dict[str, list[Shard]]:
        """Return the units of work of each set; their fingerprints identify its images."""
        units = {name: source_units(Path(path)) for name, path in self.config.against.items()}
        for name in self.config.against_datasets:
            units[name] = _units_of_dataset(self.load(name))
        return units

    def scan(self, name: str, folder: Path, model: str | None) -> Callable[[Shard], Report]:
        """Return the function that writes folder/<unit>.parquet, the rows of IMAGE_HASHES of a set's unit."""
        if name in self.config.against:
            return functools.partial(scan_unit, folder=folder, model=model)
        return functools.partial(_scan_dataset, name=name, sets=self, folder=folder, model=model)

    def load(self, name: str) -> Dataset:
        """Return a dataset by name."""
        return load(name, self.evaluate, self.run_dir)


def _units_of_dataset(dataset: Dataset) -> list[Shard]:
    num_images = len(dataset.image_keys)
    units = []
    for first in range(0, num_images, IMAGES_PER_UNIT):
        images = [first, min(first + IMAGES_PER_UNIT, num_images)]
        fingerprint = {"images": images, "dataset": dataset.images_digest or dataset.digest}
        units.append(Shard(name=f"images_{first:09}", path="", fingerprint=fingerprint))
    return units


def _scan_dataset(unit: Shard, *, name: str, sets: EvaluationSets, folder: Path, model: str | None) -> Report:
    dataset = sets.load(name)
    first, end = unit.fingerprint["images"]
    places = {
        "key": list(dataset.image_keys[first:end]),
        "file": pa.nulls(end - first, pa.string()),
        "offset": pa.nulls(end - first, pa.int64()),
        "size": pa.nulls(end - first, pa.int64()),
    }
    return scan_images_of_set(hashes_path(folder, unit), places, _read_range(dataset, first, end), model)


def _read_range(dataset: Dataset, first: int, end: int) -> Iterator[bytes]:
    for start in range(first, end, READ_AT_ONCE):
        yield from dataset.read_images(start, min(start + READ_AT_ONCE, end))


def read_references(folder: Path, units: Mapping[str, Sequence[Shard]]) -> pa.Table:
    """Return the images of all sets (set, key, sha256, hash), by set and key."""
    tables = []
    for name, of_set in units.items():
        for unit in of_set:
            table = read_table(hashes_path(folder / name, unit), IMAGE_HASHES, ["key", "sha256", "hash"])
            tables.append(table.append_column("set", pa.array([name] * len(table), pa.string())))
    references = pa.concat_tables(tables).sort_by([("set", "ascending"), ("key", "ascending")])
    return references.combine_chunks()
