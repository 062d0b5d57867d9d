"""The stage over every language of the table."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from entry_lists import build, recipe, words, write_texts, write_views
from worldclip import metadata
from worldclip.language import table as languages

# A letter of each script, to make up words of languages that the Declaration of Human Rights is not at hand for.
# fmt: off
FIRST_LETTER = {
    "Arab": 0x628, "Armn": 0x561, "Beng": 0x995, "Cans": 0x1403, "Cher": 0x13A0, "Cyrl": 0x430, "Deva": 0x915,
    "Ethi": 0x1200, "Geor": 0x10D0, "Goth": 0x10330, "Grek": 0x3B1, "Gujr": 0xA95, "Guru": 0xA15, "Hans": 0x4E00,
    "Hant": 0x4E00, "Hebr": 0x5D0, "Jpan": 0x3042, "Khmr": 0x1780, "Knda": 0xC95, "Kore": 0xAC00, "Laoo": 0xE81,
    "Latn": 0x61, "Mlym": 0xD15, "Mtei": 0xABC0, "Mymr": 0x1000, "Nkoo": 0x7CA, "Olck": 0x1C5A, "Orya": 0xB15,
    "Sinh": 0xD9A, "Syrc": 0x710, "Taml": 0xB95, "Telu": 0xC15, "Tfng": 0x2D30, "Thaa": 0x780, "Thai": 0xE01,
    "Tibt": 0xF40, "Zyyy": 0x61,
}
# fmt: on


def made_up(language: languages.Language) -> list[str]:
    """Two sentences in the language's script."""
    letter = chr(FIRST_LETTER[language.script])
    words = [letter * 2, f"{letter}{chr(ord(letter) + 1)}", letter * 3]
    return [f"{' '.join(words)}.", f"{' '.join(reversed(words))}."]


def declaration(shared: Path) -> dict[str, list[str]]:
    """The first paragraphs of the Declaration of Human Rights in every language of the table that it is there for."""
    table = pq.read_table(shared / "data/udhr/udhr.parquet", columns=["iso639_3", "script", "text"])
    paragraphs_of: dict[str, list[str]] = {}
    for row in table.to_pylist():
        lang = languages.from_lid(f"{row['iso639_3']}_{row['script']}", "glotlid")
        paragraphs = paragraphs_of.setdefault(lang, [])
        if row["script"] == languages.get(lang).script and len(paragraphs) < 12:
            paragraphs.append(row["text"])
    return {lang: texts for lang, texts in paragraphs_of.items() if texts and lang != languages.OTHER}


@pytest.fixture
def sentences(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """A few of each language: of the Declaration where it is at hand, else made up."""
    texts = {language.code: made_up(language) for language in languages.all_languages()}
    try:
        real = declaration(request.getfixturevalue("shared"))
    except pytest.skip.Exception:
        return texts
    assert len(real) > 200
    return texts | real


def test_stage_handles_all_330_wikipedias(sentences: dict[str, list[str]], tmp_path: Path) -> None:
    """Text and page views of each -> the lists of all 327 languages and their matchers."""
    code_of = {wiki: language.code for language in languages.all_languages() for wiki in language.wikipedia}
    assert len(code_of) == 330
    write_views(tmp_path / "dumps/pageviews", ",".join(f"{w.replace('_', '-')}.m Page_of_{w} 3 0" for w in code_of))
    for wiki, code in code_of.items():
        write_texts(tmp_path / "dumps" / wiki / "a.parquet", *sentences[code])
    shares = {"english_rule": "as_others", "unigram_top_fraction": 1, "title_top_fraction": 1, "bigram_min_count": 1}
    sources = ["number", "unigram", "bigram", "title"]
    loaded = recipe([], sources=sources, dumps=str(tmp_path / "dumps"), overrides=shares)
    lists = build(loaded, tmp_path / "run")["lists"]
    assert set(lists) == {language.code for language in languages.all_languages()}
    assert len(lists) == 327
    for lang, row in lists.items():
        assert row["by_source"]["unigram"] >= 2, lang
        assert row["by_source"]["bigram"] >= (languages.get(lang).words == "space"), lang
        assert row["by_source"]["title"] == len(languages.wikipedias(lang)), lang
    for lang in ("sw", "th", "zh", "bo", "am", "got", "nqo", "ar", "hi", "ka", "my", "zh_min_nan", "simple"):
        entries = words(tmp_path / "run", lang)
        matcher = metadata.load_matcher(tmp_path / "run", lang, "unicode")
        matched = {entries[entry_id] for entry_id in matcher.match(sentences[lang][0])}
        assert matched & set(entries[100:]), lang
        assert entries[-1] in {entries[entry_id] for entry_id in matcher.match(f"— {entries[-1]} !")}, lang
