"""The matcher against plain search, in every script; its contract over Arrow; what it stores."""

import itertools
import time
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.kernels.nfc import is_nfc, nfc
from worldclip.kernels.unicode_table import SPACED, load_table
from worldclip.match import Matcher
from worldclip.match.matcher import fill, matcher
from worldclip.match.matcher.loop import RECENT

# --- plain search, straight from the profiles' definitions ----------------------------------------

FREE = """0E00-0FFF 1000-109F 1780-17FF 19E0-19FF 2E80-2FDF 3005-3007 3021-3029 3038-303B 3040-30FF 31F0-31FF
3400-4DBF 4E00-9FFF A9E0-A9FF AA60-AA7F F900-FAFF FF66-FF9F 1AFF0-1B16F 20000-323AF"""
SIMILAR = """4E00-9FFF 3400-4DBF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B820-2CEAF 2CEB0-2EBEF F900-FAFF 2E80-2EFF
2F00-2FDF 2FF0-2FFF 0E00-0E7F 0E80-0EFF 1000-109F 1780-17FF 0F00-0FFF"""
SIMILAR_MARKS = r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~，。、；：？！“”‘’（）【】《》〈〉「」『』～—"""


def is_within(x: str, ranges: str) -> bool:
    return any(int(low, 16) <= ord(x) <= int(high, 16) for low, high in (pair.split("-") for pair in ranges.split()))


def plain_reference(entries: list[str], text: str) -> list[int]:
    def edge(x: str) -> str:
        return "" if is_within(x, SIMILAR) or x in SIMILAR_MARKS else " "

    text = f" {text.strip()} "
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for blank in "\t\n\r":
        text = text.replace(blank, " ")
    return [i for i, entry in enumerate(entries) if edge(entry[0]) + entry + edge(entry[-1]) in text]


def plain_normalise(text: str, fold: bool) -> str:
    text = unicodedata.normalize("NFC", text)
    if fold:
        text = unicodedata.normalize("NFC", text.casefold())
    spaces = [x for x in text if x.isspace() and x not in "\x1c\x1d\x1e\x1f"]
    return " ".join(filter(None, text.translate({ord(x): " " for x in spaces}).split(" ")))


def is_spaced(x: str) -> bool:
    return (unicodedata.category(x)[0] in "LMN" or x == "\u200d") and not is_within(x, FREE)


def plain_unicode(entries: list[str], text: str, fold: bool = False) -> list[int]:
    text = plain_normalise(text, fold)

    def occurs(entry: str) -> bool:
        for i in range(len(text)):
            j = i + len(entry)
            if text[i:j] == entry and not (
                (i > 0 and is_spaced(text[i - 1]) and is_spaced(text[i]))
                or (j < len(text) and is_spaced(text[j - 1]) and is_spaced(text[j]))
                or (j < len(text) and unicodedata.category(text[j])[0] == "M")
            ):
                return True
        return False

    return [i for i, entry in enumerate(entries) if occurs(plain_normalise(entry, fold))]


PLAIN = {
    "reference": plain_reference,
    "unicode": plain_unicode,
    "unicode_fold": lambda entries, text: plain_unicode(entries, text, fold=True),
}

# --- texts of all scripts, and entries that often occur in them -----------------------------------

WORDS = """
cat photo of a the T-shirt U.S. cat's ok. 2nd 2個 (b) don't, `x` photographs photograph abcdefgh abcdefghi
الصورة قطة، كلب बिल्ली। कुत्ता ক্ষি বাংলা தமிழ் மொழி മലയാളം ಕನ್ನಡ සිංහල မြန်မာ ខ្មែរ ລາວ བོད་ཡིག ภาษาไทย ที่นี่ น้ำ
猫咪 照片 ねこ カメラ コーヒー 가방 사진을 한국어 Кошка КОШКА кошка λόγος ΛΌΓΟΣ İstanbul ISTANBUL straße STRASSE
ﬁn ǅ ŉ ᾳ ΐ ａＢ ｶﾞ 『 』 — · १२ ٣ Ⅳ ½ 👩‍🍳 ❤️ 🏽 𠀀 か\u3099
"""
BLANKS_AND_MARKS = [
    " ",
    "  ",
    *"\t\n\r\x0b\x1c\u00a0\u3000\u200d\u200b\u2028\x00,.`~\u0301\u0323\u0308\u0345\u093c\u3099",
]
COMPOSING = """
e\u0301 q\u0323\u0307 \u1100\u1161\u11a8 \u0344 \u212b \ufb2c \U0001d160 \u0958 \u09c7\u09be \u1025\u102e \u0bc6\u0bbe
\u0dd9\u0dcf \u01d6\u0330
"""
PIECES = [*WORDS.split(), *BLANKS_AND_MARKS, *COMPOSING.split()]


def is_settled(x: str) -> bool:
    """Whether this Python's Unicode agrees with the table's, which later assignments would break."""
    return x == "\u200d" or is_spaced(x) == bool(load_table().classes[ord(x)] & SPACED)


characters = st.characters().filter(is_settled)
pieces = st.sampled_from(PIECES) | st.text(characters, max_size=3)
texts = st.lists(pieces, max_size=14).map("".join) | st.lists(pieces, max_size=8).map(" ".join)


@st.composite
def texts_and_entries(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Some texts; entries that are parts of them, cut anywhere, and others."""
    drawn = draw(st.lists(texts, min_size=1, max_size=4))
    entries = draw(st.lists(pieces, max_size=8))
    for text in drawn:
        for _ in range(draw(st.integers(0, 8))):
            start = draw(st.integers(0, max(0, len(text) - 1)))
            entries.append(text[start : start + draw(st.integers(1, 12))])
    return drawn, list(dict.fromkeys(filter(None, entries)))


@pytest.mark.parametrize("profile", PLAIN)
@settings(max_examples=300, deadline=None)
@given(world=texts_and_entries())
@example(
    world=(
        [" ,  a", "x\ty ,", "a ,  b"],
        [" ", "  ", " a", "a ", ", ", ",", " ,", "a", "y ,", "x y", "a ,  b", "a , b"],
    )
)
@example(world=(["\u03b1\u0345\u0301 \u01d6\u0330 \u0915\u094d\u093c"], ["\u03b1", "\u01d6\u0330"]))
@example(world=(["a cat"], []))
@example(world=(["a\x00 b", "abcdefgh\x00"], ["a", "a\x00", "\x00", "abcdefgh", "abcdefgh\x00"]))
@example(world=(["abcdefghabcdefgh abcdefgh"], ["abcdefgh", "abcdefghabcdefgh", "abcdefghabcdefgh abcdefgh", "efgh"]))
@example(world=(["น้ำ ที่", "a\u0301\u0323b \u0301", "(\u0301)"], ["น", "น้", "้ำ", "ที่", "a", "ạ\u0301b", "\u0301", "("]))
def test_matcher_agrees_with_plain_search(profile, world):
    texts, entries = world
    if profile != "reference":
        kept = {plain_normalise(entry, profile == "unicode_fold"): entry for entry in reversed(entries)}
        entries = [entry for normal, entry in kept.items() if normal]
    compiled = Matcher(entries, profile)
    ids, offsets = compiled.match_batch(texts)
    found = [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == [PLAIN[profile](entries, text) for text in texts]
    assert [compiled.match(text).tolist() for text in texts] == found


# Characters of one to four bytes, next to each other: their last bits differ.
NEIGHBOURS = [("b", "c"), ("è", "é"), ("丘", "丙"), ("\U0001d400", "\U0001d401")]


@pytest.mark.parametrize("profile", PLAIN)
@pytest.mark.parametrize(("one", "other"), NEIGHBOURS)
def test_words_that_differ_in_one_character_at_any_place_are_different_entries(profile, one, other):
    for before in range(18):
        entry = f"{'a' * before}{one}{'a' * 3}"
        compiled = Matcher([entry], profile)
        assert compiled.match(f"x {entry} y").tolist() == [0]
        assert compiled.match(f"x {entry.replace(one, other)} y").tolist() == [], (before, entry)


@njit
def _nfc(data, unicode):
    """Call the kernel, which has no entry for Python."""
    return nfc(data, np.int64(0), data.size, unicode)


@njit
def _is_nfc(data, unicode):
    return is_nfc(data, np.int64(0), data.size, unicode)


@settings(max_examples=300, deadline=None)
@given(texts)
@example("\u01d6\u0330")
@example("\u0958\u0330")
@example("\u1100\u1161\u11c2 \u1100\u1161\u11a7")  # the last final consonant of Hangul, and one before the first
@example("a\u0305\u0301")  # two marks of one class: the second is blocked
def test_nfc_agrees_with_unicodedata(text):
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    wanted = unicodedata.normalize("NFC", text)
    assert _nfc(data, load_table()).tobytes().decode("utf-8", "surrogatepass") == wanted
    if _is_nfc(data, load_table()):  # the quick check may doubt what is NFC, never the opposite
        assert text == wanted


@pytest.mark.parametrize("lang", ["ar", "cs", "en", "es", "it", "ja", "ko", "ru", "th", "zh"])
def test_reference_profile_agrees_with_golden_matches(shared, lang):
    def rows(name: str) -> pa.Table:
        table = pq.read_table(shared / "golden" / name)
        return table.filter(pc.equal(table["lang"].cast(pa.string()), lang))

    expected = rows("matches.parquet")
    ids, offsets = Matcher(rows("entries.parquet")["entry"]).match_batch(expected["text"])
    for text, wanted, start, end in zip(
        expected["text"].to_pylist(), expected["entry_ids"].to_pylist(), offsets, offsets[1:], strict=False
    ):
        assert ids[start:end].tolist() == wanted, text
    assert offsets.size == expected.num_rows + 1


# --- the contract over Arrow ----------------------------------------------------------------------

ENTRIES, TEXTS = ["cat", "dog", "red apple"], ["a cat", None, "", "dog, cat dog", "a red apple"]
IDS, OFFSETS = [0, 0, 1, 2], [0, 1, 1, 1, 3, 4]
FORMS = [
    TEXTS, tuple(TEXTS), pa.array(TEXTS), pa.array(TEXTS, pa.large_string()), pa.array(TEXTS, pa.string_view()),
    pa.array(TEXTS).dictionary_encode(), pa.array(["dog", *TEXTS, "cat"]).slice(1, 5), np.array(TEXTS, object),
    pa.chunked_array([TEXTS[:2], [], TEXTS[2:]], pa.string()),
    pa.array([None] * 13 + TEXTS, pa.large_string()).slice(13),
]  # fmt: skip


@pytest.mark.parametrize("profile", ["unicode", "unicode_fold"])
def test_texts_that_are_canonically_equivalent_hold_the_same_entries(profile):
    """Marks below a letter and above it in both orders; the iota below one is a letter of its own once it is folded."""
    spellings = []
    for letter, below, above in itertools.product("αΑωΩeQ", "\u0345\u0323", "\u0301\u0308\u0342"):
        spellings.append([unicodedata.normalize("NFC", letter + below + above), letter + below + above])
        spellings[-1].append(letter + above + below)
    for of_one in spellings:
        matcher = Matcher(of_one[:1], profile)
        assert [matcher.match(f"x {text} x").tolist() for text in of_one] == [[0]] * 3
        assert Matcher.build(of_one, profile).num_dead == 2


def test_every_input_type_gives_the_same_ids():
    for column in FORMS:
        ids, offsets = Matcher(ENTRIES).match_batch(column)
        assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)
        assert (ids.tolist(), offsets.tolist()) == (IDS, OFFSETS)
    for column in ([], pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.nulls(3, pa.string())):
        ids, offsets = Matcher(ENTRIES).match_batch(column)
        assert (ids.size, offsets.tolist()) == (0, [0] * (len(column) + 1))
    with pytest.raises(TypeError, match="many texts"):
        Matcher(ENTRIES).match_batch("a cat")


def test_ids_are_sorted_and_unique_for_any_number_of_matches():
    words = [f"w{i}" for i in range(5000)]
    compiled = Matcher([*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))])
    for size in (15, 16, 17, 47, 48, 49, 95, 96, 97, 2500):
        shuffled = np.random.default_rng(size).permutation(size)
        ids = compiled.match(" ".join(words[i] for i in [*shuffled, *shuffled[::-1]]))
        assert ids.dtype == np.int32
        assert (np.diff(ids) > 0).all()
        assert ids[:size].tolist() == list(range(size))


def test_ids_that_push_each_other_out_of_the_recent_ones_are_unique():
    compiled = Matcher([f"w{i}" for i in range(RECENT + 40)])
    for size in (1, 5, 40):  # of pairs: in one wide instruction, and in several
        ids = [*range(size), *range(RECENT, RECENT + size)]
        text = " ".join(f"w{i}" for i in [*ids, *ids])
        assert compiled.match(text).tolist() == ids


@pytest.mark.parametrize("num_entries", [200, 256, 257, 400, 512, 513, 65_600])
def test_ids_are_sorted_and_unique_whatever_the_largest_one_is(num_entries):
    compiled = Matcher([f"w{i}" for i in range(num_entries)])
    ids = np.random.default_rng(0).permutation(np.arange(num_entries - 200, num_entries))
    text = " ".join(f"w{i}" for i in [*ids, *ids])
    assert compiled.match(text).tolist() == sorted(ids.tolist())


def test_entries_never_span_two_texts():
    compiled = Matcher(["red apple", "apple", "red", "猫犬", "cat dog"], "unicode")
    column = ["red", "apple", "猫", "犬", "cat", "dog"] * 400
    ids, offsets = compiled.match_batch(column)
    assert ids.tolist() == [2, 1] * 400
    assert np.diff(offsets).tolist() == [1, 1, 0, 0, 0, 0] * 400


def test_invalid_utf8_matches_nothing():
    raw = [b"cat \xff\xfe", b"\xe7\x8c", b"cat\xf4\x90\x80\x80 \xc0\x80", b"\x80 cat", b"\xf0\x9f cat \xe7"]
    for profile in PLAIN:
        compiled = Matcher(["cat", "猫"], profile)
        assert compiled.match("cat \ud800 猫").tolist() == [0, 1]
        assert compiled.match_batch(["cat \udfff", None])[1].tolist() == [0, 1, 1]
        ids, offsets = compiled.match_batch(pa.array(raw, pa.binary()).view(pa.string()))
        assert 0 in ids
        assert offsets.size == len(raw) + 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=5))
def test_any_bytes_can_be_matched(raw):
    column = pa.array(raw, pa.binary()).view(pa.string())
    for profile in PLAIN:
        assert Matcher(["a", "\u0301", "猫"], profile).match_batch(column)[1].size == len(raw) + 1


def test_text_of_two_megabytes_takes_seconds_at_most():
    """What takes quadratic time takes hours."""
    for profile in PLAIN:
        compiled = Matcher(["a", "a" * 256, "\u0301"], profile)
        for text in ("a" * 2 * 10**6, "a\u0323\u0301\u0301" * 2 * 10**5, "(\u0301\u0323" * 2 * 10**5):
            started_at = time.process_time()
            compiled.match(text)
            assert time.process_time() - started_at < 10


# --- entries that cannot be told apart, and what is stored ----------------------------------------


def test_empty_and_equal_entries_are_all_named():
    with pytest.raises(ValueError, match="after the normalisation") as caught:
        Matcher(["café", "x", "  ", "cafe\u0301", "x\u00a0"], "unicode")
    assert isinstance(caught.value, UserError)
    assert [problem[:9] for problem in caught.value.problems] == ["entry 2 (", "entry 3 (", "entry 4 ("]
    for entries, message in (
        (["a"] * 26, "and 5 more entries"), (["a", ""], r"entry 1 \(''\) is empty"), (["a", None], "entry 1 is null")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Matcher(entries)
    with pytest.raises(ValueError, match=r"entry 1 \('CAT'\) equals entry 0 \('cat'\)"):
        Matcher(["cat", "CAT"], "unicode_fold")
    with pytest.raises(ValueError, match="must be one of reference, unicode"):
        Matcher(["cat"], "latin")


def test_build_keeps_the_ids_of_dead_entries():
    compiled = Matcher.build(["cat", "", "CAT", "dog", "cat", "straße"], "unicode_fold")
    assert (len(compiled), compiled.num_dead) == (6, 3)
    assert compiled.match("Cat Dog STRASSE").tolist() == [0, 3, 5]


@pytest.mark.parametrize("profile", PLAIN)
def test_saved_matcher_is_loaded_memory_mapped_and_equal_entries_give_equal_files(tmp_path, profile):
    words = [f"{a}{b}" for a, b in itertools.product("abcdefghij猫", range(200))]
    compiled = Matcher(words, profile)
    for name, entries in (("one", words), ("two", pa.chunked_array([words[:99], words[99:]]))):
        Matcher(entries, profile).save(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    loaded = Matcher.load(tmp_path / "one", digest=compiled.digest)
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path / "one") in maps.read_text()
    assert (loaded.profile, len(loaded), loaded.num_dead) == (profile, len(words), 0)
    column = [" ".join(words[i : i + 5]) for i in range(0, 2000, 7)]
    for own, again in zip(compiled.match_batch(column), loaded.match_batch(column), strict=True):
        np.testing.assert_array_equal(own, again)


def test_load_refuses_a_matcher_of_other_entries(tmp_path):
    Matcher(ENTRIES).save(tmp_path)
    assert Matcher.load(tmp_path, digest=matcher.entries_digest(pa.array(ENTRIES))).match("cat").tolist() == [0]
    for others in (["cat", "dog", "red  apple"], ENTRIES[::-1], ENTRIES[:2], ["catd", "og", "red apple"]):
        with pytest.raises(ValueError, match="has digest"):
            Matcher.load(tmp_path, digest=matcher.entries_digest(others))
    artifacts.write_json(tmp_path / matcher.META, {"version": 0, "unicode": "1.0.0", "digest": "x"})
    with pytest.raises(ValueError, match="has version 0, expected") as caught:
        Matcher.load(tmp_path, digest="y")
    assert len(caught.value.problems) == 3
    with pytest.raises(ValueError, match="is not a finished matcher"):
        Matcher.load(tmp_path / "nowhere")


def test_load_refuses_a_table_whose_levels_reach_beyond_it(tmp_path):
    Matcher(ENTRIES).save(tmp_path)
    table = np.load(tmp_path / matcher.TABLE)
    damaged = [table[:2], table[:-1], table.astype(np.int64), np.where(np.arange(table.size) == 0, 2**63, table)]
    for place in range(4, 4 + 4 * int(table[0])):
        for value in (0, table.nbytes, 2**64 - 1):
            damaged.append(table.copy())
            damaged[-1][place] = value
    for other in damaged:
        np.save(tmp_path / matcher.TABLE, other)
        with pytest.raises(ValueError, match="is damaged"):
            Matcher.load(tmp_path)


def test_level_too_full_for_any_seed_gets_more_slots(tmp_path, monkeypatch):
    words = [f"{k} {k % 7} {k % 11}" for k in range(3000)]
    plain = Matcher(words)
    monkeypatch.setattr(fill, "LOAD", 1.0)
    fuller = Matcher(words)
    for name, compiled in (("plain", plain), ("fuller", fuller)):
        compiled.save(tmp_path / name)
    assert not np.array_equal(*(np.load(tmp_path / name / matcher.TABLE) for name in ("plain", "fuller")))
    assert [fuller.match(word).tolist() for word in words] == [plain.match(word).tolist() for word in words]
