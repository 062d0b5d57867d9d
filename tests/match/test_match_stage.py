"""The stage match on an adversarial pool; languages that a pool states (`pool.lang`)."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fasttext_files import WORDS, Kind, write_model
from killed import modified
from matched import read_matched
from plain_recipe import LISTS, keys_of, make_recipe, make_shards, run_stages, write_metadata, write_pool
from pools import write_lines
from stages import context, why_run
from tars import write_tar
from worldclip import match
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.language.table import INSTALLED
from worldclip.match.stage import missing_lists

SHARDS = make_shards(seed=1)


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, SHARDS)
    return folder


def read_counts(run: Path) -> dict[str, list[int]]:
    counts = {name: [0] * len(entries) for name, entries in LISTS.items()}
    for path in (run / "match" / "counts").rglob("*.parquet"):
        for row in artifacts.read_table(path, schemas.MATCH_COUNTS).to_pylist():
            counts[row["entries_lang"]][row["entry_id"]] += row["count"]
    return counts


def test_the_report_accounts_for_every_text_and_key(pool_folder, tmp_path):
    report = run_stages(make_recipe(pool_folder), tmp_path / "run", stages="pool match")["match"]
    assert sum(n for row in report["texts"].values() for n in row.values()) == report["pairs"]
    lost = sum(n for row in report["keys"].values() for n in row.values())
    assert lost + report["num_matched_keys"] == report["num_keys"] == sum(map(len, SHARDS.values()))
    assert set(report["texts"]["und"]) == {"bad_pair", "duplicate", "no_text", "no_language"}
    assert report["labels_without_language"]["ru"] == max(report["labels_without_language"].values())
    assert all(sample["reason"] for sample in report["bad"])
    restricted = make_recipe(pool_folder, match={"restrict_to_recipe_languages": True})
    report = run_stages(restricted, tmp_path / "restricted", stages="pool match")["match"]
    assert "no_language" not in report["texts"]["und"]


def test_invalid_merges_and_keys_of_another_pool_are_reported_together(pool_folder, tmp_path):
    run_stages(make_recipe(pool_folder), tmp_path, stages="pool")
    merges = make_recipe(pool_folder, match={"merge_labels": {"xx": "en", "ms": "id"}})
    with pytest.raises(UserError) as raised:
        run_stages(merges, tmp_path, stages="match")
    words = ["match.merge_labels.xx", "match.merge_labels.ms = 'id'"]
    assert [word in problem for word, problem in zip(words, raised.value.problems, strict=True)] == [True, True]
    other = make_recipe(pool_folder, pool={"lang": "json:language"})
    with pytest.raises(UserError, match=r"pool is out of date: pool\.lang was None, is json:language; run first"):
        run_stages(other, tmp_path, stages="match")


def test_labels_that_a_place_states_are_merged_also_those_of_a_language_of_the_run(tmp_path):
    rows = [{"uid": label, "text": "the cat sat on the mountain", "lang": label} for label in ("en", "th", "mine")]
    write_lines(tmp_path / "pool/0.jsonl", rows)
    place = {"path": str(tmp_path / "pool"), "lang": "lang"}
    merges = {"merge_labels": {"th": "en", "mine": "en"}}
    pooled = {"key": "uid", "texts": ["text"], "place": [place]}
    recipe = load_recipe(
        {"pool": pooled, "match": merges, "languages": {"codes": list(LISTS)}, "balance": {"tail_fraction": 1}}
    )
    report = run_stages(recipe, tmp_path / "run", stages="pool match")["match"]
    assert report["texts"] == {"en": {"matched": 3}}
    assert found_languages(tmp_path / "run") == {(row["uid"], 0): ("en", 1.0) for row in rows}


def test_some_shards_may_lack_a_field_that_others_have(tmp_path, capsys):
    write_tar(tmp_path / "tars/0.tar", [("a.jpg", b"A"), ("a.json", b'{"caption": "a cat"}')])
    write_tar(tmp_path / "tars/1.tar", [("b.jpg", b"B"), ("b.json", b'{"other": 1}')])
    recipe = make_recipe(tmp_path / "tars", pool={"texts": ["json:caption"]})
    run_stages(recipe, tmp_path, stages="pool")
    assert "warning: 1.tar: none of its 1 samples has a text; it has: other" in capsys.readouterr().err
    match.match(dataclasses.replace(context(recipe, tmp_path), part=slice(1, None, 2)))
    assert [path.name for path in (tmp_path / "match/done/counts").iterdir()] == ["1.tar.json"]


def test_a_finished_stage_that_some_shards_are_matched_anew_of_is_unfinished(pool_folder, tmp_path):
    run_stages(make_recipe(pool_folder), tmp_path, stages="pool match")
    changed = context(make_recipe(pool_folder, match={"min_lang_prob": 0.5}), tmp_path)
    match.match(dataclasses.replace(changed, part=slice(0, None, 2)))
    with pytest.raises(UserError, match=r"match is not finished; run first: worldclip match"):
        artifacts.require_manifest(tmp_path, "match")


def test_samples_of_texts_without_a_match_come_from_all_shards(tmp_path):
    for shard in "ab":
        rows = [{"uid": f"{shard}{number}", "text": f"{shard * 9} {number}", "lang": "en"} for number in range(40)]
        write_lines(tmp_path / f"pool/{shard}.jsonl", [*rows, {"uid": shard, "text": "the cat sat", "lang": "en"}])
    pooled = {"path": str(tmp_path / "pool"), "key": "uid", "texts": ["text"], "lang": "lang"}
    recipe = load_recipe({"pool": pooled, "languages": {"codes": list(LISTS)}, "balance": {"tail_fraction": 1}})
    report = run_stages(recipe, tmp_path / "run", stages="pool match")["match"]
    assert {sample["shard"] for sample in report["samples"]["no_match"]} == {"a.jsonl", "b.jsonl"}


def test_a_pool_without_a_match_says_why(tmp_path):
    write_tar(tmp_path / "tars/0.tar", [("a.txt", b"a red house")])
    recipe = make_recipe(tmp_path / "tars", match={"min_lang_prob": 1.0})
    with pytest.raises(UserError, match=r"1 without a language of the run \(en 1\);.* or lower match"):
        run_stages(recipe, tmp_path / "run", stages="pool match")


@pytest.mark.parametrize("changed", [{"isolate": "merged"}, {"profile": "reference"}, {"fold_case": True}])
def test_lists_of_other_settings_are_refused_with_the_command_that_makes_them(pool_folder, tmp_path, changed):
    run_stages(make_recipe(pool_folder), tmp_path, stages="pool")
    key, value = next(iter(changed.items()))
    as_toml = str(value).lower() if isinstance(value, bool) else value
    expected = rf"is missing: .*run first: worldclip metadata {tmp_path}.* --set match\.{key}={as_toml}"
    with pytest.raises(UserError, match=expected):
        run_stages(make_recipe(pool_folder, match=changed), tmp_path, stages="match")


def test_valid_and_deny_lists_recount_and_never_match_again(pool_folder, tmp_path, capsys):
    recipe = make_recipe(pool_folder)
    run_stages(recipe, tmp_path, stages="pool match")
    before = modified(tmp_path / "match/texts")
    rows = [row for name in layout.matched_shards(tmp_path) for row in read_matched(tmp_path, name).to_pylist()]
    all_keys = sorted({row["key"] for row in rows})
    valid, denied = [*all_keys[::2], "not in the pool"], all_keys[:40]
    pq.write_table(pa.table({"key": valid}), tmp_path / "valid.parquet")
    pq.write_table(pa.table({"key": denied, "why": ["asked"] * 40}), tmp_path / "denied.parquet")
    (tmp_path / "empty.txt").touch()
    denying = [str(tmp_path / name) for name in ("empty.txt", "denied.parquet")]
    lists = {"valid_keys": str(tmp_path / "valid.parquet"), "deny_keys": denying}
    run_stages(make_recipe(pool_folder, pool=lists), tmp_path, stages="match")
    said = capsys.readouterr().err
    for path, number in (("valid", len(valid)), ("denied", 40)):
        in_pool = number - (path == "valid")
        assert f"{path}.parquet' ({number} keys) names {in_pool} samples with a match" in said
    counts = {name: [0] * len(entries) for name, entries in LISTS.items()}
    for row in rows:
        if row["key"] in valid and row["key"] not in denied:
            for entry in row["entry_ids"]:
                counts[row["lang"]][entry] += 1
    assert read_counts(tmp_path) == counts
    assert modified(tmp_path / "match/texts") == before


def test_a_list_that_allowed_keys_and_denies_them_now_is_counted_again(pool_folder, tmp_path):
    (tmp_path / "keys.txt").write_text("\n".join(keys_of(SHARDS)[:30]))
    for setting, value in (("valid_keys", f"{tmp_path}/keys.txt"), ("deny_keys", [f"{tmp_path}/keys.txt"])):
        recipe = make_recipe(pool_folder, pool={setting: value})
        for run in ("run", setting):
            run_stages(recipe, tmp_path / run, stages="pool match")
        assert read_counts(tmp_path / "run") == read_counts(tmp_path / setting)


def test_keys_of_another_form_are_shown_next_to_one_of_the_pool(pool_folder, tmp_path):
    write_pool(tmp_path / "pool", {"00.tar": [], **SHARDS})  # the first shard has no key to show
    (tmp_path / "keys.txt").write_text("https://example.org/1.jpg\n")
    recipe = make_recipe(tmp_path / "pool", pool={"deny_keys": [str(tmp_path / "keys.txt")]})
    with pytest.raises(UserError) as raised:
        run_stages(recipe, tmp_path / "run", stages="pool match")
    (problem,) = raised.value.problems
    assert any(f"keys look like {key!r} " in problem for key in keys_of(SHARDS))


def test_every_missing_or_invalid_key_list_is_named(pool_folder, tmp_path):
    np.save(tmp_path / "wrong.npy", np.zeros(3))
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "column.parquet")
    denied = [str(tmp_path / "wrong.npy"), str(tmp_path / "column.parquet")]
    recipe = make_recipe(pool_folder, pool={"valid_keys": "nowhere.npy", "deny_keys": denied})
    with pytest.raises(UserError) as raised:
        run_stages(recipe, tmp_path, stages="pool match")
    words = ("pool.valid_keys is 'nowhere.npy'", "holds float64", "has the columns uid")
    assert [word in problem for word, problem in zip(words, raised.value.problems, strict=True)] == [True] * 3


def test_languages_without_a_list_are_named_with_where_a_list_is_to_be_had():
    labels = {"sw": 100, "swh_Latn": 20, "de": 30, "__label__yue": 2, "ace_Latn": 9, "en": 4}
    assert missing_lists(labels, ["en"], INSTALLED) == (
        "sw 120 (metadata.sources: cldr), de 30 (metadata.sources: wordfreq and cldr), "
        "ace 9 (metadata.lists.ace = FILE), zh 2 (metadata.sources: wordfreq and cldr)"
    )
    stated = {"fr-FR": 5, "German": 3, "en-GB": 2, "und": 7}  # as a pool writes them; und: of no label
    assert missing_lists(stated, ["en"], INSTALLED) == (
        "fr 5 (metadata.sources: wordfreq and cldr), de 3 (metadata.sources: wordfreq and cldr)"
    )
    nine = dict.fromkeys(["de", "fr", "it", "es", "pt", "nl", "sv", "da", "fi"], 1)
    assert missing_lists(nine, [], INSTALLED).endswith(", 1 more")


def test_file_names_are_of_no_language_that_a_list_is_advised_for(tmp_path, capsys):
    texts = ["the cat sat on the mountain by the water", "DSC00012", "IMG_1465", "MVIMG_2018", "en röd stuga vid sjön"]
    write_pool(tmp_path / "pool", {"0.tar": [(f"{number}", [text]) for number, text in enumerate(texts)]})
    report = run_stages(make_recipe(tmp_path / "pool"), tmp_path / "run", stages="pool match")["match"]
    assert report["labels_without_language"] == {"he": 2, "sv": 2}
    assert report["labels_of_words"] == {"sv": 1}
    assert "without a list: sv 1 (metadata.sources: wordfreq and cldr); add their codes" in capsys.readouterr().err


def found_languages(run) -> dict[tuple[str, int], tuple[str, float]]:
    rows = [row for name in layout.matched_shards(run) for row in read_matched(run, name).to_pylist()]
    return {(row["key"], row["text_idx"]): (row["lang"], row["lang_prob"]) for row in rows}


def test_a_replaced_model_of_languages_matches_again(pool_folder, tmp_path):
    model = tmp_path / "m.bin"
    for lang in ("en", "zh"):  # the only language that the model knows
        write_model(model, Kind(), WORDS, {lang: 9})
        recipe = make_recipe(pool_folder, languages={"codes": list(LISTS), "lid_model": str(model)})
        assert lang == "en" or "lid_model" in why_run("match", recipe, tmp_path / "run")
        run_stages(recipe, tmp_path / "run", stages="pool match")
        assert {found for found, _ in found_languages(tmp_path / "run").values()} == {lang}


@pytest.mark.parametrize("isolate", ["english", "merged"])
def test_texts_of_a_language_that_a_folder_of_lists_gains_are_found_under_one_list_for_all(tmp_path, isolate):
    write_pool(
        tmp_path / "pool", {"0.tar": [("a", ["this gift is for the children"]), ("b", ["ein schönes Haus am See"])]}
    )
    recipe = make_recipe(tmp_path / "pool", languages={"codes": []}, match={"isolate": isolate})
    one_list = ["gift", "Haus"]
    for lists in ({"en": one_list}, {"en": one_list, "de": one_list}):
        write_metadata(tmp_path / "run", lists | ({"merged": one_list} if isolate == "merged" else {}))
        run_stages(recipe, tmp_path / "run", stages="pool match")
        langs = sorted(lang for lang, _ in found_languages(tmp_path / "run").values())
        assert langs == (["en"] if len(lists) == 1 else ["de", "en"])
