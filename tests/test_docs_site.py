"""docs/build_site.py and docs/reference.py: the site has every page, command and public name, and no dead link."""

from __future__ import annotations

import importlib
import re
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


@pytest.fixture(scope="module")
def commands() -> str:
    return reference.commands_page()


def test_commands_page_has_every_command_of_the_overview(commands):
    names = [name for names in reference.command_names().values() for name in names]
    assert re.findall(r"^### (.+)$", commands, re.MULTILINE) == names
    assert len(names) > 30


@pytest.mark.parametrize("command", ["run", "train", "pool check", "evaluate MODEL", "serve"])
def test_commands_page_has_every_flag_of_the_help(command, commands):
    section = re.search(rf"^### {command}\n(.*?)(?=^##|\Z)", commands, re.MULTILINE | re.DOTALL)
    assert section is not None
    flags = set(re.findall(r"^  (--[a-z][\w.-]*)", reference.help_of(command), re.MULTILINE))
    assert len(flags) > 5
    assert flags - set(re.findall(r"^- `(--[a-z][\w.-]*)", section[1], re.MULTILINE)) == set()


def test_api_page_has_every_public_name():
    headings = set(re.findall(r"^###+ (.+)$", reference.api_page(), re.MULTILINE))
    calls = {f"worldclip.{name}" for name in worldclip.__all__ if name != "__version__"}
    modules = {name: importlib.import_module(f"worldclip.{name}") for name in reference.STAGES}
    names = {f"worldclip.{stage}.{name}" for stage, module in modules.items() for name in module.__all__}
    assert calls | names | {"Clip.encode_image", "Clip.classify"} <= headings


def test_every_page_has_its_place_in_the_navigation(tmp_path):
    assert build_site.copy_pages(REPOSITORY, tmp_path) == []
    write_files(tmp_path, dict.fromkeys(build_site.REFERENCE, "# Reference\n"))
    nav = build_site.navigation(tmp_path)
    assert build_site.pages_without_place(tmp_path, nav) == []
    assert list(nav[2]) == ["You have pairs and want to curate them"]
    assert nav[2]["You have pairs and want to curate them"][:2] == [
        {"Start: curate your pairs": "docs/start_curate.md"},
        {"Pools": "docs/pool.md"},
    ]


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
    assert 'id="pool-check"' in page
    assert "runs/&lt;name of the recipe&gt;" in page


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
