"""Read what begins at a position: a tag, an entity, the prefix of a link, an address.

Names are found by hashes that are computed while they are read.
"""

from __future__ import annotations

import html.entities
from collections.abc import Iterable

import numpy as np

from worldclip.kernels.llvm import inner
from worldclip.language.characters import lower as lower_any
from worldclip.language.characters import upper

# Longest tag, prefix of a link and entity that is looked for; longer ones are text.
MAX_TAG_BYTES, MAX_PREFIX_BYTES, MAX_ENTITY_BYTES = 2000, 80, 12

BLANK, NEWLINE = ord(" "), ord("\n")

# FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/: names are hashed byte by byte while they are read.
FNV_START, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)

# Elements that are removed with their contents, which are not wikitext.
DROPPED_ELEMENTS = (
    "ref references math chem ce gallery timeline source syntaxhighlight score hiero imagemap graph mapframe maplink "
    "templatedata templatestyles categorytree inputbox charinsert style script"
)
LITERAL_ELEMENTS = "nowiki pre"
BLOCK_ELEMENTS = "br hr p div li ul ol dl dd dt tr td th table caption center blockquote poem h1 h2 h3 h4 h5 h6"
DROPPED, LITERAL, BLOCK = 1, 2, 3


def _hash(text: str) -> int:
    h = int(FNV_START)
    for byte in text.encode():
        h = (h ^ byte) * int(FNV_PRIME) % 2**64
    return h


def _lookup(values: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (sorted hashes uint64, the value of each int64)."""
    hashes, numbers = zip(*sorted((_hash(name), value) for name, value in values.items()), strict=True)
    return np.array(hashes, np.uint64), np.array(numbers, np.int64)


TAG_HASHES, TAG_KINDS = _lookup(
    dict.fromkeys(DROPPED_ELEMENTS.split(), DROPPED)
    | dict.fromkeys(LITERAL_ELEMENTS.split(), LITERAL)
    | dict.fromkeys(BLOCK_ELEMENTS.split(), BLOCK)
)
assert TAG_HASHES.size < 64  # the bits of state[UNCLOSED]
ENTITY_HASHES, ENTITY_CODES = _lookup(dict(html.entities.name2codepoint))


def prefix_hashes(prefixes: Iterable[str]) -> np.ndarray:
    """Return sorted uint64 hashes of prefixes of links (`File`, `Category`, `de`), as `strip` takes them.

    MediaWiki reads prefixes in any case, with blanks or underscores.
    """
    forms = set()
    for prefix in prefixes:
        name = prefix.replace("_", " ").strip()
        # The kernel lower-cases ASCII only, so other scripts are listed in the cases that people write.
        for form in (name, lower_any(name), upper(name), upper(name[:1]) + name[1:], lower_any(name[:1]) + name[1:]):
            forms.add(form.encode().lower().decode())
    return np.array(sorted(_hash(form) for form in forms if form), np.uint64)


@inner
def add_to_hash(h, byte):
    """Return the hash of the bytes so far and one more."""
    return (h ^ np.uint64(byte)) * FNV_PRIME


@inner
def find_hash(hashes, h):
    """Return the position of `h` in sorted hashes, -1 if it is not there."""
    row = np.searchsorted(hashes, h)
    return row if row < hashes.size and hashes[row] == h else -1


@inner
def lower(byte):
    return byte + 32 if 65 <= byte <= 90 else byte


@inner
def is_letter(byte):
    return 97 <= (byte | 32) <= 122


@inner
def starts(data, at, end, prefix):
    """Return whether data[at:end] starts with the lower-case ASCII bytes `prefix`, in any case."""
    if at + len(prefix) > end:
        return False
    for k in range(len(prefix)):  # noqa: SIM110  numba compiles loops, not generators
        if lower(data[at + k]) != prefix[k]:
            return False
    return True


@inner
def count_run(data, at, end, byte):
    """Return how many times `byte` is repeated from `at` on."""
    k = at
    while k < end and data[k] == byte:
        k += 1
    return k - at


@inner
def read_tag(data, at, end):
    """Return (row in TAG_KINDS or -1, end of the name, position after the tag or -1 if it is no tag)."""
    k = at + 2 if at + 1 < end and data[at + 1] == ord("/") else at + 1
    if k >= end or not is_letter(data[k]):
        return -1, 0, -1
    h = FNV_START
    while k < end and (is_letter(data[k]) or 48 <= data[k] <= 57):
        h = add_to_hash(h, lower(data[k]))
        k += 1
    name_end = k
    last = min(end, at + MAX_TAG_BYTES)
    while k < last and data[k] != ord(">") and data[k] != ord("<"):
        k += 1
    if k >= last or data[k] == ord("<"):
        return -1, 0, -1
    return find_hash(TAG_HASHES, h), name_end, k + 1


@inner
def find_closing_tag(data, at, end, name_start, name_end):
    """Return where `</name` of the name data[name_start:name_end] begins, from `at` on; -1 if nowhere."""
    length = name_end - name_start
    while at + length + 2 < end:
        if data[at] == ord("<") and data[at + 1] == ord("/"):
            k = 0
            while k < length and lower(data[at + 2 + k]) == lower(data[name_start + k]):
                k += 1
            if k == length and not is_letter(data[at + 2 + length]):
                return at
        at += 1
    return -1


@inner
def read_entity(data, at, end):
    """Return (code point of the entity at `at`, position after it); (0, at) if there is none."""
    k = at + 1
    last = min(end, at + MAX_ENTITY_BYTES)
    while k < last and data[k] != ord(";"):
        k += 1
    if k >= last or k == at + 1:
        return 0, at
    if data[at + 1] == ord("#"):
        code = read_number(data, at + 2, k)
        is_valid = 32 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF
        return (code, k + 1) if is_valid else (0, at)
    h = FNV_START
    for i in range(at + 1, k):
        h = add_to_hash(h, data[i])
    row = find_hash(ENTITY_HASHES, h)
    return (ENTITY_CODES[row], k + 1) if row >= 0 else (0, at)


@inner
def read_number(data, start, end):
    """Return the decimal or, after an x, hexadecimal number data[start:end]; -1 if it is not a number."""
    is_hex = lower(data[start]) == ord("x")
    base = 16 if is_hex else 10
    start = start + 1 if is_hex else start
    number = np.int64(0)
    for i in range(start, end):
        byte = np.int64(lower(data[i]))
        if 48 <= byte <= 57:
            digit = byte - 48
        elif is_hex and 97 <= byte <= 102:
            digit = byte - 87
        else:
            return np.int64(-1)
        number = number * base + digit
    return number if start < end else np.int64(-1)


@inner
def is_unwanted(data, at, end, unwanted):
    """Return whether the link whose target begins at `at` has an unwanted prefix."""
    while at < end and data[at] == BLANK:
        at += 1
    h, last = FNV_START, min(end, at + MAX_PREFIX_BYTES)
    has_blank = False  # hashed only once a character follows it
    while at < last:
        byte = data[at]
        if byte == ord(":"):
            return find_hash(unwanted, h) >= 0
        if byte in (ord("|"), ord("]"), ord("["), NEWLINE, ord("{")):
            return False
        if byte == BLANK or byte == ord("_"):
            has_blank = True
        else:
            if has_blank:
                h = add_to_hash(h, BLANK)
                has_blank = False
            h = add_to_hash(h, lower(byte))
        at += 1
    return False


@inner
def skip_url(data, at, end):
    """Return the position after the address that begins at `at`."""
    while at < end and data[at] > BLANK and data[at] not in (ord("]"), ord("["), ord("<"), ord("|"), ord("}")):
        at += 1
    return at


@inner
def is_url(data, at, end):
    return (
        starts(data, at, end, b"http://")
        or starts(data, at, end, b"https://")
        or starts(data, at, end, b"ftp://")
        or starts(data, at, end, b"//")
        or starts(data, at, end, b"mailto:")
    )
