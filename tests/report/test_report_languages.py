"""Many languages on a page: the map of times chance, tables that fold."""

from __future__ import annotations

import re

import numpy as np
import pytest

from made_up_world import made_up_world
from worldclip.core.artifacts import write_json
from worldclip.evaluate.interval import mean_interval
from worldclip.evaluate.report import held_out_combinations
from worldclip.language import table as languages
from worldclip.report import balance, curate, write_evaluation
from worldclip.report.language_map import language_map

CODES = sorted(code for code in languages.by_code() if code != "other")


def record(value, chance=0.01, n=100, num_classes=500, low=None):
    metrics = {"acc1": value / 2, "acc5": value}
    bounds = [value - 0.05 if low is None else low, value + 0.05]
    return {"n": n, "metrics": metrics, "chance": {"acc1": chance / 5, "acc5": chance}, "num_classes": num_classes,
            "interval_95": {"acc5": bounds, "acc1": bounds}}  # fmt: skip


def test_cells_are_sorted_and_coloured_by_times_chance():
    values = {"sw": 0.02, "yo": 0.4, "zu": 1.0, "ig": 0.2, "sn": 0.03, "en": 0.3, "xh": 0.029}
    records = {lang: record(value, low=None if lang == "sw" else value) for lang, value in values.items()}
    families = {**dict.fromkeys(values, "Atlantic-Congo"), "en": "Indo-European"}
    drawn = language_map(records, "acc5", families, {lang: f"<{lang}>" for lang in values})
    cells = re.findall(r'<span class="c ([\w-]+)" title="&lt;(\w+)&gt;"><b>\2</b><small>([\d.,]+×)</small>', drawn)
    assert cells == [
        ("step4", "zu", "100×"), ("step3", "yo", "40×"), ("step2", "ig", "20×"), ("step1", "sn", "3.0×"),
        ("step0", "xh", "2.9×"), ("at-chance", "sw", "2.0×"), ("step3", "en", "30×"),
    ]  # fmt: skip
    assert "Atlantic-Congo <small>6</small>" in drawn
    assert "other families <small>1</small>" in drawn  # a family of one has no heading


def test_language_without_chance_or_family_has_no_cell():
    records = {"sw": record(0.5), "klingon": record(0.5), "yo": {**record(0.5), "chance": {}}}
    drawn = language_map(records, "acc5", {"sw": "Atlantic-Congo", "yo": "Atlantic-Congo"}, dict.fromkeys(records, ""))
    assert re.findall(r"<b>(\w+)</b>", drawn) == ["sw"]
    assert language_map({}, "acc5", {}, {}) == ""


def test_held_out_pictures_are_beside_the_others():
    random = np.random.default_rng(0)
    hits, is_held = random.random(250) < 0.4, np.arange(250) % 10 == 0
    chance = {"acc1": 1 / 250}

    def of(mask):
        rows = hits[mask]
        return {"n": len(rows), "metrics": {"acc1": float(rows.mean())}, "chance": chance,
                "interval_95": {"acc1": list(mean_interval(rows))}}  # fmt: skip

    whole, held = of(np.ones(250, bool)), of(is_held)
    other = {**held, "chance": {"acc1": 0.5}}  # among other names: not comparable
    (result,) = held_out_combinations({"flags": {"sw": whole, "yo": whole}, "flags_held": {"sw": held, "yo": other}})
    assert list(result["languages"]) == ["sw"]
    seen = result["languages"]["sw"]["seen"]
    expected = of(~is_held)
    assert (seen["n"], seen["metrics"]) == (225, pytest.approx(expected["metrics"]))
    assert seen["interval_95"]["acc1"] == pytest.approx(expected["interval_95"]["acc1"])
    assert [group["value"] for group in result["means"]["acc1"]] == [seen["metrics"]["acc1"], held["metrics"]["acc1"]]
    assert held_out_combinations({"flags": {"sw": whole}}) == []


def test_page_of_all_languages_has_map_and_held_out_table(tmp_path):
    write_json(tmp_path / "report.json", made_up_world())
    page = write_evaluation(tmp_path).read_text(encoding="utf-8")
    codes = {lang for _, lang in re.findall(r'class="c ([\w-]+)"[^>]*><b>(\w+)</b>', page)}
    assert len(codes) > 300
    assert 'id="held-out-combinations"' in page
    assert re.search(r"Mean over \d+ languages, by their codes", page)
    assert '<th class="n">times chance</th>' in page
    assert "<td>Atlantic-Congo, Latin, low</td>" in page
    table = page[page.index("All metrics of zero-shot classification, languages by name") :].partition("</table>")[0]
    names = re.findall(r"<tr><td>([^<]+) <code>", table)
    assert len(names) > 300
    assert names == sorted(names, key=str.casefold)
    assert len(page) < 2_000_000
    for forbidden in ("<script", "http://"):
        assert forbidden not in page


def rows_in_sight(body: str) -> int:
    """Return the number of table rows and bars outside of folded parts."""
    while (without := re.sub(r"<details>(?:(?!<details>).)*?</details>", "", body, flags=re.DOTALL)) != body:
        body = without
    return body.count("<tr") + body.count('class="l"')


def test_what_was_kept_shows_the_largest_languages_and_folds_the_others():
    row = {"pairs_in": 10, "pairs_out": 5, "sampled_out": 5, "expected_pairs": 5.0}
    report = {"text_policy": "all", "languages": dict.fromkeys(CODES, row), "effect": {}, "samples": {}}
    first = curate.sections(report, languages.INSTALLED)[0].body
    assert rows_in_sight(first) == curate.MAX_BARS
    assert first.count("<code>") == 2 * len(CODES)


def test_thresholds_and_head_entries_fold_small_lists():
    entry = {"entry": "<b>", "source": "pool", "matches": 7, "prob": 0.5}
    curve = {"rank": [1, 2], "matches": [7, 3], "balanced": [3, 3], "effective_entries": [2.0, 2.0]}
    lists = {
        code: {"threshold": 3, "tail_fraction": 0.1, "num_entries": 9, "num_matched_entries": 2, "num_matches": 10 + n}
        for n, code in enumerate(CODES)
    }
    report = {"lists": lists, "warnings": [], "curves": dict.fromkeys(CODES, curve),
              "top_entries": {code: [entry] * 12 for code in CODES}}  # fmt: skip
    thresholds, heads = balance.sections(report, languages.INSTALLED)
    assert rows_in_sight(thresholds.body) == balance.MAX_ROWS + 1
    assert thresholds.body.count('<td class="n">10.0%</td>') == len(CODES)
    assert rows_in_sight(heads.body) == balance.OPEN_LISTS * (balance.HEAD_ENTRIES + 1)
    assert "&lt;b&gt;" in heads.body
    for code in CODES:
        assert f"<code>{code}</code>" in heads.body
