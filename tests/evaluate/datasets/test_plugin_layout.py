"""A dataset layout of another package: the labelled images that docs/plugins.md shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from miniature import records_of, write_files
from plugin_package import installed, page_code, write_package
from programs import python
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets
from worldclip.evaluate.config import LAYOUTS, EvaluateConfig

FILES = {"a.png": "a photo of a cat.", "sub/b.png": "a photo of a dog.", "c.png": "a photo of a cat."}
LABELS = "file,label\na.png,cat\nsub/b.png,dog\nc.png,dog\n"


def config_of(folder: Path, **values: object) -> EvaluateConfig:
    return EvaluateConfig(datasets=("mine",), folders={"mine": f"labelled:{folder}"}, **values)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A dataset in the layout of a package that is installed meanwhile."""
    write_files(tmp_path / "mine", {**FILES, "labels.csv": LABELS})
    entry_point = {LAYOUTS.group: "labelled = labelled_files"}
    package = write_package(tmp_path / "site", "labelled_files", page_code("labelled_files.py"), entry_point)
    with installed(monkeypatch, package):
        yield tmp_path / "mine"


def test_dataset_in_another_packages_layout_is_evaluated_by_its_name(folder, tmp_path):
    config = config_of(folder, ties="first")
    assert config.problems() == []
    record = records_of(datasets.load("mine", config, tmp_path), tmp_path)["en"]
    assert (record["n"], record["num_classes"], record["metrics"]["acc1"]) == (3, 2, pytest.approx(2 / 3))
    assert record["protocol"]["ties"] == "first"


def test_another_packages_layout_reads_names_in_more_languages(folder, tmp_path):
    write_files(folder, {"languages.json": json.dumps({"sw": {"classes": ["paka", "mbwa"]}})})
    assert datasets.load("mine", config_of(folder), tmp_path).languages == ("en", "sw")


def test_invalid_folder_is_an_error_that_names_the_file(folder, tmp_path):
    write_files(folder, {"labels.csv": LABELS + "d.png,dog\n"})
    with pytest.raises(UserError, match=r"labels\.csv lists 1 images that are missing from .*mine: d\.png"):
        datasets.load("mine", config_of(folder), tmp_path)


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("labeled:x", "did you mean labelled"),
        ("geodes:x", "unknown dataset layout; did you mean geode"),
        ("zzz:x", "unknown dataset layout; known: babel_imagenet, captions, .*, winogavil, labelled"),
        ("geode", 'must be "layout:path", with a layout of babel_imagenet, .*, labelled'),
        (":x", "unknown dataset layout"),
    ],
)
def test_folder_of_an_unknown_layout_is_a_problem_of_the_config(folder, location, problem):
    (found,) = EvaluateConfig(folders={"mine": location}).problems()
    assert found.startswith(f'evaluate.folders.mine = "{location}": ')
    assert re.search(problem, found)


def test_configuration_knows_the_layouts_without_numpy():
    code = (
        "import sys; from worldclip.evaluate.config import LAYOUTS; print(len(LAYOUTS.names())); "
        "assert 'numpy' not in sys.modules, 'numpy was imported'"
    )
    assert int(python("-c", code)) == len(LAYOUTS.names()) >= 12
