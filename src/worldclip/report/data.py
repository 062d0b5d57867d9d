"""What the stages found, match to curate, as parts of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldclip.report.charts import Line, line_chart
from worldclip.report.page import (
    Bar,
    Section,
    bars,
    count,
    figure,
    folded,
    lang_name,
    legend,
    note,
    percent,
    table,
    words,
)

Report = dict[str, Any]

SMALL_MULTIPLES = 12  # lists with a curve of their own; the table has them all
OPEN_LISTS = 4  # lists whose head entries stand open; the others are folded

# Where a pair can end, in the order in which the reasons apply, with its colour and what it means.
ENDS = {
    "pairs_out": ("var(--s1)", "kept"),
    "sampled_out": ("var(--s2)", "sampled out: its entries are frequent"),
    "excluded": ("var(--s6)", "excluded: language left out by the recipe, or over a cap"),
    "not_valid": ("var(--s3)", "not valid: outside the valid keys, or denied"),
    "no_match": ("var(--s4)", "no match: holds no entry of its language"),
    "no_language": ("var(--s5)", "no language: its language has no metadata here"),
    "no_text": ("var(--s7)", "no text"),
    "duplicate": ("var(--s8)", "duplicate key"),
    "bad_pair": ("var(--bad)", "bad pair: cannot be read"),
}


def match_section(report: Report) -> Section | None:
    """LID recall where the pool knows the truth; None where it does not."""
    if "truth" not in report:
        return None
    rows = []
    for lang, went in sorted(report["truth"].items(), key=lambda item: report["lid_recall"][item[0]]):
        total, recall = sum(went.values()), report["lid_recall"][lang]
        others = sorted(((n, to) for to, n in went.items() if to != lang), reverse=True)
        lost = "&ensp;".join(f"{lang_name(to)} {percent(n / total)}" for n, to in others[:3])
        rows.append([lang_name(lang), count(total), percent(recall), lost])
    mean = sum(report["lid_recall"].values()) / len(report["lid_recall"])
    bar_rows = [
        Bar(label=lang_name(lang), parts=[(recall, "var(--s1)", f"{percent(recall)} found as {lang}")],
            note=percent(recall))
        for lang, recall in sorted(report["lid_recall"].items(), key=lambda item: -item[1])
    ]  # fmt: skip
    details = table(["language in truth", "texts", "found", "taken for"], rows, text_columns=1)
    return Section(
        anchor="lid",
        heading="Language identification",
        lead=f"Share of each language's texts that identification finds, {percent(mean)} in the mean over "
        f"{len(rows)} languages. This pool says its texts' languages; only this page reads them.",
        body=bars(bar_rows) + folded("Where the others went", details),
    )


def curate_section(report: Report) -> Section:
    """What went in and what was kept, by language and by reason."""
    rows_of: Mapping[str, Mapping[str, float]] = report["languages"]
    unit = "images" if report.get("text_policy") == "one" else "pairs"
    ordered = sorted(rows_of.items(), key=lambda item: (-item[1]["pairs_out"], -item[1]["pairs_in"], item[0]))
    used = [end for end in ENDS if any(row.get(end, 0) for row in rows_of.values())]
    total = {key: sum(row.get(key, 0) for row in rows_of.values()) for key in ("pairs_in", "expected_pairs", *ENDS)}
    bar_rows = [_pairs_bar("<b>all</b>", total, used)]
    bar_rows += [_pairs_bar(lang_name(lang), row, used) for lang, row in ordered if row["pairs_in"]]
    head = ["language", f"{unit} in", *(end.replace("_", " ") for end in used if end != "pairs_out"),
            f"{unit} out", "expected", "kept"]  # fmt: skip
    body_rows = [_pairs_row(lang_name(lang), row, used) for lang, row in ordered]
    body_rows.append(_pairs_row("all", total, used))
    return Section(
        anchor="pairs",
        heading="What was kept",
        lead=f"Each of the {count(total['pairs_in'])} {unit} ends in exactly one way. Bars are shares of a "
        "language's own.",
        body=legend([ENDS[end] for end in used]) + bars(bar_rows)
        + folded("In numbers", table(head, body_rows, last="total")),
    )  # fmt: skip


def _pairs_bar(label: str, row: Mapping[str, float], used: list[str]) -> Bar:
    whole = row["pairs_in"] or 1
    parts = [(row.get(end, 0) / whole, ENDS[end][0], f"{count(row.get(end, 0))} {ENDS[end][1]}") for end in used]
    return Bar(label=label, parts=parts, note=f"{count(row['pairs_out'])} of {count(row['pairs_in'])}")


def _pairs_row(label: str, row: Mapping[str, float], used: list[str]) -> list[str]:
    lost = [_cell(row, end) for end in used if end != "pairs_out"]
    kept = percent(row["pairs_out"] / row["pairs_in"]) if row["pairs_in"] else ""
    return [label, count(row["pairs_in"]), *lost, count(row["pairs_out"]), count(row["expected_pairs"]), kept]


def _cell(row: Mapping[str, float], key: str) -> str:
    return count(row[key]) if row.get(key) else ""


def balance_section(report: Report) -> Section:
    """Head-tail curves before and after, thresholds."""
    lists = {name: row for name, row in report["lists"].items() if row["num_matches"]}
    by_size = sorted(lists, key=lambda name: -lists[name]["num_matches"])
    figures = "".join(_curve(name, report["curves"][name], lists[name]) for name in by_size[:SMALL_MULTIPLES])
    keys = legend([("var(--s7)", "matches of an entry"), ("var(--s1)", "what its own coin leaves"),
                   ("var(--s2)", "threshold t")])  # fmt: skip
    rows = []
    for name in by_size:
        row, (before, after) = lists[name], report["curves"][name]["effective_entries"]
        rows.append(
            [lang_name(name), count(row["threshold"]), percent(row["tail_fraction"]), count(row["num_entries"]),
             count(row["num_matched_entries"]), count(row["num_matches"]), count(before), count(after)]
        )  # fmt: skip
    head = ["list", "threshold t", "tail fraction", "entries", "with a match", "matches", "effective before", "after"]
    warnings = "".join(map(note, report["warnings"]))
    return Section(
        anchor="balance",
        heading="Balance",
        lead="Entries by rank, from the most frequent to the rarest: heads are cut down to each list's threshold, "
        "tails stay whole. Effective entries: how many equally frequent entries would be as varied.",
        body=warnings + keys + f'<div class="grid">{figures}</div>' + table(head, rows),
    )


def _curve(name: str, curve: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    chart = line_chart(
        [
            Line(name="matches", x=curve["rank"], y=curve["matches"], colour="var(--s7)"),
            Line(name="balanced", x=curve["rank"], y=curve["balanced"], colour="var(--s1)"),
        ],
        x_label="rank of the entry",
        y_label="matches",
        x_log=True,
        y_log=True,
        marks=[(row["threshold"], f"t = {row['threshold']}")],
        width=290,
        height=200,
    )
    return figure(lang_name(name), f"t = {count(row['threshold'])}", chart)


def head_section(report: Report) -> Section:
    """The most frequent entries of each list with their counts."""
    lists = {name: rows for name, rows in report["top_entries"].items() if rows}
    by_size = sorted(lists, key=lambda name: (name != "en", -report["lists"][name]["num_matches"]))
    opened = "".join(_head_table(name, lists[name][:10]) for name in by_size[:OPEN_LISTS])
    folds = "".join(_head_table(name, lists[name][:10]) for name in by_size[OPEN_LISTS:])
    more = folded(f"{len(by_size) - OPEN_LISTS} more lists", f'<div class="grid mid">{folds}</div>') if folds else ""
    return Section(
        anchor="head",
        heading="Head entries",
        lead="What the pool talks about most, and the probability that such a match alone keeps a pair.",
        body=f'<div class="grid mid">{opened}</div>{more}',
    )


def _head_table(name: str, entries: list[dict[str, Any]]) -> str:
    rows = [[words(row["entry"], name), count(row["matches"]), percent(row["prob"])] for row in entries]
    return f"<div><h3>{lang_name(name)}</h3>{table(['entry', 'matches', 'keeps'], rows)}</div>"
