"""What the documents say must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_path_of_the_tour_exists() -> None:
    text = (REPOSITORY / "docs" / "tour.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:src|tests|docs|recipes|benchmarks|examples)/[\w./-]*)`", text))
    assert len(paths) > 20
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []


def test_no_document_names_a_place_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|home|root)/", page.read_text(encoding="utf-8")), page
