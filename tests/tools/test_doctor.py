"""`worldclip doctor`: what this installation can do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from worldclip.cli import main
from worldclip.core.errors import install_hint
from worldclip.model import decode
from worldclip.tools import doctor


def test_missing_module_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    diagnosis = doctor.diagnose()
    assert diagnosis["extras"]["metadata"] == ["wordfreq"]
    assert f"extra metadata: lacks wordfreq: {install_hint('metadata')}" in doctor.to_text(diagnosis)


def test_absent_lid_model_and_unwritable_cache_are_problems(tmp_path, monkeypatch):
    monkeypatch.setattr("worldclip.language.identify.model_path", lambda: tmp_path / "lid.176.ftz")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    problems = doctor.diagnose()["problems"]
    assert [problem.partition(" ")[0] for problem in problems] == [str(tmp_path / "lid.176.ftz"), str(tmp_path)]


def test_json_holds_versions_device_and_sizes(capsys):
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["versions"]["worldclip"]
    assert record["cores"] >= 1
    assert record["memory_gib"] > 0
    assert record["device"].split()[0] in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(("version", "png"), [("0.28.1", "torchvision 0.28.1"), ("0.29.2", "pillow 0.29.2")])
def test_decoder_of_each_image_format_is_named(version, png, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    monkeypatch.setattr(doctor, "version", lambda name: version)
    monkeypatch.setattr(decode, "_native_decoder", decode._native_decoder.__wrapped__)
    diagnosis = doctor.diagnose()
    assert diagnosis["decoders"]["JPEG"] == f"torchvision {version}"
    assert diagnosis["decoders"]["PNG"] == png
    assert diagnosis["decoders"]["WEBP"] == f"pillow {version}"
    text = doctor.to_text(diagnosis)
    assert f"images: torchvision {version} decodes JPEG" in text
    assert ("images: torchvision does not decode PNG: 0.29.2: segmentation fault" in text) == (version == "0.29.2")


def test_without_pillow_no_format_has_a_decoder(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    diagnosis = doctor.diagnose()
    assert diagnosis["decoders"] == {}
    assert f"images: no decoder: {install_hint('pool')}" in doctor.to_text(diagnosis)


def test_tested_versions_stand_on_the_install_page():
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text(encoding="utf-8").replace("\n", " ")
    assert all(environment in page for environment in doctor.TESTED)
