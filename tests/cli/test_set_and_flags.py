"""--set and the flags of a stage change the same recipe, wherever they stand on the command line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from worldclip.cli import main, stages
from worldclip.config import Recipe, load_recipe
from worldclip.core.settings import to_dict
from worldclip.recipe import stage_names

Settings = dict[str, Any]  # dotted key -> value

# stage, words with --set, words with flags, what the recipe then says
BOTH: list[tuple[str, str, str, Settings]] = [
    ("pool", "--set pool.key=json:uid", "--format tar", {"pool.key": "json:uid", "pool.format": "tar"}),
    (
        "pool",
        "--set pool.roots.a=/a --set pool.path=none",
        "--roots b /b",
        {"pool.roots": {"a": "/a", "b": "/b"}, "pool.path": None},
    ),
    ("metadata", "--set metadata.max_chars=99", "--rules paper", {"metadata.max_chars": 99, "metadata.rules": "paper"}),
    (
        "metadata",
        "--set metadata.overrides={max_titles=3}",
        "--overrides max_unigrams 4",
        {"metadata.overrides": {"max_titles": 3, "max_unigrams": 4}},
    ),
    (
        "match",
        "--set match.merge_labels.zsm=th",
        "--merge-labels ms ar --fold-case",
        {"match.merge_labels": {"zsm": "th", "ms": "ar"}, "match.fold_case": True},
    ),
    (
        "balance",
        "--set balance.min_threshold=2 --set curate.seed=3",
        "--tail-fraction 0.2",
        {"balance.min_threshold": 2, "curate.seed": 3, "balance.tail_fraction": 0.2},
    ),
    (
        "balance",
        "--set balance.tail_fractions={en=0.5}",
        "--tail-fractions ar 0.4",
        {"balance.tail_fractions": {"en": 0.5, "ar": 0.4}},
    ),
    ("curate", "--set curate.seed=4", "--write tars", {"curate.seed": 4, "curate.write": "tars"}),
    ("curate", "--set curate.max_pairs.en=5", "--max-pairs ar 3", {"curate.max_pairs": {"en": 5, "ar": 3}}),
    (
        "train",
        "--set train.samples_seen=2560 --set train.tokenizer.vocab_size=300",
        "--seed 1 --tokenizer.lang-exponent 0.5",
        {
            "train.samples_seen": 2560,
            "train.tokenizer.vocab_size": 300,
            "train.seed": 1,
            "train.tokenizer.lang_exponent": 0.5,
        },
    ),
    (
        "train",
        "--set train.distill.teacher=owner/name --set train.distill.students.small.model.preset=tiny",
        "--distill.students.small.model.image-size 64 --distill.weight 0.5",
        {
            "train.distill.students.small.model.preset": "tiny",
            "train.distill.students.small.model.image_size": 64,
            "train.distill.teacher": "owner/name",
            "train.distill.weight": 0.5,
        },
    ),
    (
        "evaluate",
        "--set evaluate.datasets=a,b --set evaluate.folders.a=captions:/a",
        "--folders b captions:/b --batch-size 7",
        {"evaluate.folders": {"a": "captions:/a", "b": "captions:/b"}, "evaluate.batch_size": 7},
    ),
    (
        "export",
        "--set export.formats=onnx,huggingface",
        "--languages en ar",
        {"export.formats": ["onnx", "huggingface"], "export.languages": ["en", "ar"]},
    ),
]
IDS = [f"{stage} {override}" for stage, override, *_ in BOTH]


def pick(recipe: Recipe, settings: Settings) -> Settings:
    """Return what a recipe says for the keys of `settings`."""

    def value_at(key: str) -> Any:
        table: Any = to_dict(recipe)
        return functools.reduce(lambda value, name: value.get(name) if value else None, key.split("."), table)

    return {key: value_at(key) for key in settings}


@pytest.fixture
def recipe_of(toy_world, tmp_path, monkeypatch) -> Callable[[str], Recipe]:
    """Return a function that runs a command of a stage up to its work, and returns the recipe of that work."""
    seen: list[Recipe] = []
    monkeypatch.setattr(stages, "run_stages", lambda recipe, *others, **options: seen.append(recipe))

    def run(command: str) -> Recipe:
        stage, *words = command.split()
        assert main([stage, str(toy_world.recipe), "--out", str(tmp_path / "run"), *words]) == 0
        return seen.pop()

    return run


def test_table_has_every_stage():
    assert {stage for stage, *_ in BOTH} == set(stage_names())


@pytest.mark.parametrize(("stage", "overrides", "flags", "expected"), BOTH, ids=IDS)
def test_flags_keep_what_set_says_in_both_orders(stage, overrides, flags, expected, recipe_of):
    for words in (f"{overrides} {flags}", f"{flags} {overrides}"):
        assert pick(recipe_of(f"{stage} {words}"), expected) == expected


@pytest.mark.parametrize("words", ["--set train.seed=1 --seed 1", "--seed 1 --set=train.seed=1"])
def test_equal_values_of_set_and_flag_are_no_contradiction(words, recipe_of):
    assert recipe_of(f"train {words}").train.seed == 1


@pytest.mark.parametrize(
    ("stage", "override", "flag", "message"),
    [
        ("train", "train.seed=1", "--seed 2", "train.seed: --set says 1, --seed says 2"),
        ("train", "train.lr=1.0", "--lr 1e-3", "train.lr: --set says 1.0, --lr says 0.001"),  # the recipe's own lr
        (
            "train",
            "train.num_streams=none",
            "--num-streams 4",
            "train.num_streams: --set says none, --num-streams says 4",
        ),
        (
            "train",
            'train.tokenizer={model="bpe", vocab_size=300}',
            "--tokenizer.vocab-size 400",
            "train.tokenizer.vocab_size: --set says 300, --tokenizer.vocab-size says 400",
        ),
        (
            "evaluate",
            "evaluate.folders.a=captions:/a",
            "--folders a captions:/b",
            'evaluate.folders.a: --set says "captions:/a", --folders says "captions:/b"',
        ),
        (
            "curate",
            "curate.max_pairs.en=5",
            "--max-pairs 7",
            "curate.max_pairs.en: --set says 5, --max-pairs says none",
        ),
        (
            "export",
            "export.formats=onnx",
            "--formats timm",
            'export.formats: --set says ["onnx"], --formats says ["timm"]',
        ),
    ],
)  # fmt: skip
def test_set_and_flag_that_differ_are_refused(
    stage, override, flag, message,
    toy_world, tmp_path, capfd,
):  # fmt: skip
    for words in (["--set", override, *flag.split()], [*flag.split(), "--set", override]):
        assert main([stage, str(toy_world.recipe), "--out", str(tmp_path / "run"), *words]) == 2
        assert capfd.readouterr().err == f"worldclip: {message}; leave out one of the two\n"
    assert not (tmp_path / "run").exists()


def test_values_are_checked_after_both(recipe_of, toy_world, tmp_path, capfd):
    changed = recipe_of("balance --set balance.tail_fraction=none --english-threshold 3")
    assert pick(changed, {"balance.english_threshold": 3, "balance.tail_fraction": None}) == {
        "balance.english_threshold": 3,
        "balance.tail_fraction": None,
    }
    command = ["balance", str(toy_world.recipe), "--out", str(tmp_path / "run")]
    assert main([*command, "--set", "balance.tail_fraction=none"]) == 2
    assert "balance.rule" in capfd.readouterr().err
    assert main([*command, "--set", "balance.min_threshold=-1", "--tail-fraction", "2"]) == 2
    assert capfd.readouterr().err.count("worldclip: balance.") == 2


def test_stages_run_with_both(toy_world, tmp_path):
    run_dir = tmp_path / "run"
    commands = [
        "pool --set pool.key=member --format tar",
        "metadata --max-chars 99 --set metadata.profiles=reference",
        "match --set match.compare_profiles=10 --min-lang-prob 0.01",
        "balance --tail-fraction 0.2 --set balance.min_threshold=2",
        "curate --set curate.seed=3 --text-policy one",
        "train --global-batch-size 16 --warmup-samples 0 --set train.samples_seen=32 --set train.precision=fp32",
        "export --set export.formats=huggingface --tower vision",
    ]
    source = toy_world.recipe
    for command in commands:
        stage, *words = command.split()
        assert main([stage, str(source), "--out", str(run_dir), "--workers", "1", *words]) == 0, command
        source = run_dir
    expected = {
        "pool.format": "tar",
        "metadata.max_chars": 99,
        "metadata.profiles": ["reference"],
        "match.compare_profiles": 10,
        "match.min_lang_prob": 0.01,
        "balance.tail_fraction": 0.2,
        "balance.min_threshold": 2,
        "curate.seed": 3,
        "curate.text_policy": "one",
        "train.global_batch_size": 16,
        "train.samples_seen": 32,
        "export.tower": "both",  # flags of an export are no part of the run
    }
    assert pick(load_recipe(run_dir), expected) == expected
    assert [path.name for path in (run_dir / "export").iterdir() if path.is_dir()] == ["vision"]
    config = json.loads((run_dir / "curate" / "manifest.json").read_text(encoding="utf-8"))["config"]
    assert (config["curate"]["seed"], config["curate"]["text_policy"]) == (3, "one")
    assert [path.name for path in (run_dir / "train").glob("step_*")] == ["step_000000002"]  # 32 samples by 16


def test_dry_run_of_train_says_what_both_make_it(toy_world, tmp_path, capfd):
    command = ["train", str(toy_world.recipe), "--out", str(tmp_path / "run"), "--dry-run"]
    for words in ("--set train.samples_seen=64 --warmup-samples 0", "--warmup-samples 0 --set train.samples_seen=64"):
        assert main([*command, *words.split()]) == 0
        assert ", 64 pairs: " in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_run_applies_every_set(toy_world, tmp_path, capfd):
    command = ["run", str(toy_world.recipe), "--out", str(tmp_path / "run"), "--set", "balance.min_threshold=2"]
    command += ["--until", "balance", "--set", "balance.tail_fraction=0.2"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "run").exists()
    assert main(command) == 0
    expected = {"balance.min_threshold": 2, "balance.tail_fraction": 0.2}
    assert pick(load_recipe(tmp_path / "run"), expected) == expected
