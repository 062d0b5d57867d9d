"""A command of another package, which docs/plugins.md shows; and the core without any plug-in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_package import installed, page_code, write_package
from pools import write_lines
from worldclip.cli import main
from worldclip.cli.overview import sections

GROUP = {"worldclip.commands": "longest = longest_texts:longest"}
WITHOUT_PLUG_INS = """
import sys
from worldclip.core import registry

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("worldclip.plugins"):
            raise ImportError(name + " is blocked in this test")

own = registry._own
registry._own = lambda group: [item for item in own(group) if "worldclip.plugins" not in item[1].module]
sys.meta_path.insert(0, Block())
from worldclip.cli import main
if __name__ == "__main__":
    recipe, out = sys.argv[1:]
    assert main(["run", recipe, "--out", out, "--until", "curate", "--workers", "1"]) == 0
    assert main(["--help"]) == main(["status", out]) == main(["estimate", out]) == 0
    assert main(["serve", "model"]) == 2
"""
"""The command line of a checkout without the folder of plug-ins and their lines of entry_points.txt."""


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Path]:
    folder = write_package(tmp_path / "site", "longest_texts", page_code("longest_texts.py"), GROUP)
    with installed(monkeypatch, folder):
        yield folder
    sys.modules.pop("longest_texts", None)


def test_command_of_another_package_runs(site, tmp_path, capsys):
    pool = tmp_path / "pool"
    write_lines(pool / "a.jsonl", [{"uid": text, "text": text} for text in ("a cat", "a red cat", "dog")])
    assert main(["longest", str(pool), "--key", "uid", "--top", "1"]) == 0
    assert capsys.readouterr().out == "     9  a red cat\n"
    assert main(["longest", str(pool), "--key", "uid", "--containing", "dog", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"text": "dog", "chars": 3}]


def test_command_of_another_package_is_listed_without_its_import(site):
    assert sections()["Plug-ins"]["longest"] == "List the longest texts of a pool"
    assert "longest_texts" not in sys.modules


def test_help_and_mistakes_of_its_command_are_as_ours(site, capsys):
    with pytest.raises(SystemExit):
        main(["longest", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: worldclip longest POOL [OPTIONS]\n\nList the longest texts of a pool.\n")
    assert "--containing WORD" in text
    assert "Number of texts. (default: 3)" in text
    assert main(["longest", "--top", "x", "--contain", "a"]) == 2
    problems = capsys.readouterr().err
    assert "unknown flag '--contain'; did you mean --containing?" in problems
    assert "POOL is missing: Folder of the pool, a run, or a .toml file" in problems
    assert main(["longest", "pool", "--top", "x"]) == 2
    assert "--top 'x': must be a whole number; worldclip longest --help lists the flags" in capsys.readouterr().err
    assert main(["longestt", "x"]) == 2
    assert "did you mean longest?" in capsys.readouterr().err


def test_two_packages_with_one_command_are_named(site, tmp_path, monkeypatch, capsys):
    second = write_package(tmp_path / "second", "others", "", {"worldclip.commands": "longest = others:longest"})
    with installed(monkeypatch, second):
        assert main(["--help"]) == 0
        assert "command registered by longest_texts, others; uninstall all but one" in capsys.readouterr().out
        assert main(["longest", "x"]) == 2
    assert "uninstall all but one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("item", "message"),
    [("longest_texts:missing", "cannot be loaded"), ("longest_texts:page", "is no worldclip.cli.command.Command")],
)
def test_item_that_is_no_command_is_named(item, message, tmp_path, monkeypatch, capsys):
    folder = write_package(tmp_path / "site", "longest_texts", "page = 3", {"worldclip.commands": f"longest = {item}"})
    with installed(monkeypatch, folder):
        assert main(["longest", "x"]) == 2
    sys.modules.pop("longest_texts", None)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("code", ["raise RuntimeError('no licence file')", "def"])
def test_failing_import_of_a_command_stops_only_its_own(code, tmp_path, monkeypatch, capsys):
    with installed(monkeypatch, write_package(tmp_path / "site", "longest_texts", code, GROUP)):
        assert main(["--help"]) == main(["languages"]) == 0
        assert main(["longest", "x"]) == 2
    error = "RuntimeError: no licence file" if "licence" in code else "SyntaxError: "
    assert f"command 'longest' of the package longest_texts cannot be loaded ({error}" in capsys.readouterr().err


def test_a_recipe_runs_to_curate_where_no_plug_in_can_be_imported(toy_world, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WITHOUT_PLUG_INS, encoding="utf-8")
    command = [sys.executable, str(program), str(toy_world.recipe), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unknown command serve" in done.stderr
    assert "serve" not in done.stdout
    assert (tmp_path / "run" / "curate" / "manifest.json").exists()
