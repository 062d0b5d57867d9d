"""Thresholds by hand, against the reference's numbers where those are defined, and the stage on written counts."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from count_files import write_count_file
from plain_recipe import write_metadata
from stages import finish
from worldclip import balance
from worldclip.balance.config import BalanceConfig
from worldclip.balance.stage import head_tail_curve
from worldclip.balance.thresholds import choose_thresholds, find_warnings
from worldclip.config import load_recipe
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.match.config import EntryLists

COUNTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=60)


def test_tail_fraction_is_the_share_of_matches_on_rare_entries():
    assert balance.tail_fraction([1, 3, 6, 90], 10) == 0.1
    assert balance.tail_fraction([1, 3, 6, 90], 6) == 0.04, "strictly below"
    assert balance.tail_fraction([1, 3, 6, 90], 91) == 1.0


def test_a_tail_entry_has_probability_one_and_a_head_entry_its_share():
    assert balance.entry_probs([0, 5, 10, 40], 10).tolist() == [1.0, 1.0, 1.0, 0.25]


def test_edge_cases_that_divide_by_zero_elsewhere_are_defined():
    assert balance.tail_fraction([0, 0], 5) == 0.0
    assert balance.tail_fraction([], 5) == 0.0
    assert balance.threshold_for([0, 0, 7, 7], 0.0) == 1, "a threshold is at least 1"
    assert balance.entry_probs([0], 1).tolist() == [1.0]
    for no_match in ([], [0, 0]):
        with pytest.raises(ValueError, match="no entry has a match"):
            balance.threshold_for(no_match, 0.06)
    for call in (balance.tail_fraction, balance.entry_probs):
        with pytest.raises(ValueError, match="at least 1"):
            call([1, 2], 0)
    with pytest.raises(ValueError, match="smallest count is -1"):
        balance.tail_fraction([-1, 2], 5)


def test_sums_beyond_what_a_double_holds_stay_exact():
    counts = np.array([2**62, 1, 1], np.uint64)
    assert balance.tail_fraction(counts, 2) == 2 / (2**62 + 2)
    assert balance.threshold_for(counts, 1.0) == 2**62


def test_the_reference_gives_the_same_numbers(shared):
    cases = json.loads(gzip.decompress((shared / "golden" / "balance.json.gz").read_bytes()))
    for case in cases:
        counts = np.array(case["counts"])
        assert balance.tail_fraction(counts, case["threshold"]) == case["tail_fraction"]
        assert balance.threshold_for(counts, case["tail_fraction"]) == case["threshold_back"]
        assert balance.threshold_for(counts, case["p"]) == case["threshold_of_p"]
        np.testing.assert_array_equal(balance.entry_probs(counts, case["threshold"]), case["probs"])


@given(COUNTS, st.floats(0, 1))
def test_threshold_for_agrees_with_a_plain_search(counts, fraction):
    total, cumulated, best = sum(counts), 0, None
    if not total:
        return
    for count in sorted(counts):
        cumulated += count
        distance = abs(cumulated / total - fraction)
        if best is None or distance < best[0]:
            best = (distance, max(1, count))
    assert balance.threshold_for(counts, fraction) == best[1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "exactly one"),
        ({"english_threshold": 5, "tail_fraction": 0.1}, "exactly one"),
        ({"rule": "same_threshold"}, "only english_threshold"),
        ({"rule": "same_threshold", "english_threshold": 5, "tail_fraction": 0.1}, "only english_threshold"),
        ({"english_threshold": 0}, "balance.english_threshold = 0: must be at least 1"),
        ({"tail_fraction": 1.5}, "balance.tail_fraction = 1.5: must be between 0 and 1"),
        ({"tail_fraction": 0.1, "tail_fractions": {"sw": -1.0}}, "balance.tail_fractions.sw = -1.0"),
        ({"tail_fraction": 0.1, "min_threshold": -1}, "balance.min_threshold = -1"),
    ],
)
def test_invalid_config_names_key_and_remedy(values, words):
    (problem,) = BalanceConfig(**values).problems()
    assert words in problem


def counts_of(**lists: list[int]) -> dict[str, np.ndarray]:
    return {name: np.array(counts, np.uint64) for name, counts in lists.items()}


POOL = counts_of(en=[1, 3, 6, 90], sw=[0, 2, 8, 10], zh=[0, 0])


def thresholds(counts=POOL, isolate="language", **values):
    return choose_thresholds(counts, BalanceConfig(**values), EntryLists(isolate))


def test_the_only_list_under_isolate_takes_the_threshold_itself():
    assert thresholds(counts_of(merged=[1, 3, 6, 90]), "merged", english_threshold=10) == {"merged": 10}
    assert thresholds(counts_of(en=[1, 3, 6, 90]), "english", english_threshold=10) == {"en": 10}


def test_english_threshold_without_english_suggests_tail_fraction():
    for counts in (counts_of(sw=[1, 2]), counts_of(en=[0, 0], sw=[1, 2])):
        with pytest.raises(UserError, match=r"balance\.tail_fraction instead"):
            thresholds(counts, english_threshold=10)


def test_unreachable_english_threshold_warns():
    warnings = [find_warnings(POOL, BalanceConfig(english_threshold=t), EntryLists("language")) for t in (90, 91)]
    assert list(map(len, warnings)) == [0, 1]


def test_the_curve_begins_at_the_head_and_ends_at_the_rarest_matched_entry():
    curve = head_tail_curve(np.array([0, 1, 100, 10, 0], np.uint64), 10)
    assert [curve[name] for name in ("rank", "matches", "balanced")] == [[1, 2, 3], [100, 10, 1], [10, 10, 1]]
    assert curve["effective_entries"][0] < curve["effective_entries"][1] <= 3


def finish_balance(run: Path, **balance: object) -> dict:
    """Run the stage with these keys (default: a tail fraction of 0.5); return its report."""
    recipe = load_recipe({"pool": {"path": "none"}, "balance": balance or {"tail_fraction": 0.5}})
    return finish("balance", recipe, run)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_metadata(tmp_path, {"en": ["a", "b", "c", "d"], "sw": ["e", "f", "g", "h"], "zh": ["i"]})
    sizes = {"en": 4, "sw": 4, "zh": 1}
    artifacts.write_manifest(tmp_path / "match", config={}, inputs={}, counts={}, lists=sizes, languages=sorted(sizes))
    counts = tmp_path / "match/counts"
    write_count_file(counts / "b/1.tar.parquet", [("en", 0, 1), ("en", 3, 80), ("sw", 1, 2)])
    rows = [("sw", 2, 8), ("sw", 3, 10), ("en", 1, 3), ("en", 2, 6), ("en", 3, 10)]
    write_count_file(counts / "a.tar.parquet", rows)
    write_count_file(counts / "empty.tar.parquet", [])
    return tmp_path


def test_the_stage_writes_thresholds_and_probabilities(run):
    report = finish_balance(run)
    record = artifacts.read_json(run / "balance" / "thresholds.json")
    assert record["english_threshold"] == 6
    assert record["tail_fraction"] == 0.5
    sizes = {"num_entries": 4, "num_matched_entries": 4, "num_matches": 100}
    assert record["lists"]["en"] == {"threshold": 6, "tail_fraction": 0.04, **sizes}
    assert record["lists"]["zh"]["threshold"] is None
    assert record["lists"]["zh"]["tail_fraction"] == 0.0
    probs = np.load(run / "balance" / "en.npy")
    assert probs.dtype == np.float32
    np.testing.assert_array_equal(probs, np.array([1, 1, 1, 6 / 90], np.float32))
    np.testing.assert_array_equal(np.load(run / "balance" / "zh.npy"), [1.0])
    head = {"entry": "d", "source": "list", "matches": 90, "prob": float(np.float32(6 / 90))}
    assert report["top_entries"]["en"][0] == head
    assert [row["entry"] for row in report["top_entries"]["sw"]] == ["h", "g", "f"], "e has no match"
    assert report["top_entries"]["zh"] == []


@pytest.mark.parametrize("rule", ["tail_fraction", "same_threshold"])
def test_a_list_may_have_a_tail_fraction_of_its_own_under_either_rule(run, rule):
    report = finish_balance(run, rule=rule, english_threshold=6, tail_fractions={"sw": 0.5})
    own = balance.threshold_for([0, 2, 8, 10], 0.5)
    assert [report["lists"][name]["threshold"] for name in ("en", "sw")] == [6, own]


def test_files_of_removed_languages_are_deleted(run):
    (run / "balance").mkdir()
    (run / "balance" / "fr.npy").write_bytes(b"old")
    finish_balance(run)
    assert {path.name for path in (run / "balance").glob("*.npy")} == {"en.npy", "sw.npy", "zh.npy"}
    assert np.load(run / "balance" / "counts" / "en.npy").tolist() == [1, 3, 6, 90]


def test_missing_count_files_are_an_error(run):
    manifest = artifacts.read_json(run / "match" / "manifest.json")
    artifacts.write_json(run / "match" / "manifest.json", {**manifest, "counts": {"shards": 4}})
    with pytest.raises(UserError, match="3 files are visible, match wrote 4"):
        finish_balance(run)
