"""Recipes and their keys: all problems at once, --set and flags, relative paths, bases."""

import json
import math
import shutil
from pathlib import Path

import pytest

import worldclip
from miniature import write_files
from programs import words_of
from tars import write_tar
from worldclip.balance.config import BalanceConfig
from worldclip.check.config import CheckConfig
from worldclip.cli import main, stages
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.core.marks import AtLeast, Between
from worldclip.core.settings import load_config, to_toml, with_absolute_places
from worldclip.evaluate.config import EvaluateConfig
from worldclip.pool.config import PoolConfig
from worldclip.train.config import TokenizerConfig, TrainConfig


def problems_of(values: dict, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(values, overrides)
    return caught.value.problems


BASE = {"pool": {"path": "somewhere"}, "balance": {"tail_fraction": 0.06}}


# sections besides those of BASE, or in their place; all their problems
PROBLEMS: dict[str, tuple[dict, list[str]]] = {
    "all problems at once": (
        {
            "balance": {"tail_fraction": "x", "min_threshold": -1},
            "match": {"profile": "uni"},
            "train": {"lr": 0, "model": {"text_layers": 0}},
        },
        [
            'balance.tail_fraction = "x": must be a number',
            'match.profile = "uni": must be one of "reference", "unicode"; did you mean unicode?',
        ],
    ),
    "all bounds at once": (
        {
            "balance": {"tail_fraction": 0.06, "min_threshold": -1},
            "train": {"lr": 0, "model": {"text_layers": 0}},
        },
        [
            "balance.min_threshold = -1: must be at least 0 (matches per entry, 0 for no minimum)",
            "train.model.text_layers = 0: must be at least 1",
            "train.lr = 0.0: must be above 0",
        ],
    ),
    "a bound of an item": (
        {"balance": {"tail_fraction": 0.1, "tail_fractions": {"sw": 0.2, "th": 2}}},
        ["balance.tail_fractions.th = 2.0: must be between 0 and 1 (the paper uses 0.06)"],
    ),
    "a typo without its consequences": (
        {"balance": {"tail_fractoin": 0.06, "min_threshold": -1}},
        ["unknown key balance.tail_fractoin; did you mean tail_fraction?"],
    ),
    "a wrong type": ({"pool": {"path": 3}}, ["pool.path = 3: must be a string or a list, each a string"]),
    "no section": ({"balance": 3}, ["balance = 3: must be a section, [balance]"]),
    "a nested typo": (
        {"train": {"tokenizer": {"vocabsize": 3}}},
        ["unknown key train.tokenizer.vocabsize; did you mean vocab_size?"],
    ),
    "key of a section below": (
        {"train": {"patchsize": 16}},
        ["unknown key train.patchsize; did you mean train.model.patch_size or global_batch_size?"],
    ),
    "key of another section": (
        {"train": {"batch_size": 8}, "match": {"tail_fraction": 0.1}},
        [
            "unknown key train.batch_size; did you mean evaluate.batch_size or global_batch_size?",
            "unknown key match.tail_fraction; did you mean balance.tail_fraction?",
        ],
    ),
    "section without the one above": (
        {"model": {"patch_size": 16}},
        ["unknown section model; did you mean train.model?"],
    ),
    "no near key": ({"languages": {"qqq": 1}}, ["unknown key languages.qqq; known: codes, lid_model, add"]),
    "numbers and bools": (
        {"match": {"min_lang_prob": True, "fold_case": 1}},
        ["match.min_lang_prob = true: must be a number", "match.fold_case = 1: must be true or false"],
    ),
    "a bool for a whole number": (
        {"curate": {"seed": True, "max_pairs": {"sw": True}}, "train": {"skip_samples": [[True, 4]]}},
        [
            "curate.seed = true: must be a whole number",
            "curate.max_pairs: must be a whole number or a table of name = a whole number",
            "train.skip_samples: must be a list, each a list, each a whole number",
        ],
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_problems_of_a_recipe(case):
    values, problems = PROBLEMS[case]
    assert problems_of(BASE | values) == problems


def test_bounds_are_ignored_for_unset_keys():
    (problem,) = BalanceConfig(english_threshold=0).problems()
    assert problem.startswith("balance.english_threshold = 0: must be at least 1")


def test_numbers_that_no_stage_can_compute_with_are_problems():
    overrides = {"bigram_min_pmi": math.nan, "bigram_min_count": 2**63}
    problems = problems_of(BASE | {"balance": {"english_threshold": 10**20}, "metadata": {"overrides": overrides}})
    assert [(text.partition(" = ")[0], text.rpartition(": ")[2]) for text in problems] == [
        ("metadata.overrides.bigram_min_pmi", "must be a finite number"),
        ("metadata.overrides.bigram_min_count", "must fit 64 bits"),
        ("balance.english_threshold", "must fit 64 bits"),
    ]


def test_number_out_of_range_violates_a_bound():
    for value in (-0.1, 1.1, float("nan"), float("inf")):
        assert Between(0, 1).violation(value) == "must be between 0 and 1"
    assert Between(0, 1, above=True).violation(0) == "must be above 0 and at most 1"
    assert Between(0, 1, below=True).violation(1) == "must be at least 0 and below 1"
    assert Between(0, 1).violation(0) is Between(0, 1).violation(1) is None
    assert AtLeast(0, "pairs").violation(float("inf")) == "must be at least 0, and finite (pairs)"


def test_config_file_of_its_own_has_keys_without_a_section():
    with pytest.raises(UserError) as caught:
        load_config(CheckConfig, {"radius": 17})
    assert caught.value.problems == ["radius = 17: must be between 0 and 16 (differing bits of 64)"]


def test_password_in_a_url_is_not_repeated():
    problems = problems_of({**BASE, "pool": {"path": "s3://me:secret@bucket", "build": "emoji"}})
    assert len(problems) == 2
    assert "secret" not in "".join(problems)


def test_wikipedia_rules_are_overridden_one_by_one():
    recipe = load_recipe({**BASE, "metadata": {"rules": "reference", "overrides": {"max_titles": 5}}})
    rules = recipe.metadata.wikipedia_rules
    assert (rules.bigram_rule, rules.title_rule, rules.max_titles, rules.max_bigrams) == ("pmi", "colon", 5, 100_646)
    wrong = {"max_title": 5, "english_rule": "v2", "title_top_fraction": 2}
    assert problems_of({**BASE, "metadata": {"overrides": wrong}}) == [
        "metadata.overrides.max_title = 5: unknown key; did you mean max_titles?",
        'metadata.overrides.english_rule = "v2": must be one of "v1", "as_others"',
        "metadata.overrides.title_top_fraction = 2: must be between 0 and 1 (a share of the titles)",
    ]


def test_overrides_set_nested_keys_and_none_resets_them():
    recipe = load_recipe(BASE, ["train.lr=1", "match.merge_labels.ms=id", "match.profile=reference"])
    assert (recipe.train.lr, recipe.match.merge_labels, recipe.match.profile) == (1.0, {"ms": "id"}, "reference")
    recipe = load_recipe(BASE, ["balance.tail_fraction=none", "balance.english_threshold=20"])
    assert (recipe.balance.tail_fraction, recipe.balance.english_threshold) == (None, 20)
    assert BASE["balance"] == {"tail_fraction": 0.06}, "the caller's dict is not changed"


def test_lists_in_overrides_take_commas_as_list_flags_do():
    recipe = load_recipe(BASE, ["languages.codes=en,sw", "metadata.sources=number, wordfreq", "pool.texts=txt,json:a"])
    assert recipe.languages.codes == ("en", "sw")
    assert recipe.metadata.sources == ("number", "wordfreq")
    assert recipe.pool.texts == ("txt", "json:a")
    assert {type(item) for item in (*recipe.languages.codes, *recipe.metadata.sources)} == {str}
    same = load_recipe(BASE, ['languages.codes=["en", "sw"]'])
    assert same.languages == recipe.languages
    (problem,) = problems_of(BASE, ("languages.codes=en,swa",))
    assert 'unknown language "swa"' in problem
    (problem,) = problems_of(BASE, ("metadata.sources=number,wordfrek",))
    assert problem == 'metadata.sources: "wordfrek": unknown metadata source; did you mean wordfreq?'
    (problem,) = problems_of(BASE, ("metadata.sources=wordnt", f"metadata.wordnets.sw={__file__}"))
    assert "did you mean wordnet?" in problem


def test_text_in_overrides_may_look_like_a_number_or_a_date(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("2024", "2024-10-01", "1e5", "true"):
        assert load_recipe(BASE, [f"pool.path={word}"]).pool.path == str(tmp_path / word)
    assert load_recipe(BASE, ["pool.columns=1,url"]).pool.columns == ("1", "url")
    (problem,) = problems_of(BASE, ("balance.tail_fraction=2024-10-01",))
    assert problem == 'balance.tail_fraction = "2024-10-01": must be a number'


def test_paths_in_overrides_keep_their_commas(tmp_path):
    keys = tmp_path / "a,b.txt"
    keys.write_text("k\n", encoding="utf-8")
    assert load_recipe(BASE, [f"pool.deny_keys={keys}"]).pool.deny_keys == (str(keys),)


def test_relative_paths_of_a_file_are_relative_to_it_and_overrides_to_the_working_directory(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("words.txt", "a.tab", "b.tab", "model.onnx"):
        (folder / name).write_text("")
    (folder / "mine.toml").write_text(
        """
        pool = { path = "../pool", deny_keys = ["deny.npy", "s3://bucket/deny.npy"] }
        languages.codes = ["en", "sw"]
        metadata.sources = ["wordnet"]
        metadata.lists.en = "words.txt"
        metadata.wordnets.sw = ["a.tab", "b.tab"]
        balance.tail_fraction = 0.06
        train.tokenizer.path = "facebook/xlm-v-base"
        evaluate.folders.mine = "captions:photos"
        export.corpus = ["/data/a.txt"]
        export.languages = ["sw"]
        """
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipes/mine.toml", ["pool.valid_keys=keys.npy"])
    assert recipe.pool.path == str(tmp_path / "pool")
    assert recipe.pool.deny_keys == (str(folder / "deny.npy"), "s3://bucket/deny.npy")
    assert recipe.pool.valid_keys == str(tmp_path / "keys.npy")
    assert recipe.metadata.lists == {"en": str(folder / "words.txt")}
    assert recipe.metadata.wordnets == {"sw": (str(folder / "a.tab"), str(folder / "b.tab"))}
    assert recipe.train.tokenizer.path == "facebook/xlm-v-base"
    assert recipe.evaluate.folders == {"mine": f"captions:{folder / 'photos'}"}
    assert recipe.export.corpus == ("/data/a.txt",)
    (folder / "check.toml").write_text('[against]\nmine = "images"\n')
    assert load_config(CheckConfig, folder / "check.toml").against == {"mine": str(folder / "images")}


def test_recipe_that_a_run_wrote_holds_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('pool.path = "pool"\nbalance.tail_fraction = 0.06\n')
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.toml").write_text(to_toml(load_recipe(tmp_path / "mine.toml")))
    monkeypatch.chdir("/")
    assert load_recipe(tmp_path / "run").pool.path == str(tmp_path / "pool")


def test_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf[pool]\npath = '/pool'\n[balance]\ntail_fraction = 0.06\n")
    assert load_recipe(tmp_path / "mine.toml").pool.path == "/pool"


def test_names_too_long_for_a_file_are_problems_in_words():
    long = "[" * 5000
    values = {
        "pool": {"path": long},
        "metadata": {"lists": {"en": long}, "wordnets": {"en": long}},
        "languages": {"lid_model": long},
        "evaluate": {"data": long, "datasets": ["slip"]},
    }
    problems = "\n".join(problems_of(values))
    assert all(key in problems for key in ("metadata.wordnets.en", "metadata.lists.en", "languages.lid_model"))


def test_a_recipe_takes_the_keys_of_its_base_that_it_does_not_set(tmp_path):
    whole = "[pool]\npath = 'tars'\nkey = 'json:uid'\n[balance]\ntail_fraction = 0.06\n[train]\nlr = 0.5\n"
    (tmp_path / "whole.toml").write_text(whole)
    (tmp_path / "arm.toml").write_text("base = 'whole.toml'\n[pool]\nkey = 'member'\n[balance]\ntail_fraction = 0.12\n")
    base, arm = load_recipe(tmp_path / "whole.toml"), load_recipe(tmp_path / "arm.toml")
    assert (arm.pool.path, arm.pool.key, arm.balance.tail_fraction) == (str(tmp_path / "tars"), "member", 0.12)
    assert arm.train.lr == base.train.lr == 0.5
    (tmp_path / "third.toml").write_text("base = 'arm.toml'\n")
    for line, word in (("'third.toml'", "has a base itself"), ("'../whole.toml'", "same folder"), ("3", "same folder")):
        (tmp_path / "bad.toml").write_text(f"base = {line}\n")
        with pytest.raises(UserError, match=word):
            load_recipe(tmp_path / "bad.toml")


# --- --set and the flags of a stage -----------------------------------------------------------------------------------

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
    ("curate", "max_pairs.en=5", "--max-pairs.ar 3 --write tars", "max_pairs={en=5,ar=3} write=tars"),
    ("train", "tokenizer.vocab_size=300", "--seed 1 --dry-run", "tokenizer.vocab_size=300 seed=1"),
    (
        "evaluate",
        "datasets=a,b folders.a=captions:/a",
        "--folders.b captions:/b",
        "datasets=a,b folders.a=captions:/a folders.b=captions:/b",
    ),
    ("export", "formats=onnx,huggingface", "--languages en ar", "formats=onnx,huggingface languages=en,ar"),
]


@pytest.fixture
def recipe_of(toy_world, tmp_path, monkeypatch):
    """Return a function that runs a command of a stage up to its work, and returns the recipe of that work."""
    seen = []

    def note(recipe, run_dir, *others, **options):
        seen.append(recipe)
        return Run(dir=run_dir, sections={})

    monkeypatch.setattr(stages, "run_stages", note)

    def run(command: str) -> Recipe:
        stage, *words = command.split()
        assert main([stage, str(toy_world.recipe), "--out", str(tmp_path / "run"), *words]) == 0
        return seen.pop()

    return run


def by_set(stage: str, keys: str) -> str:
    return " ".join(f"--set {stage}.{key}" for key in keys.split())


@pytest.mark.parametrize(("stage", "keys", "flags", "all_keys"), BOTH)
def test_flags_keep_what_set_says_in_both_orders(stage, keys, flags, all_keys, recipe_of, toy_world):
    expected = recipe_of(f"{stage} {by_set(stage, all_keys)}")
    assert expected != load_recipe(toy_world.recipe)
    for words in (f"{by_set(stage, keys)} {flags}", f"{flags} {by_set(stage, keys)}"):
        assert recipe_of(f"{stage} {words}") == expected


def test_the_last_value_of_a_key_wins_and_values_are_checked_after_all(recipe_of):
    assert recipe_of("train --set train.seed=1 --seed 2").train.seed == 2
    assert recipe_of("train --seed 2 --set=train.seed=1").train.seed == 1
    balance = recipe_of("balance --set balance.tail_fraction=none --english-threshold 3").balance
    assert (balance.english_threshold, balance.tail_fraction) == (3, None)


def test_flags_are_a_part_of_the_run_but_for_those_of_an_export(own_run, tmp_path, capfd):
    recipe = (own_run / "recipe.toml").read_bytes()
    assert main(["export", str(own_run), "--formats", "open_clip"]) == 0
    assert (own_run / "export/open_clip").is_dir()
    assert (own_run / "recipe.toml").read_bytes() == recipe
    capfd.readouterr()
    assert main(["export", str(own_run), "--json"]) == 0
    assert '"formats": {"huggingface"' in capfd.readouterr().out
    assert main(["curate", str(own_run), "--set", "curate.seed=3", "--text-policy", "one"]) == 0
    curate = load_recipe(own_run).curate
    assert (curate.seed, curate.text_policy) == (3, "one")
    assert json.loads((own_run / "curate/manifest.json").read_text("utf-8"))["config"]["curate"]["seed"] == 3


def test_relative_paths_of_flags_and_calls_hold_in_another_working_directory(toy_world, tmp_path, monkeypatch, capfd):
    shutil.copytree(toy_world.pool, tmp_path / "pairs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["pool", str(toy_world.recipe), "--out", "run", "--set=pool.path=pairs"]) == 0
    assert worldclip.run(load_recipe(toy_world.recipe, ["pool.path=pairs"]), out="called", until="pool") == Path(
        "called"
    )
    for name in ("run", "called"):
        assert load_recipe(tmp_path / name).pool.path == str(tmp_path / "pairs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    capfd.readouterr()
    assert main(["pool", str(tmp_path / "run")]) == 0
    assert "is finished and unchanged" in capfd.readouterr().err


def test_every_kind_of_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    evaluate = with_absolute_places(EvaluateConfig(folders={"a": "captions:b/c"}, data="~/data"))
    assert (evaluate.folders, evaluate.data) == ({"a": f"captions:{tmp_path}/b/c"}, "~/data")
    pool = with_absolute_places(PoolConfig(path="hf://datasets/a/b", deny_keys=("pairs",)))
    assert (pool.path, pool.deny_keys) == ("hf://datasets/a/b", (f"{tmp_path}/pairs",))
    paths = [with_absolute_places(TokenizerConfig(path=path)).path for path in ("pairs", "owner/name")]
    assert paths == [f"{tmp_path}/pairs", "owner/name"]
    recipe = with_absolute_places(Recipe(train=TrainConfig(initial_weights="pairs")))
    assert recipe == Recipe(train=TrainConfig(initial_weights=f"{tmp_path}/pairs"))


# --- a recipe in place of a pool --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["pool check RECIPE --out OUT --set duplicates=keep", "pool dedup RECIPE --out OUT"]
)
def test_relative_paths_start_at_the_file_of_the_pool(command, tmp_path, monkeypatch):
    """Also where the working directory has another pool of that name."""
    for folder, members in (("recipes", ["a", "b"]), ("elsewhere", ["c"])):
        write_tar(tmp_path / folder / "pool" / "0.tar", [(f"{name}.txt", b"a red circle") for name in members])
    recipe = tmp_path / "recipes" / "pool.toml"
    recipe.write_text('[pool]\npath = "pool"\n')
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(words_of(command, {"RECIPE": recipe, "OUT": tmp_path / "OUT"})) == 0
    report = json.loads((tmp_path / "OUT/report.json").read_text(encoding="utf-8"))
    assert report.get("pairs", report.get("counts", {}).get("pairs_in")) == 2


def test_rules_of_a_check_and_its_pool_stand_in_two_files(toy_world, tmp_path):
    folder = write_files(tmp_path / "rules", {"rules.toml": 'duplicates = "keep"\n[against]\nmine = "images"\n'})
    shutil.copytree(toy_world.pool, folder / "images")
    (tmp_path / "pool.toml").write_text(f'[pool]\npath = "{toy_world.pool}"\n[train]\nlr = 1.0\n')
    words = ["pool", "check", str(tmp_path / "pool.toml"), "--out", str(tmp_path / "OUT")]
    assert main([*words, "--config", str(folder / "rules.toml")]) == 0
    assert "duplicate" not in (tmp_path / "OUT/report.json").read_text(encoding="utf-8")
