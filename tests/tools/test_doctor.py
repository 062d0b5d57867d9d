"""`worldclip doctor`: what this installation can do."""

from __future__ import annotations

import json
import sys

from worldclip.cli import main
from worldclip.core.errors import install_hint
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


def test_json_holds_versions_and_device_as_version_does(capsys):
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["versions"]["worldclip"]
    assert record["device"].split()[0] in ("cpu", "cuda", "mps")
    assert main(["--version", "--json"]) == 0
    record.pop("problems")
    assert json.loads(capsys.readouterr().out) == record
