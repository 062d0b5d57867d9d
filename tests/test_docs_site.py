"""docs/build_site.py: the site has every page, command and public call, and no dead link."""

from __future__ import annotations

import sys

import pytest
from test_docs import REPOSITORY

import worldclip
from chromium import open_page, problems_shown
from miniature import write_files
from served import static_host

sys.path.insert(0, str(REPOSITORY / "docs"))

import build_site
import reference

LOADED = "document.readyState === 'complete'"
STYLE = '<link rel="stylesheet" href="https://example.org/a.css">'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="none.html">', "none.html leads to no file"),
        ('<a href="folder">', "folder leads to no file"),
        ('<a href="b.html#none">', "b.html#none leads to no anchor"),
        ('<a href="#none">', "#none leads to no anchor"),
        ('<img src="none.png">', "none.png leads to no file"),
        (STYLE, "https://example.org/a.css is loaded from another host"),
    ],
)
def test_dead_link_anchor_and_image_are_named(body, problem, tmp_path):
    site = write_files(tmp_path, {"a.html": body, "b.html": '<h1 id="one">', "folder/a.txt": ""})
    assert build_site.dead_links(site) == [f"a.html: {problem}"]


def test_site_is_built_without_a_problem(tmp_path):
    pytest.importorskip("zensical", reason="pip install -e '.[docs]'")
    assert build_site.build(tmp_path / "docs") == []
    page = (tmp_path / "docs/site/docs/commands.html").read_text(encoding="utf-8")
    assert "runs/&lt;name of the recipe&gt;" in page
    names = [name for names in reference.command_names().values() for name in names]
    assert [name for name in names if f'id="{name.lower().replace(" ", "-")}"' not in page] == []
    api = (tmp_path / "docs/site/docs/api.html").read_text(encoding="utf-8")
    public = [f"worldclip.{name}" for name in worldclip.__all__ if name != "__version__"]
    assert [name for name in public if name not in api] == []


@pytest.mark.slow
def test_every_page_of_the_site_can_be_shown(tmp_path):
    pytest.importorskip("zensical", reason="pip install -e '.[docs]'")
    site = tmp_path / "docs/site"
    build_site.build(site.parent)
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert len(pages) > 40
    with static_host(site) as address, open_page() as page:
        found = {name: problems_shown(page, f"{address}/{name}", LOADED) for name in pages}
    assert {name: problems for name, problems in found.items() if problems} == {}
