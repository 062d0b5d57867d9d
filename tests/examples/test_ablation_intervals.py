"""Intervals over seeds and concepts: against a plain bootstrap, against the truth, and as the page has them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
pytest.importorskip("scipy")
sys.path.insert(0, str(REPOSITORY / "examples" / "ablation"))

import intervals  # noqa: E402

PAGE = (REPOSITORY / "docs/ablation.md").read_text(encoding="utf-8")


def made_up_gains(random, num_seeds, num_concepts, seed_sd, concept_sd, rest_sd):
    """Return (S, C) gains whose true mean is 0."""
    of_seed = random.normal(0, seed_sd, (num_seeds, 1))
    of_concept = random.normal(0, concept_sd, (1, num_concepts))
    return of_seed + of_concept + random.normal(0, rest_sd, (num_seeds, num_concepts))


def plain_bootstrap(gains_SC, num_resamples=2_000):
    """Return the standard deviation of the mean over drawn seeds and drawn concepts."""
    random = np.random.default_rng(1)
    num_seeds, num_concepts = gains_SC.shape
    means = []
    for _ in range(num_resamples):
        seeds = [int(random.integers(num_seeds)) for _ in range(num_seeds)]
        concepts = random.integers(num_concepts, size=num_concepts)
        means.append(np.mean([gains_SC[seed, concepts].mean() for seed in seeds]))
    return float(np.std(means))


@pytest.mark.parametrize(("seed_sd", "concept_sd"), [(1.0, 2.0), (0.2, 5.0), (1.0, 0.2)])
def test_with_many_seeds_the_interval_is_that_of_a_plain_bootstrap_over_both(seed_sd, concept_sd):
    gains_SC = made_up_gains(np.random.default_rng(0), 60, 100, seed_sd, concept_sd, rest_sd=0.1)
    found = intervals.difference(gains_SC)
    low, high = intervals.two_level_interval(found.gains_S, found.concepts_error, num_concepts=100)
    assert (low + high) / 2 == pytest.approx(gains_SC.mean())
    assert (high - low) / 2 == pytest.approx(2.0 * plain_bootstrap(gains_SC), rel=0.06)  # t(59) is 2.00, t(99) 1.98


@pytest.mark.parametrize("num_seeds", [2, 3])
@pytest.mark.parametrize("seed_sd", [0.0, 0.3, 3.0])
def test_with_few_seeds_it_holds_the_truth_where_one_over_concepts_alone_does_not(num_seeds, seed_sd):
    random = np.random.default_rng(0)
    num_worlds, held, held_over_concepts = 1_000, 0, 0
    for _ in range(num_worlds):
        found = intervals.difference(made_up_gains(random, num_seeds, 100, seed_sd, 3.0, 3.0))
        low, high = intervals.two_level_interval(found.gains_S, found.concepts_error, num_concepts=100)
        held += low <= 0 <= high
        held_over_concepts += abs(found.gains_S.mean()) <= 1.96 * found.concepts_error
    assert held / num_worlds > 0.93
    if seed_sd == 3.0:
        assert held_over_concepts / num_worlds < 0.4


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_pooled_intervals_hold_the_truth_and_are_narrower(num_seeds):
    random = np.random.default_rng(0)
    held, widths, own_widths = 0, [], []
    for _ in range(300):
        # 10 arms with seeds of their own, and the same level: the truth is 0
        top1 = {
            ((str(arm), 64, "1.0"), "English"): dict(enumerate(random.normal(0.2, 0.01, num_seeds)))
            for arm in range(10)
        }
        deviation, degrees = intervals._pooled_deviations(top1)[64, "English"]
        assert degrees == 10 * (num_seeds - 1)
        one, two = (np.array(list(top1[(arm, 64, "1.0"), "English"].values())) for arm in "01")
        found = intervals.Difference(two - one, 0.001)
        low, high = intervals.pooled(found, deviation, degrees).interval(0.95)
        own_low, own_high = intervals.two_level_interval(found.gains_S, found.concepts_error)
        held += low <= 0 <= high
        widths.append(high - low)
        own_widths.append(own_high - own_low)
    assert held / 300 > 0.93
    assert np.mean(widths) < 0.6 * np.mean(own_widths)


def test_a_star_is_holms():
    pair = (("english", 64, "1.0"), ("worldwide", 128, "share"))
    found = intervals.Difference(np.array([0.05, 0.06, 0.04]), 0.001)
    estimate = intervals.pooled(found, 0.01, 26)
    name = "worldwide 1/share x, width 128 - english"
    assert intervals.row(pair, "English", found, estimate, 0.04) == [
        name, "English", "+5.0 *", "+3.3 to +6.7", "+5.0, +6.0, +4.0"
    ]  # fmt: skip
    assert intervals.row(pair, "English", found, estimate, 0.06)[2] == "+5.0"


def test_differences_survive_their_files(tmp_path):
    found = list(intervals.read_differences(REPOSITORY / "docs/ablation"))
    intervals.write_concept_intervals(tmp_path / "concept_intervals.csv", found)
    (tmp_path / "results.csv").write_bytes((REPOSITORY / "docs/ablation/results.csv").read_bytes())
    again = list(intervals.read_differences(tmp_path))
    assert [of_pair[:2] for of_pair in again] == [of_pair[:2] for of_pair in found]
    for (*_, one), (*_, two) in zip(again, found, strict=True):
        assert one.gains_S.tolist() == two.gains_S.tolist()
        assert one.concepts_error == pytest.approx(two.concepts_error, abs=3e-5)


def test_the_page_has_the_differences_that_the_script_computes(capsys):
    intervals.main([str(REPOSITORY / "docs/ablation")])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    difference = r"^\| [^|]* - [^|]* \| (?:English|others) \| [+-][\d.]+ (?:\* )?\| .*\|$"
    on_page = re.findall(difference, PAGE, re.M)
    assert on_page == rows
    assert PAGE.count(f"{header}\n{rule}\n") == 5


def test_no_arm_that_sees_all_languages_is_told_apart_from_another():
    worldwide_arms = {"raw", "merged", "same_t", "worldwide", "p02", "p12", "p25", "true_language"}
    for (first, second), _, _, estimate, _ in intervals.read_estimates(REPOSITORY / "docs/ablation"):
        if {first[0], second[0]} <= worldwide_arms:
            low, high = estimate.interval(0.95)
            assert low < 0 < high
