"""`recipe.STEPS` is the one list of the stages, and `recipe` calls them in its order."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldclip import recipe
from worldclip.config import load_recipe
from worldclip.core.job import Run


def test_steps_are_in_the_order_of_the_data_and_say_what_goes_in_and_out() -> None:
    stages = ("pool", "metadata", "match", "balance", "curate", "train", "evaluate", "export")
    assert recipe.stage_names() == stages == tuple(step.stage for step in recipe.steps())
    assert all(" -> " in step.help for step in recipe.steps())
    assert recipe.steps()[2].help == "text -> language, entries; counts of each entry"


def no_stage(run_dir: Path) -> Run:
    """Return a context of which no stage is asked for."""
    loaded = load_recipe({"pool": {"path": "pool"}, "balance": {"tail_fraction": 0.1}})
    return Run(dir=run_dir, sections=recipe.sections_of(loaded), only=frozenset())


def test_recipe_calls_every_step_in_order(tmp_path: Path) -> None:
    run = no_stage(tmp_path)
    recipe.recipe(run)
    assert tuple(run.visited) == recipe.stage_names()


def test_step_without_a_call_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "STEPS", (*recipe.STEPS, recipe.Step("new", "results -> news")))
    with pytest.raises(AssertionError, match="STEPS"):
        recipe.recipe(no_stage(tmp_path))
