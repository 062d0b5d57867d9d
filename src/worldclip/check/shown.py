"""Read from removed.parquet what a check's report shows: sampled removals, groups of duplicates, and their images."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.check.duplicates import DUPLICATE_RULES
from worldclip.check.images import images_at
from worldclip.core.coin import sample_numbers
from worldclip.core.errors import BadShard, UserError
from worldclip.model.decode import BadImage
from worldclip.pool.files import file_in_pool
from worldclip.pool.read import read_member
from worldclip.report.html import Html, tag
from worldclip.report.images import data_uri, shrink

SAMPLES_PER_RULE = 24  # removals of a rule, and groups of duplicates, in the gallery, chosen by hash
COPIES_PER_GROUP = 11  # copies shown next to the pair that stays
THUMBNAIL_PX = 112
NUM_DISTANCES = 65  # 0 to 64 bits

ReadImage = Callable[[str], bytes]
Place = tuple[str, int, int]
"""File, offset and size of an image."""


def evaluation_set(rule: str) -> str | None:
    """Return the evaluation set of a rule of decontamination."""
    return rule.removeprefix("against:") if rule.startswith("against:") else None


@dataclass(slots=True)
class Removed:
    """The part of removed.parquet that the page shows: some rows per rule, chosen by the hashes of their keys."""

    samples: dict[str, pa.Table] = field(default_factory=dict)
    """SAMPLES_PER_RULE rows of each rule, in the order of hashes."""
    distances: dict[str, np.ndarray] = field(default_factory=dict)
    """(NUM_DISTANCES,) removals of a rule by distance."""
    copied: dict[str, set[str]] = field(default_factory=dict)
    """Evaluation images that removed pairs show, by rule."""
    groups: dict[str, pa.Table] = field(default_factory=dict)
    """COPIES_PER_GROUP duplicates of each pair that stays, in the order of hashes, by the key that stays."""
    group_sizes: Counter[str] = field(default_factory=Counter)
    """Duplicates of these pairs."""

    @classmethod
    def read(cls, path: Path) -> Removed:
        """Read the file in two passes.  Memory does not grow with it, except for the evaluation images' names."""
        removed = cls()
        stays: pa.Table | None = None
        for table in _batches(path):
            for rule in pc.unique(table["rule"]).to_pylist():
                rows = table.filter(pc.equal(table["rule"], rule))
                removed._add(rule, rows)
                if rule in DUPLICATE_RULES:
                    keys = pa.table({"other_key": pc.unique(rows["other_key"])})
                    stays = _merge_samples(stays, _with_order(keys))
        if stays is not None:
            removed._read_groups(path, stays["other_key"].combine_chunks())
        return removed

    def _read_groups(self, path: Path, stays: pa.Array) -> None:
        samples: dict[str, pa.Table] = {}
        for table in _batches(path):
            is_copy = pc.is_in(table["rule"], pa.array(DUPLICATE_RULES))
            copies = table.filter(pc.and_(is_copy, pc.is_in(table["other_key"], stays)))
            for key in pc.unique(copies["other_key"]).to_pylist():
                rows = copies.filter(pc.equal(copies["other_key"], key))
                samples[key] = _merge_samples(samples.get(key), rows, COPIES_PER_GROUP)
                self.group_sizes[key] += len(rows)
        self.groups = {key: samples[key] for key in stays.to_pylist()}

    def _add(self, rule: str, rows: pa.Table) -> None:
        self.samples[rule] = _merge_samples(self.samples.get(rule), rows)
        counts = np.bincount(rows["distance"].drop_null().to_numpy(), minlength=NUM_DISTANCES)
        if counts.any():
            self.distances[rule] = self.distances.get(rule, 0) + counts
        if evaluation_set(rule):
            self.copied.setdefault(rule, set()).update(pc.unique(rows["other_key"]).to_pylist())

    def shown_names(self) -> tuple[set[str], dict[str, set[str]]]:
        """Return the keys of the pairs that are shown, and the images shown of each evaluation set."""
        pairs = set(self.groups)
        references: dict[str, set[str]] = {}
        for rule, sample in self.samples.items():
            pairs.update(sample["key"].to_pylist())
            others = set(sample["other_key"].drop_null().to_pylist())
            name = evaluation_set(rule)
            if name:
                references[name] = others
            else:
                pairs |= others
        for group in self.groups.values():
            pairs.update(group["key"].to_pylist())
        return pairs, references


def _batches(path: Path) -> Iterator[pa.Table]:
    """Read removed.parquet in parts, each row with the hash of its key (`order`)."""
    schema = pa.schema([(name, pa.string()) for name in ("key", "rule", "detail", "other_key")])
    schema = schema.append(pa.field("distance", pa.int16()))
    for batch in pq.ParquetFile(path).iter_batches(columns=schema.names):
        yield _with_order(pa.Table.from_batches([batch]).select(schema.names).cast(schema))


def _with_order(table: pa.Table) -> pa.Table:
    return table.append_column("order", pa.array(sample_numbers(table.column(0))))


def _merge_samples(sample: pa.Table | None, more: pa.Table, size: int = SAMPLES_PER_RULE) -> pa.Table:
    """Return the `size` rows of both that come first in the order of hashes, each value of the first column once."""
    both = more if sample is None else pa.concat_tables([sample, more])
    both = both.sort_by("order")
    codes = both.column(0).combine_chunks().dictionary_encode().indices.to_numpy()
    first_rows = np.sort(np.unique(codes, return_index=True)[1])
    return both.take(pa.array(first_rows[:size]))


@dataclass(frozen=True, slots=True)
class Images:
    """Thumbnails of pairs and evaluation images, as far as their files still exist."""

    readers: Mapping[str, ReadImage]
    places: Mapping[str | None, Mapping[str, Place]]
    """By evaluation set; None: the pool."""

    @classmethod
    def locate(
        cls, folder: Path, removed: Removed, against: Mapping[str, str], readers: Mapping[str, ReadImage]
    ) -> Images:
        """Look up where the images are that the page shows."""
        pairs, names_by_set = removed.shown_names()
        places: dict[str | None, Mapping[str, Place]] = {
            None: _places(sorted((folder / "images").rglob("*.parquet")), pairs)
        }
        for name in against.keys() - readers.keys():
            places[name] = _own_places(folder / "against" / f"{name}.parquet", names_by_set.get(name, set()))
        return cls(readers, places)

    def thumbnail(self, name: str, set_name: str | None = None) -> Html:
        """Return the image of a pair, or of an evaluation set."""
        if set_name is not None and set_name in self.readers:
            return _thumbnail(self.readers[set_name](name), name)
        return _read_thumbnail(self.places[set_name].get(name), name)


def _places(files: Sequence[Path], names: set[str]) -> dict[str, Place]:
    """Return where the images of these names are; the first of equal names."""
    places: dict[str, Place] = {}
    wanted = pa.array(sorted(names), pa.string())
    for file in files if names else ():
        table = pq.read_table(file, columns=["name", "file", "offset", "size"])
        for row in table.filter(pc.is_in(table["name"], wanted)).to_pylist():
            places.setdefault(row["name"], (row["file"], row["offset"], row["size"]))
    return places


def _own_places(file: Path, names: set[str]) -> dict[str, Place]:
    """Return where the images of an evaluation set are, of those that lie where its file says that its images are.

    Somebody else may have written the file: it may name any file or address, and would put them into the page.
    """
    root = images_at(file)
    places = {}
    for name, (path, offset, size) in _places([file], names).items():
        name_in_root = str(path).removeprefix(f"{root}/")
        with contextlib.suppress(UserError):
            own = file_in_pool(root, Path(root or "").name if path == root else name_in_root, str(path))
            places[name] = (str(own), offset, size)
    return places


def _read_thumbnail(place: Place | None, name: str) -> Html:
    """Return the image; nothing if its file is gone: hash files outlive images, and the caption has the name."""
    if place is None:
        return Html()
    try:
        return _thumbnail(read_member(*place), name)
    except (OSError, BadShard, ValueError, TypeError):  # the latter: sizes in the file of somebody else
        return Html()


def _thumbnail(content: bytes, name: str) -> Html:
    """Return the image; nothing if it cannot be decoded."""
    try:
        return tag("img", src=data_uri(shrink(content, THUMBNAIL_PX)), alt=name)
    except BadImage:
        return Html()
