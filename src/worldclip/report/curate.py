"""Kept and dropped pairs with the reasons: by language, by entry, and as examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from worldclip.contracts.reasons import REASONS, Reason
from worldclip.contracts.summary import REMEDIES, unit_of
from worldclip.core.artifacts import Json
from worldclip.language.table import Languages
from worldclip.report.balance import NUM_CURVES, OPEN_CURVES, rank_chart
from worldclip.report.chart import Line
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count, percent, short
from worldclip.report.page import (
    Bar,
    Card,
    Section,
    bars,
    code,
    figure,
    first_and_more,
    folded,
    grid,
    lang_name,
    language_column,
    language_name,
    legend,
    words,
)
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MAX_BARS = 40  # rows of "what was kept" in sight
MAX_EXAMPLES = 4  # of a reason in sight
NUM_SHARES = 10  # largest languages in "before and after"

# Where a pair can end: column -> (colour, meaning).  The last reason that can apply comes first, as in a bar.
ENDS = {reason.column: (f"var(--{reason.colour})", reason.meaning) for reason in reversed(REASONS)}
EXAMPLES = (Reason.KEPT, Reason.SAMPLED_OUT, Reason.EXCLUDED, Reason.NO_MATCH, Reason.NO_LANGUAGE)
BEFORE_AFTER = (("var(--s7)", "in the pool"), ("var(--s1)", "among kept pairs"))

LanguageRow: TypeAlias = Mapping[str, Any]
"""pairs_in, expected_pairs, and pairs by where they end (ENDS)."""


def cards(report: Json) -> list[Card]:
    """Return the number of pairs and languages kept."""
    total = _total(report["languages"])
    pairs_in = total["pairs_in"]
    pairs_out = total["pairs_out"]
    share = f"{percent(pairs_out / pairs_in)} of {count(pairs_in)}" if pairs_in else ""
    num_languages = sum(1 for row in report["languages"].values() if row["pairs_out"])
    return [
        Card(short(pairs_out), f"{unit_of(report['text_policy'])} kept", share),
        Card(count(num_languages), "languages", "with pairs to train on"),
    ]


def sections(report: Json, languages: Languages) -> list[Section]:
    """Return what was kept, languages before and after, entries before and after, and examples."""
    parts = [
        _fates(report, languages),
        _shares(report["languages"], languages),
        _effect(report.get("effect", {}), languages),
        _examples(report.get("samples", {}), languages),
    ]
    return list(filter(None, parts))


def _total(rows: Mapping[str, LanguageRow]) -> dict[str, float]:
    total: dict[str, float] = dict.fromkeys(("pairs_in", "expected_pairs", *ENDS), 0)
    for row in rows.values():
        for key in total:
            total[key] += row.get(key, 0)
    return total


def _fates(report: Json, languages: Languages) -> Section:
    """Return where pairs end, by language."""
    rows = report["languages"]
    counted = unit_of(report["text_policy"])
    langs = sorted(rows, key=lambda lang: (-rows[lang]["pairs_out"], -rows[lang]["pairs_in"], lang))
    total = _total(rows)
    ends = [end for end in ENDS if total[end]]
    reasons = {end: end.replace("_", " ") for end in ends if end != "pairs_out"}  # with their titles
    bar_of_all = _fate_bar(tag("b", "all"), total, ends)
    bars_of_langs = []
    cells = []
    for lang in langs:
        if rows[lang]["pairs_in"]:
            bars_of_langs.append(_fate_bar(lang_name(lang, languages), rows[lang], ends))
        cells.append(_fate_cells(lang, rows[lang], reasons))
    cells.append(_fate_cells(Html("all"), total, reasons))
    titles = [f"{counted} in", *reasons.values(), f"{counted} out", "expected"]
    columns = [language_column("language", languages), *columns_of(titles, count), Column("kept", percent)]
    body = [
        legend(map(ENDS.__getitem__, ends)),
        first_and_more([bar_of_all, *bars_of_langs], MAX_BARS, "languages with fewer pairs", bars),
        folded("In numbers", to_html(Table(columns, cells, totals=[len(langs)]))),
    ]
    pairs = f"{count(total['pairs_in'])} {counted}"
    lead = f"Each of the {pairs} ends in exactly one way. Bars show shares within a language."
    return Section("What was kept", lead, join(body))


def _fate_bar(label: str, row: LanguageRow, ends: Sequence[str]) -> Bar:
    parts = []
    for end in ends:
        colour, meaning = ENDS[end]
        number = row.get(end, 0)
        parts.append((number / row["pairs_in"], colour, f"{count(number)} {meaning}"))
    return Bar(label=label, parts=parts, note=f"{count(row['pairs_out'])} of {count(row['pairs_in'])}")


def _fate_cells(name: str, row: LanguageRow, reasons: Iterable[str]) -> list[object]:
    share = row["pairs_out"] / row["pairs_in"] if row["pairs_in"] else None
    by_reason = [row.get(reason) or None for reason in reasons]
    return [name, row["pairs_in"], *by_reason, row["pairs_out"], row["expected_pairs"], share]


def _shares(rows: Mapping[str, LanguageRow], languages: Languages) -> Section | None:
    """Return the largest languages' shares of the pool and of what was kept."""
    total = _total(rows)
    if not total["pairs_out"]:
        return None
    shares = {}
    for lang, row in rows.items():
        shares[lang] = (row["pairs_in"] / total["pairs_in"], row["pairs_out"] / total["pairs_out"])
    largest = sorted(shares, key=lambda lang: -max(shares[lang]))[:NUM_SHARES]
    widest = max(shares[largest[0]])
    bar_rows = []
    for lang in largest:
        labels = (lang_name(lang, languages), "")
        for label, share, (colour, name) in zip(labels, shares[lang], BEFORE_AFTER, strict=True):
            hover = f"{percent(share)} {name}"
            bar_rows.append(Bar(label=label, parts=[(share / widest, colour, hover)], note=percent(share)))
    lead = "Shares of the largest languages in the pool and among kept pairs."
    return Section("Languages before and after", lead, legend(BEFORE_AFTER) + bars(bar_rows))


def _effect(curves: Mapping[str, Json], languages: Languages) -> Section | None:
    """Return head-tail curves before and after sampling."""
    if not curves:
        return None
    by_size = sorted(curves, key=lambda name: -curves[name]["matches"][0])
    figures = []
    rows = []
    for number, name in enumerate(by_size):
        curve = curves[name]
        before, after = curve["effective_entries"]
        rows.append([name, before, after])
        if number >= NUM_CURVES:
            continue
        (grey, in_pool), (blue, among_kept) = BEFORE_AFTER
        lines = [
            Line(name=in_pool, x=curve["rank"], y=curve["matches"], colour=grey, is_below=True),
            Line(name=among_kept, x=curve["rank"], y=curve["kept"], colour=blue),
        ]
        change = f"effective entries {short(before)} → {short(after)} kept"
        figures.append(figure(lang_name(name, languages), change, rank_chart(lines)))
    columns = [language_column("list", languages), *columns_of(("effective before", "effective, kept"), count)]
    body = [
        legend(BEFORE_AFTER),
        first_and_more(figures, OPEN_CURVES, "more lists", grid),
        folded("In numbers", to_html(Table(columns, rows))),
    ]
    lead = (
        "Matches of each entry, by its rank in the pool, before and after sampling (means over near ranks). "
        "Effective entries: the number of equally frequent entries of the same diversity."
    )
    return Section("Entries before and after", lead, join(body))


def _examples(samples: Mapping[str, Sequence[Mapping[str, Any]]], languages: Languages) -> Section | None:
    columns = [language_column("language", languages), text_column("text"), text_column("why")]
    columns.append(text_column("key", code))
    parts: list[Html] = []
    for reason in EXAMPLES:
        rows = []
        for row in samples.get(reason.column, ()):
            text = words(row["text"], row["lang"])
            rows.append([row["lang"], text, _why(reason, row, languages), row["key"]])
        if rows:
            heading = reason.label.replace("_", " ").capitalize()
            parts.append(tag("h3", heading))
            parts.append(first_and_more(rows, MAX_EXAMPLES, "more", lambda some: to_html(Table(columns, some))))
    unreadable = [[row["reason"], row["key"]] for row in samples.get(Reason.BAD_PAIR.column, ())]
    if unreadable:
        table = Table([text_column("why"), text_column("key", code)], unreadable)
        parts += [tag("h3", "Unreadable"), to_html(table), tag("p", f"{REMEDIES[Reason.BAD_PAIR]}.")]
    if not parts:
        return None
    lead = "Chosen by hash. Pairs that are denied or not among the valid keys are never shown."
    return Section("Examples", lead, join(parts))


def _why(reason: Reason, sample: Mapping[str, Any], languages: Languages) -> str:
    if reason == Reason.NO_LANGUAGE:
        name = language_name(sample["label"], languages)
        return f"label {sample['label']}{name and f' ({name})'}, probability {sample['lang_prob']:.2f}"
    if reason == Reason.NO_MATCH:
        return "contains no entry of its list"
    if reason == Reason.EXCLUDED:
        return "its language is excluded"
    lang = sample["lang"]
    entries = [words(entry["entry"], lang) + f" ({count(entry['matches'])})" for entry in sample["entries"]]
    decision = f": keep probability {sample['keep_prob']:.3f}, coin {sample['coin']:.3f}"
    return tag("span", join(entries, ", "), decision)
