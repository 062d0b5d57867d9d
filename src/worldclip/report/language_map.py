"""Many languages at a glance: a small cell per language, coloured by how many times chance it reaches."""

from __future__ import annotations

from collections.abc import Mapping

from worldclip.core.artifacts import Json
from worldclip.language.table import Language
from worldclip.report.html import Html, tag
from worldclip.report.numbers import count, times

# Steps of one colour, lighter to darker: they differ in lightness, so that they do without hue.  The darkest turns its
# text, see page.css.
STEPS = (3.0, 10.0, 30.0, 100.0)
STEP_NAMES = ("below 3×", "3 to 10×", "10 to 30×", "30 to 100×", "100× or more")
MIN_MEMBERS = 3  # languages of a family with a heading of its own
OTHER_FAMILIES = "other families"


def language_map(
    records: Mapping[str, Json], metric: str, languages: Mapping[str, Language], hovers: Mapping[str, str]
) -> Html:
    """Return cells by family, the largest family first; in it the language with most times chance first.

    Only known languages with a chance above 0 have a cell.  languages and hovers have the codes of the records as keys.
    """
    ratios: dict[str, float] = {}
    cells: dict[str, Html] = {}
    for lang, record in records.items():
        chance = record["chance"].get(metric)
        if lang not in languages or not chance:
            continue
        ratio = record["metrics"][metric] / chance
        ratios[lang] = ratio
        bounds = record["interval_95"].get(metric)
        # A language whose interval holds chance has a dashed border.
        look = f"step{sum(ratio >= bound for bound in STEPS)}"
        if bounds is not None and bounds[0] <= chance:
            look = "at-chance"
        name = tag("b", languages[lang].name)
        cells[lang] = tag("span", name, tag("small", times(ratio)), class_=f"c {look}", title=hovers[lang])
    langs_by_ratio = sorted(ratios, key=lambda lang: (-ratios[lang], lang))
    by_family: dict[str, list[str]] = {}
    for lang in langs_by_ratio:
        by_family.setdefault(languages[lang].family, []).append(lang)
    large = {family: langs for family, langs in by_family.items() if len(langs) >= MIN_MEMBERS}
    headings = {family: large[family] for family in sorted(large, key=lambda name: (-len(large[name]), name))}
    langs_of_small = [lang for lang in langs_by_ratio if languages[lang].family not in large]
    if langs_of_small:
        headings[OTHER_FAMILIES] = langs_of_small
    if not headings:
        return Html()
    parts = []
    for family, langs in headings.items():
        heading = tag("h5", family, " ", tag("small", count(len(langs))))
        parts.append(tag("div", heading, tag("div", *map(cells.get, langs), class_="cells")))
    colours = [tag("span", tag("i", class_=f"step{i}"), name) for i, name in enumerate(STEP_NAMES)]
    colours.append(tag("span", tag("i", class_="at-chance"), "the 95% interval holds chance"))
    legend = tag("p", tag("span", "times chance:"), *colours, class_="legend map-legend")
    return legend + tag("div", *parts, class_="languages")
