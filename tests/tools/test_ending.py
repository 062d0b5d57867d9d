"""The last lines of a run say how long it took, what came out, where, and what to do next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from worldclip.cli import main
from worldclip.tools.ending import ending

NEXT = {"pool": None, "balance": None, "curate": "explore", "train": "embed", "evaluate": "embed", "export": "embed"}


@pytest.mark.parametrize("stage", NEXT)
def test_ending_names_time_counts_folder_and_next_command(stage: str, toy_run: Path) -> None:
    done, report, *others = ending(toy_run, stage, 200.0)
    assert done.startswith("done in 3.3 min: ")
    assert done.endswith(f"; in {toy_run / stage}")
    assert report == f"report: {toy_run / 'report.html'}"
    command = NEXT[stage]
    assert [line.split()[:3] for line in others] == ([["next:", "worldclip", command]] if command else [])


def test_unfinished_run_goes_on(toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    for stage in ("curate", "train", "evaluate", "export"):
        shutil.rmtree(run / stage)
    assert main(["balance", str(run)]) == 0
    said = capsys.readouterr().err
    assert "4 lists, 600 matches; in" in said
    assert f"next: worldclip run {run}\n" in said
