"""The stage: order, rules, provenance, skip-if-done, failures."""

from __future__ import annotations

import itertools
import operator
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import entry_lists
from entry_lists import QUIET, build, manifest_of, words, write_lists, write_texts, write_views, write_wordnet
from killed import contents, modified
from stages import run_stage
from worldclip import metadata
from worldclip.config import Recipe
from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import read_json, read_table, write_table
from worldclip.core.errors import BadShard, UserError, install_hint
from worldclip.match.matcher import matcher
from worldclip.metadata import matchers
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.entry_list import EntryList, is_punctuation
from worldclip.metadata.source import Inputs, build_entries
from worldclip.metadata.stage import merge_lists
from worldclip.recipe import run


def recipe(lists: dict[str, str], metadata: Any = (), **sections: Any) -> Recipe:
    """A recipe of numbers and these lists, with keys of [metadata] and of other sections."""
    config = {"sources": ["number", "list"], "lists": lists, **dict(metadata)}
    return entry_lists.recipe(sorted(lists), sections, **config)


def test_sources_keep_order_of_registry_and_first_of_equal_entries_stays(tmp_path: Path) -> None:
    config = MetadataConfig(
        sources=("list", "wordfreq", "wordnet", "number"),  # the order here says nothing
        wordnets={"sv": write_wordnet(tmp_path / "wn.tab", "swe", "katt", "7")},
        wordfreq_top=20,
        lists=write_lists(tmp_path, sv=["katt\t5", "röd bil\t4", "den\t3"]),
    )
    table = build_entries(Inputs(lang="sv", config=config)).table().to_pydict()
    where = {
        entry: (source, score)
        for entry, source, score in zip(table["entry"], table["source"], table["score"], strict=True)
    }
    assert table["entry"][:100] == [str(number) for number in range(100)]
    assert where["7"] == ("number", None)
    assert where["katt"] == ("wordnet", None)
    assert where["den"][0] == "wordfreq"
    assert where["röd bil"] == ("list", 4.0)
    assert table["source"] == sorted(table["source"], key=["number", "wordnet", "wordfreq", "list"].index)
    assert table["entry_id"] == list(range(len(table["entry"])))


def test_rules_drop_and_count_candidates() -> None:
    built = EntryList()
    candidates = ["cat", " cat ", "", "...", "—！", "x" * 257, "y" * 256, "\ud800", "$", "c'est", "🐈", "ก็"]
    built.add("list", ((entry, None) for entry in candidates), max_chars=256)
    assert list(built.entries) == ["cat", "y" * 256, "c'est", "🐈", "ก็"]
    dropped = {"empty": 1, "punctuation": 3, "too_long": 1, "not_text": 1, "duplicate": 1}
    assert built.rules["list"] == {"in": 12, **dropped, "kept": 5}


def test_a_list_of_which_all_is_too_long_names_the_limit(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("katt\nhund\n")
    config = MetadataConfig(sources=("list",), lists={"sv": str(tmp_path / "words.txt")}, max_chars=1)
    with pytest.raises(BadShard, match=r"of sv from list; 2 are longer than metadata\.max_chars = 1; raise it"):
        build_entries(Inputs(lang="sv", config=config))


def test_wordnet_is_exempt_from_length_limit(tmp_path: Path) -> None:
    wordnet = write_wordnet(tmp_path / "wn.tab", "swe", "z" * 300)
    config = MetadataConfig(sources=("wordnet",), wordnets={"sv": wordnet})
    assert list(build_entries(Inputs(lang="sv", config=config)).entries) == ["z" * 300]


@settings(deadline=None)  # a busy machine stands still longer than this takes
@given(st.lists(st.tuples(st.sampled_from(["number", "wordnet", "list"]), st.lists(st.text(max_size=4), max_size=6))))
def test_every_candidate_is_kept_or_dropped_for_one_reason(batches: list[tuple[str, list[str]]]) -> None:
    built = EntryList()
    for source, candidates in batches:
        before = dict(built.rules.get(source, {}))
        num_kept = built.add(source, ((entry, None) for entry in candidates), max_chars=3)
        counts = {rule: count - before.get(rule, 0) for rule, count in built.rules[source].items()}
        assert counts["in"] == len(candidates) == sum(counts.values()) - counts["in"]
        assert num_kept == counts["kept"]
    assert len(built.entries) == len(built.table()) == len(built.scores)
    assert not any(is_punctuation(entry) for entry in built.entries)


def test_stage_writes_lists_matchers_report_and_manifest(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", sw=["simba", "paka mweusi", "Simba"], th=["แมว", "หมา"])
    report = build(recipe(lists), tmp_path)
    assert words(tmp_path, "sw")[100:] == ["simba", "paka mweusi", "Simba"]
    assert report["lists"]["sw"]["by_source"] == {"number": 100, "list": 3}
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("Simba na paka mweusi").tolist() == [101, 102]
    assert manifest_of(tmp_path)["counts"] == {"sw": 103, "th": 102}
    assert read_json(tmp_path / "metadata/report.json") == report


def test_dead_entries_keep_their_id_and_are_counted(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", sw=["caf\u00e9", "cafe\u0301", "Simba", "simba"])
    report = build(recipe(lists, {"profiles": ["reference", "unicode_fold"]}), tmp_path)
    assert report["lists"]["sw"]["dead"] == {"reference": 0, "unicode": 1, "unicode_fold": 2}
    assert len(words(tmp_path, "sw")) == 104
    assert metadata.load_matcher(tmp_path, "sw", "unicode_fold").match("SIMBA").tolist() == [102]


def test_merged_list_takes_first_of_equal_entries_in_code_order(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", en=["cat\t1", "sofa\t2"], de=["Katze\t3", "sofa\t4"])
    report = build(recipe(lists, match={"isolate": "merged"}), tmp_path)
    table = metadata.read_entries(tmp_path, "merged").to_pydict()
    assert table["entry"][100:] == ["Katze", "sofa", "cat"]
    assert table["score"][100:] == [3.0, 4.0, 1.0]
    assert table["entry_id"] == list(range(103))
    assert report["lists"]["merged"]["rules"]["list"] == {"in": 4, "kept": 3}
    assert metadata.load_matcher(tmp_path, "merged", "unicode").match("a cat, a sofa").tolist() == [101, 102]
    assert not (tmp_path / "metadata/en.matcher").exists()


ENTRIES = st.sampled_from(["", "a", "猫", "aa"]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
ROWS = st.lists(
    st.tuples(ENTRIES, st.sampled_from(["list", "wordfreq"])), max_size=40, unique_by=operator.itemgetter(0)
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_only_the_first_of_equal_entries_is_merged_and_all_are_counted_by_source(
    tmp_path: Path, lists: list[list[tuple[str, str]]]
) -> None:
    paths = [tmp_path / f"{number}.parquet" for number in range(len(lists))]
    for path, rows in zip(paths, lists, strict=True):
        table = [{"entry_id": i, "entry": entry, "source": source} for i, (entry, source) in enumerate(rows)]
        write_table(path, pa.Table.from_pylist(table, METADATA), METADATA)
    counts = merge_lists(paths, tmp_path / "merged.parquet")
    source_of: dict[str, str] = {}
    for entry, source in itertools.chain(*lists):
        source_of.setdefault(entry, source)
    merged = read_table(tmp_path / "merged.parquet", METADATA).to_pydict()
    assert list(zip(merged["entry"], merged["source"], strict=True)) == list(source_of.items())
    assert merged["entry_id"] == list(range(len(source_of)))
    kept = Counter(source_of.values())
    went_in = Counter(source for _, source in itertools.chain(*lists))
    assert counts == {source: {"in": number, "kept": kept[source]} for source, number in went_in.items()}
    assert pq.read_schema(tmp_path / "merged.parquet").equals(METADATA, check_metadata=True)


def test_isolate_english_builds_english_list_for_all_texts(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", en=["cat"], de=["Katze"])
    build(recipe(lists, match={"isolate": "english"}, languages={"codes": ["de"]}), tmp_path)
    assert metadata.load_matcher(tmp_path, "en", "unicode").match("cat").tolist() == [100]
    assert not (tmp_path / "metadata/de.matcher").exists()


def problems_of(tmp_path: Path, **config: Any) -> list[str]:
    """Return the problems of a run over English, French, Swahili and Yoruba, which does no work."""
    with pytest.raises(UserError) as caught:
        build(entry_lists.recipe(["en", "fr", "sw", "yo"], **config), tmp_path / "run")
    assert not (tmp_path / "run/metadata").exists()
    return caught.value.problems


def test_languages_without_words_are_all_named_before_any_work(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, sources=["number", "wordfreq"])
    assert re.search(r"no source has words of sw, yo,.*metadata\.lists\.sw", problem)
    (problem,) = problems_of(tmp_path, allow_missing=["wordnet", "unigram", "bigram", "title"])
    assert "no source has words of en, fr, sw, yo" in problem


def test_default_sources_are_those_of_the_paper_and_none_is_left_out_in_silence(tmp_path: Path) -> None:
    assert MetadataConfig().sources == ("number", "wordnet", "unigram", "bigram", "title", "list")
    wordnet, text, views = problems_of(tmp_path)
    assert 'metadata.sources has "wordnet", and there is no file for en, fr; run: python -m wn download' in wordnet
    assert "set metadata.installed_wordnets = true; or set metadata.wordnets.en = FILE" in wordnet
    assert 'To go on without: metadata.allow_missing = ["wordnet"]' in wordnet
    assert 'has "unigram" and "bigram", and there is no file for en, fr, sw, yo; set metadata.dumps = "dumps"' in text
    assert "worldclip fetch metadata RECIPE --langs en,fr,sw,yo; or set metadata.wikipedia.en = FILE" in text
    assert 'has "title", and there is no file for en, fr, sw, yo;' in views


def test_wordnets_of_some_languages_do_not_hide_the_missing_ones(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", en=["cat"], fr=["chat"], sw=["simba"], yo=["ologbo"])
    wordnets = {"en": write_wordnet(tmp_path / "wn.tab", "eng", "dog")}
    config = {"sources": ["wordnet", "list"], "lists": lists, "wordnets": wordnets}
    (problem,) = problems_of(tmp_path, **config)
    assert "there is no file for fr;" in problem
    report = build(recipe(lists, {**config, "allow_missing": ["wordnet"]}), tmp_path / "run")
    assert report["notes"][0] == "no wordnet of fr: no file, which metadata.allow_missing allows"
    assert words(tmp_path / "run", "en") == ["dog", "cat"]


def test_wordnets_of_the_dumps_folder_are_used_unless_the_recipe_names_others(tmp_path: Path) -> None:
    for lang, code, name in (("fr", "fra", "b"), ("fr", "fra", "a"), ("sw", "swh", "c")):
        write_wordnet(tmp_path / f"dumps/wordnets/{lang}/{name}.tab", code, f"in {name}")
    (tmp_path / "dumps/wordnets/fr/a.tab.part").write_text("not whole")
    wordnets = {"sw": write_wordnet(tmp_path / "own.tab", "swh", "simba")}
    loaded = entry_lists.recipe(["fr", "sw"], sources=["wordnet"], dumps=str(tmp_path / "dumps"), wordnets=wordnets)
    build(loaded, tmp_path / "run")
    assert words(tmp_path / "run", "fr") == ["in a", "in b"]
    assert words(tmp_path / "run", "sw") == ["simba"]


@pytest.mark.parametrize("package", ["wordfreq", "wn"])
def test_missing_package_is_named_before_any_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wn.xml").write_text("<LexicalResource/>")
    wordnets = {"sources": ["wordnet"], "wordnets": {"sv": str(tmp_path / "wn.xml")}}
    loaded = entry_lists.recipe(["sv"], **({"sources": ["wordfreq"]} if package == "wordfreq" else wordnets))
    for name in (package, f"{package}.lmf"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=re.escape(f"metadata needs {package}: {install_hint('metadata')}")):
        run(loaded, tmp_path / "run", until="metadata", executor=QUIET)
    assert not (tmp_path / "run/metadata").exists()


def test_config_problems_are_named_at_once(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    config = {
        "overrides": {"title_top_fraction": 2, "bigram_min_count": 0},
        "wordnets": {"da": "absent.xml", "fr": []},
        "lists": {"sw": absent, "xx": absent},
        "wikipedia": {"sw": absent, "xx": absent},
        "pageviews": absent,
        "licences": {"yo": "CC0 1.0"},
        "text_licences": {"yo": "CC0 1.0"},
    }
    with pytest.raises(UserError) as caught:
        entry_lists.recipe(["sw"], **config)
    keys = [problem.removeprefix("metadata.").split(" = ")[0] for problem in caught.value.problems]
    assert keys == [
        *("overrides.title_top_fraction", "overrides.bigram_min_count", "wordnets.da", "wordnets.fr", "lists.sw"),
        *("lists.xx", "wikipedia.sw", "wikipedia.xx", "pageviews", "licences.yo", "text_licences.yo"),
        *("lists.xx", "wikipedia.xx"),  # both are unknown, too
    ]
    assert 'wordnets.da = "absent.xml": no such file "absent.xml"' in str(caught.value)
    assert "wordnets.fr = []: must not be empty" in str(caught.value)


def sources_of(run_dir: Path, lang: str) -> dict[str, dict[str, Any]]:
    return {record["source"]: record for record in manifest_of(run_dir)["sources"][lang]}


def test_text_and_views_have_the_licences_of_wikipedia_and_an_own_corpus_its_own(tmp_path: Path) -> None:
    corpus = write_texts(tmp_path / "sw/corpus.parquet", "simba ni mnyama")
    namespaces = '{"query": {"namespaces": {"0": {"*": ""}, "6": {"*": "Picha", "canonical": "File"}}}}'
    (tmp_path / "sw/x-siteinfo-namespaces.json").write_text(namespaces)
    write_texts(tmp_path / "dumps/yo/a.parquet", "kìnnìún")
    views = write_views(tmp_path / "views", "sw Paka 5 0, sw Picha:Paka.jpg 9 0", "yo Ajá 3 0")
    loaded = entry_lists.recipe(
        ["sw", "yo"],
        sources=["unigram", "title"],
        dumps=str(tmp_path / "dumps"),
        wikipedia={"sw": str(corpus)},
        pageviews=str(views),
        text_licences={"sw": "CC0 1.0"},
        overrides={"unigram_top_fraction": 1, "title_top_fraction": 1},
    )
    build(loaded, tmp_path / "run")
    named = sources_of(tmp_path / "run", "sw")
    assert (named["wikipedia"]["file"], named["wikipedia"]["licence"]) == ("corpus.parquet", "CC0 1.0")
    assert (named["siteinfo"]["file"], named["siteinfo"]["size"]) == ("x-siteinfo-namespaces.json", len(namespaces))
    assert named["siteinfo"]["modified"] == named["wikipedia"]["modified"]
    assert named["title"]["page_view_files"] == 2
    yoruba = sources_of(tmp_path / "run", "yo")["wikipedia"]
    assert (yoruba["file"], yoruba["licence"][:12]) == ("a.parquet", "CC BY-SA 4.0")
    manifest = manifest_of(tmp_path / "run")
    assert [file["file"] for file in manifest["pageviews"]] == sorted(path.name for path in views.iterdir())
    assert [file["licence"][:7] for file in manifest["pageviews"]] == ["CC0 1.0"] * 2
    assert manifest["rules"]["sw"]["title"]["kept"] == 1
    assert manifest["inputs"]["sw"]["wikipedia"]["icu"][0].isdigit()


def test_finished_stage_is_skipped_and_changed_file_or_licence_rebuilds_only_its_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = write_lists(tmp_path / "in", sw=["simba"], de=["Katze"])
    assert run_stage("metadata", recipe(lists), tmp_path, QUIET)
    assert not run_stage("metadata", recipe(lists), tmp_path, QUIET)
    before = modified(tmp_path / "metadata", "de.parquet")
    assert sources_of(tmp_path, "sw")["list"]["licence"] == "not stated in the file"
    write_lists(tmp_path / "in", sw=["simba", "paka"])
    assert run_stage("metadata", recipe(lists), tmp_path, QUIET)
    assert "its inputs changed: sw.txt" in capsys.readouterr().err
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("paka").tolist() == [101]
    assert run_stage("metadata", recipe(lists, {"licences": {"sw": "CC BY 4.0"}}), tmp_path, QUIET)
    named = sources_of(tmp_path, "sw")["list"]
    assert (named["file"], named["size"], named["licence"]) == ("sw.txt", 11, "CC BY 4.0")
    assert len(named["modified"]) == len("2024-01-01")
    assert len(named["sha256"]) == 64
    assert modified(tmp_path / "metadata", "de.parquet") == before


def test_titles_of_other_follow_the_wikipedias_that_no_label_reaches(tmp_path: Path) -> None:
    views = write_views(tmp_path / "views", "xx-new Kaka 3 0, cr Paka 4 0, sw Simba 5 0, en Cat 60 0")
    lists = {"sources": ("title",), "pageviews": str(views)}
    new = {"name": "New", "script": "Latn", "wikipedia": ["xx_new"]}
    run_dir = tmp_path / "run"
    build(entry_lists.recipe(["other", "sw"], **lists), run_dir)
    assert words(run_dir, "other") == ["Paka"]
    sw = modified(run_dir / "metadata", "sw.parquet")
    build(entry_lists.recipe(["other", "sw"], {"languages": {"add": {"xx_new": new}}}, **lists), run_dir)
    assert words(run_dir, "other") == ["Paka", "Kaka"]
    assert modified(run_dir / "metadata", "sw.parquet") == sw


def test_removed_languages_and_profiles_leave_no_files(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", sw=["simba"], de=["Katze"])
    build(recipe(lists, {"profiles": ["reference"]}), tmp_path / "long")
    build(recipe({"sw": lists["sw"]}), tmp_path / "long")
    build(recipe({"sw": lists["sw"]}), tmp_path / "new")
    assert contents(tmp_path / "long").keys() == contents(tmp_path / "new").keys()


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


def test_removed_matchers_are_rebuilt_by_following_the_message(tmp_path: Path) -> None:
    loaded = recipe(write_lists(tmp_path / "in", sw=["simba"]))
    build(loaded, tmp_path)
    whole = contents(tmp_path / "metadata")
    (tmp_path / "metadata/sw.matcher/unicode/table.npy").unlink()
    with pytest.raises(UserError, match="is not a finished matcher") as caught:
        metadata.load_matcher(tmp_path, "sw", "unicode")
    (removed,) = re.findall(r"remove (\S+), (\S+) and (\S+), then run: worldclip metadata", str(caught.value))
    for path in map(Path, removed):
        assert path.is_relative_to(tmp_path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run_stage("metadata", loaded, tmp_path, QUIET)
    assert contents(tmp_path / "metadata") == whole


def test_matchers_of_older_version_are_recompiled_without_rebuilding_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = recipe(write_lists(tmp_path / "in", sw=["simba"]))
    with monkeypatch.context() as older:
        for module in (matcher, matchers):
            older.setattr(module, "FORMAT_VERSION", 1)
        build(loaded, tmp_path)
    before = modified(tmp_path / "metadata", "sw.parquet")
    with pytest.raises(UserError, match="has version 1, expected 3"):
        metadata.load_matcher(tmp_path, "sw", "unicode")
    assert run_stage("metadata", loaded, tmp_path, QUIET)
    assert f"matchers.format was 1, is {matcher.FORMAT_VERSION}" in capsys.readouterr().err
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("simba").tolist() == [100]
    assert modified(tmp_path / "metadata", "sw.parquet") == before


def test_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run first: worldclip metadata"):
        metadata.read_entries(tmp_path, "sw")
    build(recipe(write_lists(tmp_path / "in", sw=["simba"])), tmp_path)
    with pytest.raises(UserError, match="has no list 'yo'"):
        metadata.read_entries(tmp_path, "yo")
