"""The recipes at scale load, and a dry run prints their parameters and memory."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from miniature import write_files
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.core.settings import to_dict
from worldclip.metadata.config import RULES
from worldclip.metadata.lists import write_whole_list
from worldclip.model import published
from worldclip.model.clip import model_config
from worldclip.train import speed
from worldclip.train.budget import find_vocab_size, memory_bytes
from worldclip.train.schedule import check_batch, plan_schedule

RECIPES = Path(__file__).parents[2] / "recipes"
ARMS = ("english", "english_list", "merged", "same_t", "worldwide")
TOKENIZERS = {"mt5": 250_000, "gemma": 256_000, "xlm_r": 250_002, "xlm_v": 901_629}

# What the three recipes of the paper have in common, and what each has of its own.  Facts of arXiv:2507.22062 and of
# the released code; the rest of a recipe are paths and what is said to be our choice.
OF_THE_PAPER = {
    "metadata.sources": ["number", "wordnet", "unigram", "bigram", "title"],
    "metadata.lists": {},
    "metadata.rules": "paper",
    "metadata.overrides": {},
    "languages.codes": [],
    "match.profile": "reference",
    "match.fold_case": False,
    "match.isolate": "language",
    "match.min_lang_prob": 0.0,
    "match.merge_labels": {},
    "match.restrict_to_recipe_languages": False,
    "balance.rule": "tail_fraction",
    "balance.english_threshold": 170_000,
    "balance.min_threshold": 0,
    "curate.include": [],
    "curate.exclude": [],
    "curate.text_policy": "one",
    "train.curation": "online",
    "train.loss": "contrastive",
    "train.warmup_samples": 2_000 * 32_768,
    "train.beta2": 0.95,
    "train.weight_decay": 0.1,
    "train.max_grad_norm": 0.0,
    "train.precision": "bf16",
    "train.compile": True,
    "train.augment": "crop",
    "train.crop_scale_min": 0.9,
    "train.patch_dropout": 0.0,
    "train.model.activation": "quick_gelu",  # of every run from scratch; the published distilled models have gelu
    "train.model.init": "reference",
    "train.tokenizer.path": "facebook/xlm-v-base",
    "evaluate.suite": "paper",
}
SCALED = {
    "train.lr": 4e-4,
    "train.activation_checkpointing": True,
    "train.scale.english_samples_seen": 12_800_000_000,
    "train.scale.english_batch_size": 32_768,
    "train.scale.english_fraction": 0.44,
}
OF_SIZE = {
    "vit_h14": {**SCALED, "train.model.preset": "vit_h14"},
    "vit_l14": {**SCALED, "train.model.preset": "vit_l14"},
    "vit_bigg14": {**SCALED, "train.model.preset": "vit_bigg14"},
    "vit_b32": {
        "train.model.preset": "vit_b32",
        "train.lr": 5e-4,
        "train.samples_seen": 12_800_000_000,
        "train.global_batch_size": 32_768,
        "train.scale.english_samples_seen": None,
    },
}


def load(name: str):
    return load_recipe(RECIPES / f"{name}.toml")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a recipe's values by dotted keys; a table is there too, for those that are one value."""
    keys = {}
    for key, value in values.items():
        keys[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            keys |= flat(value, f"{prefix}{key}.")
    return keys


def values_of(name: str) -> dict[str, Any]:
    return flat(to_dict(load(name)))


def differing_keys(*names: str) -> set[str]:
    """Return the keys in which recipes differ, but tables."""
    recipes = [values_of(name) for name in names]
    keys = {key for recipe in recipes for key, value in recipe.items() if not isinstance(value, dict)}
    return {key for key in keys if len({str(recipe.get(key)) for recipe in recipes}) > 1}


@pytest.mark.parametrize("size", OF_SIZE)
def test_recipes_of_the_paper_have_its_values_key_by_key(size: str):
    values, expected = values_of(f"{size}_worldwide"), OF_THE_PAPER | OF_SIZE[size]
    assert {key: values.get(key) for key in expected} == expected
    tokenizer = published.find("metaclip-2-worldwide-b32").tokenizer
    config = model_config(load(f"{size}_worldwide").train.model, tokenizer)
    assert {config.vision_config.hidden_act, config.text_config.hidden_act} == {"quick_gelu"}


def test_paper_rules_are_those_of_the_guide_and_reference_rules_those_of_the_code():
    shares = {"unigram_top_fraction": 0.1, "title_top_fraction": 0.76}
    caps = {"max_unigrams": 251_465, "max_bigrams": 100_646, "max_titles": 61_235}
    both = {**shares, **caps, "english_rule": "v1", "bigram_min_pmi": 30.0}
    rules = {name: dataclasses.asdict(rules) for name, rules in RULES.items()}
    paper = {"bigram_rule": "ratio", "bigram_fraction": 0.4, "title_rule": "namespaces", "share_rounding": "up"}
    reference = {"bigram_rule": "pmi", "title_rule": "colon", "share_rounding": "down", "punctuation": "ascii"}
    for name, own in (("paper", paper), ("reference", reference)):
        assert {key: rules[name][key] for key in both | own} == both | own


def test_arms_at_the_papers_scale_differ_in_three_keys_and_are_those_of_the_emoji_pool():
    about = {"match.isolate", "balance.rule", "curate.include"}
    assert differing_keys(*(f"b32_ablation_{arm}" for arm in ARMS)) == about
    for arm in ARMS:
        small, large = values_of(f"ablate_{arm}"), values_of(f"b32_ablation_{arm}")
        assert {key: small[key] for key in about} == {key: large[key] for key in about}
    assert differing_keys("b32_ablation_worldwide", "vit_b32_worldwide") == {"train.tokenizer.path"}


def test_recipes_of_the_tokenizer_ablation_differ_in_one_key(tmp_path):
    names = [f"b32_tokenizer_{name}" for name in TOKENIZERS]
    assert differing_keys(*names) == {"train.tokenizer.path"}
    assert differing_keys("b32_tokenizer_mt5", "b32_ablation_worldwide") == set()
    assert differing_keys("b32_tokenizer_xlm_v", "vit_b32_worldwide") == set()
    sizes = {name: find_vocab_size(load(f"b32_tokenizer_{name}").train, tmp_path) for name in TOKENIZERS}
    assert sizes == TOKENIZERS


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECIPES.glob("*.toml"))])
def test_a_dry_run_of_each_recipe_prints_parameters_and_memory(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**50))  # whatever this disk has
    monkeypatch.setattr(speed, "pairs_per_second", lambda config: 10.0)
    write_files(tmp_path, {"data/photographs/names/en.txt": "dog\n"})
    write_whole_list(str(tmp_path / "data/photographs/names/en.txt"), tmp_path / "data/photographs/names/en.parquet")
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    output = capsys.readouterr().err
    assert "parameters: token table" in output
    is_trained_first = load_recipe(name).train.tokenizer.path is None
    assert ("; at most, as the tokenizer that is trained first has up to" in output) is is_trained_first
    assert "memory      about" in output
    assert "days, at 10 pairs/s" in output or "hours, at 10 pairs/s" in output
    assert not (tmp_path / "run").exists()


# devices that the recipe's head names, and GiB of each
DEVICES = {
    "b32_ablation_worldwide": (64, 80),
    "consumer_gpu": (1, 24),
    "vit_bigg14_worldwide": (768, 80),
    "vit_h14_nonenglish": (192, 80),
    "vit_h14_worldwide": (384, 80),
    "vit_h14_worldwide_1x": (128, 80),
    "vit_h14_worldwide_378": (192, 80),
    "vit_l14_english": (64, 80),
    "vit_l14_worldwide": (128, 80),
}


@pytest.mark.parametrize(("name", "devices", "gib"), [(name, *row) for name, row in DEVICES.items()])
def test_a_recipe_fits_the_devices_that_its_head_names(name, devices, gib, tmp_path):
    config = load(name).train
    schedule = plan_schedule(config, tmp_path, devices)
    check_batch(schedule.global_batch_size, devices, config.accum_steps)
    needed = sum(memory_bytes(config, find_vocab_size(config, tmp_path), schedule.global_batch_size, devices))
    assert needed < 0.9 * gib * 1e9
    if devices > 1:
        pairs = schedule.global_batch_size // devices
        assert f"# On {devices} devices" in (RECIPES / f"{name}.toml").read_text()
        assert f"each takes {pairs} pairs of a step" in (RECIPES / f"{name}.toml").read_text()
