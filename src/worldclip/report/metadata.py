"""The entry lists: how large, from which sources, and what their entries look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, TypeAlias

from worldclip.contracts.sources import METADATA_SOURCES
from worldclip.language import scripts
from worldclip.language.table import Languages
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count, percent, short
from worldclip.report.page import (
    Bar,
    Card,
    Section,
    bars,
    first_and_more,
    folded,
    lang_name,
    language_column,
    legend,
    note,
    words,
)
from worldclip.report.table import Column, Table, columns_of, text_column, to_html

MAX_BARS = 40  # lists with a bar in sight; the table has them all
NUM_EXAMPLES = 8  # entries shown per script
MERGED = "merged"

_COLOURS = (8, 3, 1, 2, 5, 4, 9, 10, 6, 7)  # indices into the page's palette, by position in METADATA_SOURCES
DROP_RULES = {
    "duplicate": "duplicate",
    "punctuation": "punctuation only",
    "too_long": "too long",
    "empty": "empty",
    "not_text": "invalid Unicode",
}


Lists: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Each entry list as in RUN/metadata/report.json.

entries; by_source: entries by the first source that gave them; dead: entries that never match, by matching profile;
maybe rules: dropped candidates by source and rule; examples: entries by source, chosen by hash; bytes; matcher_bytes.
"""


def cards(report: Mapping[str, Any]) -> list[Card]:
    """Return the number of entries of all languages."""
    entries = [row["entries"] for name, row in report["lists"].items() if name != MERGED]
    return [Card(short(sum(entries)), "entries", f"in {len(entries)} languages")]


def sections(report: Mapping[str, Any], languages: Languages) -> list[Section]:
    """Return entries per list, per source and per script."""
    lists = dict(sorted(report["lists"].items(), key=lambda item: (-item[1]["entries"], item[0])))
    per_language = dict(lists)
    per_language.pop(MERGED, None)
    present: set[str] = set()
    profiles: dict[str, str] = {}  # with their titles
    for row in lists.values():
        present.update(row["by_source"])
        for profile in row["dead"]:
            profiles[profile] = f"dead in {profile}"
    sources = [*filter(present.__contains__, METADATA_SOURCES), *sorted(present.difference(METADATA_SOURCES))]
    colours: dict[str, str] = {}
    for source in sources:
        position = [*METADATA_SOURCES, source].index(source)
        colours[source] = f"var(--s{_COLOURS[position % len(_COLOURS)]})"
    rows = []
    for lang, row in lists.items():
        by_source = map(row["by_source"].get, sources)
        dead = map(row["dead"].get, profiles)
        matcher_bytes = sum(row.get("matcher_bytes", {}).values())
        rows.append([lang, row["entries"], *by_source, *dead, row.get("bytes"), matcher_bytes])
    titles = ["entries", *sources, *profiles.values(), "bytes", "matcher bytes"]
    all_lists = Table([language_column("list", languages), *columns_of(titles, count)], rows)
    largest = max((row["entries"] for row in per_language.values()), default=1)
    bars_of_lists = []
    for lang, row in per_language.items():
        parts = []
        for source, colour in colours.items():
            number = row["by_source"].get(source, 0)
            if number:
                parts.append((number / largest, colour, f"{source}: {count(number)}"))
        bars_of_lists.append(Bar(label=lang_name(lang, languages), parts=parts, note=count(row["entries"])))
    body = [
        legend(zip(colours.values(), colours, strict=True)),
        first_and_more(bars_of_lists, MAX_BARS, "smaller lists", bars),
        tag("h3", "Sources"),
        to_html(_source_table(per_language, sources)),
        _scripts(per_language, languages),
        folded(f"All {len(lists)} lists", to_html(all_lists)),
        *map(note, report["notes"]),
    ]
    lead = (
        "The words and phrases to look for in texts, by language and by the first source that gave them. "
        "Dead entries never match: normalised, they are empty or equal to an earlier entry."
    )
    return [Section("Entries", lead, join(body))]


def _source_table(lists: Lists, sources: Sequence[str]) -> Table:
    """Return one row per source: languages that have it, its candidates, and what became of them."""
    rows = []
    for source in sources:
        num_lists = 0
        num_entries = 0
        dropped = Counter[str]()
        for row in lists.values():
            number = row["by_source"].get(source, 0)
            num_lists += number > 0
            num_entries += number
            dropped.update(row.get("rules", {}).get(source, {}))
        by_rule = [dropped[rule] for rule in DROP_RULES]
        covered = f"{count(num_lists)} ({percent(num_lists / len(lists))})"
        rows.append([source, covered, num_entries + sum(by_rule), num_entries, *(number or None for number in by_rule)])
    counts = columns_of(("candidates", "entries", *DROP_RULES.values()), count)
    return Table([text_column("source"), Column("languages with it"), *counts], rows)


def _scripts(lists: Lists, languages: Languages) -> Html:
    """Return one row per script: how many languages use it, and entries of the largest of their lists."""
    by_script: dict[str, list[str]] = {}
    for lang in lists:
        by_script.setdefault(languages.get(lang).script, []).append(lang)
    rows = []
    for script, langs in sorted(by_script.items(), key=lambda item: (-len(item[1]), item[0])):
        examples = list(lists[langs[0]].get("examples", {}).values())
        shown: list[Html] = []
        # One of each source, then the second of each, and so on.
        for entry in chain.from_iterable(zip_longest(*examples)):
            if entry is not None and len(shown) < NUM_EXAMPLES:
                shown.append(words(entry, langs[0]))
        if shown:
            rows.append([scripts.NAMES.get(script, script), len(langs), langs[0], join(shown, Html("&ensp;"))])
    if not rows:
        return Html()
    columns = [
        text_column("script"),
        Column("languages", count),
        language_column("largest list", languages),
        text_column("some of its entries, chosen by hash, from each source in turn"),
    ]
    return tag("h3", "Scripts") + to_html(Table(columns, rows))
