"""Many languages at a glance: a small cell per language, coloured by how many times chance it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worldclip.contracts.records import LanguageGroup, LanguageResult
from worldclip.language.scripts import script_name
from worldclip.report.html import Html, join, tag
from worldclip.report.numbers import count, percent, times
from worldclip.report.page import Bar, bars, folded

# Steps of one colour, lighter to darker: they differ in lightness, so that they do without hue.  The darkest turns its
# text, see page.css.
STEPS = (3.0, 10.0, 30.0, 100.0)
STEP_NAMES = ("below 3×", "3 to 10×", "10 to 30×", "30 to 100×", "100× or more")
MIN_MEMBERS = 3  # languages of a family with a heading of its own
MAX_GROUPS = 12  # bars of one grouping in sight; more are folded
OTHER_FAMILIES = "other families"
GROUPINGS = ("all", "number of names", "resource level", "script", "family")


def language_map(
    records: Mapping[str, LanguageResult], metric: str, families: Mapping[str, str], hovers: Mapping[str, str]
) -> Html:
    """Return cells by family, the largest family first; in it the language with most times chance first.

    Only languages with a family and a chance above 0 have a cell.  families, hovers: family and hover text of each
    language.
    """
    ratios = {
        lang: record["metrics"][metric] / record["chance"][metric]
        for lang, record in records.items()
        if lang in families and record["chance"].get(metric)
    }
    langs_by_ratio = sorted(ratios, key=lambda lang: (-ratios[lang], lang))
    by_family: dict[str, list[str]] = {}
    for lang in langs_by_ratio:
        by_family.setdefault(families[lang], []).append(lang)
    large = {family: langs for family, langs in by_family.items() if len(langs) >= MIN_MEMBERS}
    others = [lang for lang in langs_by_ratio if families[lang] not in large]

    def cells_of(family: str, langs: Sequence[str]) -> Html:
        cells = [_cell(lang, records[lang], metric, hovers[lang]) for lang in langs]
        heading = tag("h5", family, " ", tag("small", count(len(langs))))
        return tag("div", heading, tag("div", *cells, class_="cells"))

    largest_first = sorted(large, key=lambda name: (-len(large[name]), name))
    parts = [cells_of(family, large[family]) for family in largest_first]
    if others:
        parts.append(cells_of(OTHER_FAMILIES, others))
    legend = step_legend("times chance:", STEP_NAMES, "the 95% interval holds chance")
    return legend + tag("div", *parts, class_="languages") if parts else Html()


def _cell(lang: str, record: LanguageResult, metric: str, hover: str) -> Html:
    """Return the code and the multiple of chance; a language whose interval holds chance has a dashed border."""
    chance = record["chance"][metric]
    ratio = record["metrics"][metric] / chance
    bounds = record["interval_95"].get(metric)
    is_chance = bounds is not None and bounds[0] <= chance
    return cell(lang, times(ratio), "at-chance" if is_chance else f"step{step_of(ratio, STEPS)}", hover)


def cell(lang: str, number: str, class_: str, hover: str) -> Html:
    """Return a small cell with a language's code and a number.  class_: `step0` to `step4`, or `at-chance`."""
    return tag("span", tag("b", lang), tag("small", number), class_=f"c {class_}", title=hover)


def step_of(value: float, steps: Sequence[float]) -> int:
    """Return the step of a value: how many of the rising bounds `steps` it reaches."""
    return sum(value >= step for step in steps)


def step_legend(title: str, names: Sequence[str], dashed: str) -> Html:
    """Explain the colours of cells: names of the steps, and of the cells with a dashed border."""
    items = [tag("span", tag("i", class_=f"step{i}"), name) for i, name in enumerate(names)]
    items.append(tag("span", tag("i", class_="at-chance"), dashed))
    return tag("p", tag("span", title), *items, class_="legend map-legend")


def group_bars(groups: Mapping[str, Sequence[LanguageGroup]]) -> Html:
    """Return the means of groups of languages with interval and chance, on one scale."""
    tops = [max(group["value"], group["interval_95"][1]) for members in groups.values() for group in members]
    scale = max(tops, default=1.0) or 1.0
    parts = []
    for grouping in (name for name in GROUPINGS if groups.get(name)):
        name_of = script_name if grouping == "script" else str
        rows = [group_bar(group, scale, name_of(group["name"])) for group in groups[grouping]]
        if grouping == "all":
            parts.append(bars(rows))
        elif len(rows) > MAX_GROUPS:
            parts.append(folded(f"by {grouping}, {len(rows)} groups", bars(rows)))
        elif len(rows) > 1:  # one group says what `all` says
            parts += [tag("h5", f"by {grouping}"), bars(rows)]
    return join(parts)


def group_bar(group: LanguageGroup, scale: float, name: str = "") -> Bar:
    """Return the mean of a group as a bar.  scale: the value of a full bar; name: default: the group's."""
    name = name or group["name"]
    value = group["value"]
    chance = group["chance"]
    multiple = f" · {times(value / chance)}" if chance else ""
    low, high = group["interval_95"]
    hover = f"{name}: {percent(value)}, {percent(low)} to {percent(high)}, {' '.join(group['languages'])}"
    return Bar(
        label=join([name, tag("small", f"({count(len(group['languages']))})")], " "),
        parts=[(value / scale, "var(--s1)", hover)],
        note=f"{percent(value)}{multiple}",
        interval=(low / scale, high / scale),
        mark=chance / scale if chance is not None else None,
    )
