"""Each source of entries on files written by hand and on the real ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from entry_lists import write_lines
from worldclip.core.errors import BadShard
from worldclip.language import table as languages
from worldclip.metadata.sources.lists import read_frequent_words, read_list, title_case
from worldclip.metadata.sources.wordnet import read_headers, read_wordnet


def lemmas(path: Path, lang: str) -> list[str]:
    return [entry for entry, _ in read_wordnet(str(path), lang)]


def test_only_lemma_lines_are_read(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "wn.tab.gz",
        "# Some Wordnet\tarb\thttp://example.org\tCC BY 3.0 ",
        "1-n\tarb:lemma\tأول",
        "1-n\tarb:lemma:root\tجذر",
        "1-n\tarb:lemma:brokenplural\tكتب",
        "1-n\tarb:def\t0\tnot a lemma",
        "1-n\tarb:exe\t0\tnot a lemma either",
        "",
        "2-n\tlemma\tred_apple",
        "3-n\tarb:lemma\t丝不苟+地",
    )
    assert lemmas(path, "ar") == ["أول", "كتب", "red apple", "丝不苟地"]
    assert read_headers(str(path))[0].licence == "CC BY 3.0"


def test_english_takes_first_lemma_of_each_synset_lower_cased(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "wn.tab",
        "# Princeton WordNet\teng\turl\twordnet",
        "1-n\teng:lemma\tNew York",
        "1-n\teng:lemma\tBig Apple",
        "2-n\teng:lemma\tcat",
    )
    assert lemmas(path, "en") == ["new york", "cat"]


def test_wordnet_of_another_language_or_without_lemmas_is_bad_shard(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "wn-data-als.tab", "# Albanet\tals\turl\tCC BY 3.0", "1-n\tals:lemma\tentitet")
    assert lemmas(path, "sq") == ["entitet"]
    with pytest.raises(BadShard, match=r"WordNet of sq \(Albanian; 'als' in its header\), not of als"):
        lemmas(path, "als")
    path = write_lines(tmp_path / "wn.tab", "# X\tdan\turl\tfree", "1-n\tdan:def\t0\tno lemma here")
    with pytest.raises(BadShard, match="no lemma line"):
        lemmas(path, "da")


@pytest.mark.parametrize("cut", [5, 30, -9])
def test_truncated_gzip_is_bad_shard(tmp_path: Path, cut: int) -> None:
    path = write_lines(tmp_path / "wn.tab.gz", *(f"{i}-n\tdan:lemma\tord{i}" for i in range(100)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BadShard, match="cannot be read"):
        lemmas(path, "da")


LEMMA_LINES = {"als": 9599, "arb": 37335 + 2948, "dan": 5859, "cmn": 79797, "por": 74012, "ell": 24106, "nob": 5586}


@pytest.mark.parametrize("wordnet_lang", LEMMA_LINES)
def test_real_wordnets_give_every_lemma_line(wordnet_lang: str, shared: Path) -> None:
    path = shared / f"data/omw/wn-data-{wordnet_lang}.tab.gz"
    entries = lemmas(path, languages.from_wordnet(wordnet_lang))
    assert len(entries) == LEMMA_LINES[wordnet_lang]
    assert not any("_" in lemma or "+" in lemma for lemma in entries)


def test_real_english_wordnet_has_one_lemma_per_synset(shared: Path) -> None:
    entries = lemmas(shared / "data/omw/rebuilt/wn-data-eng.tab.gz", "en")
    assert len(entries) == 117_659
    assert entries[:3] == ["entity", "physical entity", "abstraction"]
    assert len(set(entries)) == 86_571  # version 1 of the recipe counts 86,654 in its own copy


def test_plain_list_may_hold_scores(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "list.txt", "\ufeffmbwa\t12.5", "paka", "", "simba wa yuda\t3")
    assert list(read_list(path)) == [("mbwa", 12.5), ("paka", None), ("simba wa yuda", 3.0)]


def test_carriage_return_ends_lines_and_unicode_separators_do_not(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("a\u2028b\r\nc\x0bd\r\n".encode())
    assert [entry for entry, _ in read_list(path)] == ["a\u2028b", "c\x0bd"]


def test_json_list_is_array_of_strings(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "metadata.json", json.dumps(["cat", "New York", "猫"]))
    assert [entry for entry, _ in read_list(path)] == ["cat", "New York", "猫"]


BROKEN = {
    "object": ("x.json", b'{"a": 1}', "not a JSON array"),
    "numbers": ("x.json", b"[1]", "not a JSON array of strings"),
    "cut JSON": ("x.json", b"[", "invalid JSON"),
    "nested JSON": ("x.json", b"[" * 100_000, "invalid JSON"),
    "words for a score": ("x.txt", b"good\t1\nbad\tmany\n", "line 2: score 'many' after the tab is not a number"),
    "no number for a score": ("x.txt", b"bad\tnan\n", "line 1: score 'nan' after the tab is not a number"),
    "no UTF-8": ("x.txt", b"good\n\xff\xfe\n", "line 2: not UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_list_is_bad_shard_with_file_and_line(case: str, tmp_path: Path) -> None:
    name, data, message = BROKEN[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadShard, match=message) as caught:
        list(read_list(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


TITLES = (
    "fr paris Paris, en it's It's, fr jean-paul Jean-Paul, tr istanbul İstanbul, tr ırak Irak, en istanbul Istanbul, "
    "nl ijsland IJsland, hr ǆep ǅep, ka თბილისი თბილისი, zh 猫 猫"
)


@pytest.mark.parametrize("case", TITLES.split(", "))
def test_title_case(case: str) -> None:
    lang, word, expected = case.split()
    assert title_case(word, lang) == expected


def test_frequent_words_come_as_is_then_in_title_case() -> None:
    pytest.importorskip("wordfreq")
    words = list(itertools.islice(read_frequent_words("en", 100), 6))
    assert [word for word, _ in words] == ["the", "The", "to", "To", "and", "And"]
    assert words[0][1] == words[1][1] > words[2][1] > 0
    assert len({word for word, _ in read_frequent_words("sv", 500)}) > 900


def test_numbers_merged_by_wordfreq_are_skipped() -> None:
    pytest.importorskip("wordfreq")
    words = {word for word, _ in read_frequent_words("en", 20_000)}
    assert "0000" not in words
    assert not any(sum(char.isdigit() for char in word) > 1 for word in words)


def test_language_without_wordfreq_raises_key_error() -> None:
    with pytest.raises(KeyError):
        next(read_frequent_words("yo", 10))
