"""Texts and images of tar shards."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pools import Row, read_rows, rows_of
from programs import output_of
from tars import PNG, as_json, sample, shard_of, write_tar
from worldclip import pool
from worldclip.contracts.reasons import Reason
from worldclip.core.errors import BadShard
from worldclip.pool.config import PoolConfig
from worldclip.pool.stage import index_shard

CONFIG = PoolConfig(path="pool")


# members of a tar; keys of [pool], or the name of the shard; the texts of the tar
TEXTS_OF_MEMBERS: dict[str, tuple[list[tuple[str, bytes]], dict[str, Any], list[Row]]] = {
    "nothing": ([], {}, []),
    "a .txt per sample": (
        [*sample("000000", "a red apple", {"caption": "not this"}), *sample("000001", "تفاحة حمراء")],
        {},
        [("000000", 0, "a red apple", "kept"), ("000001", 0, "تفاحة حمراء", "kept")],
    ),
    "text_idx is the position in the stored list": (
        sample("7", None, {"texts": ["one", "", None, " \u3000", "five"]}),
        {},
        [("7", 0, "one", "kept"), *(("7", i, None, "no_text") for i in (1, 2, 3)), ("7", 4, "five", "kept")],
    ),
    "all fields in the order of the config": (
        sample("7", "from txt", {"titles": ["t1", "t2"], "alt": "a"}),
        {"texts": ("json:alt", "json:titles", "txt", "json:absent")},
        [("7", i, text, "kept") for i, text in enumerate(("a", "t1", "t2", "from txt"))],
    ),
    "a sample without text is one row": (
        [*sample("0"), *sample("1", ""), *sample("2", None, {"texts": []}), *sample("3", None, {"width": 3})],
        {},
        [(str(stem), 0, None, "no_text") for stem in range(4)],
    ),
    "a text of NULs is empty": (
        [*sample("0", "\0 \0"), *sample("1", "a\0b")],
        {},
        [("0", 0, None, "no_text"), ("1", 0, "a\0b", "kept")],
    ),
    "a bad text in a list drops only itself": (
        sample("7", None, {"texts": ["one", "\ud800", 3, "four"]}),
        {},
        [("7", 0, "one", "kept"), ("7", 1, None, "bad_pair"), ("7", 2, None, "bad_pair"), ("7", 3, "four", "kept")],
    ),
    "a .txt that is not UTF-8 drops only its pair": (
        [("0.txt", b"\xe2"), ("1.txt", b"\x82\xac"), ("2.txt", b"fine"), ("3.txt", b"\xed\xa0\x80")],
        {},
        [("0", 0, None, "bad_pair"), ("1", 0, None, "bad_pair"), ("2", 0, "fine", "kept"), ("3", 0, None, "bad_pair")],
    ),
    "a character split over two texts": (
        [("0.txt", b"a\xe2\x82"), ("1.txt", b"\xacb")],
        {},
        [("0", 0, None, "bad_pair"), ("1", 0, None, "bad_pair")],
    ),
    "the first of duplicate keys is kept and texts of others are counted": (
        [
            *sample("a", None, {"texts": ["1", "2"]}),
            *sample("b", None, {"texts": ["3"]}),
            *sample("a", None, {"texts": ["4", "", "\ud800"]}),
        ],
        {},
        [
            *(("a", 0, "1", "kept"), ("a", 1, "2", "kept"), ("b", 0, "3", "kept")),
            *(("a", 0, None, "duplicate"), ("a", 1, None, "duplicate"), ("a", 2, None, "bad_pair")),
        ],
    ),
    "a repeated suffix begins a duplicate sample": (
        [*sample("a", "first"), *sample("a", "second")],
        {},
        [("a", 0, "first", "kept"), ("a", 0, None, "duplicate")],
    ),
    "keys begin with the folder of the tar": (
        [*sample("x/000", "one"), *sample("./y/0.5", "two")],
        {"name": "root/part/000.tar"},
        [("root/part/x/000", 0, "one", "kept"), ("root/part/y/0", 0, None, "no_text")],
    ),
    "keys of a tar in the root": (
        [*sample("x/000", "one"), *sample("./y/0.5", "two")],
        {"name": "000.tar"},
        [("x/000", 0, "one", "kept"), ("y/0", 0, None, "no_text")],
    ),
    "keys from a field": (
        [
            *sample("0", "zero", {"uid": "k0"}),
            *sample("1", "one", {"uid": 12}),
            *sample("2", "two", {"uid": None}),
            *sample("3", "three"),
            *sample("4", "four", {"uid": "k0"}),
            *sample("5", "five", {"uid": "\ud800"}),
            *sample("6", "six", {"uid": ""}),
        ],
        {"key": "json:uid"},
        [
            *(("k0", 0, "zero", "kept"), ("12", 0, "one", "kept"), ("2", 0, None, "bad_pair")),
            *(("3", 0, None, "bad_pair"), ("k0", 0, None, "duplicate")),
            *(("5", 0, None, "bad_pair"), ("6", 0, None, "bad_pair")),
        ],
    ),
    "a name that is not UTF-8": (
        [(b"\xff\xfe0.txt".decode("utf-8", "surrogateescape"), b"text"), *sample("1", "fine")],
        {},
        [("\\xff\\xfe0", 0, None, "bad_pair"), ("1", 0, "fine", "kept")],
    ),
}


@pytest.mark.parametrize("case", TEXTS_OF_MEMBERS)
def test_texts_of_a_tar(case: str, tmp_path: Path) -> None:
    members, settings, expected = TEXTS_OF_MEMBERS[case]
    assert read_rows(write_tar(tmp_path / "000000.tar", members), **settings) == expected


BAD_RECORDS = {
    "not JSON": (b"{'texts': ", "cannot be read"),
    "not UTF-8": (b'{"texts": "\xff"}', "not UTF-8"),
    "not an object": (b"[1]", "list, not an object"),
    "too deep": (b"[" * 100_000, "nested too deeply"),
    "number": (b'{"texts": 3}', "int, not a text"),
    "object": (b'{"texts": [{"a": "b"}]}', "dict, not a text"),
    "huge number": (b'{"texts": "a", "n": ' + b"9" * 5000 + b"}", "cannot be read"),
    "lone surrogate": (b'{"texts": "\\ud83d"}', "lone surrogate"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_json_drops_only_its_pair(tmp_path: Path, case: str) -> None:
    content, reason = BAD_RECORDS[case]
    members = [*sample("0", None, {"texts": "good"}), ("1.jpg", PNG), ("1.json", content)]
    texts = pool.read_texts(shard_of(write_tar(tmp_path / "0.tar", members)), CONFIG)
    assert rows_of(texts) == [("0", 0, "good", "kept"), ("1", 0, None, "bad_pair")]
    assert len(texts.bad) == 1
    assert reason in texts.bad[0]["reason"]
    assert texts.bad[0]["key"] == "1"


def test_members_without_stem_or_suffix_are_ignored(tmp_path: Path) -> None:
    members = [("README", b"x"), (".hidden", b"x"), ("a/._0.jpg", b"x"), ("b.", b"x"), *sample("0", "text")]
    path = write_tar(tmp_path / "0.tar", members)
    assert [key for key, *_ in read_rows(path)] == ["0"]
    assert pool.index_of(shard_of(path), CONFIG)[1]["ignored_members"] == 4


@pytest.mark.parametrize(("content", "problem"), [(b"", None), (b"x" * 5000, None), (None, "cannot be read")])
def test_file_that_is_no_tar_or_missing_is_bad_shard(tmp_path: Path, content: bytes | None, problem) -> None:
    if content is not None:
        (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(BadShard, match=problem):
        pool.read_texts(shard_of(tmp_path / "0.tar"), CONFIG)


def test_reported_bad_samples_are_capped_and_deterministic(tmp_path: Path) -> None:
    members = [(f"{n}.json", b"?") for n in range(100)]
    path = write_tar(tmp_path / "0.tar", members)
    chosen = pool.read_texts(shard_of(path), CONFIG).bad
    assert len(chosen) == 20
    assert chosen == pool.read_texts(shard_of(write_tar(tmp_path / "1.tar", members[::-1])), CONFIG).bad


def test_index_holds_first_image_of_each_key(tmp_path: Path) -> None:
    members = [
        ("0.webp", b"zero"),
        ("0.mask.png", b"?"),
        ("0.JPG", b"second"),
        *sample("1", "no image after this"),
        ("2.txt", b"no image"),
        ("0.jpg", b"duplicate"),
    ]
    shard = shard_of(write_tar(tmp_path / "sub" / "000.tar", members), "sub/000.tar")
    report = index_shard(CONFIG, tmp_path / "run/pool/index", shard)
    index = pool.read_index(tmp_path / "run", shard).to_pylist()
    assert [(row["key"], row["member"]) for row in index] == [("sub/0", "0.webp"), ("sub/1", "1.jpg")]
    assert [pool.read_member(shard.path, row["offset"], row["size"]) for row in index] == [b"zero", PNG + b"1"]
    assert report == {"pairs": 4, "images": 2, "ignored_members": 0, "left_out": 0}


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 100), (100, 4), (2**62, 4), (-4, 4), (-(2**62), 2**62 + 4), (0, 2**62), (4, -4)]
)
def test_place_that_is_not_in_a_tar_is_bad_shard(offset: int, size: int, tmp_path: Path) -> None:
    """The tar shrank after it was indexed, or the index is somebody else's."""
    (tmp_path / "0.tar").write_bytes(b"short")
    with pytest.raises(BadShard, match="changed after it was indexed"):
        pool.read_member(tmp_path / "0.tar", offset, size)


# Plain and slow: the same rules over dicts.


def plain_read(members: list[tuple[str, bytes]]) -> list[tuple[str, int, str | None, str]]:
    samples: list[tuple[str, dict[str, bytes]]] = []
    for name, content in members:
        stem, suffix = name.split(".", 1)
        if not samples or samples[-1][0] != stem or suffix in samples[-1][1]:
            samples.append((stem, {}))
        samples[-1][1][suffix] = content
    rows, seen = [], set()
    for stem, parts in samples:
        texts: list[object] = []
        if "txt" in parts:
            texts = [parts["txt"]]
        elif "json" in parts:
            try:
                record = json.loads(parts["json"].decode())
            except ValueError:
                record = None
            value = record.get("texts", []) if isinstance(record, dict) else b"\xff"
            texts = value if isinstance(value, list) else [value]
        for text_idx, text in enumerate(texts or [None]):
            rows.append((stem, text_idx, *plain_reason(text, stem in seen)))
        seen.add(stem)
    return rows


def plain_reason(text: object, is_duplicate: bool) -> tuple[str | None, str]:
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        is_bad = decoded is not None and not isinstance(decoded, str)
        if isinstance(decoded, str):
            decoded.encode()
    except ValueError:
        is_bad = True
    if is_bad:
        return None, "bad_pair"
    if is_duplicate:
        return None, "duplicate"
    return (decoded, "kept") if (decoded or "").replace("\0", "").strip() else (None, "no_text")


LETTERS = st.sampled_from(["a", " ", "\0", "é", "ก", "😀", "\ud800", "\u3000", "\x85", "\x1c", "\n", "\\", '"'])
TEXTS = st.lists(LETTERS, max_size=4).map("".join)
VALUES = st.one_of(TEXTS, st.none(), st.integers(0, 3), st.booleans(), st.lists(TEXTS, max_size=2))
RECORDS = st.one_of(
    st.fixed_dictionaries({"texts": st.one_of(VALUES, st.lists(VALUES, max_size=3))}).map(as_json),
    st.sampled_from([b"", b"{", b"[]", b"null", b'{"texts": "\xff"}', b"{}"]),
)
MEMBERS = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.one_of(
        st.tuples(
            st.just("txt"), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=3)
        ),
        st.tuples(st.just("json"), RECORDS),
        st.tuples(st.sampled_from(["jpg", "png"]), st.binary(max_size=3)),
    ),
).map(lambda item: (f"{item[0]}.{item[1][0]}", item[1][1]))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MEMBERS, max_size=10))
def test_texts_and_reasons_agree_with_plain_implementation(tmp_path: Path, members) -> None:
    texts = pool.read_texts(shard_of(write_tar(tmp_path / "0.tar", members)), CONFIG)
    expected = plain_read(members)
    assert rows_of(texts) == expected
    assert sum(np.bincount(texts.reason, minlength=len(Reason))) == len(expected)
    assert min(20, Counter(reason for *_, reason in expected)["bad_pair"]) == len(texts.bad)


def test_real_pool_of_photographs_has_no_bad_text(shared: Path) -> None:
    path = shared / "data/imagenet_samples/samples-000000.tar"
    config = PoolConfig(path=str(path.parent), texts=("json:name",), key="json:wnid")
    texts = pool.read_texts(shard_of(path), config)
    assert len(texts.key) == 300
    assert (texts.reason == Reason.KEPT).all()


@pytest.mark.skipif("GNU tar" not in os.popen("tar --version 2>&1").read(), reason="writes sparse files with GNU tar")
@pytest.mark.parametrize("tar_format", ["gnu", "posix"])
def test_tar_with_a_sparse_member_is_refused(tmp_path: Path, tar_format: str) -> None:
    for name, content in (*sample("000", "zero"), *sample("001", "one")):
        (tmp_path / name).write_bytes(content)
    with open(tmp_path / "000.jpg", "r+b") as file:
        file.truncate(1 << 20)  # with a hole
        file.seek(0, 2)
        file.write(PNG)
    names, path = sorted(path.name for path in tmp_path.iterdir()), tmp_path / "0.tar"
    output_of(["tar", f"--format={tar_format}", "--sparse", "-cf", path, "-C", tmp_path, *names])
    if path.stat().st_size > 1 << 20:
        pytest.skip("the file system does not say where holes are")
    with pytest.raises(BadShard, match="is stored as a sparse file"):
        pool.read_texts(shard_of(path), CONFIG)
