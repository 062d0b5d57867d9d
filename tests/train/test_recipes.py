"""The recipes at scale load, and a dry run prints their memory and hours on the devices that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.train.budget import estimate, find_vocab_size, planned_device
from worldclip.train.schedule import plan_schedule

RECIPES = Path(__file__).parents[2] / "recipes"
AT_SCALE = sorted(path.stem for path in RECIPES.glob("*_worldwide.toml") if not path.stem.startswith("ablate"))


def load(name: str):
    return load_recipe(RECIPES / f"{name}.toml")


def test_all_recipes_at_scale_exist():
    sizes = {f"vit_{size}_worldwide" for size in ("b32", "l14", "h14")}
    assert set(AT_SCALE) == sizes | {f"commonpool_{size}_worldwide" for size in ("small", "medium")}


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECIPES.glob("*.toml"))])
def test_a_dry_run_of_each_recipe_prints_parameters_and_memory(name, tmp_path, capsys):
    assert main(["run", str(RECIPES / f"{name}.toml"), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    output = capsys.readouterr().err
    assert "parameters: token table" in output
    assert "memory      at most" in output
    assert not (tmp_path / "run").exists()
    if name in AT_SCALE:
        assert "79.0 GiB: fits" in output
        assert "device hours" in output


@pytest.mark.parametrize("name", AT_SCALE)
def test_a_recipe_at_scale_fits_the_devices_it_names(name, tmp_path):
    config = load(name).train
    schedule = plan_schedule(config, tmp_path, config.hardware.devices)
    memory_bytes, flops_per_s = planned_device(config)
    budget = estimate(config, find_vocab_size(config, tmp_path), schedule, config.hardware.devices)
    assert budget.memory_bytes < 0.9 * memory_bytes  # a tenth for the context and the allocator's gaps
    assert flops_per_s == 9.89e14
    assert schedule.global_batch_size % (config.hardware.devices * config.accum_steps) == 0


def test_the_main_model_has_the_numbers_of_the_paper(tmp_path):
    config = load("vit_h14_worldwide").train
    schedule = plan_schedule(config, tmp_path, 48 * 8)
    assert schedule.factor == 2.3
    assert schedule.samples_seen == 29_440_000_000
    assert schedule.global_batch_size == 48 * 8 * 196
    assert schedule.warmup_steps == 2_000
    assert schedule.num_steps == pytest.approx(12.8e9 / 32_768, rel=2e-3)
    budget = estimate(config, find_vocab_size(config, tmp_path), schedule, 384)
    assert budget.parameters.token_table == 901_629 * 1024
    assert budget.parameters.total == pytest.approx(1.86e9, rel=0.01)


@pytest.mark.parametrize(("name", "samples"), [("small", 12_800_000), ("medium", 128_000_000)])
def test_commonpool_has_the_fixed_settings_of_its_track(name, samples, tmp_path):
    config = load(f"commonpool_{name}_worldwide").train
    schedule = plan_schedule(config, tmp_path, 1)
    assert (schedule.global_batch_size, schedule.num_steps, schedule.warmup_steps) == (4_096, samples // 4_096, 500)
    assert (config.lr, config.beta1, config.beta2, config.eps, config.weight_decay) == (5e-4, 0.9, 0.98, 1e-6, 0.2)
    assert config.model.architecture().patch_size == 32
    assert estimate(config, 49_408, schedule, 1).parameters.total == pytest.approx(151.3e6, rel=1e-3)


def test_three_lists_of_one_pool_differ_in_two_keys():
    path = RECIPES / "commonpool_small_worldwide.toml"
    english = load_recipe(path, ['curate.include=["en"]'])
    everything = load_recipe(path, ["balance.tail_fraction=none", "balance.english_threshold=1000000000"])
    assert english.train == everything.train == load_recipe(path).train
    assert english.match == everything.match == load_recipe(path).match
