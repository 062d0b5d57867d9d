"""Characters have the properties of the committed table, whatever Unicode version the interpreter has; profiles."""

from __future__ import annotations

import re
import sys
import unicodedata

import numpy as np
import pytest

from worldclip.core.errors import UserError
from worldclip.kernels.unicode_table import CATEGORIES, load_categories
from worldclip.language import characters, segment
from worldclip.language.profiles import normalise, profile_name
from worldclip.metadata.entry_list import is_punctuation
from worldclip.metadata.sources import dumps
from worldclip.metadata.sources.packages import title_case

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


def test_punctuation_of_every_script_is_known() -> None:
    assert is_punctuation("«—» …")
    assert is_punctuation("。、")
    assert not is_punctuation("«a»")
    assert not is_punctuation("€")


def test_reference_profile_spaces_exactly_seven_marks():
    assert normalise("\u00a0Hi,there. x;y:z?!`'\t\n\r(ok)\x1c", "reference") == (
        " Hi , there .  x ; y : z ?  !  ` '   (ok) "
    )


@pytest.mark.parametrize(
    ("text", "unicode", "folded"),
    [
        ("  Cafe\u0301\u3000\u00a0 au  LAIT\n", "Café au LAIT", "café au lait"),
        ("Straße", "Straße", "strasse"),
        ("\u0130stanbul", "\u0130stanbul", "i\u0307stanbul"),
        ("\x1cx\x1f", "\x1cx\x1f", "\x1cx\x1f"),
        (" \u2028 ", "", ""),
        ("\u0958", "\u0915\u093c", "\u0915\u093c"),
    ],
)
def test_unicode_profiles_compose_and_collapse_whitespace(text, unicode, folded):
    assert normalise(text, "unicode") == unicode
    assert normalise(text, "unicode_fold") == folded


def test_invalid_profile_names_raise():
    assert profile_name("unicode", fold_case=True) == profile_name("unicode_fold") == "unicode_fold"
    with pytest.raises(UserError, match=r"match\.profile is 'latin'; it must be one of reference, unicode"):
        profile_name("latin")
    with pytest.raises(UserError, match="only profile 'unicode' folds case"):
        profile_name("reference", fold_case=True)


def test_profiles_import_no_kernels():
    """The plain definition can be read and used without compiling anything."""
    assert "numba" not in vars(sys.modules["worldclip.language.profiles"])
