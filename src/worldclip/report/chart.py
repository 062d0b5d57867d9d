"""Line charts as inline SVG.  Colours are variables of the page, so that charts follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldclip.report.html import Html, tag
from worldclip.report.numbers import tick

MARGIN_LEFT = 44  # pixels
MARGIN_RIGHT = 10
MARGIN_TOP = 10
MARGIN_BOTTOM = 34
NUM_INTERVALS = 5  # between ticks of a linear axis, about
MAX_DECADES = 5  # between ticks of a logarithmic axis
MAX_SCALE = 1.4  # a page enlarges a chart, text included, at most by this factor


def chart_style() -> str:
    """Return the style sheet of charts: the colours, light and dark, that all of a page uses too."""
    return (Path(__file__).parent / "chart.css").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A named curve.  Points without a place on the axis (0 on a logarithmic one) are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = "var(--s1)"
    is_below: bool = False
    """Whether a later curve may lie on this one: it is drawn broader, so that both are seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """From `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Return the place of `value` on the axis, 0 to 1."""
        low = self.low
        high = self.high
        if self.log:
            low = math.log10(low)
            high = math.log10(high)
            value = math.log10(value)
        return (value - low) / (high - low)

    def has(self, value: float) -> bool:
        """Return whether `value` has a place on an axis of this kind."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self) -> list[float]:
        """Return round values that lie on the axis."""
        if self.log:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            decades = max(1, math.ceil((last - first) / MAX_DECADES))
            return [10.0**power for power in range(first, last + 1, decades)]
        raw = (self.high - self.low) / NUM_INTERVALS
        power = 10 ** math.floor(math.log10(raw))
        step = next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def axis_over(values: Sequence[float], *, log: bool = False) -> Axis:
    """Return an axis that holds all of `values` and is never of zero length."""
    usable = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low = min(usable)
    high = max(usable)
    if low == high and log:
        low /= 2
        high *= 2
    elif low == high:
        margin = max(0.5, abs(low) / 1000)  # 0.5 is nothing to a number of 17 digits
        low -= margin
        high += margin
    if log and high / low < 100:  # extend to whole decades, else there is hardly a power of ten to put a tick at
        low = 10 ** math.floor(math.log10(low))
        high = 10 ** math.ceil(math.log10(high))
    return Axis(low=low, high=high, log=log)


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    rules: Sequence[tuple[float, str]] = (),
    size_px: tuple[int, int] = (340, 210),
) -> Html:
    """Draw curves on shared axes.

    log: both axes are logarithmic.  rules: (y, name) of dotted horizontal lines.  size_px: width and height at the
    size of the text; the page scales them.
    """
    x_values: list[float] = []
    y_values: list[float] = []
    for line in lines:
        x_values += line.x
        y_values += line.y
    for y, _ in rules:
        y_values.append(y)
    x_axis = axis_over(x_values, log=log)
    y_axis = axis_over(y_values, log=log)
    width, height = size_px
    right = width - MARGIN_RIGHT
    bottom = height - MARGIN_BOTTOM

    def place_x(value: float) -> float:
        return MARGIN_LEFT + x_axis.share(value) * (right - MARGIN_LEFT)

    def place_y(value: float) -> float:
        return MARGIN_TOP + (1 - y_axis.share(value)) * (bottom - MARGIN_TOP)

    marks = []
    for value in y_axis.ticks():
        y_px = f"{place_y(value):.1f}"
        marks.append(tag("line", x1=MARGIN_LEFT, x2=right, y1=y_px, y2=y_px, class_="grid-line"))
        marks.append(tag("text", tick(value), x=MARGIN_LEFT - 6, y=f"{place_y(value) + 4:.1f}", text_anchor="end"))
    for value in x_axis.ticks():
        x_px = f"{place_x(value):.1f}"
        marks.append(tag("line", class_="grid-line", x1=x_px, x2=x_px, y1=bottom, y2=bottom + 4))
        marks.append(tag("text", tick(value), x=x_px, y=bottom + 16, text_anchor="middle"))
    for value, name in rules:
        y_px = f"{place_y(value):.1f}"
        dotted = {"stroke": "var(--s2)", "stroke_dasharray": "2 4"}
        marks.append(tag("line", tag("title", name), x1=MARGIN_LEFT, x2=right, y1=y_px, y2=y_px, **dotted))
    for line in lines:
        points = []
        for x, y in zip(line.x, line.y, strict=True):
            if x_axis.has(x) and y_axis.has(y):
                points.append(f"{place_x(x):.1f} {place_y(y):.1f}")
        path = f"M{' L'.join(points)}" if points else ""
        css_class = "curve below" if line.is_below else "curve"
        marks.append(tag("path", tag("title", line.name), class_=css_class, d=path, stroke=line.colour))
    marks.append(tag("text", x_label, x=right, y=height - 3, text_anchor="end"))
    names = ", ".join(line.name for line in lines)
    return tag(
        "svg",
        *marks,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{y_label} by {x_label}: {names}",
        style=f"max-width:{MAX_SCALE * width:.0f}px",
    )
