"""Draw contrasts as rows: a label, a point and its 95% interval, around the line of no difference; an .svg file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from worldclip.report.chart import MARGIN_LEFT, axis_over, chart_style
from worldclip.report.html import Html, tag
from worldclip.report.numbers import tick

WIDTH_PX, LABELS_PX, ROW_PX, AXIS_PX = 900, 330, 20, 30
LEGEND_ROW = 18  # pixels of an entry
LEGEND_COLUMN = 150
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A value with its 95% interval, where known."""

    label: str
    hover: str
    y: float
    interval: tuple[float, float] | None = None
    colour: str = "var(--s1)"


def forest_chart(dots: Sequence[Dot], x_label: str) -> tuple[Html, tuple[int, int]]:
    """Return (the chart, its width and height in pixels); 0 is on the axis."""
    axis = axis_over([0.0, *(end for dot in dots for end in (dot.y, *(dot.interval or ())))])
    right, bottom = WIDTH_PX - 20, ROW_PX * len(dots) + 6
    size = (WIDTH_PX, bottom + AXIS_PX)

    def x(value: float) -> str:
        return f"{LABELS_PX + axis.share(value) * (right - LABELS_PX):.1f}"

    parts = []
    for value in axis.ticks():
        colour = "var(--soft)" if value == 0 else "var(--line)"
        parts.append(tag("line", x1=x(value), x2=x(value), y1=0, y2=bottom, stroke=colour))
        parts.append(tag("text", tick(value), x=x(value), y=bottom + 14, text_anchor="middle"))
    parts.append(tag("text", x_label, x=right, y=bottom + 28, text_anchor="end"))
    for number, dot in enumerate(dots):
        y = ROW_PX * number + 12
        low, high = dot.interval or (dot.y, dot.y)
        row = [
            tag("title", dot.hover),
            tag("text", dot.label, x=LABELS_PX - 12, y=y + 4, text_anchor="end"),
            tag("line", x1=x(low), x2=x(high), y1=y, y2=y, stroke=dot.colour, stroke_width=2, opacity=0.5),
            tag("circle", cx=x(dot.y), cy=y, r=4.5, fill=dot.colour),
        ]
        parts.append(tag("g", *row))
    return tag("svg", *parts, viewBox=f"0 0 {size[0]} {size[1]}", role="img", aria_label=x_label), size


def svg_file(chart: Html, title: str, legend: Sequence[tuple[str, str]], size_px: tuple[int, int]) -> str:
    """Return a chart as an .svg file of its own, with a title above it and a legend below.

    legend: (colour, name) of each line.  size_px: the chart's.
    """
    width, height = size_px
    per_row = max(1, width // LEGEND_COLUMN)
    entries = []
    for i, (colour, name) in enumerate(legend):
        x = MARGIN_LEFT + LEGEND_COLUMN * (i % per_row)
        y = height + LEGEND_ROW * (2 + i // per_row)
        entries.append(tag("rect", x=x, y=y - 9, width=10, height=10, fill=colour))
        entries.append(tag("text", name, x=x + 16, y=y))
    total = height + LEGEND_ROW * (2 + math.ceil(len(legend) / per_row))
    body = tag(
        "svg",
        tag("style", chart_style()),
        tag("rect", width="100%", height="100%", fill="var(--paper)"),
        tag("text", title, x=MARGIN_LEFT, y=LEGEND_ROW - 4),
        tag("svg", chart, y=LEGEND_ROW, width=width, height=height),
        *entries,
        xmlns=SVG_NAMESPACE,
        viewBox=f"0 0 {width} {total}",
        width=width,
        height=total,
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'
