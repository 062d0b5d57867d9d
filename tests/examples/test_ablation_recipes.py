"""The paper's five arms of the ablation of curation differ in what they are about, and in nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from plain_recipe import LISTS, make_recipe, make_shards, run_stages, write_metadata, write_pool
from worldclip.config import load_recipe
from worldclip.core.settings import to_dict

RECIPES = Path(__file__).parents[2] / "recipes"
ARMS = ("english", "english_list", "merged", "same_t", "worldwide")
ABOUT = {("match", "isolate"), ("balance", "rule"), ("curate", "include")}


def test_the_five_arms_differ_in_three_keys_alone():
    recipes = {arm: to_dict(load_recipe(RECIPES / f"ablate_{arm}.toml")) for arm in ARMS}
    whole = recipes["worldwide"]
    seen = []
    for recipe in recipes.values():
        changed = {(s, key) for s in whole for key in whole[s] | recipe[s] if whole[s].get(key) != recipe[s].get(key)}
        assert changed <= ABOUT
        seen.append(tuple(str(recipe[section][key]) for section, key in sorted(ABOUT)))
    assert len(set(seen)) == len(ARMS)


@pytest.fixture(scope="module")
def matched(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """isolate -> (pool, run after match)."""
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, make_shards(seed=7))
    merged = list(dict.fromkeys(entry for lang in sorted(LISTS) for entry in LISTS[lang]))
    runs = {}
    for isolate in ("language", "merged", "english"):
        runs[isolate] = (folder, tmp_path_factory.mktemp(isolate))
        write_metadata(runs[isolate][1], {**LISTS, **({"merged": merged} if isolate == "merged" else {})})
        run_stages(make_recipe(folder, match={"isolate": isolate}), runs[isolate][1], stages="pool match")
    return runs


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_curates_what_it_says(matched, arm):
    found = to_dict(load_recipe(RECIPES / f"ablate_{arm}.toml"))
    isolate = found["match"]["isolate"]
    folder, run = matched[isolate]
    recipe = make_recipe(
        folder, match={"isolate": isolate}, balance=found["balance"], curate={"include": found["curate"]["include"]}
    )
    reports = run_stages(recipe, run, stages="match balance curate")
    lists = reports["balance"]["lists"]
    kept = {lang for lang, row in reports["curate"]["languages"].items() if row["pairs_out"]}
    if arm == "english":
        assert kept == {"en"}
    elif arm == "english_list":
        assert list(lists) == ["en"]
    elif arm == "merged":
        assert list(lists) == ["merged"]
        assert lists["merged"]["threshold"] == 5
        assert kept == set(LISTS)
    elif arm == "same_t":
        assert {row["threshold"] for row in lists.values()} == {5}
    else:
        assert kept > {"en"}
        assert lists["en"]["threshold"] == 5
        assert len({row["threshold"] for row in lists.values()}) > 1
