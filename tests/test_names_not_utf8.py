"""A folder whose name is not UTF-8 gives a message with the name escaped, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from programs import words_of
from worldclip.cli import main

pytestmark = pytest.mark.skipif(os.uname().sysname == "Darwin", reason="the file system takes UTF-8 only")
NAME = os.fsdecode(b"run\xff\xe9")


@pytest.fixture
def run(toy_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / NAME
    shutil.copytree(toy_run, folder, ignore=shutil.ignore_patterns(".lock", "publish"))
    (folder / "evaluate").mkdir(exist_ok=True)
    record = {"model": "m", "dataset": "d", "lang": "en", "task": "zeroshot", "metrics": {"acc1": 0.5}, "protocol": {}}
    (folder / "evaluate" / "results.jsonl").write_text(json.dumps(record) + "\n")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "status RUN",
        "inspect RUN --key 00000",
        "explore RUN --out OUT",
        "compare RUN RUN",
        "estimate RUN",
        "publish RUN a/b --dry-run",
        "run RUN --until curate",
    ],
)
def test_a_run_whose_name_is_not_utf8(command, run, tmp_path, capsys):
    code = main(words_of(command, {"RUN": run, "OUT": tmp_path / "out"}))
    shown = capsys.readouterr()
    assert code in (0, 1, 2)
    assert "Traceback" not in shown.err
    assert NAME not in shown.err + shown.out
    if code == 2:
        assert "UTF-8" in shown.err or "udcff" in shown.err


@pytest.mark.parametrize("command", ["explore RUN --out OUT", "run RUN/recipe.toml --out OUT"])
def test_out_whose_name_is_not_utf8_is_refused(command, toy_run, tmp_path, capsys):
    assert main(words_of(command, {"RUN": toy_run, "OUT": tmp_path / NAME})) == 2
    assert "UTF-8" in capsys.readouterr().err
    assert not (tmp_path / NAME).exists()
