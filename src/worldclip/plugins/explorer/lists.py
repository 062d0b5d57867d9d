"""The entries of each list: the most frequent ones, and all of them in sorted chunks for search and matching."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.balance.stage import head_tail_curve
from worldclip.contracts import layout, schemas
from worldclip.contracts.sources import METADATA_SOURCES
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.kernels.unicode_table import MARK, SIMILAR_TO_CJK, SPACE, SPACED, load_table
from worldclip.language.profiles import normalise
from worldclip.plugins.explorer.chunks import Chunks

NUM_TOP = 500  # most frequent entries of a list that its page shows without a search
CHUNK_ENTRIES = 4096
SOURCE_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # an entry's source is a digit, its position in source_names
MAX_ENTRIES = 30_000_000  # entries of all lists together, some 15 bytes each


def max_entries_per_list(num_entries: Mapping[str, int], max_total: int = MAX_ENTRIES) -> int:
    """Return the largest number of entries per list with which all lists together hold at most `max_total`."""
    largest = max(num_entries.values(), default=0)

    def total(limit: int) -> int:
        return sum(min(limit, number) for number in num_entries.values())

    return bisect.bisect_right(range(largest + 1), max_total, key=total) - 1


def source_names() -> tuple[str, ...]:
    """Return the names of the sources, and that of plain lists, in the order in which they are shown."""
    return (*METADATA_SOURCES, "list")


def source_number(name: str) -> int:
    """Return the position of a source in `source_names`.  Raises UserError if its package is not installed."""
    if name not in source_names():
        raise UserError(f"source {name!r} of entries: unknown; install the package that it is from")
    return source_names().index(name)


def write_list(
    chunks: Chunks, number: int, run_dir: Path, name: str, *, threshold: int | None, profile: str, max_entries: int
) -> None:
    """Write the chunks of one list: lists/NUMBER.js and entries/NUMBER/<chunk>.js.

    A chunk has parallel columns; most entries have no match and are spelt in the list as they are searched for.  Of a
    larger list the `max_entries` with the most matches are written.
    """
    table = artifacts.read_table(layout.entries(run_dir, name), schemas.METADATA, ["entry", "source"])
    counts: np.ndarray = np.load(layout.entry_counts(run_dir, name), mmap_mode="r", allow_pickle=False)
    names = table["source"].combine_chunks().to_pylist()
    number_of = {source: source_number(source) for source in set(names)}
    sources = np.array([number_of[source] for source in names])
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    top = order[:NUM_TOP][counts[order[:NUM_TOP]] > 0]
    rows = np.sort(order[:max_entries])
    entries = table["entry"].take(pa.array(rows)).to_pylist()
    spelt = entries
    if profile != "reference":
        spelt = [normalise(entry, profile) for entry in entries]
    # In code point order; of equal ones the first, and no empty one
    column = pa.array(spelt, pa.large_string())
    by_spelling = pc.sort_indices(column).to_numpy()  # stable, by UTF-8 bytes
    in_order = column.take(pa.array(by_spelling))
    is_new = np.ones(len(by_spelling), np.bool_)
    is_new[1:] = pc.not_equal(in_order[1:], in_order[:-1]).to_numpy(zero_copy_only=False)
    is_new &= pc.not_equal(in_order, "").to_numpy(zero_copy_only=False)
    positions = by_spelling[is_new].astype(np.int64)
    digits = np.array(list(SOURCE_DIGITS))
    firsts: list[str] = []
    for start in range(0, len(positions), CHUNK_ENTRIES):
        part = positions[start : start + CHUNK_ENTRIES]
        part_counts = counts[rows[part]]
        counted = np.flatnonzero(part_counts)
        chunk: dict[str, Any] = {
            "entries": [spelt[i] for i in part],
            "sources": "".join(digits[sources[rows[part]]]),
            "counted": counted.tolist(),
            "counts": part_counts[counted].tolist(),
            "respelt": [[k, entries[i]] for k, i in enumerate(part) if entries[i] != spelt[i]],
        }
        chunks.write(f"entries/{number}/{len(firsts)}", chunk)
        firsts.append(chunk["entries"][0])
    curve = head_tail_curve(np.asarray(counts), threshold)
    chunks.write(
        f"lists/{number}",
        {
            "top": [[table["entry"][i].as_py(), int(sources[i]), int(counts[i])] for i in top],
            "rank": curve["rank"],
            "matches": curve["matches"],
            "firsts": firsts,
            "longest": max(map(len, spelt), default=0),
            "held": len(rows),
        },
    )


def profile_record(profile: str) -> dict[str, Any]:
    """Return what the page needs to cut texts as this profile does: classes of characters as runs, and foldings."""
    table = load_table()
    bits = table.classes & (SPACED | MARK | SPACE | SIMILAR_TO_CJK)
    starts = np.flatnonzero(np.diff(bits.astype(np.int32), prepend=-1))
    record: dict[str, Any] = {"profile": profile, "starts": starts.tolist(), "classes": bits[starts].tolist()}
    if profile == "unicode_fold":
        folded = ["".join(map(chr, part)) for part in np.split(table.folded, table.fold_index[1:-1])]
        record["fold_from"] = table.fold_from.tolist()
        record["folded"] = folded
    return record
