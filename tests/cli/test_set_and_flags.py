"""--set and the flags of a stage change the same recipe, wherever they stand; their paths become absolute."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import worldclip
from toy import ToyWorld
from worldclip.cli import main, stages
from worldclip.config import Recipe, load_recipe
from worldclip.core.job import Run
from worldclip.core.settings import with_absolute_places
from worldclip.evaluate.config import EvaluateConfig
from worldclip.pool.config import PoolConfig
from worldclip.recipe import stage_names
from worldclip.train.config import TokenizerConfig, TrainConfig

# stage, keys of its section by --set, flags, all of it by --set
BOTH: list[tuple[str, str, str, str]] = [
    ("pool", "key=json:uid", "--lang json:lang --path 2024", "key=json:uid lang=json:lang path=2024"),
    ("metadata", "overrides.max_titles=3", "--overrides.max_unigrams 4", "overrides={max_titles=3,max_unigrams=4}"),
    (
        "match",
        "merge_labels.zsm=th",
        "--merge-labels.ms ar --fold-case",
        "merge_labels.zsm=th merge_labels.ms=ar fold_case=true",
    ),
    (
        "match",
        "fold_case=true",
        "--restrict-to-recipe-languages false",
        "fold_case=true restrict_to_recipe_languages=false",
    ),
    ("balance", "tail_fractions.en=0.5", "--tail-fractions.ar 0.4", "tail_fractions={en=0.5,ar=0.4}"),
    ("curate", "max_pairs.en=5", "--max-pairs.ar 3 --write tars", "max_pairs={en=5,ar=3} write=tars"),
    (
        "train",
        "samples_seen=2560 tokenizer.vocab_size=300",
        "--seed 1 --tokenizer.lang-exponent 0.5",
        "samples_seen=2560 tokenizer.vocab_size=300 seed=1 tokenizer.lang_exponent=0.5",
    ),
    ("train", "samples_seen=64", "--warmup-samples 0 --dry-run", "samples_seen=64 warmup_samples=0"),
    (
        "evaluate",
        "datasets=a,b folders.a=captions:/a",
        "--folders.b captions:/b --batch-size 7",
        "datasets=a,b folders.a=captions:/a folders.b=captions:/b batch_size=7",
    ),
    ("export", "formats=onnx,huggingface", "--languages en ar", "formats=onnx,huggingface languages=en,ar"),
]


def by_set(stage: str, keys: str) -> str:
    return " ".join(f"--set {stage}.{key}" for key in keys.split())


@pytest.fixture
def recipe_of(toy_world, tmp_path, monkeypatch) -> Callable[[str], Recipe]:
    """Return a function that runs a command of a stage up to its work, and returns the recipe of that work."""
    seen: list[Recipe] = []

    def note(recipe: Recipe, run_dir: Path, *others: object, **options: object) -> Run:
        seen.append(recipe)
        return Run(dir=run_dir, sections={})

    monkeypatch.setattr(stages, "run_stages", note)

    def run(command: str) -> Recipe:
        stage, *words = command.split()
        assert main([stage, str(toy_world.recipe), "--out", str(tmp_path / "run"), *words]) == 0
        return seen.pop()

    return run


def test_table_has_every_stage():
    assert {stage for stage, *_ in BOTH} == set(stage_names())


@pytest.mark.parametrize(("stage", "keys", "flags", "all_keys"), BOTH, ids=[f"{row[0]} {row[1]}" for row in BOTH])
def test_flags_keep_what_set_says_in_both_orders(stage, keys, flags, all_keys, recipe_of, toy_world):
    expected = recipe_of(f"{stage} {by_set(stage, all_keys)}")
    assert expected != load_recipe(toy_world.recipe)
    for words in (f"{by_set(stage, keys)} {flags}", f"{flags} {by_set(stage, keys)}"):
        assert recipe_of(f"{stage} {words}") == expected


@pytest.mark.parametrize(
    ("words", "seed"),
    [("--set train.seed=1 --seed 2", 2), ("--seed 2 --set=train.seed=1", 1), ("--seed=3 --seed 4", 4)],
)
def test_the_last_value_of_a_key_wins(words, seed, recipe_of):
    assert recipe_of(f"train {words}").train.seed == seed


def test_values_are_checked_after_both(recipe_of, toy_world, tmp_path, capfd):
    changed = recipe_of("balance --set balance.tail_fraction=none --set curate.seed=3 --english-threshold 3")
    assert (changed.balance.english_threshold, changed.balance.tail_fraction, changed.curate.seed) == (3, None, 3)
    command = ["balance", str(toy_world.recipe), "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "balance.tail_fraction=none"]) == 2
    assert "balance.rule" in capfd.readouterr().err
    assert main([*command, "--set", "balance.min_threshold=-1", "--tail-fraction", "2"]) == 2
    assert capfd.readouterr().err.count("worldclip: balance.") == 2


def test_stages_run_with_both(toy_world, tmp_path):
    run_dir = tmp_path / "run"
    commands = [
        "pool --set pool.columns=a --key member",
        "metadata --max-chars 99 --set metadata.rules=reference",
        "match --set match.restrict_to_recipe_languages=false --min-lang-prob 0.01",
        "balance --tail-fraction 0.2 --set balance.min_threshold=2",
        "curate --set curate.seed=3 --text-policy one",
        "train --global-batch-size 16 --warmup-samples 0 --set train.samples_seen=32 --set train.precision=fp32",
        "export --set export.onnx_precisions=fp32 --formats open_clip",
    ]
    source = toy_world.recipe
    for command in commands:
        stage, *words = command.split()
        assert main([stage, str(source), "--out", str(run_dir), "--workers", "1", *words]) == 0, command
        source = run_dir
    recipe = load_recipe(run_dir)
    assert (recipe.pool.columns, recipe.metadata.max_chars, recipe.metadata.rules) == (("a",), 99, "reference")
    assert (recipe.match.restrict_to_recipe_languages, recipe.match.min_lang_prob) == (False, 0.01)
    assert (recipe.balance.tail_fraction, recipe.balance.min_threshold) == (0.2, 2)
    assert (recipe.curate.seed, recipe.curate.text_policy) == (3, "one")
    assert (recipe.train.global_batch_size, recipe.train.samples_seen) == (16, 32)
    assert recipe.export.formats == ("huggingface",)  # flags of an export are no part of the run
    assert [path.name for path in (run_dir / "export").iterdir() if path.is_dir()] == ["open_clip"]
    config = json.loads((run_dir / "curate" / "manifest.json").read_text(encoding="utf-8"))["config"]
    assert (config["curate"]["seed"], config["curate"]["text_policy"]) == (3, "one")
    assert [path.name for path in (run_dir / "train").glob("step_*")] == ["step_000000002"]  # 32 samples by 16


def test_run_applies_every_set(toy_world, tmp_path, capfd):
    command = ["run", str(toy_world.recipe), "--out", str(tmp_path / "run"), "--set", "balance.min_threshold=2"]
    command += ["--until", "balance", "--set", "balance.tail_fraction=0.2"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "run").exists()
    assert main(command) == 0
    balance = load_recipe(tmp_path / "run").balance
    assert (balance.min_threshold, balance.tail_fraction) == (2, 0.2)


# --- paths of flags ---------------------------------------------------------------------------------------------------


@pytest.fixture
def world(toy_world, tmp_path, monkeypatch) -> ToyWorld:
    """A copy of the toy world below the working directory, with its run up to the pool."""
    shutil.copytree(toy_world.folder / "pool", tmp_path / "pairs")
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(toy_world, folder=tmp_path)


@pytest.mark.parametrize(
    "words", [["--path", "pairs"], ["--set", "pool.path=pairs"], ["--set=pool.path=pairs", "--path", "pairs"]]
)
def test_relative_path_of_a_flag_holds_in_another_working_directory(words, world, tmp_path, monkeypatch, capfd):
    assert main(["pool", str(world.recipe), "--out", "run", *words]) == 0
    assert load_recipe(tmp_path / "run").pool.path == str(tmp_path / "pairs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capfd.readouterr()
    assert main(["pool", str(tmp_path / "run")]) == 0
    assert "is finished and unchanged" in capfd.readouterr().err


def test_relative_paths_of_python_calls_become_absolute(world, tmp_path):
    recipe = load_recipe(world.recipe)
    recipe = dataclasses.replace(recipe, pool=dataclasses.replace(recipe.pool, path="pairs"))
    assert worldclip.run(recipe, out="run", until="pool") == Path("run")
    assert load_recipe(tmp_path / "run").pool.path == str(tmp_path / "pairs")


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        (EvaluateConfig, "folders", {"a": "captions:b/c"}, {"a": "captions:{}/b/c"}),
        (EvaluateConfig, "data", "~/data", "~/data"),
        (PoolConfig, "path", "hf://datasets/a/b", "hf://datasets/a/b"),
        (PoolConfig, "deny_keys", ("pairs",), ("{}/pairs",)),
        (TokenizerConfig, "path", "pairs", "{}/pairs"),
        (TokenizerConfig, "path", "owner/name", "owner/name"),
    ],
)
def test_every_kind_of_path_becomes_absolute(section, key, value, expected, world, tmp_path):
    changed = getattr(with_absolute_places(section(**{key: value})), key)
    assert changed == json.loads(json.dumps(expected).replace("{}", str(tmp_path))) or changed == tuple(
        text.replace("{}", str(tmp_path)) for text in expected
    )


def test_unset_values_stay_unset():
    recipe = Recipe(train=TrainConfig(num_streams=None), evaluate=EvaluateConfig(classes=None))
    assert with_absolute_places(recipe) == recipe
