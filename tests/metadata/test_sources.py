"""Each source of entries on files written by hand and on the real ones."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest

from worldclip.core.errors import BadShard
from worldclip.language import table as languages
from worldclip.metadata.sources.lists import read_frequent_words, read_list, title_case
from worldclip.metadata.sources.wordnet import read_headers, read_wordnet


def write(path: Path, *lines: str) -> Path:
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lemmas(path: Path, lang: str) -> list[str]:
    return [entry for entry, _ in read_wordnet(str(path), lang)]


def test_only_lemma_lines_are_read(tmp_path: Path) -> None:
    path = write(
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
    path = write(
        tmp_path / "wn.tab",
        "# Princeton WordNet\teng\turl\twordnet",
        "1-n\teng:lemma\tNew York",
        "1-n\teng:lemma\tBig Apple",
        "2-n\teng:lemma\tcat",
    )
    assert lemmas(path, "en") == ["new york", "cat"]


def test_wordnet_of_another_language_is_bad_shard(tmp_path: Path) -> None:
    path = write(tmp_path / "wn-data-als.tab", "# Albanet\tals\turl\tCC BY 3.0", "1-n\tals:lemma\tentitet")
    assert lemmas(path, "sq") == ["entitet"]
    with pytest.raises(BadShard, match=r"WordNet of sq \(Albanian; 'als' in its header\), not of als"):
        lemmas(path, "als")


def test_wordnet_without_lemmas_is_bad_shard(tmp_path: Path) -> None:
    path = write(tmp_path / "wn.tab", "# X\tdan\turl\tfree", "1-n\tdan:def\t0\tno lemma here")
    with pytest.raises(BadShard, match="no lemma line"):
        lemmas(path, "da")


@pytest.mark.parametrize("cut", [5, 30, -9])
def test_truncated_gzip_is_bad_shard(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "wn.tab.gz", *(f"{i}-n\tdan:lemma\tord{i}" for i in range(100)))
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
    path = write(tmp_path / "list.txt", "\ufeffmbwa\t12.5", "paka", "", "simba wa yuda\t3")
    assert list(read_list(path)) == [("mbwa", 12.5), ("paka", None), ("simba wa yuda", 3.0)]


def test_carriage_return_ends_lines_and_unicode_separators_do_not(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("a\u2028b\r\nc\x0bd\r\n".encode())
    assert [entry for entry, _ in read_list(path)] == ["a\u2028b", "c\x0bd"]


def test_json_list_must_be_array_of_strings(tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.json", json.dumps(["cat", "New York", "猫"]))
    assert [entry for entry, _ in read_list(path)] == ["cat", "New York", "猫"]
    for bad, message in (('{"a": 1}', "not a JSON array"), ("[1]", "not a JSON array"), ("[", "invalid JSON")):
        path.write_text(bad)
        with pytest.raises(BadShard, match=message):
            list(read_list(path))


def test_bad_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "good\t1", "bad\tmany")
    with pytest.raises(BadShard, match="line 2: score 'many' after the tab is not a number"):
        list(read_list(path))
    path.write_bytes(b"good\n\xff\xfe\n")
    with pytest.raises(BadShard, match="line 2: not UTF-8"):
        list(read_list(path))


@pytest.mark.parametrize(
    ("word", "lang", "expected"),
    [
        ("paris", "fr", "Paris"),
        ("it's", "en", "It's"),
        ("jean-paul", "fr", "Jean-Paul"),
        ("istanbul", "tr", "İstanbul"),
        ("ırak", "tr", "Irak"),
        ("istanbul", "en", "Istanbul"),
        ("ijsland", "nl", "IJsland"),
        ("ǆep", "hr", "ǅep"),
        ("თბილისი", "ka", "თბილისი"),
        ("猫", "zh", "猫"),
    ],
)
def test_title_case(word: str, lang: str, expected: str) -> None:
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
