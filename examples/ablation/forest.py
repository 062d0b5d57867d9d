"""Draw contrasts as rows of an .svg file: a label, a point and its 95% interval, around the line of no difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from worldclip.report.chart import axis_over, chart_style
from worldclip.report.html import Html, tag
from worldclip.report.numbers import tick

WIDTH_PX, LABELS_PX, TITLE_PX, ROW_PX = 900, 330, 24, 20


class Row(NamedTuple):
    label: str
    value: float
    low: float
    high: float
    group: str
    """Rows of a group share a colour, and the group has an entry in the legend."""


def forest_svg(title: str, rows: Sequence[Row]) -> str:
    axis = axis_over([0.0, *(end for row in rows for end in (row.low, row.high))])
    bottom = TITLE_PX + ROW_PX * len(rows)
    groups = list(dict.fromkeys(row.group for row in rows))

    def x(value: float) -> str:
        return f"{LABELS_PX + axis.share(value) * (WIDTH_PX - LABELS_PX - 20):.1f}"

    parts = [tag("text", title, x=12, y=14)]
    for value in axis.ticks():
        colour = "var(--soft)" if value == 0 else "var(--line)"
        parts.append(tag("line", x1=x(value), x2=x(value), y1=TITLE_PX, y2=bottom, stroke=colour))
        parts.append(tag("text", tick(value), x=x(value), y=bottom + 14, text_anchor="middle"))
    for number, row in enumerate(rows):
        y = TITLE_PX + ROW_PX * number + 12
        colour = f"var(--s{groups.index(row.group) + 1})"
        parts.append(tag("text", row.label, x=LABELS_PX - 12, y=y + 4, text_anchor="end"))
        parts.append(tag("line", x1=x(row.low), x2=x(row.high), y1=y, y2=y, stroke=colour, stroke_width=2, opacity=0.5))
        parts.append(tag("circle", tag("title", f"{row.value:+.1f}%"), cx=x(row.value), cy=y, r=4.5, fill=colour))
    for number, group in enumerate(groups):
        left = 12 + 150 * number
        parts.append(tag("rect", x=left, y=bottom + 27, width=10, height=10, fill=f"var(--s{number + 1})"))
        parts.append(tag("text", group, x=left + 16, y=bottom + 36))
    size = {"viewBox": f"0 0 {WIDTH_PX} {bottom + 44}", "width": WIDTH_PX, "height": bottom + 44}
    paper = tag("rect", width="100%", height="100%", fill="var(--paper)")
    style = tag("style", Html(chart_style()))
    return f"{tag('svg', style, paper, *parts, xmlns='http://www.w3.org/2000/svg', **size)}\n"
