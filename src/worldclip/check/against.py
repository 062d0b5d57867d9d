"""The evaluation sets that a pool is decontaminated against: folders of images, and datasets that `evaluate` knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from worldclip.check.config import CheckConfig
from worldclip.check.hashing import EmbeddingModel
from worldclip.check.images import hashes_path, scan_images_of_set, source_units
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


def problems_of_sets(config: CheckConfig, evaluate: EvaluateConfig) -> Iterator[str]:
    """Yield a message for each missing path and each unknown or missing dataset.

    evaluate: where the datasets are.
    """
    for name, path in config.against.items():
        if not Path(path).exists():
            yield f"against.{name} is {path!r}, which does not exist; give a folder of images, a .tar or a .parquet"
    datasets = [*held_out_names(), *evaluate.folders, *CATALOG]
    for name in config.against_datasets:
        is_in_catalog = name in CATALOG and name not in evaluate.folders
        if name not in datasets:
            remedy = "they are in docs/6_evaluate.md"
            near = nearest(name, datasets, most=3)
            if near:
                remedy = f"did you mean {', '.join(near)}?"
            yield f"against_datasets names {name!r}, which is not a dataset of evaluate; {remedy}"
        elif name in config.against:
            yield f"against_datasets and against both name {name!r}; rename one of them"
        elif is_in_catalog and not evaluate.folder_of(name).is_dir():
            yield (
                f"against_datasets names {name!r}, which is not below data = {evaluate.data!r}; set data to"
                f" the folder that holds it, or run: worldclip fetch dataset {name}"
            )


def units_of_sets(config: CheckConfig, evaluate: EvaluateConfig, run_dir: Path) -> dict[str, list[Shard]]:
    """Return the units of work of each set; their fingerprints identify its images."""
    units = {name: source_units(Path(path)) for name, path in config.against.items()}
    for name in config.against_datasets:
        dataset = load(name, evaluate, run_dir)
        num_images = len(dataset.image_keys)
        units[name] = []
        for first in range(0, num_images, IMAGES_PER_UNIT):
            images = [first, min(first + IMAGES_PER_UNIT, num_images)]
            fingerprint = {"images": images, "dataset": dataset.images_digest or dataset.digest}
            units[name].append(Shard(name=f"images_{first:09}", path="", fingerprint=fingerprint))
    return units


def scan_dataset(
    unit: Shard, *, name: str, evaluate: EvaluateConfig, run_dir: Path, folder: Path, model: EmbeddingModel | None
) -> Report:
    """Write a row of IMAGE_HASHES for each image of a unit of the dataset `name`; they have no place in a file."""
    dataset = load(name, evaluate, run_dir)
    first, end = unit.fingerprint["images"]
    no_number = pa.nulls(end - first, pa.int64())
    columns = {"key": list(dataset.image_keys[first:end]), "file": pa.nulls(end - first, pa.string())}
    places = pa.table({**columns, "offset": no_number, "size": no_number})
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
