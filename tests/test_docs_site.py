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


def test_help_that_fails_is_not_an_empty_section(capsys):
    with pytest.raises(RuntimeError, match="worldclip nothing --help ended with exit code 2"):
        reference.help_of("nothing")


def test_description_of_a_long_flag_stands_below_it():
    lines = ["  --a N       First.", "  --long-flag TEXT", "              Second."]
    assert list(reference.flags_of(lines)) == [("--a N", "First."), ("--long-flag TEXT", "Second.")]


def test_api_page_has_every_public_name():
    headings = set(re.findall(r"^###+ (.+)$", reference.api_page(), re.MULTILINE))
    calls = {f"worldclip.{name}" for name in worldclip.__all__ if name != "__version__"}
    modules = {name: importlib.import_module(f"worldclip.{name}") for name in reference.STAGES}
    names = {f"worldclip.{stage}.{name}" for stage, module in modules.items() for name in module.__all__}
    assert calls | names | {"Clip.encode_image", "Clip.classify"} <= headings


def test_markup_in_docstrings_and_help_stays_text():
    assert reference.escape("runs/<name> *.npy [pool] `<a_b>`") == r"runs/&lt;name> \*.npy \[pool\] `<a_b>`"


def test_parameters_on_one_line_are_items_of_their_own():
    def call(first: int, second: int) -> None:
        """Do it.

        first: one.  second: two, in
        two lines.

        Raises nothing.
        """

    assert reference.prose(call) == "Do it.\n\n- `first`: one.\n\n- `second`: two, in two lines.\n\nRaises nothing.\n"


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


def test_linked_files_and_folders_come_along_and_dead_links_are_named(tmp_path):
    files = {
        "README.md": "[pages](docs/index.md)",
        "docs/index.md": "# I\n\n[a](a.md#x), [none](none.md), `[code](no.md)`, [web](https://example.org)",
        "docs/a.md": "# A\n\n[recipes](../recipes) ![drawing](a.svg)\n\n```\n[code](no.md)\n```\n",
        "docs/a.svg": "<svg/>",
        "docs/not_linked.py": "",
        "recipes/one.toml": "a = 1",
    }
    pages = tmp_path / "pages"
    assert build_site.copy_pages(write_files(tmp_path / "repository", files), pages) == [
        "docs/index.md links to docs/none.md"
    ]
    assert (pages / "recipes/one.toml").read_text() == "a = 1"
    assert (pages / "docs/a.svg").exists()
    assert not (pages / "docs/not_linked.py").exists()
    assert "[recipes](../recipes/index.md)" in (pages / "docs/a.md").read_text()
    assert (pages / "recipes/index.md").read_text() == "# recipes\n\n- [one.toml](one.toml)\n"


def test_links_that_show_a_file_show_its_title(tmp_path):
    write_files(tmp_path, {"pool.md": "# The pool\n"})
    text = "[pool.md](pool.md), [a pool](pool.md), [gone.md](gone.md), `[pool.md](pool.md)`"
    expected = "[The pool](pool.md), [a pool](pool.md), [gone.md](gone.md), `[pool.md](pool.md)`"
    assert build_site.with_titles(text, tmp_path) == expected


def test_empty_cell_of_a_head_is_no_header():
    row = '<tr><th style="text-align: right;"></th><th>a</th><th></th></tr>'
    assert build_site.without_empty_headers(row) == '<tr><td style="text-align: right;"></td><th>a</th><td></td></tr>'


def test_page_that_the_index_lacks_is_named(tmp_path):
    write_files(tmp_path, {"docs/index.md": "## One\n[a](a.md)", "docs/a.md": "# A", "docs/b.md": "# B"})
    write_files(tmp_path, dict.fromkeys(build_site.REFERENCE, "# R"))
    problems = build_site.pages_without_place(tmp_path, build_site.navigation(tmp_path))
    assert problems == ["docs/b.md is not linked in docs/index.md; add it to a section"]


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


def test_good_links_are_no_problem(tmp_path):
    addresses = ["../b.html#one", "#two", "/b.html", "../folder/", "../a%20b.png", "https://example.org", "data:,x"]
    body = '<p id="two">' + "".join(f'<a href="{address}">' for address in addresses)
    site = write_files(
        tmp_path, {"docs/a.html": body, "b.html": '<h1 id="one">', "folder/index.html": "", "a b.png": ""}
    )
    assert build_site.dead_links(site) == []


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
