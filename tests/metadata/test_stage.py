"""The stage: order of sources, what is missing, merges, provenance, skip-if-done, matchers; all languages."""

import csv
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
from worldclip.cli import main
from worldclip.config import Recipe, load_recipe
from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import read_json, read_table, write_table
from worldclip.core.errors import UserError, install_hint
from worldclip.language import table as languages
from worldclip.match.matcher import matcher
from worldclip.metadata import matchers
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.source import Inputs, build_entries
from worldclip.metadata.stage import merge_lists
from worldclip.recipe import run


def recipe(lists: dict[str, str], **sections: Any) -> Recipe:
    """A recipe of these lists, with keys of other sections."""
    return entry_lists.recipe(sorted(lists), sections, lists=lists)


def test_sources_keep_order_of_registry_and_first_of_equal_entries_stays(tmp_path: Path) -> None:
    config = MetadataConfig(
        sources=("wordfreq", "wordnet", "number"),  # the order here says nothing
        wordnets={"sv": write_wordnet(tmp_path / "wn.tab", "swe", "katt", "7", "z" * 300)},
        wordfreq_top=20,
    )
    table = build_entries(Inputs(lang="sv", config=config)).table().to_pydict()
    where = dict(zip(table["entry"], table["source"], strict=True))
    assert table["entry"][:100] == [str(number) for number in range(100)]
    assert (where["7"], where["katt"], where["Och"]) == ("number", "wordnet", "wordfreq")
    assert where["z" * 300] == "wordnet"  # exempt from the limit of length
    assert table["source"] == sorted(table["source"], key=["number", "wordnet", "wordfreq"].index)
    assert table["entry_id"] == list(range(len(table["entry"])))


def test_stage_writes_lists_matchers_report_and_manifest(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", sw=["simba", "paka mweusi", "Simba"], th=["แมว", "หมา"])
    report = build(recipe(lists), tmp_path)
    assert words(tmp_path, "sw") == ["simba", "paka mweusi", "Simba"]
    assert report["lists"]["sw"]["by_source"] == {"list": 3}
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("Simba na paka mweusi").tolist() == [1, 2]
    assert manifest_of(tmp_path)["counts"] == {"sw": 3, "th": 2}
    assert read_json(tmp_path / "metadata/report.json") == report


def test_dead_entries_keep_their_id_and_are_counted(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", sw=["caf\u00e9", "cafe\u0301", "Simba", "simba"])
    for fold_case, dead in ((False, {"unicode": 1}), (True, {"unicode_fold": 2})):
        report = build(recipe(lists, match={"fold_case": fold_case}), tmp_path)
        assert report["lists"]["sw"]["dead"] == dead
    assert len(words(tmp_path, "sw")) == 4
    assert metadata.load_matcher(tmp_path, "sw", "unicode_fold").match("SIMBA").tolist() == [2]


def test_merged_list_takes_first_of_equal_entries_in_code_order(tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "in", en=["cat\t1", "sofa\t2"], de=["Katze\t3", "sofa\t4"])
    report = build(recipe(lists, match={"isolate": "merged"}), tmp_path)
    table = metadata.read_entries(tmp_path, "merged").to_pydict()
    assert table["entry"] == ["Katze", "sofa", "cat"]
    assert table["score"] == [3.0, 4.0, 1.0]
    assert table["entry_id"] == [0, 1, 2]
    assert report["lists"]["merged"]["rules"]["list"] == {"in": 4, "kept": 3}
    assert metadata.load_matcher(tmp_path, "merged", "unicode").match("a cat, a sofa").tolist() == [1, 2]
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
    assert metadata.load_matcher(tmp_path, "en", "unicode").match("cat").tolist() == [0]
    assert not (tmp_path / "metadata/de.matcher").exists()


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
    loaded = entry_lists.recipe(["en", "fr", "sw"], overrides={"unigram_top_fraction": 1.0}, **config)
    report = build(loaded, tmp_path / "run")
    assert report["notes"][:2] == ["no wordnet of fr", "no unigram of en, sw"]  # that of sw has no word
    assert "no wordnet of fr" in capsys.readouterr().err
    assert [words(tmp_path / "run", lang)[100:] for lang in ("en", "fr", "sw")] == [["dog"], ["chat"], []]


@pytest.mark.parametrize("package", ["wordfreq", "wn"])
def test_missing_package_is_named_before_any_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordnets = {"sources": ["wordnet"], "wordnets": {"sv": "omw-sv:2.0"}}
    loaded = entry_lists.recipe(["sv"], **({"sources": ["wordfreq"]} if package == "wordfreq" else wordnets))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises((UserError, ImportError), match=rf"{package}.*: {re.escape(install_hint('metadata'))}"):
        run(loaded, tmp_path / "run", until="metadata", executor=QUIET)
    assert not (tmp_path / "run/metadata").exists()


def test_config_problems_are_named_at_once(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    config = {
        "overrides": {"title_top_fraction": 2, "bigram_min_count": 0},
        "wordnets": {"da": "absent.tab", "fr": []},
        "lists": {"sw": absent, "xx": absent},
        "wikipedia": {"sw": absent, "xx": absent},
        "pageviews": absent,
    }
    with pytest.raises(UserError) as caught:
        entry_lists.recipe(["sw"], **config)
    keys = [re.split(" = |: ", problem.removeprefix("metadata."))[0] for problem in caught.value.problems]
    assert keys == [
        *("overrides.title_top_fraction", "overrides.bigram_min_count", "wordnets.da", "wordnets.fr", "lists.sw"),
        *("lists.xx", "wikipedia.sw", "wikipedia.xx", "pageviews"),
        *("lists.xx", "wikipedia.xx"),  # both are unknown, too
        "wikipedia.sw",  # of a whole list
    ]


# --- where entries come from, and what is built again -----------------------------------------------------------------


def test_manifest_names_every_file_with_its_licence(tmp_path: Path) -> None:
    corpus = write_texts(tmp_path / "sw/corpus.parquet", "simba ni mnyama")
    namespaces = '{"query": {"namespaces": {"0": {"*": ""}, "6": {"*": "Picha", "canonical": "File"}}}}'
    (tmp_path / "sw/x-siteinfo-namespaces.json").write_text(namespaces)
    write_texts(tmp_path / "dumps/yo/a.parquet", "kìnnìún")
    loaded = entry_lists.recipe(
        ["sw", "yo"],
        sources=["unigram", "bigram", "title"],
        dumps=str(tmp_path / "dumps"),
        wikipedia={"sw": str(corpus)},
        pageviews=str(write_views(tmp_path / "views", "sw Paka 5 0, sw Picha:Paka.jpg 9 0", "yo Ajá 3 0")),
        overrides={"unigram_top_fraction": 1, "title_top_fraction": 1},
    )
    build(loaded, tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    swahili, yoruba = ({record["source"]: record for record in manifest["sources"][lang]} for lang in ("sw", "yo"))
    assert [record["source"] for record in manifest["sources"]["sw"]] == ["wikipedia", "title", "siteinfo"]
    assert (swahili["wikipedia"]["path"], swahili["wikipedia"]["licence"]) == ("corpus.parquet", "not stated")
    assert (swahili["siteinfo"]["path"], swahili["siteinfo"]["size"]) == (
        "x-siteinfo-namespaces.json", len(namespaces)
    )  # fmt: skip
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
    build(recipe(lists, match={"profile": "reference"}), tmp_path / "long")
    build(recipe({"sw": lists["sw"]}), tmp_path / "long")
    build(recipe({"sw": lists["sw"]}), tmp_path / "new")
    assert contents(tmp_path / "long").keys() == contents(tmp_path / "new").keys()


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
    with pytest.raises(UserError, match="has no list 'yo'"):
        metadata.read_entries(tmp_path, "yo")
    with pytest.raises(UserError, match="run first: worldclip metadata"):
        metadata.read_entries(tmp_path / "elsewhere", "sw")


def test_removed_matchers_are_rebuilt_by_following_the_message(tmp_path: Path) -> None:
    loaded = recipe(write_lists(tmp_path / "in", sw=["simba"]))
    build(loaded, tmp_path)
    whole = contents(tmp_path / "metadata")
    (tmp_path / "metadata/sw.matcher/unicode/table.npy").unlink()
    with pytest.raises(UserError, match="is not a finished matcher") as caught:
        metadata.load_matcher(tmp_path, "sw", "unicode")
    (removed,) = re.findall(r"of a run: remove (\S+) and (\S+), run the metadata stage", str(caught.value))
    for path in (tmp_path / name for name in removed):
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
    assert metadata.load_matcher(tmp_path, "sw", "unicode").match("simba").tolist() == [0]
    assert modified(tmp_path / "metadata", "sw.parquet") == before


# A letter of each script, to make up words of languages that the Declaration of Human Rights is not at hand for.
# fmt: off
FIRST_LETTER = {
    "Arab": 0x628, "Armn": 0x561, "Beng": 0x995, "Cans": 0x1403, "Cher": 0x13A0, "Cyrl": 0x430, "Deva": 0x915,
    "Ethi": 0x1200, "Geor": 0x10D0, "Goth": 0x10330, "Grek": 0x3B1, "Gujr": 0xA95, "Guru": 0xA15, "Hans": 0x4E00,
    "Hant": 0x4E00, "Hebr": 0x5D0, "Jpan": 0x3042, "Khmr": 0x1780, "Knda": 0xC95, "Kore": 0xAC00, "Laoo": 0xE81,
    "Latn": 0x61, "Mlym": 0xD15, "Mtei": 0xABC0, "Mymr": 0x1000, "Nkoo": 0x7CA, "Olck": 0x1C5A, "Orya": 0xB15,
    "Sinh": 0xD9A, "Syrc": 0x710, "Taml": 0xB95, "Telu": 0xC15, "Tfng": 0x2D30, "Thaa": 0x780, "Thai": 0xE01,
    "Tibt": 0xF40, "Zyyy": 0x61,
}


# fmt: on


def made_up(language: languages.Language) -> list[str]:
    """Two sentences in the language's script."""
    letter = chr(FIRST_LETTER[language.script])
    words = [letter * 2, f"{letter}{chr(ord(letter) + 1)}", letter * 3]
    return [f"{' '.join(words)}.", f"{' '.join(reversed(words))}."]


def declaration(shared: Path) -> dict[str, list[str]]:
    """The first paragraphs of the Declaration of Human Rights in every language of the table that it is there for."""
    table = pq.read_table(shared / "data/udhr/udhr.parquet", columns=["iso639_3", "script", "text"])
    paragraphs_of: dict[str, list[str]] = {}
    for row in table.to_pylist():
        lang = languages.from_lid(f"{row['iso639_3']}_{row['script']}", "glotlid")
        paragraphs = paragraphs_of.setdefault(lang, [])
        if row["script"] == languages.get(lang).script and len(paragraphs) < 12:
            paragraphs.append(row["text"])
    return {lang: texts for lang, texts in paragraphs_of.items() if texts and lang != languages.OTHER}


@pytest.fixture
def sentences(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """A few of each language: of the Declaration where it is at hand, else made up."""
    texts = {language.code: made_up(language) for language in languages.all_languages()}
    try:
        real = declaration(request.getfixturevalue("shared"))
    except pytest.skip.Exception:
        return texts
    assert len(real) > 200
    return texts | real


def test_stage_handles_all_330_wikipedias(sentences: dict[str, list[str]], tmp_path: Path) -> None:
    """Text and page views of each -> the lists of all 327 languages and their matchers."""
    code_of = {wiki: language.code for language in languages.all_languages() for wiki in language.wikipedia}
    assert len(code_of) == 330
    write_views(tmp_path / "dumps/pageviews", ",".join(f"{w.replace('_', '-')}.m Page_of_{w} 3 0" for w in code_of))
    for wiki, code in code_of.items():
        write_texts(tmp_path / "dumps" / wiki / "a.parquet", *sentences[code])
    shares = {"english_rule": "as_others", "unigram_top_fraction": 1, "title_top_fraction": 1, "bigram_min_count": 1}
    sources = ["number", "unigram", "bigram", "title"]
    loaded = entry_lists.recipe([], sources=sources, dumps=str(tmp_path / "dumps"), overrides=shares)
    lists = build(loaded, tmp_path / "run")["lists"]
    assert set(lists) == {language.code for language in languages.all_languages()}
    assert len(lists) == 327
    for lang, row in lists.items():
        assert row["by_source"]["unigram"] >= 2, lang
        assert row["by_source"]["bigram"] >= (languages.get(lang).words == "space"), lang
        assert row["by_source"]["title"] == len(languages.wikipedias(lang)), lang
    for lang in ("sw", "th", "zh", "bo", "am", "got", "nqo", "ar", "hi", "ka", "my", "zh_min_nan", "simple"):
        entries = words(tmp_path / "run", lang)
        matcher = metadata.load_matcher(tmp_path / "run", lang, "unicode")
        matched = {entries[entry_id] for entry_id in matcher.match(sentences[lang][0])}
        assert matched & set(entries[100:]), lang
        assert entries[-1] in {entries[entry_id] for entry_id in matcher.match(f"— {entries[-1]} !")}, lang


REPOSITORY = Path(__file__).parents[2]


def test_example_of_an_added_language_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(REPOSITORY / "examples/add_a_language", tmp_path / "example", ignore=shutil.ignore_patterns("run"))
    monkeypatch.chdir(tmp_path / "example")
    assert main(["metadata", "recipe.toml", "--out", "run", "--workers", "1"]) == 0
    row = next(row for row in metadata.read_entries(Path("run"), "kea").to_pylist() if row["entry"] == "piskador")
    assert (row["source"], row["score"]) == ("list", 6.0)
    head = (REPOSITORY / "src/worldclip/language/table.csv").read_text(encoding="utf-8").splitlines()[0]
    (of_table,) = csv.DictReader([head, Path("language.csv").read_text(encoding="utf-8").strip()])
    added = load_recipe("recipe.toml", ["pool.path=."]).languages.add["kea"].row("kea")
    names = ("code", "name", "script", "family", "words")
    assert [of_table[name] for name in names] == [getattr(added, name) for name in names]


def test_language_without_a_wikipedia_needs_no_text_of_one(tmp_path: Path) -> None:
    write_texts(tmp_path / "dumps/sw/a.parquet", "simba ni mnyama")
    added = {"kea": {"name": "Kabuverdianu", "script": "Latn", "iso639_3": ["kea"]}}
    lists = write_lists(tmp_path, kea=["gatu"])
    config = {"sources": ["unigram"], "dumps": str(tmp_path / "dumps")}
    loaded = entry_lists.recipe(["kea", "sw"], {"languages": {"add": added}}, lists=lists, **config)
    report = build(loaded, tmp_path / "run")
    by_source = {lang: row["by_source"] for lang, row in report["lists"].items()}
    assert by_source == {"kea": {"list": 1}, "sw": {"unigram": 1}}
