"""Merging lists against a plain dict, over strings that share hashes' ways and none."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import read_table, write_table
from worldclip.metadata.merge import merge_lists

PARTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3)
STRINGS = PARTS | st.sampled_from(["", "a", "猫", "aa"])


def write_list(path: Path, entries: list[str], source: str = "list") -> Path:
    rows = [{"entry_id": i, "entry": entry, "source": source, "score": 1.0} for i, entry in enumerate(entries)]
    write_table(path, pa.Table.from_pylist(rows, METADATA), METADATA)
    return path


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(STRINGS, max_size=40, unique=True), min_size=1, max_size=5))
def test_only_the_first_of_equal_entries_is_written(tmp_path: Path, lists: list[list[str]]) -> None:
    paths = [write_list(tmp_path / f"{number}.parquet", entries) for number, entries in enumerate(lists)]
    merge_lists(paths, tmp_path / "merged.parquet")
    table = read_table(tmp_path / "merged.parquet", METADATA)
    assert table["entry"].to_pylist() == list(dict.fromkeys(entry for entries in lists for entry in entries))


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
