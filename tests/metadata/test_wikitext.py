"""What a reader sees of wikitext, case by case, and against mwparserfromhell on real articles."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.metadata.sources import wikitext

UNWANTED = wikitext.prefix_hashes(["File", "Image", "Category", "Media", "Файл", "Категория", "de", "zh-min-nan"])


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


@pytest.mark.parametrize("source", CASES)
def test_strip_keeps_what_a_reader_sees(source: str):
    assert strip(source) == [re.sub(r"  +", " ", CASES[source])]


def test_batch_may_be_sliced_or_empty():
    assert wikitext.strip(pa.array(["x", "''y''", "[[z]]"]).slice(1), UNWANTED).to_pylist() == ["y", "z"]
    assert strip() == []


def test_deep_nesting_is_bounded():
    assert strip("{{" * 3000 + "x" + "}}" * 3000 + "y")[0].endswith("y")
    assert strip("[[" * 3000)[0] == ""


@pytest.mark.parametrize("mark", sorted({*MARKS, "<math>", "<ref name=", "<ref><math><pre>", "[http://a ", "&amp"}))
def test_repeated_marks_take_linear_time(mark: str):
    """A page may have 2 MB of them: what looks ahead to the end each time would take hours."""
    (text,) = strip(mark * (400_000 // len(mark)))
    assert len(text) <= 400_000


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(MARKS), max_size=40))
def test_random_marks_give_valid_text_no_longer_than_source(parts: list[str]):
    source = "".join(parts)
    (text,) = strip(source)
    assert len(text.encode()) <= len(source.encode())
    assert text == text.strip()
    assert "  " not in text or "<nowiki>" in source
    assert strip(source, source) == [text, text]


SCRIPTS = "Čeština кошка γάτα قطة חתול बिल्ली பூனை แมว 猫咪 고양이 კატა ድመት 🐈\u200d⬛"
LINE_STARTS = ["==", "=", "===", "* ", "{|\n", "|}", "|", "----", "", ""]
OPENING = ["{{", "{{{", "[[", "[[a|", "[[File:", "[http://a ", "-{", "<ref>", "<nowiki>", "<!--", "__", "ht", "("]
CLOSING = ["}}", "}}}", "]]", "]", "}-", "</ref>", "</nowiki>", "-->", "__", "tp://", ")"]
LINE_ENDS = [" ==\n", "=\n", "\n", "\n\n", " \n", ""]


def random_page(draw: random.Random, word: str) -> str:
    """Return a page whose lines begin and end like headings, tables and lists, and whose elements overlap."""
    inner = [word, word[:1], " ", "=", "= ", "\n", "|", ":", "&eacute;", "&nbsp;", *OPENING, *CLOSING]
    pieces = []
    for _ in range(draw.randint(1, 4)):
        pieces.append(draw.choice(LINE_STARTS))
        pieces += draw.choices(inner, k=draw.randint(0, 8))
        pieces.append(draw.choice(LINE_ENDS))
    return "".join(pieces)


def strip_random_pages(num_pages: int, seed: int) -> None:
    """Strip random pages of each script; fail where a text is not UTF-8, longer than its page, or another one alone."""
    draw = random.Random(seed)
    for word in SCRIPTS.split():
        pages = [random_page(draw, word) for _ in range(num_pages // len(SCRIPTS.split()))]
        texts = wikitext.strip(pa.array(pages, pa.large_string()), UNWANTED)
        texts.validate(full=True)  # raises for what is not UTF-8
        num_bytes = [len(text.encode()) for text in texts.to_pylist()]
        assert all(size <= len(page.encode()) for size, page in zip(num_bytes, pages, strict=True))
        alone = draw.randrange(len(pages))
        assert strip(pages[alone]) == [texts[alone].as_py()]


def test_no_character_is_cut_in_two_in_any_script():
    strip_random_pages(13_000, seed=0)


@pytest.mark.slow
def test_no_character_is_cut_in_two_in_a_million_pages():
    start = time.monotonic()
    for seed in range(1, 11):
        strip_random_pages(100_000, seed)
    assert time.monotonic() - start < 600


def plain_strip(source: str) -> str:
    """The slow way, by a real parser of wikitext."""
    parser = pytest.importorskip("mwparserfromhell", reason="needs the extra dev")
    code = parser.parse(source, skip_style_tags=True)
    unwanted = {"file", "image", "category", "media", "файл", "категория", "ref", "references", "math", "gallery"}
    nodes = [
        *((link, str(link.title).partition(":")[0]) for link in code.filter_wikilinks()),
        *((tag, str(tag.tag)) for tag in code.filter_tags()),
    ]
    for node, name in nodes:
        if name.strip().lower() in unwanted | {"timeline", "table", "source"} and code.contains(node):
            code.remove(node)
    return code.strip_code()


@pytest.mark.parametrize(("piece", "encoding", "num_articles"), [("bgwiki", "utf-16", 1), ("enwiki", "utf-8", 9)])
def test_words_of_real_articles_agree_with_mwparserfromhell(shared: Path, piece: str, encoding: str, num_articles: int):
    import bz2
    import html

    (path,) = (shared / "data" / "wiki").glob(f"{piece}*")
    xml = bz2.decompress(path.read_bytes()).decode(encoding)
    sources = [html.unescape(text) for text in re.findall(r"<ns>0</ns>.*?<text[^>]*>(.*?)</text>", xml, re.DOTALL)]
    articles = [source for source in sources if not source.startswith("#")][:num_articles]
    assert len(articles) == num_articles
    actual, expected = Counter[str](), Counter[str]()
    for source, text in zip(articles, strip(*articles), strict=True):
        actual.update(re.findall(r"\w+", text))
        expected.update(re.findall(r"\w+", re.sub(r"\w+://\S+|'''*", "", plain_strip(source))))
    # They differ in headings of sections without text, which we leave out, and in a handful of broken places.
    different = (actual - expected).total() + (expected - actual).total()
    assert expected.total() > 1000
    assert different <= 5 + 0.002 * expected.total()
