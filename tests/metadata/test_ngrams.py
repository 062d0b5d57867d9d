"""Counts against a counter that reads character by character, merges of any number of runs, page views."""

import gzip
import io
import json
import math
import random
import unicodedata
from collections import Counter as Tally
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from string import ascii_letters, ascii_lowercase, digits
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entry_lists import write_lines
from worldclip.core.errors import BadShard
from worldclip.language.segment import SPACES, TSHEGS, Scheme, scheme_of, segment
from worldclip.metadata.ngrams import counter, runs
from worldclip.metadata.ngrams.counter import Counter, count_to_file
from worldclip.metadata.ngrams.kernels import sort_bigrams
from worldclip.metadata.ngrams.runs import best_bigrams, iter_bigrams_by_pmi, iter_unigrams, iter_words, merge
from worldclip.metadata.sources import titles
from worldclip.metadata.sources.titles import count_views, find_articles, merge_views, read_namespaces

CJK_LIKE = [(0x4E00, 0x9FFF), (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3400, 0x4DBF)]
MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~，。、；：？！“”‘’（）【】《》〈〉「」『』～—"
LINE_ENDS = "\n\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"
ALPHABET = "abcdé猫狗ねกาཀ་།ကខ1２ \u3000\n\t\u200d\u0301.,’—«»-'🙂\0\x1f\u00a0\u2029ქართ"


def plain_words(text: str, scheme: Scheme) -> list[list[str]]:
    """Words between barriers, the slow way, by the rules of the recipe."""
    groups: list[list[str]] = [[]]
    token = ""
    joints = "\u0f0b\u0f0c\x1f" if scheme is TSHEGS else "\x1f"
    for x in text + "\n":
        is_joint = x in joints if scheme is not SPACES else x.isspace() and x not in LINE_ENDS
        is_alone = any(low <= ord(x) <= high for low, high in CJK_LIKE) and (scheme is SPACES or not is_word(x))
        if not (is_joint or is_alone or x.isspace() or x in MARKS):
            token += x
            continue
        if token and is_word(token):
            groups[-1].append(token)
        elif token:
            groups.append([])
        token = ""
        if is_alone and is_word(x):
            groups[-1].append(x)
        elif not is_joint:
            groups.append([])
    return groups


def is_word(token: str) -> bool:
    return any(unicodedata.category(x)[0] in "LMN" for x in token)


def plain_counts(texts: list[str], scheme: Scheme) -> tuple[Tally[str], Tally[tuple[str, str]]]:
    groups = [group for text in texts for group in plain_words(text, scheme)]
    return (
        Tally(word for group in groups for word in group),
        Tally(pair for group in groups for pair in pairwise(group)),
    )


def as_tallies(counts: runs.Counts) -> tuple[Tally[str], Tally[tuple[str, str]]]:
    word = counts.words.word
    unigrams = Tally({word(rank): int(n) for rank, n in enumerate(counts.words.counts)})
    bigrams: Tally[tuple[str, str]] = Tally()
    last = -1
    for keys, numbers in counts.iter_bigrams(at_once=9):
        for key, n in zip(keys.tolist(), numbers.tolist(), strict=True):
            assert key > last, "bigrams are sorted and unique"
            last = key
            bigrams[word(key >> 32), word(key & 0xFFFFFFFF)] = n
    return unigrams, bigrams


def count_texts(texts: list[str], folder: Path, scheme: Scheme = SPACES) -> runs.Counts:
    return merge(count_to_file(folder / "runs", [texts], scheme), folder / "merged", fan_in=3)


@pytest.mark.parametrize("scheme", [SPACES, TSHEGS, scheme_of("zh")], ids=["space", "tsheg", "icu"])
@settings(max_examples=120, deadline=None)
@given(texts=st.lists(st.text(alphabet=ALPHABET, max_size=40), max_size=6))
def test_counts_agree_with_a_plain_counter(scheme: Scheme, texts: list[str], tmp_path_factory: pytest.TempPathFactory):
    counts = count_texts(texts, tmp_path_factory.mktemp("ngrams"), scheme)
    assert as_tallies(counts) == plain_counts(texts, scheme)
    assert counts.num_tokens == sum(plain_counts(texts, scheme)[0].values())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_words=st.integers(1, 400),
    slots=st.sampled_from([1, 2**11, 2**13]),
    arena=st.sampled_from([40, 2**27]),
)
def test_counts_do_not_depend_on_the_memory_limits(
    seed: int, max_words: int, slots: int, arena: int, tmp_path_factory: pytest.TempPathFactory
):
    rng = random.Random(seed)
    texts = [" ".join(f"w{int(rng.paretovariate(0.6)) % 500}" for _ in range(30)) for _ in range(20)]
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in (("MAX_WORDS", max_words), ("MAX_BIGRAM_SLOTS", slots), ("MAX_ARENA_BYTES", arena)):
            patch.setattr(counter, name, limit)
        of_texts = count_to_file(folder / "runs", ([text] for text in texts), SPACES)
    assert len(of_texts) > (10 if slots == 1 or arena == 40 else 0)
    assert as_tallies(merge(of_texts, folder / "merged", fan_in=3)) == plain_counts(texts, SPACES)


def test_counts_that_share_a_file_stay_apart(tmp_path: Path):
    texts = [[f"w{n % 7} w{n % 5} x{n % 11}" for n in range(40 * (k + 1))] for k in range(9)]
    parts = []
    with open(tmp_path / "counts", "wb") as file:
        for of_count in texts:
            own = Counter(tmp_path / "counts", file, SPACES)
            own.add(of_count)
            parts += own.finish()
    for part, of_count in zip(parts, texts, strict=True):
        assert as_tallies(merge([part], tmp_path / "merged")) == plain_counts(of_count, SPACES)
    whole = plain_counts([text for of_count in texts for text in of_count], SPACES)
    assert as_tallies(merge(parts, tmp_path / "merged", fan_in=2)) == whole
    assert not (tmp_path / "merged").exists()  # small runs are merged all at once


def test_many_large_runs_are_merged_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "FEW_WORDS", 5)
    monkeypatch.setattr(counter, "MAX_WORDS", 2)
    texts = [f"a{n} b{n % 3} c" for n in range(12)]
    parts = count_to_file(tmp_path / "counts", ([text] for text in texts), SPACES)
    assert len(parts) > 8
    counts = merge(parts, tmp_path / "merged", fan_in=3)
    assert len(counts.runs) <= 4
    assert as_tallies(counts) == plain_counts(texts, SPACES)
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {
        run.path.name for run in counts.runs if run.path.parent == tmp_path / "merged"
    }


def test_words_with_equal_prefixes_and_a_large_vocabulary_are_distinct(tmp_path: Path):
    words = ["a" * n for n in range(1, 20)] + ["aaaaaaaab", "aaaaaaaa\0", "a\0", "a\0\0", "aaaaaaaba", "猫猫猫a"]
    words += [f"word{n}" for n in range(30_000)]
    counted = as_tallies(count_texts([" ".join(words), " ".join(reversed(words))], tmp_path))
    assert counted == plain_counts([" ".join(words), " ".join(reversed(words))], SPACES)
    assert len(counted[0]) == len(words)  # of the cats each is a word, and the a behind them is there already


@pytest.mark.parametrize("largest", [1, 2**40, 2**63])
@pytest.mark.parametrize("num_words", [1, 2, 5000, 2**31])
def test_bigrams_are_sorted_for_any_size_of_counts(num_words: int, largest: int):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, num_words, (2, 500), np.uint64)
    keys = np.unique(first << np.uint64(32) | second)
    pairs = np.stack([keys, rng.integers(1, largest, keys.size, np.uint64, endpoint=True)], axis=1)
    shuffled = pairs[rng.permutation(keys.size)]
    sort_bigrams(shuffled, num_words, int(pairs[:, 1].max()))
    assert (shuffled == pairs).all()


@pytest.mark.parametrize("num_empty", [0, 100_000])
def test_many_texts_of_one_letter_find_room(tmp_path: Path, num_empty: int):
    words = ["".join(letters) for letters in product(ascii_lowercase, repeat=3)][:4062]  # the table has 4,096 places
    counted = Counter(tmp_path / "x", io.BytesIO(), SPACES)
    for at in range(0, len(words), 2):
        counted.add(words[at : at + 2])
    counted.add([""] * num_empty + list(ascii_letters + digits))
    num_words = len(words) + 62
    assert int(counted.state[0]) == num_words
    # A word is arena[starts_W[id] : starts_W[id + 1]], and ids begin at 1.
    assert num_words + 2 <= counted.starts_W.size <= 2 * 4096


def test_chunked_sliced_and_null_texts_are_counted_once_and_chinese_words_joined_without_a_blank(tmp_path: Path):
    chunked = pa.chunked_array([pa.array(["x", "a b", None, "a b c"]).slice(1), pa.array([], pa.string())])
    unigrams, bigrams = as_tallies(merge(count_to_file(tmp_path / "runs", [chunked], SPACES), tmp_path))
    assert (unigrams, bigrams) == ({"a": 2, "b": 2, "c": 1}, {("a", "b"): 2, ("b", "c"): 1})
    data = pa.array(["a b", "x y", "c"]).buffers()
    bytes_below_null = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), *data[1:]])
    assert bytes_below_null.to_pylist() == ["a b", None, "c"]
    unigrams, _ = as_tallies(merge(count_to_file(tmp_path / "more", [bytes_below_null], SPACES), tmp_path / "merged"))
    assert unigrams == {"a": 1, "b": 1, "c": 1}
    zh = scheme_of("zh")
    texts = segment(pa.array(["我喜欢北京大学。我喜欢 Python。"], pa.large_string()), zh)
    counts = count_texts(texts.to_pylist(), tmp_path, zh)
    assert dict(iter_unigrams(counts)) == {"喜欢": 2, "我": 2, "Python": 1, "北京": 1, "大学": 1}
    assert {bigram for bigram, _ in best_bigrams(counts, zh.joiner, limit=9)} == {"我喜欢", "喜欢北京", "北京大学"}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.integers(0, 60), min_count=st.integers(1, 3))
def test_best_bigrams_agree_with_sorting_all(
    seed: int, limit: int, min_count: int, tmp_path_factory: pytest.TempPathFactory
):
    rng = random.Random(seed)
    texts = [" ".join(rng.choice("abcdefghijk") * rng.randint(1, 2) for _ in range(60)) for _ in range(4)]
    unigrams, bigrams = plain_counts(texts, SPACES)
    total = sum(unigrams.values())
    ranked = sorted((-n / (unigrams[a] * unigrams[b]), -n, a, b) for (a, b), n in bigrams.items() if n >= min_count)
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counter, "MAX_BIGRAM_SLOTS", 1)
        of_texts = count_to_file(folder / "runs", ([text] for text in texts), SPACES)
    counts = merge(of_texts, folder / "merged")
    found = best_bigrams(counts, " ", limit=limit, min_count=min_count)
    assert [bigram for bigram, _ in found] == [f"{a} {b}" for _, _, a, b in ranked[:limit]]
    assert [pmi for _, pmi in found] == pytest.approx([math.log2(-q * total) for q, *_ in ranked[:limit]], rel=1e-12)
    in_turn = iter_bigrams_by_pmi(counts, " ", first=limit or 1, min_count=min_count)
    assert [bigram for bigram, _ in in_turn] == [f"{a} {b}" for _, _, a, b in ranked]


VIEW_LINES = (
    b"en Cat 60 0, en Cat 49 0, en.m Cat 500 0, en.b Cat 900 0, sw Paka 3 0, sw.m Paka 4 0, sw.d paka 99 0, "
    b"sw Simba_(mnyama) 7 0, sw.m Simba_%28mnyama%29 1 0, sw Picha:Simba.jpg 9 0, "
    b'sw Terminator_2:_Judgment_Day 5 0, sw Special:Search 80 0, sw "Nyama" 2 0, sw - 8 0, '
    b"zh-min-nan Niau 5 0, fr Chat 5 0, commons.m File:x.jpg 1 0"
).split(b", ")
BAD = [b"sw Paka", b"sw  4 0", b"sw Paka many 0", b"sw Duma%FF 4 0", b"sw Chui -4 0", b"sw a b 4 0", b"\xff\xfe x 1 0"]


def count_hour(
    folder: Path, lines: Sequence[bytes], *wikis: str, hour: int = 0, **min_line_views: int
) -> dict[str, Any]:
    """Count the lines of an hour into folder/out/<hour>; return what was read and dropped."""
    folder.joinpath("x.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    out = folder / "out" / str(hour)
    return count_views(folder / "x.gz", out, wikis or ["sw"], min_line_views=min_line_views)


def views_of(folder: Path, wiki: str, times: int = 1) -> dict[str, int]:
    """Return the sum over all hours, each read several times."""
    views = merge_views(sorted((folder / "out").iterdir()) * times, wiki)
    return {views.word(rank): int(count_hour) for rank, count_hour in enumerate(views.counts)}


@pytest.mark.parametrize("other", [b"en A 1 0", b"en \xff 1 0"])
def test_carriage_return_ends_a_line(tmp_path: Path, other: bytes) -> None:
    dropped = count_hour(tmp_path, [other, b"sw A\rB 3 0", b"sw Paka 3 0\r", b"sw C 1 0\rsw D 2 0"])["dropped"]
    assert views_of(tmp_path, "sw") == {"C": 1, "D": 2, "Paka": 3}
    assert dropped["fields"] == 2


def test_views_of_desktop_and_mobile_count_and_of_sister_projects_do_not(tmp_path: Path) -> None:
    report = count_hour(tmp_path, VIEW_LINES, "sw", "zh_min_nan")
    no_drops = {"fields": 0, "views": 0, "title": 0}
    assert report == {"lines": len(VIEW_LINES), "dropped": no_drops, "titles": {"sw": 7, "zh_min_nan": 1}}
    pages = {"Picha:Simba.jpg": 9, "Special:Search": 80, "Terminator 2: Judgment Day": 5}
    assert views_of(tmp_path, "sw") == {'"Nyama"': 2, "-": 8, "Paka": 7, "Simba (mnyama)": 8, **pages}
    assert views_of(tmp_path, "zh_min_nan") == {"Niau": 5}
    count_hour(tmp_path, VIEW_LINES, "en", en=50)  # busy hours of the desktop only
    assert views_of(tmp_path, "en") == {"Cat": 60}


def test_bad_lines_are_dropped_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        report = count_hour(tmp_path, [*VIEW_LINES, *BAD])
        assert report["dropped"] == {"fields": 2, "views": 2, "title": 2}  # the last of BAD is no domain of ours
        views = views_of(tmp_path, "sw")
        assert (views["Paka"], len(views)) == (7, 7)
        monkeypatch.setattr(titles, "BLOCK_BYTES", 1)
        monkeypatch.setattr("worldclip.core.unpack.CHUNK_BYTES", 7)


def test_broken_file_is_bad_shard_with_reason(tmp_path: Path) -> None:
    for data, message in (
        (gzip.compress(b"sw Paka 3 0\n" * 999, mtime=0)[:-12], "ends in the middle"),
        (b"<html>", "damaged"),
        (gzip.compress(b"\xff\xfe\x00garbage\nfoo\xff\n", mtime=0), "no line has the four fields"),
        (gzip.compress(b"<html>\n<body>no</body>\n", mtime=0), "no line has the four fields"),
    ):
        (tmp_path / "x.gz").write_bytes(data)
        with pytest.raises(BadShard, match=message):
            count_views(tmp_path / "x.gz", tmp_path / "out", ["sw"], min_line_views={})


def test_titles_of_each_wikipedia_are_separate_and_hours_add_up(tmp_path: Path) -> None:
    expected = {f"w{n}": {f"Title {n}": n + 1, "Same": 2 * n + 1} for n in range(40) if n % 7}
    lines = [f"{wiki} {title.replace(' ', '_')} {n} 0" for wiki in expected for title, n in expected[wiki].items()]
    random.Random(0).shuffle(lines)
    wikis = [f"w{n}" for n in range(40)]
    count_hour(tmp_path, [line.encode() for line in lines], *wikis)
    assert {wiki: views_of(tmp_path, wiki) for wiki in expected} == expected
    assert views_of(tmp_path, "w7") == views_of(tmp_path, "elsewhere") == {}
    assert len(list((tmp_path / "out").rglob("*.*"))) == 4
    count_hour(tmp_path, [b"w1 Same 4 0", b"w1 Zebra 9 0"], *wikis, hour=1)
    assert views_of(tmp_path, "w1", times=7) == {"Same": 49, "Title 1": 14, "Zebra": 63}
    assert len(merge_views([], "sw")) == 0


def test_titles_are_decoded_and_namespaces_rule_uses_site_names_and_colon_rule_any_colon(tmp_path: Path) -> None:
    raw = (b"S%C3%A3o_Paulo", "São_Paulo".encode(), b"100%", b"%FF", b"_")
    sao_paulo = "São Paulo".encode()
    assert [titles.decode_title(title) for title in raw] == [sao_paulo, sao_paulo, b"100%", None, None]
    count_hour(tmp_path, VIEW_LINES)
    views = merge_views([tmp_path / "out" / "0"], "sw")
    own = [title for title, _ in iter_words(views, find_articles(views, {"picha"}))]
    assert own == ["-", "Simba (mnyama)", "Paka", "Terminator 2: Judgment Day", '"Nyama"']
    articles = find_articles(views, None)
    assert [title for title, _ in iter_words(views, articles)] == ["-", "Simba (mnyama)", "Paka", '"Nyama"']
    assert list(iter_words(views, articles, min_count=8)) == [("-", 8), ("Simba (mnyama)", 8)]


def test_namespaces_are_read_from_siteinfo_and_from_dump(tmp_path: Path) -> None:
    namespaces = {
        "0": {"id": 0, "*": ""},
        "6": {"id": 6, "canonical": "File", "*": "Picha"},
        "-1": {"id": -1, "canonical": "Special", "*": "Maalum"},
    }
    site = {"query": {"namespaces": namespaces, "namespacealiases": [{"id": 6, "*": "Faili"}]}}
    write_lines(tmp_path / "x.json.gz", json.dumps(site))
    assert read_namespaces(tmp_path / "x.json.gz") == {"File", "Picha", "Faili", "Special", "Maalum"}
    number = b'{"query": {"namespaces": {"6": {"*": 5}}}}'
    for bad in (b"[]", b"{", b"[" * 100_000, b'{"query": {}}', number):
        (tmp_path / "bad.json").write_bytes(bad)
        with pytest.raises(BadShard, match="not a list of a site's namespaces"):
            read_namespaces(tmp_path / "bad.json")


def test_bigrams_find_room_batch_by_batch(tmp_path: Path):
    batches = [[" ".join(f"{letter}{n:03}" for n in range(1000))] for letter in ascii_lowercase[:8]]
    counted = as_tallies(merge(count_to_file(tmp_path / "runs", batches, SPACES), tmp_path / "merged", fan_in=3))
    assert counted == plain_counts([text for texts in batches for text in texts], SPACES)
