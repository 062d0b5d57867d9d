from __future__ import annotations

from pathlib import Path

import pytest

from worldclip.config import SECTIONS, Recipe, load_recipe
from worldclip.core.errors import UserError
from worldclip.core.settings import to_dict, to_toml
from worldclip.recipe import STAGES


def problems_of(values: dict, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(values, overrides)
    return caught.value.problems


BASE = {"pool": {"path": "somewhere"}, "balance": {"tail_fraction": 0.06}}


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems_of(
        {"pool": {"path": "p"}, "balance": {"tail_fraction": "x", "tail_fractoin": 0.1}, "match": {"profile": "uni"}}
    )
    assert any(line.startswith("balance.tail_fraction is 'x'; it must be a number") for line in found)
    assert any("balance.tail_fractoin is not a key" in line and "balance.tail_fraction?" in line for line in found)
    assert any("match.profile is 'uni'; it must be one of 'reference', 'unicode'" in line for line in found)


def test_an_unknown_section_names_the_sections() -> None:
    (problem,) = problems_of({**BASE, "blance": {}})
    assert "did you mean balance?" in problem


def test_a_bool_is_not_a_number_and_a_number_not_a_bool() -> None:
    found = problems_of({**BASE, "match": {"min_lang_prob": True, "fold_case": 1}})
    assert len(found) == 2


def test_overrides_reach_nested_keys_and_none_takes_them_back() -> None:
    recipe = load_recipe(BASE, ["train.lr=1", "match.merge_labels.ms=id", "match.profile=reference"])
    assert (recipe.train.lr, recipe.match.merge_labels, recipe.match.profile) == (1.0, {"ms": "id"}, "reference")
    taken_back = load_recipe(BASE, ["balance.tail_fraction=none", "balance.english_threshold=20"])
    assert (taken_back.balance.tail_fraction, taken_back.balance.english_threshold) == (None, 20)


@pytest.mark.parametrize("override", ["x", "x=1", "pool.path.deeper=1"])
def test_a_bad_override_says_what_is_expected(override: str) -> None:
    assert any(override.split("=")[0] in line for line in problems_of(BASE, (override,)))


def test_a_recipe_survives_toml(tmp_path: Path) -> None:
    recipe = load_recipe(BASE, ['curate.include=["en", "sw"]', "balance.tail_fractions={sw = 0.5}"])
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path) == recipe
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_missing_and_broken_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(UserError, match=r"holds no recipe\.toml"):
        load_recipe(tmp_path)
    (tmp_path / "bad.toml").write_text("a = [", encoding="utf-8")
    with pytest.raises(UserError, match="is not TOML"):
        load_recipe(tmp_path / "bad.toml")


def test_every_stage_is_a_section() -> None:
    assert set(STAGES) < set(SECTIONS)
    assert set(to_dict(Recipe())) == set(SECTIONS)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_of_ours_is_valid(path: Path) -> None:
    assert load_recipe(path).problems() == []
