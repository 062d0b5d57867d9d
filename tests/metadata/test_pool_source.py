"""The source `pool`: words and pairs of words of the pool's own texts, by language."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import entry_lists
import killed
from entry_lists import QUIET, scores, write_lists
from pools import write_lines
from stages import job_of, run_stage, why_run
from worldclip.config import Recipe
from worldclip.contracts.schemas import MATCH_TEXTS
from worldclip.core.artifacts import read_table
from worldclip.core.errors import StageFailed
from worldclip.core.execute import LocalExecutor, Report
from worldclip.recipe import run, stage_names

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


@pytest.mark.slow
def test_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for shard in range(4):
        rows = [(lang, f"{lang}{n % (shard + 2)} word{n % 5}") for n in range(30) for lang in ("sw", "ady")]
        write_shard(tmp_path / "pool", f"{shard}.jsonl", rows)
    loaded = recipe(tmp_path, ["ady", "sw"])
    for workers in (1, 2):
        build(loaded, tmp_path / f"workers_{workers}", LocalExecutor(workers=workers, quiet=True))
    one, two = (killed.contents(tmp_path / f"workers_{workers}/run/metadata") for workers in (1, 2))
    assert one == two


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


def test_pool_comes_first_and_is_required(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("sw", "simba")])
    with pytest.raises(Exception, match="run first: worldclip pool"):
        run_stage("metadata", recipe(tmp_path, ["sw"]), tmp_path / "run", QUIET)
    assert stage_names().index("pool") < stage_names().index("metadata")


def test_languages_with_a_whole_list_are_not_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "pool", "a.jsonl", [("sw", "paka"), ("yo", "ajá")])
    lists = {"sources": ["pool"], "lists": write_lists(tmp_path, sw=["simba"])}
    build(recipe(tmp_path, ["sw", "yo"], metadata=lists), tmp_path)
    assert entries_of(tmp_path, "sw") == {}
    assert entries_of(tmp_path, "yo") == {"ajá": 1.0}
    assert list(json.loads((tmp_path / "run/metadata/pool/a.jsonl.json").read_text())) == ["yo"]
