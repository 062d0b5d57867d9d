"""Page-view files: whose lines count, how titles are written, which of them are articles."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from worldclip.core.errors import BadShard
from worldclip.metadata.sources import titles
from worldclip.metadata.sources.titles import (
    count_views,
    decode_title,
    find_articles,
    iter_titles,
    merge_views,
    read_namespaces,
)

LINES = [
    b"en Cat 60 0",
    b"en Cat 49 0",
    b"en.m Cat 500 0",
    b"en.b Cat 900 0",
    b"sw Paka 3 0",
    b"sw.m Paka 4 0",
    b"sw.d paka 99 0",
    b"sw Simba_(mnyama) 7 0",
    b"sw.m Simba_%28mnyama%29 1 0",
    b"sw Picha:Simba.jpg 9 0",
    b"sw Terminator_2:_Judgment_Day 5 0",
    b"sw Special:Search 80 0",
    b'sw "Nyama" 2 0',
    b"sw - 8 0",
    b"zh-min-nan Niau 5 0",
    b"fr Chat 5 0",
    b"commons.m File:x.jpg 1 0",
]
BAD = [b"sw Paka", b"sw  4 0", b"sw Paka many 0", b"sw Duma%FF 4 0", b"sw Chui -4 0", b"sw a b 4 0", b"\xff\xfe x 1 0"]


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", mtime=0))
    return path


def views_of(folder: Path, wiki: str) -> dict[str, int]:
    words = merge_views(sorted(folder.iterdir()), wiki)
    return {words.word(rank): int(count) for rank, count in enumerate(words.counts)}


def test_views_of_desktop_and_mobile_count_and_of_sister_projects_do_not(tmp_path: Path):
    path = write(tmp_path / "pageviews-20240101-000000.gz", LINES)
    report = count_views(path, tmp_path / "out" / "0", ["sw", "zh_min_nan"], min_line_views={})
    assert report == {
        "lines": len(LINES),
        "dropped": {"fields": 0, "views": 0, "title": 0},
        "titles": {"sw": 7, "zh_min_nan": 1},
    }
    assert views_of(tmp_path / "out", "sw") == {
        '"Nyama"': 2,
        "-": 8,
        "Paka": 7,
        "Picha:Simba.jpg": 9,
        "Simba (mnyama)": 8,
        "Special:Search": 80,
        "Terminator 2: Judgment Day": 5,
    }
    assert views_of(tmp_path / "out", "zh_min_nan") == {"Niau": 5}


def test_english_v1_counts_only_busy_hours_of_desktop(tmp_path: Path):
    path = write(tmp_path / "x.gz", LINES)
    count_views(path, tmp_path / "out" / "0", ["en"], min_line_views={"en": 50})
    assert views_of(tmp_path / "out", "en") == {"Cat": 60}


def test_views_of_several_hours_add_up(tmp_path: Path):
    for hour, lines in enumerate(([b"sw Paka 3 0", b"sw Chui 1 0"], [b"sw Paka 4 0"], [b"sw Simba 9 0"])):
        count_views(write(tmp_path / "x.gz", lines), tmp_path / "out" / str(hour), ["sw", "yo"], min_line_views={})
    assert views_of(tmp_path / "out", "sw") == {"Chui": 1, "Paka": 7, "Simba": 9}
    assert views_of(tmp_path / "out", "yo") == {}
    assert len(merge_views([], "sw")) == 0
    hours = sorted((tmp_path / "out").iterdir())
    many = merge_views([hours[k % 3] for k in range(23)], "sw")
    assert {many.word(rank): int(n) for rank, n in enumerate(many.counts)} == {"Chui": 8, "Paka": 56, "Simba": 63}


def test_block_size_does_not_change_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(titles, "BLOCK_BYTES", 1)
    monkeypatch.setattr("worldclip.metadata.sources.dumps.READ_BYTES", 7)
    count_views(write(tmp_path / "x.gz", LINES), tmp_path / "out" / "0", ["sw"], min_line_views={})
    assert views_of(tmp_path / "out", "sw")["Paka"] == 7
    assert len(views_of(tmp_path / "out", "sw")) == 7


def test_bad_lines_are_dropped_and_counted(tmp_path: Path):
    path = write(tmp_path / "x.gz", [*LINES, *BAD])
    report = count_views(path, tmp_path / "out" / "0", ["sw"], min_line_views={})
    assert report["dropped"] == {"fields": 2, "views": 2, "title": 2}  # the last of BAD is no domain of ours
    assert views_of(tmp_path / "out", "sw")["Paka"] == 7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"sw Paka 3 0\n" * 999, mtime=0)[:-12], "ends in the middle"),
        (b"<html>", "damaged"),
        (gzip.compress(b"<html>\n<body>no</body>\n", mtime=0), "no line has the four fields"),
    ],
)
def test_broken_file_is_bad_shard_with_reason(data: bytes, message: str, tmp_path: Path):
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(BadShard, match=message):
        count_views(tmp_path / "x.gz", tmp_path / "out", ["sw"], min_line_views={})


def test_empty_file_has_no_titles(tmp_path: Path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"", mtime=0))
    assert count_views(tmp_path / "x.gz", tmp_path / "out" / "0", ["sw"], min_line_views={})["lines"] == 0
    assert views_of(tmp_path / "out", "sw") == {}


def test_titles_of_each_wikipedia_are_separate(tmp_path: Path):
    expected = {f"w{n}": {f"Title {n}": n + 1, "Same": 2 * n + 1} for n in range(40) if n % 7}
    lines = [
        f"{wiki} {title.replace(' ', '_')} {n} 0" for wiki, views in expected.items() for title, n in views.items()
    ]
    random.Random(0).shuffle(lines)
    path = write(tmp_path / "x.gz", [line.encode() for line in lines])
    count_views(path, tmp_path / "out" / "0", [f"w{n}" for n in range(40)], min_line_views={})
    assert {f"w{n}": views_of(tmp_path / "out", f"w{n}") for n in range(40) if n % 7} == expected
    assert views_of(tmp_path / "out", "w7") == views_of(tmp_path / "out", "elsewhere") == {}
    assert len(list((tmp_path / "out").rglob("*.*"))) == 4


def test_titles_are_decoded():
    assert decode_title(b"S%C3%A3o_Paulo") == "São Paulo".encode()
    assert decode_title("São_Paulo".encode()) == "São Paulo".encode()
    assert decode_title(b"100%") == b"100%"
    assert decode_title(b"%FF") is None
    assert decode_title(b"_") is None


def test_namespaces_rule_uses_site_names_and_colon_rule_uses_any_colon(tmp_path: Path):
    count_views(write(tmp_path / "x.gz", LINES), tmp_path / "out" / "0", ["sw"], min_line_views={})
    views = merge_views([tmp_path / "out" / "0"], "sw")
    own = [title for title, _ in iter_titles(views, find_articles(views, {"picha"}))]
    assert own == ["-", "Simba (mnyama)", "Paka", "Terminator 2: Judgment Day", '"Nyama"']
    articles = find_articles(views, None)
    assert [title for title, _ in iter_titles(views, articles)] == ["-", "Simba (mnyama)", "Paka", '"Nyama"']
    assert list(iter_titles(views, articles, min_views=8)) == [("-", 8), ("Simba (mnyama)", 8)]


def test_namespaces_are_read_from_siteinfo_and_from_dump(tmp_path: Path):
    site = {
        "query": {
            "namespaces": {
                "0": {"id": 0, "*": ""},
                "6": {"id": 6, "canonical": "File", "*": "Picha"},
                "-1": {"id": -1, "canonical": "Special", "*": "Maalum"},
            },
            "namespacealiases": [{"id": 6, "*": "Faili"}],
        }
    }
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(json.dumps(site).encode(), mtime=0))
    assert read_namespaces(tmp_path / "x.json.gz") == {"File", "Picha", "Faili", "Special", "Maalum"}
    for bad in (b"[]", b"{", b'{"query": {}}'):
        (tmp_path / "bad.json").write_bytes(bad)
        with pytest.raises(BadShard, match="not a list of a site's namespaces"):
            read_namespaces(tmp_path / "bad.json")
