"""The elements that are open, the text that is written between them, and the beginnings and ends of lines."""

from __future__ import annotations

from worldclip.kernels.llvm import inner
from worldclip.kernels.utf8 import encode
from worldclip.metadata.sources.wikitext.read import BLANK, NEWLINE, count_run, starts

EQUALS = ord("=")

# Kinds of open elements.
TEMPLATE, PARAMETER, TABLE, LINK, UNWANTED_LINK, URL_LINK = 1, 2, 3, 4, 5, 6
MAX_DEPTH = 250

# Columns of open_D.  START: length of the text when the element began.  HAS_PIPE: 1 after the first | of a link.
KIND, START, HAS_PIPE = 0, 1, 2

# Positions in `state`.  HEADING_*: the heading of the present line.  LAST_*: the last heading, as long as no text
# follows it.  UNCLOSED: bit k is set once element k is known to have no closing tag from here to the end, so that
# each element is searched for once: many `<ref>` without an end would take quadratic time.
DEPTH, LINE_START, HEADING_LEVEL, HEADING_AT, LAST_LEVEL, LAST_AT, LAST_END, UNCLOSED = 0, 1, 2, 3, 4, 5, 6, 7


@inner
def push(open_D, kind, n, state):
    """Open an element; elements nested deeper than MAX_DEPTH are ignored."""
    depth = state[DEPTH]
    if depth < MAX_DEPTH:
        open_D[depth, KIND] = kind
        open_D[depth, START] = n
        open_D[depth, HAS_PIPE] = 0
        state[DEPTH] = depth + 1


@inner
def close_nearest(open_D, kind, other_kind, n, state):
    """Close the innermost open element of two kinds, if there is one; return the length of the text that is left."""
    depth = nearest(open_D, kind, other_kind, state)
    return close(open_D, depth, n, state) if depth >= 0 else n


@inner
def nearest(open_D, kind, other_kind, state):
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
def close(open_D, depth, n, state):
    """Close the element at `depth` and all within it; returns the length of the text that is left."""
    state[DEPTH] = depth
    return n if open_D[depth, KIND] in (LINK, URL_LINK) else open_D[depth, START]


@inner
def close_table(open_D, n, state):
    """Close the outermost table, whose end is missing or made by a template; returns the length of the text."""
    for depth in range(state[DEPTH]):
        if open_D[depth, KIND] == TABLE:
            return close(open_D, depth, n, state)
    return n


@inner
def top(open_D, state):
    """Return the kind of the innermost open element; 0 if none is open."""
    return open_D[state[DEPTH] - 1, KIND] if state[DEPTH] else 0


@inner
def write_blank(out, n, base):
    """Write one blank between words, none at the start of a line."""
    return n if n == base or out[n - 1] == BLANK or out[n - 1] == NEWLINE else encode(BLANK, out, n)


@inner
def write_newline(out, n, floor, base):
    while n > floor and out[n - 1] == BLANK:
        n -= 1
    return n if n == base or out[n - 1] == NEWLINE else encode(NEWLINE, out, n)


@inner
def write_literal(data, start, stop, out, n, floor, base):
    """Copy data[start:stop], in which only line ends and blanks have a meaning."""
    for k in range(start, stop):
        if data[k] == NEWLINE:
            n = write_newline(out, n, floor, base)
        elif data[k] == BLANK:
            n = write_blank(out, n, base)
        else:
            out[n] = data[k]
            n += 1
    return n


@inner
def end_line(out, n, floor, base, open_D, state):
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
        while n > floor and (out[n - 1] == EQUALS or out[n - 1] == BLANK):
            n -= 1
        n = write_newline(out, n, floor, base)
        if state[DEPTH] == 0:
            state[HEADING_LEVEL] = 0
            state[LAST_LEVEL], state[LAST_AT], state[LAST_END] = level, start, n
    else:
        n = write_newline(out, n, floor, base)
    state[LINE_START] = 1
    return n


@inner
def without_empty_heading(n, level, state):
    """Remove the last heading if no text follows it before this heading of the same or a higher level."""
    if state[LAST_LEVEL] and state[LAST_END] == n and level <= state[LAST_LEVEL]:
        n = state[LAST_AT]
    state[LAST_LEVEL] = 0
    return n


@inner
def start_line(data, at, end, n, open_D, state):
    """Read the marks that have a meaning at the start of a line only: headings, lists, tables, rules."""
    state[LINE_START] = 0
    while at < end and (data[at] == BLANK or data[at] == ord("\t")):
        at += 1
    if at >= end:
        return at, n
    first = data[at]
    if first == EQUALS:
        level = count_run(data, at, end, EQUALS)
        n = close_table(open_D, n, state)  # a heading ends a table that was never closed
        if state[DEPTH] == 0:
            n = without_empty_heading(n, level, state)
            state[HEADING_LEVEL], state[HEADING_AT] = level, n
        return at + level, n
    while at < end and data[at] in (ord("*"), ord("#"), ord(":"), ord(";")):
        at += 1
    while at < end and data[at] == BLANK:
        at += 1
    if starts(data, at, end, b"{|"):
        push(open_D, TABLE, n, state)
        return at + 2, n
    if starts(data, at, end, b"|}") and not starts(data, at, end, b"|}}"):
        return at + 2, close_nearest(open_D, TABLE, TABLE, n, state)
    if first == ord("|") and state[DEPTH] == 0:  # a row of a table whose beginning is made by a template
        while at < end and data[at] != NEWLINE:
            at += 1
        return at, n
    if starts(data, at, end, b"----"):
        return at + count_run(data, at, end, ord("-")), n
    return at, n
