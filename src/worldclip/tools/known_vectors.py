"""Find vectors that a folder of embeddings holds already, by the content of their image or text.

N vectors of the folder, n contents that are looked up, D embed_dim.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.artifacts import write_array
from worldclip.core.errors import BadShard
from worldclip.export.segments import hash_of

MODEL = b"worldclip.model"
"""Key in the metadata of a segment's table: a digest of what made its vectors, the model and the decoder."""


def hashes_of(contents: Sequence[bytes]) -> np.ndarray:
    """Return (n, 2) uint64, the 16 bytes of `hash_of` of each content."""
    return as_numbers(map(hash_of, contents))


def as_numbers(hashes: Iterable[bytes]) -> np.ndarray:
    """Return n hashes of 16 bytes as (n, 2) uint64."""
    return np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 2).astype(np.uint64)


def as_bytes(hashes_n2: np.ndarray) -> pa.Array:
    """Return hashes (n, 2) uint64 as n times 16 bytes."""
    data = pa.py_buffer(hashes_n2.astype(">u8").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(hashes_n2), [None, data])


@dataclass(frozen=True, slots=True)
class KnownVectors:
    """An index of the vectors in `folder`, sorted by hash, which workers map."""

    folder: Path
    stems: Sequence[str]
    """Names of the segments, without suffixes."""
    index: Path
    """Folder of hashes.npy, (N, 2) uint64, and places.npy, (N, 2) int64: segment and row."""

    def find(self, hashes_n2: np.ndarray) -> np.ndarray:
        """Return segment and row of each hash, -1 where no vector is known: (n, 2) int64."""
        known_N2, places_N2 = _open_index(self.index)
        places_n2 = np.full((len(hashes_n2), 2), -1, np.int64)
        if len(known_N2) and len(hashes_n2):
            rows = np.searchsorted(known_N2[:, 0], hashes_n2[:, 0])
            rows = np.minimum(rows, len(known_N2) - 1)
            is_known = (known_N2[rows] == hashes_n2).all(axis=1)
            places_n2[is_known] = places_N2[rows[is_known]]
        return places_n2

    def copy(self, places_n2: np.ndarray, rows_nD: np.ndarray) -> None:
        """Copy the vectors at these places into rows_nD; rows without one (-1) stay."""
        for segment in np.unique(places_n2[:, 0]).tolist():
            if segment >= 0:
                is_here = places_n2[:, 0] == segment
                vectors = np.load(self.folder / f"{self.stems[segment]}.npy", mmap_mode="r", allow_pickle=False)
                rows_nD[is_here] = vectors[places_n2[is_here, 1]]


def index_vectors(folder: Path, model: str, index: Path) -> KnownVectors:
    """Write the index of all vectors in a folder that were made by `model` into the folder `index`."""
    stems: list[str] = []
    hashes = [np.zeros((0, 2), np.uint64)]
    places = [np.zeros((0, 2), np.int64)]
    for path in sorted(folder.rglob("*.parquet")):
        if is_made_by(path, model):
            with pq.ParquetFile(path) as file:  # read_table would look at the file as at a dataset, which takes longer
                hashes_n2 = as_numbers(file.read(["sha256"], use_threads=False)["sha256"].to_pylist())
            segment = np.full(len(hashes_n2), len(stems), np.int64)
            hashes.append(hashes_n2)
            places.append(np.stack([segment, np.arange(len(hashes_n2))], axis=1))
            stems.append(path.relative_to(folder).as_posix().removesuffix(".parquet"))
    hashes_N2 = np.concatenate(hashes)
    order = np.argsort(hashes_N2[:, 0].copy(), kind="stable")
    write_array(index / "hashes.npy", hashes_N2[order])
    write_array(index / "places.npy", np.concatenate(places)[order])
    return KnownVectors(folder, stems, index)


def is_made_by(path: Path, model: str) -> bool:
    """Return whether a segment, whose table is given, is whole and its vectors were made by `model`."""
    try:
        metadata = pq.read_metadata(path)
        vectors = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    except (pa.ArrowException, OSError, ValueError):
        return False  # cut or removed: its vectors are made anew
    return (metadata.metadata or {}).get(MODEL) == model.encode() and len(vectors) == metadata.num_rows


@functools.lru_cache(maxsize=2)  # of images and of texts
def _open_index(index: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        hashes = np.load(index / "hashes.npy", mmap_mode="r", allow_pickle=False)
        return hashes, np.load(index / "places.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadShard(f"{index}: cannot be read ({error})") from error
