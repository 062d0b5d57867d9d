"""Layouts register themselves, and the configuration knows them without numpy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worldclip.evaluate import config, layouts


def test_configuration_accepts_the_layouts_that_exist_and_no_others(tmp_path):
    assert layouts.NAMES == config.LAYOUTS
    problems = config.EvaluateConfig(folders={"mine": f"geodes:{tmp_path}"}).problems()
    assert len(problems) == 1
    assert "geode" in str(problems[0])


@pytest.mark.parametrize("name", layouts.NAMES)
def test_module_registers_the_layout_that_it_is_named_after(name):
    found = layouts.find_layout(name)
    assert found.load.__module__ == f"worldclip.evaluate.datasets.{name}"


def test_loader_gets_only_the_options_that_it_takes():
    assert layouts.find_layout("winoground").options == ()
    assert layouts.find_layout("geode").options == ("names_path",)
    assert layouts.find_layout("webdataset").options == ("captions", "names_path", "with_train")


def test_layout_names_are_known_without_numpy():
    code = "import sys, worldclip.evaluate.layouts; assert 'numpy' not in sys.modules, 'numpy was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
