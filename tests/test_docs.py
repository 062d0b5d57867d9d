"""The pages name only what exists: links, paths, names in the code, flags of commands, keys of the recipe."""

from __future__ import annotations

import configparser
import dataclasses
import importlib
import re
import typing
from pathlib import Path

import pytest

from worldclip.check.config import CheckConfig
from worldclip.cli import main
from worldclip.config import SECTIONS, Recipe

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("examples/*/*.md")])
HISTORY = ("CHANGELOG.md", "log.md")  # these name what was there when they were written
PRESENT = [page for page in PAGES if page.name not in HISTORY]


def page_id(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", read(page)):
        if "://" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page_id(page)} links to {path}"
        if anchor:
            assert anchor in anchors(target), f"{page_id(page)} links to {path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_first_page_and_index_say_what_a_clip_is_in_the_same_words() -> None:
    pages = [read(REPOSITORY / name) for name in ("README.md", "docs/index.md")]
    sentences = [
        re.findall(r"^(Find pictures .+|\*\*What is a CLIP\?\*\*(?:.+\n)+?.+beforehand\.)$", page, re.M)
        for page in pages
    ]
    assert len(sentences[0]) == 2
    assert sentences[0] == sentences[1]


@pytest.mark.parametrize(
    "name", ["README.md", "docs/index.md", *(f"docs/start_{x}.md" for x in ("curate", "train", "use"))]
)
def test_first_pages_link_their_first_use_of_a_term_to_the_glossary(name: str) -> None:
    prose = re.sub(
        r"^```.*?^```|`[^`\n]*`|(?<=\]\()(?!\S*glossary)[^)]*", "", read(REPOSITORY / name), flags=re.M | re.S
    )
    for term in ("entr(?:y|ies)", "heads?", "tails?", "pools?"):
        first = re.search(rf"(?<![\w/.#-]){term}\b(?!\.md)", prose)
        assert first is None or re.match(r"[^]]*\]\((docs/)?glossary", prose[first.start() :]), f"{name}: {term}"


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_paths_in_the_repository_exist(page: Path) -> None:
    paths = set(re.findall(r"`((?:src|tests|docs|recipes|benchmarks|examples)/[\w./-]*)`", read(page)))
    paths = {path for path in paths if "NAME" not in path}  # a placeholder for the reader's own
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []


def test_names_in_the_tables_of_the_tour_stand_in_their_files() -> None:
    rows = re.findall(r"^\|[^|]*\| (`src/[^|]*)\|([^|]*)\|", read(REPOSITORY / "docs" / "tour.md"), re.MULTILINE)
    assert len(rows) >= 30
    for where, what in rows:
        path = REPOSITORY / re.findall(r"`(src/[\w./-]+)`", where)[0]
        package = REPOSITORY / "src" / "worldclip" / path.relative_to(REPOSITORY / "src" / "worldclip").parts[0]
        source = "".join(read(file) for file in ([path] if path.is_file() else sorted(path.rglob("*.py"))))
        for name in re.findall(r"`@?([A-Za-z_]\w*)`", f"{where} {what}"):
            assert re.search(rf"\b{name}\b", source), f"{path.name} does not hold {name}"
        for file in re.findall(r"`([\w/]+\.py|[\w/]+/)`", f"{where} {what}"):
            if not file.startswith("src/"):
                homes = (path.parent, package, package.parent)
                assert any((home / file).exists() for home in homes), f"{file} is not in {package.name}"


def test_every_registered_item_is_a_module_where_the_tour_says() -> None:
    rows = re.findall(
        r"^\| [a-z ]+ \| (`src/.*`) \| `(worldclip\.\w+)` \|$", read(REPOSITORY / "docs" / "tour.md"), re.M
    )
    folders = {group: re.findall(r"`src/([\w/]+)/`", places) for places, group in rows}
    items = configparser.ConfigParser(delimiters="=")
    items.optionxform = str
    items.read(REPOSITORY / "src" / "worldclip" / "entry_points.txt")
    assert {".".join(section.split(".")[:2]) for section in items.sections()} == set(folders)
    for section in items.sections():
        group = ".".join(section.split(".")[:2])
        for name, value in items[section].items():
            module = value.partition(":")[0].replace(".", "/")
            assert any(module.startswith(f"{folder}/") for folder in folders[group]), f"{name} = {value}"


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_flags_of_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(read(page)):
        words = line.split()
        of_run = "--watch" in words  # `evaluate RUN` in a help is any model, and only a run is watched
        known = (not of_run and flags_of(" ".join(words[:2]), capsys)) or flags_of(words[0], capsys)
        assert known, f"{page_id(page)}: no command in: worldclip {line}"
        unknown = [flag for flag in re.findall(r"(?<=\s)--[a-z][\w.-]*", f" {line}") if flag not in known]
        assert unknown == [], f"{page_id(page)}: worldclip {line}"


def commands(text: str) -> list[str]:
    """Return what follows `worldclip` in code blocks, indented lines and inline code, without comments."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .*$", text, re.MULTILINE)
    code = "\n".join([*fenced, *indented]).replace("\\\n", " ")
    lines = re.findall(r"^\s*(?:torchrun .*-m )?worldclip ([a-z].*)$", code, re.MULTILINE)
    inline = re.findall(r"`worldclip\s+([a-z][^`]*)`", text)
    return [" ".join(line.split("  #")[0].split()) for line in [*lines, *inline]]


_flags: dict[str, set[str]] = {}


def flags_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the flags in the help of a command; empty for what is no command."""
    if command not in _flags:
        try:
            code = main([*command.split(), "--help"])
        except SystemExit as end:
            code = end.code
        _flags[command] = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out)) if code == 0 else set()
    return _flags[command]


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_keys_of_the_recipe_exist(page: Path) -> None:
    places = re.findall(rf"`(?:\[)?((?:{'|'.join(SECTIONS)})\.[a-z_][\w.]*)(\(?)", read(page))
    files = re.compile(r"\.(md|toml|py|json|html|csv)$")
    keys = {key.rstrip(".") for key, call in places if not call and not files.search(key)}
    assert sorted(key for key in keys if not (is_key(Recipe, key) or is_attribute(key))) == []


def is_key(config: type, key: str) -> bool:
    """Return whether a config has a key such as `balance.tail_fractions.sw`; tables may have any item."""
    name, _, rest = key.partition(".")
    hints = typing.get_type_hints(config)
    if name not in hints:
        return False
    if not rest or not dataclasses.is_dataclass(hints[name]):
        return not rest or typing.get_origin(hints[name]) is dict
    return is_key(hints[name], rest)


def is_attribute(name: str) -> bool:
    """Return whether a name like `curate.uniform` is one of the package's."""
    module, _, attribute = name.partition(".")
    return hasattr(importlib.import_module(f"worldclip.{module}"), attribute.partition(".")[0])


def test_keys_of_the_pool_check_exist() -> None:
    block = re.search(r"duplicates = \"near\".*?\n\n[^ \n]", read(REPOSITORY / "docs" / "pool_check.md"), re.DOTALL)
    assert block is not None
    section = ""
    keys = []
    for line in block.group().splitlines():
        if header := re.match(r"\s+\[([\w.]+)\]", line):
            section = f"{header.group(1)}."
        elif key := re.match(r"\s+(\w+) = ", line):
            keys.append(f"{section}{key.group(1)}")
    assert len(keys) > 25
    assert [key for key in keys if not is_key(CheckConfig, key) and not key.startswith("classifiers.")] == []


def test_no_page_names_a_path_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|home|root)/", read(page)), page
