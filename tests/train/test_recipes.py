"""The recipes at scale: they parse, and a dry run tells their memory and hours on the devices that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.train.budget import device_here, estimate, find_vocab_size
from worldclip.train.scale import schedule

RECIPES = Path(__file__).parents[2] / "recipes"
AT_SCALE = sorted(path.stem for path in RECIPES.glob("*_worldwide.toml") if not path.stem.startswith("ablate"))


def load(name: str):
    return load_recipe(RECIPES / f"{name}.toml")


def test_all_of_them_are_here():
    sizes = {f"vit_{size}_worldwide" for size in ("b32", "l14", "h14")}
    assert set(AT_SCALE) == sizes | {f"commonpool_{size}_worldwide" for size in ("small", "medium")}


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECIPES.glob("*.toml"))])
def test_every_recipe_dry_runs_and_tells_its_size_and_memory(name, tmp_path, capsys):
    assert main(["run", str(RECIPES / f"{name}.toml"), "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "parameters: token table" in told
    assert "a process at most" in told
    assert not (tmp_path / "run").exists()
    if name in AT_SCALE:
        assert "79.0 GiB: fits" in told
        assert "device hours" in told


@pytest.mark.parametrize("name", AT_SCALE)
def test_a_recipe_at_scale_fits_the_devices_it_names(name, tmp_path):
    config = load(name).train
    planned = schedule(config, tmp_path, config.hardware.devices)
    memory_bytes, flops_per_s = device_here(config)
    found = estimate(config, find_vocab_size(config, tmp_path), planned, config.hardware.devices)
    assert found.memory_bytes < 0.9 * memory_bytes  # a tenth for the device's own
    assert flops_per_s == 9.89e14
    assert planned.global_batch_size % (config.hardware.devices * config.accum_steps) == 0


def test_the_main_model_has_the_papers_numbers(tmp_path):
    config = load("vit_h14_worldwide").train
    planned = schedule(config, tmp_path, 48 * 8)
    assert planned.factor == 2.3
    assert planned.samples_seen == 29_440_000_000
    assert planned.global_batch_size == 48 * 8 * 196
    assert planned.warmup_steps == 2_000
    assert planned.num_steps == pytest.approx(12.8e9 / 32_768, rel=2e-3)
    found = estimate(config, find_vocab_size(config, tmp_path), planned, 384)
    assert found.parameters.token_table == 901_629 * 1024
    assert found.parameters.total == pytest.approx(1.86e9, rel=0.01)


@pytest.mark.parametrize(("name", "samples"), [("small", 12_800_000), ("medium", 128_000_000)])
def test_commonpool_has_the_tracks_fixed_settings(name, samples, tmp_path):
    config = load(f"commonpool_{name}_worldwide").train
    planned = schedule(config, tmp_path, 1)
    assert (planned.global_batch_size, planned.num_steps, planned.warmup_steps) == (4_096, samples // 4_096, 500)
    assert (config.lr, config.beta1, config.beta2, config.eps, config.weight_decay) == (5e-4, 0.9, 0.98, 1e-6, 0.2)
    assert config.model.architecture().patch_size == 32
    assert estimate(config, 49_408, planned, 1).parameters.total == pytest.approx(151.3e6, rel=1e-3)


def test_three_lists_of_one_pool_are_changes_of_two_keys():
    path = RECIPES / "commonpool_small_worldwide.toml"
    english = load_recipe(path, ['curate.include=["en"]'])
    everything = load_recipe(path, ["balance.tail_fraction=none", "balance.english_threshold=1000000000"])
    assert english.train == everything.train == load_recipe(path).train
    assert english.match == everything.match == load_recipe(path).match
