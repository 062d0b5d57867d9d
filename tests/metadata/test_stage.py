"""The stage: order of sources, what is missing, merges, provenance, skip-if-done, matchers, the source `pool`."""

import csv
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import entry_lists
from entry_lists import QUIET, build, manifest_of, scores, words, write_lists, write_texts, write_views, write_wordnet
from killed import contents, modified
from pools import write_lines
from stages import job_of, run_stage, why_run
from worldclip import metadata
from worldclip.cli import main
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import StageFailed, UserError
from worldclip.match.matcher import matcher
from worldclip.metadata import stage
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.sources import pool
from worldclip.recipe import run

ROOT = Path(__file__).parents[2]


def recipe(lists: dict[str, str], **sections: Any) -> Recipe:
    """A recipe of these lists, with keys of other sections."""
    return entry_lists.recipe(sorted(lists), sections, lists=lists)


def test_sources_keep_order_of_registry_and_first_of_equal_entries_stays(tmp_path: Path) -> None:
    wordnets = {"sv": write_wordnet(tmp_path / "wn.tab", "swe", "katt", "7", "z" * 300)}
    sources = ("wordfreq", "wordnet", "number")  # the order here says nothing
    build(entry_lists.recipe(["sv"], sources=sources, wordnets=wordnets, wordfreq_top=20), tmp_path / "run")
    table = metadata.read_entries(tmp_path / "run", "sv").to_pydict()
    where = dict(zip(table["entry"], table["source"], strict=True))
    assert table["entry"][:100] == [str(number) for number in range(100)]
    assert (where["7"], where["katt"], where["Och"]) == ("number", "wordnet", "wordfreq")
    assert where["z" * 300] == "wordnet"  # exempt from the limit of length
    assert table["source"] == sorted(table["source"], key=["number", "wordnet", "wordfreq"].index)
    assert table["entry_id"] == list(range(len(table["entry"])))


def test_merged_list_takes_first_of_equal_entries_in_code_order(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", en=["cat\t1", "sofa\t2"], de=["Katze\t3", "sofa\t4", "7"])
    loaded = entry_lists.recipe(["de", "en", "sw"], {"match": {"isolate": "merged"}}, sources=["number"], lists=lists)
    report = build(loaded, tmp_path)
    table = metadata.read_entries(tmp_path, "merged").to_pydict()
    assert table["entry"][:6] == ["Katze", "sofa", "7", "cat", "0", "1"]
    assert table["score"][:5] == [3.0, 4.0, None, 1.0, None]
    assert table["source"][2:5] == ["list", "list", "number"]
    assert table["entry_id"] == list(range(103))
    assert report["lists"]["merged"]["rules"] == {"list": {"in": 5, "kept": 4}, "number": {"in": 100, "kept": 99}}
    assert metadata.load_matcher(tmp_path, "merged", "unicode").match("a cat, a sofa").tolist() == [1, 3]
    assert not (tmp_path / "metadata/en.matcher").exists()
    build(recipe(lists, match={"isolate": "english"}, languages={"codes": ["de"]}), tmp_path / "english")
    assert metadata.load_matcher(tmp_path / "english", "en", "unicode").match("cat").tolist() == [0]
    assert not (tmp_path / "english/metadata/de.matcher").exists()


# --- what is missing --------------------------------------------------------------------------------------------------


def problems_of(tmp_path: Path, **config: Any) -> list[str]:
    """Return the problems of a run over English, French, Swahili and Yoruba, which does no work."""
    with pytest.raises(UserError) as caught:
        build(entry_lists.recipe(["en", "fr", "sw", "yo"], **config), tmp_path / "run")
    assert not (tmp_path / "run/metadata").exists()
    return caught.value.problems


def test_sources_without_any_file_and_languages_without_words_are_named_before_any_work(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, sources=["number", "wordfreq"])
    assert re.search(r"no source has words of sw, yo;.*metadata\.lists\.sw", problem)
    assert MetadataConfig().sources == ("number", "wordnet", "unigram", "bigram", "title")
    wordnet, unigram, bigram, title, wordless = problems_of(tmp_path)
    assert 'has "wordnet", and there is no file for en, fr; run: python -m wn download' in wordnet
    for name, problem in (("unigram", unigram), ("bigram", bigram), ("title", title)):
        assert f'has "{name}", and there is no file for en, fr, sw, yo; set metadata.dumps' in problem
        assert f'or remove "{name}" from metadata.sources' in problem
    assert "no source has words of en, fr, sw, yo" in wordless


def test_languages_that_a_source_lacks_are_named_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"sources": ["number", "wordnet", "unigram"], "dumps": str(tmp_path / "dumps")}
    config["wordnets"] = {"en": write_wordnet(tmp_path / "wn.tab", "eng", "dog")}
    for wiki, text in (("fr", "chat"), ("sw", "...")):
        write_texts(tmp_path / f"dumps/{wiki}/a.parquet", text)
    added = {"kea": {"name": "Kabuverdianu", "script": "Latn"}}  # has no Wikipedia
    lists = write_lists(tmp_path, kea=["gatu"])
    rules = {"unigram_top_fraction": 1.0}
    sections = {"languages": {"add": added}}
    loaded = entry_lists.recipe(["en", "fr", "kea", "sw"], sections, overrides=rules, lists=lists, **config)
    report = build(loaded, tmp_path / "run")
    assert report["notes"][:2] == ["no wordnet of fr", "no unigram of en, sw"]  # that of sw has no word
    assert "no wordnet of fr" in capsys.readouterr().err
    assert [words(tmp_path / "run", lang)[100:] for lang in ("en", "fr", "sw")] == [["dog"], ["chat"], []]
    assert words(tmp_path / "run", "kea") == ["gatu"]


def test_config_problems_are_named_at_once(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    config = {
        "overrides": {"title_top_fraction": 2, "bigram_min_count": 0},
        "wordnets": {"da": "absent.tab", "fr": []},
        "lists": {"sw": absent, "xx": absent},
        "wikipedia": {"sw": absent, "xx": absent},
    }
    with pytest.raises(UserError) as caught:
        entry_lists.recipe(["sw"], **config)
    keys = [re.split(" = |: ", problem.removeprefix("metadata."))[0] for problem in caught.value.problems]
    assert keys == [
        *("overrides.title_top_fraction", "overrides.bigram_min_count", "wordnets.da", "wordnets.fr", "lists.sw"),
        *("lists.xx", "wikipedia.sw", "wikipedia.xx", "lists.xx", "wikipedia.xx"),  # both xx are unknown, too
    ]


# --- where entries come from, and what is built again -----------------------------------------------------------------


def test_manifest_names_every_file_with_its_licence(tmp_path: Path) -> None:
    corpus = write_texts(tmp_path / "sw/corpus.parquet", "simba ni mnyama")
    namespaces = '{"query": {"namespaces": {"0": {"*": ""}, "6": {"*": "Picha", "canonical": "File"}}}}'
    (tmp_path / "sw/x-siteinfo-namespaces.json").write_text(namespaces)
    write_texts(tmp_path / "dumps/yo/a.parquet", "kìnnìún")
    write_views(tmp_path / "dumps/pageviews", "sw Paka 5 0, sw Picha:Paka.jpg 9 0", "yo Ajá 3 0")
    loaded = entry_lists.recipe(
        ["sw", "yo"],
        sources=["unigram", "bigram", "title"],
        dumps=str(tmp_path / "dumps"),
        wikipedia={"sw": str(corpus)},
        overrides={"unigram_top_fraction": 1, "title_top_fraction": 1},
    )
    build(loaded, tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    swahili, yoruba = ({record["source"]: record for record in manifest["sources"][lang]} for lang in ("sw", "yo"))
    assert [record["source"] for record in manifest["sources"]["sw"]] == ["wikipedia", "title", "siteinfo"]
    assert (swahili["wikipedia"]["path"], swahili["wikipedia"]["licence"]) == ("corpus.parquet", "not stated")
    site = swahili["siteinfo"]
    assert (site["path"], site["size"]) == ("x-siteinfo-namespaces.json", len(namespaces))
    assert swahili["title"]["page_view_files"] == 2
    assert (yoruba["wikipedia"]["path"], yoruba["wikipedia"]["licence"][:12]) == ("a.parquet", "CC BY-SA 4.0")
    views = manifest["pageviews"]
    assert [(record["path"], record["licence"][:7]) for record in views] == [
        (f"pageviews-20240101-{hour:02}0000.gz", "CC0 1.0") for hour in (0, 1)
    ]


def test_finished_stage_is_skipped_and_changed_file_rebuilds_only_its_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = write_lists(tmp_path / "in", sw=["simba"], de=["Katze"])
    assert run_stage("metadata", recipe(lists), tmp_path, QUIET)
    assert not run_stage("metadata", recipe(lists), tmp_path, QUIET)
    before = modified(tmp_path / "metadata", "de.parquet")
    write_lists(tmp_path / "in", sw=["simba", "paka"])
    assert run_stage("metadata", recipe(lists), tmp_path, QUIET)
    assert "its inputs changed: sw.txt" in capsys.readouterr().err
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("paka").tolist() == [1]
    assert modified(tmp_path / "metadata", "de.parquet") == before
    build(recipe({"sw": lists["sw"]}, match={"profile": "reference"}), tmp_path)
    build(recipe({"sw": lists["sw"]}), tmp_path)
    build(recipe({"sw": lists["sw"]}), tmp_path / "new")
    assert contents(tmp_path / "metadata").keys() == contents(tmp_path / "new/metadata").keys()


def test_titles_of_other_follow_the_wikipedias_that_no_label_reaches(tmp_path: Path) -> None:
    write_views(tmp_path / "dumps/pageviews", "xx-new Kaka 3 0, cr Paka 4 0, sw Simba 5 0, en Cat 60 0")
    lists = {"sources": ("title",), "dumps": str(tmp_path / "dumps")}
    new = {"name": "New", "script": "Latn", "wikipedia": ["xx_new"]}
    run_dir = tmp_path / "run"
    build(entry_lists.recipe(["other", "sw"], **lists), run_dir)
    assert words(run_dir, "other") == ["Paka"]
    sw = modified(run_dir / "metadata", "sw.parquet")
    build(entry_lists.recipe(["other", "sw"], {"languages": {"add": {"xx_new": new}}}, **lists), run_dir)
    assert words(run_dir, "other") == ["Paka", "Kaka"]
    assert modified(run_dir / "metadata", "sw.parquet") == sw


@pytest.mark.parametrize(("before", "after"), [({"cldr": ["sw"]}, {"cldr": ["tr"]}), ({}, {"words": "tsheg"})])
def test_another_row_of_an_added_language_builds_its_list_as_a_fresh_run_does(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    corpus = write_texts(tmp_path / "corpus.parquet", "བཀྲ་ཤིས་བདེ་ལེགས")
    lists = {"sources": ["cldr", "unigram"], "wikipedia": {"xx": str(corpus)}, "overrides": {"unigram_top_fraction": 1}}

    def entries(row: dict[str, Any], run_dir: Path) -> list[str]:
        added = {"xx": {"name": "New", "script": "Tibt", "wikipedia": ["xx"], **row}}
        build(entry_lists.recipe(["xx"], {"languages": {"add": added}}, **lists), run_dir)
        return words(run_dir, "xx")

    entries_before = entries(before, tmp_path / "run")
    assert entries(after, tmp_path / "run") == entries(after, tmp_path / "fresh") != entries_before


# --- matchers ---------------------------------------------------------------------------------------------------------


def test_matcher_of_other_entries_is_refused(tmp_path: Path) -> None:
    build(recipe(write_lists(tmp_path / "in", sw=["simba"], de=["Katze"])), tmp_path)
    folder = tmp_path / "metadata"
    (folder / "sw.matcher").rename(folder / "swapped")
    (folder / "de.matcher").rename(folder / "sw.matcher")
    for lang, profile, message in (
        ("sw", "unicode", "digest"),
        ("de", "reference", "no matcher 'reference' of list 'de'"),
        ("yo", "unicode", "no matcher 'unicode' of list 'yo'"),
    ):
        with pytest.raises(UserError, match=message):
            metadata.load_matcher(tmp_path, lang, profile)
    for run_dir, message in ((tmp_path, "has no list 'yo'"), (tmp_path / "x", "run first: worldclip metadata")):
        with pytest.raises(UserError, match=message):
            metadata.read_entries(run_dir, "yo")


def test_matchers_of_older_version_are_recompiled_without_rebuilding_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = recipe(write_lists(tmp_path / "in", sw=["simba"]))
    with monkeypatch.context() as older:
        for module in (matcher, stage):
            older.setattr(module, "FORMAT_VERSION", 1)
        build(loaded, tmp_path)
    before = modified(tmp_path / "metadata", "sw.parquet")
    with pytest.raises(UserError, match="has version 1, expected 3") as caught:
        metadata.load_matcher(tmp_path, "sw", "unicode")
    (removed,) = re.findall(r"of a run: remove (\S+) and (\S+), run the metadata stage", str(caught.value))
    assert all((tmp_path / name).exists() for name in removed)
    assert run_stage("metadata", loaded, tmp_path, QUIET)
    assert f"matchers.format was 1, is {matcher.FORMAT_VERSION}" in capsys.readouterr().err
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("simba").tolist() == [0]
    assert modified(tmp_path / "metadata", "sw.parquet") == before


# --- the pool's own words ---------------------------------------------------------------------------------------------


def write_shard(folder: Path, name: str, *texts: tuple[str | None, str | None]) -> None:
    """Write texts with the languages that the pool states."""
    stem = name.partition(".")[0]
    rows = [{"uid": f"{stem}_{n}", "text": text, "lang": lang} for n, (lang, text) in enumerate(texts)]
    write_lines(folder / "pool" / name, rows)


def pool_recipe(folder: Path, *codes: str, metadata: Any = (), **sections: Any) -> Recipe:
    """A recipe of the pool below `folder`, with keys of [metadata] and of other sections."""
    config = {"sources": ["number", "pool"], "pool_min_count": 1, **dict(metadata)}
    place = {"path": str(folder / "pool"), "key": "uid", "lang": "lang", **sections.pop("pool", {})}
    return entry_lists.recipe(codes, {"pool": place, **sections}, **config)


def build_of_pool(loaded: Recipe, folder: Path) -> dict[str, Any]:
    run_stage("pool", loaded, folder / "run", QUIET)
    return build(loaded, folder / "run")


def of_pool(folder: Path, lang: str) -> dict[str, float | None]:
    """Return the entries that the pool gave, in order, with their scores."""
    return scores(folder / "run", lang, "pool")


def plain_entries(texts: Sequence[str], min_count: int, max_unigrams: int) -> dict[str, float]:
    """Return what the source should give: numbers are entries already, and do not count."""
    groups = [group.split() for text in texts for group in text.split(",")]
    counts = Counter(word for group in groups for word in group)
    pairs = Counter(pair for group in groups for pair in pairwise(group))
    order = sorted(counts, key=lambda word: (-counts[word], word.encode()))
    new = [word for word in order if counts[word] >= min_count and not word.isdigit()][:max_unigrams]
    ratio = {(a, b): n / (counts[a] * counts[b]) for (a, b), n in pairs.items() if n >= min_count}
    best = sorted(ratio, key=lambda pair: (-ratio[pair], -pairs[pair], [word.encode() for word in pair]))
    total = sum(counts.values())
    bigrams = {" ".join(pair): math.log2(ratio[pair] * total) for pair in best[: math.ceil(0.4 * len(new))]}
    return {word: float(counts[word]) for word in new} | bigrams


@pytest.mark.parametrize(("min_count", "max_unigrams"), [(1, 100), (2, 100), (3, 4), (1, 1)])
def test_entries_agree_with_counting_each_language_plainly(
    min_count: int, max_unigrams: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_UNIGRAMS", max_unigrams)
    generator = [(7 * n * n + 3 * n) % 23 for n in range(60)]
    texts = {}
    for lang, size in (("sw", 11), ("yo", 7)):
        frequent = [" ".join(f"{lang}{word % size}" for word in generator[n : n + 5]) for n in range(40)]
        twice = [f"rare{n // 2}" for n in range(40)]
        texts[lang] = [f"{frequent[n]} {n % 4}, {twice[n]}, end" for n in range(40)]
    for shard in range(3):
        write_shard(tmp_path, f"{shard}.jsonl", *((lang, text) for lang in texts for text in texts[lang][shard::3]))
    build_of_pool(pool_recipe(tmp_path, "sw", "yo", metadata={"pool_min_count": min_count}), tmp_path)
    for lang, of_lang in texts.items():
        expected = plain_entries(of_lang, min_count, max_unigrams)
        found = of_pool(tmp_path, lang)
        assert list(found) == list(expected)
        assert list(found.values()) == pytest.approx(list(expected.values()))


def test_texts_have_the_languages_that_match_gives_them(tmp_path: Path) -> None:
    texts = ["the cat sits on the table", "die Katze sitzt auf dem Tisch", "le chat est sur la table", "", "12 34"]
    write_shard(tmp_path, "a.jsonl", *((None, text) for text in texts * 2))
    sections = {"pool": {"lang": None}, "match": {"merge_labels": {"fr": "en"}, "min_lang_prob": 0.2}}
    loaded = pool_recipe(tmp_path, "de", "en", metadata={"sources": ["pool"]}, **sections)
    run(loaded, tmp_path / "run", until="match", executor=QUIET)
    places = json.loads((tmp_path / "run/metadata/pool/a.jsonl.json").read_text())
    counts = json.loads((tmp_path / "run/match/report.json").read_text())["texts"]
    matched = {lang: counts[lang]["matched"] for lang in ("de", "en")}
    assert matched == {lang: place["texts"] for lang, place in places.items()} == {"de": 2, "en": 4}
    assert {"chat", "cat"} < set(of_pool(tmp_path, "en"))


def test_texts_that_match_drops_are_not_counted_and_those_without_spaces_segmented(tmp_path: Path) -> None:
    write_shard(tmp_path, "a.jsonl", ("sw", "simba"), ("sw", "  "), ("sw", None), ("xx", "paka"), (None, "a"))
    repeated = [{"uid": "b", "text": text, "lang": "sw"} for text in ("simba", "mbwa")]
    write_lines(tmp_path / "pool/b.jsonl", [*repeated, {"text": "tembo"}])
    write_shard(tmp_path, "c.jsonl", ("zh", "我喜欢北京大学"), ("zh", "我喜欢北京"))
    report = build_of_pool(
        pool_recipe(tmp_path, "sw", "yo", "zh", metadata={"overrides": {"bigram_fraction": 1}}), tmp_path
    )
    assert of_pool(tmp_path, "sw") == {"simba": 2.0}
    assert {"喜欢": 2.0, "北京": 2.0}.items() <= of_pool(tmp_path, "zh").items()
    assert "北京大学" in of_pool(tmp_path, "zh")
    assert (report["lists"]["yo"]["by_source"], report["notes"][0]) == ({"number": 100, "pool": 0}, "no pool of yo")
    with pytest.raises(StageFailed, match="no entry of yo from pool") as caught:
        build_of_pool(pool_recipe(tmp_path, "sw", "yo", metadata={"sources": ["pool"]}), tmp_path)
    assert list(caught.value.failures) == ["yo"]


def test_changed_pool_recounts_its_shard_and_rebuilds_lists(tmp_path: Path) -> None:
    write_shard(tmp_path, "a.jsonl", *(("sw", text) for text in ("simba mkubwa sana", "paka, simba mkubwa! simba")))
    write_shard(tmp_path, "b.jsonl", ("sw", "paka mweusi"))
    loaded = pool_recipe(tmp_path, "sw")
    build_of_pool(loaded, tmp_path)
    assert not run_stage("metadata", loaded, tmp_path / "run", QUIET)
    before = modified(tmp_path / "run/metadata/pool", "a.jsonl.counts")
    write_shard(tmp_path, "b.jsonl", ("sw", "tembo"))
    run_stage("pool", loaded, tmp_path / "run", QUIET)
    assert why_run("metadata", loaded, tmp_path / "run") == "its inputs changed: pool"
    assert run_stage("metadata", loaded, tmp_path / "run", QUIET)
    assert {"tembo", "simba mkubwa"} < set(of_pool(tmp_path, "sw"))
    assert "mweusi" not in of_pool(tmp_path, "sw")
    assert modified(tmp_path / "run/metadata/pool", "a.jsonl.counts") == before
    (tmp_path / "pool/b.jsonl").unlink()
    run_stage("pool", loaded, tmp_path / "run", QUIET)
    assert run_stage("metadata", loaded, tmp_path / "run", QUIET)
    assert "tembo" not in of_pool(tmp_path, "sw")
    assert not list((tmp_path / "run/metadata").rglob("b.jsonl*"))
    lists = {"sources": ["number"], "lists": write_lists(tmp_path, sw=["simba"])}
    listed = pool_recipe(tmp_path, "sw", metadata=lists)  # the pool is no source
    build(listed, tmp_path / "run")
    write_shard(tmp_path, "a.jsonl", ("sw", "simba na paka"))
    run_stage("pool", listed, tmp_path / "run", QUIET)
    assert why_run("metadata", listed, tmp_path / "run") is None
    assert "pool" not in job_of("metadata", listed, tmp_path / "run").config


def test_a_language_that_had_a_list_of_its_own_is_counted_once_it_has_none(tmp_path: Path) -> None:
    write_shard(tmp_path, "a.jsonl", ("sw", "simba"), ("yo", "aja"))
    lists = write_lists(tmp_path, yo=["ologbo"])
    build_of_pool(pool_recipe(tmp_path, "sw", "yo", metadata={"lists": lists}), tmp_path)
    build_of_pool(pool_recipe(tmp_path, "sw", "yo"), tmp_path)
    assert set(of_pool(tmp_path, "yo")) == {"aja"}


def test_how_languages_are_found_decides_the_lists(tmp_path: Path) -> None:
    write_shard(tmp_path, "a.jsonl", ("sw", "simba"), ("qsw", "paka"))
    build_of_pool(pool_recipe(tmp_path, "sw"), tmp_path)
    assert set(of_pool(tmp_path, "sw")) == {"simba"}
    merged = {"match": {"merge_labels": {"qsw": "sw"}}}
    assert "merge_labels" in str(why_run("metadata", pool_recipe(tmp_path, "sw", **merged), tmp_path / "run"))
    build_of_pool(pool_recipe(tmp_path, "sw", **merged), tmp_path)
    assert set(of_pool(tmp_path, "sw")) == {"paka", "simba"}
    frequent = pool_recipe(tmp_path, "sw", metadata={"pool_min_count": 2}, **merged)
    assert why_run("metadata", frequent, tmp_path / "run") == "metadata.pool_min_count was 1, is 2"


# --- languages --------------------------------------------------------------------------------------------------------


def test_example_of_an_added_language_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples/add_a_language", tmp_path / "example", ignore=shutil.ignore_patterns("run"))
    monkeypatch.chdir(tmp_path / "example")
    assert main(["metadata", "recipe.toml", "--out", "run", "--workers", "1"]) == 0
    row = next(row for row in metadata.read_entries(Path("run"), "kea").to_pylist() if row["entry"] == "piskador")
    assert (row["source"], row["score"]) == ("list", 6.0)
    head = (ROOT / "src/worldclip/language/table.csv").read_text(encoding="utf-8").splitlines()[0]
    (of_table,) = csv.DictReader([head, Path("language.csv").read_text(encoding="utf-8").strip()])
    added = load_recipe("recipe.toml", ["pool.path=."]).languages.add["kea"].row("kea")
    names = ("code", "name", "script", "family", "words")
    assert [of_table[name] for name in names] == [getattr(added, name) for name in names]


def test_lists_of_a_run_that_has_not_finished_them_are_refused(tmp_path: Path) -> None:
    lists = write_lists(tmp_path, en=["cat"], de=["Katze"])
    run_stage("metadata", recipe(lists), tmp_path / "run", QUIET)
    (tmp_path / "run/metadata/manifest.json").unlink()
    (tmp_path / "run/metadata/de.parquet").unlink()
    own = entry_lists.recipe(["en", "de"], lists=str(tmp_path / "run/metadata"))
    with pytest.raises(UserError, match="has not finished the stage metadata"):
        run_stage("metadata", own, tmp_path / "other", QUIET)
