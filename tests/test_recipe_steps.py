"""`recipe.steps` is the one list of the stages."""

from __future__ import annotations

import inspect

from worldclip import recipe


def test_steps_are_the_lines_of_the_recipe() -> None:
    lines = [line.strip() for line in inspect.getsource(recipe.recipe).splitlines() if "(run)  #" in line]
    assert len(lines) == len(recipe.steps()) == 8
    for line, step in zip(lines, recipe.steps(), strict=True):
        assert line.startswith(f"{step.stage}.")
        assert line.endswith(step.help)


def test_steps_are_in_the_order_of_the_data_and_say_what_goes_in_and_out() -> None:
    stages = ("pool", "metadata", "match", "balance", "curate", "train", "evaluate", "export")
    assert recipe.stage_names() == stages == tuple(step.stage for step in recipe.steps())
    assert all(" -> " in step.help for step in recipe.steps())
    assert recipe.steps()[2].help == "text -> language, entries; counts of each entry"


def test_every_call_of_the_recipe_is_a_step() -> None:
    calls = [line for line in inspect.getsource(recipe.recipe).splitlines() if line.rstrip().count("(run)")]
    assert len(calls) == len(recipe.steps())
