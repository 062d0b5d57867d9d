"""Tables, charts, numbers and lines of a terminal: aligned, complete, short, and never markup."""

import csv
import io
import re
from xml.etree import ElementTree

import pytest
import torch

from worldclip.cli import main
from worldclip.core.console import note, progress_bar, say
from worldclip.language import table as languages
from worldclip.model.config import ModelConfig
from worldclip.report.chart import Line, axis_over, line_chart
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count, interval, percent, short, tick
from worldclip.report.table import Column, Table, columns_of, text_column, to_csv, to_html, to_markdown, to_text
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.log import Log
from worldclip.train.schedule import Schedule

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


def test_html_cells_are_escaped_and_aligned():
    page = to_html(table_of(HOSTILE))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert '<td class="n">1,234</td></tr>' in page
    assert "share" not in page, "no cell of this column has a value"
    assert page.count('<tr class="total">') == 1


def test_markdown_cells_keep_their_text_and_their_column():
    lines = to_markdown(table_of([*HOSTILE, "total"])).splitlines()
    assert len(lines) == 2 + len(HOSTILE) + 1
    for text, line in zip(HOSTILE, lines[2:], strict=False):
        assert markdown_cells(line) == [" ".join(text.split()), "1,234", ""]
        assert "<script" not in line.replace("\\<", "")
    assert markdown_cells(lines[-1])[0] == "**total**"
    table = Table(columns=[text_column("metric")], rows=[["image_retrieval_recall@1"], ["-7.4 *"], ["image > text"]])
    assert to_markdown(table).splitlines()[2:] == ["| image_retrieval_recall@1 |", "| -7.4 * |", "| image > text |"]


def test_csv_keeps_values_as_data():
    rows = [*([text, 0.1234567] for text in HOSTILE), [None, None]]
    found = list(csv.reader(io.StringIO(to_csv(Table(columns=[Column("text"), Column("value", percent)], rows=rows)))))
    assert found == [["text", "value"], *([text, "0.1234567"] for text in HOSTILE), ["", ""]]


def test_a_page_leaves_out_columns_without_a_value_and_keeps_zeros():
    shown = to_html(Table([text_column("name"), *columns_of(["dropped", "kept"])], [["a", 0, None], ["b", 0, None]]))
    assert re.findall(r"<t[hd]\b[^>]*>([^<]*)", shown) == ["name", "dropped", "a", "0", "b", "0"]


def test_a_row_is_one_line_of_a_file_and_its_cells_are_no_markup(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # a process of tests has it
    rows = [["a_b|c [bold]*", "1,234,567"], ["word " * 50 + "end", "1"]]
    lines = to_text(Table([text_column("name"), *columns_of(["count"])], rows)).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["a_b|c", "[bold]*", "1,234,567"]


def test_only_html_is_markup():
    assert tag("a", "<b>", tag("i", "x"), title='"<', class_="n", data_x=None) == (
        '<a title="&quot;&lt;" class="n">&lt;b&gt;<i>x</i></a>'
    )
    assert join(["<", Html("<br>")], " & ") == "&lt; &amp; <br>"
    assert tag("i") + "<" == "<i></i>&lt;"
    with pytest.raises(TypeError, match="column 'a' holds HTML"):
        to_markdown(Table(columns=[text_column("a")], rows=[[tag("b", "x")]]))


def test_points_without_a_place_on_the_axis_are_left_out_and_names_are_text():
    name = "<script>'\""
    lines = [Line(name=name, x=[1, 10, 100], y=[0, 1, 1000])]
    chart = line_chart(lines, x_label=name, y_label="y", rules=[(1, name)], log=True)
    points = re.search(r' d="([^"]*)"', chart)
    assert points is not None
    assert len(re.findall("[ML]", points[1])) == 2, "0 has no place on a logarithmic axis"
    assert "<script" not in chart
    ElementTree.fromstring(chart)


@pytest.mark.parametrize("log", [False, True])
def test_axes_of_any_values_have_a_length_and_short_ticks(log):
    for values in ([3.0, 3.0], [1e300], [], [float("nan")]):
        axis = axis_over(values, log=log)
        assert axis.low < axis.high
        assert axis.ticks()
    for low, high in ((1, 50_000),) if log else ((0, 1), (-0.3, 0.7), (1990, 2010), (2e-5, 2e-3)):
        axis = axis_over([low, high], log=log)
        shares = [axis.share(value) for value in axis.ticks()]
        assert len(shares) >= 2
        assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares)
        assert all(len(tick(value)) <= 8 for value in axis.ticks())


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


# A terminal
@pytest.fixture
def terminal(monkeypatch):
    """Let rich take standard error for a terminal of 80 columns without colours."""
    names = {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)


def test_tables_and_help_fit_a_terminal_and_break_between_words(terminal, capsys):
    assert main(["languages"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    words = set(shown.split())
    assert set(languages.by_code()) <= words
    assert {label for language in languages.all_languages() for label in language.iso639_3} <= words
    for stage in ("run", "match", "export", "train"):
        with pytest.raises(SystemExit):
            main([stage, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.endswith("-") and not line.endswith(" -")] == []


def test_messages_of_a_file_stay_on_one_line(capsys):
    say("curate", "word " * 60)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_messages_and_bars_of_a_terminal_fit_and_are_whole(terminal, tmp_path, capsys):
    say("curate", "12 shards done. Rerun without --shards to finish; worldclip inspect RUN --key KEY says why")
    note("report: " + "x" * 60 + " and then --some-flag")
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    assert "--some-flag" in "\n".join(lines)
    with progress_bar("match", 123_456, is_shown=True, num_done=1_000) as advance:
        advance(10, "of 2 failed")
    schedule = Schedule(samples_seen=3_200_000, global_batch_size=32, num_steps=100_000, warmup_steps=0)
    config = TrainConfig(model=ModelConfig(preset="tiny"))
    step = {"step": 99_990, "loss": 3.7264, "lr": 1e-3, "logit_scale": 14.3, "grad_norm": 1.0}
    with Log(tmp_path, config, schedule, 0, torch.device("cpu"), World()) as log:
        log.add_step(0.25, 0.1, 320)
        log.write_step(step, elapsed_s=3_600.0)
        log.advance(99_990)
        log.say_saved(99_995, elapsed_s=3_600.0)
    shown = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert all(len(line) <= 80 for line in shown)
    assert any("step 99995 of 100000; step 99990: loss 3.726, " in line for line in shown)
    assert any("1010/123456" in line and "left" in line for line in shown)
    assert any("99990/100000" in line and "left loss 3.726" in line for line in shown)


def test_a_logarithmic_axis_of_few_decades_has_a_tick_at_each_power_of_ten():
    assert axis_over([1, 1000], log=True).ticks() == [1.0, 10.0, 100.0, 1000.0]
