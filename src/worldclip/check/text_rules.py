"""Reject texts by rule, a whole column at a time, and mask personal data."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.check.config import TextRules
from worldclip.core.arrow import string_buffers
from worldclip.core.errors import UserError
from worldclip.core.image_names import SUFFIXES
from worldclip.core.inputs import Stamp, stamps_of
from worldclip.core.regular_file import read_regular
from worldclip.kernels.compiled import compiled
from worldclip.language.identify import Identifier
from worldclip.language.table import INSTALLED, Languages, code_of_stated, scheme_of
from worldclip.match import Matcher

UNKNOWN = "und"  # BCP 47: undetermined
MASK = "█"  # replaces personal data; it is not a letter, so it bounds words and matches no entry

# RE2 patterns.  Only numbers that are written as phone numbers count, as +49 30 1234567, (555) 123-4567, 030/1234567:
# plain runs of digits are more often sizes, dates and article numbers.
EMAIL = r"[\pL\pN._%+-]+@[\pL\pN-]+(?:\.[\pL\pN-]+)*\.\pL{2,}"
PHONE = (
    r"\+\d[\d ()./-]{6,18}\d"
    r"|\(\d{2,5}\) ?\d{3,4}[ .-]?\d{3,5}\b"
    r"|\b\d{3}[ .-]\d{3}[ .-]\d{4}\b"
    r"|\b0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5}\b"
)
PERSONAL_DATA = f"{EMAIL}|{PHONE}"
load_identifier = functools.cache(Identifier)  # once per process
URL_ONLY = rf"^(?:(?:https?://|www\.)\S+|\S+\.(?:{'|'.join(suffix[1:] for suffix in SUFFIXES)}))$"


def reject(texts: pa.Array, langs: np.ndarray, rules: TextRules) -> tuple[np.ndarray, np.ndarray]:
    """Return the first rule that rejects each text and its detail: two (n,) object arrays, None if no rule does.

    texts: string or large_string, no nulls.  langs: (n,) str, our code of each text's language.
    """
    reason, detail = np.full(len(texts), None, object), np.full(len(texts), None, object)
    for rule, is_rejected, details in _apply_rules(texts, langs, rules):
        new = is_rejected & (reason == None)  # noqa: E711  element by element
        reason[new], detail[new] = rule, details[new]
    return reason, detail


def _apply_rules(texts: pa.Array, langs: np.ndarray, rules: TextRules) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each rule that is set: its name, (n,) bool rejected, (n,) object details."""
    trimmed = pc.utf8_trim_whitespace(texts)
    num_chars = _numpy(pc.utf8_length(trimmed))
    if rules.min_chars is not None:
        yield "min_chars", num_chars < rules.min_chars, _details(num_chars, "characters")
    if rules.max_chars is not None:
        yield "max_chars", num_chars > rules.max_chars, _details(num_chars, "characters")
    if rules.max_repeated is not None:
        longest = longest_run(texts)
        yield "max_repeated", longest > rules.max_repeated, _details(longest, "times one character")
    if rules.max_digit_fraction is not None:
        digits = _numpy(pc.count_substring_regex(texts, r"\p{Nd}"))
        whitespace = _numpy(pc.count_substring_regex(texts, r"[\s\pZ]"))
        fraction = digits / np.maximum(_numpy(pc.utf8_length(texts)) - whitespace, 1)
        yield "max_digit_fraction", fraction > rules.max_digit_fraction, _details(np.round(fraction, 3), "digits")
    if rules.url_only:
        yield "url_only", _matches(trimmed, URL_ONLY), np.array(texts.to_pylist(), object)
    if rules.languages:
        yield "language", ~np.isin(langs, rules.languages), langs.astype(object)
    if rules.deny_phrases:
        phrases, matcher = phrase_matcher(rules.deny_phrases)
        entry_ids, offsets = matcher.match_batch(texts)
        has_phrase = np.diff(offsets) > 0
        first_phrases = entry_ids[offsets[:-1][has_phrase]]
        details = np.full(len(texts), None, object)
        details[has_phrase] = [phrases[entry_id] for entry_id in first_phrases]
        yield "deny_phrase", has_phrase, details
    if rules.personal_data == "drop":
        is_email = _matches(texts, EMAIL)
        details = np.where(is_email, "e-mail address", "phone number").astype(object)
        yield "personal_data", is_email | _matches(texts, PHONE), details


def _numpy(column: pa.Array) -> np.ndarray:
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    return _numpy(pc.match_substring_regex(texts, pattern, ignore_case=True))


def _details(values: np.ndarray, unit: str) -> np.ndarray:
    return np.array([f"{value:,} {unit}" for value in values.tolist()], object)


def mask_personal_data(texts: pa.Array) -> pa.Array:
    """Replace each e-mail address and phone number by MASK."""
    return pc.replace_substring_regex(texts, PERSONAL_DATA, MASK)


def longest_run(texts: pa.Array) -> np.ndarray:
    """Return the length of each text's longest run of one character, (n,) int64; spaces and controls do not count."""
    data, offsets = string_buffers(texts)
    out = np.zeros(len(offsets) - 1, np.int64)
    _longest_run(data, offsets, out)
    return out


@compiled
def _longest_run(data, offsets, out):
    for i in range(len(out)):
        last, run = np.uint32(0), 0
        at = offsets[i]
        while at < offsets[i + 1]:
            # A character's UTF-8 bytes as one number: equal numbers are equal characters, so nothing is decoded.
            char = np.uint32(data[at])
            at += 1
            while at < offsets[i + 1] and data[at] & 0xC0 == 0x80:
                char = char << np.uint32(8) | np.uint32(data[at])
                at += 1
            run = run + 1 if char == last else 1
            last = char
            if char > 32:
                out[i] = max(out[i], run)


def phrase_matcher(files: tuple[str, ...]) -> tuple[list[str], Matcher]:
    """Return the phrases of all files and their matcher, built once per process while the files stay the same."""
    return _phrase_matcher(files, stamps_of(files))


@functools.lru_cache(maxsize=4)
def _phrase_matcher(files: tuple[str, ...], stamps: Sequence[Stamp]) -> tuple[list[str], Matcher]:
    phrases = list(dict.fromkeys(phrase for file in files for phrase in read_lines(file)))
    return phrases, Matcher.build(phrases, "unicode", fold_case=True)


def read_lines(file: str) -> list[str]:
    """Return the stripped lines of a list without empty ones and `#` comments.

    Raises UserError that names the file if it cannot be read.
    """
    try:
        lines = read_regular(file).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a list with one item per line ({error})") from error
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def languages_of(
    texts: pa.Array, stated: pa.Array | None, lid_model: str, languages: Languages = INSTALLED
) -> np.ndarray:
    """Return our code of each text's language, (n,) object; UNKNOWN if it has no label.

    stated: labels of the pool (pool.lang); None: those of the language-identification model.
    """
    if stated is not None:
        encoded, ours = stated.dictionary_encode(), languages.by_code()
        names = [code_of_stated(label, ours, languages) for label in encoded.dictionary.to_pylist()]
        labels: np.ndarray = np.array([*names, UNKNOWN], object)[_numpy(pc.fill_null(encoded.indices, len(names)))]
        return labels
    identifier = load_identifier(lid_model)
    label_ids, _ = identifier.predict_ids(texts)  # -1 for a blank text, which indexes UNKNOWN
    scheme = scheme_of(identifier.labels[0])
    codes = [languages.from_lid(label, scheme) for label in identifier.labels]
    identified: np.ndarray = np.array([*codes, UNKNOWN], object)[label_ids]
    return identified
