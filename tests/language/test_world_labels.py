"""The table of docs/world.md: languages that lid.176 has no label for, and the labels of GlotLID's scheme."""

from __future__ import annotations

import csv
import re
import runpy
from pathlib import Path

from worldclip.language import scripts
from worldclip.language.table import all_languages, by_code, from_lid

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")


def test_page_has_the_table_of_the_language_table() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "world_labels.py"))
    assert written["with_table"](PAGE) == PAGE, "run: python docs/world_labels.py"


def test_labels_of_the_page_mean_their_languages() -> None:
    part = PAGE.partition("<!-- labels")[2]
    pairs = re.findall(r"(\w+) `(\w{3}_\w{4})`", part.partition("|---|---|")[2])
    assert len(pairs) > 50
    for code, label in pairs:
        assert from_lid(label, "glotlid") == code
        assert not by_code()[code].lid176


def test_every_script_of_the_table_has_a_name() -> None:
    with open(ROOT / "src/worldclip/language/table.csv", encoding="utf-8", newline="") as file:
        used = {record["script"] for record in csv.DictReader(file)}
    assert used == set(scripts.NAMES)
    assert {scripts.script_name(row.script) for row in all_languages()} >= {"Latin", "Cyrillic", "Devanagari"}
    assert scripts.script_name("Xxxx") == "Xxxx"
