"""`worldclip inspect RUN/metadata`: the table of lists, and why an entry is in a list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entry_lists import build, recipe, write_lists, write_wordnet
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.tools.inspect_metadata import find_entry, inspect, inspect_lists, is_metadata, lists_to_text

SWAHILI = ["paka\t5", "simba\t9", "Simba\t9", "simba dume\t2", "caf\u00e9\t1", "cafe\u0301\t1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """RUN/metadata of Swahili, a list, and Thai, of a wordnet."""
    place = tmp_path_factory.mktemp("inspected")
    loaded = recipe(
        ["sw", "th"],
        sources=["number", "wordnet"],
        lists=write_lists(place, sw=SWAHILI),
        wordnets={"th": write_wordnet(place / "wn.tab", "tha", "แมว")},
    )
    build(loaded, place / "run")
    return place / "run/metadata"


def test_lists_have_sources_dead_entries_and_bytes(folder):
    lists = inspect_lists(folder)
    assert list(lists) == ["sw", "th"]
    assert lists["sw"]["entries"] == 6
    assert lists["sw"]["by_source"] == {"list": 6}
    assert lists["sw"]["dead"] == {"unicode": 1}
    assert lists["sw"]["entries_bytes"] == (folder / "sw.parquet").stat().st_size
    compiled = sum(path.stat().st_size for path in (folder / "sw.matcher/unicode").iterdir())
    assert lists["sw"]["matcher_bytes"]["unicode"] == compiled
    _, text = inspect(folder)
    lines = text.splitlines()
    assert lines[0].split() == [
        "list", "entries", "number", "wordnet", "list", "dead,", "unicode", "bytes", "matcher", "bytes",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == ["th", "sw", "all"]
    assert lines[2].split()[:7] == ["sw", "Swahili", "6", "0", "0", "6", "1"]
    assert lines[3].split()[:6] == ["all", "107", "100", "1", "6", "1"]


def test_columns_of_sources_are_in_list_order():
    one, two = ({"name": "x", "entries": 2, "by_source": {}, "dead": {}, "matcher_bytes": {}} for _ in "ab")
    one["by_source"], two["by_source"] = {"number": 1, "list": 1}, {"unigram": 1, "title": 1}
    text = lists_to_text({"aa": {**one, "entries_bytes": 1}, "ab": {**two, "entries_bytes": 1}})
    assert text.split()[1:6] == ["entries", "number", "unigram", "title", "list"]


def test_entry_has_source_score_and_rank(folder):
    record = find_entry(folder, "sw", "paka")
    assert (record["entry_id"], record["source"], record["score"]) == (0, "list", 5.0)
    assert (record["rank"], record["of_source"], record["dead"]) == (3, 6, {})
    assert (record["holding"], record["num_holding"]) == ([], 0)
    assert find_entry(folder, "sw", "Simba")["rank"] == 1
    assert find_entry(folder, "sw", "simba")["holding"] == ["simba dume"]
    wordnet = find_entry(folder, "th", "แมว")
    assert (wordnet["source"], wordnet["score"], wordnet["rank"]) == ("wordnet", None, None)
    _, text = inspect(folder, "sw", "paka")
    assert text.splitlines() == [
        "'paka' is entry 0 of sw (Swahili), from list",
        "  rank 3 of 6 from list; score: 5",
    ]


def test_dead_entry_names_the_earlier_entry_it_equals(folder):
    assert find_entry(folder, "sw", "cafe\u0301")["dead"] == {"unicode": "caf\u00e9"}
    _, text = inspect(folder, "sw", "cafe\u0301")
    assert "never matches under profile unicode: it equals the earlier entry 'caf\u00e9' there" in text


def test_missing_entry_has_similar_entries(folder):
    record = find_entry(folder, "sw", "simbaa")
    assert (record["is_there"], record["near"][0]) == (False, "simba")
    _, text = inspect(folder, "sw", "simbaa")
    assert text.startswith("'simbaa' is not an entry of sw (Swahili)\n  similar entries: 'simba'")
    assert find_entry(folder, "sw", "dume")["holding"] == ["simba dume"]


def test_user_errors_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="has no list 'yo'"):
        find_entry(folder, "yo", "x")
    with pytest.raises(UserError, match="--find and --lang go together"):
        inspect(folder, "sw")
    (tmp_path / "metadata").mkdir()
    assert is_metadata(tmp_path / "metadata")
    with pytest.raises(UserError, match="is not finished"):
        inspect(tmp_path / "metadata")


def test_inspect_command(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    assert "Swahili" in capsys.readouterr().out
    assert main(["inspect", str(folder), "--lang", "sw", "--find", "simba"]) == 0
    assert "rank 1 of 6 from list" in capsys.readouterr().out
    assert main(["inspect", str(folder), "--lang", "sw", "--find", "simba", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rank"] == 1
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lists"]["th"]["entries"] == 101
