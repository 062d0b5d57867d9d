"""Merging lists against a plain dict, over strings that share hashes' ways and none."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import read_table, write_table
from worldclip.metadata.merge import Seen, merge_lists

PARTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3)
strings = PARTS | st.sampled_from(["", "a", "猫", "aa"])


@settings(deadline=None)  # the loops are compiled first
@given(st.lists(st.lists(strings, max_size=40), max_size=5))
def test_only_the_first_of_equal_strings_is_new(lists: list[list[str]]) -> None:
    seen, plain = Seen(sum(map(len, lists))), set[str]()
    for entries in lists:
        expected = [entry not in plain and entry not in entries[:k] for k, entry in enumerate(entries)]
        column = pa.chunked_array([pa.array(entries[:7], pa.string()), pa.array(entries[7:], pa.string())])
        assert seen.add(column).tolist() == expected
        plain.update(entries)
    assert len(seen) == len(plain)


def write_list(path: Path, entries: list[str], source: str) -> Path:
    columns = {"entry_id": range(len(entries)), "entry": entries, "source": [source] * len(entries)}
    table = pa.table({**{key: list(values) for key, values in columns.items()}, "score": [1.0] * len(entries)})
    write_table(path, table, METADATA)
    return path


def test_lists_are_merged_in_order_and_counted_by_source(tmp_path: Path) -> None:
    paths = [
        write_list(tmp_path / "de.parquet", ["Katze", "sofa", "7"], "list"),
        write_list(tmp_path / "en.parquet", ["cat", "sofa"], "wordfreq"),
        write_list(tmp_path / "fr.parquet", [], "list"),
        write_list(tmp_path / "sw.parquet", ["7", "paka"], "list"),
    ]
    counts = merge_lists(paths, tmp_path / "merged.parquet")
    table = read_table(tmp_path / "merged.parquet", METADATA)
    assert table["entry"].to_pylist() == ["Katze", "sofa", "7", "cat", "paka"]
    assert table["entry_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["source"].to_pylist() == ["list", "list", "list", "wordfreq", "list"]
    assert counts == {"list": {"in": 5, "kept": 4}, "wordfreq": {"in": 2, "kept": 1}}
    assert pq.read_schema(tmp_path / "merged.parquet").equals(METADATA, check_metadata=True)
