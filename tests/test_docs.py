"""The pages name only what exists: paths, calls, flags, keys; their commands and tables are valid.

Links: test_docs_site.py.  Python runs in tests/export/test_export_formats.py (README.md, docs/7_export.md and
docs/inference.md), in test_pages.py (docs/start_*.md) and next to what it shows.
"""

from __future__ import annotations

import dataclasses
import importlib
import operator
import re
import shlex
import shutil
import sys
import textwrap
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worldclip
from pages import blocks as python_blocks
from toy import draw_shape, markdown_rows
from worldclip.check.config import CheckConfig
from worldclip.cli import command, main
from worldclip.cli.overview import COMMANDS
from worldclip.config import SECTIONS, Recipe
from worldclip.contracts import layout
from worldclip.core import errors, parquet_size, unpack
from worldclip.core.fields import BuildProblems, apply_override, build
from worldclip.model import decode
from worldclip.model.config import PRESETS
from worldclip.plugins.server.read_request import Limits
from worldclip.pool.formats import POOL_FORMATS

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from head import HEAD  # noqa: E402

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("examples/*/*.md")])
HISTORY = ("CHANGELOG.md", "log.md")  # these name what was there when they were written
PRESENT = [page for page in PAGES if page.name not in HISTORY]


def page_id(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_paths_in_the_repository_exist(page):
    paths = set(re.findall(r"`((?:src|tests|docs|recipes|benchmarks|examples)/[\w./-]*)`", read(page)))
    paths = {path for path in paths if "NAME" not in path}  # a placeholder for the reader's own
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_flags_in_inline_code_exist(page, capsys):
    for line in re.findall(r"`worldclip\s+([a-z][^`]*)`", read(page)):
        words = line.split()
        known = flags_of(" ".join(words[:2]), capsys) or flags_of(words[0], capsys)
        assert known, f"{page_id(page)}: no command in: worldclip {line}"
        flags = re.findall(r"(?<=\s)--[a-z][\w.-]*", f" {line}")
        unknown = [flag for flag in flags if not {flag, flag.rpartition(".")[0]} & known]
        assert unknown == [], f"{page_id(page)}: worldclip {line}"


_flags: dict[str, set[str]] = {}


def flags_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the flags in the help of a command; empty for what is no command."""
    if command not in _flags:
        try:
            code = main([*command.split(), "--help"])
        except SystemExit as end:
            code = end.code
        text = capsys.readouterr().out.replace(".NAME", "")
        _flags[command] = set(re.findall(r"--[a-z][\w.-]*", text)) if code == 0 else set()
    return _flags[command]


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_keys_of_the_recipe_exist(page):
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
        kinds = (hints[name], *typing.get_args(hints[name]))  # metadata.lists is a folder or a table
        return not rest or any(typing.get_origin(kind) is dict for kind in kinds)
    return is_key(hints[name], rest)


def is_attribute(name: str) -> bool:
    """Return whether a name like `curate.uniform` is one of the package's."""
    module, _, attribute = name.partition(".")
    return hasattr(importlib.import_module(f"worldclip.{module}"), attribute.partition(".")[0])


def test_no_page_names_a_path_of_one_machine():
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|home|root)/", read(page)), page


def test_pages_install_from_a_checkout():
    """The package index has no worldclip yet."""
    files = [*PRESENT, *REPOSITORY.glob("recipes/*.toml"), *REPOSITORY.glob("examples/**/*.ipynb")]
    assert [page_id(path) for path in files if re.search(r"install\W+worldclip\b", read(path))] == []


def test_pages_package_and_hints_state_one_address_of_the_repository(monkeypatch):
    """`make clone-url` sets it; until then it is a placeholder that says so."""
    clones = {page_id(page): set(re.findall(r"git clone (\S+)", read(page))) for page in PRESENT}
    assert {name for name, urls in clones.items() if urls} >= {"README.md", "docs/start_use.md", "docs/install.md"}
    assert set().union(*clones.values()) == {errors.CLONE_URL}
    project = tomllib.loads(read(REPOSITORY / "pyproject.toml"))["project"]
    assert project["urls"] == {"Repository": errors.CLONE_URL}
    assert f"repository-code: {errors.CLONE_URL}\n" in read(REPOSITORY / "CITATION.cff")
    for name in ("SECURITY.md", ".github/ISSUE_TEMPLATE/config.yml"):
        addresses = re.findall(r"https://[^/\s]+/\S*(?=/security/advisories/new)", read(REPOSITORY / name))
        assert addresses == [errors.CLONE_URL.removesuffix(".git")], name
    for name in ("README.md", "docs/start_use.md", "docs/install.md"):
        is_said = "# a placeholder" in read(REPOSITORY / name)
        assert is_said == errors.CLONE_URL.partition("/worldclip")[0].endswith(".example"), name
    monkeypatch.setattr(errors, "checkout", lambda: None)
    assert errors.install_hint("train").endswith(f"git+{errors.CLONE_URL}'")


def test_security_page_states_the_limits_of_the_code():
    requests = Limits()
    million = [pixels // 10**6 for pixels in decode.MAX_PIXELS_OF_SMALL.values()]
    stated = [
        f"{unpack.MAX_RATIO:,} times their size ({unpack.FREE_BYTES >> 20} MiB always)",
        f"{unpack.MAX_MEMORY_BYTES >> 20:,} MiB of memory, or {unpack.MEMORY_RATIO} times its size",
        f"of a Parquet file from {parquet_size.SMALL_FILE_BYTES >> 20} MiB on",
        f"at most {decode.MAX_PIXELS:,} pixels, below {decode.SMALL_FILE_BYTES >> 20} MiB",
        f"{min(million)} to {max(million)} million by format",
        f"no side more than {decode.MAX_ASPECT:,} times",
        f"{requests.body_bytes >> 20} MiB, {requests.inputs:,} inputs",
        f"{requests.pictures} images of {requests.pixels:,} pixels",
        f"texts of {requests.text_chars:,} characters",
    ]
    page = read(REPOSITORY / "SECURITY.md")
    assert [limit for limit in stated if limit not in page] == []


def test_page_of_layouts_states_the_sizes_of_each_preset():
    expected = []
    for name, sizes in PRESETS.items():
        image_rows = (sizes.image_size // sizes.patch_size) ** 2 + 1
        numbers = [sizes.image_size, sizes.patch_size, image_rows, sizes.vision_layers, sizes.vision_width]
        numbers += [sizes.context_length, sizes.text_layers, sizes.text_width, sizes.embed_dim]
        expected.append((f"`{name}`", *map(str, numbers)))
    assert markdown_rows(read(REPOSITORY / "docs/layouts.md"))[2:] == expected


def test_files_that_are_drawn_are_those_of_a_run(toy_run):
    paths = re.findall(r"RUN/([\w./]+)", read(REPOSITORY / "docs/pair_on_disk.svg"))
    assert len(paths) == 7
    assert [path for path in paths if not (toy_run / path).exists()] == []


# --- numbers that age ---------------------------------------------------------------------------------------------

RESULTS = [*sorted(REPOSITORY.glob("benchmarks/results/*.md")), REPOSITORY / "docs/ablation.md"]


@pytest.mark.parametrize("page", RESULTS, ids=page_id)
def test_results_begin_with_date_machine_command_and_the_code_that_they_measure(page):
    text = read(page)
    heads = list(HEAD.finditer(text))
    assert len(heads) == len(re.findall("^Measured 2", text, re.MULTILINE)), "not in the form of benchmarks/head.py"
    assert HEAD.search(text.partition("\n|")[0]), "no head before the first table"
    paths = [path for head in heads for path in re.findall(r"`([^`]+)`", head["paths"])]
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


# --- code blocks --------------------------------------------------------------------------------------------------

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, code) of each fenced block, and of each indented one by what it looks like."""
    text = read(page)
    yield from FENCED.findall(text)
    for block in INDENTED.findall(FENCED.sub("", text)):
        code = textwrap.dedent(block).strip("\n")
        first = code.lstrip().split("\n")[0]
        if first.startswith(("worldclip ", "torchrun ", "python -m ", "$ ", "pip ")):
            yield "bash", code
        elif re.match(r"\[[\w.]+\]|\w+ = \"", first):
            tables, command, rest = code.partition("\nworldclip ")
            yield "toml", tables
            yield "bash", command + rest


def of_language(language: str) -> list[Any]:
    return [
        pytest.param(code, id=f"{page_id(page)}-{number}")
        for page in PRESENT
        for number, (name, code) in enumerate(blocks(page))
        if name == language
    ]


def commands(code: str) -> list[list[str]]:
    """Return the words after `worldclip` of each command of a block, variables of the shell as they are."""
    lines = code.replace("\\\n", " ").splitlines()
    calls = [re.match(r"\s*(?:srun |torchrun .*-m |\w+=\S* )*worldclip (.*)", line) for line in lines]
    found = [shlex.split(call[1], comments=True) for call in calls if call]
    return [words[: next((i for i, word in enumerate(words) if word in "|><&&;"), len(words))] for words in found]


@pytest.mark.parametrize("code", of_language("bash") + of_language("sh"))
def test_commands_parse(code, monkeypatch, capsys):
    def parse(*arguments: Any, **values: Any) -> int:
        _, called_with = command.parse_command(*arguments, **values)
        problems = BuildProblems(Recipe)
        table: dict[str, Any] = {}
        for override in called_with.get("overrides", ()):
            apply_override(table, override, problems, in_sections=True)
        build(Recipe, table, "", problems)
        assert problems == []
        return 0

    monkeypatch.setattr(command, "run_command", parse)
    monkeypatch.setattr(command, "load_config", lambda cls, *arguments: cls())
    monkeypatch.setattr("worldclip.config.load_config", lambda *arguments, **options: Recipe())
    monkeypatch.setattr(layout, "is_run", lambda path: str(path).startswith(("runs/", "RUN")) and path.name != "export")
    for words in commands(code):
        words = [{"MODEL": "some/model"}.get(word, "0" if word.startswith("$") else word) for word in words]
        try:
            status: Any = main(words)
        except SystemExit as end:
            status = end.code
        assert status == 0, f"worldclip {shlex.join(words)}\n{capsys.readouterr().err}"


def test_calls_of_the_design_page_run(own_run, toy_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own_run, tmp_path / "runs/emoji")
    (tmp_path / "recipes").mkdir()
    shutil.copy(own_run / "recipe.toml", tmp_path / "recipes/emoji.toml")
    (code,) = python_blocks("docs/design.md", "python")
    scope = {"entries": ["cat"], "texts": ["a photo of a cat"], "folder": tmp_path / "matcher", "run": own_run}
    scope |= {"counts": [1, 3, 6, 90], "threshold": 10, "tail_fraction": 0.1}
    scope |= {"keys": ["00000"], "text_idx": [0], "seed": 0, "epoch": 0}
    scope |= {"entry_ids": [0], "offsets": [0, 1], "entry_probs": np.ones(1, np.float32)}
    scope |= {"images": [draw_shape(0, [9, 9, 9], 0)], "labels": ["cat", "dog"]}
    exec(code, scope)
    assert scope["clip"].embed_dim > 0


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_calls_in_inline_code_exist(page):
    for name in re.findall(r"`(worldclip(?:\.\w+)+)\(", read(page)):
        assert callable(operator.attrgetter(name.partition(".")[2])(worldclip)), name


@pytest.mark.parametrize("code", of_language("toml"))
def test_tables_are_of_a_recipe_or_of_the_rules_of_a_check(code):
    tables = tomllib.loads(code)
    if "project" in tables:  # the pyproject.toml of a package that plugs in
        assert set(tables["project"]["entry-points"]) == {COMMANDS.group, POOL_FORMATS.group}
        return
    problems = []
    for config in (Recipe, CheckConfig):
        problems.append(BuildProblems(config))
        build(config, tables, "", problems[-1])
    assert [] in problems, problems[0]
