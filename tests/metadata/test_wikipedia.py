"""Dumps give the same articles in both formats; what a reader sees of wikitext."""

import bz2
import gzip
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.core.errors import BadShard
from worldclip.language.segment import scheme_of, segment
from worldclip.metadata.ngrams.counter import count_to_file
from worldclip.metadata.ngrams.runs import merge
from worldclip.metadata.sources import dumps, wikitext
from worldclip.metadata.sources.dumps import (
    MAX_TEXT_CHARS,
    read_texts,
    read_xml_namespaces,
)

ARTICLES = [("Paka", "Paka ni mnyama."), ("Simba & mbwa", "Simba ni mkubwa <3.\nAnakula nyama.")]
WIKITEXTS = [
    "'''Paka''' ni [[mnyama]].<ref>x</ref>[[de:Katze]][[Jamii:Paka]][[zh-min-nan:N]]",
    "Simba ni mkubwa &lt;3.\n[[Picha:S.jpg|x]]\nAnakula nyama.",
]
HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="sw">
<siteinfo><namespaces><namespace key="0" /><namespace key="6">Picha</namespace><namespace key="4">Wikipedia</namespace>
<namespace key="14">Jamii</namespace></namespaces></siteinfo>
"""


def page(title: str, text: str, namespace: int = 0, extra: str = "") -> str:
    ns = f"<ns>{namespace}</ns>"
    return f"<page><title>{escape(title)}</title>{ns}{extra}<revision><text>{escape(text)}</text></revision></page>\n"


def dump() -> str:
    pages = [
        page("Chui", "Tazama [[Paka]]", extra='<redirect title="Paka" />'),
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


def test_all_dump_formats_give_same_articles(tmp_path: Path):
    for name, write in FILES.items():
        write(tmp_path / name)
        assert list(iter_texts(tmp_path / name)) == [*(text for _, text in ARTICLES), ""], name


def test_a_long_dump_says_how_much_of_it_is_read(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(dumps, "LINE_S", -1)
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(dump().encode()))
    assert list(read_texts(tmp_path / "a.xml.bz2"))
    assert "metadata  a.xml.bz2: 100% of 0.0 GiB read\n" in capsys.readouterr().err


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
REDIRECTS += ["#अनुप्रेषित [[x]]", "#เปลี่ยนทาง [[x]]", "#വഴിമാറ്റുക[[x]]", "\uff03転送 [[x]]"]  # with marks, and a wide sign
# The last one begins with a letter that is newer than the table of characters.
LIKE_IT = ["#REDIRECT x", "#[[x]]", "#A:: [[x]]", "#A: b [[x]]", "A [[x]]", "#A\U0001e030 [[x]]"]
LONG = [text.replace("{}", " " * 2**20) for text in ("#A{}x", "#A{}:{}x", "{}x", "#{}x")]


def test_redirect_of_a_dump_without_redirect_elements_is_known_by_its_text(tmp_path: Path):
    pages = [page("T", text) for text in (*REDIRECTS, *LIKE_IT, *LONG)]
    (tmp_path / "x.xml").write_text(HEADER + "".join(pages) + "</mediawiki>")
    started_at = time.process_time()
    texts = list(iter_texts(tmp_path / "x.xml"))
    assert time.process_time() - started_at < 60  # what takes quadratic time takes half an hour
    assert texts == strip(*LIKE_IT, *LONG)


BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>"""
EXTERNAL = """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>"""
BROKEN = [
    ("a.xml.bz2", bz2.compress(dump().encode())[:-20], "ends in the middle"),
    ("a.xml.bz2", bz2.compress(dump().encode())[:60] + b"x" * 200, "damaged"),
    ("a.xml.gz", b"<html>404</html>", "damaged"),
    ("a.xml.bz2", b"", "ends in the middle"),
    ("a.xml", b"<?xml version='1.0' encoding='utf-7'?><mediawiki/>", "broken XML"),
    ("a.xml", dump().encode()[:-40], "broken XML"),
    ("a.xml", dump().replace("</title>", "</titel>").encode(), "broken XML"),
    ("a.xml", (BOMB + dump()).encode(), "document type or entities"),
    ("a.xml", (EXTERNAL + dump()).encode(), "document type or entities"),
    ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
    ("a.zip", b"PK", "unknown dump format"),
]


def test_broken_file_is_bad_shard_with_reason(tmp_path: Path):
    for name, content, message in BROKEN:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadShard, match=message) as caught:
            list(iter_texts(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
    pq.write_table(pa.table({"title": ["x"], "text": [1], "url": ["y"]}), tmp_path / "x.parquet")
    with pytest.raises(BadShard, match=r"title \(string\), text \(int64\), url \(string\)"):
        list(iter_texts(tmp_path / "x.parquet"))


def test_invalid_bytes_are_replaced_and_a_text_column_may_be_a_dictionary(tmp_path: Path):
    offsets, data = pa.py_buffer(np.array([0, 7, 12], np.int32)), pa.py_buffer(b"paka \xffxsimba")
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    texts = pa.array(["paka", None, "simba", "paka"]).dictionary_encode()
    for values, expected in ((column, ["paka \ufffdx", "simba"]), (texts, ["paka", "", "simba", "paka"])):
        pq.write_table(pa.table({"text": values}), tmp_path / "x.parquet")
        assert list(iter_texts(tmp_path / "x.parquet")) == expected


def test_namespaces_without_number_are_skipped(tmp_path: Path):
    head = HEADER.replace('key="6"', 'key="six"').replace('<namespace key="4">', "<namespace>")
    (tmp_path / "x.xml").write_text(head + page(*ARTICLES[0]) + "</mediawiki>")
    assert list(iter_texts(tmp_path / "x.xml")) == [ARTICLES[0][1]]
    assert read_xml_namespaces(tmp_path / "x.xml") == {0: "", 14: "Jamii"}


UNWANTED = wikitext.prefix_hashes(["File", "Image", "Category", "Media", "Файл", "Категория", "de", "zh-min-nan"])


@pytest.mark.parametrize(
    ("listed", "written"), [("файл", "Файл"), ("Файл", "файл"), ("файл", "ФАЙЛ"), ("user talk", "User_talk")]
)
def test_prefixes_of_links_are_known_in_the_cases_that_people_write(listed: str, written: str) -> None:
    unwanted = wikitext.prefix_hashes([listed])
    assert wikitext.strip(pa.array([f"a[[{written}:x.jpg]]b"], pa.large_string()), unwanted).to_pylist() == ["ab"]


def strip(*texts: str) -> list[str]:
    return wikitext.strip(pa.array(texts, pa.large_string()), UNWANTED).to_pylist()


CASES = {
    # links
    "[[cat]]s and [[Felis catus|a cat]]": "cats and a cat",
    "[[:Category:Cats|all cats]] [[wikt:cat|cat]]": "all cats cat",
    "[[File:a.jpg|thumb|A [[cat]] on a ''mat'']]The cat": "The cat",
    "[[ file : a.jpg|x]][[image:b.png]]text[[Category:Cats]]": "text",
    "[[Файл:а.jpg|мини|Кот]]Кот[[категория:Коты]]": "Кот",
    "cat[[de:Katze]][[zh-min-nan:Niau]][[DE:Katze]]": "cat",
    "[[a|b|c]]": "b|c",
    "a [[link\nthat never ends": "a link\nthat never ends",
    "[http://example.org/x the site] and [http://example.org] and http://example.org/x?y=1 end": "the site and and end",
    "[mailto:a@b.c write] [//example.org here] [sic]": "write here [sic]",
    "see [[a [b] c]]": "see a [b] c",
    # templates, parameters and tables
    "a{{x|{{y}}|[[z]]}}b {{{1|default}}}c": "ab c",
    "a {{never closed": "a never closed",
    "a }} b ]] c": "a b c",
    "{{x}}\n\n{{y\n|z=1\n}}\nText": "Text",
    "a\n{| class=x\n|-\n! h\n| b || c\n{|\n| inner\n|}\n|}\nd": "a\nd",
    "{{t|\n{| \n| x\n|}\n}}text": "text",
    "{| \n| x\n== End ==\ntext": "End\ntext",
    "{| \n| never closed": "",
    "|-\n| a row without its table\ntext": "text",
    # references, comments, elements
    "a<ref>b {{c}}</ref>d<ref name=x />e<REF name=y>f</REF>g": "adeg",
    "a<!-- b\n c -->d<!-- never closed": "ad",
    "x<math>\\frac{a}{b}</math>y<gallery>\nFile:a.jpg|b\n</gallery>z": "xyz",
    "<b>bold</b> <span style='x'>s</span> a<br/>b<br>c<sup>2</sup>": "bold s a\nb\nc2",
    "<nowiki>[[not a link]] '''</nowiki> a < b > c <3": "[[not a link]] ''' a < b > c <3",
    "a<ref>never closed": "anever closed",
    # emphasis, entities, switches
    "'''bold''' ''it'' '''''both''''' it's ''''x": "bold it both it's 'x",
    "a&nbsp;b &amp; &lt;c&gt; &eacute; &#233; &#xE9; &bogus; &#0; AT&T": "a b & <c> é é é &bogus; &#0; AT&T",
    "ten &#10a; and &#x10a;": "ten &#10a; and Ċ",
    "__NOTOC__text __БЕЗОГЛ__ a__b snake_case __init": "text a__b snake_case __init",
    # lines
    "== History ==\nIt began.\n=== Empty ===\n== Notes ==\n{{reflist}}": "History\nIt began.",
    "= A =\n== B ==\nx": "A\nB\nx",
    "* one\n** two\n# three\n: four\n; five\n----\nsix": "one\ntwo\nthree\nfour\nfive\nsix",
    "a \n\n\n  b  c\t d \n": "a\nb c d",
    "cat ({{IPA|x}}) or ({{lang|de|Katze}}; ) end (kept)": "cat or end (kept)",
    "1 + 1 = 2\n": "1 + 1 = 2",
    "== История {{x|=\nб}} ==\nКот": "История\nКот",
    "== 历史 = {{{[[\n猫}}} ==\n猫": "历史\n猫",
    "== A {{never closed ==\nb": "A never closed\nb",
    # Chinese variants
    "-{zh-hans:网络; zh-hant:網路}-和-{字}-，-{H|zh:x}-a-b": "网络和字，a-b",
    "-{\n==}-": "==",
    "a-{zh:b\n\n  c}-d": "a" + "b\n" + "cd",
    "": "",
}
MARKS_WITHOUT_BLANKS = (
    "{{ }} {{{ }}} [[ ]] [[File: | {| |} '' ''' <ref> </ref> <ref/> <!-- --> <nowiki> </nowiki> &nbsp; &#x10FFFF; "
    "== -{ }- __ http:// [http://x ] ( ) é 猫 🙂 word <b> & < > ; : * #"
)
MARKS = [*MARKS_WITHOUT_BLANKS.split(), " ", "\n", "\n==", "\n{|", "\n|}", "\n|"]


def test_strip_keeps_what_a_reader_sees_in_a_text_alone_and_after_any_others():
    alone = {source: strip(source)[0] for source in CASES}
    assert alone == {source: re.sub(r"  +", " ", text) for source, text in CASES.items()}
    assert strip(*CASES, *CASES) == [*alone.values()] * 2
    assert wikitext.strip(pa.array(["x", "''y''", "[[z]]"]).slice(1), UNWANTED).to_pylist() == ["y", "z"]
    assert strip() == []


def test_repeated_and_nested_marks_take_linear_time():
    """A page may have 2 MB of them: what looks ahead to the end each time would take hours."""
    started_at = time.process_time()
    for mark in {*MARKS, "<math>", "<ref name=", "<ref><math><pre>", "[http://a ", "&amp"}:
        assert len(strip(mark * (400_000 // len(mark)))[0]) <= 400_000
    assert time.process_time() - started_at < 60
    assert strip("{{" * 3000 + "x" + "}}" * 3000 + "y")[0].endswith("y")
    assert strip("[[" * 3000)[0] == ""


SCRIPTS = "Čeština кошка γάτα قطة חתול बिल्ली பூனை แมว 猫咪 고양이 კატა ድመት 🐈\u200d⬛"
PAGES = st.lists(st.sampled_from([*MARKS, *SCRIPTS.split()]), max_size=20).map("".join)


@settings(max_examples=500, deadline=None)
@given(PAGES, PAGES)
def test_any_marks_leave_no_more_than_the_page_whatever_comes_before_it(page: str, other: str):
    texts = wikitext.strip(pa.array([other, page], pa.large_string()), UNWANTED)
    texts.validate(full=True)  # raises for what is not UTF-8
    text = texts[1].as_py()
    assert len(text.encode()) <= len(page.encode())
    assert [text] == [text.strip()] == strip(page)
