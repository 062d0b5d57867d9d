"""The lists of entries, as a part of the page: how large, from which sources, and what they look like."""

from __future__ import annotations

from collections import Counter
from typing import Any

from worldclip.language import table as languages
from worldclip.report.page import Bar, Section, bars, count, folded, lang_name, legend, note, percent, table, words

Report = dict[str, Any]

OPEN_BARS = 40  # lists with a bar in sight; the table has them all
NUM_EXAMPLES = 8  # entries shown of a script
MERGED = "merged"

COLOURS = {
    "number": "var(--s8)",
    "wordnet": "var(--s3)",
    "unigram": "var(--s1)",
    "bigram": "var(--s2)",
    "title": "var(--s5)",
    "wordfreq": "var(--s4)",
    "list": "var(--s6)",
}
RULES = {
    "duplicate": "there already",
    "punctuation": "punctuation alone",
    "too_long": "too long",
    "empty": "empty",
    "not_text": "no Unicode text",
}


def metadata_section(report: Report) -> Section:
    """Entries of each list by source, of each source by languages, and some of each script."""
    lists = dict(sorted(report["lists"].items(), key=lambda item: (-item[1]["entries"], item[0])))
    of_languages = {code: row for code, row in lists.items() if code != MERGED}
    sources = [source for source in COLOURS if any(source in row["by_source"] for row in lists.values())]
    parts = [
        legend([(COLOURS[source], source) for source in sources]),
        _bars(of_languages, sources),
        "<h3>Sources</h3>",
        _sources(of_languages, sources),
        _scripts(of_languages),
        folded(f"All {len(lists)} lists", _lists(lists, sources)),
        *map(note, report["notes"]),
    ]
    return Section(
        anchor="metadata",
        heading="Entries",
        lead="The words and phrases worth having pictures of, by language and by the first source that gave them. "
        "Dead entries are empty, or the same as an earlier one, once normalised: they never match.",
        body="".join(parts),
    )


def _bars(lists: dict[str, Report], sources: list[str]) -> str:
    largest = max((row["entries"] for row in lists.values()), default=1)
    rows = [
        Bar(
            label=lang_name(code),
            parts=[
                (row["by_source"].get(source, 0) / largest, COLOURS[source], f"{source}: {count(of_source)}")
                for source in sources
                if (of_source := row["by_source"].get(source, 0))
            ],
            note=count(row["entries"]),
        )
        for code, row in lists.items()
    ]
    hidden = rows[OPEN_BARS:]
    return bars(rows[:OPEN_BARS]) + (folded(f"{len(hidden)} smaller lists", bars(hidden)) if hidden else "")


def _sources(lists: dict[str, Report], sources: list[str]) -> str:
    """A row a source: languages that have it, entries it gave first, and what became of the others it named."""
    rows = []
    for source in sources:
        with_it = [row for row in lists.values() if row["by_source"].get(source)]
        kept = sum(row["by_source"][source] for row in with_it)
        dropped: Counter[str] = Counter()
        for row in lists.values():
            dropped.update({rule: n for rule, n in row.get("rules", {}).get(source, {}).items() if rule in RULES})
        went_in = kept + sum(dropped.values())
        cells = [f"{count(len(with_it))} ({percent(len(with_it) / len(lists))})", count(went_in), count(kept)]
        rows.append([source, *cells, *(count(dropped[rule]) if dropped[rule] else "" for rule in RULES)])
    head = ["source", "languages that have it", "named", "entries", *RULES.values()]
    return table(head, rows)


def _scripts(lists: dict[str, Report]) -> str:
    """A row a script: how many languages write in it, and entries of the largest list among them."""
    by_script: dict[str, list[str]] = {}
    for code in lists:
        by_script.setdefault(languages.get(code).script, []).append(code)
    rows = []
    for script, codes in sorted(by_script.items(), key=lambda item: (-len(item[1]), item[0])):
        examples = lists[codes[0]].get("examples", {})
        if not examples:
            continue
        shown = "&ensp;".join(words(entry, codes[0]) for entry in _in_turn(list(examples.values())))
        rows.append([f"<code>{script}</code>", count(len(codes)), lang_name(codes[0]), shown])
    if not rows:
        return ""
    head = ["script", "languages", "largest list", "some of its entries, chosen by hash, one source after the other"]
    return "<h3>Scripts</h3>" + table(head, rows, text_columns=4)


def _in_turn(groups: list[list[str]]) -> list[str]:
    """One of each group, then the second of each, up to NUM_EXAMPLES."""
    longest = max(map(len, groups))
    return [group[k] for k in range(longest) for group in groups if k < len(group)][:NUM_EXAMPLES]


def _lists(lists: dict[str, Report], sources: list[str]) -> str:
    profiles = list(dict.fromkeys(profile for row in lists.values() for profile in row["dead"]))
    head = ["list", "entries", *sources, *(f"dead in {profile}" for profile in profiles), "bytes", "matcher bytes"]
    rows = [
        [
            lang_name(code),
            count(row["entries"]),
            *(_cell(row["by_source"], source) for source in sources),
            *(_cell(row["dead"], profile) for profile in profiles),
            _cell(row, "bytes"),
            count(sum(row.get("matcher_bytes", {}).values())),
        ]
        for code, row in lists.items()
    ]
    return table(head, rows)


def _cell(counts: Report, name: str) -> str:
    return count(counts[name]) if name in counts else ""
