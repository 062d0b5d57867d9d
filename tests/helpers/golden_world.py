"""A small world of real text for golden lists: wordnets and the Declaration of Human Rights in twenty languages."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Our code -> the Declaration's, and OMW's file where there is one.
# fmt: off
UDHR = {
    "am": "amh", "ar": "arb", "bg": "bul", "bo": "bod", "el": "ell_monotonic", "en": "eng", "fa": "pes_1", "fr": "fra",
    "he": "heb", "hi": "hin", "hy": "hye", "ja": "jpn", "ka": "kat", "km": "khm", "ko": "kor", "lo": "lao",
    "my": "mya", "ta": "tam", "th": "tha", "zh": "cmn_hans",
}
WORDNETS = {
    "ar": "wn-data-arb", "bg": "wn-data-bul", "el": "wn-data-ell", "en": "rebuilt/wn-data-eng", "fa": "wn-data-fas",
    "fr": "wn-data-fra", "he": "wn-data-heb", "ja": "wikt/wn-wikt-jpn", "th": "wikt/wn-wikt-tha",
    "zh": "wn-data-cmn",
}
# fmt: on

# An hour of page views as Wikimedia writes it: percent-encoded, mobile beside desktop, sister projects, other
# namespaces, lines that lack a field or hold bytes that are no UTF-8.
PAGE_VIEWS = """\
de Katze 12 0
en Cat 4000 0
en.m Cat 9000 0
th %E0%B9%81%E0%B8%A1%E0%B8%A7 31 0
th.m %E0%B9%81%E0%B8%A1%E0%B8%A7 60 0
th.m %E0%B8%AB%E0%B8%A1%E0%B8%B2 44 0
th \u0e0a\u0e49\u0e32\u0e07 12 0
th \u0e1e\u0e34\u0e40\u0e28\u0e29:\u0e04\u0e49\u0e19\u0e2b\u0e32 70 0
th \u0e44\u0e1f\u0e25\u0e4c:Cat.jpg 9 0
th Special:Search 90 0
th \u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e\u0e21\u0e2b\u0e32\u0e19\u0e04\u0e23 25 0
th \u0e21\u0e34\u0e0a\u0e0a\u0e31\u0e19:\u0e2d\u0e34\u0e21\u0e1e\u0e2d\u0e2a\u0e0b\u0e34\u0e40\u0e1a\u0e34\u0e25 20 0
th.b \u0e15\u0e33\u0e23\u0e32 500 0
th.d \u0e41\u0e21\u0e27 300 0
th Bad%FF 50 0
th broken
th a b 3 0
th many_views lots 0
th Terminator_2 8 0
zh.m %E7%8C%AB 7 0
"""
NAMESPACES = (
    '{"query": {"namespaces": {"0": {"*": ""}, "-1": {"*": "\u0e1e\u0e34\u0e40\u0e28\u0e29", "canonical": "Special"},'
    ' "6": {"*": "\u0e44\u0e1f\u0e25\u0e4c", "canonical": "File"}}, "namespacealiases": []}}'
)


def write_world(folder: Path, shared: Path) -> dict[str, Any]:
    """Corpora as Parquet and the page views below `folder`; returns the section [metadata] of a recipe over them."""
    rows = pq.read_table(shared / "data/udhr/udhr.parquet", columns=["code", "text"]).to_pylist()
    for lang, code in UDHR.items():
        texts = [row["text"] for row in rows if row["code"] == code]
        (folder / "dumps" / lang).mkdir(parents=True)
        pq.write_table(pa.table({"title": [""] * len(texts), "text": texts}), folder / "dumps" / lang / "udhr.parquet")
    (folder / "dumps/th/thwiki-20240101-siteinfo-namespaces.json").write_text(NAMESPACES, encoding="utf-8")
    (folder / "views").mkdir()
    (folder / "views/pageviews-20240101-120000.gz").write_bytes(gzip.compress(PAGE_VIEWS.encode()))
    return {
        "dumps": str(folder / "dumps"),
        "pageviews": str(folder / "views"),
        "wordnets": {lang: str(shared / f"data/omw/{name}.tab.gz") for lang, name in WORDNETS.items()},
        "sources": ["number", "wordnet", "unigram", "bigram", "title"],
        "allow_missing": ["title"],  # the page views are of two languages
        "overrides": {"english_rule": "as_others", "bigram_min_count": 2},
    }
