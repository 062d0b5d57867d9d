"""Before the first stage, one report names what would stop any of the stages asked for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages import QUIET
from toy import ToyWorld
from worldclip.config import load_recipe
from worldclip.core import errors
from worldclip.core.errors import UserError, install_hint
from worldclip.recipe import run


def problems_of(world: ToyWorld, run_dir: Path, *overrides: str, until: str | None = None) -> list[str]:
    with pytest.raises(UserError) as caught:
        run(load_recipe(world.recipe, overrides), run_dir, until=until, executor=QUIET)
    return caught.value.problems


def test_all_stages_are_asked_before_the_first_one_runs(toy_world, tmp_path, monkeypatch):
    for package in ("open_clip", "peft", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    problems = problems_of(
        toy_world,
        tmp_path / "run",
        'pool.texts=["caption"]',
        "train.device=cuda",
        "train.wandb=mine",
        "train.initial_weights=owner/name",
        "train.lora_rank=4",
        "train.evaluate_every_samples=64",
        'evaluate.datasets=["emoji_base", "photos"]',
        'evaluate.folders.photos="captions:/nowhere"',
        'export.formats=["huggingface", "open_clip"]',
    )
    expected = (
        "pool.texts: no column or field 'caption'",
        f"train.lora_rank needs peft: {install_hint('lora')}",
        f"train.wandb needs wandb: {install_hint('wandb')}",
        "train.device = 'cuda': not available",
        'evaluate.datasets names "emoji_base"',
        "dataset photos: evaluate.folders.photos",
        f"export to open_clip needs open_clip: {install_hint('export')}",
    )
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)
    assert not (tmp_path / "run").exists()


def test_stages_that_are_not_asked_for_need_nothing(toy_world, tmp_path):
    changed = load_recipe(toy_world.recipe, ["train.device=cuda", 'evaluate.datasets=["emoji_base"]'])
    run(changed, tmp_path / "run", until="pool", executor=QUIET)
    assert (tmp_path / "run/pool/manifest.json").exists()


def test_finished_stage_needs_no_package(toy_world, tmp_path, monkeypatch):
    loaded = load_recipe(toy_world.recipe)
    run(loaded, tmp_path / "run", until="metadata", executor=QUIET)
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    run(loaded, tmp_path / "run", until="metadata", executor=QUIET)


def test_disk_too_small_for_the_checkpoints_is_named_with_both_sizes(toy_world, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    (problem,) = problems_of(toy_world, tmp_path / "run", until="train")
    assert problem.startswith(f"{tmp_path / 'run/train'}: ")
    assert "checkpoints need 0." in problem
    assert "0.0 GiB are free" in problem


def test_disk_holds_the_kept_checkpoints_of_the_samples_that_scale_derives(toy_world, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    english = {"english_samples_seen": 12_800, "english_batch_size": 128, "english_fraction": 0.44}  # 2.3 times as many
    scale = [f"train.scale.{key}={value}" for key, value in english.items()]
    overrides = (*scale, "train.warmup_samples=128", "train.keep_last=3", "train.keep_every_samples=1280")
    (problem,) = problems_of(toy_world, tmp_path / "run", *overrides, until="train")
    assert f"{3 + 1 + 23} checkpoints need" in problem


def test_an_extra_is_installed_from_the_checkout_where_there_is_one(tmp_path, monkeypatch):
    checkout = Path(__file__).parents[1]
    monkeypatch.chdir(checkout)
    assert install_hint("train") == "pip install -e '.[train]'"
    monkeypatch.chdir(tmp_path)
    assert install_hint("train") == f"pip install -e '{checkout}[train]'"
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "lib/python3/site-packages/worldclip/core/errors.py"))
    assert install_hint("train") == "pip install 'worldclip[train]'"
