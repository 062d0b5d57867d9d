"""Paths of flags, of --set and of the Python call are absolute in RUN/recipe.toml: a run works from any folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import worldclip
from toy import ToyWorld
from worldclip.cli import main
from worldclip.config import Recipe, load_recipe
from worldclip.core.settings import to_dict, with_absolute_places, with_value
from worldclip.evaluate.config import EvaluateConfig
from worldclip.train.config import TrainConfig


@pytest.fixture
def world(toy_world, tmp_path, monkeypatch) -> ToyWorld:
    """A copy of the toy world below the working directory, with its run up to the pool."""
    shutil.copytree(toy_world.folder / "pool", tmp_path / "pairs")
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(toy_world, folder=tmp_path)


@pytest.mark.parametrize(
    "words", [["--path", "pairs"], ["--set", "pool.path=pairs"], ["--set=pool.path=pairs", "--path", "pairs"]]
)
def test_relative_path_of_a_flag_holds_in_another_working_directory(words, world, tmp_path, monkeypatch, capfd):
    assert main(["pool", str(world.recipe), "--out", "run", *words]) == 0
    assert load_recipe(tmp_path / "run").pool.path == str(tmp_path / "pairs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capfd.readouterr()
    assert main(["pool", str(tmp_path / "run")]) == 0
    assert "is finished and unchanged" in capfd.readouterr().err


def test_relative_paths_of_python_calls_become_absolute(world, tmp_path):
    recipe = load_recipe(world.recipe)
    recipe = dataclasses.replace(recipe, pool=dataclasses.replace(recipe.pool, path="pairs"))
    assert worldclip.run(recipe, out="run", until="pool") == Path("run")
    assert load_recipe(tmp_path / "run").pool.path == str(tmp_path / "pairs")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("evaluate.folders", {"a": "captions:b/c"}, {"a": "captions:{}/b/c"}),
        ("evaluate.data", "~/data", "~/data"),
        ("export.embedded", "embedded", "{}/embedded"),
        ("export.corpus", ("a.txt", "/b.txt"), ["{}/a.txt", "/b.txt"]),
        ("pool.path", "hf://datasets/a/b", "hf://datasets/a/b"),
        ("pool.deny_keys", ("pairs",), ["{}/pairs"]),
        ("train.tokenizer.path", "pairs", "{}/pairs"),
        ("train.tokenizer.path", "owner/name", "owner/name"),
        ("train.distill.teacher", "pairs", "{}/pairs"),
    ],
)
def test_every_kind_of_path_becomes_absolute(key, value, expected, world, tmp_path):
    changed = to_dict(with_absolute_places(with_value(Recipe(), key.split("."), value)))
    for name in key.split("."):
        changed = changed[name]
    whole = json.dumps(expected).replace("{}", str(tmp_path))
    assert changed == json.loads(whole)


def test_unset_values_stay_unset():
    recipe = Recipe(train=TrainConfig(num_streams=None), evaluate=EvaluateConfig(classes=None))
    assert with_absolute_places(recipe) == recipe
