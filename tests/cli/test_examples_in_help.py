"""Every help has two examples, and each is a command line that its command takes."""

from __future__ import annotations

import inspect
import shlex

import pytest

from worldclip.cli.command import Command, examples_text, parse_command
from worldclip.cli.overview import ANY_MODEL, COMMANDS
from worldclip.cli.stages import run_stage
from worldclip.config import Recipe
from worldclip.recipe import stage_names


def examples_of(item: object) -> list[list[str]]:
    lines = examples_text(item).strip().splitlines()[1:]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("name", COMMANDS.names())
def test_examples_of_a_command_parse(name):
    command = COMMANDS.load(name)
    assert isinstance(command, Command)
    words = name.removesuffix(ANY_MODEL).split()
    examples = examples_of(command.function)
    assert len(examples) == 2, inspect.getdoc(command.function)
    for example in examples:
        assert example[: len(words) + 1] == ["worldclip", *words]
        parse_command(command, " ".join(words), "", example[len(words) + 1 :])


@pytest.mark.parametrize("stage", stage_names())
def test_examples_of_a_stage_parse(stage):
    config = getattr(Recipe(), stage)
    examples = examples_of(type(config))
    assert len(examples) == 2
    for example in examples:
        assert example[:2] == ["worldclip", stage]
        parse_command(Command(run_stage), stage, "", example[2:], config=config, stage=stage, base=Recipe())
