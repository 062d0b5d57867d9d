"""The page of a check: keys and details are text, never markup."""

from __future__ import annotations

import html
from pathlib import Path

import pyarrow as pa

from worldclip.check.report import write_report
from worldclip.contracts.schemas import REMOVED
from worldclip.core.artifacts import write_table

HOSTILE = "<script>alert(1)</script>\"'&"


def test_keys_and_details_are_never_markup(tmp_path: Path) -> None:
    row = {"key": HOSTILE, "lang": "en", "detail": HOSTILE, "other_key": f"other {HOSTILE}"}
    rows = [row | {"rule": "near_duplicate", "distance": 3}, row | {"rule": "min_chars", "distance": None}]
    columns = {name: [row.get(name) for row in rows] for name in REMOVED.names}
    write_table(tmp_path / "removed.parquet", pa.table(columns), REMOVED)
    removed = {"near_duplicate": 1, "min_chars": 1}
    report = {
        "counts": {"pairs_in": 3, "valid": 1, "removed": removed, "by_language": {HOSTILE: {"valid": 1}}},
        "images": {"images": 3, "undecodable": 0, "nearly_blank": 0},
        "texts": {"read": 3, "rejected": {HOSTILE: 1}},
        "keys_in_several_shards": 0,
        "duplicate_groups": 1,
        "pairs_by_distance": [0, 0, 0, 1],
        "radius": 4,
        "against": {},
    }
    write_report(tmp_path, report, {})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count(html.escape(HOSTILE)) >= 7
