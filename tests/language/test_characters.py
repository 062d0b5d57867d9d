"""Characters have the properties of the committed table, whatever Unicode version the interpreter has."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest

from worldclip.kernels.unicode_table import CATEGORIES, load_categories
from worldclip.language import characters, segment
from worldclip.language.profiles import normalise
from worldclip.metadata.entry_list import is_punctuation
from worldclip.metadata.sources import dumps
from worldclip.metadata.sources.lists import title_case

# Of Unicode 15.0 and 15.1, newer than the table: letters, a mark, punctuation, a digit.
NEW_HAN, NEW_LAO_MARK, NEW_KANNADA_MARK, NEW_CYRILLIC = "\U00031350", "\u0ece", "\u0cf3", "\U0001e030"
NEW_PUNCTUATION, NEW_DIGIT = "\U00011b00", "\U00011f50"
NEWER = (NEW_HAN, NEW_LAO_MARK, NEW_KANNADA_MARK, NEW_CYRILLIC, NEW_PUNCTUATION, NEW_DIGIT)
EVERY = [chr(c) for c in range(0x110000)]


@pytest.fixture(scope="module")
def known() -> list[str]:
    """The characters that the table has."""
    return [EVERY[c] for c in np.flatnonzero(~characters.is_in("Cn")).tolist()]


def test_interpreter_agrees_on_every_character_of_the_table(known: list[str]) -> None:
    """A later Python that fails here gives other lists: its answers must then come from the table as well."""
    categories = load_categories()
    assert [x for x in known if unicodedata.category(x) != CATEGORIES[categories[ord(x)]]] == []
    blanks = [x for x in EVERY if x.isspace()]
    assert "".join(blanks) == characters.WHITESPACE
    assert "".join(x for x in EVERY if re.match(r"\s", x)) == characters.WHITESPACE
    assert [x for x in known if x.isalnum() != (CATEGORIES[categories[ord(x)]][0] in "LN")] == []
    text = "".join(known)
    assert re.sub(f"[{characters.word_class()}]", "", text) == re.sub(r"\w", "", text)
    assert re.sub(f"[{characters.digit_class()}]", "", text) == re.sub(r"\d", "", text)


@pytest.mark.parametrize("name", ["lower", "upper", "title", "casefold"])
def test_characters_of_the_table_change_as_in_str(name: str, known: list[str]) -> None:
    change = getattr(characters, name)
    assert [x for x in known if change(x) != getattr(x, name)()] == []


def test_texts_change_as_in_str() -> None:
    text = "ΟΔΟΣ ΣΑΣ'Σ istanbul İ ǆ ß\u0301"
    assert characters.lower(text) == text.lower()
    assert characters.upper(text) == text.upper()
    assert characters.casefold(text) == text.casefold()


@pytest.mark.parametrize("x", NEWER)
def test_newer_characters_have_no_properties(x: str) -> None:
    assert CATEGORIES[load_categories()[ord(x)]] == "Cn"
    for change in (characters.lower, characters.upper, characters.title, characters.casefold, characters.nfc):
        assert change(x) == x
    assert not re.match(f"[{characters.word_class()}{characters.digit_class()}]", x)
    assert segment.spaced_classes()[ord(x)] not in (segment.WORD, segment.ALONE)
    assert not is_punctuation(x)
    assert not is_punctuation(f"!{x}")
    assert title_case(f"{x}a", "en") == f"{x}a"
    assert dumps._redirect().match(f"#REDIRECT{x} [[x]]") is None


def test_newer_characters_end_the_context_of_a_change() -> None:
    for x in NEWER:
        assert characters.lower(f"ΟΔΟΣ{x}Σ") == f"οδος{x}σ"
        assert normalise(f"E\u0301{x}\u0301 STRASSE\u0307", "unicode_fold") == f"\xe9{x}\u0301 strass\u0117"


def test_punctuation_and_redirects_of_every_script_are_known() -> None:
    assert is_punctuation("«—» …")
    assert is_punctuation("。、")
    assert not is_punctuation("«a»")
    assert not is_punctuation("€")
    assert dumps._redirect().match("#ПРЕНАСОЧВАНЕ [[x]]")
    assert dumps._redirect().match(" # 重定向: [[x]]")
    assert dumps._redirect().match("#[[x]]") is None
