"""The evaluation sets that a pool is decontaminated against, each as a file of hashes: against/<name>.parquet.

A set is a folder or tar of images, a file of hashes made before, or a data set that `evaluate` knows by name.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from worldclip.check.config import CheckConfig
from worldclip.check.images import HashKind, hash_images, hash_units, look_at_all, read_hashes, report_of, source_units
from worldclip.core.artifacts import digest, fingerprint, read_json, write_json, write_table
from worldclip.core.execute import Executor, Report, Shard
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import HELD_OUT, EvaluateConfig
from worldclip.evaluate.datasets import load
from worldclip.evaluate.tasks import Dataset

IMAGES_OF_UNIT = 5000  # images of a data set in one unit of work
READ_AT_ONCE = 100  # images of a data set in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSets:
    """The sets of a check: `against` by path, `against_datasets` by name."""

    config: CheckConfig
    evaluate: EvaluateConfig
    """Where the data sets are; only their evaluation images are looked at, never those that probes learn from."""
    run_dir: Path

    @classmethod
    def of(cls, config: CheckConfig, evaluate: EvaluateConfig, run_dir: Path) -> EvaluationSets:
        data = config.data or evaluate.data
        return cls(config=config, evaluate=replace(evaluate, data=data, also=()), run_dir=run_dir)

    def problems(self) -> list[str]:
        """Paths that are not there, names that no data set has."""
        found = [
            f"against.{name} is {path!r}, which does not exist; give a folder, a .tar or a file of `worldclip pool"
            " hash`"
            for name, path in self.config.against.items()
            if not Path(path).exists()
        ]
        known = [*HELD_OUT, *self.evaluate.folders, *CATALOG]
        for name in self.config.against_datasets:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3)
                meant = f"did you mean {', '.join(near)}?" if near else "they are in docs/datasets.md"
                found.append(f"against_datasets names {name!r}, which is no data set of evaluate; {meant}")
            elif name in self.config.against:
                found.append(f"against_datasets and against both name {name!r}; call one of them otherwise")
            elif name in CATALOG and name not in self.evaluate.folders and not self.evaluate.folder_of(name).is_dir():
                found.append(
                    f"against_datasets names {name!r}, which is not below data = {self.evaluate.data!r}; set data to"
                    f" the folder that holds it, or run: worldclip fetch dataset {name}"
                )
        return found

    def known(self) -> dict[str, Any]:
        """What each set's images are known by: a changed one is hashed again."""
        of_paths = {name: _known_by_path(Path(path)) for name, path in self.config.against.items()}
        datasets = {name: self.load(name) for name in self.config.against_datasets}
        return {**of_paths, **{name: one.images_digest or one.digest for name, one in datasets.items()}}

    def load(self, name: str) -> Dataset:
        return load(name, self.evaluate, self.run_dir)

    def readers(self) -> dict[str, Callable[[str], bytes]]:
        """For each data set, what gives the image of a name: such images have no place in a file of hashes."""
        return {name: functools.partial(_read_image, self.load(name)) for name in self.config.against_datasets}


def _known_by_path(source: Path) -> Any:
    if source.suffix == ".parquet":
        return fingerprint(source, source.parent)
    return digest([unit.fingerprint for unit in source_units(source)])


def _read_image(dataset: Dataset, name: str) -> bytes:
    position = list(dataset.image_keys).index(name)
    return dataset.read_images(position, position + 1)[0]


def hash_sets(sets: EvaluationSets, known: dict[str, Any], kind: HashKind, folder: Path, executor: Executor) -> None:
    """Write folder/<name>.parquet of each set unless it stands; a file of hashes is taken as it is."""
    for name, of_set in known.items():
        place = folder / f"{name}.parquet"
        record = place.with_suffix(".json")
        if place.exists() and record.exists() and read_json(record) == [of_set, kind.name]:
            continue
        path = Path(sets.config.against.get(name, ""))
        if name in sets.config.against_datasets:
            _hash_dataset(name, sets, of_set, kind, place, executor)
        elif path.suffix == ".parquet":
            write_table(place, read_hashes(path, kind), kind.schema)
        else:
            hash_images(path, place, executor, config=sets.config)
        write_json(record, [of_set, kind.name])


def _hash_dataset(name: str, sets: EvaluationSets, known: Any, kind: HashKind, out: Path, executor: Executor) -> None:
    num_images = len(sets.load(name).image_keys)
    units = [
        Shard(
            name=f"images_{first:09}", path="", fingerprint={"images": [first, min(first + IMAGES_OF_UNIT, num_images)]}
        )
        for first in range(0, num_images, IMAGES_OF_UNIT)
    ]
    look = functools.partial(_look_at_dataset, name=name, sets=sets, kind=kind)
    hash_units(units, look, out, executor, key={"dataset": name, "known": known}, kind=kind)


def _look_at_dataset(unit: Shard, *, name: str, sets: EvaluationSets, kind: HashKind, folder: Path) -> Report:
    dataset = sets.load(name)
    first, end = unit.fingerprint["images"]
    contents = (
        content
        for start in range(first, end, READ_AT_ONCE)
        for content in dataset.read_images(start, min(start + READ_AT_ONCE, end))
    )
    rows = look_at_all(contents, kind)
    where = {
        "name": pa.array(list(dataset.image_keys[first:end]), pa.string()),
        "file": pa.nulls(end - first, pa.string()),
        "offset": pa.nulls(end - first, pa.int64()),
        "size": pa.nulls(end - first, pa.int64()),
    }
    table = pa.table({**where, **rows})
    write_table(folder / f"{unit.name}.parquet", table, kind.schema)
    return report_of(table)
