"""Charts: points stay on their axes, ticks are few, round and short."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from worldclip.report.chart import Line, axis_over, line_chart
from worldclip.report.numbers import count, interval, percent, short, tick


def test_points_without_a_place_on_the_axis_are_left_out():
    chart = line_chart([Line(name="a", x=[1, 10, 100], y=[0, 1, 1000])], x_label="x", y_label="y", log=True)
    points = re.search(r' d="([^"]*)"', chart)
    assert points is not None
    assert len(re.findall("[ML]", points[1])) == 2, "0 has no place on a logarithmic axis"


@pytest.mark.parametrize("values", [[3.0, 3.0], [1e300], [], [float("nan")]])
@pytest.mark.parametrize("log", [False, True])
def test_axes_of_equal_values_and_of_none_have_a_length(values, log):
    axis = axis_over(values, log=log)
    assert axis.low < axis.high
    assert axis.ticks()


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1, False), (1, 50_000, True), (-0.3, 0.7, False), (1990, 2010, False), (2e-5, 2e-3, False)],
)
def test_ticks_lie_on_the_axis_and_are_short(low, high, log):
    axis = axis_over([low, high], log=log)
    shares = [axis.share(value) for value in axis.ticks()]
    assert len(shares) >= 2
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares)
    assert all(len(tick(value)) <= 8 for value in axis.ticks())


def test_names_in_a_chart_are_text():
    hostile = "<script>'\""
    lines = [Line(name=hostile, x=[1, 2], y=[1, 2])]
    chart = line_chart(lines, x_label=hostile, y_label="y", rules=[(1, hostile)])
    assert "<script" not in chart
    ElementTree.fromstring(chart)


@pytest.mark.parametrize(
    ("shown", "values", "labels"),
    [
        (tick, (0.00025, 0.001, 0.00075, 0.5, 20, 0), ["2.5e-4", "1e-3", "7.5e-4", "0.5", "20", "0"]),
        (tick, (5000, 1_200_000, 29.4e9), ["5k", "1.2M", "29.4B"]),
        (short, (55_216, 2_300_000, 29.4e9), ["55,216", "2.3M", "29.4B"]),
        (percent, (0.0, 0.001268, 0.1234), ["0.0%", "0.13%", "12.3%"]),
        (count, (1234.4,), ["1,234"]),
        (interval, ([0.1, 0.2], None), ["10.0% to 20.0%", None]),
    ],
)
def test_numbers_are_short(shown, values, labels):
    assert [shown(value) for value in values] == labels
