"""Read the folder that `worldclip embed` wrote: which images or texts its rows are, and where they lie.

N embedded images or texts, D embed_dim.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout
from worldclip.contracts.schemas import EMBEDDED_TEXTS
from worldclip.core.artifacts import read_manifest
from worldclip.core.coin import hash_keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.inputs import is_remote
from worldclip.core.job import Report
from worldclip.core.keys import digest_of
from worldclip.core.local_path import nearest_path
from worldclip.core.printable import counted
from worldclip.core.safe_path import safe_join
from worldclip.export.picture_places import file_of, is_below, picture_places
from worldclip.export.segments import (
    IMAGES_OR_TEXTS,
    Of,
    ShardRows,
    hash_of,
    is_own_file,
    read_segment,
    row_names,
    segments_of,
)
from worldclip.model import sample_inputs
from worldclip.pool.conditions import fulfils
from worldclip.pool.config import PoolConfig, Where, bare, problems_of_conditions
from worldclip.pool.formats.base import WrongColumns, missing_column
from worldclip.pool.read import read_member
from worldclip.pool.stage import open_pool

if TYPE_CHECKING:
    from worldclip.model.inference import Clip

MAY_BE_NULL = ("mtime_ns", "sha256")
MIN_MODEL_COSINE = 0.999  # rounding of another device stays above


@dataclass(frozen=True, slots=True)
class Embedded:
    """A folder of embeddings: row i of the whole is row i - first[s] of shard s."""

    folder: Path
    of: Of
    manifest: Report
    shards: list[str]
    stems: list[str]
    """The name of each shard's files, without suffixes; a shard that embed writes again gets new names."""
    parts: list[ShardRows]
    """The (rows, D) float32 embeddings of each shard."""
    first: np.ndarray
    """(num_shards + 1,) int64."""
    roots: tuple[str, ...]
    """Where the places of the pool are now: `file` of a row lies below one of them."""
    places: tuple[str, ...]
    """The only folders and URLs whose pictures are read, see `picture_places`."""

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the pool that the folder has, by which searches filter."""
        return tuple(self.manifest["config"].get("columns", ()))

    def read_columns(self, s: int, names: Sequence[str]) -> pa.Table:
        """Return columns of shard s, a row per embedding.  Raises UserError where they do not fit its embeddings."""
        self.parts[s].require_unchanged()
        schema = IMAGES_OR_TEXTS[self.of]
        path = safe_join(self.folder / self.of, f"{self.stems[s]}.parquet")
        table = read_segment(path, schema, self.columns)
        try:
            chosen = table.select(names)
            if len(table) != len(self.parts[s]):
                raise ValueError("it has another number of rows")
            for i, name in enumerate(names):
                if name in self.columns:
                    continue
                if chosen[name].null_count and name not in MAY_BE_NULL:
                    raise ValueError(f"{name} has nulls")
                chosen = chosen.set_column(i, name, chosen[name].cast(schema.field(name).type))
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise UserError(f"{path} does not fit its .npy ({error}); remove both and embed the pool again") from error
        return chosen

    @property
    def remark(self) -> str:
        """One line for the user where the pictures' folders are gone; "" where they are there, or at URLs."""
        gone = [Path(root).name for root in self.roots if not is_remote(root) and not os.path.isdir(root)]
        if self.of == "texts" or not gone:
            return ""
        return f"pictures are not shown: the folder {' and '.join(gone)} is gone; restore it, or give --pool NEW_PATH"

    @property
    def places_text(self) -> str:
        """One line for the user: whose pictures are read."""
        if self.places:
            return f"reads pictures from {', '.join(self.places)}"
        pool = ", ".join(self.manifest.get("places", [])) or "an unknown place"
        return f"reads no pictures: the pool is at {pool}; --pictures-from PLACE gives its host, bucket or folder"

    def may_read(self, row: Report) -> bool:
        """Return whether the file of a row of `rows` lies in `places`."""
        return any(is_below(row["file"], place) for place in self.places)

    def read_picture(self, row: Report) -> bytes:
        """Return the image file of a row of `rows`, whose table somebody else may have written.

        Raises UserError for a file outside of `places`, and for a picture that is another one than was embedded;
        otherwise as read_member.
        """
        if not self.may_read(row):
            raise UserError(
                f"{row['file']} does not lie in {' or '.join(self.places) or 'a local pool'}; to read it, give its "
                "folder, host or bucket as --pictures-from"
            )
        content = read_member(row["file"], row["offset"], row["size"])
        if row["sha256"] not in (None, hash_of(content).hex()):
            raise UserError(f"{row['file']} changed since it was embedded; embed the pool again")
        return content

    def captions(self, rows: Sequence[Report]) -> dict[tuple[str, str], list[str]]:
        """Return {(shard, key): texts} of images, where the folder holds the texts of their shards too.

        Raises UserError for texts that cannot be read.
        """
        if self.of == "texts":
            return {}
        stems = segments_of(self.manifest, "texts")
        keys_of_shards: dict[str, set[str]] = {}
        for row in rows:
            if row["shard"] in stems:
                keys_of_shards.setdefault(row["shard"], set()).add(row["key"])
        captions: dict[tuple[str, str], list[str]] = {}
        for shard, shard_keys in keys_of_shards.items():
            keys = pa.array(shard_keys, pa.string())
            path = safe_join(self.folder / "texts", f"{stems[shard]}.parquet")
            table = read_segment(path, EMBEDDED_TEXTS).select(["key", "text"])
            for row in table.filter(pc.is_in(table["key"], keys)).to_pylist():
                captions.setdefault((shard, row["key"]), []).append(row["text"])
        return captions

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return (n, D) embeddings."""
        rows_nD = np.empty((len(ids), self.parts[0].shape[1]), np.float32)
        for s, positions, rows in self._by_shard(ids):
            rows_nD[positions] = self.parts[s][rows]
        return rows_nD

    def rows(self, ids: np.ndarray) -> list[Report]:
        """Return what the rows are: id, shard, key, path, and file, offset, size, sha256 of an image or text_idx, text.

        A folder with columns of the pool has their values as `columns`.

        `id` is a picture's for good, whatever is embedded besides: 16 hex digits of a hash of its shard and key, of an
        image file in a folder of its path.  `path` is where it lies in the pool, as `select` has it.
        """
        names = [name for name in IMAGES_OR_TEXTS[self.of].names if name != "mtime_ns"]
        records: list[Report] = [{}] * len(ids)
        for s, positions, rows in self._by_shard(ids):
            table = self.read_columns(s, [*names, *self.columns])
            row_ids = self._row_ids(s, table)[rows].tolist()
            table = table.take(rows)
            paths = self._paths(s, table).to_pylist()
            for position, row_id, path, row in zip(positions.tolist(), row_ids, paths, table.to_pylist(), strict=True):
                record = {"id": f"{row_id:016x}", "shard": self.shards[s], "path": path, **row}
                if self.of == "images":
                    record["file"] = file_of(self.roots, record.pop("place"), row["file"])
                record["sha256"] = row["sha256"] and row["sha256"].hex()
                if self.columns:
                    record["columns"] = {name: as_json(record.pop(name)) for name in self.columns}
                records[position] = record
        return records

    def select(self, where: Where, keys: Sequence[str] | None = None, path_prefix: str = "") -> np.ndarray:
        """Return which rows fulfil all conditions, have one of the keys, and a path that begins so: (N,) bool.

        where: conditions as in pool.where, on `columns`.  keys: None for any.  path_prefix: of an image file's path in
        the pool, of others of SHARD/KEY.  Raises UserError for conditions that cannot be asked, and for a prefix of no
        path.
        """
        problems = [f"filter: {problem}" for problem in problems_of_conditions(where)]
        asked = [bare(str(condition[0])) for condition in where if condition]
        problems += [missing_column("filter", name, self.columns) for name in asked if name not in self.columns]
        if problems:
            raise UserError(problems)
        is_chosen = np.ones(len(self), bool)
        has_prefix = np.zeros(len(self), bool)
        example = ""
        places = ("place", "file", "offset", "size") if path_prefix and self.of == "images" else ()
        for s in range(len(self.shards)):
            table = self.read_columns(s, ["key", *places, *dict.fromkeys(asked)])
            chosen = is_chosen[self.first[s] : self.first[s + 1]]
            for name, (_, comparison, operand) in zip(asked, where, strict=True):
                try:
                    chosen &= fulfils(table[name], name, str(comparison), operand, "filter")
                except WrongColumns as error:
                    raise UserError(error.problems) from error
            if keys is not None:
                chosen &= np.asarray(pc.is_in(table["key"], pa.array(keys, pa.string())))
            if path_prefix:
                paths = self._paths(s, table)
                if not example and len(paths):
                    example = paths[0].as_py()
                has_prefix[self.first[s] : self.first[s + 1]] = pc.starts_with(paths, path_prefix)
        if not path_prefix:
            return is_chosen
        if len(self) and not has_prefix.any():
            raise UserError(
                f"path_prefix = {path_prefix!r}: no path in the pool begins so; the first is {example!r} (of an image "
                "file its path, else SHARD/KEY: the table or tar, then the key)"
            )
        return is_chosen & has_prefix

    def _paths(self, s: int, table: pa.Table) -> pa.ChunkedArray:
        """Return where rows of a shard lie in the pool: an image file below a place of the pool, others SHARD/KEY."""
        paths = row_names("images", self.shards[s], table)
        if self.of == "texts":
            return paths
        is_file = pc.and_(is_own_file(table), pc.greater_equal(table["place"], 0))
        return pc.if_else(is_file, table["file"], paths)

    def all_ids(self) -> np.ndarray:
        """Return the number in `id` of every row: (N,) uint64."""
        names = ["key"] if self.of == "images" else ["key", "text_idx"]
        return np.concatenate([self._row_ids(s, self.read_columns(s, names)) for s in range(len(self.shards))])

    def _row_ids(self, s: int, table: pa.Table) -> np.ndarray:
        return hash_keys(row_names(self.of, self.shards[s], table), 0)

    def _by_shard(self, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (shard, positions in `ids`, the rows of the shard there) of each shard that holds some."""
        shard = np.searchsorted(self.first, ids, side="right") - 1
        for s in np.unique(shard).tolist():
            positions = np.flatnonzero(shard == s)
            yield s, positions, ids[positions] - self.first[s]


def as_json(value: Any) -> Any:
    """Return the value of a column as JSON has it: a date as text, null for a number that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def folder_and_file(row: Report) -> tuple[str, str]:
    """Return where the image of a row lies: its folder and its name, or its tar or Parquet file and its key."""
    if row["offset"] != 0 or row["size"] < 0:  # see is_own_file
        return row["file"], row["key"]
    path = Path(row["file"])
    return str(path.parent), path.name


def open_embedded(
    folder: str | Path, of: Of | None = None, pictures_from: Sequence[str] = (), pool: Sequence[str] = ()
) -> Embedded:
    """Open the images of a folder that embed wrote, or its texts where it holds no images.

    pictures_from: see `picture_places`.  pool: where the places of the pool are now, in the order of pool.path, if they
    moved.  Raises UserError.
    """
    manifest = _read_folder(Path(folder))
    kinds = manifest["config"]["of"]
    of = of or kinds[0]
    if of not in kinds:
        raise UserError(f"{folder} holds no {of}, only {' and '.join(kinds)}: embed the pool with --of {of}")
    return _open(Path(folder), manifest, of, pictures_from, pool)


def open_kinds(folder: str | Path, pictures_from: Sequence[str] = (), pool: Sequence[str] = ()) -> dict[Of, Embedded]:
    """Open all that a folder holds, as one manifest has it, images first.  Arguments and errors as `open_embedded`."""
    manifest = _read_folder(Path(folder))
    opened: dict[Of, Embedded] = {}
    for of in IMAGES_OR_TEXTS:
        if of in manifest["config"]["of"]:
            opened[of] = _open(Path(folder), manifest, of, pictures_from, pool)
    return opened


def _read_folder(folder: Path) -> Report:
    """Return the manifest of a folder of embeddings.  Raises UserError."""
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or "of" not in manifest["config"]:
        state = "holds no embeddings"
        suggestion = ""
        if not folder.exists():
            state = "no such folder"
            suggestion = nearest_path(str(folder))
        if layout.done_dir(folder).is_dir():
            state = "is unfinished: run its command again"
        raise UserError(
            f"{folder}: {state}; {suggestion}give a folder that `worldclip embed MODEL POOL --out DIR` wrote"
        )
    # A list of keys, or pool.where, must be that of the embedding: a key may be taken down.  A list or a recipe that is
    # not on this machine tells nothing.
    paths = manifest.get("key_lists", [])
    changed = []
    for path, record in zip(paths, manifest["inputs"].get("key_lists", []), strict=False):
        if os.path.isfile(path) and digest_of(path) != record["digest"]:
            changed.append(path)
    recipe = Path(manifest.get("recipe", os.devnull))
    if recipe.suffix == ".toml" or layout.is_run(recipe):
        config = open_pool(recipe).section(PoolConfig)
        lists = filter(None, (config.valid_keys, *config.deny_keys))
        changed += [path for path in lists if os.path.abspath(path) not in paths and os.path.isfile(path)]
        if config.identity.get("where") != manifest["config"]["pool"].get("where"):
            raise UserError(f"{folder} is out of date: pool.where of {recipe} changed; embed the pool again")
    if changed:
        named = ", ".join(map(repr, changed))
        raise UserError(f"{folder} is out of date: new or changed lists of keys: {named}; embed the pool again")
    return manifest


def _open(folder: Path, manifest: Report, of: Of, pictures_from: Sequence[str], pool: Sequence[str]) -> Embedded:
    segments = segments_of(manifest, of)
    parts = [ShardRows(safe_join(folder / of, f"{stem}.npy")) for stem in segments.values()]
    if len({part.shape[1] for part in parts}) != 1:
        raise UserError(f"{folder}: its shards have embeddings of different sizes; embed the pool again")
    first = np.cumsum([0, *map(len, parts)])
    roots = tuple(manifest.get("places", []))
    if pool:
        if len(pool) != len(roots):
            raise UserError(f"--pool: {folder} was embedded from {counted(len(roots), 'place')}; give as many")
        roots = tuple(place if is_remote(place) else os.path.abspath(place) for place in pool)
        pictures_from = [*pool, *pictures_from]
    places = picture_places(manifest, pictures_from)
    return Embedded(folder, of, manifest, list(segments), list(segments.values()), parts, first, roots, places)


def check_model(embedded: Embedded, clip: Clip, name: str, remedy: str) -> None:
    """Raise UserError where `clip` does not embed as the model did that embedded the folder, or nothing says how."""
    probe = safe_join(embedded.folder, embedded.manifest.get("probe", "probe.npy"))
    try:
        expected = np.load(probe, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{probe} cannot be read ({error}); remove {embedded.folder} and embed the pool again"
        ) from error
    actual = embed_sample_inputs(clip)
    if actual.shape != expected.shape or (actual * expected).sum(axis=1).min() < MIN_MODEL_COSINE:
        raise UserError(
            f"{name} is not the model that embedded {embedded.folder}, or has changed since; {remedy}, or embed the "
            "pool again"
        )
    embedded_in = embedded.manifest["config"]["model"].get("precision") or "fp32"
    if clip.precision not in (None, embedded_in):
        say(
            "search",
            f"{embedded.folder} was embedded in {embedded_in}, but {name} runs in {clip.precision}: scores differ by "
            f"up to 0.01; embed the pool again with --precision {clip.precision}",
        )


def embed_sample_inputs(clip: Clip) -> np.ndarray:
    """Return (1 + texts, D) embeddings of a fixed image and fixed texts."""
    texts = list(filter(None, sample_inputs.TEXTS))
    return np.concatenate([clip.encode_image(sample_inputs.images()[:1]), clip.encode_text(texts)])
