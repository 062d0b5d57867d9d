"""What next: commands that fit the finished stages, parse, and never run what a key says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from worldclip.cli import command, main
from worldclip.config import Recipe
from worldclip.contracts import layout
from worldclip.report.next_steps import ORDER, next_steps, sections

CURATE = {"samples": {"pairs_out": [{"key": "a b; rm -rf $HOME <b>"}]}}


def reports_until(stage):
    return {name: CURATE if name == "curate" else {} for name in ORDER[: ORDER.index(stage) + 1]}


@pytest.mark.parametrize("stage", ORDER)
def test_every_command_parses(stage, monkeypatch, capsys):
    def parse(*arguments, **values):
        command.parse_command(*arguments, **values)
        return 0

    monkeypatch.setattr(command, "run_command", parse)
    monkeypatch.setattr("worldclip.config.load_config", lambda *arguments, **options: Recipe())
    monkeypatch.setattr(layout, "is_run", lambda path: str(path).startswith("runs/"))
    for step in next_steps(Path("runs/my run"), reports_until(stage)):
        name, *words = shlex.split(step.command)
        assert name == "worldclip"
        assert main(words) == 0, (step.command, capsys.readouterr().err)


def test_commands_fit_the_finished_stages():
    def verbs(stage):
        return [shlex.split(step.command)[1] for step in next_steps(Path("runs/a"), reports_until(stage))]

    assert next_steps(Path("runs/a"), {}) == []
    assert verbs("metadata") == ["run"]
    assert verbs("match") == ["run", "estimate"]
    assert verbs("curate") == ["run", "estimate", "explore", "inspect"]
    uses = ["classify", "embed", "search", "serve", "export"]
    assert verbs("train") == ["run", "explore", "inspect", *uses]
    assert verbs("evaluate") == ["explore", "inspect", *uses, "run", "compare"]


def test_key_of_a_pair_is_one_quoted_word_and_no_markup():
    steps = next_steps(Path("runs/a"), reports_until("curate"))
    assert shlex.split(steps[-1].command)[-1] == "a b; rm -rf $HOME <b>"
    (section,) = sections(Path("runs/a"), reports_until("curate"))
    assert "<b>" not in section.body
    assert "&lt;b&gt;" in section.body
