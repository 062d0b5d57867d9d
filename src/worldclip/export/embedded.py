"""Read the folder that `worldclip embed` wrote: which images or texts its rows are, and where they lie.

N embedded images or texts, D embed_dim.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout
from worldclip.contracts.schemas import EMBEDDED_TEXTS, IMAGE_PLACES
from worldclip.core.artifacts import MANIFEST, read_manifest, read_table
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.inputs import fingerprint_of, is_remote, size_and_time
from worldclip.core.job import Report
from worldclip.core.keys import digest_of
from worldclip.core.local_path import nearest_path
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.model import sample_inputs
from worldclip.pool.config import PoolConfig
from worldclip.pool.hub import without_revision
from worldclip.pool.read import is_table, read_member
from worldclip.pool.stage import open_pool

if TYPE_CHECKING:
    from worldclip.model.inference import Clip

Of = Literal["images", "texts"]
CACHED_TABLES = 256  # tables in memory: a server asks for the same ones again, and reading one takes milliseconds
MIN_MODEL_COSINE = 0.999  # rounding of another device stays above


class ShardRows:
    """The (rows, D) float32 array of a .npy file, mapped only while rows are read: a folder may have many shards."""

    def __init__(self, path: Path) -> None:
        """Read the shape.  Raises UserError for a file that is no such array."""
        self.path = path
        self._written = size_and_time(str(path))
        try:
            self.shape: tuple[int, ...] = self[:].shape
        except (ValueError, EOFError) as error:
            raise UserError(f"{path} is cut or no array ({error}); remove it and embed the pool again") from error

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return rows.  Raises UserError as `require_unchanged`."""
        self.require_unchanged()
        array: np.ndarray = np.lib.format.open_memmap(self.path, mode="r")
        return array[rows]

    def require_unchanged(self) -> None:
        """Raise UserError for a file that was written since: its rows may be of another model or of other pairs."""
        if size_and_time(str(self.path)) != self._written:
            raise UserError(f"{self.path} changed since the folder was opened; open it again (restart the server)")


@dataclass(frozen=True, slots=True)
class Embedded:
    """A folder of embeddings: row i of the whole is row i - first[s] of shard s."""

    folder: Path
    of: Of
    manifest: Report
    shards: list[str]
    parts: list[ShardRows]
    """The (rows, D) float32 embeddings of each shard."""
    first: np.ndarray
    """(num_shards + 1,) int64."""
    places: tuple[str, ...]
    """The only folders and URLs whose pictures are read, see `picture_places`."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def _read_rows(self, s: int) -> pa.Table:
        """Return the table of shard s.  Raises UserError for one that does not fit its embeddings."""
        self.parts[s].require_unchanged()
        schema = IMAGE_PLACES if self.of == "images" else EMBEDDED_TEXTS
        path = safe_join(self.folder / self.of, f"{self.shards[s]}.parquet")
        table = _read_columns(path, schema)
        has_null = any(column.null_count for column in table.columns)
        try:
            if has_null or len(table) != len(self.parts[s]):
                raise ValueError("it has nulls, or another number of rows")
            return table.select(schema.names).cast(schema)
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise UserError(f"{path} does not fit its .npy ({error}); remove both and embed the pool again") from error

    @property
    def places_text(self) -> str:
        """One line for the user: whose pictures are read."""
        if self.places:
            return f"reads pictures from {', '.join(self.places)}"
        pool = ", ".join(self.manifest.get("places", [])) or "an unknown place"
        return f"reads no pictures: the pool is at {pool}; --pictures-from PLACE gives its host, bucket or folder"

    def read_picture(self, row: Report) -> bytes:
        """Return the image file of a row of `rows`, whose table somebody else may have written.

        Raises UserError for a file outside of `places`, and for a local one that was replaced since it was embedded;
        otherwise as read_member.
        """
        if not any(_is_below(row["file"], place) for place in self.places):
            raise UserError(
                f"{row['file']} does not lie in {' or '.join(self.places) or 'a local pool'}; to read it, give its "
                "folder, host or bucket as --pictures-from"
            )
        if not is_remote(row["file"]) and os.path.exists(row["file"]) and self._is_replaced(row):
            raise UserError(f"{row['file']} changed since it was embedded; embed the pool again")
        return read_member(row["file"], row["offset"], row["size"])

    def _is_replaced(self, row: Report) -> bool:
        fingerprint: Report = self.manifest["inputs"]["images"][row["shard"]]
        written_at = os.stat(row["file"]).st_mtime_ns
        if "files" in fingerprint:
            return any(name == row["key"] and time_ns != written_at for name, _, time_ns in fingerprint["files"])
        if row["offset"] == 0 and not is_table(row["file"]):  # named by a table, whose fingerprint has no single times
            return written_at > (self.folder / MANIFEST).stat().st_mtime_ns
        return bool(fingerprint_of(row["file"], fingerprint.get("path", "")) != fingerprint)

    def captions(self, rows: Sequence[Report]) -> dict[tuple[str, str], list[str]]:
        """Return {(shard, key): texts} of images, where the folder holds the texts of their shards too.

        Raises UserError for texts that cannot be read.
        """
        if self.of == "texts" or "texts" not in self.manifest["config"]["of"]:
            return {}
        captions: dict[tuple[str, str], list[str]] = {}
        for shard in {row["shard"] for row in rows} & set(self.manifest["inputs"]["texts"]):
            keys = pa.array(sorted({row["key"] for row in rows if row["shard"] == shard}), pa.string())
            path = safe_join(self.folder / "texts", f"{shard}.parquet")
            table = _read_columns(path, EMBEDDED_TEXTS).select(["key", "text"])
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
        """Return what the rows are: shard, key, and file, offset, size of an image, or text_idx, text."""
        records: list[Report] = [{}] * len(ids)
        for s, positions, rows in self._by_shard(ids):
            for position, row in zip(positions.tolist(), self._read_rows(s).take(rows).to_pylist(), strict=True):
                records[position] = {"shard": self.shards[s], **row}
        return records

    def _by_shard(self, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (shard, positions in `ids`, the rows of the shard there) of each shard that holds some."""
        shard = np.searchsorted(self.first, ids, side="right") - 1
        for s in np.unique(shard).tolist():
            positions = np.flatnonzero(shard == s)
            yield s, positions, ids[positions] - self.first[s]


def _read_columns(path: Path, schema: pa.Schema) -> pa.Table:
    """Return the columns of a schema, without those of vectors.  Raises UserError for a file that cannot be read."""
    try:
        stat = path.stat()
        return _read_version(path, schema, stat.st_mtime_ns, stat.st_size)
    except (BadShard, OSError) as error:
        raise UserError(f"{error}; remove it and embed the pool again") from error


@functools.lru_cache(maxsize=CACHED_TABLES)
def _read_version(path: Path, schema: pa.Schema, mtime_ns: int, size: int) -> pa.Table:
    return read_table(path, schema, schema.names)


def path_in_pool(row: Report) -> str:
    """Return the path of a row of `Embedded.rows` in its pool: an image file's, else its shard's and its key."""
    return str(row["key"]) if _is_image_file(row) else f"{row['shard']}/{row['key']}"


def folder_and_file(row: Report) -> tuple[str, str]:
    """Return where the image of a row lies: its folder and its name, or its tar or table and its key."""
    if not _is_image_file(row):
        return row["file"], row["key"]
    path = Path(row["file"])
    return str(path.parent), path.name


def _is_image_file(row: Report) -> bool:
    return "." not in row["shard"]  # a group of image files is files_000000, any other shard a file with a suffix


def picture_places(manifest: Report, pictures_from: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the folders and URLs whose pictures may be read: `pictures_from`, by default the pool's local folders.

    The manifest, too, may be somebody else's: a URL in it is not read unless the user repeats it.  Raises UserError for
    a folder that does not exist, and for a URL without a host or bucket.
    """
    if not pictures_from:
        return tuple(os.path.realpath(place) for place in manifest.get("places", []) if not is_remote(place))
    problems = []
    for place in pictures_from:
        if is_remote(place) and not place.rpartition("://")[2].strip("/"):
            problems.append(f"pictures_from = {place!r}: names no host or bucket; give one, as in https://example.org")
        if not is_remote(place) and not os.path.isdir(place):
            problems.append(f"pictures_from = {place!r}: no such folder; give the folder of the pool's pictures")
    if problems:
        raise UserError(problems)
    return tuple(place if is_remote(place) else os.path.realpath(place) for place in pictures_from)


def _is_below(file: str, place: str) -> bool:
    """Return whether a file lies below a folder, links followed, or at a URL below another."""
    if not is_remote(place):
        return not is_remote(file) and Path(os.path.realpath(file)).is_relative_to(place)
    prefix = f"{without_revision(place).rstrip('/')}/"
    url = without_revision(file)
    below = unquote(url.removeprefix(prefix))
    return url.startswith(prefix) and is_safe_name(below) and "::" not in below  # `::` chains URLs in fsspec


def open_embedded(folder: str | Path, of: Of | None = None, pictures_from: Sequence[str] = ()) -> Embedded:
    """Open the images of a folder that embed wrote, or its texts where it holds no images.

    pictures_from: see `picture_places`.  Raises UserError.
    """
    folder = Path(folder)
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or "of" not in manifest["config"]:
        state = "holds no embeddings"
        suggestion = ""
        if not folder.exists():
            state = "does not exist"
            suggestion = nearest_path(str(folder))
        if layout.done_dir(folder).is_dir():
            state = "is unfinished: run its command again"
        raise UserError(
            f"{folder} {state}; {suggestion}give a folder that `worldclip embed MODEL POOL --out DIR` wrote"
        )
    kinds = manifest["config"]["of"]
    of = of or kinds[0]
    if of not in kinds:
        raise UserError(f"{folder} holds no {of}, only {' and '.join(kinds)}: embed the pool with --of {of}")
    _refuse_changed_lists(folder, manifest)
    shards = sorted(manifest["inputs"][of])
    parts = [ShardRows(safe_join(folder / of, f"{name}.npy")) for name in shards]
    if len({part.shape[1] for part in parts}) != 1:
        raise UserError(f"{folder}: its shards have embeddings of different sizes; embed the pool again")
    first = np.cumsum([0, *map(len, parts)])
    places = picture_places(manifest, pictures_from)
    return Embedded(folder, of, manifest, shards, parts, first, places)


def _refuse_changed_lists(folder: Path, manifest: Report) -> None:
    """Raise UserError where a list of keys, or pool.where, is not that of the embedding: a key may be taken down.

    A list or a recipe that is not on this machine tells nothing.
    """
    digests = [record["digest"] for record in manifest["inputs"].get("key_lists", [])]
    paths = manifest.get("key_lists", [])
    changed = [path for path, recorded in zip(paths, digests, strict=False) if _is_changed(path, recorded)]
    recipe = Path(manifest.get("recipe", os.devnull))
    if recipe.suffix == ".toml" or layout.is_run(recipe):
        config = open_pool(recipe).section(PoolConfig)
        lists = [path for path in (config.valid_keys, *config.deny_keys) if path is not None]
        changed += [path for path in lists if os.path.abspath(path) not in paths and os.path.isfile(path)]
        if config.identity.get("where") != manifest["config"]["pool"].get("where"):
            raise UserError(f"{folder} is out of date: pool.where of {recipe} changed; embed the pool again")
    if changed:
        named = ", ".join(map(repr, changed))
        raise UserError(f"{folder} is out of date: new or changed lists of keys: {named}; embed the pool again")


def _is_changed(path: str, recorded: str) -> bool:
    return os.path.isfile(path) and digest_of(path) != recorded


def check_model(embedded: Embedded, clip: Clip, name: str, remedy: str) -> None:
    """Raise UserError where `clip` does not embed as the model did that embedded the folder."""
    expected = np.load(embedded.folder / "probe.npy", allow_pickle=False)
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
    texts = [text for text in sample_inputs.TEXTS if text]
    return np.concatenate([clip.encode_image(sample_inputs.images()[:1]), clip.encode_text(texts)])
