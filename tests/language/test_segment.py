"""Which characters part words, one Unicode for every Python; what profile `unicode` finds in 19 languages."""

import re
import unicodedata
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from worldclip.core.errors import UserError
from worldclip.kernels.unicode_table import CATEGORIES, load_categories
from worldclip.language import characters
from worldclip.language import segment as tokens
from worldclip.language.characters import is_in
from worldclip.language.profiles import normalise, profile_name
from worldclip.language.segment import ALONE, BARRIER, JOINT, PART, TSHEGS, WORD, scheme_of
from worldclip.match import Matcher
from worldclip.metadata.entry_list import is_punctuation
from worldclip.metadata.sources import dumps
from worldclip.metadata.sources.packages import title_case

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
    assert (TSHEGS.joiner, scheme_of("zh_yue").locale) == ("\u0f0b", "zh")


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


def test_characters_and_texts_change_as_in_str(known: list[str]) -> None:
    text = "ΟΔΟΣ ΣΑΣ'Σ istanbul İ ǆ ß\u0301"
    for name in ("lower", "upper", "casefold", "title"):
        change = getattr(characters, name)
        assert [x for x in known if change(x) != getattr(x, name)()] == []
        assert name == "title" or change(text) == getattr(text, name)()


@pytest.mark.parametrize("x", NEWER)
def test_newer_characters_have_no_properties_and_end_the_context_of_a_change(x: str) -> None:
    assert CATEGORIES[load_categories()[ord(x)]] == "Cn"
    for change in (characters.lower, characters.upper, characters.title, characters.casefold, characters.nfc):
        assert change(x) == x
    assert not re.match(f"[{characters.word_class()}{characters.digit_class()}]", x)
    assert tokens.spaced_classes()[ord(x)] not in (WORD, ALONE)
    assert not is_punctuation(x)
    assert not is_punctuation(f"!{x}")
    assert title_case(f"{x}a", "en") == f"{x}a"
    assert dumps._redirect().match(f"#REDIRECT{x} [[x]]") is None
    assert characters.lower(f"ΟΔΟΣ{x}Σ") == f"οδος{x}σ"
    assert normalise(f"E\u0301{x}\u0301 STRASSE\u0307", "unicode_fold") == f"\xe9{x}\u0301 strass\u0117"


NORMAL = [  # text, and the same under unicode and unicode_fold
    ("  Cafe\u0301\u3000\u00a0 au  LAIT\n", "Café au LAIT", "café au lait"),
    ("Straße \u0130stanbul", "Straße \u0130stanbul", "strasse i\u0307stanbul"),
    ("\x1cx\x1f", "\x1cx\x1f", "\x1cx\x1f"),
    (" \u2028 ", "", ""),
    ("\u0958", "\u0915\u093c", "\u0915\u093c"),
]


def test_profiles_space_marks_or_compose_and_collapse_whitespace():
    reference = normalise("\u00a0Hi,there. x;y:z?!`'\t\n\r(ok)\x1c", "reference")
    assert reference == " Hi , there .  x ; y : z ?  !  ` '   (ok) "
    for text, unicode, folded in NORMAL:
        assert (normalise(text, "unicode"), normalise(text, "unicode_fold")) == (unicode, folded)
    assert profile_name("unicode", fold_case=True) == profile_name("unicode_fold") == "unicode_fold"
    for profile, fold_case, message in (("latin", False, "must be one of"), ("reference", True, "folds case")):
        with pytest.raises(UserError, match=message):
            profile_name(profile, fold_case)


# language -> (text, entries in it, entries that are not: half a word or syllable, an inflected form, another case)
FOUND_AND_NOT = {
    "blanks, digits, emoji": ("red\u00a0\u3000 apple, the 2nd ❤️", "red apple | ❤️", "2 | ❤ | apple the"),
    "en": (
        'A "cat" (black), the dog\'s bed - made in the U.S. by Dr.\u00a0Who',
        "cat | black | dog | dog's bed | the dog | U | U.S. | Dr. | Dr. Who | s | made in",
        "ca | lack | Cat | bed made | in by | Wh",
    ),
    "fr": (
        "L'homme à l'e\u0301charpe bleue regarde la tour  Eiffel !",
        "homme | écharpe | l' | l'écharpe bleue | tour Eiffel | L | à | !",
        "charpe | eiffel | e | tou | Eiff",
    ),
    "el": ("Η γάτα\u0387 ο σκύλος; ΓΑΤΑ", "γάτα | σκύλος | ΓΑΤΑ | γάτα· ο | ο σκύλος;", "σκύλο | γατα | η γάτα | ΓΆΤΑ"),
    "tr": (
        "Kedi'nin oyuncağı, İstanbul'da bir köpek ve kediler.",
        "Kedi | İstanbul | köpek | kediler | da | bir köpek",
        "kedi | oyuncak | Istanbul | istanbul | kedil",
    ),
    "vi": (
        "Con me\u0300o đen ngồi trên ghế, cạnh cửa sổ.",
        "mèo | mèo đen | ghế | cửa sổ | Con mèo",
        "meo | me | gh | cửa s | con",
    ),
    "ar": ("قطة، كلب؛ هل هذا حصان؟", "قطة | كلب | حصان | هل هذا حصان", "قط | صان | قطة كلب | هذا كلب"),
    "fa": (
        "گربه\u200cها و سگ، «کتاب» روی میز۔",
        "گربه | ها | گربه\u200cها | سگ | کتاب | روی میز",
        "گربهها | می | تاب | سگ کتاب",
    ),
    "he": ('חתול (שחור), הכלב; "בית".', "חתול | שחור | הכלב | בית | (שחור)", "כלב | חתו | בי | חתול שחור"),
    "hi": ("यह बिल्ली है। काला कुत्ता, लाल सेब॥", "बिल्ली | काला कुत्ता | लाल सेब | सेब | है", "बिल | बिल्ल | बिल् | काल | कुत्त | ल"),
    "bn": ("একটি বি\u09dcাল। কালো কুকুর", "বি\u09a1\u09bcাল | কালো কুকুর | একটি", "বি\u09a1 | বি\u09dc | কুকু | কাল"),
    "ta": ("பூனை, நாய்; மரம்.", "பூனை | நாய் | மரம் | பூனை,", "நாய | பூ | மரம | ூனை"),
    "am": ("ድመት። ውሻ፣ዛፍ", "ድመት | ውሻ | ዛፍ | ውሻ፣ዛፍ", "ድመ | መት | ድመት ውሻ"),
    "ko": (
        '고양이와 개가 "\u1100\u1169\u11bc\u110b\u116f\u11ab"에서 (놀아요).',
        "고양이와 | 개가 | 공원 | 놀아요 | 에서",
        "고양이 | 개 | 놀아 | 원 | 공원에서",
    ),
    "th": ("แมวดำนั่งบนโต๊ะ", "แมว | แมวดำ | ดำ | นั่ | นั่ง | บน | โต๊ะ | บนโต๊ะ | มว", "นั | โต | น้ำ | แมว ดำ | นัง"),
    "km": ("ឆ្មាខ្មៅអង្គុយ", "ឆ្មា | ខ្មៅ | អង្គុយ | ឆ្មាខ្មៅ", "ឆ្ម | ឆ | ខ | អង្គ"),
    "my": ("ကြောင်နက်", "ကြော | ကြောင် | နက် | ကြောင်နက်", "က | ကြောင | န်"),
    "bo": ("ཞི་མི་ནག་པོ།", "ཞི་མི | ནག་པོ | ནག | ཞི | ཞི་མི་", "ཞ | མིག | པ"),
    "zh": (
        "一只黑猫坐在2個红苹果旁边,很Good。",
        "黑猫 | 猫 | 2個 | 2 | 红苹果 | 苹果旁边 | Good | 很Good | 一",
        "黑狗 | 红 苹果 | Goo | ood | good",
    ),
    "ja": (
        "黒いねこのカメラ、Nikonの写真ｶﾒﾗとか\u3099っこう",
        "ねこ | カメラ | メラ | Nikon | の写真 | ｶﾒﾗ | がっこう | 黒いねこ",
        "か | Niko | ニコン | ネコ | かっこう | カメラ Nikon",
    ),
}


@pytest.mark.parametrize("lang", FOUND_AND_NOT)
def test_unicode_profile_finds_the_entries_a_reader_finds(lang):
    text, in_it, not_in_it = FOUND_AND_NOT[lang]
    found, not_found = in_it.split(" | "), not_in_it.split(" | ")
    entries = [*found, *not_found]
    assert [entries[i] for i in Matcher.build(entries, "unicode").match(text)] == found
