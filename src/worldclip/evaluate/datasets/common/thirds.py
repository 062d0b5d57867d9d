"""Thirds of a run's own images by how often the run's pool mentions their English names: head, middle, tail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout
from worldclip.contracts.schemas import MATCH_COUNTS, MATCH_TEXTS
from worldclip.core.artifacts import Json, read_manifest, read_table

THIRDS = ("head", "middle", "tail")


def thirds(keys: Sequence[str], english_names: Sequence[str], run_dir: Path) -> dict[str, np.ndarray]:
    """Return masks of the head, middle and tail third of the images, by how often the pool mentions the English name.

    A name's count is the geometric mean of the match counts of the entries that match it (0 if none does: such names
    are in the tail); equal counts are ordered by key.  Empty if the run has no match yet.
    """
    if read_manifest(layout.stage_dir(run_dir, "match")) is None:
        return {}
    name_counts = _name_counts(set(english_names), run_dir)
    order = sorted(range(len(keys)), key=lambda i: (-name_counts.get(english_names[i], 0.0), keys[i]))
    masks = {}
    for name, rows in zip(THIRDS, np.array_split(np.array(order), len(THIRDS)), strict=True):
        masks[name] = np.zeros(len(keys), bool)
        masks[name][rows] = True
    return masks


def _name_counts(names: set[str], run_dir: Path) -> dict[str, float]:
    """Return the geometric mean of the counts of the entries that each English name matches, over the whole pool."""
    matched = [_matched_names(layout.match_texts(run_dir, shard), names) for shard in layout.matched_shards(run_dir)]
    rows = [row for of_shard in matched for row in of_shard]
    lists = pa.array({row["entries_lang"] for row in rows}, pa.string())
    files = [read_table(path, MATCH_COUNTS) for path in layout.counted_shards(run_dir)]
    counts = pa.concat_tables(table.filter(pc.is_in(table["entries_lang"].cast(pa.string()), lists)) for table in files)
    sums = counts.unify_dictionaries().group_by(["entries_lang", "entry_id"]).aggregate([("count", "sum")]).to_pylist()
    entry_counts = {(row["entries_lang"], row["entry_id"]): row["count_sum"] for row in sums}
    name_counts: dict[str, float] = {}
    for row in rows:
        of_entries = [max(1, entry_counts.get((row["entries_lang"], entry), 0)) for entry in row["entry_ids"]]
        mean = np.exp(np.mean(np.log(of_entries)))
        name_counts[row["text"]] = float(f"{mean:.9g}")  # the last digits depend on the processor
    return name_counts


def _matched_names(path: Path, names: set[str]) -> list[Json]:
    """Return the rows of English texts that are names, of one shard."""
    table = read_table(path, MATCH_TEXTS, ["text", "lang", "entries_lang", "entry_ids"])
    is_english = pc.equal(table["lang"].cast(pa.string()), "en")
    is_name = pc.is_in(table["text"].cast(pa.string()), pa.array(names, pa.string()))
    rows: list[Json] = table.filter(pc.and_(is_english, is_name)).to_pylist()
    return rows
