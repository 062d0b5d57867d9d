"""Every command that is given a TOML file reads all of it, or refuses it: nothing in it is without effect silently."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from test_without_extras import write_stub_of_onnx

from miniature import write_files
from programs import words_of
from toy import write_tar
from worldclip.cli import main
from worldclip.cli.overview import COMMANDS
from worldclip.recipe import stage_names

# T: a recipe with a misspelt section, a rule of pool check and a good [pool]; P: a pool; ONNX: a model; O: a folder to
# write, which must not exist afterwards
READS_ALL = [  # as a recipe: names every unknown section
    "run T --out O",
    *(f"{stage} T --out O" for stage in stage_names()),
    "fetch metadata T",
    "pool check T --out O",
    "pool check T --out O --shards 1/2",
    "pool dedup T --out O",
    "pool dedup T --out O --key json:uid",
    "embed ONNX T --out O",
    "embed ONNX T --out O --key json:uid",
]
TAKES_NONE = [  # names the file
    "init T --out O",
    "status T",
    "pool wat T --out O",
    "pool pack T --out O",
    "publish T owner/name",
    "classify T x.png --labels a",
    "consolidate T",
    "estimate T",
    "inspect T --key a",
    "inspect T --entry red",
    "explore T --out O",
    "compare T T",
    "embed T P --out O",
    "search T red",
    "serve T",
]
UNTRIED = {"pool emoji", "pool world", "languages", "fetch cldr", "fetch dataset", "doctor", "evaluate", "export"}
"""Commands whose arguments are no files, and any model's, which are stages too."""


@pytest.fixture
def places(toy_world, tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.chdir(tmp_path)
    write_stub_of_onnx(tmp_path / "ONNX")
    recipe = tmp_path / "T.toml"
    recipe.write_text(
        f'radius = 3\n[pool]\npath = "{toy_world.pool}"\n[balance]\ntail_fraction = 0.3\n[trian]\nlr = 1\n',
        encoding="utf-8",
    )
    return {"T": recipe, "P": toy_world.pool, "ONNX": tmp_path / "ONNX", "O": tmp_path / "O"}


@pytest.mark.parametrize("command", READS_ALL)
def test_unknown_sections_of_a_recipe_are_refused(command, places, capfd):
    assert main(words_of(command, places)) == 2
    error = capfd.readouterr().err
    assert "unknown section trian; did you mean train?" in error
    assert "unknown section radius;" in error
    assert not places["O"].exists()


@pytest.mark.parametrize("command", TAKES_NONE)
def test_recipe_in_place_of_another_input_is_refused_by_its_name(command, places, capfd):
    before = places["T"].read_bytes()
    code = main(words_of(command, places))
    error = capfd.readouterr().err
    assert code in (1, 2)
    assert "T.toml" in error
    assert "Traceback" not in error
    assert not re.search(r"run first: worldclip \w+ [^ ]*T\.toml", error), "that would not help"
    assert places["T"].read_bytes() == before


def test_tables_have_every_command():
    commands = {name.removesuffix(" MODEL") for name in COMMANDS.names()} | {*stage_names()}
    tried = {name for name in commands for line in (*READS_ALL, *TAKES_NONE) if line.startswith(f"{name} ")}
    assert commands - tried == UNTRIED - {*stage_names()}


def test_rules_and_pool_in_two_files_are_applied(places, tmp_path):
    places["T"].write_text(f'[pool]\npath = "{places["P"]}"\n[train]\nlr = 1.0\n', encoding="utf-8")
    rules = tmp_path / "rules.toml"
    rules.write_text('duplicates = "keep"\n', encoding="utf-8")
    command = ["pool", "check", str(places["T"]), "--out", str(places["O"]), "--workers", "1"]
    assert main([*command, "--config", str(rules)]) == 0
    assert "duplicate" not in (places["O"] / "report.json").read_text(encoding="utf-8")


def test_recipe_in_place_of_rules_is_refused(places, capfd):
    command = ["pool", "check", str(places["P"]), "--out", str(places["O"]), "--config", str(places["T"])]
    assert main(command) == 2
    error = capfd.readouterr().err
    assert "unknown key pool" in error
    assert "unknown key balance" in error
    assert not places["O"].exists()


@pytest.mark.parametrize("command", ["pool check T --out O --set duplicates=keep", "pool dedup T --out O"])
def test_relative_paths_start_at_the_file_of_the_pool(command, places, tmp_path, monkeypatch):
    """Also where the working directory has another pool of that name."""
    for folder, members in (("recipes", ["a", "b"]), ("elsewhere", ["c"])):
        write_tar(tmp_path / folder / "pool" / "0.tar", [(f"{name}.txt", b"a red circle") for name in members])
    places["T"] = tmp_path / "recipes" / "T.toml"
    places["T"].write_text('[pool]\npath = "pool"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*words_of(command, places), "--workers", "1"]) == 0
    report = json.loads((places["O"] / "report.json").read_text(encoding="utf-8"))
    assert report.get("pairs", report.get("counts", {}).get("pairs_in")) == 2


def test_relative_paths_of_rules_start_at_their_file(places, tmp_path):
    folder = write_files(tmp_path / "rules", {"rules.toml": '[against]\nmine = "images"\n'})
    shutil.copytree(places["P"], folder / "images")
    command = ["pool", "check", str(places["P"]), "--out", str(places["O"]), "--workers", "1"]
    assert main([*command, "--config", str(folder / "rules.toml")]) == 0
