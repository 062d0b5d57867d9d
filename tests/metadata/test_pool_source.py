"""Counted entries against plain versions: caps and shares of a Wikipedia, and the source `pool`."""

import gzip
import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import entry_lists
from entry_lists import QUIET, scores, write_lists
from pools import write_lines
from stages import job_of, run_stage, why_run
from worldclip.config import Recipe
from worldclip.contracts.schemas import MATCH_TEXTS
from worldclip.core.artifacts import read_table
from worldclip.core.errors import StageFailed
from worldclip.core.execute import LocalExecutor, Report, Shard
from worldclip.language.segment import scheme_of
from worldclip.metadata import counting, ngrams
from worldclip.metadata.config import RULES, MetadataConfig, WikipediaRules
from worldclip.metadata.source import Inputs, build_entries
from worldclip.recipe import run

SHORT_WORDS = [f"w{n}" for n in range(9)]


def build_counted(
    folder: Path, wiki: str, lemmas: list[str], texts: list[str], views: dict[str, int], rules: dict[str, Any]
) -> dict[str, list[str]]:
    """Return the entries of each source, as the stage builds them."""
    (folder / "wn.tab").write_text("".join(f"{n}-n\tlemma\t{lemma}\n" for n, lemma in enumerate(lemmas)))
    (folder / "views.gz").write_bytes(gzip.compress("".join(f"{wiki} {t} {n} 0\n" for t, n in views.items()).encode()))
    sources = ("wordnet", "unigram", "bigram", "title")
    config = MetadataConfig(
        sources=("number", *sources), wordnets={wiki: str(folder / "wn.tab")} if lemmas else {}, overrides=rules
    )
    runs = ngrams.count_to_file(folder / "runs", [texts], scheme_of(wiki))
    shard = Shard(name="0", path=str(folder / "views.gz"), fingerprint={})
    counting.count_page_views(shard, folder=folder, wikis=[wiki], min_line_views={})
    counted = counting.WikipediaCounts(
        wiki=wiki,
        rules=config.wikipedia_rules,
        counts=ngrams.merge(runs, folder / "merged"),
        joiner=" ",
        views=(folder / "views" / "0",),
        namespaces=frozenset({"File"}) if config.wikipedia_rules.title_rule == "namespaces" else None,
    )
    table = build_entries(Inputs(lang=wiki, config=config, counts=[counted])).table().to_pydict()
    return {
        source: [entry for entry, s in zip(table["entry"], table["source"], strict=True) if s == source]
        for source in sources
    }


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


@settings(max_examples=40, deadline=None)
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
        built = build_counted(Path(folder), "sw", lemmas, texts, views, rules)
    assert built == plain(lemmas, texts, views, WikipediaRules(**rules))


ADYGHE = ["мэзахэ цIыкIу", "чIыгу мэзахэ", "мэзахэ цIыкIу дахэ"]  # lid.176 does not know it, wordfreq neither

SWAHILI = ["simba mkubwa sana", "simba mkubwa", "paka, simba mkubwa! simba"]

Texts = Sequence[tuple[str | None, str | None]]  # (language that the pool states, text)


def write_shard(folder: Path, name: str, texts: Texts) -> None:
    stem = name.partition(".")[0]
    rows = [{"uid": f"{stem}_{n}", "text": text, "lang": lang} for n, (lang, text) in enumerate(texts)]
    write_lines(folder / name, rows)


def recipe(folder: Path, codes: Sequence[str], metadata: Any = (), **sections: Any) -> Recipe:
    """A recipe of the pool below `folder`, with keys of [metadata] and of other sections."""
    config = {"sources": ["number", "pool"], "pool_min_count": 1, **dict(metadata)}
    pool = {"path": str(folder / "pool"), "key": "uid", "lang": "lang", **sections.pop("pool", {})}
    return entry_lists.recipe(codes, {"pool": pool, **sections}, **config)


def build(loaded: Recipe, folder: Path, executor: LocalExecutor = QUIET) -> Report:
    run_stage("pool", loaded, folder / "run", executor)
    return entry_lists.build(loaded, folder / "run", executor)


def entries_of(folder: Path, lang: str) -> dict[str, float | None]:
    """Return the entries that the pool gave, in order, with their scores."""
    return scores(folder / "run", lang, "pool")


def plain_entries(texts: Sequence[str], min_count: int, max_unigrams: int) -> dict[str, float]:
    """Return what the source should give: numbers are entries already, and do not count."""
    groups = [group.split() for text in texts for group in text.replace("!", ",").split(",")]
    words = Counter(word for group in groups for word in group)
    pairs = Counter(pair for group in groups for pair in pairwise(group))
    numbers = {str(number) for number in range(100)}
    order = sorted(words, key=lambda word: (-words[word], word.encode()))
    unigrams = [word for word in order if words[word] >= min_count and word not in numbers][:max_unigrams]
    ratio = {(a, b): n / (words[a] * words[b]) for (a, b), n in pairs.items() if n >= min_count}
    best = sorted(ratio, key=lambda pair: (-ratio[pair], -pairs[pair], [word.encode() for word in pair]))
    total = sum(words.values())
    bigrams = {" ".join(pair): math.log2(ratio[pair] * total) for pair in best[: math.ceil(0.4 * len(unigrams))]}
    return {word: float(words[word]) for word in unigrams} | bigrams


@pytest.mark.parametrize(("min_count", "max_unigrams"), [(1, 100), (2, 100), (3, 4), (1, 1)])
def test_entries_agree_with_counting_each_language_plainly(min_count: int, max_unigrams: int, tmp_path: Path) -> None:
    generator = [(7 * n * n + 3 * n) % 23 for n in range(60)]
    texts = {
        lang: [" ".join(f"{lang}{word % size}" for word in generator[n : n + 5]) + f" {n % 4}, end" for n in range(40)]
        for lang, size in (("sw", 11), ("yo", 7))
    }
    for shard in range(3):
        rows = [(lang, text) for lang in texts for text in texts[lang][shard::3]]
        write_shard(tmp_path / "pool", f"{shard}.jsonl", rows)
    config = {"pool_min_count": min_count, "max_pool_unigrams": max_unigrams}
    build(recipe(tmp_path, ["sw", "yo"], metadata=config), tmp_path)
    for lang, of_lang in texts.items():
        expected = plain_entries(of_lang, min_count, max_unigrams)
        found = entries_of(tmp_path, lang)
        assert list(found) == list(expected)
        assert list(found.values()) == pytest.approx(list(expected.values()))


def test_language_that_no_list_covers_is_matched_and_balanced(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("ady", text) for text in ADYGHE])
    loaded = recipe(tmp_path, ["ady"], metadata={"pool_min_count": 2})
    run(loaded, tmp_path / "run", until="curate", executor=QUIET)
    pmi = pytest.approx(math.log2(2 * 7 / (3 * 2)))
    assert entries_of(tmp_path, "ady") == {"мэзахэ": 3.0, "цIыкIу": 2.0, "мэзахэ цIыкIу": pmi}
    matched = read_table(tmp_path / "run/match/texts/a.jsonl.parquet", MATCH_TEXTS)
    assert matched["text"].to_pylist() == ADYGHE
    record = json.loads((tmp_path / "run/metadata/manifest.json").read_text())["sources"]["ady"][0]
    assert (record["source"], record["licence"]) == ("pool", "that of the pool's texts")


def test_texts_have_the_languages_that_match_gives_them(tmp_path: Path) -> None:
    texts = ["the cat sits on the table", "die Katze sitzt auf dem Tisch", "le chat est sur la table", "", "12 34"]
    write_shard(tmp_path / "pool", "a.jsonl", [(None, text) for text in texts * 2])
    sections = {"pool": {"lang": None}, "match": {"merge_labels": {"fr": "en"}, "min_lang_prob": 0.2}}
    loaded = recipe(tmp_path, ["de", "en"], metadata={"sources": ["pool"]}, **sections)
    run(loaded, tmp_path / "run", until="match", executor=QUIET)
    places = json.loads((tmp_path / "run/metadata/pool/a.jsonl.json").read_text())
    counts = json.loads((tmp_path / "run/match/report.json").read_text())["texts"]
    matched = {lang: counts[lang]["matched"] for lang in ("de", "en")}
    assert matched == {lang: place["texts"] for lang, place in places.items()} == {"de": 2, "en": 4}
    assert {"chat", "cat"} < set(entries_of(tmp_path, "en"))


def test_texts_that_match_drops_are_not_counted(tmp_path: Path) -> None:
    texts = [("sw", "simba"), ("sw", "  "), ("sw", None), ("xx", "paka"), (None, "a")]
    write_shard(tmp_path / "pool", "a.jsonl", texts)
    repeated = [{"uid": "b", "text": text, "lang": "sw"} for text in ("simba", "mbwa")]
    write_lines(tmp_path / "pool/b.jsonl", [*repeated, {"text": "tembo"}])
    build(recipe(tmp_path, ["sw"]), tmp_path)
    assert entries_of(tmp_path, "sw") == {"simba": 2.0}


def test_languages_without_spaces_are_segmented(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("zh", "我喜欢北京大学"), ("zh", "我喜欢北京")])
    build(recipe(tmp_path, ["zh"], metadata={"overrides": {"bigram_fraction": 1}}), tmp_path)
    assert {"喜欢": 2.0, "北京": 2.0}.items() <= entries_of(tmp_path, "zh").items()
    assert "北京大学" in entries_of(tmp_path, "zh")


def test_changed_pool_recounts_its_shard_and_rebuilds_lists(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("sw", text) for text in SWAHILI])
    write_shard(tmp_path / "pool", "b.jsonl", [("sw", "paka mweusi")])
    loaded = recipe(tmp_path, ["sw"])
    build(loaded, tmp_path)
    assert not run_stage("metadata", loaded, tmp_path / "run", QUIET)
    counted = tmp_path / "run/metadata/pool/a.jsonl.counts"
    before = counted.stat().st_mtime_ns
    write_shard(tmp_path / "pool", "b.jsonl", [("sw", "tembo")])
    run_stage("pool", loaded, tmp_path / "run", QUIET)
    assert why_run("metadata", loaded, tmp_path / "run") == "its inputs changed: pool"
    assert run_stage("metadata", loaded, tmp_path / "run", QUIET)
    assert {"tembo", "simba mkubwa"} < set(entries_of(tmp_path, "sw"))
    assert "mweusi" not in entries_of(tmp_path, "sw")
    assert counted.stat().st_mtime_ns == before
    (tmp_path / "pool/b.jsonl").unlink()
    run_stage("pool", loaded, tmp_path / "run", QUIET)
    assert run_stage("metadata", loaded, tmp_path / "run", QUIET)
    assert "tembo" not in entries_of(tmp_path, "sw")
    assert not list((tmp_path / "run/metadata").rglob("b.jsonl*"))


def test_changed_pool_leaves_metadata_alone_where_it_is_no_source(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("sw", "simba")])
    loaded = recipe(tmp_path, ["sw"], {"sources": ["number"], "lists": write_lists(tmp_path, sw=["simba"])})
    build(loaded, tmp_path)
    write_shard(tmp_path / "pool", "a.jsonl", [("sw", "simba na paka")])
    run_stage("pool", loaded, tmp_path / "run", QUIET)
    assert why_run("metadata", loaded, tmp_path / "run") is None
    assert "pool" not in job_of("metadata", loaded, tmp_path / "run").config


def test_how_languages_are_found_decides_the_lists(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("sw", "simba"), ("qsw", "paka")])
    build(recipe(tmp_path, ["sw"]), tmp_path)
    assert set(entries_of(tmp_path, "sw")) == {"simba"}
    merged = recipe(tmp_path, ["sw"], match={"merge_labels": {"qsw": "sw"}})
    assert "merge_labels" in str(why_run("metadata", merged, tmp_path / "run"))
    build(merged, tmp_path)
    assert set(entries_of(tmp_path, "sw")) == {"paka", "simba"}
    frequent = recipe(tmp_path, ["sw"], match={"merge_labels": {"qsw": "sw"}}, metadata={"pool_min_count": 2})
    assert why_run("metadata", frequent, tmp_path / "run") == "metadata.pool_min_count was 1, is 2"


def test_language_without_texts_is_named_and_fails_alone_without_any_entry(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("sw", "simba simba")])
    report = build(recipe(tmp_path, ["sw", "yo"]), tmp_path)
    assert report["lists"]["yo"]["by_source"] == {"number": 100, "pool": 0}
    assert report["notes"][0] == "no pool of yo"
    with pytest.raises(StageFailed, match="no entry of yo from pool") as caught:
        build(recipe(tmp_path, ["sw", "yo"], metadata={"sources": ["pool"]}), tmp_path)
    assert list(caught.value.failures) == ["yo"]


def test_shares_are_of_the_fraction_as_written() -> None:
    """0.07 and 0.29 are no binary fractions: in floating point 0.07 x 100 is above 7, and 0.29 x 100 below 29."""
    for rounding in ("up", "down"):
        rules = WikipediaRules(share_rounding=rounding)
        assert [rules.share(fraction, 100) for fraction in (0.07, 0.29, 0.1, 0.76)] == [7, 29, 10, 76]
        assert rules.share(0.1, 15) == (2 if rounding == "up" else 1)
    assert (WikipediaRules().share(0.1, 15), RULES["reference"].share(0.1, 15)) == (2, 1)
