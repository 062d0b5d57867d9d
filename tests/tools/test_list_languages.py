"""`worldclip languages`: codes, labels and lists."""

from __future__ import annotations

import json

import pytest

from worldclip.language import table
from worldclip.tools.list_languages import list_languages, to_text


def test_every_language_of_the_table_is_listed():
    assert [row["code"] for row in list_languages()] == [language.code for language in table.all_languages()]


@pytest.mark.parametrize("word", ["sw", "swh", "swahili", "Swahili"])
def test_find_takes_a_code_a_label_and_a_part_of_a_name(word):
    rows = list_languages(find=word)
    assert "sw" in [row["code"] for row in rows]
    assert len(rows) < 10


def test_run_adds_the_number_of_entries(toy_run):
    counts = json.loads((toy_run / "metadata/manifest.json").read_text())["counts"]
    by_code = {row["code"]: row["entries"] for row in list_languages(toy_run)}
    assert {code: count for code, count in by_code.items() if count is not None} == counts
    assert "| entries |" in to_text(list_languages(toy_run))
