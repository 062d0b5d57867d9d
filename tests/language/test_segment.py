"""Which characters part words, in languages written with spaces and without."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from worldclip.language import segment as tokens
from worldclip.language import table as languages
from worldclip.language.characters import is_in
from worldclip.language.segment import ALONE, BARRIER, JOINT, PART, SPACES, TSHEGS, WORD, scheme_of

MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
UNSPACED = "猫กກကកཀ"


@pytest.mark.parametrize(
    ("classes_of", "characters", "expected"),
    [
        (tokens.spaced_classes, "azAZ09ね", WORD),  # kana is not in the recipe's set
        (tokens.spaced_classes, UNSPACED, ALONE),
        (tokens.spaced_classes, " \t\u00a0\u3000\x1f", JOINT),
        (tokens.spaced_classes, f"{MARKS}，。“”’།\n\r\x0b\x0c\x85\u2028", BARRIER),
        (tokens.ascii_classes, "a9é»।±", WORD),  # the reference knows no punctuation but that of ASCII
        (tokens.ascii_classes, "猫，。—”།", ALONE),
        (tokens.ascii_classes, " \u00a0\x1f", JOINT),
        (tokens.ascii_classes, f"{MARKS}\n", BARRIER),
        (tokens.segmented_classes, f"{UNSPACED}ね", WORD),
        (tokens.segmented_classes, "\x1f", JOINT),
        (tokens.segmented_classes, " \u3000\n，", BARRIER),
        (tokens.tsheg_classes, "\u0f0b\u0f0c", JOINT),
    ],
)
def test_classes_of_characters(classes_of: Callable[[], np.ndarray], characters: str, expected: int):
    assert {int(classes_of()[ord(x)]) for x in characters} == {expected}


def test_schemes_of_wikipedias():
    assert scheme_of("sw", "ascii") is tokens.ASCII_SPACES
    assert scheme_of("th", "ascii") == scheme_of("th"), "segmenters are not the reference's"
    assert scheme_of("bo") == scheme_of("dz") == TSHEGS
    assert TSHEGS.joiner == "\u0f0b"
    assert ALONE not in np.unique(tokens.segmented_classes())


def test_only_letters_marks_and_digits_make_words():
    classes = tokens.spaced_classes()
    is_unassigned = is_in("Cn")
    for c in range(0xA0, 0x2000):
        x = chr(c)
        if 0xE00 <= c <= 0x109F or 0x1780 <= c <= 0x17FF or x.isspace() or x == tokens.ETHIOPIC_WORD_SPACE:
            continue
        if is_unassigned[c]:  # U+0CF3 for one is a letter on Python 3.12 and later only
            assert classes[c] == PART, f"U+{c:04X}"
            continue
        assert classes[c] == (WORD if unicodedata.category(x)[0] in "LMN" else PART), f"U+{c:04X}"


def test_wikipedias_without_spaces():
    cut = {
        wiki for language in languages.all_languages() for wiki in language.wikipedia if scheme_of(wiki) is not SPACES
    }
    always = {"ja", "zh", "zh_classical", "zh_yue", "th", "lo", "km", "my", "bo", "dz"}
    assert always <= cut <= always | {"wuu", "gan", "shn", "mnw", "blk", "ryu"}
    assert scheme_of("zh_yue").locale == "zh"


@pytest.mark.parametrize(
    ("wiki_lang", "text", "words"),
    [
        ("zh", "我喜欢北京大学。", "我 喜欢 北京 大学 。"),
        ("th", "แมวกินปลา", "แมว กิน ปลา"),
        ("ja", "猫が好きです。", "猫 が 好き です 。"),
        ("lo", "ປະເທດລາວ", "ປະເທດ ລາວ"),
        ("km", "ប្រទេសកម្ពុជា", "ប្រទេស កម្ពុជា"),
        ("my", "ကျောင်းသားများ", "ကျောင်းသား များ"),
    ],
)
def test_icu_finds_the_words(wiki_lang: str, text: str, words: str):
    (segmented,) = tokens.segment(pa.array([text], pa.large_string()), scheme_of(wiki_lang)).to_pylist()
    assert segmented == words.replace(" ", "\x1f")


def test_texts_with_spaces_are_not_segmented():
    texts = pa.array(["a photo of a cat"], pa.large_string())
    assert tokens.segment(texts, SPACES) is texts
