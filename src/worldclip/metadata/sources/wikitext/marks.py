"""Strip whole texts, by a function for each mark.

Such a function returns (position after the mark, length of the text); `at` where the byte is text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from worldclip.core.arrow import byte_buffers
from worldclip.kernels.llvm import inner, kernel
from worldclip.kernels.utf8 import encode
from worldclip.metadata.sources.wikitext import elements, read
from worldclip.metadata.sources.wikitext.read import BLANK, NEWLINE, starts

# Longest switch and variant that is looked for; longer ones are text.
MAX_SWITCH_BYTES, MAX_VARIANT_BYTES = 60, 2000


@inner
def read_angle(data, at, end, out, n, floor, base, state):
    """`<`: a comment, a tag, or text.  An element that is dropped is skipped up to the end of its closing tag."""
    if starts(data, at, end, b"<!--"):
        at += 4
        while at < end and not (data[at] == ord(">") and data[at - 1] == ord("-") and data[at - 2] == ord("-")):
            at += 1
        return min(at + 1, end), n
    row, name_end, after = read.read_tag(data, at, end)
    if after < 0:
        return at, n
    kind = read.TAG_KINDS[row] if row >= 0 else 0
    if kind == read.BLOCK:
        return after, elements.write_newline(out, n, floor, base)
    if kind == 0 or data[at + 1] == ord("/") or data[after - 2] == ord("/"):
        return after, n
    closing = -1 if state[elements.UNCLOSED] >> row & 1 else read.find_closing_tag(data, after, end, at + 1, name_end)
    if closing < 0:
        state[elements.UNCLOSED] |= 1 << row
        return after, n
    if kind == read.LITERAL:
        n = elements.write_literal(data, after, closing, out, n, floor, base)
    while closing < end and data[closing] != ord(">"):
        closing += 1
    return min(closing + 1, end), n


@inner
def read_brace(data, at, end, n, open_D, state):
    """`{{` opens a template, `{{{` a parameter; four and more are templates within each other."""
    run = read.count_run(data, at, min(end, at + 4), ord("{"))
    if run == 3:
        elements.push(open_D, elements.PARAMETER, n, state)
        return at + 3, n
    if run >= 2:
        elements.push(open_D, elements.TEMPLATE, n, state)
        return at + 2, n
    return at, n


@inner
def read_closing_brace(data, at, end, n, open_D, state):
    """`}}` closes a template, `}}}` a parameter."""
    run = read.count_run(data, at, min(end, at + 3), ord("}"))
    depth = elements.nearest(open_D, elements.TEMPLATE, elements.PARAMETER, state)
    if depth >= 0 and run >= 3 and open_D[depth, elements.KIND] == elements.PARAMETER:
        return at + 3, elements.close(open_D, depth, n, state)
    if run >= 2:
        return at + 2, elements.close(open_D, depth, n, state) if depth >= 0 else n
    return at, n


@inner
def read_bracket(data, at, end, n, open_D, state, unwanted):
    """`[[` opens a link to a page, `[http://... ` a link to an address, of which only the words after it are text."""
    if at + 1 < end and data[at + 1] == ord("["):
        kind = elements.UNWANTED_LINK if read.is_unwanted(data, at + 2, end, unwanted) else elements.LINK
        elements.push(open_D, kind, n, state)
        at += 2
        return (at + 1 if at < end and data[at] == ord(":") else at), n  # [[:Category:X]] shows the link
    if read.is_url(data, at + 1, end):
        at = read.skip_url(data, at + 1, end)
        if at < end and data[at] == BLANK:
            elements.push(open_D, elements.URL_LINK, n, state)
            return at + 1, n
        return (at + 1 if at < end and data[at] == ord("]") else at), n
    return at, n


@inner
def read_closing_bracket(data, at, end, n, open_D, state):
    """`]` closes a link to an address, `]]` a link to a page."""
    if elements.top(open_D, state) == elements.URL_LINK:
        return at + 1, elements.close(open_D, state[elements.DEPTH] - 1, n, state)
    if at + 1 < end and data[at + 1] == ord("]"):
        return at + 2, elements.close_nearest(open_D, elements.LINK, elements.UNWANTED_LINK, n, state)
    return at, n


@inner
def read_pipe(at, n, open_D, state):
    """`|`: a link holds its target before the first one, which a reader does not see."""
    kind = elements.top(open_D, state)
    if kind == elements.LINK and open_D[state[elements.DEPTH] - 1, elements.HAS_PIPE] == 0:
        open_D[state[elements.DEPTH] - 1, elements.HAS_PIPE] = 1
        return at + 1, open_D[state[elements.DEPTH] - 1, elements.START]
    if kind in (elements.TEMPLATE, elements.PARAMETER, elements.TABLE, elements.UNWANTED_LINK):
        return at + 1, n
    return at, n


@inner
def read_quotes(data, at, end, out, n):
    """Two quotes are italics, three bold, five both; four are a quote and bold, of more than five the first are text.

    As doQuotes in MediaWiki's Parser.php.
    """
    run = read.count_run(data, at, end, ord("'"))
    for _ in range(1 if run == 1 or run == 4 else max(run - 5, 0)):
        n = encode(ord("'"), out, n)
    return at + run, n


@inner
def read_colon(data, at, end, out, n, floor):
    """`://` after a scheme of 3 to 5 letters, which is written already: remove the address."""
    if starts(data, at, end, b"://"):
        k = n
        while k > floor and read.is_letter(out[k - 1]):
            k -= 1
        if 3 <= n - k <= 5:
            return read.skip_url(data, at, end), k
    return at, n


@inner
def read_variants(data, at, end, out, n, floor, base):
    """`-{zh-hans:甲; zh-hant:乙}-` shows one of several variants: take the first; flags H and T hide all of them.

    https://www.mediawiki.org/wiki/Writing_systems/Syntax
    """
    if at + 1 >= end or data[at + 1] != ord("{"):
        return at, n
    end_of_variants, last = at + 2, min(end - 1, at + MAX_VARIANT_BYTES)
    while end_of_variants < last and not (data[end_of_variants] == ord("}") and data[end_of_variants + 1] == ord("-")):
        end_of_variants += 1
    if end_of_variants >= last or data[at + 2] == ord("{"):
        return at, n
    start, is_hidden = at + 2, False
    for k in range(at + 2, end_of_variants):
        if data[k] == ord("|") and start == at + 2:
            for flag in range(at + 2, k):
                is_hidden |= data[flag] == ord("H") or data[flag] == ord("T")
            start = k + 1
    if is_hidden:
        return end_of_variants + 2, n
    stop = start
    while stop < end_of_variants and data[stop] != ord(";"):
        stop += 1
    for k in range(start, stop):
        if data[k] == ord(":"):
            start = k + 1
            break
    return end_of_variants + 2, elements.write_literal(data, start, stop, out, n, floor, base)


@inner
def read_switch(data, at, end, n):
    """Remove `__NOTOC__` and the like, in any language: https://www.mediawiki.org/wiki/Help:Magic_words."""
    if at + 1 < end and data[at + 1] == ord("_"):
        k, last = at + 2, min(end - 1, at + MAX_SWITCH_BYTES)
        while k < last and data[k] > BLANK and data[k] != ord("_"):
            k += 1
        if at + 2 < k < last and data[k] == ord("_") and data[k + 1] == ord("_"):
            return k + 2, n
    return at, n


@inner
def read_ampersand(data, at, end, out, n, base):
    code, after = read.read_entity(data, at, end)
    if code == 0:
        return at, n
    if code == 0xA0 or code == BLANK:  # &nbsp;
        return after, elements.write_blank(out, n, base)
    return after, encode(code, out, n)


@inner
def read_parenthesis(at, out, n, floor):
    """`)`: a pair of brackets that has lost its contents is removed."""
    k = n
    while k > floor and out[k - 1] in (BLANK, ord(","), ord(";"), ord(":")):
        k -= 1
    if k > floor and out[k - 1] == ord("("):
        return at + 1, k - 1
    return at, n


# --- whole texts ------------------------------------------------------------------------------------------------------

# Bytes that may mean something; all others are copied.
_SPECIAL = np.zeros(256, np.uint8)
_SPECIAL[[ord(x) for x in "<&{}[]|'\n\r\t :-_)"]] = 1


@inner
def _read_special(data, at, end, out, n, base, open_D, state, unwanted):
    """Read one byte that may have a meaning; returns (position after what it means, length of the text)."""
    byte = data[at]
    floor = open_D[state[elements.DEPTH] - 1, elements.START] if state[elements.DEPTH] else base
    if byte == BLANK or byte == ord("\t") or byte == ord("\r"):
        return at + 1, elements.write_blank(out, n, base)
    if byte == NEWLINE:
        return at + 1, elements.end_line(out, n, floor, base, open_D, state)
    after, n = _read_mark(data, at, end, out, n, floor, base, open_D, state, unwanted)
    if after == at:
        out[n] = byte
        return at + 1, n + 1
    return after, n


@inner
def _read_mark(data, at, end, out, n, floor, base, open_D, state, unwanted):
    byte = data[at]
    if byte == ord("["):
        return read_bracket(data, at, end, n, open_D, state, unwanted)
    if byte == ord("]"):
        return read_closing_bracket(data, at, end, n, open_D, state)
    if byte == ord("|"):
        return read_pipe(at, n, open_D, state)
    if byte == ord("'"):
        return read_quotes(data, at, end, out, n)
    if byte == ord("{"):
        return read_brace(data, at, end, n, open_D, state)
    if byte == ord("}"):
        return read_closing_brace(data, at, end, n, open_D, state)
    if byte == ord("<"):
        return read_angle(data, at, end, out, n, floor, base, state)
    if byte == ord("&"):
        return read_ampersand(data, at, end, out, n, base)
    if byte == ord(":"):
        return read_colon(data, at, end, out, n, floor)
    if byte == ord("-"):
        return read_variants(data, at, end, out, n, floor, base)
    if byte == ord("_"):
        return read_switch(data, at, end, n)
    return read_parenthesis(at, out, n, floor)


@kernel
def _strip_texts(data, offsets_T, unwanted, out, out_offsets_T):
    """Strip data[offsets_T[t] : offsets_T[t + 1]] for each t; `out` must hold all of them and 4 bytes per text."""
    open_D, state = np.zeros((elements.MAX_DEPTH, 3), np.int64), np.zeros(8, np.int64)
    n = 0
    for t in range(offsets_T.size - 1):
        at, end, base = np.int64(offsets_T[t]), np.int64(offsets_T[t + 1]), n
        out_offsets_T[t] = n
        state[:] = 0
        state[elements.LINE_START] = 1
        while at < end:
            if state[elements.LINE_START]:
                at, n = elements.start_line(data, at, end, n, open_D, state)
            elif _SPECIAL[data[at]] == 0:
                out[n] = data[at]
                n += 1
                at += 1
            else:
                at, n = _read_special(data, at, end, out, n, base, open_D, state, unwanted)
        n = elements.close_table(open_D, n, state)
        n = elements.end_line(out, n, base, base, open_D, state)
        n = elements.without_empty_heading(n, 0, state)
        while n > base and (out[n - 1] == NEWLINE or out[n - 1] == BLANK):
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
