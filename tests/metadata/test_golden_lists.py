"""Lists of real text, looked through once and frozen: of wordnets and the Declaration of Human Rights.

A list is frozen by its numbers of entries and by a hash of all its entries with their sources, beside a few of them to
look at.  Languages that ICU cuts are compared under the ICU that they were frozen with; another may cut elsewhere.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from entry_lists import build, recipe, scores, words, write_texts, write_views
from worldclip import metadata
from worldclip.language import segment as tokens
from worldclip.language import table as languages

ICU = "78"

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
# language: (hash, {source: entries}, first unigrams)
Frozen = tuple[str, dict[str, int], str]
GOLDEN: dict[str, Frozen] = {
    "am": ("7082a652ba8abe35", {"unigram": 28, "bigram": 10}, "ሰው | ወይም | አንቀጽ | መብት"),
    "ar": ("5bda46368b969b13", {"wordnet": 19096, "unigram": 42, "bigram": 17}, "أو | في | المادة | من"),
    "bg": ("76830c9060c67112", {"wordnet": 6720, "unigram": 41, "bigram": 17}, "на | и | да | в"),
    "bo": ("0b5e37febe9c1e52", {"unigram": 40, "bigram": 16}, "དང | པ | ཐོབ | དོན"),
    "el": ("ddf53b586a14b43f", {"wordnet": 18219, "unigram": 43, "bigram": 18}, "και | να | του | την"),
    "en": ("fa54eb87bbd066ba", {"wordnet": 86571, "unigram": 34, "bigram": 14, "title": 1}, "the | and | of | to"),
    "fa": ("1d012243b460b727", {"wordnet": 17560, "unigram": 43, "bigram": 18}, "و | که | یا | هر"),
    "fr": ("53ff5c832d6c5439", {"wordnet": 55266, "unigram": 39, "bigram": 16}, "l | les | des | Article"),
    "he": ("e4d2fb4a1df0abf1", {"wordnet": 5325, "unigram": 44, "bigram": 18}, "כל | אדם | סעיף | של"),
    "hi": ("680308515899ad2b", {"unigram": 39, "bigram": 16}, "के | और | को | की"),
    "hy": ("6c1456bb5a053b49", {"unigram": 38, "bigram": 16}, "ու | կամ | ոք | Հոդված"),
    "ja": ("0315246d3ec1f60e", {"wordnet": 16783, "unigram": 35, "bigram": 14}, "の | を | は | に"),
    "ka": ("c7d48deeaf5d9f44", {"unigram": 40, "bigram": 16}, "და | მუხლი | უფლება | აქვს"),
    "km": ("92621450fa263df7", {"unigram": 42, "bigram": 17}, "និង | សិទ្ធិ | ឬ | មាន"),
    "ko": ("02a1f7899ede08ee", {"unigram": 38, "bigram": 16}, "모든 | 또는 | 제 | 조"),
    "lo": ("94a085c19628d33d", {"unigram": 41, "bigram": 17}, "ແລະ | ຂອງ | ສິດ | ທີ່"),
    "my": ("2533d28234b826ce", {"unigram": 41, "bigram": 17}, "ကို | စေ | ခြင်း | ရ"),
    "ta": ("cff48266a72641c8", {"unigram": 44, "bigram": 16}, "அல்லது | உறுப்புரை | அவர்கள் | எல்லா"),
    "th": ("f1e530349a68ac19", {"wordnet": 2965, "unigram": 36, "bigram": 15, "title": 2}, "และ | ที่ | ใน | จะ"),
    "zh": ("4744e9befc98d691", {"wordnet": 61100, "unigram": 35, "bigram": 14}, "的 | 和 | 或 | 有权"),
}
PIECES: dict[str, Frozen] = {
    "bg": ("e2d74efcd392e18d", {"wordnet": 6720, "unigram": 53, "bigram": 7}, "на | е | дни | и"),
    "en": ("e460a3064ed0f254", {"wordnet": 86571, "unigram": 3979, "bigram": 1592}, "the | of | and | to"),
}
# fmt: on
PAGE_VIEWS = (
    "en Cat 4000 0, en.m Cat 9000 0, th %E0%B9%81%E0%B8%A1%E0%B8%A7 31 0, th.m หมา 44 0, th ช้าง 12 0, "
    "th พิเศษ:ค้นหา 70 0, th ไฟล์:Cat.jpg 9 0, th Special:Search 90 0, th กรุงเทพมหานคร 25 0, "
    "th มิชชัน:อิมพอสซิเบิล 20 0, th.b ตำรา 500 0, th Terminator_2 8 0"
)
NAMESPACES = (
    '{"query": {"namespaces": {"-1": {"*": "พิเศษ", "canonical": "Special"}, "6": {"*": "ไฟล์", "canonical": "File"}}}}'
)


def freeze(run_dir: Path, lang: str) -> Frozen:
    table = metadata.read_entries(run_dir, lang).to_pydict()
    entries: dict[str, list[str]] = {}
    for entry, source in zip(table["entry"], table["source"], strict=True):
        entries.setdefault(source, []).append(entry)
    assert entries.pop("number") == [str(number) for number in range(100)]
    lines = (f"{entry}\t{source}" for entry, source in zip(table["entry"], table["source"], strict=True))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    counts = {source: len(names) for source, names in entries.items()}
    return digest, counts, " | ".join(entries["unigram"][:4])


@pytest.fixture(scope="module")
def world(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    rows = pq.read_table(shared / "data/udhr/udhr.parquet", columns=["code", "text"]).to_pylist()
    for lang, code in UDHR.items():
        write_texts(folder / "dumps" / lang / "udhr.parquet", *(row["text"] for row in rows if row["code"] == code))
    (folder / "dumps/th/thwiki-20240101-siteinfo-namespaces.json").write_text(NAMESPACES, encoding="utf-8")
    config = {
        "dumps": str(folder / "dumps"),
        "pageviews": str(write_views(folder / "views", PAGE_VIEWS)),
        "wordnets": {lang: str(shared / f"data/omw/{name}.tab.gz") for lang, name in WORDNETS.items()},
        "sources": ["number", "wordnet", "unigram", "bigram", "title"],
        "overrides": {"english_rule": "as_others", "bigram_min_count": 2},
    }
    build(recipe(list(UDHR), **config), folder / "run")
    return folder / "run"


@pytest.mark.parametrize("lang", UDHR)
def test_lists_of_wordnets_and_declaration_are_frozen(lang: str, world: Path) -> None:
    if languages.get(lang).words == "icu" and tokens.icu_version().partition(".")[0] != ICU:
        pytest.skip(f"frozen with ICU {ICU}, this is {tokens.icu_version()}")
    assert freeze(world, lang) == GOLDEN[lang]


def test_titles_of_page_views_are_frozen(world: Path) -> None:
    """76% of six articles are five; four are lemmas already (cat, dog, Bangkok, elephant), so both others are new."""
    titles = words(world, "th", "title")
    assert titles == ["มิชชัน:อิมพอสซิเบิล", "Terminator 2"]  # the first has a colon, and no namespace
    assert {"แมว", "หมา", "กรุงเทพมหานคร", "ช้าง"} <= set(words(world, "th"))
    assert not {"พิเศษ:ค้นหา", "ไฟล์:Cat.jpg", "Special:Search", "ตำรา"} & set(words(world, "th"))
    assert "Cat" in words(world, "en")


@pytest.mark.parametrize("lang", ["zh", "ja", "th", "lo", "km", "my", "bo"])
def test_bigram_of_a_language_without_spaces_occurs_in_its_text(lang: str, world: Path) -> None:
    text = "".join(pq.read_table(world.parent / "dumps" / lang / "udhr.parquet")["text"].to_pylist())
    bigrams = scores(world, lang, "bigram")
    assert len(bigrams) >= 14
    assert all(bigram in text for bigram in bigrams)


@pytest.mark.parametrize("lang", PIECES)
def test_lists_of_real_dump_pieces_are_frozen(lang: str, shared: Path, tmp_path: Path) -> None:
    (piece,) = (shared / "data/wiki").glob(f"{lang}wiki*")
    loaded = recipe(
        [lang],
        sources=["number", "wordnet", "unigram", "bigram"],
        overrides={"english_rule": "as_others"},
        wikipedia={lang: str(piece)},
        wordnets={lang: str(shared / f"data/omw/{WORDNETS[lang]}.tab.gz")},
    )
    build(loaded, tmp_path / "run")
    assert freeze(tmp_path / "run", lang) == PIECES[lang]
