"""`worldclip doctor`: what this installation can do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from worldclip.cli import main
from worldclip.tools import doctor


def test_missing_module_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    diagnosis = doctor.diagnose()
    assert diagnosis["extras"]["metadata"] == ["wordfreq"]
    assert "extra metadata: lacks wordfreq: pip install 'worldclip[metadata]'" in doctor.to_text(diagnosis)


def test_absent_lid_model_and_unwritable_cache_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldclip.language.identify.model_path", lambda: tmp_path / "lid.176.ftz")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    problems = doctor.diagnose()["problems"]
    assert [problem.partition(" ")[0] for problem in problems] == [str(tmp_path / "lid.176.ftz"), str(tmp_path)]


def test_json_holds_versions_device_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["versions"]["worldclip"]
    assert record["cores"] >= 1
    assert record["memory_gib"] > 0
    assert record["device"].split()[0] in ("cpu", "cuda", "mps")
