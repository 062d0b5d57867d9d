"""Head-tail curves before and after balancing, thresholds, and head entries."""

from __future__ import annotations

from collections.abc import Sequence

from worldclip.core.artifacts import Json
from worldclip.language.table import Languages
from worldclip.report.chart import Line, line_chart
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count, percent
from worldclip.report.page import (
    Section,
    figure,
    first_and_more,
    folded,
    grid,
    lang_name,
    language_column,
    legend,
    note,
    words,
)
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

OPEN_CURVES = 3  # curves shown; the others are folded
NUM_CURVES = 12  # lists with a curve of their own; the table has them all
MAX_ROWS = 40  # thresholds in sight
CURVE_PX = (290, 200)  # width, height
MAX_HEADS = 40  # lists with a table of head entries
OPEN_LISTS = 3  # lists whose head entries are in sight, the others are folded
HEAD_ENTRIES = 10  # entries per list


def sections(report: Json, languages: Languages) -> list[Section]:
    """Return thresholds with curves, and head entries."""
    return [_thresholds(report, languages), _head_entries(report, languages)]


def _thresholds(report: Json, languages: Languages) -> Section:
    keys = ("threshold", "tail_fraction", "num_entries", "num_matched_entries", "num_matches")
    rows = []
    curves: list[Html] = []
    for name, row in sorted(report["lists"].items(), key=lambda item: -item[1]["num_matches"]):
        if not row["num_matches"]:
            continue
        curve = report["curves"][name]
        rows.append([name, *map(row.get, keys), *curve["effective_entries"]])
        if len(curves) == NUM_CURVES:
            continue
        lines = [
            Line(name="matches", x=curve["rank"], y=curve["matches"], colour="var(--s7)", is_below=True),
            Line(name="balanced", x=curve["rank"], y=curve["balanced"]),
        ]
        rule = f"threshold {count(row['threshold'])}"
        drawn = rank_chart(lines, [(row["threshold"], rule)])
        curves.append(figure(lang_name(name, languages), rule, drawn))
    columns = [
        language_column("list", languages),
        Column("threshold", count),
        Column("tail fraction", percent),
        *columns_of(("entries", "matched entries", "matches", "effective before", "effective, target"), count),
    ]
    colours = [
        ("var(--s7)", "matches of an entry"),
        ("var(--s1)", "matches times its keep probability"),
        ("var(--s2)", "threshold"),
    ]
    body = [
        *map(note, report["warnings"]),
        legend(colours),
        first_and_more(curves, OPEN_CURVES, "more lists", grid),
        first_and_more(rows, MAX_ROWS, "lists with fewer matches", lambda some: to_html(Table(columns, some))),
    ]
    lead = (
        "Entries by rank, the most frequent first. Heads are cut down to the threshold of their list; tails stay "
        "whole. Effective entries: the number of equally frequent entries of the same diversity; target: so cut down."
    )
    return Section("Balance", lead, join(body))


def rank_chart(lines: Sequence[Line], rules: Sequence[tuple[float, str]] = ()) -> Html:
    """Return a small chart of matches by an entry's rank."""
    return line_chart(lines, x_label="rank of the entry", y_label="matches", log=True, rules=rules, size_px=CURVE_PX)


def _head_entries(report: Json, languages: Languages) -> Section:
    lists = {name: entries for name, entries in report["top_entries"].items() if entries}
    by_size = sorted(lists, key=lambda name: (name != "en", -report["lists"][name]["num_matches"]))
    columns = [text_column("entry"), Column("matches", count), Column("keep probability", percent)]
    tables = []
    tops = []  # of the lists that have no table of their own: the most frequent entry
    for number, name in enumerate(by_size):
        rows = [[words(row["entry"], name), row["matches"], row["prob"]] for row in lists[name][:HEAD_ENTRIES]]
        if number < MAX_HEADS:
            tables.append(tag("div", tag("h3", lang_name(name, languages)), to_html(Table(columns, rows))))
        else:
            tops.append([name, *rows[0]])
    lead = "The most frequent entries of each list, and the probability that a match of only this entry keeps a pair."
    drawn = first_and_more(tables, OPEN_LISTS, "more lists", grid)
    if tops:
        columns = [language_column("list", languages), text_column("most frequent entry"), *columns[1:]]
        drawn += folded(f"The most frequent entry of {len(tops)} smaller lists", to_html(Table(columns, tops)))
    return Section("Head entries", lead, drawn)
