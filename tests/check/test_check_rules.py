from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldclip.check.config import TextRules
from worldclip.check.text_rules import languages_of, longest_run, mask_personal_data, read_lines, reject
from worldclip.core.errors import UserError


def rules_of(texts: list[str], langs: list[str] | None = None, **rules) -> list[str | None]:
    reason, _ = reject(pa.array(texts, pa.large_string()), np.array(langs or ["en"] * len(texts)), TextRules(**rules))
    return reason.tolist()


def test_no_text_rule_is_set_by_default() -> None:
    assert rules_of(["", "http://x.org/a.jpg", "aaaaaaaaaaaaa", "1234567890", "me@example.org"]) == [None] * 5


def test_length_counts_characters_without_outer_whitespace() -> None:
    assert rules_of(["  กข ", "ab", "abcdef"], min_chars=3, max_chars=5) == ["min_chars", "min_chars", "max_chars"]
    assert rules_of(["猫猫猫", "\u3000abc"], min_chars=3, max_chars=3) == [None, None]


def plain_longest_run(text: str) -> int:
    longest = run = 0
    for n, char in enumerate(text):
        run = run + 1 if n and text[n - 1] == char else 1
        longest = max(longest, run if char > " " else 0)
    return longest


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="aab ăă猫\U0001f600", max_size=12), min_size=1))
def test_longest_run_agrees_with_plain_counting(texts: list[str]) -> None:
    assert longest_run(pa.array(texts, pa.large_string())).tolist() == [plain_longest_run(text) for text in texts]


def test_repeated_characters_and_digits_of_any_script_are_rejected() -> None:
    assert rules_of(["so coool", "sooooo cool", "!!!!!!"], max_repeated=3) == [None, "max_repeated", "max_repeated"]
    texts = ["12 cats", "1234 5678 a", "١٢٣٤٥", "a1"]
    assert rules_of(texts, max_digit_fraction=0.5) == [None, "max_digit_fraction", "max_digit_fraction", None]


def test_texts_that_are_only_an_address_or_file_name_are_rejected() -> None:
    addresses = ["https://example.org/cat", "www.example.org", "IMG_0042.JPG"]
    texts = ["see https://example.org", "cat.", "a cat.png b"]
    assert rules_of([*addresses, *texts], url_only=True) == ["url_only"] * 3 + [None] * 3


def test_unlisted_languages_are_rejected() -> None:
    assert rules_of(["a", "b", "c"], ["en", "fr", "und"], languages=("en",)) == [None, "language", "language"]
    texts = pa.array(["a photo of a cat on a table", "一张猫的照片", "…"], pa.large_string())
    assert languages_of(texts, None, "lid176").tolist()[:2] == ["en", "zh"]


def test_languages_that_the_pool_states_are_read_as_in_match() -> None:
    texts = pa.array(["a", "b", "c", "d", "e"], pa.large_string())
    stated = pa.array(["en", "swh_Latn", None, "zh-classical", "xx-unknown"])
    assert languages_of(texts, stated, "lid176").tolist()[:3] == ["en", "sw", "und"]


def test_deny_phrases_match_at_word_boundaries_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("# phrases\nbad word\n\n悪い\nBad Word\n", encoding="utf-8")
    texts = pa.array(["a BAD word!", "bad wording", "これは悪い例", "fine"], pa.large_string())
    rules = TextRules(deny_phrases=(str(tmp_path / "phrases.txt"),))
    reason, detail = reject(texts, np.array(["en"] * 4), rules)
    assert reason.tolist() == ["deny_phrase", None, "deny_phrase", None]
    assert detail.tolist()[0].lower() == "bad word"
    assert detail.tolist()[2] == "悪い"


PERSONAL = [
    "mail jo.doe+x@mail.example.co.uk now",
    "jörg@müller.de",
    "+49 30 1234567",
    "call (555) 123-4567",
    "030/1234567",
]
IMPERSONAL = [
    "1920 x 1080",
    "2020-01-01 12345678",
    "ISBN 978-3-16-148410-0",
    "@home",
    "a@b",
    "1,234,567",
    "24/7",
    "iso 9001",
]


def test_personal_data_is_rejected_or_masked() -> None:
    assert rules_of(PERSONAL, personal_data="drop") == ["personal_data"] * len(PERSONAL)
    assert rules_of(IMPERSONAL, personal_data="drop") == [None] * len(IMPERSONAL)
    masked = mask_personal_data(pa.array([*PERSONAL, *IMPERSONAL], pa.large_string())).to_pylist()
    assert masked == ["mail █ now", "█", "█", "call █", "█", *IMPERSONAL]


def test_first_rule_that_applies_is_the_reason() -> None:
    assert rules_of(["111"], min_chars=5, max_digit_fraction=0.1) == ["min_chars"]


def test_unreadable_list_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9\n")
    with pytest.raises(UserError, match=r"latin\.txt"):
        read_lines(str(tmp_path / "latin.txt"))
