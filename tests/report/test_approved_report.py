"""Whole parts of a run's page that no small run has: all sources of entries, a training with gaps, many languages.

After a change that is meant: pytest tests/report --snapshot-update, then read the diff of __snapshots__.
"""

import re

from approved import shown
from made_up_world import made_up_world
from worldclip.contracts.sources import METADATA_SOURCES
from worldclip.language.table import INSTALLED
from worldclip.report import evaluate, metadata, train
from worldclip.report.page import Section, cards


def lines_of(sections: list[Section]) -> str:
    return "\n".join(f"{section.heading}: {section.lead}\n{shown(section.body)}" for section in sections)


def test_entries_of_all_sources(snapshot):
    lists = {}
    for number, lang in enumerate(("de", "merged", "en", "ar", "th", "fr")):
        sources = METADATA_SOURCES[number:] if lang != "merged" else METADATA_SOURCES
        by_source = {source: 7 * place + 11 * number + 1 for place, source in enumerate(sources)}
        lists[lang] = {
            "entries": sum(by_source.values()),
            "by_source": by_source,
            "dead": {"unicode": number} if number % 2 else {"unicode": 1, "reference": 2 * number},
            "rules": {sources[0]: {"duplicate": number, "too_long": 3}, "cldr": {"empty": 1}},
            "examples": {source: [f"{source} {n}" for n in range(place)] for place, source in enumerate(sources)},
            "bytes": 1000 * number + 1,
            "matcher_bytes": {"unicode": 2000, "reference": number},
        }
    report = {"lists": lists, "notes": ["a note with `code`"]}
    text = f"{shown(cards(metadata.cards(report)))}\n{lines_of(metadata.sections(report, INSTALLED))}"
    assert text == snapshot


def test_a_training_with_gaps(snapshot):
    log = [{"step": 3 * n, "samples_seen": 3_000 * n, "loss": 9 / n, "lr": 1e-3 / n} for n in range(1, 8)]
    log[2]["loss"] = None
    for row in log[3:]:
        row["samples_per_s"] = 100.0 + row["step"]
    report = {
        "samples_seen": 21_000, "steps": 21, "epochs": 2.25, "pairs": 9_333, "no_image": 4, "skipped_steps": 3,
        "bad": {"undecodable_image": 2, "missing": 1}, "elapsed_s": 150.0, "samples_per_s": 140.4,
    }  # fmt: skip
    finished = lines_of(train.sections(report, log))
    assert f"{shown(cards(train.cards(log)))}\n{finished}\n{lines_of(train.sections(None, log[:3]))}" == snapshot


def test_a_curve_of_many_points_ends_where_the_training_does():
    log = [{"step": n, "samples_seen": 10 * n, "loss": 2.0 + n % 2, "lr": 1e-3} for n in range(1, 902)]
    (loss, _) = re.findall(r'<path [^>]*d="M([^"]*)"', train.sections(None, log)[0].body)
    points = [tuple(map(float, point.split())) for point in loss.split(" L")]
    assert len(points) <= train.MAX_POINTS
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[-1][0] == 330  # the right border


def test_an_evaluation_in_many_languages(snapshot):
    """Two datasets, one of them in the languages of a map; one language is at chance."""
    codes = [row for row in INSTALLED.by_code() if row not in ("other", "simple")][::6][:44]
    report = made_up_world("", 0, {"world_flags": (258, 1.0), "world_flags_held": (26, 0.8)}, codes)
    assert lines_of(evaluate.sections(report, INSTALLED)) == snapshot
