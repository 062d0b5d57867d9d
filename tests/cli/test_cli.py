from __future__ import annotations

import json
import subprocess
import sys

import pytest

import worldclip
from worldclip.cli import main
from worldclip.recipe import stage_names


def test_help_names_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {stage} " in said for stage in (*stage_names(), "run", "classify"))


@pytest.mark.parametrize("stage", stage_names())
def test_every_stage_tells_the_flags_of_its_config(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([stage, "--help"])
    assert ended.value.code == 0
    assert "--workers" in capsys.readouterr().out


def test_an_unknown_command_is_a_mistake(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cure"]) == 2
    assert "'cure' is not a command" in capfd.readouterr().err


def test_a_command_of_a_stage_that_is_misspelt_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["pool", "dedub", "my_pool", "--out", "x"]) == 2
    assert "did you mean pool dedup?" in capfd.readouterr().err


def test_a_stage_wants_its_recipe_first(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["match", "--workers", "2"]) == 2
    assert "comes first" in capfd.readouterr().err


def test_a_recipe_that_is_not_there_is_a_mistake(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.toml"]) == 2
    assert "nowhere.toml does not exist" in capfd.readouterr().err


def test_version_says_versions_extras_and_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["versions"]["worldclip"] == worldclip.__version__
    assert set(said["extras"]) >= {"metadata", "demo", "train"}


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "worldclip", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: worldclip")
