"""What a terminal shows: tables that fit, and lines that break between words only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldclip.cli import main
from worldclip.core.console import note, progress_bar, say
from worldclip.language import table
from worldclip.model.config import ModelConfig
from worldclip.report.table import Table, columns_of, text_column, to_text
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.log import Log
from worldclip.train.schedule import Schedule


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rich take standard error for a terminal of 80 columns without colours."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")


def test_tables_fit_a_terminal_and_lose_no_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["languages"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    words = set(shown.split())
    assert set(table.by_code()) <= words
    assert {label for language in table.all_languages() for label in language.iso639_3} <= words


def test_a_row_is_one_line_of_a_file_and_its_cells_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a process of tests has it
    rows = [["a_b|c [bold]*", "1,234,567"], ["word " * 50 + "end", "1"]]
    lines = to_text(Table([text_column("name"), *columns_of(["count"])], rows)).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["a_b|c", "[bold]*", "1,234,567"]


def test_messages_of_a_terminal_are_whole(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    say(
        "curate", "12 shards done. Rerun without --shards to finish the stage; worldclip inspect RUN --key KEY says why"
    )
    note("report: " + "x" * 60 + " and then --some-flag")
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    assert "--some-flag" in "\n".join(lines)


def test_messages_of_a_file_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("curate", "word " * 60)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_breaks_no_flag(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for stage in ("run", "match", "export", "train"):
        with pytest.raises(SystemExit):
            main([stage, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.endswith("-") and not line.endswith(" -")] == []


def test_progress_bar_fits_80_columns(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("match", 123_456, is_shown=True, num_done=1_000) as advance:
        advance(10, "of 2 failed")
    last = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "match" in line][-1]
    assert "1010/123456" in last
    assert "left" in last
    assert len(last) <= 80


def test_bar_of_training_keeps_step_and_time_left(
    terminal: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = Schedule(samples_seen=3_200_000, global_batch_size=32, num_steps=100_000, warmup_steps=0)
    config = TrainConfig(model=ModelConfig(preset="tiny"))
    with Log(tmp_path, config, schedule, 0, torch.device("cpu"), World()) as log:
        log.add_step(0.25, 0.1, 320)
        log.write_step(
            {"step": 99_990, "loss": 3.7264, "lr": 1e-3, "logit_scale": 14.3, "grad_norm": 1.0}, elapsed_s=3_600.0
        )
        log.advance(99_990)
    shown = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "99990/100000" in line]
    assert shown
    assert all(len(line) <= 80 for line in shown)
    assert "left loss 3.726" in shown[-1]
