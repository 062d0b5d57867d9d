"""`worldclip pool wat` and the WARC reader: texts, order, resume, damaged files."""

import contextlib
import gzip
import io
import itertools
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import killed
from stages import QUIET
from tars import as_json
from worldclip import pool
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.plugins.crawl import warc, wat
from worldclip.plugins.crawl.urls import key_of_url, normalise
from worldclip.plugins.crawl.warc import iter_records
from worldclip.plugins.crawl.wat import REASONS, build_wat
from worldclip.pool.config import PoolConfig

PAGE = "http://example.org/a/page.html"


def img(url: object, **texts: object) -> dict:
    return {"path": "IMG@/src", "url": url, **texts}


def page(links: object, base: object = None, address: object = PAGE) -> dict:
    html = {"Links": links} | ({"Head": {"Base": base}} if base is not None else {})
    metadata = {"HTTP-Response-Metadata": {"HTML-Metadata": html}}
    return {"Envelope": {"Payload-Metadata": metadata, "WARC-Header-Metadata": {"WARC-Target-URI": address}}}


def record(body: bytes, length: int | str | None = None, newline: str = "\r\n") -> bytes:
    stated = len(body) if length is None else length
    lines = ["WARC/1.0", "WARC-Type: metadata", f"WARC-Target-URI: {PAGE}", f"Content-Length: {stated}", "", ""]
    return newline.join(lines).encode() + body + (newline * 2).encode()


def write_wat(path: Path, pages: Sequence[object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(gzip.compress(record(as_json(one))) for one in pages))
    return str(path)


def build(folder: Path, *pages: object) -> dict:
    """Build FOLDER/out from one file of these pages; every link is counted once."""
    report = build_wat([write_wat(folder / "0.wat.gz", pages)], folder / "out", executor=QUIET)
    lost = sum(report.get(name, 0) for name in REASONS if name != "pairs")
    assert report["links"] == lost + report["links_with_text"]
    return report


def write_three(folder: Path) -> list[str]:
    """Write three files of 300 links to 40 pictures."""
    links = [img(f"/{n % 40}.jpg", alt=f"text {n % 60}") for n in range(300)]
    return [write_wat(folder / f"{n}.wat.gz", [page(links[n::3])]) for n in range(3)]


def pool_of(out: Path) -> dict[str, list[str]]:
    rows = [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert all(row["uid"] == key_of_url(row["url"]) and row["text"] == row["texts"][0] for row in rows)
    assert len({row["url"] for row in rows}) == len(rows)
    return {row["url"]: row["texts"] for row in rows}


ABSOLUTE = img("HTTPS://example.org/a.jpg", alt="a")
LINKS = [
    img("cat.jpg#top", alt="a cat", title="Cat"),
    img("//cdn.example.org/../dog.png", **{"data-image-title": "dog"}),
    {"path": "A@/href", "url": "x.jpg", "text": "no image"},
    img("../cat.jpg", alt=""),
    img("data:image/png;base64,AAAA", alt="inline"),
    img("http://[bad", alt="no URL"),
    img("HTTP://Example.ORG:80/a/./cat.jpg", alt="a cat", title="another name"),
]
PAGES = {
    "links": [page(LINKS)],
    "a page below another base": [page(LINKS, base=" https://base.example/b/ "), page(LINKS)],
    "an invalid address of the page": [page([ABSOLUTE, img("b.jpg", alt="b")], address="http://[bad")],
    "odd records": [
        *(None, [], "text", {"Envelope": None}, {"Envelope": {"Payload-Metadata": "IMG@/src"}}),
        *(page(None), page({"path": "IMG@/src"})),
        page([None, "IMG@/src", 3, img(None, alt="x"), img(["a.jpg"], alt="x")]),
        page(
            [img("a.jpg", alt=["list", "of", None, 3]), img("b.jpg", alt={"not": "text"}), img("c.jpg", alt="\ud800")]
        ),
        page([img("d.jpg", alt="kept")], base=["odd"]),
        page([img("e.jpg", alt="x"), img("http://example.org/f.jpg", alt="kept")], address=None),
    ],
}


@pytest.mark.parametrize("name", PAGES)
def test_links_of_pages_become_rows_with_their_texts_or_are_counted_by_reason(name, tmp_path, snapshot):
    report = build(tmp_path, *PAGES[name])
    assert {"report": report, "pool": pool_of(tmp_path / "out")} == snapshot


@pytest.mark.parametrize("base", ["http://[bad", "http://a b/", "http://example.org:port/", "//", "http://\ud800/"])
def test_an_invalid_base_counts_as_none(tmp_path, base):
    report = build(tmp_path, page([ABSOLUTE, img("c.jpg", alt="c")], base=base))
    assert pool_of(tmp_path / "out") == {"https://example.org/a.jpg": ["a"], "http://example.org/a/c.jpg": ["c"]}
    assert report["bad_url"] == 0


def test_a_pool_of_an_older_reading_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(wat, "VERSION", wat.VERSION - 1)
    monkeypatch.setattr(wat, "TEXT_FIELDS", ("alt",))
    links = [img("a.jpg", alt="a", title="b")]
    build(tmp_path, page(links))
    monkeypatch.undo()
    build(tmp_path, page(links))
    assert pool_of(tmp_path / "out") == {"http://example.org/a/a.jpg": ["a", "b"]}


def test_more_files_append_texts_and_renumber_none(tmp_path):
    first = write_wat(tmp_path / "b.wat.gz", [page([img("/i.jpg", alt="one", title="two")])])
    second = write_wat(tmp_path / "a.wat.gz", [page([img("/i.jpg", alt="zero", title="two"), img("/j.jpg", alt="j")])])
    build_wat([first], tmp_path / "out", executor=QUIET)
    build_wat([second, first], tmp_path / "out", executor=QUIET)
    assert pool_of(tmp_path / "out") == {
        "http://example.org/i.jpg": ["one", "two", "zero"],
        "http://example.org/j.jpg": ["j"],
    }
    with pytest.raises(UserError, match=r"b\.wat\.gz"):
        build_wat([second], tmp_path / "out", executor=QUIET)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(["000", "001", "fff", "7ff", "800", "bff", "c00"])] * 2), max_size=30))
def test_merged_links_are_those_of_a_plain_program(rows):
    """Rows of a key lie in any order among the others, and repeat."""
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in ((0, pa.string()), (1, pa.large_string()))]
    links = pa.table({"key": columns[0], "url": columns[0], "text": columns[1]})
    texts: dict[str, list[str]] = {}
    for key, text in rows:
        if text not in texts.setdefault(key, []):
            texts[key].append(text)
    expected = [{"uid": key, "url": key, "text": texts[key][0], "texts": texts[key]} for key in sorted(texts)]
    assert wat.merge_links(links).to_pylist() == expected


@pytest.mark.parametrize("links_per_shard", [2_000_000, 60, 7])
def test_shards_steps_and_file_order_do_not_change_the_pool(links_per_shard, tmp_path, monkeypatch):
    monkeypatch.setattr(wat, "LINKS_PER_SHARD", links_per_shard)  # a shard is merged in steps of so many
    monkeypatch.setattr(wat, "ROWS_PER_GROUP", 4)
    files = write_three(tmp_path)
    build_wat(files, tmp_path / "one", num_shards=1, executor=QUIET)
    build_wat(files, tmp_path / "five", num_shards=5, executor=QUIET)
    build_wat(files[::-1], tmp_path / "backwards", num_shards=5, executor=QUIET)
    shards = pool.list_shards(PoolConfig(path=str(tmp_path / "five"), key="uid"))
    assert [shard.name for shard in shards] == [f"{number:05}.parquet" for number in range(5)]
    texts: dict[str, list[str]] = {}
    for n in (n for first in range(3) for n in range(first, 300, 3)):
        of_url = texts.setdefault(f"http://example.org/{n % 40}.jpg", [])
        of_url += [text for text in [f"text {n % 60}"] if text not in of_url]
    assert pool_of(tmp_path / "one") == pool_of(tmp_path / "five") == texts
    for of_shard, shard in enumerate(shards):
        keys = pq.read_table(shard.path)["uid"].to_pylist()
        assert keys == sorted(keys)
        assert all(int(key[:8], 16) * 5 >> 32 == of_shard for key in keys)
    assert killed.contents(tmp_path / "five") == killed.contents(tmp_path / "backwards")


def test_damaged_file_fails_alone_and_repaired_file_finishes_pool(tmp_path):
    good = write_wat(tmp_path / "0.wat.gz", [page([img("a.jpg", alt="x")])])
    bad = write_wat(tmp_path / "1.wat.gz", [page([img(f"{n}.jpg", alt=str(n)) for n in range(200)])])
    whole = Path(bad).read_bytes()
    Path(bad).write_bytes(whole[:-30])
    with pytest.raises(StageFailed) as failed:
        build_wat([good, bad], tmp_path / "out", executor=QUIET)
    assert list(failed.value.failures) == ["1.wat.gz"]
    read = killed.modified(tmp_path / "out" / "parts", "0.*")
    assert not (tmp_path / "out" / "manifest.json").exists()
    Path(bad).write_bytes(whole)
    build_wat([good, bad], tmp_path / "out", executor=QUIET)
    assert len(pool_of(tmp_path / "out")) == 201
    assert killed.modified(tmp_path / "out" / "parts", "0.*") == read


# WARC
def bodies(content: bytes) -> list[tuple[bytes, bool]]:
    return [(record.body, record.has_wrong_length) for record in iter_records(io.BytesIO(content))]


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("wrong", [-1, 7, 20, 10**14, "", "many"])
def test_wrong_content_length_loses_no_record(newline, wrong):
    texts = [b'{"a": 1}', b'{"second": "body"}', b"{}"]
    first = record(texts[0], len(texts[0]) + wrong if isinstance(wrong, int) else wrong, newline)
    whole = first + record(texts[1], newline=newline) + record(texts[2], newline=newline)
    assert bodies(whole) == [(texts[0], True), (texts[1], False), (texts[2], False)]
    assert bodies(gzip.compress(whole)) == bodies(whole)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 8, 9, 64])
def test_the_next_record_is_found_in_whatever_chunks_the_file_comes(monkeypatch, chunk_bytes):
    monkeypatch.setattr(warc, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(warc, "MAX_HEADER_BYTES", 256)
    texts = [b"a" * 400, b"b" * 300]
    assert bodies(record(texts[0], "many") + record(texts[1])) == [(texts[0], True), (texts[1], False)]


# warcio beside the reader
WARC_BODIES = st.lists(
    st.lists(st.sampled_from([b"\r\n", b"\n", b"WARC/1.0", b"Content-Length: 3", b"{}"]) | st.binary(max_size=9)).map(
        b"".join
    ),
    max_size=6,
)


def read_by_warcio(content: bytes) -> list[bytes]:
    """Return the bodies that warcio reads, up to a record that it cannot read."""
    archiveiterator = pytest.importorskip("warcio.archiveiterator", reason="needs the extra dev (warcio)")
    errors = pytest.importorskip("warcio.exceptions")
    found = []
    with contextlib.suppress(errors.ArchiveLoadFailed, EOFError, zlib.error):
        iterator = archiveiterator.ArchiveIterator(io.BytesIO(content), no_record_parse=True)
        found.extend(one.raw_stream.read() for one in iterator)
    return found


def write_warc(texts: Sequence[bytes], is_gzipped: bool) -> tuple[bytes, list[int]]:
    """Return (a WARC file with a gzip member for each record, or none; where each record ends)."""
    parts = [gzip.compress(record(text)) if is_gzipped else record(text) for text in texts]
    return b"".join(parts), list(itertools.accumulate(map(len, parts)))


@settings(max_examples=150, deadline=None)
@given(WARC_BODIES, st.booleans(), st.data())
def test_a_file_that_is_cut_loses_no_record_silently(texts, is_gzipped, data):
    """Its records and, of a whole file, all of them are those that warcio reads."""
    content, ends = write_warc(texts, is_gzipped)
    assert bodies(content) == [(text, False) for text in texts]
    assert read_by_warcio(content) == texts
    cut = data.draw(st.integers(0, len(content)))
    num_whole = sum(end <= cut for end in ends)
    found, is_reported = [], False
    try:
        for one in iter_records(io.BytesIO(content[:cut])):
            found.append(one.body)
            is_reported |= one.has_wrong_length
    except BadShard:
        is_reported = True
    assert read_by_warcio(content[:cut])[:num_whole] == texts[:num_whole]
    assert found[:num_whole] == texts[: min(num_whole, len(found))]
    if not is_reported:
        is_body_whole = len(found) > num_whole and found[num_whole] == texts[num_whole]
        assert len(found) >= num_whole
        assert cut == [0, *ends][num_whole] or is_body_whole


def test_real_common_crawl_records_are_read(shared, tmp_path):
    files = [str(path) for path in sorted((shared / "data" / "wat").glob("*.wat.gz"))]
    report = build_wat(files, tmp_path / "out", executor=QUIET)
    assert (report["records"], report["wrong_length"], report["bad_json"]) == (4, 1, 0)
    assert report["links"] == report["no_text"] == 54  # 27 images of one page twice, none of them with a text


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://User@EXAMPLE.com:80", "http://User@example.com/"),
        ("https://example.com:443/%7Efoo/%e4%b8%ad?q=%2f#x", "https://example.com/~foo/%E4%B8%AD?q=%2F"),
        ("https://example.com:8443/a/b/../../../c/./d/..", "https://example.com:8443/c/"),
        ('http://example.com/中 文.jpg?名="', "http://example.com/%E4%B8%AD%20%E6%96%87.jpg?%E5%90%8D=%22"),
        ("http://müller.example/100%.jpg", "http://xn--mller-kva.example/100%25.jpg"),
        ("http://[::1]:80/a", "http://[::1]/a"),
        ("ftp://example.com/a", None),
        ("data:image/png;base64,AA", None),
    ],
)
def test_urls_are_normalised(url, normal):
    assert normalise(url) == normal
    assert normal is None or normalise(normal) == normal
