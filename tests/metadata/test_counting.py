"""Wikipedias through the whole stage: shares and caps, merges, resume, failures."""

import dataclasses
import itertools
import math
import shutil
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import entry_lists
import killed
from entry_lists import QUIET, build, scores, words, write_dump, write_texts, write_views, write_wordnet
from stages import run_stage
from worldclip.config import Recipe
from worldclip.core.errors import StageFailed, UserError
from worldclip.language import segment
from worldclip.language.table import INSTALLED
from worldclip.metadata import counting
from worldclip.metadata.config import RULES, MetadataConfig, WikipediaRules
from worldclip.metadata.sources.dumps import read_texts

SWAHILI = ["Paka ni mnyama. " * 8, "Simba ni mnyama mkubwa. " * 6, "Paka mweusi na mbwa mweupe, ndege wa angani."]


def recipe(*codes: str, **values: Any) -> Recipe:
    """A recipe with `values` as keys of metadata or, where they are rules of a Wikipedia, of metadata.overrides."""
    rules = {field.name for field in dataclasses.fields(WikipediaRules)}
    overrides = {"unigram_top_fraction": 1.0, **{key: value for key, value in values.items() if key in rules}}
    others = {key: value for key, value in values.items() if key not in rules}
    sources = ["unigram", "bigram"]
    if Path(values.get("dumps", ""), "pageviews").is_dir():
        sources.append("title")
    return entry_lists.recipe(codes, **{"sources": sources, "overrides": overrides, **others})


def test_punctuation_of_reference_is_ascii_alone_and_another_rule_counts_again(tmp_path: Path) -> None:
    dump = write_texts(tmp_path / "a.parquet", "jua — mwezi", "«jua» ni, mwezi")
    values = {"wikipedia": {"sw": str(dump)}, "sources": ["unigram", "bigram"], "bigram_min_count": 1}
    expected = {
        "unicode": (["mwezi", "jua", "ni", "«jua»"], ["«jua» ni"]),
        "ascii": (["mwezi", "jua", "ni", "«jua»"], ["jua —", "«jua» ni"]),  # `—` is a word, and alone no entry
    }
    for punctuation, lists in expected.items():
        config = recipe("sw", **values, punctuation=punctuation, bigram_fraction=0.5)
        assert run_stage("metadata", config, tmp_path / "run", QUIET)
        assert tuple(words(tmp_path / "run", "sw", source) for source in ("unigram", "bigram")) == lists


def test_rule_pmi_takes_bigrams_above_threshold(tmp_path: Path) -> None:
    dump = write_texts(tmp_path / "a.parquet", "a b a b a", "a b c")  # PMI of ab 1.0, bc log2(8/3) = 1.41
    for least, expected in ((1.0, ["b c"]), (0.99, ["b c", "a b"])):
        config = recipe("sw", wikipedia={"sw": str(dump)}, bigram_rule="pmi", bigram_min_pmi=least)
        build(config, tmp_path / f"run{least}")
        assert words(tmp_path / f"run{least}", "sw", "bigram") == expected


def test_english_v1_uses_counts_and_drops_every_title_with_a_colon(tmp_path: Path) -> None:
    """Words seen 100 times, bigrams whose PMI reaches 30, titles with 70 views in hours of 50."""
    rare = " ".join(["d"] * 99)
    write_dump(
        tmp_path / "dumps/en/a.xml.bz2", ["a b a b a", "a b c"] * 34 + [rare], '<namespace key="6">File</namespace>'
    )
    hours = "en Cat 60 0, en Dog 20 0, en.m Cat 99 0, en Cow 69 0, en A:_B 90 0", "en Cat 9 0, en Dog 80 0, en Cow 49 0"
    write_views(tmp_path / "dumps/pageviews", *hours)
    values = {"dumps": str(tmp_path / "dumps"), "unigram_top_fraction": 0.1}
    build(recipe("en", **values, bigram_min_pmi=1.0), tmp_path / "run")
    assert list(scores(tmp_path / "run", "en", "unigram").items()) == [("a", 136), ("b", 102)]
    assert words(tmp_path / "run", "en", "bigram")[:1] == ["d d"]
    assert scores(tmp_path / "run", "en", "title") == {"Dog": 80}  # Cat has 60 in hours of 50 views
    build(recipe("en", **values, english_rule="as_others"), tmp_path / "run")
    assert words(tmp_path / "run", "en", "unigram") == ["a"]
    assert list(scores(tmp_path / "run", "en", "title")) == ["Cat", "Cow", "Dog", "A: B"]


def test_wikipedias_of_one_language_are_joined_source_by_source(tmp_path: Path) -> None:
    """Of `other` they are those without a label."""
    zh = write_texts(tmp_path / "zh.parquet", "我喜欢北京。" * 5)
    yue = write_texts(tmp_path / "yue.parquet", "香港。" * 5 + "澳門")
    files = {wiki: write_texts(tmp_path / wiki / "a.parquet", f"neno{wiki} neno") for wiki in ("ab", "ace", "sw")}
    files |= {"zh": zh, "zh_yue": yue}
    config = recipe(
        "zh", "other", wikipedia={wiki: str(path) for wiki, path in files.items()}, unigram_top_fraction=0.5
    )
    build(config, tmp_path / "run")
    assert words(tmp_path / "run", "zh", "unigram") == ["北京", "喜欢", "香港"]
    assert words(tmp_path / "run", "zh", "bigram") == ["喜欢北京"]
    assert words(tmp_path / "run", "other", "unigram") == ["neno", "nenoace"]


@pytest.mark.parametrize("where", ["siteinfo", "xml", "unknown", "rule"])
def test_namespaces_come_from_siteinfo_or_dump(where: str, tmp_path: Path) -> None:
    namespace = '<namespace key="6">Picha</namespace>' if where == "xml" else ""
    folder = tmp_path / "dumps/sw"
    if where == "unknown":
        write_texts(folder / "a.parquet", "neno")
    else:
        write_dump(folder / "sw-pages-articles.xml.bz2", ["neno"], namespace)
    if where == "siteinfo":
        site = '{"query": {"namespaces": {"6": {"canonical": "File", "*": "Picha"}}}}'
        (folder / "swwiki-20240101-siteinfo-namespaces.json").write_text(site)
        older = '{"query": {"namespaces": {"6": {"canonical": "File", "*": "Faili"}}}}'
        (folder / "swwiki-20230101-siteinfo-namespaces.json").write_text(older)
        (folder / "swwiki-20240201-siteinfo-namespaces.json.gz.part").write_text("the beginning")
        (folder / ".swwiki-20240101-siteinfo-namespaces.json").write_text("hidden")
    write_views(tmp_path / "dumps/pageviews", "sw Picha:Paka.jpg 5 0, sw Terminator_2:_Hukumu 4 0, sw Paka 3 0")
    rule = "colon" if where == "rule" else "namespaces"
    articles = ["Paka"] if where in ("unknown", "rule") else ["Terminator 2: Hukumu", "Paka"]
    for sources in (["unigram", "bigram", "title"], ["title"]):
        run_dir = tmp_path / sources[0]
        build(recipe("sw", dumps=str(tmp_path / "dumps"), title_rule=rule, sources=sources), run_dir)
        assert words(run_dir, "sw", "title") == articles


def test_indexes_and_partial_downloads_next_to_a_dump_are_not_read(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dumps/sw/sw-pages-articles.xml.bz2", ["neno"]).parent
    for name in ("sw-pages-articles-multistream-index.txt.bz2", "sw-2.xml.bz2.part", ".sw-3.xml.bz2"):
        shutil.copy(folder / "sw-pages-articles.xml.bz2", folder / name)
    build(recipe("sw", dumps=str(tmp_path / "dumps"), sources=["unigram"]), tmp_path / "run")
    counted = killed.modified(tmp_path / "run/metadata", "ngrams/**/*.counts")
    assert [path.stem for path in counted] == ["sw-pages-articles.xml.bz2"]


@pytest.mark.parametrize("pattern", ["texts [1]/*.parquet", "texts [1]/sw[1].parquet", "*/sw?1?.parquet"])
def test_brackets_in_names_of_texts_are_no_pattern(pattern: str, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts [1]/sw[1].parquet", "neno")
    config = MetadataConfig(sources=("unigram",), wikipedia={"sw": str(tmp_path / pattern)})
    assert config.problems() == []
    (shard,) = counting.find_dumps(config, ["sw"], "lid176", INSTALLED).text_shards()
    assert shard.name == "sw/sw[1].parquet"


def test_changed_cap_or_new_language_recounts_nothing(tmp_path: Path) -> None:
    for wiki in ("sw", "yo"):
        write_texts(tmp_path / "dumps" / wiki / "a.parquet", "neno moja mbili")
    values = {"dumps": str(tmp_path / "dumps"), "sources": ["unigram"]}
    run_dir = tmp_path / "run"
    assert run_stage("metadata", recipe("sw", **values), run_dir, QUIET)
    first = killed.modified(run_dir / "metadata", "ngrams/**/*")
    assert run_stage("metadata", recipe("sw", "yo", **values, max_unigrams=2), run_dir, QUIET)
    second = killed.modified(run_dir / "metadata", "ngrams/**/*")
    assert len(words(run_dir, "sw", "unigram")) == 2
    assert second.items() >= first.items()
    assert len(second) == 2 * len(first)
    assert not run_stage("metadata", recipe("sw", "yo", **values, max_unigrams=2), run_dir, QUIET)
    assert run_stage("metadata", recipe("yo", **values), run_dir, QUIET)
    assert {path.parent.name for path in killed.modified(run_dir / "metadata", "ngrams/**/*.counts")} == {"yo"}


def test_bad_file_fails_its_dependents_and_second_run_counts_only_that_file(tmp_path: Path) -> None:
    write_dump(tmp_path / "dumps/sw/1.xml.bz2", SWAHILI)
    bad = write_dump(tmp_path / "dumps/sw/2.xml.bz2", SWAHILI)
    write_texts(tmp_path / "dumps/yo/a.parquet", "neno")
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-9])
    run_dir = tmp_path / "run"
    with pytest.raises(StageFailed, match=r"sw: .*2\.xml\.bz2: compressed data ends in the middle") as caught:
        build(recipe("sw", "yo", dumps=str(tmp_path / "dumps")), run_dir)
    assert list(caught.value.failures) == ["sw"]
    assert not (run_dir / "metadata/manifest.json").exists()
    lists = killed.modified(run_dir / "metadata", "*.parquet")
    assert [path.name for path in lists] == ["yo.parquet"]
    good = killed.modified(run_dir / "metadata", "ngrams/sw/1.xml.bz2.*")
    assert good
    bad.write_bytes(whole)
    build(recipe("sw", "yo", dumps=str(tmp_path / "dumps")), run_dir)
    assert killed.modified(run_dir / "metadata", "*.parquet").items() >= lists.items()
    assert killed.modified(run_dir / "metadata", "ngrams/**/*").items() >= good.items()
    assert scores(run_dir, "sw", "unigram")["mnyama"] == 28
    views = write_views(tmp_path / "dumps/pageviews", "sw Duma 3 0")
    (views / "pageviews-x.gz").write_bytes(b"<html>")
    with pytest.raises(StageFailed, match=r"sw: .*pageviews-x\.gz"):
        build(recipe("sw", dumps=str(tmp_path / "dumps")), run_dir)
    (views / "pageviews-x.gz").unlink()
    build(recipe("sw", dumps=str(tmp_path / "dumps")), run_dir)
    assert words(run_dir, "sw", "title") == ["Duma"]


def test_words_of_another_icu_and_replaced_page_views_are_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wiki, text in (("sw", "neno"), ("th", "แมวกินปลา")):
        write_texts(tmp_path / f"dumps/{wiki}/a.parquet", text)
    views = write_views(tmp_path / "dumps/pageviews", "sw Paka 3 0")
    loaded = recipe("sw", "th", dumps=str(tmp_path / "dumps"))
    assert run_stage("metadata", loaded, tmp_path / "run", QUIET)
    write_views(views, "sw Simba 4 0")
    assert run_stage("metadata", loaded, tmp_path / "run", QUIET)
    assert words(tmp_path / "run", "sw", "title") == ["Simba"]
    monkeypatch.setattr(segment, "icu_version", lambda: "1.0")
    monkeypatch.setattr(segment, "segment", lambda texts, scheme: texts)  # this release knows no words
    (tmp_path / "run/metadata/manifest.json").unlink()
    assert run_stage("metadata", loaded, tmp_path / "run", QUIET)
    assert words(tmp_path / "run", "th", "unigram") == ["แมวกินปลา"]


OTHER_DUMPS = ("20240301-pages-articles.xml.bz2", "20240101-pages-articles-multistream.xml.bz2",
               "20240101-pages-articles1.xml-p1p9.bz2")  # fmt: skip


def test_no_folder_and_files_with_the_same_articles_are_refused(tmp_path: Path) -> None:
    """A later fetch leaves the earlier dump where it is."""
    dumps = {"dumps": str(tmp_path / "dumps")}
    write_dump(tmp_path / "dumps/sw/swwiki-20240101-pages-articles.xml.bz2", SWAHILI)
    for name in OTHER_DUMPS:
        other = write_dump(tmp_path / f"dumps/sw/swwiki-{name}", SWAHILI)
        with pytest.raises(UserError, match="several dumps of the Wikipedia sw, whose articles would count twice"):
            build(recipe("sw", **dumps), tmp_path / "run")
        other.unlink()
    build(recipe("sw", **dumps), tmp_path / "run")
    for folder in ("a", "b"):
        write_texts(tmp_path / folder / "x.parquet", "neno")
    for config, message in (
        ({"dumps": str(tmp_path / "none")}, r"metadata\.dumps = .*worldclip fetch metadata"),
        ({"wikipedia": {"sw": str(tmp_path / "*/x.parquet")}}, r"matches x\.parquet in more than one folder"),
    ):
        with pytest.raises(UserError, match=message):
            build(recipe("sw", **config), tmp_path / "run")


def test_memory_does_not_grow_with_parquet_file(tmp_path: Path):
    rng = np.random.default_rng(0)
    schema = pa.schema([("text", pa.large_string())])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for _ in range(30):  # groups of rows of 0.5 MB that do not compress well
            texts = [rng.bytes(2500).hex() for _ in range(100)]
            writer.write_table(pa.table({"text": pa.array(texts, pa.large_string())}, schema=schema))
    before = pa.total_allocated_bytes()
    held = []
    for batch in read_texts(tmp_path / "a.parquet"):
        num_articles = len(batch)
        del batch
        held.append(pa.total_allocated_bytes() - before)
    assert num_articles == 1000
    assert max(held) < 10e6  # two batches of 5 MB at most; the file has 15


# --- against the rules' text ------------------------------------------------------------------------------------------

SHORT_WORDS = [f"w{n}" for n in range(9)]


def build_lists(
    folder: Path, lemmas: list[str], texts: list[str], views: dict[str, int], rules: dict[str, Any]
) -> dict[str, list[str]]:
    """Return the entries of each source."""
    write_texts(folder / "dumps/sw/a.parquet", *texts)
    site = '{"query": {"namespaces": {"6": {"*": "File"}}}}'
    (folder / "dumps/sw/siteinfo-namespaces.json").write_text(site)
    write_views(folder / "dumps/pageviews", ",".join(f"sw {title} {number} 0" for title, number in views.items()))
    wordnets = {"sw": write_wordnet(folder / "wn.tab", "swh", *lemmas)} if lemmas else {}
    sources = ("wordnet", "unigram", "bigram", "title")
    config = {"sources": ("number", *sources), "wordnets": wordnets, "dumps": str(folder / "dumps"), "overrides": rules}
    build(entry_lists.recipe(["sw"], **config), folder / "run")
    return {source: words(folder / "run", "sw", source) for source in sources}


def plain(lemmas: list[str], texts: list[str], views: dict[str, int], rules: WikipediaRules) -> dict[str, list[str]]:
    """Return the entries of each source by the rules' text: rank all candidates, drop old ones, take so many."""
    entries = list(dict.fromkeys(lemmas))
    result = {"wordnet": list(entries)}

    def take(source: str, ranked: list[str], number: int) -> None:
        result[source] = [candidate for candidate in ranked if candidate not in entries][:number]
        entries.extend(result[source])

    def share(fraction: float, total: int) -> int:
        exact = Decimal(str(fraction)) * total
        return math.floor(exact) if rules.share_rounding == "down" else math.ceil(exact)

    words = Counter(word for text in texts for word in text.split())
    pairs = Counter(pair for text in texts for pair in itertools.pairwise(text.split()))
    ranked = sorted(words, key=lambda word: (-words[word], word))
    take("unigram", ranked, min(rules.max_unigrams, share(rules.unigram_top_fraction, len(words))))

    def quotient(pair: tuple[str, str]) -> float:
        return pairs[pair] / (words[pair[0]] * words[pair[1]])

    frequent = [pair for pair in pairs if pairs[pair] >= rules.bigram_min_count]
    frequent.sort(key=lambda pair: (-quotient(pair), -pairs[pair], pair))
    number = min(rules.max_bigrams, share(rules.bigram_fraction, len(result["unigram"])))
    take("bigram", [" ".join(pair) for pair in frequent], number)
    titles = [title for title in views if not title.startswith("File:")]
    if rules.title_rule == "colon":
        titles = [title for title in titles if ":" not in title]
    titles.sort(key=lambda title: (-views[title], title))
    take("title", titles, min(rules.max_titles, share(rules.title_top_fraction, len(titles))))
    return result


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_lists_equal_plain_version(data: st.DataObject) -> None:
    texts = data.draw(
        st.lists(st.lists(st.sampled_from(SHORT_WORDS), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=5)
    )
    names = st.sampled_from([*SHORT_WORDS, "w0:w1", "File:w0", "t0", "t1", "t2", "t3"])
    views = data.draw(st.dictionaries(names, st.integers(1, 5)))
    lemmas = data.draw(st.lists(st.sampled_from([*SHORT_WORDS, "w0 w1", "w1 w2", "t0"]), unique=True))
    fractions, caps = st.sampled_from([0.0, 0.07, 0.1, 0.29, 0.4, 0.5, 0.76, 1.0]), st.integers(0, 9)
    rules = {
        "unigram_top_fraction": data.draw(fractions),
        "max_unigrams": data.draw(caps),
        "bigram_fraction": data.draw(st.sampled_from([0.0, 0.4, 1.0, 2.5])),
        "bigram_min_count": data.draw(st.integers(1, 2)),
        "max_bigrams": data.draw(caps),
        "title_top_fraction": data.draw(fractions),
        "max_titles": data.draw(caps),
        "share_rounding": data.draw(st.sampled_from(["up", "down"])),
        "title_rule": data.draw(st.sampled_from(["namespaces", "colon"])),
    }
    with tempfile.TemporaryDirectory() as folder:
        built = build_lists(Path(folder), lemmas, texts, views, rules)
    assert built == plain(lemmas, texts, views, WikipediaRules(**rules))


@pytest.mark.parametrize("sources", [["unigram", "bigram"], ["bigram"]])
def test_each_wikipedia_of_a_language_gives_bigrams_by_its_own_unigrams(tmp_path: Path, sources: list[str]) -> None:
    texts = {"xx_a": "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9", "xx_b": "b0 a0 b1 a1 b2 a2 b3 a3 b4 a4"}
    files = {wiki: str(write_texts(tmp_path / f"{wiki}.parquet", text)) for wiki, text in texts.items()}
    added = {"xx": {"name": "New", "script": "Latn", "wikipedia": list(files)}}
    rules = {"unigram_top_fraction": 1.0, "bigram_fraction": 0.4, "bigram_min_count": 1}
    sections = {"languages": {"add": added}}
    build(entry_lists.recipe(["xx"], sections, sources=sources, wikipedia=files, overrides=rules), tmp_path / "run")
    bigrams = words(tmp_path / "run", "xx", "bigram")
    new_words = 5 if "unigram" in sources else 10  # in the list, those of the first are no new ones
    assert Counter("b" in bigram for bigram in bigrams) == {False: 4, True: 0.4 * new_words}


def test_shares_are_of_the_fraction_as_written() -> None:
    """0.07 and 0.29 are no binary fractions: in floating point 0.07 x 100 is above 7, and 0.29 x 100 below 29."""
    for name, of_15 in (("paper", 2), ("reference", 1)):
        assert [RULES[name].share(fraction, 100) for fraction in (0.07, 0.29, 0.1, 0.76)] == [7, 29, 10, 76]
        assert RULES[name].share(0.1, 15) == of_15
