"""Tables, charts and numbers: aligned, complete, short, and never markup."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

import pytest

from worldclip.report.chart import Line, axis_over, line_chart
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count, interval, percent, short, tick
from worldclip.report.table import Column, Table, text_column, to_csv, to_html, to_markdown

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "`x` [link](http://x) **bold** _it_ ~~gone~~ &lt;",
    "two\nlines",
    "\\alpha{} 100% $x_1^2$ #1 & ~",
    '=1+1, "quoted"',
]


def table_of(texts):
    columns = [text_column("text"), Column("number", count), Column("share", percent)]
    return Table(columns=columns, rows=[[text, 1234, None] for text in texts], totals=[len(texts) - 1])


def markdown_cells(line):
    """Split a row as a Markdown reader does and undo its escapes."""
    return [re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_html_cells_are_escaped_aligned_and_totals_set_apart():
    page = to_html(table_of(HOSTILE))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert '<td class="n">1,234</td></tr>' in page
    assert "share" not in page, "no cell of this column has a value"
    assert page.count('<tr class="total">') == 1


def test_markdown_cells_keep_their_text_and_their_column():
    lines = to_markdown(table_of([*HOSTILE, "total"])).splitlines()
    assert len(lines) == 2 + len(HOSTILE) + 1
    assert len({len(line) for line in lines}) == 1, "the source is aligned"
    for text, line in zip(HOSTILE, lines[2:], strict=False):
        assert markdown_cells(line) == [" ".join(text.split()), "1,234", ""]
        assert "<script" not in line.replace("\\<", "")
    assert markdown_cells(lines[-1])[0] == "**total**"


def test_markdown_leaves_plain_names_plain():
    table = Table(columns=[text_column("metric")], rows=[["image_retrieval_recall@1"], ["-7.4 *"], ["image > text"]])
    assert to_markdown(table).splitlines()[2:] == ["| image_retrieval_recall@1 |", "| -7.4 * |", "| image > text |"]


def test_csv_keeps_values_as_data():
    table = Table(columns=[Column("text"), Column("value", percent)],
                  rows=[*([text, 0.1234567] for text in HOSTILE), [None, None]])  # fmt: skip
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows == [["text", "value"], *([text, "0.1234567"] for text in HOSTILE), ["", ""]]


def test_a_row_of_the_wrong_length_and_html_outside_html_are_errors():
    with pytest.raises(ValueError, match="zip"):
        to_html(Table(columns=[text_column("a")], rows=[["x", "y"]]))
    with pytest.raises(TypeError, match="column 'a' holds HTML"):
        to_markdown(Table(columns=[text_column("a")], rows=[[tag("b", "x")]]))


def test_only_html_is_markup():
    assert tag("a", "<b>", tag("i", "x"), title='"<', class_="n", data_x=None) == (
        '<a title="&quot;&lt;" class="n">&lt;b&gt;<i>x</i></a>'
    )
    assert join(["<", Html("<br>")], " & ") == "&lt; &amp; <br>"
    assert isinstance(tag("i") + "<", Html)
    assert tag("i") + "<" == "<i></i>&lt;"
    assert tag("img", src="x") == '<img src="x">'


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
