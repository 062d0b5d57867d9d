"""What curation did, as parts of the page: match rates, languages before and after, entries, sizes, examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from worldclip.language import table as languages
from worldclip.report.charts import Line, line_chart
from worldclip.report.data import SMALL_MULTIPLES
from worldclip.report.page import (
    Bar,
    Section,
    bars,
    count,
    figure,
    folded,
    lang_name,
    legend,
    percent,
    short,
    table,
    words,
)

Report = dict[str, Any]

OPEN_ROWS = 15  # languages that stand open; the others are folded
SIZE_LINES = ("var(--s2)", "var(--s3)", "var(--s4)", "var(--s5)", "var(--s6)", "var(--s7)")  # of the largest languages
EXAMPLES = {
    "pairs_out": "Kept",
    "sampled_out": "Sampled out",
    "excluded": "Excluded",
    "no_match": "No match",
    "no_language": "No language",
}


def rates_section(report: Report) -> Section | None:
    """Share of texts that match, by language and by script; under all profiles where the run compared them."""
    rates = {
        lang: (row.get("no_match", 0) + row.get("matched", 0), row.get("matched", 0))
        for lang, row in report.get("texts", {}).items()
    }
    rates = {lang: pair for lang, pair in rates.items() if pair[0]}
    if not rates:
        return None
    compared: Mapping[str, Mapping[str, int]] = report.get("profiles", {})
    by_size = sorted(rates, key=lambda lang: -rates[lang][0])
    head = ["language", "script", "texts", "matched", *_profile_head(compared)]
    rows = [
        [
            lang_name(lang),
            _script(lang),
            count(rates[lang][0]),
            percent(rates[lang][1] / rates[lang][0]),
            *_profile_cells([lang], compared),
        ]
        for lang in by_size
    ]
    scripts: dict[str, list[str]] = {}
    for lang in by_size:
        scripts.setdefault(_script(lang), []).append(lang)
    script_rows = []
    for script, langs in sorted(scripts.items(), key=lambda item: -sum(rates[lang][0] for lang in item[1])):
        texts, matched = (sum(rates[lang][i] for lang in langs) for i in (0, 1))
        cells = _profile_cells(langs, compared)
        script_rows.append([escape(script), count(len(langs)), count(texts), percent(matched / texts), *cells])
    sample = sum(row["texts"] for row in compared.values())
    remark = f" Profiles are compared on {count(sample)} texts of shards that a hash chose." if compared else ""
    return Section(
        anchor="rates",
        heading="Match rates",
        lead="Of the texts whose language has entries, the share that hold at least one, under the run's own profile."
        + remark,
        body=table(["script", "languages", "texts", "matched", *_profile_head(compared)], script_rows)
        + _open_and_folded(head, rows, text_columns=2),
    )


def _profile_head(compared: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [name.replace("_", " ") for name in next(iter(compared.values()), {}) if name != "texts"]


def _profile_cells(langs: Iterable[str], compared: Mapping[str, Mapping[str, int]]) -> list[str]:
    found = [compared[lang] for lang in langs if lang in compared]
    names = [name for name in next(iter(compared.values()), {}) if name != "texts"]
    total = sum(row["texts"] for row in found)
    return [percent(sum(row[name] for row in found) / total) if total else "" for name in names]


def _script(lang: str) -> str:
    try:
        return languages.get(lang).script or ""
    except KeyError:
        return ""


def shares_section(report: Report) -> Section | None:
    """The largest languages before and after."""
    rows_of: Mapping[str, Mapping[str, float]] = report["languages"]
    total_in, total_out = (sum(row[key] for row in rows_of.values()) for key in ("pairs_in", "pairs_out"))
    if not total_out:
        return None
    shares = {lang: (row["pairs_in"] / total_in, row["pairs_out"] / total_out) for lang, row in rows_of.items()}
    shown = sorted(shares, key=lambda lang: -max(shares[lang]))[:OPEN_ROWS]
    widest = max(max(shares[lang]) for lang in shown)
    bar_rows = []
    for lang in shown:
        for name, share, colour in zip(("before", "after"), shares[lang], ("var(--s7)", "var(--s1)"), strict=True):
            label = lang_name(lang) if name == "before" else ""
            bar_rows.append(Bar(label=label, parts=[(share / widest, colour, f"{name} {percent(share)}")],
                                note=percent(share)))  # fmt: skip
    return Section(
        anchor="shares",
        heading="Languages before and after",
        lead="Share of each of the largest languages in the pool and among what was kept.",
        body=legend([("var(--s7)", "of what went in"), ("var(--s1)", "of what was kept")]) + bars(bar_rows),
    )


def effect_section(report: Report) -> Section | None:
    """Head-tail curves after real sampling, and how many entries are in effect before and after."""
    effect: Mapping[str, Mapping[str, Any]] = report.get("effect", {})
    if not effect:
        return None
    by_size = sorted(effect, key=lambda name: -effect[name]["matches"][0])
    figures = []
    for name in by_size[:SMALL_MULTIPLES]:
        curve = effect[name]
        lines = [
            Line(name="in the pool", x=curve["rank"], y=curve["matches"], colour="var(--s7)"),
            Line(name="among the kept", x=curve["rank"], y=curve["kept"], colour="var(--s1)"),
        ]
        chart = line_chart(
            lines, x_label="rank of the entry", y_label="matches", x_log=True, y_log=True, width=290, height=200
        )
        before, after = curve["effective_entries"]
        figures.append(figure(lang_name(name), f"effective entries {short(before)} → {short(after)}", chart))
    rows = [[lang_name(name), *(count(value) for value in effect[name]["effective_entries"])] for name in by_size]
    return Section(
        anchor="effect",
        heading="What sampling did to the entries",
        lead="Matches of each entry, by its rank in the pool, before and among the kept texts (means over near ranks). "
        "Effective entries: how many equally frequent entries would be as varied.",
        body=legend([("var(--s7)", "in the pool"), ("var(--s1)", "among the kept")])
        + f'<div class="grid">{"".join(figures)}</div>'
        + folded("In numbers", table(["list", "effective before", "effective after"], rows)),
    )


def size_section(sizes: Report | None) -> Section | None:
    """Size against threshold, where `worldclip estimate --plot` has drawn it."""
    if sizes is None:
        return None
    return Section(
        anchor="sizes",
        heading="Size against threshold",
        lead=f"How many pairs other values of <code>balance.{escape(sizes['key'])}</code> are expected to keep: of "
        "all, and of the largest languages.",
        body=legend([(line.colour, line.name) for line in size_lines(sizes)]) + size_chart(sizes),
    )


def size_lines(sizes: Report) -> list[Line]:
    total = sizes["total"]
    largest = sorted(sizes["languages"], key=lambda lang: -max(sizes["languages"][lang]))[: len(SIZE_LINES)]
    return [
        Line(name="all", x=sizes["values"], y=total, colour="var(--s1)"),
        *(
            Line(name=lang, x=sizes["values"], y=sizes["languages"][lang], colour=colour)
            for lang, colour in zip(largest, SIZE_LINES, strict=False)
        ),
    ]


def size_chart(sizes: Report) -> str:
    unit = "images" if sizes["text_policy"] == "one" else "pairs"
    return line_chart(
        size_lines(sizes),
        x_label=sizes["key"].replace("_", " "),
        y_label=f"{unit} kept",
        x_log=True,
        y_log=True,
        width=640,
        height=320,
    )


def examples_section(report: Report) -> Section | None:
    """Random kept and dropped texts with their reasons."""
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = report.get("samples", {})
    shown = [reason for reason in EXAMPLES if samples.get(reason)]
    if not shown:
        return None
    body = ""
    for reason in shown:
        rows = [
            [
                lang_name(sample["lang"]),
                words(sample["text"], sample["lang"]),
                _why(reason, sample),
                f"<code>{escape(sample['key'])}</code>",
            ]
            for sample in samples[reason]
        ]
        of_reason = table(["language", "text", "why", "key"], rows, text_columns=4)
        body += f"<h3>{EXAMPLES[reason]}</h3>{of_reason}"
    return Section(
        anchor="examples",
        heading="Examples",
        lead="Chosen by hash, not by hand. What is denied, or not in the valid list, is never shown.",
        body=body,
    )


def _why(reason: str, sample: Mapping[str, Any]) -> str:
    if reason == "no_language":
        return f"label {escape(sample['label'])}, probability {sample['lang_prob']:.2f}"
    if reason == "no_match":
        return "holds no entry of its list"
    if reason == "excluded" and not sample["is_over"]:
        return "its language is left out"
    entries = ", ".join(
        f"{words(entry['entry'], sample['lang'])} ({count(entry['matches'])})" for entry in sample["entries"]
    )
    decided = f"probability {sample['keep_prob']:.3f}, coin {sample['coin']:.3f}"
    over = ", over the cap of its language" if sample["is_over"] else ""
    return f"{entries}: {decided}{over}"


def _open_and_folded(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    rest = rows[OPEN_ROWS:]
    more = folded(f"{len(rest)} more", table(head, rest, text_columns=text_columns)) if rest else ""
    return table(head, rows[:OPEN_ROWS], text_columns=text_columns) + more
