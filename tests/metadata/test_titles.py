"""Page-view files: whose lines count, how titles are written, which of them are articles."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from entry_lists import write_lines
from worldclip.core.errors import BadShard
from worldclip.metadata.ngrams import iter_words
from worldclip.metadata.sources import titles
from worldclip.metadata.sources.titles import count_views, find_articles, merge_views, read_namespaces

LINES = (
    b"en Cat 60 0, en Cat 49 0, en.m Cat 500 0, en.b Cat 900 0, sw Paka 3 0, sw.m Paka 4 0, sw.d paka 99 0, "
    b"sw Simba_(mnyama) 7 0, sw.m Simba_%28mnyama%29 1 0, sw Picha:Simba.jpg 9 0, "
    b'sw Terminator_2:_Judgment_Day 5 0, sw Special:Search 80 0, sw "Nyama" 2 0, sw - 8 0, '
    b"zh-min-nan Niau 5 0, fr Chat 5 0, commons.m File:x.jpg 1 0"
).split(b", ")
BAD = [b"sw Paka", b"sw  4 0", b"sw Paka many 0", b"sw Duma%FF 4 0", b"sw Chui -4 0", b"sw a b 4 0", b"\xff\xfe x 1 0"]


def count(folder: Path, lines: Sequence[bytes], *wikis: str, hour: int = 0, **min_line_views: int) -> dict[str, Any]:
    """Count the lines of an hour into folder/out/<hour>; return what was read and dropped."""
    folder.joinpath("x.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    out = folder / "out" / str(hour)
    return count_views(folder / "x.gz", out, wikis or ["sw"], min_line_views=min_line_views)


def views_of(folder: Path, wiki: str, times: int = 1) -> dict[str, int]:
    """Return the sum over all hours, each read several times."""
    views = merge_views(sorted((folder / "out").iterdir()) * times, wiki)
    return {views.word(rank): int(count) for rank, count in enumerate(views.counts)}


def test_block_without_a_line_of_four_fields_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "BLOCK_BYTES", 1)  # a block per line
    report = count(tmp_path, [b"sw Paka 3 0", b"\xff", b"\xfe x", b"sw Simba 4 0"])
    assert views_of(tmp_path, "sw") == {"Paka": 3, "Simba": 4}
    assert report["dropped"]["fields"] == 2


@pytest.mark.parametrize("other", [b"en A 1 0", b"en \xff 1 0"])
def test_carriage_return_ends_a_line(tmp_path: Path, other: bytes) -> None:
    dropped = count(tmp_path, [other, b"sw A\rB 3 0", b"sw Paka 3 0\r", b"sw C 1 0\rsw D 2 0"])["dropped"]
    assert views_of(tmp_path, "sw") == {"C": 1, "D": 2, "Paka": 3}
    assert dropped["fields"] == 2


def test_views_of_desktop_and_mobile_count_and_of_sister_projects_do_not(tmp_path: Path) -> None:
    report = count(tmp_path, LINES, "sw", "zh_min_nan")
    no_drops = {"fields": 0, "views": 0, "title": 0}
    assert report == {"lines": len(LINES), "dropped": no_drops, "titles": {"sw": 7, "zh_min_nan": 1}}
    pages = {"Picha:Simba.jpg": 9, "Special:Search": 80, "Terminator 2: Judgment Day": 5}
    assert views_of(tmp_path, "sw") == {'"Nyama"': 2, "-": 8, "Paka": 7, "Simba (mnyama)": 8, **pages}
    assert views_of(tmp_path, "zh_min_nan") == {"Niau": 5}


def test_english_v1_counts_only_busy_hours_of_desktop(tmp_path: Path) -> None:
    count(tmp_path, LINES, "en", en=50)
    assert views_of(tmp_path, "en") == {"Cat": 60}


def test_views_of_several_hours_add_up(tmp_path: Path) -> None:
    for hour, lines in enumerate(([b"sw Paka 3 0", b"sw Chui 1 0"], [b"sw Paka 4 0"], [b"sw Simba 9 0"])):
        count(tmp_path, lines, "sw", "yo", hour=hour)
    assert views_of(tmp_path, "sw") == {"Chui": 1, "Paka": 7, "Simba": 9}
    assert views_of(tmp_path, "yo") == {}
    assert len(merge_views([], "sw")) == 0
    assert views_of(tmp_path, "sw", times=7) == {"Chui": 7, "Paka": 49, "Simba": 63}


def test_block_size_does_not_change_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count(tmp_path, LINES)
    whole = views_of(tmp_path, "sw")
    monkeypatch.setattr(titles, "BLOCK_BYTES", 1)
    monkeypatch.setattr("worldclip.core.unpack.CHUNK_BYTES", 7)
    count(tmp_path, LINES)
    assert views_of(tmp_path, "sw") == whole


def test_bad_lines_are_dropped_and_counted(tmp_path: Path) -> None:
    report = count(tmp_path, [*LINES, *BAD])
    assert report["dropped"] == {"fields": 2, "views": 2, "title": 2}  # the last of BAD is no domain of ours
    assert views_of(tmp_path, "sw")["Paka"] == 7


BROKEN = {
    "truncated": (gzip.compress(b"sw Paka 3 0\n" * 999)[:-12], "ends in the middle"),
    "no gzip": (b"<html>", "damaged"),
    "other bytes": (gzip.compress(b"\xff\xfe\x00garbage\nfoo\xff\n"), "no line has the four fields"),
    "other lines": (gzip.compress(b"<html>\n<body>no</body>\n"), "no line has the four fields"),
}


@pytest.mark.parametrize("case", BROKEN)  # the bytes are no ids of tests: gzip writes the time into them
def test_broken_file_is_bad_shard_with_reason(case: str, tmp_path: Path) -> None:
    data, message = BROKEN[case]
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(BadShard, match=message):
        count_views(tmp_path / "x.gz", tmp_path / "out", ["sw"], min_line_views={})


def test_empty_file_has_no_titles(tmp_path: Path) -> None:
    assert count(tmp_path, [])["lines"] == 0
    assert views_of(tmp_path, "sw") == {}


def test_titles_of_each_wikipedia_are_separate(tmp_path: Path) -> None:
    expected = {f"w{n}": {f"Title {n}": n + 1, "Same": 2 * n + 1} for n in range(40) if n % 7}
    lines = [f"{wiki} {title.replace(' ', '_')} {n} 0" for wiki in expected for title, n in expected[wiki].items()]
    random.Random(0).shuffle(lines)
    count(tmp_path, [line.encode() for line in lines], *(f"w{n}" for n in range(40)))
    assert {wiki: views_of(tmp_path, wiki) for wiki in expected} == expected
    assert views_of(tmp_path, "w7") == views_of(tmp_path, "elsewhere") == {}
    assert len(list((tmp_path / "out").rglob("*.*"))) == 4


def test_titles_are_decoded() -> None:
    raw = (b"S%C3%A3o_Paulo", "São_Paulo".encode(), b"100%", b"%FF", b"_")
    sao_paulo = "São Paulo".encode()
    assert [titles.decode_title(title) for title in raw] == [sao_paulo, sao_paulo, b"100%", None, None]


def test_namespaces_rule_uses_site_names_and_colon_rule_uses_any_colon(tmp_path: Path) -> None:
    count(tmp_path, LINES)
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
