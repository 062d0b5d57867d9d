"""Whole lists: lines, JSON arrays and lists of a run; by file, by folder, at an address.  The rules of entries."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import entry_lists
import worldclip
from entry_lists import QUIET, build, manifest_of, scores, words, write_lines, write_lists
from killed import modified
from plain_recipe import LISTS, make_recipe, make_shards, write_pool
from stages import run_stage
from worldclip import metadata
from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import write_table
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.metadata.entry_list import EntryList, is_punctuation
from worldclip.metadata.lists import read_list, write_whole_list


def of_a_run(folder: Path, **lists: list[str]) -> Path:
    """Return RUN/metadata with these lists."""
    build(entry_lists.recipe(sorted(lists), lists=write_lists(folder, **lists)), folder / "run")
    return folder / "run/metadata"


# --- the rules of entries ---------------------------------------------------------------------------------------------


def test_rules_drop_and_count_candidates() -> None:
    built = EntryList()
    candidates = ["cat", " cat ", "", "...", "—！", "x" * 257, "y" * 256, "\ud800", "$", "c'est", "🐈", "ก็"]
    built.add("list", ((entry, None) for entry in candidates), max_chars=256)
    assert list(built.entries) == ["cat", "y" * 256, "c'est", "🐈", "ก็"]
    dropped = {"empty": 1, "punctuation": 3, "too_long": 1, "not_text": 1, "duplicate": 1}
    assert built.rules["list"] == {"in": 12, **dropped, "kept": 5}


@settings(deadline=None)  # a busy machine stands still longer than this takes
@given(st.lists(st.tuples(st.sampled_from(["number", "wordnet", "list"]), st.lists(st.text(max_size=4), max_size=6))))
def test_every_candidate_is_kept_or_dropped_for_one_reason(batches: list[tuple[str, list[str]]]) -> None:
    built = EntryList()
    for source, candidates in batches:
        before = dict(built.rules.get(source, {}))
        num_kept = built.add(source, ((entry, None) for entry in candidates), max_chars=3)
        counts = {rule: count - before.get(rule, 0) for rule, count in built.rules[source].items()}
        assert counts["in"] == len(candidates) == sum(counts.values()) - counts["in"]
        assert num_kept == counts["kept"]
    assert len(built.entries) == len(built.table()) == len(built.scores)
    assert not any(is_punctuation(entry) for entry in built.entries)


# --- lines and JSON ---------------------------------------------------------------------------------------------------


def test_lines_may_hold_scores_and_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffmbwa\t12.5\npaka\n\na\u2028b\r\nc\x0bd\t3\r\n".encode())
    assert list(read_list(str(path))) == [("mbwa", 12.5), ("paka", None), ("a\u2028b", None), ("c\x0bd", 3.0)]


BROKEN = {
    "object": ("x.json", b'{"a": 1}', "not a JSON array"),
    "numbers": ("x.json", b"[1]", "not a JSON array of strings"),
    "cut JSON": ("x.json", b"[", "invalid JSON"),
    "nested JSON": ("x.json", b"[" * 100_000, "invalid JSON"),
    "words for a score": ("x.txt", b"good\t1\nbad\tmany\n", "line 2: score 'many' after the tab is not a number"),
    "no number for a score": ("x.txt", b"bad\tnan\n", "line 1: score 'nan' after the tab is not a number"),
    "no UTF-8": ("x.txt", b"good\n\xff\xfe\n", "line 2: not UTF-8"),
    "no gzip": ("x.txt.gz", b"<html>", "cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_list_is_bad_shard_with_file_and_line(case: str, tmp_path: Path) -> None:
    name, data, message = BROKEN[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadShard, match=message) as caught:
        list(read_list(str(tmp_path / name)))
    assert str(tmp_path / name) in str(caught.value)


def test_a_list_is_all_that_its_language_has_and_sources_build_the_others(tmp_path: Path) -> None:
    """The English list of version 1 is a JSON array."""
    published = ["0", "dog", "New York", "Dog", "na\u00efve", " C++ ", "dog", "!!!", "x" * 300]
    write_lines(tmp_path / "metadata.json.gz", json.dumps(published))
    config = {"sources": ["number", "wordnet"], "lists": {"en": str(tmp_path / "metadata.json.gz")}}
    config["wordnets"] = {"de": entry_lists.write_wordnet(tmp_path / "de.tab", "deu", "Hund")}
    report = build(entry_lists.recipe(["de", "en"], **config), tmp_path / "run")
    assert words(tmp_path / "run", "en") == [*published[:5], "C++"]
    assert report["lists"]["en"]["by_source"] == {"list": 6}
    assert words(tmp_path / "run", "de")[98:] == ["98", "99", "Hund"]
    (record,) = manifest_of(tmp_path / "run")["sources"]["en"]
    assert (record["source"], record["path"], record["licence"]) == ("list", "metadata.json.gz", "not stated")
    assert len(record["sha256"]) == 64


@pytest.mark.parametrize(
    ("lines", "message"), [(["katt", "hund"], "2 are longer than metadata.max_chars = 1"), ([], "no entry of sv")]
)
def test_a_list_without_an_entry_fails_its_language_alone(lines: list[str], message: str, tmp_path: Path) -> None:
    lists = write_lists(tmp_path, sv=lines, de=["a"])
    with pytest.raises(StageFailed, match=message) as caught:
        build(entry_lists.recipe(["de", "sv"], lists=lists, max_chars=1), tmp_path / "run")
    assert list(caught.value.failures) == ["sv"]


# --- lists of a run ---------------------------------------------------------------------------------------------------


def test_folder_of_a_run_gives_all_its_lists_and_curates_the_same_pairs(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", make_shards(seed=3, num_shards=1))
    first = make_recipe(tmp_path / "pool", metadata={"lists": write_lists(tmp_path, **LISTS)})
    worldclip.run(first, out=tmp_path / "first", until="curate", executor=QUIET)
    shutil.copytree(tmp_path / "first/metadata", tmp_path / "shared")
    for number, codes in enumerate(([], sorted(LISTS))):  # without codes the languages are those of the folder
        config = {"languages": {"codes": codes}, "metadata": {"lists": str(tmp_path / "shared")}}
        out = tmp_path / f"mine{number}"
        worldclip.run(make_recipe(tmp_path / "pool", **config), out=out, until="curate", executor=QUIET)
        for folder, pattern in (("metadata", "*.parquet"), ("curate", "**/*.parquet")):
            theirs = {path.name: path.read_bytes() for path in (tmp_path / "first" / folder).glob(pattern)}
            assert theirs
            assert {path.name: path.read_bytes() for path in (out / folder).glob(pattern)} == theirs


def test_list_of_a_run_keeps_sources_and_scores(tmp_path: Path) -> None:
    folder = of_a_run(tmp_path, sw=["simba\t3", "caf\u00e9", "cafe\u0301"])
    table = pq.read_table(folder / "sw.parquet").set_column(2, "source", pa.array(["title", "list", "list"]))
    write_table(tmp_path / "sw.parquet", table, METADATA)
    report = build(entry_lists.recipe(["sw"], lists={"sw": str(tmp_path / "sw.parquet")}), tmp_path / "mine")
    assert scores(tmp_path / "mine", "sw") == {"simba": 3.0, "caf\u00e9": None, "cafe\u0301": None}
    assert report["lists"]["sw"]["by_source"] == {"title": 1, "list": 2}
    assert report["lists"]["sw"]["dead"] == {"unicode": 1}
    assert metadata.load_matcher(tmp_path / "mine", "sw", "unicode").match("Simba, simba!").tolist() == [0]


def test_lists_at_an_address_are_read_and_a_changed_one_is_rebuilt_alone(tmp_path: Path) -> None:
    folder = of_a_run(tmp_path, sw=["simba"], th=["แมว"])
    store = fsspec.filesystem("memory")
    for lang in ("sw", "th"):
        store.pipe(f"/lists/{lang}.parquet", (folder / f"{lang}.parquet").read_bytes())
    store.pipe("/lists/yo.txt", "kìnnìún\n".encode())
    run_dir = tmp_path / "mine"
    named = {"sw": "memory://lists/sw.parquet", "yo": "memory://lists/yo.txt"}
    build(entry_lists.recipe(["sw", "yo"], lists=named), tmp_path / "named")
    assert words(tmp_path / "named", "yo") == ["kìnnìún"]
    loaded = entry_lists.recipe([], lists="memory://lists")
    assert run_stage("metadata", loaded, run_dir, QUIET)
    assert not run_stage("metadata", loaded, run_dir, QUIET)
    before = modified(run_dir / "metadata", "*.parquet")
    store.pipe("/lists/sw.parquet", (of_a_run(tmp_path / "new", sw=["simba", "paka"]) / "sw.parquet").read_bytes())
    assert run_stage("metadata", loaded, run_dir, QUIET)
    after = modified(run_dir / "metadata", "*.parquet")
    assert [path.stem for path in after if after[path] == before[path]] == ["th"]
    assert words(run_dir, "sw") == ["simba", "paka"]


def test_mistakes_in_lists_are_named(tmp_path: Path) -> None:
    folder = of_a_run(tmp_path, sw=["simba"])
    kea = {"name": "Kabuverdianu", "script": "Latn"}
    shutil.copy(folder / "sw.parquet", folder / "kea.parquet")
    build(entry_lists.recipe(["sw"], lists=str(folder)), tmp_path / "mine")  # kea is not asked for
    build(entry_lists.recipe([], {"languages": {"add": {"kea": kea}}}, lists=str(folder)), tmp_path / "mine")
    assert sorted(manifest_of(tmp_path / "mine")["counts"]) == ["kea", "sw"]
    (tmp_path / "empty").mkdir()
    wordnet = {"wordnets": {"sw": entry_lists.write_wordnet(tmp_path / "sw.tab", "swh", "simba")}}
    for config, message in (
        ({"lists": str(folder)}, r"unknown languages kea; add them \(\[languages.add.kea\]"),
        ({"lists": str(tmp_path / "empty")}, "holds no list"),
        ({"lists": str(tmp_path / "none")}, "no such folder"),
        ({"lists": "nowhere://lists"}, "cannot be listed"),
        ({"lists": {"sw": "memory://lists/none.txt"}}, "sw: memory://lists/none.txt: cannot be read"),
        ({"lists": {"sw": str(folder / "sw.parquet")}, **wordnet}, "metadata.lists.sw is the whole list of sw"),
    ):
        codes = ["sw"] if isinstance(config["lists"], dict) else []
        with pytest.raises((UserError, StageFailed), match=message):
            build(entry_lists.recipe(codes, **config), tmp_path / "mine")


def forged(table: pa.Table, change: str) -> pa.Table:
    """Return a list that is none, as somebody may send it."""
    columns: dict[str, Any] = {
        "repeated entries": ("entry", pa.array(["a", "a", "b"])),
        "an entry that is null": ("entry", pa.array(["a", None, "b"])),
        "other numbers": ("entry_id", pa.array([0, 2, 1], pa.int32())),
        "numbers of another kind": ("entry_id", pa.array([0, 1, 2], pa.int64())),
        "a source that is null": ("source", pa.array(["list", None, "list"]).dictionary_encode()),
        "bytes that are no text": ("entry", pc.cast(pa.array([b"a", b"\xff", b"b"]), pa.string(), safe=False)),
    }
    name, column = columns[change]
    changed = table.set_column(table.column_names.index(name), name, column)
    return changed.replace_schema_metadata(METADATA.metadata)


CHANGES = (
    *("repeated entries", "an entry that is null", "other numbers", "numbers of another kind"),
    *("a source that is null", "bytes that are no text"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_forged_list_of_a_run_is_refused_and_leaves_no_list(change: str, tmp_path: Path) -> None:
    table = pq.read_table(of_a_run(tmp_path, sw=["a", "b", "c"]) / "sw.parquet")
    path = tmp_path / "forged.parquet"
    pq.write_table(forged(table, change), path)
    with pytest.raises(BadShard, match=r"forged\.parquet: not a (readable )?list of a run"):
        write_whole_list(str(path), tmp_path / "out.parquet", 256)
    assert not (tmp_path / "out.parquet").exists()


def test_damaged_list_of_a_run_is_refused_or_whole(tmp_path: Path) -> None:
    whole = (of_a_run(tmp_path, sw=[f"word{n}\t{n}" for n in range(50)]) / "sw.parquet").read_bytes()
    draw = random.Random(0)
    num_refused = 0
    for _ in range(300):
        content = bytearray(whole)
        at = draw.randrange(len(content))
        content[at] = draw.randrange(256)
        (tmp_path / "x.parquet").write_bytes(content[: draw.choice([len(content), at])])
        try:
            table, _ = write_whole_list(str(tmp_path / "x.parquet"), tmp_path / "out.parquet", 256)
        except BadShard:
            num_refused += 1
        else:
            assert len(table) == 50
    assert num_refused > 200
