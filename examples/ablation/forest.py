"""Draw contrasts as rows: a label, a point and its 95% interval, around the line of no difference."""

from __future__ import annotations

from collections.abc import Sequence

from worldclip.report.chart import Dot, axis_over
from worldclip.report.html import Html, tag
from worldclip.report.numbers import tick

WIDTH_PX, LABELS_PX, ROW_PX, AXIS_PX = 900, 330, 20, 30


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
