"""Wikitext -> plain prose: what entries need of an article, in one pass over its bytes.

Templates, tables, references, comments, files, categories, formulas and galleries go; links keep what a reader sees of
them; headings and list items are lines of text.  Nothing is expanded.

Text is written as it is read.  An opening mark notes how much was written; the closing mark of something unwanted takes
the text back to there.  So what is never closed costs its marks only, not the rest of the article.
"""

from __future__ import annotations

import html.entities
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numba import njit

from worldclip.core.arrow import byte_buffers
from worldclip.kernels.utf8 import encode

# What may be open.
TEMPLATE, PARAMETER, TABLE, LINK, UNWANTED_LINK, URL_LINK = 1, 2, 3, 4, 5, 6
MAX_DEPTH = 250

# Places of `state`: what a text is in the middle of.
DEPTH, LINE_START, HEADING_LEVEL, HEADING_AT, LAST_LEVEL, LAST_AT, LAST_END, UNCLOSED = 0, 1, 2, 3, 4, 5, 6, 7
# UNCLOSED: a bit for each of our elements that is closed nowhere from here on, so that each is looked for once.

MAX_TAG_BYTES, MAX_PREFIX_BYTES, MAX_ENTITY_BYTES, MAX_SWITCH_BYTES, MAX_VARIANT_BYTES = 2000, 80, 12, 60, 2000

# Elements that go with all they hold; their contents are no wikitext.
DROPPED_ELEMENTS = (
    "ref references math chem ce gallery timeline source syntaxhighlight score hiero imagemap graph mapframe maplink "
    "templatedata templatestyles categorytree inputbox charinsert style script"
)
LITERAL_ELEMENTS = "nowiki pre"
BLOCK_ELEMENTS = "br hr p div li ul ol dl dd dt tr td th table caption center blockquote poem h1 h2 h3 h4 h5 h6"
_DROPPED, _LITERAL, _BLOCK = 1, 2, 3

_SPECIAL = np.zeros(256, np.uint8)
_SPECIAL[[ord(x) for x in "<&{}[]|'\n\r\t :-_)"]] = 1

_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)

_NEWLINE, _BLANK, _EQUALS = ord("\n"), ord(" "), ord("=")


def _hash(text: str) -> int:
    h = int(_FNV_START)
    for byte in text.encode():
        h = (h ^ byte) * int(_FNV_PRIME) % 2**64
    return h


def _lookup(values: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, sorted, and the value of each."""
    pairs = sorted((_hash(name), value) for name, value in values.items())
    return np.array([pair[0] for pair in pairs], np.uint64), np.array([pair[1] for pair in pairs], np.int64)


_TAG_HASHES, _TAG_KINDS = _lookup(
    dict.fromkeys(DROPPED_ELEMENTS.split(), _DROPPED)
    | dict.fromkeys(LITERAL_ELEMENTS.split(), _LITERAL)
    | dict.fromkeys(BLOCK_ELEMENTS.split(), _BLOCK)
)
assert _TAG_HASHES.size < 64  # the bits of state[UNCLOSED]
_ENTITY_HASHES, _ENTITY_CODES = _lookup(dict(html.entities.name2codepoint))


def prefix_hashes(prefixes: Iterable[str]) -> np.ndarray:
    """The form in which `strip` takes the prefixes of links to leave out (`File`, `Category`, `de`), sorted uint64.

    MediaWiki reads prefixes in any case, with blanks or underscores.
    """
    forms = set()
    for prefix in prefixes:
        name = prefix.replace("_", " ").strip()
        # The kernel lower-cases ASCII only, so other scripts are listed in the cases that people write.
        for form in (name, name.lower(), name.upper(), name[:1].upper() + name[1:], name[:1].lower() + name[1:]):
            forms.add("".join(x.lower() if x.isascii() else x for x in form))
    return np.array(sorted(_hash(form) for form in forms if form), np.uint64)


# --- reading ----------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _find(hashes, h):
    place = np.searchsorted(hashes, h)
    return place if place < hashes.size and hashes[place] == h else -1


@njit(cache=True, nogil=True)
def _lower(byte):
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(cache=True, nogil=True)
def _is_letter(byte):
    return 97 <= (byte | 32) <= 122


@njit(cache=True, nogil=True)
def _starts(data, at, end, what):
    """Whether ASCII bytes `what` stand at `at`, in any case."""
    if at + len(what) > end:
        return False
    for k in range(len(what)):  # noqa: SIM110  numba compiles loops, not generators
        if _lower(data[at + k]) != what[k]:
            return False
    return True


@njit(cache=True, nogil=True)
def _run(data, at, end, byte):
    """How many times `byte` stands at `at`."""
    k = at
    while k < end and data[k] == byte:
        k += 1
    return k - at


@njit(cache=True, nogil=True)
def _skip_line(data, at, end):
    while at < end and data[at] != _NEWLINE:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _tag(data, at, end):
    """Of the tag at `at`: its place among ours (-1: none of them), end of its name, place behind it (-1: no tag)."""
    k = at + 2 if at + 1 < end and data[at + 1] == ord("/") else at + 1
    if k >= end or not _is_letter(data[k]):
        return -1, 0, -1
    h = _FNV_START
    while k < end and (_is_letter(data[k]) or 48 <= data[k] <= 57):
        h = (h ^ np.uint64(_lower(data[k]))) * _FNV_PRIME
        k += 1
    name_end = k
    last = min(end, at + MAX_TAG_BYTES)
    while k < last and data[k] != ord(">") and data[k] != ord("<"):
        k += 1
    if k >= last or data[k] == ord("<"):
        return -1, 0, -1
    return _find(_TAG_HASHES, h), name_end, k + 1


@njit(cache=True, nogil=True)
def _closing_tag(data, at, end, name_start, name_end):
    """Where `</name` of the name data[name_start:name_end] begins, at `at` or later; -1 if nowhere."""
    length = name_end - name_start
    while at + length + 2 < end:
        if data[at] == ord("<") and data[at + 1] == ord("/"):
            same = True
            for k in range(length):
                if _lower(data[at + 2 + k]) != _lower(data[name_start + k]):
                    same = False
                    break
            if same and not _is_letter(data[at + 2 + length]):
                return at
        at += 1
    return -1


@njit(cache=True, nogil=True)
def _entity(data, at, end):
    """Code point of the entity at `at`, and the place behind it (0, at where there is none)."""
    k = at + 1
    last = min(end, at + MAX_ENTITY_BYTES)
    while k < last and data[k] != ord(";"):
        k += 1
    if k >= last or k == at + 1:
        return 0, at
    if data[at + 1] == ord("#"):
        is_hex = _lower(data[at + 2]) == ord("x")
        base = 16 if is_hex else 10
        start = at + 3 if is_hex else at + 2
        code = np.int64(0)
        for i in range(start, k):
            b = np.int64(_lower(data[i]))
            digit = b - 48 if 48 <= b <= 57 else b - 87 if is_hex and 97 <= b <= 102 else -1
            if digit < 0:
                return 0, at
            code = code * base + digit
        if start == k or code < 32 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            return 0, at
        return code, k + 1
    h = _FNV_START
    for i in range(at + 1, k):
        h = (h ^ np.uint64(data[i])) * _FNV_PRIME
    place = _find(_ENTITY_HASHES, h)
    return (_ENTITY_CODES[place], k + 1) if place >= 0 else (0, at)


@njit(cache=True, nogil=True)
def _is_unwanted(data, at, end, unwanted):
    """Whether the link whose target begins at `at` has an unwanted prefix."""
    while at < end and data[at] == _BLANK:
        at += 1
    h, last = _FNV_START, min(end, at + MAX_PREFIX_BYTES)
    blanks = 0  # not hashed before a character follows them
    while at < last:
        b = data[at]
        if b == ord(":"):
            return _find(unwanted, h) >= 0
        if b == ord("|") or b == ord("]") or b == ord("[") or b == _NEWLINE or b == ord("{"):
            return False
        if b == _BLANK or b == ord("_"):
            blanks = 1
        else:
            if blanks:
                h = (h ^ np.uint64(_BLANK)) * _FNV_PRIME
                blanks = 0
            h = (h ^ np.uint64(_lower(b))) * _FNV_PRIME
        at += 1
    return False


@njit(cache=True, nogil=True)
def _skip_url(data, at, end):
    while at < end and data[at] > _BLANK and data[at] not in (ord("]"), ord("["), ord("<"), ord("|"), ord("}")):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _is_url(data, at, end):
    return (
        _starts(data, at, end, b"http://")
        or _starts(data, at, end, b"https://")
        or _starts(data, at, end, b"ftp://")
        or _starts(data, at, end, b"//")
        or _starts(data, at, end, b"mailto:")
    )


# --- writing ----------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _write_blank(out, n, base):
    """One blank between words, none at the start of a line."""
    return n if n == base or out[n - 1] == _BLANK or out[n - 1] == _NEWLINE else encode(_BLANK, out, n)


@njit(cache=True, nogil=True)
def _write_newline(out, n, floor, base):
    while n > floor and out[n - 1] == _BLANK:
        n -= 1
    return n if n == base or out[n - 1] == _NEWLINE else encode(_NEWLINE, out, n)


@njit(cache=True, nogil=True)
def _write_bracket(out, n, floor):
    """A closing bracket; brackets that have lost what they held go."""
    k = n
    while k > floor and out[k - 1] in (_BLANK, ord(","), ord(";"), ord(":")):
        k -= 1
    if k > floor and out[k - 1] == ord("("):
        return k - 1
    return encode(ord(")"), out, n)


# --- what opens and closes --------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _push(open_D, kind, n, state):
    """Note that something opens; too deep a nest is ignored."""
    depth = state[DEPTH]
    if depth < MAX_DEPTH:
        open_D[depth, 0], open_D[depth, 1], open_D[depth, 2] = kind, n, 0
        state[DEPTH] = depth + 1


@njit(cache=True, nogil=True)
def _nearest(open_D, kind, other_kind, state):
    """Depth of the innermost open thing of one of two kinds; -1 if there is none that a closing mark may close.

    A link does not reach out of a template or table, nor a template out of a table that began inside it.
    """
    for depth in range(state[DEPTH] - 1, -1, -1):
        found = open_D[depth, 0]
        if found in (kind, other_kind):
            return depth
        if found in (TEMPLATE, PARAMETER, TABLE) and kind not in (TEMPLATE, PARAMETER, TABLE):
            return -1
    return -1


@njit(cache=True, nogil=True)
def _close(open_D, depth, n, state):
    """Close what is open at `depth` and within; returns how much text is left."""
    state[DEPTH] = depth
    kind = open_D[depth, 0]
    return n if kind in (LINK, URL_LINK) else open_D[depth, 1]


@njit(cache=True, nogil=True)
def _top(open_D, state):
    return open_D[state[DEPTH] - 1, 0] if state[DEPTH] else 0


@njit(cache=True, nogil=True)
def _floor(open_D, state, base):
    """Text before here must stay: something open has noted it."""
    return open_D[state[DEPTH] - 1, 1] if state[DEPTH] else base


# --- one mark each: (place behind it, length of the text) -------------------------------------------------------------


@njit(cache=True, nogil=True)
def _angle(data, at, end, out, n, floor, base, state):
    if _starts(data, at, end, b"<!--"):
        at += 4
        while at < end and not (data[at] == ord(">") and data[at - 1] == ord("-") and data[at - 2] == ord("-")):
            at += 1
        return min(at + 1, end), n
    place, name_end, behind = _tag(data, at, end)
    if behind < 0:
        return at + 1, encode(ord("<"), out, n)
    kind = _TAG_KINDS[place] if place >= 0 else 0
    if kind == _BLOCK:
        return behind, _write_newline(out, n, floor, base)
    if kind == 0 or data[at + 1] == ord("/") or data[behind - 2] == ord("/"):
        return behind, n
    closing = -1 if state[UNCLOSED] >> place & 1 else _closing_tag(data, behind, end, at + 1, name_end)
    if closing < 0:
        state[UNCLOSED] |= 1 << place
        return behind, n
    if kind == _LITERAL:
        for k in range(behind, closing):
            if data[k] == _NEWLINE:
                n = _write_newline(out, n, floor, base)
            elif data[k] == _BLANK:
                n = _write_blank(out, n, base)
            else:
                n = _copy_byte(out, n, data[k])
    while closing < end and data[closing] != ord(">"):
        closing += 1
    return min(closing + 1, end), n


@njit(cache=True, nogil=True)
def _copy_byte(out, n, byte):
    out[n] = byte
    return n + 1


@njit(cache=True, nogil=True)
def _brace(data, at, end, out, n, open_D, state):
    run = _run(data, at, min(end, at + 4), ord("{"))
    if run == 3:
        _push(open_D, PARAMETER, n, state)
        return at + 3, n
    if run >= 2:
        _push(open_D, TEMPLATE, n, state)
        return at + 2, n
    return at + 1, encode(ord("{"), out, n)


@njit(cache=True, nogil=True)
def _closing_brace(data, at, end, out, n, open_D, state):
    run = _run(data, at, min(end, at + 3), ord("}"))
    depth = _nearest(open_D, TEMPLATE, PARAMETER, state)
    if depth >= 0 and run >= 3 and open_D[depth, 0] == PARAMETER:
        return at + 3, _close(open_D, depth, n, state)
    if run >= 2:
        return at + 2, _close(open_D, depth, n, state) if depth >= 0 else n
    return at + 1, encode(ord("}"), out, n)


@njit(cache=True, nogil=True)
def _bracket(data, at, end, out, n, open_D, state, unwanted):
    if at + 1 < end and data[at + 1] == ord("["):
        kind = UNWANTED_LINK if _is_unwanted(data, at + 2, end, unwanted) else LINK
        _push(open_D, kind, n, state)
        at += 2
        return (at + 1 if at < end and data[at] == ord(":") else at), n
    if _is_url(data, at + 1, end):
        at = _skip_url(data, at + 1, end)
        if at < end and data[at] == _BLANK:
            _push(open_D, URL_LINK, n, state)
            return at + 1, n
        return (at + 1 if at < end and data[at] == ord("]") else at), n
    return at + 1, encode(ord("["), out, n)


@njit(cache=True, nogil=True)
def _closing_bracket(data, at, end, out, n, open_D, state):
    if _top(open_D, state) == URL_LINK:
        return at + 1, _close(open_D, state[DEPTH] - 1, n, state)
    if at + 1 < end and data[at + 1] == ord("]"):
        depth = _nearest(open_D, LINK, UNWANTED_LINK, state)
        return at + 2, _close(open_D, depth, n, state) if depth >= 0 else n
    return at + 1, encode(ord("]"), out, n)


@njit(cache=True, nogil=True)
def _pipe(at, out, n, open_D, state):
    """In a link, what stands before the first | is its target; a reader does not see it."""
    top = _top(open_D, state)
    if top == LINK and open_D[state[DEPTH] - 1, 2] == 0:
        open_D[state[DEPTH] - 1, 2] = 1
        return at + 1, open_D[state[DEPTH] - 1, 1]
    if top in (TEMPLATE, PARAMETER, TABLE, UNWANTED_LINK):
        return at + 1, n
    return at + 1, encode(ord("|"), out, n)


@njit(cache=True, nogil=True)
def _quotes(data, at, end, out, n):
    """Two to five quotes are bold or italics; others are text."""
    run = _run(data, at, end, ord("'"))
    for _ in range(1 if run == 1 or run == 4 else max(run - 5, 0)):
        n = encode(ord("'"), out, n)
    return at + run, n


@njit(cache=True, nogil=True)
def _colon(data, at, end, out, n, floor):
    """`://` behind a scheme: an address, which goes."""
    if _starts(data, at, end, b"://"):
        k = n
        while k > floor and _is_letter(out[k - 1]):
            k -= 1
        if 3 <= n - k <= 5:
            return _skip_url(data, at, end), k
    return at + 1, encode(ord(":"), out, n)


@njit(cache=True, nogil=True)
def _hyphen(data, at, end, out, n):
    """`-{zh-hans:甲; zh-hant:乙}-` shows one of the variants of a text: the first is taken, hidden ones go."""
    if at + 1 >= end or data[at + 1] != ord("{"):
        return at + 1, encode(ord("-"), out, n)
    close, last = at + 2, min(end - 1, at + MAX_VARIANT_BYTES)
    while close < last and not (data[close] == ord("}") and data[close + 1] == ord("-")):
        close += 1
    if close >= last or data[at + 2] == ord("{"):
        return at + 1, encode(ord("-"), out, n)
    start, stop, is_hidden = at + 2, close, False
    for k in range(at + 2, close):
        if data[k] == ord("|") and start == at + 2:
            for flag in range(at + 2, k):
                is_hidden |= data[flag] == ord("H") or data[flag] == ord("T")
            start = k + 1
    for k in range(start, close):
        if data[k] == ord(";"):
            stop = k
            break
    for k in range(start, stop):
        if data[k] == ord(":"):
            start = k + 1
            break
    if not is_hidden:
        for k in range(start, stop):
            n = _copy_byte(out, n, data[k])
    return close + 2, n


@njit(cache=True, nogil=True)
def _underscore(data, at, end, out, n):
    """`__NOTOC__` and its like in any language switch something and show nothing."""
    if at + 1 < end and data[at + 1] == ord("_"):
        k, last = at + 2, min(end - 1, at + MAX_SWITCH_BYTES)
        while k < last and data[k] > _BLANK and data[k] != ord("_"):
            k += 1
        if at + 2 < k < last and data[k] == ord("_") and data[k + 1] == ord("_"):
            return k + 2, n
    return at + 1, encode(ord("_"), out, n)


# --- lines ------------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _end_line(out, n, floor, base, open_D, state):
    """The end of a line: links end that have no text yet, a heading loses its closing marks."""
    while state[DEPTH]:
        depth = state[DEPTH] - 1
        kind = open_D[depth, 0]
        if not (kind == URL_LINK or (kind == LINK and open_D[depth, 2] == 0)):
            break
        state[DEPTH] = depth
        floor = open_D[depth - 1, 1] if depth else base
    level = state[HEADING_LEVEL]
    if level:
        start, state[HEADING_LEVEL] = state[HEADING_AT], 0
        while n > start and (out[n - 1] == _EQUALS or out[n - 1] == _BLANK):
            n -= 1
        n = _write_newline(out, n, max(start, floor), base)
        state[LAST_LEVEL], state[LAST_AT], state[LAST_END] = level, start, n
    else:
        n = _write_newline(out, n, floor, base)
    state[LINE_START] = 1
    return n


@njit(cache=True, nogil=True)
def _without_empty_heading(n, level, state):
    """Take back the last heading where nothing follows it before this one of the same level or a higher."""
    if state[LAST_LEVEL] and state[LAST_END] == n and level <= state[LAST_LEVEL]:
        n = state[LAST_AT]
    state[LAST_LEVEL] = 0
    return n


@njit(cache=True, nogil=True)
def _start_line(data, at, end, n, open_D, state):
    """Marks that mean something at the start of a line only."""
    state[LINE_START] = 0
    while at < end and (data[at] == _BLANK or data[at] == ord("\t")):
        at += 1
    if at >= end:
        return at, n
    b = data[at]
    if b == _EQUALS:
        level = _run(data, at, end, _EQUALS)
        for depth in range(state[DEPTH]):
            if open_D[depth, 0] == TABLE:  # a heading ends a table whose end is missing or made by a template
                n = _close(open_D, depth, n, state)
                break
        if state[DEPTH] == 0:
            n = _without_empty_heading(n, level, state)
            state[HEADING_LEVEL], state[HEADING_AT] = level, n
        return at + level, n
    while at < end and data[at] in (ord("*"), ord("#"), ord(":"), ord(";")):
        at += 1
    while at < end and data[at] == _BLANK:
        at += 1
    if _starts(data, at, end, b"{|"):
        _push(open_D, TABLE, n, state)
        return at + 2, n
    if _starts(data, at, end, b"|}") and not _starts(data, at, end, b"|}}"):
        depth = _nearest(open_D, TABLE, TABLE, state)
        return at + 2, _close(open_D, depth, n, state) if depth >= 0 else n
    if b == ord("|") and state[DEPTH] == 0:
        return _skip_line(data, at, end), n  # a row of a table whose beginning is made by a template
    if _starts(data, at, end, b"----"):
        return at + _run(data, at, end, ord("-")), n
    return at, n


# --- texts ------------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _special(data, at, end, out, n, base, open_D, state, unwanted):
    """One byte that may mean something: (place behind what it means, length of the text)."""
    b, floor = data[at], _floor(open_D, state, base)
    if b == _BLANK or b == ord("\t") or b == ord("\r"):
        return at + 1, _write_blank(out, n, base)
    if b == _NEWLINE:
        return at + 1, _end_line(out, n, floor, base, open_D, state)
    if b == ord("["):
        return _bracket(data, at, end, out, n, open_D, state, unwanted)
    if b == ord("]"):
        return _closing_bracket(data, at, end, out, n, open_D, state)
    if b == ord("|"):
        return _pipe(at, out, n, open_D, state)
    if b == ord("'"):
        return _quotes(data, at, end, out, n)
    if b == ord("{"):
        return _brace(data, at, end, out, n, open_D, state)
    if b == ord("}"):
        return _closing_brace(data, at, end, out, n, open_D, state)
    if b == ord("<"):
        return _angle(data, at, end, out, n, floor, base, state)
    if b == ord("&"):
        code, behind = _entity(data, at, end)
        if code == 0:
            return at + 1, encode(ord("&"), out, n)
        if code == 0xA0 or code == _BLANK:
            return behind, _write_blank(out, n, base)
        return behind, encode(code, out, n)
    if b == ord(":"):
        return _colon(data, at, end, out, n, floor)
    if b == ord("-"):
        return _hyphen(data, at, end, out, n)
    if b == ord("_"):
        return _underscore(data, at, end, out, n)
    return at + 1, _write_bracket(out, n, floor)


@njit(cache=True, nogil=True)
def _strip_texts(data, offsets_T, unwanted, out, out_offsets_T):
    """Strip data[offsets_T[t] : offsets_T[t + 1]] for each t; `out` is as long as all of them and 4 bytes a text."""
    open_D, state = np.zeros((MAX_DEPTH, 3), np.int64), np.zeros(8, np.int64)
    n = 0
    for t in range(offsets_T.size - 1):
        at, end, base = np.int64(offsets_T[t]), np.int64(offsets_T[t + 1]), n
        out_offsets_T[t] = n
        state[:] = 0
        state[LINE_START] = 1
        while at < end:
            if state[LINE_START]:
                at, n = _start_line(data, at, end, n, open_D, state)
            elif _SPECIAL[data[at]] == 0:
                out[n] = data[at]
                n += 1
                at += 1
            else:
                at, n = _special(data, at, end, out, n, base, open_D, state, unwanted)
        for depth in range(state[DEPTH]):
            if open_D[depth, 0] == TABLE:
                n = _close(open_D, depth, n, state)
                break
        n = _end_line(out, n, base, base, open_D, state)
        n = _without_empty_heading(n, 0, state)
        while n > base and (out[n - 1] == _NEWLINE or out[n - 1] == _BLANK):
            n -= 1
    out_offsets_T[offsets_T.size - 1] = n
    return n


def strip(texts: pa.Array, unwanted: np.ndarray) -> pa.Array:
    """Wikitexts -> their prose, as large_string.

    texts: string or large_string array without nulls; unwanted: `prefix_hashes` of the links to leave out.
    """
    large = texts.cast(pa.large_string())
    data, offsets_T = byte_buffers(large)
    if data.size == 0:
        return large
    out = np.empty(int(offsets_T[-1] - offsets_T[0]) + 4 * len(large), np.uint8)
    out_offsets_T = np.empty(len(large) + 1, np.int64)
    num_bytes = _strip_texts(data, offsets_T, unwanted, out, out_offsets_T)
    return pa.LargeStringArray.from_buffers(
        len(large), pa.py_buffer(out_offsets_T), pa.py_buffer(out[:num_bytes].copy())
    )
