"""Parts of the page that have a row per language stay readable with hundreds of them."""

from __future__ import annotations

import re

from worldclip.language import table as languages
from worldclip.report import balance, curate, match

CODES = sorted(code for code in languages.by_code() if code != "other")


def rows_in_sight(body: str) -> int:
    """Return the number of table rows and bars outside of folded parts."""
    while (without := re.sub(r"<details>(?:(?!<details>).)*?</details>", "", body, flags=re.DOTALL)) != body:
        body = without
    return body.count("<tr") + body.count('class="l"')


def lid_section(codes, recall_of, **more):
    found = {code: recall_of(code) for code in codes}
    truth = {code: {"other": 90 - n, "no_language": 10, code: n} for code, n in found.items()}
    recalls = {code: row.get(code, 0) / 100 for code, row in truth.items()}
    report = {"texts": {}, "truth": truth, "lid_recall": recalls, **more}
    return match.sections(report, languages.INSTALLED)[-1].body


def test_lost_texts_of_many_languages_are_cells_the_worst_first():
    body = lid_section(CODES, lambda code: 0 if code in ("sw", "ady") else 60, lid_unknown=["ady"])
    cells = re.findall(r'class="c ([\w-]+)" title="([^"]*)"><b>(\w+)</b><small>([^<]*)</small>', body)
    assert len(cells) == len(CODES)
    assert [(class_, lang, share) for class_, _, lang, share in cells[:2]] == [
        ("at-chance", "ady", "0.0%"), ("step0", "sw", "0.0%")
    ]  # fmt: skip
    assert cells[1][1] == "Swahili sw: 0.0% of 100 texts"
    assert "The model has no label for 1 of these languages, with 100 texts: Adyghe ady." in body
    assert "90.0%</td><td" in body  # taken for another
    assert rows_in_sight(body) == 0


def test_lost_texts_of_few_languages_are_bars():
    body = lid_section(["en", "sw", "yo"], lambda code: 50)
    assert body.count('class="l"') == 3
    assert "no label" not in body
    assert re.search(r">50.0%</td><td[^>]*>40.0%</td><td[^>]*>10.0%<", body)


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
    thresholds, heads = balance.sections(report, None, languages.INSTALLED)
    assert rows_in_sight(thresholds.body) == balance.MAX_ROWS + 1
    assert thresholds.body.count('<td class="n">10.0%</td>') == len(CODES)
    assert rows_in_sight(heads.body) == balance.OPEN_LISTS * (balance.HEAD_ENTRIES + 1)
    assert "&lt;b&gt;" in heads.body
    for code in CODES:
        assert f"<code>{code}</code>" in heads.body
