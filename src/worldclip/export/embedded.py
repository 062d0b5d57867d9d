"""Read the folder that `worldclip embed` wrote: which images or texts its rows are, and where they lie.

N embedded images or texts, D embed_dim.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.contracts import layout
from worldclip.contracts.schemas import EMBEDDED_IMAGES, EMBEDDED_TEXTS, IMAGE_PLACES
from worldclip.core.artifacts import read_manifest, read_table
from worldclip.core.coin import hash_keys
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.inputs import is_remote, size_and_time
from worldclip.core.job import Report
from worldclip.core.keys import digest_of
from worldclip.core.local_path import nearest_path
from worldclip.core.printable import counted
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.model import sample_inputs
from worldclip.pool.config import PoolConfig
from worldclip.pool.hub import without_revision
from worldclip.pool.read import read_member
from worldclip.pool.stage import open_pool

if TYPE_CHECKING:
    from worldclip.model.inference import Clip

Of = Literal["images", "texts"]
IMAGES_OR_TEXTS: dict[Of, pa.Schema] = {"images": EMBEDDED_IMAGES, "texts": EMBEDDED_TEXTS}
MAY_BE_NULL = ("mtime_ns", "sha256")
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
        except (ValueError, EOFError, OSError) as error:
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
            raise UserError(f"{self.path} changed or went since the folder was opened; open it again")


@dataclass(frozen=True, slots=True)
class Embedded:
    """A folder of embeddings: row i of the whole is row i - first[s] of shard s."""

    folder: Path
    of: Of
    manifest: Report
    shards: list[str]
    stems: list[str]
    """The name of each shard's files, without their suffixes: files that embed writes anew have new names."""
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

    def read_columns(self, s: int, names: Sequence[str]) -> pa.Table:
        """Return columns of shard s, a row per embedding.  Raises UserError where they do not fit its embeddings."""
        self.parts[s].require_unchanged()
        schema = IMAGES_OR_TEXTS[self.of]
        path = safe_join(self.folder / self.of, f"{self.stems[s]}.parquet")
        table = _read_columns(path, schema)
        try:
            chosen = table.select(names).cast(pa.schema([schema.field(name) for name in names]))
            has_null = any(chosen[name].null_count for name in names if name not in MAY_BE_NULL)
            if has_null or len(table) != len(self.parts[s]):
                raise ValueError("it has nulls, or another number of rows")
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

    def read_picture(self, row: Report) -> bytes:
        """Return the image file of a row of `rows`, whose table somebody else may have written.

        Raises UserError for a file outside of `places`, and for a picture that is another one than was embedded;
        otherwise as read_member.
        """
        if not any(_is_below(row["file"], place) for place in self.places):
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
        captions: dict[tuple[str, str], list[str]] = {}
        for shard in {row["shard"] for row in rows} & set(stems):
            keys = pa.array(sorted({row["key"] for row in rows if row["shard"] == shard}), pa.string())
            path = safe_join(self.folder / "texts", f"{stems[shard]}.parquet")
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
        """Return what the rows are: id, shard, key, and file, offset, size, sha256 of an image, or text_idx, text.

        `id` is a picture's for good, whatever is embedded besides: 16 hex digits of a hash of its path in the pool.
        """
        names = [name for name in IMAGES_OR_TEXTS[self.of].names if name != "mtime_ns"]
        records: list[Report] = [{}] * len(ids)
        for s, positions, rows in self._by_shard(ids):
            table = self.read_columns(s, names)
            row_ids = self._row_ids(s, table)[rows].tolist()
            for position, row_id, row in zip(positions.tolist(), row_ids, table.take(rows).to_pylist(), strict=True):
                record = {"id": f"{row_id:016x}", "shard": self.shards[s], **row}
                if self.of == "images":
                    record["file"] = file_of(self.roots, record.pop("place"), row["file"])
                record["sha256"] = row["sha256"] and row["sha256"].hex()
                records[position] = record
        return records

    def all_ids(self) -> np.ndarray:
        """Return the number in `id` of every row: (N,) uint64."""
        names = ["key"] if self.of == "images" else ["key", "text_idx"]
        ids = [self._row_ids(s, self.read_columns(s, names)) for s in range(len(self.shards))]
        return np.concatenate(ids)

    def _row_ids(self, s: int, table: pa.Table) -> np.ndarray:
        return hash_keys(row_names(self.of, self.shards[s], table), 0)

    def _by_shard(self, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (shard, positions in `ids`, the rows of the shard there) of each shard that holds some."""
        shard = np.searchsorted(self.first, ids, side="right") - 1
        for s in np.unique(shard).tolist():
            positions = np.flatnonzero(shard == s)
            yield s, positions, ids[positions] - self.first[s]


def hash_of(content: bytes) -> bytes:
    """Return the 16 bytes that stand for an encoded image or a text in UTF-8: equal ones have one embedding."""
    return hashlib.sha256(content).digest()[:16]


def file_of(roots: Sequence[str], place: int, file: str) -> str:
    """Return the path or URL of `file` in a row of EMBEDDED_IMAGES.  Raises UserError for a place that is not there."""
    if place < 0:
        return file
    if place >= len(roots):
        raise UserError(f"{file} lies in place {place + 1} of the pool, of {len(roots)}; embed the pool again")
    return f"{roots[place].rstrip('/')}/{file}"


def segments_of(manifest: Report, of: Of) -> dict[str, str]:
    """Return {shard: the name of its files, without suffixes}, by shard; {} where the folder holds none.

    The files of release 0.1 have the names of their shards.
    """
    if "segments" in manifest:
        return dict(sorted(manifest["segments"].get(of, {}).items()))
    return {name: name for name in sorted(manifest["inputs"].get(of, {}))}


def _read_columns(path: Path, schema: pa.Schema) -> pa.Table:
    """Return the columns of a schema, without those of vectors.  Raises UserError for a file that cannot be read."""
    try:
        stat = path.stat()
        return _read_version(path, schema, stat.st_mtime_ns, stat.st_size)
    except (BadShard, OSError) as error:
        raise UserError(f"{error}; remove it and embed the pool again") from error


@functools.lru_cache(maxsize=CACHED_TABLES)
def _read_version(path: Path, schema: pa.Schema, mtime_ns: int, size: int) -> pa.Table:
    try:
        is_older = "sha256" not in pq.read_schema(path).names  # of release 0.1: absolute paths, no hash
    except pa.ArrowInvalid:
        is_older = False
    if not is_older:
        return read_table(path, schema, schema.names)
    if schema == EMBEDDED_IMAGES:
        table = read_table(path, IMAGE_PLACES, IMAGE_PLACES.names)
        table = table.append_column("place", pa.array(np.full(len(table), -1, np.int16)))
        table = table.append_column("mtime_ns", pa.nulls(len(table), pa.int64()))
    else:
        table = read_table(path, schema, [name for name in schema.names if name != "sha256"])
    return table.append_column("sha256", pa.nulls(len(table), pa.binary(16)))


def path_in_pool(row: Report) -> str:
    """Return the path of a row of `Embedded.rows` in its pool: an image file's, else its shard's and its key."""
    return str(row["key"]) if is_group(row["shard"]) else f"{row['shard']}/{row['key']}"


def folder_and_file(row: Report) -> tuple[str, str]:
    """Return where the image of a row lies: its folder and its name, or its tar or table and its key."""
    if not is_group(row["shard"]):
        return row["file"], row["key"]
    path = Path(row["file"])
    return str(path.parent), path.name


def row_names(of: Of, shard: str, table: pa.Table) -> pa.ChunkedArray:
    """Return what names each row of a shard in its pool; table: key, and text_idx of texts.

    It is the path of an image as `path_in_pool` has it, and shard/key#text_idx of a text.
    """
    names = table["key"].cast(pa.string())
    if not is_group(shard):
        names = pc.binary_join_element_wise(shard, names, "/")
    if of == "texts":
        names = pc.binary_join_element_wise(names, table["text_idx"].cast(pa.string()), "#")
    return names


def is_group(shard: str) -> bool:
    """Return whether a shard is a group of image files, such as files_000000, and no file with a suffix."""
    return "." not in shard


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
            state = "does not exist"
            suggestion = nearest_path(str(folder))
        if layout.done_dir(folder).is_dir():
            state = "is unfinished: run its command again"
        raise UserError(
            f"{folder} {state}; {suggestion}give a folder that `worldclip embed MODEL POOL --out DIR` wrote"
        )
    _refuse_changed_lists(folder, manifest)
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
    probe = safe_join(embedded.folder, embedded.manifest.get("probe", "probe.npy"))
    expected = np.load(probe, allow_pickle=False)
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
