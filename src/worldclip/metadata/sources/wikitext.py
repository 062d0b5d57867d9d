"""Strip wikitext to the prose that a reader sees, in one pass over its bytes.

Templates, tables, references, comments, files, categories, formulas and galleries are removed.  Links keep the text
that a reader sees; headings and list items become lines of text.  Nothing is expanded.  Syntax:
https://www.mediawiki.org/wiki/Help:Formatting and the pages that it names.

Text is written as it is read.  An opening mark records the length of the text so far, and the closing mark of something
unwanted cuts the text back to that length.  So an element that is never closed costs its mark only, not the rest of the
article.

Legend:
    data (N,) uint8       all wikitexts; `at` is the position read, `end` the end of the present text
    out (M,) uint8        the prose of all texts; `n` is its length so far, `base` its length before the present text,
                          `floor` the length that may not be undercut because something open has recorded it
    open_D (D, 3) int64   the elements that are open, outermost first: columns KIND, START, HAS_PIPE
    state (8,) int64      what else the text is in the middle of: DEPTH (number of open elements) and so on
A function for a mark returns (position after the mark, n).
"""

from __future__ import annotations

import html.entities
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from worldclip.core.arrow import byte_buffers
from worldclip.kernels.llvm import inner, kernel
from worldclip.kernels.utf8 import encode
from worldclip.language.characters import lower, upper

# Kinds of open elements.
TEMPLATE, PARAMETER, TABLE, LINK, UNWANTED_LINK, URL_LINK = 1, 2, 3, 4, 5, 6
MAX_DEPTH = 250

# Columns of open_D.  START: length of the text when the element began.  HAS_PIPE: 1 after the first | of a link.
KIND, START, HAS_PIPE = 0, 1, 2

# Positions in `state`.  HEADING_*: the heading of the present line.  LAST_*: the last heading, as long as no text
# follows it.  UNCLOSED: bit k is set once element k is known to have no closing tag from here to the end, so that
# each element is searched for once: many `<ref>` without an end would take quadratic time.
DEPTH, LINE_START, HEADING_LEVEL, HEADING_AT, LAST_LEVEL, LAST_AT, LAST_END, UNCLOSED = 0, 1, 2, 3, 4, 5, 6, 7

# Longest tag, prefix of a link, entity, switch and variant that is looked for; longer ones are text.
MAX_TAG_BYTES, MAX_PREFIX_BYTES, MAX_ENTITY_BYTES, MAX_SWITCH_BYTES, MAX_VARIANT_BYTES = 2000, 80, 12, 60, 2000

# Elements that are removed with their contents, which are not wikitext.
DROPPED_ELEMENTS = (
    "ref references math chem ce gallery timeline source syntaxhighlight score hiero imagemap graph mapframe maplink "
    "templatedata templatestyles categorytree inputbox charinsert style script"
)
LITERAL_ELEMENTS = "nowiki pre"
BLOCK_ELEMENTS = "br hr p div li ul ol dl dd dt tr td th table caption center blockquote poem h1 h2 h3 h4 h5 h6"
_DROPPED, _LITERAL, _BLOCK = 1, 2, 3

# Bytes that may mean something; all others are copied.
_SPECIAL = np.zeros(256, np.uint8)
_SPECIAL[[ord(x) for x in "<&{}[]|'\n\r\t :-_)"]] = 1

_NEWLINE, _BLANK, _EQUALS = ord("\n"), ord(" "), ord("=")

# FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/: names are hashed byte by byte while they are read.
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def _hash(text: str) -> int:
    h = int(_FNV_START)
    for byte in text.encode():
        h = (h ^ byte) * int(_FNV_PRIME) % 2**64
    return h


def _lookup(values: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (sorted hashes uint64, the value of each int64)."""
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
    """Return sorted uint64 hashes of prefixes of links (`File`, `Category`, `de`), as `strip` takes them.

    MediaWiki reads prefixes in any case, with blanks or underscores.
    """
    forms = set()
    for prefix in prefixes:
        name = prefix.replace("_", " ").strip()
        # The kernel lower-cases ASCII only, so other scripts are listed in the cases that people write.
        for form in (name, lower(name), upper(name), upper(name[:1]) + name[1:], lower(name[:1]) + name[1:]):
            forms.add("".join(x.lower() if x.isascii() else x for x in form))
    return np.array(sorted(_hash(form) for form in forms if form), np.uint64)


# --- reading ----------------------------------------------------------------------------------------------------------


@inner
def _find(hashes, h):
    """Return the position of `h` in sorted hashes, -1 if it is not there."""
    row = np.searchsorted(hashes, h)
    return row if row < hashes.size and hashes[row] == h else -1


@inner
def _lower(byte):
    return byte + 32 if 65 <= byte <= 90 else byte


@inner
def _is_letter(byte):
    return 97 <= (byte | 32) <= 122


@inner
def _starts(data, at, end, prefix):
    """Return whether data[at:end] starts with the lower-case ASCII bytes `prefix`, in any case."""
    if at + len(prefix) > end:
        return False
    for k in range(len(prefix)):  # noqa: SIM110  numba compiles loops, not generators
        if _lower(data[at + k]) != prefix[k]:
            return False
    return True


@inner
def _run(data, at, end, byte):
    """Return how many times `byte` is repeated from `at` on."""
    k = at
    while k < end and data[k] == byte:
        k += 1
    return k - at


@inner
def _tag(data, at, end):
    """Return (row in _TAG_KINDS or -1, end of the name, position after the tag or -1 if it is no tag)."""
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


@inner
def _closing_tag(data, at, end, name_start, name_end):
    """Return where `</name` of the name data[name_start:name_end] begins, from `at` on; -1 if nowhere."""
    length = name_end - name_start
    while at + length + 2 < end:
        if data[at] == ord("<") and data[at + 1] == ord("/"):
            k = 0
            while k < length and _lower(data[at + 2 + k]) == _lower(data[name_start + k]):
                k += 1
            if k == length and not _is_letter(data[at + 2 + length]):
                return at
        at += 1
    return -1


@inner
def _entity(data, at, end):
    """Return (code point of the entity at `at`, position after it); (0, at) if there is none."""
    k = at + 1
    last = min(end, at + MAX_ENTITY_BYTES)
    while k < last and data[k] != ord(";"):
        k += 1
    if k >= last or k == at + 1:
        return 0, at
    if data[at + 1] == ord("#"):
        code = _number(data, at + 2, k)
        is_valid = 32 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF
        return (code, k + 1) if is_valid else (0, at)
    h = _FNV_START
    for i in range(at + 1, k):
        h = (h ^ np.uint64(data[i])) * _FNV_PRIME
    row = _find(_ENTITY_HASHES, h)
    return (_ENTITY_CODES[row], k + 1) if row >= 0 else (0, at)


@inner
def _number(data, start, end):
    """Return the decimal or, after an x, hexadecimal number data[start:end]; -1 if it is not a number."""
    is_hex = _lower(data[start]) == ord("x")
    base = 16 if is_hex else 10
    start = start + 1 if is_hex else start
    number = np.int64(0)
    for i in range(start, end):
        byte = np.int64(_lower(data[i]))
        if 48 <= byte <= 57:
            digit = byte - 48
        elif is_hex and 97 <= byte <= 102:
            digit = byte - 87
        else:
            return np.int64(-1)
        number = number * base + digit
    return number if start < end else np.int64(-1)


@inner
def _is_unwanted(data, at, end, unwanted):
    """Return whether the link whose target begins at `at` has an unwanted prefix."""
    while at < end and data[at] == _BLANK:
        at += 1
    h, last = _FNV_START, min(end, at + MAX_PREFIX_BYTES)
    has_blank = False  # hashed only once a character follows it
    while at < last:
        byte = data[at]
        if byte == ord(":"):
            return _find(unwanted, h) >= 0
        if byte in (ord("|"), ord("]"), ord("["), _NEWLINE, ord("{")):
            return False
        if byte == _BLANK or byte == ord("_"):
            has_blank = True
        else:
            if has_blank:
                h = (h ^ np.uint64(_BLANK)) * _FNV_PRIME
                has_blank = False
            h = (h ^ np.uint64(_lower(byte))) * _FNV_PRIME
        at += 1
    return False


@inner
def _skip_url(data, at, end):
    while at < end and data[at] > _BLANK and data[at] not in (ord("]"), ord("["), ord("<"), ord("|"), ord("}")):
        at += 1
    return at


@inner
def _is_url(data, at, end):
    return (
        _starts(data, at, end, b"http://")
        or _starts(data, at, end, b"https://")
        or _starts(data, at, end, b"ftp://")
        or _starts(data, at, end, b"//")
        or _starts(data, at, end, b"mailto:")
    )


# --- writing ----------------------------------------------------------------------------------------------------------


@inner
def _write_blank(out, n, base):
    """Write one blank between words, none at the start of a line."""
    return n if n == base or out[n - 1] == _BLANK or out[n - 1] == _NEWLINE else encode(_BLANK, out, n)


@inner
def _write_newline(out, n, floor, base):
    while n > floor and out[n - 1] == _BLANK:
        n -= 1
    return n if n == base or out[n - 1] == _NEWLINE else encode(_NEWLINE, out, n)


@inner
def _write_literal(data, start, stop, out, n, floor, base):
    """Copy data[start:stop], in which only line ends and blanks have a meaning."""
    for k in range(start, stop):
        if data[k] == _NEWLINE:
            n = _write_newline(out, n, floor, base)
        elif data[k] == _BLANK:
            n = _write_blank(out, n, base)
        else:
            out[n] = data[k]
            n += 1
    return n


@inner
def _write_bracket(out, n, floor):
    """Write a closing bracket; a pair of brackets that has lost its contents is removed."""
    k = n
    while k > floor and out[k - 1] in (_BLANK, ord(","), ord(";"), ord(":")):
        k -= 1
    if k > floor and out[k - 1] == ord("("):
        return k - 1
    return encode(ord(")"), out, n)


# --- what opens and closes --------------------------------------------------------------------------------------------


@inner
def _push(open_D, kind, n, state):
    """Open an element; elements nested deeper than MAX_DEPTH are ignored."""
    depth = state[DEPTH]
    if depth < MAX_DEPTH:
        open_D[depth, KIND] = kind
        open_D[depth, START] = n
        open_D[depth, HAS_PIPE] = 0
        state[DEPTH] = depth + 1


@inner
def _nearest(open_D, kind, other_kind, state):
    """Return the depth of the innermost open element of two kinds; -1 if no closing mark may reach one.

    A link does not reach out of a template or table, nor a template out of a table that began inside it.
    """
    for depth in range(state[DEPTH] - 1, -1, -1):
        open_kind = open_D[depth, KIND]
        if open_kind in (kind, other_kind):
            return depth
        if open_kind in (TEMPLATE, PARAMETER, TABLE) and kind not in (TEMPLATE, PARAMETER, TABLE):
            return -1
    return -1


@inner
def _close(open_D, depth, n, state):
    """Close the element at `depth` and all within it; returns the length of the text that is left."""
    state[DEPTH] = depth
    return n if open_D[depth, KIND] in (LINK, URL_LINK) else open_D[depth, START]


@inner
def _close_table(open_D, n, state):
    """Close the outermost table, whose end is missing or made by a template; returns the length of the text."""
    for depth in range(state[DEPTH]):
        if open_D[depth, KIND] == TABLE:
            return _close(open_D, depth, n, state)
    return n


@inner
def _top(open_D, state):
    return open_D[state[DEPTH] - 1, KIND] if state[DEPTH] else 0


# --- one mark each: (position after it, length of the text) -----------------------------------------------------------


@inner
def _angle(data, at, end, out, n, floor, base, state):
    """`<`: a comment, a tag, or text.  An element that is dropped is skipped up to the end of its closing tag."""
    if _starts(data, at, end, b"<!--"):
        at += 4
        while at < end and not (data[at] == ord(">") and data[at - 1] == ord("-") and data[at - 2] == ord("-")):
            at += 1
        return min(at + 1, end), n
    row, name_end, after = _tag(data, at, end)
    if after < 0:
        return at + 1, encode(ord("<"), out, n)
    kind = _TAG_KINDS[row] if row >= 0 else 0
    if kind == _BLOCK:
        return after, _write_newline(out, n, floor, base)
    if kind == 0 or data[at + 1] == ord("/") or data[after - 2] == ord("/"):
        return after, n
    closing = -1 if state[UNCLOSED] >> row & 1 else _closing_tag(data, after, end, at + 1, name_end)
    if closing < 0:
        state[UNCLOSED] |= 1 << row
        return after, n
    if kind == _LITERAL:
        n = _write_literal(data, after, closing, out, n, floor, base)
    while closing < end and data[closing] != ord(">"):
        closing += 1
    return min(closing + 1, end), n


@inner
def _brace(data, at, end, out, n, open_D, state):
    """`{{` opens a template, `{{{` a parameter; four and more are templates within each other."""
    run = _run(data, at, min(end, at + 4), ord("{"))
    if run == 3:
        _push(open_D, PARAMETER, n, state)
        return at + 3, n
    if run >= 2:
        _push(open_D, TEMPLATE, n, state)
        return at + 2, n
    return at + 1, encode(ord("{"), out, n)


@inner
def _closing_brace(data, at, end, out, n, open_D, state):
    run = _run(data, at, min(end, at + 3), ord("}"))
    depth = _nearest(open_D, TEMPLATE, PARAMETER, state)
    if depth >= 0 and run >= 3 and open_D[depth, KIND] == PARAMETER:
        return at + 3, _close(open_D, depth, n, state)
    if run >= 2:
        return at + 2, _close(open_D, depth, n, state) if depth >= 0 else n
    return at + 1, encode(ord("}"), out, n)


@inner
def _bracket(data, at, end, out, n, open_D, state, unwanted):
    """`[[` opens a link to a page, `[http://... ` a link to an address, of which only the words after it are text."""
    if at + 1 < end and data[at + 1] == ord("["):
        kind = UNWANTED_LINK if _is_unwanted(data, at + 2, end, unwanted) else LINK
        _push(open_D, kind, n, state)
        at += 2
        return (at + 1 if at < end and data[at] == ord(":") else at), n  # [[:Category:X]] shows the link
    if _is_url(data, at + 1, end):
        at = _skip_url(data, at + 1, end)
        if at < end and data[at] == _BLANK:
            _push(open_D, URL_LINK, n, state)
            return at + 1, n
        return (at + 1 if at < end and data[at] == ord("]") else at), n
    return at + 1, encode(ord("["), out, n)


@inner
def _closing_bracket(data, at, end, out, n, open_D, state):
    if _top(open_D, state) == URL_LINK:
        return at + 1, _close(open_D, state[DEPTH] - 1, n, state)
    if at + 1 < end and data[at + 1] == ord("]"):
        depth = _nearest(open_D, LINK, UNWANTED_LINK, state)
        return at + 2, _close(open_D, depth, n, state) if depth >= 0 else n
    return at + 1, encode(ord("]"), out, n)


@inner
def _pipe(at, out, n, open_D, state):
    """`|`: what a link holds before its first one is the target, which a reader does not see."""
    top = _top(open_D, state)
    if top == LINK and open_D[state[DEPTH] - 1, HAS_PIPE] == 0:
        open_D[state[DEPTH] - 1, HAS_PIPE] = 1
        return at + 1, open_D[state[DEPTH] - 1, START]
    if top in (TEMPLATE, PARAMETER, TABLE, UNWANTED_LINK):
        return at + 1, n
    return at + 1, encode(ord("|"), out, n)


@inner
def _quotes(data, at, end, out, n):
    """Two quotes are italics, three bold, five both; four are a quote and bold, of more than five the first are text.

    As doQuotes in MediaWiki's Parser.php.
    """
    run = _run(data, at, end, ord("'"))
    for _ in range(1 if run == 1 or run == 4 else max(run - 5, 0)):
        n = encode(ord("'"), out, n)
    return at + run, n


@inner
def _colon(data, at, end, out, n, floor):
    """`://` after a scheme of 3 to 5 letters, which is written already: remove the address."""
    if _starts(data, at, end, b"://"):
        k = n
        while k > floor and _is_letter(out[k - 1]):
            k -= 1
        if 3 <= n - k <= 5:
            return _skip_url(data, at, end), k
    return at + 1, encode(ord(":"), out, n)


@inner
def _hyphen(data, at, end, out, n, floor, base):
    """`-{zh-hans:甲; zh-hant:乙}-` shows one of several variants: take the first; flags H and T hide all of them.

    https://www.mediawiki.org/wiki/Writing_systems/Syntax
    """
    if at + 1 >= end or data[at + 1] != ord("{"):
        return at + 1, encode(ord("-"), out, n)
    close, last = at + 2, min(end - 1, at + MAX_VARIANT_BYTES)
    while close < last and not (data[close] == ord("}") and data[close + 1] == ord("-")):
        close += 1
    if close >= last or data[at + 2] == ord("{"):
        return at + 1, encode(ord("-"), out, n)
    start, is_hidden = at + 2, False
    for k in range(at + 2, close):
        if data[k] == ord("|") and start == at + 2:
            for flag in range(at + 2, k):
                is_hidden |= data[flag] == ord("H") or data[flag] == ord("T")
            start = k + 1
    if is_hidden:
        return close + 2, n
    stop = start
    while stop < close and data[stop] != ord(";"):
        stop += 1
    for k in range(start, stop):
        if data[k] == ord(":"):
            start = k + 1
            break
    return close + 2, _write_literal(data, start, stop, out, n, floor, base)


@inner
def _underscore(data, at, end, out, n):
    """Remove `__NOTOC__` and the like, in any language: https://www.mediawiki.org/wiki/Help:Magic_words."""
    if at + 1 < end and data[at + 1] == ord("_"):
        k, last = at + 2, min(end - 1, at + MAX_SWITCH_BYTES)
        while k < last and data[k] > _BLANK and data[k] != ord("_"):
            k += 1
        if at + 2 < k < last and data[k] == ord("_") and data[k + 1] == ord("_"):
            return k + 2, n
    return at + 1, encode(ord("_"), out, n)


@inner
def _ampersand(data, at, end, out, n, base):
    code, after = _entity(data, at, end)
    if code == 0:
        return at + 1, encode(ord("&"), out, n)
    if code == 0xA0 or code == _BLANK:  # &nbsp;
        return after, _write_blank(out, n, base)
    return after, encode(code, out, n)


# --- lines ------------------------------------------------------------------------------------------------------------


@inner
def _end_line(out, n, floor, base, open_D, state):
    """End a line: links without a text yet end with it, and a heading loses its closing marks.

    Inside a template the heading goes on after it.  Nothing before the template is touched: its end restores that
    length of the text, which would otherwise lie in the middle of a character written since.
    """
    while state[DEPTH]:
        depth = state[DEPTH] - 1
        kind = open_D[depth, KIND]
        if not (kind == URL_LINK or (kind == LINK and open_D[depth, HAS_PIPE] == 0)):
            break
        state[DEPTH] = depth
        floor = open_D[depth - 1, START] if depth else base
    level = state[HEADING_LEVEL]
    if level:
        start = state[HEADING_AT]
        floor = max(start, floor)
        while n > floor and (out[n - 1] == _EQUALS or out[n - 1] == _BLANK):
            n -= 1
        n = _write_newline(out, n, floor, base)
        if state[DEPTH] == 0:
            state[HEADING_LEVEL] = 0
            state[LAST_LEVEL], state[LAST_AT], state[LAST_END] = level, start, n
    else:
        n = _write_newline(out, n, floor, base)
    state[LINE_START] = 1
    return n


@inner
def _without_empty_heading(n, level, state):
    """Remove the last heading if no text follows it before this heading of the same or a higher level."""
    if state[LAST_LEVEL] and state[LAST_END] == n and level <= state[LAST_LEVEL]:
        n = state[LAST_AT]
    state[LAST_LEVEL] = 0
    return n


@inner
def _start_line(data, at, end, n, open_D, state):
    """Read the marks that have a meaning at the start of a line only: headings, lists, tables, rules."""
    state[LINE_START] = 0
    while at < end and (data[at] == _BLANK or data[at] == ord("\t")):
        at += 1
    if at >= end:
        return at, n
    first = data[at]
    if first == _EQUALS:
        level = _run(data, at, end, _EQUALS)
        n = _close_table(open_D, n, state)  # a heading ends a table that was never closed
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
    if first == ord("|") and state[DEPTH] == 0:  # a row of a table whose beginning is made by a template
        while at < end and data[at] != _NEWLINE:
            at += 1
        return at, n
    if _starts(data, at, end, b"----"):
        return at + _run(data, at, end, ord("-")), n
    return at, n


# --- texts ------------------------------------------------------------------------------------------------------------


@inner
def _special(data, at, end, out, n, base, open_D, state, unwanted):
    """Read one byte that may have a meaning; returns (position after what it means, length of the text)."""
    byte = data[at]
    floor = open_D[state[DEPTH] - 1, START] if state[DEPTH] else base
    if byte == _BLANK or byte == ord("\t") or byte == ord("\r"):
        return at + 1, _write_blank(out, n, base)
    if byte == _NEWLINE:
        return at + 1, _end_line(out, n, floor, base, open_D, state)
    if byte == ord("["):
        return _bracket(data, at, end, out, n, open_D, state, unwanted)
    if byte == ord("]"):
        return _closing_bracket(data, at, end, out, n, open_D, state)
    if byte == ord("|"):
        return _pipe(at, out, n, open_D, state)
    if byte == ord("'"):
        return _quotes(data, at, end, out, n)
    if byte == ord("{"):
        return _brace(data, at, end, out, n, open_D, state)
    if byte == ord("}"):
        return _closing_brace(data, at, end, out, n, open_D, state)
    if byte == ord("<"):
        return _angle(data, at, end, out, n, floor, base, state)
    if byte == ord("&"):
        return _ampersand(data, at, end, out, n, base)
    if byte == ord(":"):
        return _colon(data, at, end, out, n, floor)
    if byte == ord("-"):
        return _hyphen(data, at, end, out, n, floor, base)
    if byte == ord("_"):
        return _underscore(data, at, end, out, n)
    return at + 1, _write_bracket(out, n, floor)


@kernel
def _strip_texts(data, offsets_T, unwanted, out, out_offsets_T):
    """Strip data[offsets_T[t] : offsets_T[t + 1]] for each t; `out` must hold all of them and 4 bytes per text."""
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
        n = _close_table(open_D, n, state)
        n = _end_line(out, n, base, base, open_D, state)
        n = _without_empty_heading(n, 0, state)
        while n > base and (out[n - 1] == _NEWLINE or out[n - 1] == _BLANK):
            n -= 1
    out_offsets_T[offsets_T.size - 1] = n
    return n


def strip(texts: pa.Array, unwanted: np.ndarray) -> pa.Array:
    """Return the prose of wikitexts as large_string.

    texts: string or large_string array without nulls; unwanted: `prefix_hashes` of the links to leave out.
    """
    data, offsets_T = byte_buffers(texts)
    out = np.empty(int(offsets_T[-1] - offsets_T[0]) + 4 * len(texts), np.uint8)
    out_offsets_T = np.empty(len(texts) + 1, np.int64)
    num_bytes = _strip_texts(data, offsets_T, unwanted, out, out_offsets_T)
    return pa.LargeStringArray.from_buffers(
        len(texts), pa.py_buffer(out_offsets_T), pa.py_buffer(out[:num_bytes].copy())
    )
