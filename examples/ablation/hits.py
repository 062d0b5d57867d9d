"""What a run leaves: one bit per language, concept and picture for top-1 and for top-5, and the run's record.

    <run>.npz    record   JSON: arm, samples, loss, counts of the list, revision, processor, ...
                 <set>.top1, <set>.top5   (languages, ceil(concepts x pictures / 8)) uint8, bits packed by row
                 <set>.concepts           (concepts,) keys        <set>.kinds    (concepts,) int8, see KINDS
                 <set>.thirds             (languages, concepts) int8: 0 head, 1 middle, 2 tail, -1 neither

Equal contents give equal bytes.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import whole_file

KINDS = ("object", "flag", "class seldom in English", "class seldom in others")


@dataclass(frozen=True, kw_only=True, slots=True)
class HitSet:
    """The answers of a run on one set of pictures: L languages, C concepts with R pictures each."""

    top1_LCR: np.ndarray
    top5_LCR: np.ndarray
    concepts: np.ndarray
    kinds: np.ndarray
    thirds: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Hits:
    """A run's file."""

    record: dict[str, Any]
    sets: dict[str, HitSet]


def write_hits(path: Path, hits: Hits) -> None:
    arrays = {"record": np.array(json.dumps(hits.record, sort_keys=True))}
    for name, found in hits.sets.items():
        num_langs = len(found.top1_LCR)
        for key in ("top1", "top5"):
            arrays[f"{name}.{key}"] = np.packbits(getattr(found, f"{key}_LCR").reshape(num_langs, -1), axis=1)
        arrays[f"{name}.concepts"] = np.asarray(found.concepts, np.str_)
        arrays[f"{name}.kinds"] = np.asarray(found.kinds, np.int8)
        arrays[f"{name}.thirds"] = np.asarray(found.thirds, np.int8)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    with whole_file(path) as aside:
        aside.write_bytes(content.getvalue())


def read_hits(path: Path) -> Hits:
    with np.load(path) as arrays:
        record = json.loads(str(arrays["record"]))
        names = [name.removesuffix(".concepts") for name in arrays.files if name.endswith(".concepts")]
        return Hits(record=record, sets={name: _read_set(arrays, name, record) for name in names})


def _read_set(arrays: Any, name: str, record: dict[str, Any]) -> HitSet:
    concepts = arrays[f"{name}.concepts"]
    num_pictures = record["pictures"][name]

    def unpack(key: str) -> np.ndarray:
        bits = np.unpackbits(arrays[f"{name}.{key}"], axis=1, count=len(concepts) * num_pictures)
        return bits.reshape(len(bits), len(concepts), num_pictures).astype(bool)

    return HitSet(
        top1_LCR=unpack("top1"),
        top5_LCR=unpack("top5"),
        concepts=concepts,
        kinds=arrays[f"{name}.kinds"],
        thirds=arrays[f"{name}.thirds"],
    )
