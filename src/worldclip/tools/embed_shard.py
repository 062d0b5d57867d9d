"""Embed the images or texts of one shard into a segment: an array of vectors and the table of what they are.

A segment is never written again: its name has a digest of the shard and of all that decides its rows.  Vectors of
contents that the folder knows are copied.

N rows of a shard, D embed_dim.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip import pool as pools
from worldclip.check.images import places_of
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import EMBEDDED_IMAGES, EMBEDDED_TEXTS
from worldclip.core import keys
from worldclip.core.artifacts import digest, write_array, write_array_parts, write_table, write_tables
from worldclip.core.coin import sample_records
from worldclip.core.execute import Report, Shard
from worldclip.core.inputs import size_and_time
from worldclip.export.segments import Of, is_group
from worldclip.model.worker import WorkerModel, load_here
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.picture_folder import files_of_group
from worldclip.tools.known_vectors import MODEL, KnownVectors, as_bytes, as_numbers, hashes_of, is_made_by

IMAGES_AT_ONCE = 1024  # images read together: bounds the encoded bytes in memory
TEXTS_AT_ONCE = 65_536  # texts converted to Python strings together
VECTOR = "vector"  # column of the embeddings in a .parquet
NUM_BAD_SAMPLES = 20  # unusable pairs named in the report
SHARD = b"worldclip.shard"
"""Key in the metadata of a segment's table: a digest of the shard's fingerprint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedWork:
    """All that a worker must know to embed a shard."""

    model: WorkerModel
    embed_dim: int
    folder: Path
    run_dir: Path | None
    """The folder that holds pool/; None for a folder of image files, which is no pool."""
    key_lists: Sequence[keys.KeyList]
    places: Sequence[str]
    """The folders and URLs below which the pool's files lie."""
    pool: PoolConfig
    columns: Sequence[str]
    """Columns of the pool that the tables of segments have too."""
    has_vectors: bool
    made_by: str
    """Digest of what makes a vector: the model, and the decoder of images."""
    key: str
    """Digest of what decides the rows of a segment besides its shard."""
    known: KnownVectors

    def stem(self, shard: Shard) -> str:
        """Return the name of the shard's segment, without suffixes."""
        return f"{shard.name}.{digest([self.key, shard.fingerprint])[:8]}"

    def path(self, of: Of, shard: Shard, suffix: str) -> Path:
        """Return a file of the shard's segment; suffix: npy or parquet."""
        return self.folder / of / f"{self.stem(shard)}.{suffix}"


def embed_images(shard: Shard, *, work: EmbedWork) -> Report:
    """Write the shard's segment; images that do not decode are left out and counted.

    So are image files that cannot be read, as they changed or went since they were listed: the next call reads them.
    Raises BadShard for another shard that cannot be read.
    """
    places, counts = _image_places(shard, work)
    num_images = len(places)
    features_ND = np.zeros((num_images, work.embed_dim), np.float32)
    hashes_N2 = np.zeros((num_images, 2), np.uint64)
    is_unread = np.ones(num_images, bool)
    name = glob.escape(str(work.folder / "images" / shard.name))
    for path in sorted(glob.glob(f"{name}.????????.parquet")):  # the shard's own segments with vectors of this model
        if is_made_by(Path(path), work.made_by):
            _copy_unchanged(shard, Path(path), places, work, is_unread, hashes_N2, features_ND)
    is_usable = np.ones(num_images, bool)
    undecodable: list[dict[str, str]] = []
    unreadable: list[dict[str, str]] = []
    unread = np.flatnonzero(is_unread)
    contents = pools.read_members(places.take(unread))
    for start in range(0, len(unread), IMAGES_AT_ONCE):
        images = []
        for row in unread[start : start + IMAGES_AT_ONCE].tolist():
            image = next(contents)
            if isinstance(image, bytes):
                images.append(image)
                continue
            if not is_group(shard.name):
                raise image
            is_usable[row] = False
            is_unread[row] = False
            reason = f"{image}; the next embed reads it again"
            unreadable.append({"key": places["key"][row].as_py(), "reason": reason})
        rows = unread[start : start + IMAGES_AT_ONCE]
        rows = rows[is_unread[rows]]
        hashes_N2[rows] = hashes_of(images)
        known = work.known.find(hashes_N2[rows])
        vectors = features_ND[rows]
        work.known.copy(known, vectors)
        is_new = known[:, 0] < 0
        if is_new.any():
            new = np.flatnonzero(is_new).tolist()
            vectors[is_new], reasons = load_here(work.model).encode_each([images[i] for i in new])
            for position, reason in reasons.items():
                row = int(rows[new[position]])
                is_usable[row] = False
                undecodable.append({"key": places["key"][row].as_py(), "reason": reason})
        features_ND[rows] = vectors
    write_array(work.path("images", shard, "npy"), features_ND[is_usable])
    table = places.append_column("sha256", as_bytes(hashes_N2)).filter(pa.array(is_usable))
    _write_rows("images", shard, table, EMBEDDED_IMAGES, work)
    embedded = int(is_usable.sum())
    counts |= {"embedded": embedded, "undecodable": len(undecodable), "unreadable": len(unreadable)}
    return {**counts, "bad": sample_records([*unreadable, *undecodable], NUM_BAD_SAMPLES)}


def _image_places(shard: Shard, work: EmbedWork) -> tuple[pa.Table, Report]:
    """Return the columns of EMBEDDED_IMAGES but sha256 of a shard's images, and how many pairs it has.

    `file` is the path to read in `places.file`; _write_rows makes it relative.  Images of keys that the lists exclude
    are left out.
    """
    times: list[int | None] | None = None
    if work.run_dir is None:
        places = places_of(shard)
        counts = {"pairs": len(places), "no_image": 0, "not_valid": 0}
        if is_group(shard.name):
            times = [time_ns for _, _, time_ns in files_of_group(shard.fingerprint)]
    else:
        pair_keys, num_without, num_repeated = pools.read_keys(work.run_dir, shard.name)
        num_pairs = len(pair_keys) + num_without + num_repeated
        num_images = len(pools.read_images(work.run_dir, shard.name, pools.EVERY_KEY))
        images = pools.read_images(work.run_dir, shard.name, work.key_lists)
        counts = {
            "pairs": num_pairs,
            Reason.DUPLICATE.label: num_repeated,
            "no_image": num_pairs - num_repeated - num_images,
            "not_valid": num_images - len(images),
        }
        places = pools.image_places(shard, images)
        if _names_files(shard):
            times = []
            for path in places["file"].to_pylist():
                stamp = size_and_time(path)
                times.append(stamp[1] if stamp else None)  # a shard fails as a file that is gone is read
        for name, values in _columns_of(shard, images["row"].to_numpy(), work).items():
            places = places.append_column(name, values)
    column = pa.nulls(len(places), pa.int64()) if times is None else pa.array(times, pa.int64())
    return places.append_column("mtime_ns", column), counts


def _names_files(shard: Shard) -> bool:
    """Return whether a shard is a table that names image files."""
    return "pictures" in shard.fingerprint


def _columns_of(shard: Shard, rows: np.ndarray, work: EmbedWork) -> dict[str, pa.ChunkedArray]:
    """Return the columns that are taken along, of these rows of a shard."""
    if not work.columns:
        return {}
    table = pools.read_columns(shard, pools.options_of(work.pool, shard.name), work.columns, "--columns").take(rows)
    return dict(zip(table.column_names, table.columns, strict=True))


def _copy_unchanged(
    shard: Shard,
    path: Path,
    places: pa.Table,
    work: EmbedWork,
    is_unread: np.ndarray,
    hashes_N2: np.ndarray,
    features_ND: np.ndarray,
) -> None:
    """Take hashes and vectors of images from an earlier segment where nothing says that they changed.

    These are all images of a shard with the same fingerprint, and image files of the same size and time.
    """
    columns = ["key", "place", "file", "offset", "size", "mtime_ns", "sha256"]
    earlier = pq.read_table(path, columns=columns)
    is_same_shard = (pq.read_schema(path).metadata or {}).get(SHARD) == digest(shard.fingerprint).encode()
    if not is_same_shard and not is_group(shard.name) and not _names_files(shard):
        return
    earlier_keys = earlier["key"].cast(pa.large_string()).combine_chunks()
    row_of = pc.index_in(places["key"].cast(pa.large_string()).combine_chunks(), value_set=earlier_keys)
    row_of = np.asarray(row_of.fill_null(-1))
    rows = np.flatnonzero(is_unread & (row_of >= 0))
    if not len(rows) or not len(earlier):
        return
    before = earlier.take(row_of[rows])
    after = places.take(rows)
    is_same = np.ones(len(rows), bool)
    for name in ("offset", "size", "mtime_ns"):
        values = before[name].fill_null(-1).to_numpy()
        is_same &= values == after[name].fill_null(-1).to_numpy()
    if _names_files(shard):  # a changed table may name another file for a key
        after = _with_relative_files(after, work.places)
        is_same &= np.asarray(pc.equal(before["file"].cast(pa.string()), after["file"]))
        is_same &= np.asarray(pc.equal(before["place"], after["place"]))
    rows = rows[is_same]
    hashes_N2[rows] = as_numbers(before["sha256"].to_pylist())[is_same]
    vectors = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    features_ND[rows] = vectors[row_of[rows]]
    is_unread[rows] = False


def embed_texts(shard: Shard, *, work: EmbedWork) -> Report:
    """Write the shard's segment; texts that are not kept are left out and counted."""
    assert work.run_dir is not None
    texts = pools.read_pairs(work.run_dir, shard.name, work.key_lists)
    kept_rows = pa.array(np.flatnonzero(texts.reason == Reason.KEPT))
    columns = (texts.key.take(kept_rows), texts.text_idx.take(kept_rows), texts.text.take(kept_rows))
    rows = pa.table(columns, names=["key", "text_idx", "text"])
    for name, values in _columns_of(shard, texts.row[kept_rows], work).items():
        rows = rows.append_column(name, values)
    hashes_N2 = np.zeros((len(rows), 2), np.uint64)

    def parts() -> Iterator[np.ndarray]:
        """Yield vectors, a part of the texts at a time: a table may have more of them than memory holds."""
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            chunk = rows["text"].slice(start, TEXTS_AT_ONCE).to_pylist()
            hashes = hashes_of([text.encode() for text in chunk])
            hashes_N2[start : start + len(chunk)] = hashes
            known = work.known.find(hashes)
            vectors = np.empty((len(chunk), work.embed_dim), np.float32)
            work.known.copy(known, vectors)
            new = np.flatnonzero(known[:, 0] < 0).tolist()
            if new:
                vectors[new] = load_here(work.model).encode_text([chunk[i] for i in new])
            yield vectors

    write_array_parts(work.path("texts", shard, "npy"), (len(rows), work.embed_dim), np.float32, parts())
    _write_rows("texts", shard, rows.append_column("sha256", as_bytes(hashes_N2)), EMBEDDED_TEXTS, work)
    unusable = (Reason.BAD_PAIR, Reason.DUPLICATE, Reason.NO_TEXT, Reason.NOT_VALID)
    dropped = {reason.label: int((texts.reason == reason).sum()) for reason in unusable}
    bad = [{"key": sample["key"], "reason": sample["reason"]} for sample in texts.bad]
    return {"pairs": len(texts.reason), "embedded": len(rows), **dropped, "bad": bad}


def _write_rows(of: Of, shard: Shard, rows: pa.Table, schema: pa.Schema, work: EmbedWork) -> None:
    """Write a segment's .parquet, after its .npy.

    Under has_vectors it has the vectors as the column `vector`, a part of the rows at a time.
    """
    path = work.path(of, shard, "parquet")
    if of == "images":
        rows = _with_relative_files(rows, work.places)
    made_by = {MODEL: work.made_by.encode(), SHARD: digest(shard.fingerprint).encode()}
    for name in map(bare, work.columns):
        schema = schema.append(rows.schema.field(name))
    schema = schema.with_metadata({**schema.metadata, **made_by})
    if not work.has_vectors:
        write_table(path, rows, schema)
        return
    vectors_ND = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)

    def part(start: int) -> pa.Table:
        values = pa.array(np.ravel(vectors_ND[start : start + TEXTS_AT_ONCE]))
        column = pa.FixedSizeListArray.from_arrays(values, work.embed_dim)
        return rows.slice(start, TEXTS_AT_ONCE).append_column(VECTOR, column)

    parts = (part(start) for start in range(0, len(rows), TEXTS_AT_ONCE))
    write_tables(path, parts, schema.append(pa.field(VECTOR, pa.list_(pa.float32(), work.embed_dim))))


def _with_relative_files(rows: pa.Table, places: Sequence[str]) -> pa.Table:
    """Make `file` relative to the first of the places that it lies below, and add `place`, its position or -1."""
    files = rows["file"].combine_chunks()
    place_of = np.full(len(files), -1, np.int16)
    for number, place in enumerate(places):
        prefix = f"{place.rstrip('/')}/"
        is_below = np.asarray(pc.starts_with(files, prefix)) & (place_of < 0)
        if is_below.any():
            relative = pc.utf8_slice_codeunits(files, len(prefix))
            files = pc.if_else(pa.array(is_below), relative, files)
            place_of[is_below] = number
    rows = rows.set_column(rows.column_names.index("file"), "file", files)
    return rows.append_column("place", pa.array(place_of))
