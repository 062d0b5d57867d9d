"""Strip whole texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from worldclip.core.arrow import byte_buffers
from worldclip.kernels.llvm import inner, kernel
from worldclip.metadata.sources.wikitext import elements, marks
from worldclip.metadata.sources.wikitext.elements import DEPTH, LINE_START
from worldclip.metadata.sources.wikitext.read import BLANK, NEWLINE

# Bytes that may mean something; all others are copied.
_SPECIAL = np.zeros(256, np.uint8)
_SPECIAL[[ord(x) for x in "<&{}[]|'\n\r\t :-_)"]] = 1


@inner
def _read_special(data, at, end, out, n, base, open_D, state, unwanted):
    """Read one byte that may have a meaning; returns (position after what it means, length of the text)."""
    byte = data[at]
    floor = open_D[state[DEPTH] - 1, elements.START] if state[DEPTH] else base
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
        return marks.read_bracket(data, at, end, n, open_D, state, unwanted)
    if byte == ord("]"):
        return marks.read_closing_bracket(data, at, end, n, open_D, state)
    if byte == ord("|"):
        return marks.read_pipe(at, n, open_D, state)
    if byte == ord("'"):
        return marks.read_quotes(data, at, end, out, n)
    if byte == ord("{"):
        return marks.read_brace(data, at, end, n, open_D, state)
    if byte == ord("}"):
        return marks.read_closing_brace(data, at, end, n, open_D, state)
    if byte == ord("<"):
        return marks.read_angle(data, at, end, out, n, floor, base, state)
    if byte == ord("&"):
        return marks.read_ampersand(data, at, end, out, n, base)
    if byte == ord(":"):
        return marks.read_colon(data, at, end, out, n, floor)
    if byte == ord("-"):
        return marks.read_variants(data, at, end, out, n, floor, base)
    if byte == ord("_"):
        return marks.read_switch(data, at, end, n)
    return marks.read_parenthesis(at, out, n, floor)


@kernel
def _strip_texts(data, offsets_T, unwanted, out, out_offsets_T):
    """Strip data[offsets_T[t] : offsets_T[t + 1]] for each t; `out` must hold all of them and 4 bytes per text."""
    open_D, state = np.zeros((elements.MAX_DEPTH, 3), np.int64), np.zeros(8, np.int64)
    n = 0
    for t in range(offsets_T.size - 1):
        at, end, base = np.int64(offsets_T[t]), np.int64(offsets_T[t + 1]), n
        out_offsets_T[t] = n
        state[:] = 0
        state[LINE_START] = 1
        while at < end:
            if state[LINE_START]:
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
