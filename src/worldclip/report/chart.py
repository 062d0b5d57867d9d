"""Line charts as inline SVG.  Colours are variables of the page, so that charts follow light and dark."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
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


@functools.cache
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """The plot area inside a chart, in pixels."""

    width: int
    height: int
    y_axis: Axis

    @property
    def right(self) -> int:
        return self.width - MARGIN_RIGHT

    @property
    def bottom(self) -> int:
        return self.height - MARGIN_BOTTOM

    def y(self, value: float) -> float:
        return MARGIN_TOP + (1 - self.y_axis.share(value)) * (self.bottom - MARGIN_TOP)

    def rule(self, value: float, *children: object, **attributes: object) -> Html:
        """Return a horizontal line across the plot."""
        y = f"{self.y(value):.1f}"
        return tag("line", *children, x1=MARGIN_LEFT, x2=self.right, y1=y, y2=y, **attributes)

    def svg(self, label: str, x_label: str, marks: Sequence[Html]) -> Html:
        """Return the chart: grid and tick labels, the marks, the name of the x axis."""
        grid = []
        for value in self.y_axis.ticks():
            grid.append(self.rule(value, class_="grid-line"))
            place = {"x": MARGIN_LEFT - 6, "y": f"{self.y(value) + 4:.1f}"}
            grid.append(tag("text", tick(value), **place, text_anchor="end"))
        x_name = tag("text", x_label, x=self.right, y=self.height - 3, text_anchor="end")
        box = f"0 0 {self.width} {self.height}"
        widest = f"max-width:{MAX_SCALE * self.width:.0f}px"
        return tag("svg", *grid, *marks, x_name, viewBox=box, role="img", aria_label=label, style=widest)


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
    x_axis = axis_over(list(chain.from_iterable(line.x for line in lines)), log=log)
    y_values = list(chain.from_iterable(line.y for line in lines)) + [y for y, _ in rules]
    width, height = size_px
    frame = _Frame(width=width, height=height, y_axis=axis_over(y_values, log=log))

    def place_x(value: float) -> float:
        return MARGIN_LEFT + x_axis.share(value) * (frame.right - MARGIN_LEFT)

    marks = []
    for value in x_axis.ticks():
        x = f"{place_x(value):.1f}"
        marks.append(tag("line", class_="grid-line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4))
        marks.append(tag("text", tick(value), x=x, y=frame.bottom + 16, text_anchor="middle"))
    for value, name in rules:
        marks.append(frame.rule(value, tag("title", name), stroke="var(--s2)", stroke_dasharray="2 4"))
    for line in lines:
        points = [
            f"{place_x(x):.1f} {frame.y(y):.1f}"
            for x, y in zip(line.x, line.y, strict=True)
            if x_axis.has(x) and frame.y_axis.has(y)
        ]
        path = f"M{' L'.join(points)}" if points else ""
        name = "curve below" if line.is_below else "curve"
        marks.append(tag("path", tag("title", line.name), class_=name, d=path, stroke=line.colour))
    names = ", ".join(line.name for line in lines)
    return frame.svg(f"{y_label} by {x_label}: {names}", x_label, marks)
