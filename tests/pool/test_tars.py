"""Texts and images of tar shards: grouped, damaged, and cut while they are read."""

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pools import Row, images_of, read_rows, rows_of, texts_of, write_table
from tars import PNG, sample, shard_of, write_tar
from worldclip import pool
from worldclip.core.errors import BadShard
from worldclip.kernels import tar_headers
from worldclip.pool.config import PoolConfig
from worldclip.pool.stage import index_shard

CONFIG = PoolConfig(path="pool")
BY_FIELD = PoolConfig(path="pool", key="json:uid", texts=("json:text",))
# members of a tar; keys of [pool], or the name of the shard; the texts of the tar
TEXTS_OF_MEMBERS: dict[str, tuple[list[tuple[str, bytes]], dict[str, Any], list[Row]]] = {
    "a character split over two texts": (
        [("0.txt", b"a\xe2\x82"), ("1.txt", b"\xacb")],
        {},
        [("0", 0, None, "bad_pair"), ("1", 0, None, "bad_pair")],
    ),
    "keys begin with the folder of the tar": (
        [*sample("x/000", "one"), *sample("./y/0.5", "two")],
        {"name": "root/part/000.tar"},
        [("root/part/x/000", 0, "one", "kept"), ("root/part/y/0", 0, None, "no_text")],
    ),
    "a name that is not UTF-8": (
        [(b"\xff\xfe0.txt".decode("utf-8", "surrogateescape"), b"text"), *sample("1", "fine")],
        {},
        [("\\xff\\xfe0", 0, None, "bad_pair"), ("1", 0, "fine", "kept")],
    ),
    "a .txt counts before a .json": (
        [("0.json", b'{"texts": ["of", "the", "record"]}'), ("0.txt", b"of a file"), ("1.json", b'{"texts": "two"}')],
        {},
        [("0", 0, "of a file", "kept"), ("1", 0, "two", "kept")],
    ),
    "texts of a sample are in the order of pool.texts": (
        sample("0", "of a file", {"alt": ["a", "b"]}),
        {"texts": ("json:alt", "txt")},
        [("0", 0, "a", "kept"), ("0", 1, "b", "kept"), ("0", 2, "of a file", "kept")],
    ),
}


@pytest.mark.parametrize("case", TEXTS_OF_MEMBERS)
def test_texts_of_a_tar(case: str, tmp_path: Path) -> None:
    members, settings, expected = TEXTS_OF_MEMBERS[case]
    assert read_rows(write_tar(tmp_path / "000000.tar", members), **settings) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{'texts': ", "cannot be read"),
        (b'{"texts": "\xff"}', "not UTF-8"),
        (b"[1]", "list, not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"texts": 3}', "int, not a text"),
        (b'{"texts": "a", "n": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b'{"texts": "\\ud83d"}', "lone surrogate"),
    ],
    ids=range(7),
)
def test_bad_json_drops_only_its_pair(tmp_path: Path, content: bytes, reason: str) -> None:
    members = [*sample("0", None, {"texts": "good"}), ("1.jpg", PNG), ("1.json", content)]
    texts = texts_of(shard_of(write_tar(tmp_path / "0.tar", members)), CONFIG)
    assert rows_of(texts) == [("0", 0, "good", "kept"), ("1", 0, None, "bad_pair")]
    (bad,) = texts.bad
    assert bad["key"] == "1"
    assert reason in bad["reason"]


def test_reported_bad_samples_are_capped_and_deterministic(tmp_path: Path) -> None:
    members = [(f"{n}.json", b"?") for n in range(100)]
    path = write_tar(tmp_path / "0.tar", members)
    chosen = texts_of(shard_of(path), CONFIG).bad
    assert len(chosen) == 20
    assert chosen == texts_of(shard_of(write_tar(tmp_path / "1.tar", members[::-1])), CONFIG).bad


def test_index_holds_first_image_of_each_key_and_counts_members_without_stem_or_suffix(tmp_path: Path) -> None:
    members = [
        *(("README", b"x"), (".hidden", b"x"), ("a/._0.jpg", b"x"), ("b.", b"x")),
        *(("0.webp", b"zero"), ("0.mask.png", b"?"), ("0.JPG", b"second")),
        *sample("1", "no image after this"),
        *(("2.txt", b"no image"), ("0.jpg", b"duplicate")),
    ]
    shard = shard_of(write_tar(tmp_path / "sub" / "000.tar", members), "sub/000.tar")
    report = index_shard(shard, config=CONFIG, run_dir=tmp_path / "run", needs_texts=True)
    index = pool.read_images(tmp_path / "run", shard.name, pool.EVERY_KEY).to_pylist()
    assert [(row["key"], row["member"]) for row in index] == [("sub/0", "0.webp"), ("sub/1", "1.jpg")]
    assert [pool.read_member(shard.path, row["offset"], row["size"]) for row in index] == [b"zero", PNG + b"1"]
    counts = {"rows": 4, "left_out": 0, "samples": 4, "images": 2, "ignored_members": 4, "texts": 2}
    assert {name: report[name] for name in counts} == counts


def test_place_that_is_not_in_a_tar_is_bad_shard(tmp_path: Path) -> None:
    """The tar shrank after it was indexed, or the index is somebody else's."""
    (tmp_path / "0.tar").write_bytes(b"short")
    for offset, size in ((0, 100), (100, 4), (2**62, 4), (-4, 4), (-(2**62), 2**62 + 4), (0, 2**62), (4, -4)):
        with pytest.raises(BadShard, match="changed after it was indexed"):
            pool.read_member(tmp_path / "0.tar", offset, size)


@pytest.mark.parametrize("when", ["before", "after"])
def test_readers_of_a_tar_that_is_cut_meanwhile_fail_the_shard(tmp_path: Path, monkeypatch, when: str) -> None:
    """A map of such a file (rsync --inplace, a full file server) would end the process with SIGBUS."""
    records = [(f"{n:06}", f"text {n}" * 90, {"uid": f"k{n}", "text": "x" * 900}) for n in range(400)]
    plain_scan = tar_headers.scan

    def cut_and_scan(window):
        members = plain_scan(window) if when == "after" else None
        os.truncate(path, path.stat().st_size // 2)
        window.bounds[:] = 0  # what is in memory stays readable
        return members or plain_scan(window)

    monkeypatch.setattr(tar_headers, "scan", cut_and_scan)
    for read in (
        lambda shard: texts_of(shard, CONFIG),
        lambda shard: texts_of(shard, BY_FIELD),
        lambda shard: list(images_of(shard, CONFIG)[1]),
    ):
        path = write_tar(tmp_path / "0.tar", [member for record in records for member in sample(*record)])
        with pytest.raises(BadShard, match="cut off while it was read"):
            read(shard_of(path))


def test_reader_of_a_table_that_is_cut_meanwhile_fails_the_shard(tmp_path: Path, monkeypatch) -> None:
    uids = [f"uid {number * 7919:09}" for number in range(50_000)]
    path = write_table(tmp_path / "0.parquet", {"uid": uids, "text": uids}, row_group_size=5000)
    plain_file = pq.ParquetFile

    def open_and_cut(file, **how):
        opened = plain_file(file, **how)
        os.truncate(path, path.stat().st_size // 2)
        return opened

    monkeypatch.setattr(pq, "ParquetFile", open_and_cut)
    with pytest.raises(BadShard, match="damaged"):
        read_rows(path, key="uid")
