"""Both dump formats give the same articles; a broken file is a BadShard with its reason."""

from __future__ import annotations

import bz2
import gzip
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldclip.core.errors import BadShard
from worldclip.language.segment import scheme_of, segment
from worldclip.metadata.ngrams import count_to_file, merge
from worldclip.metadata.sources import dumps
from worldclip.metadata.sources.dumps import (
    MAX_TEXT_CHARS,
    read_texts,
    read_xml_namespaces,
    unwanted_prefixes,
)

ARTICLES = [("Paka", "Paka ni mnyama."), ("Simba & mbwa", "Simba ni mkubwa <3.\nAnakula nyama.")]
WIKITEXTS = ["'''Paka''' ni [[mnyama]].<ref>x</ref>", "Simba ni mkubwa &lt;3.\n[[Picha:S.jpg|x]]\nAnakula nyama."]

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="sw">
<siteinfo><namespaces><namespace key="0" /><namespace key="6">Picha</namespace><namespace key="4">Wikipedia</namespace>
<namespace key="14">Jamii</namespace></namespaces></siteinfo>
"""


def page(title: str, text: str, namespace: int = 0, extra: str = "") -> str:
    ns = f"<ns>{namespace}</ns>"
    return f"<page><title>{escape(title)}</title>{ns}{extra}<revision><text>{escape(text)}</text></revision></page>\n"


def dump() -> str:
    pages = [
        page("Chui", "#REDIRECT [[Paka]]", extra='<redirect title="Paka" />'),
        page(ARTICLES[0][0], WIKITEXTS[0]),
        page("Wikipedia:Mwanzo", "Karibu", 4),
        page("Duma", "#ELEKEZA [[Paka]]"),
        page(ARTICLES[1][0], WIKITEXTS[1]),
        page("Tupu", "{{x}}"),
    ]
    return HEADER + "".join(pages) + "</mediawiki>"


def multistream(text: str) -> bytes:
    """A stream of the header, one for each page, one of the end, as in the dumps of that name."""
    lines = text.encode().splitlines(keepends=True)
    return b"".join(bz2.compress(line) for line in lines)


def write_parquet(path: Path) -> None:
    rows = [*ARTICLES, ("Tupu", None)]
    table = pa.table({"id": ["1", "2", "3"], "title": [row[0] for row in rows], "text": [row[1] for row in rows]})
    pq.write_table(table, path)


FILES: dict[str, Callable[[Path], object]] = {
    "swwiki-pages-articles.xml": lambda path: path.write_text(dump()),
    "swwiki-pages-articles.xml.gz": lambda path: path.write_bytes(gzip.compress(dump().encode())),
    "swwiki-pages-articles.xml.bz2": lambda path: path.write_bytes(bz2.compress(dump().encode())),
    "swwiki-multistream1.xml-p1p9.bz2": lambda path: path.write_bytes(multistream(dump())),
    "utf16.xml.bz2": lambda path: path.write_bytes(bz2.compress(dump().encode("utf-16"))),
    "train-00000-of-00001.parquet": write_parquet,
}


def iter_texts(path: Path) -> Iterator[str]:
    """Yield the plain text of each article of a dump."""
    for texts in read_texts(path):
        yield from texts.to_pylist()


@pytest.mark.parametrize("name", FILES)
def test_all_dump_formats_give_same_articles(name: str, tmp_path: Path):
    FILES[name](tmp_path / name)
    assert list(iter_texts(tmp_path / name)) == [*(text for _, text in ARTICLES), ""]


def test_long_article_is_cut_at_line_ends(tmp_path: Path):
    lines = [f"line {n} of a long article" for n in range(3 * MAX_TEXT_CHARS // 20)]
    (tmp_path / "long.xml").write_text(HEADER + page("Long", "\n".join(lines)) + "</mediawiki>")
    pieces = list(iter_texts(tmp_path / "long.xml"))
    assert len(pieces) > 2
    assert "\n".join(pieces) == "\n".join(lines)


@pytest.mark.parametrize(
    ("wiki", "sentence"), [("sw", "paka {n}, mbwa na 3.{n} simba. "), ("zh", "我喜欢北京，大学{n}。")]
)
def test_long_line_is_cut_at_punctuation(wiki: str, sentence: str, tmp_path: Path):
    scheme = scheme_of(wiki)
    text = "".join(sentence.format(n=n % 1000) for n in range(1, 3 * MAX_TEXT_CHARS // len(sentence)))
    pq.write_table(pa.table({"text": [text]}), tmp_path / "x.parquet")
    (pieces,) = read_texts(tmp_path / "x.parquet")
    assert max(map(len, pieces.to_pylist())) < MAX_TEXT_CHARS + len(sentence)
    counts = []
    for texts in (pieces, pa.array([text], pa.large_string())):
        counted = merge(count_to_file(tmp_path / "runs", [segment(texts, scheme)], scheme), tmp_path)
        bigrams = [part.tolist() for chunk in counted.iter_bigrams() for part in chunk]
        counts.append((counted.words.data.tobytes(), counted.words.counts.tolist(), bigrams))
    assert counts[0] == counts[1]


REDIRECTS = ["#REDIRECT [[x]]", " # REDIRECT : [[x]]", "#\u91cd\u5b9a\u5411:[[x]]", "#ПРЕНАСОЧВАНЕ  [[x]]", "#A :[["]
ARTICLES_LIKE_IT = ["#REDIRECT x", "#[[x]]", "#A:: [[x]]", "#A: b [[x]]", "A [[x]]"]


def test_redirect_of_a_dump_without_redirect_elements_is_known_by_its_text():
    assert [text for text in (*REDIRECTS, *ARTICLES_LIKE_IT) if dumps._redirect().match(text)] == REDIRECTS


@pytest.mark.parametrize("text", ["#A{}x", "#A{}:{}x", "{}x", "#{}x"])
def test_page_of_blanks_takes_linear_time(text: str):
    """What takes quadratic time takes half an hour."""
    started_at = time.process_time()
    assert not dumps._redirect().match(text.replace("{}", " " * 2**20))
    assert time.process_time() - started_at < 10


def test_links_to_other_languages_are_unwanted():
    assert {"de", "zh-min-nan", "File", "Picha", "Jamii"} <= set(unwanted_prefixes({6: "Picha", 14: "Jamii", 4: "x"}))


BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>"""
EXTERNAL = """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>"""

BROKEN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated bz2": ("a.xml.bz2", lambda: bz2.compress(dump().encode())[:-20], "ends in the middle"),
    "truncated multistream": ("a.xml.bz2", lambda: multistream(dump())[:-20], "ends in the middle"),
    "damaged bz2": ("a.xml.bz2", lambda: bz2.compress(dump().encode())[:60] + b"x" * 200, "damaged"),
    "not bz2": ("a.xml.bz2", lambda: b"<html>404</html>", "damaged"),
    "truncated gz": ("a.xml.gz", lambda: gzip.compress(dump().encode())[:-20], "ends in the middle"),
    "not gz": ("a.xml.gz", lambda: b"<html>404</html>", "damaged"),
    "empty gz": ("a.xml.gz", lambda: b"", "ends in the middle"),
    "empty bz2": ("a.xml.bz2", lambda: b"", "ends in the middle"),
    "unknown encoding": ("a.xml", lambda: b"<?xml version='1.0' encoding='utf-7'?><mediawiki/>", "broken XML"),
    "cut XML": ("a.xml", lambda: dump().encode()[:-40], "broken XML"),
    "broken XML": ("a.xml", lambda: dump().replace("</title>", "</titel>").encode(), "broken XML"),
    "no text at all": ("a.xml", lambda: b"", "broken XML"),
    "another XML": ("a.xml", lambda: b"<feed></feed>", "root element is <feed>"),
    "billion laughs": ("a.xml", lambda: (BOMB + dump()).encode(), "document type or entities"),
    "external entity": ("a.xml", lambda: (EXTERNAL + dump()).encode(), "document type or entities"),
    "not Parquet": ("a.parquet", lambda: b"PAR1 no", "not a readable Parquet file"),
    "unknown format": ("a.zip", lambda: b"PK", "unknown dump format"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_bad_shard_with_reason(case: str, tmp_path: Path):
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content())
    with pytest.raises(BadShard, match=message) as caught:
        list(iter_texts(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_without_text_column_lists_its_columns(tmp_path: Path):
    pq.write_table(pa.table({"title": ["x"], "text": [1], "url": ["y"]}), tmp_path / "x.parquet")
    with pytest.raises(BadShard, match=r"title \(string\), text \(int64\), url \(string\)"):
        list(iter_texts(tmp_path / "x.parquet"))


def test_invalid_bytes_are_replaced(tmp_path: Path):
    offsets, data = pa.py_buffer(np.array([0, 7, 12], np.int32)), pa.py_buffer(b"paka \xffxsimba")
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
    assert list(iter_texts(tmp_path / "x.parquet")) == ["paka \ufffdx", "simba"]


def test_parquet_text_column_may_be_dictionary(tmp_path: Path):
    texts = pa.array(["paka", None, "simba", "paka"]).dictionary_encode()
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet")
    assert list(iter_texts(tmp_path / "x.parquet")) == ["paka", "", "simba", "paka"]


def test_namespaces_without_number_are_skipped(tmp_path: Path):
    head = HEADER.replace('key="6"', 'key="six"').replace('<namespace key="4">', "<namespace>")
    (tmp_path / "x.xml").write_text(head + page(*ARTICLES[0]) + "</mediawiki>")
    assert list(iter_texts(tmp_path / "x.xml")) == [ARTICLES[0][1]]
    assert read_xml_namespaces(tmp_path / "x.xml") == {0: "", 14: "Jamii"}


def test_missing_file_raises_file_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        list(read_texts(tmp_path / "missing.xml"))


@pytest.mark.parametrize(("piece", "num_articles", "word"), [("bgwiki", 1, "Григ"), ("enwiki", 106, "Anarchism")])
def test_real_dump_pieces_are_read(shared: Path, piece: str, num_articles: int, word: str):
    (path,) = (shared / "data" / "wiki").glob(f"{piece}*")
    texts = list(iter_texts(path))
    assert len(texts) == num_articles
    assert word in texts[0][:100]
    text = " ".join(texts)
    assert not [mark for mark in ("{{", "}}", "[[", "]]", "<ref", "'''", "&nbsp;", "|-", "{|") if mark in text]
