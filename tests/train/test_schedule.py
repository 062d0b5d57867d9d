"""Schedule, scaling rule and learning rate by hand."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from worldclip.core.errors import UserError
from worldclip.train.config import ScaleConfig, TrainConfig
from worldclip.train.schedule import Schedule, check_batch, learning_rate, plan_schedule, scale


def test_scale_gives_the_numbers_of_the_paper():
    """arXiv:2507.22062: English is 44% of the pairs, its run 12.8B samples in batches of 32,768."""
    factor, samples, batch, steps = scale(0.44, 12_800_000_000, 32_768)
    assert (factor, samples, batch) == (2.3, 29_440_000_000, 75_366)
    assert steps == round(29_440_000_000 / 75_366) == 390_627
    assert abs(steps - 12_800_000_000 / 32_768) / steps < 1e-4  # the English run's, up to the rounding of the batch


def test_the_batch_is_rounded_down_to_a_multiple():
    assert scale(0.44, 12_800_000_000, 32_768, multiple_of=48 * 8)[2] == 75_264  # 48 x 8 x 196, as in the paper's code
    assert scale(1.0, 1_000, 100, multiple_of=8)[2:] == (96, 10)


def test_without_a_rule_the_schedule_has_the_numbers_of_the_recipe(tmp_path):
    config = TrainConfig(samples_seen=170_000, global_batch_size=256, warmup_samples=10_000)
    expected = Schedule(samples_seen=170_000, global_batch_size=256, num_steps=664, warmup_steps=39)
    assert plan_schedule(config, tmp_path, 1) == expected
    tiny = dataclasses.replace(config, samples_seen=3, warmup_samples=0)
    assert plan_schedule(tiny, tmp_path, 1).num_steps == 1


def write_report(tmp_path, expected_pairs):
    (tmp_path / "curate").mkdir()
    languages = {lang: {"expected_pairs": pairs} for lang, pairs in expected_pairs.items()}
    (tmp_path / "curate" / "report.json").write_text(json.dumps({"languages": languages}))


RULE = ScaleConfig(english_samples_seen=1_000, english_batch_size=100)


def test_the_english_fraction_comes_from_the_expected_curated_pairs(tmp_path):
    write_report(tmp_path, {"en": 40.0, "de": 35.0, "zh": 25.0})
    planned = plan_schedule(TrainConfig(scale=RULE, warmup_samples=200), tmp_path, 1)
    assert planned.english_fraction == 0.4
    assert (planned.factor, planned.samples_seen, planned.global_batch_size, planned.num_steps) == (2.5, 2_500, 250, 10)
    assert planned.warmup_steps == 2  # those of the English run


def test_a_configured_english_fraction_takes_precedence(tmp_path):
    rule = dataclasses.replace(RULE, english_fraction=0.3)
    planned = plan_schedule(TrainConfig(scale=rule, accum_steps=4, warmup_samples=0), tmp_path, 2)
    assert (planned.factor, planned.samples_seen, planned.global_batch_size) == (3.3, 3_300, 328)


def test_a_rule_without_english_pairs_names_the_keys_to_set(tmp_path):
    write_report(tmp_path, {"de": 35.0})
    with pytest.raises(UserError, match=r"english_fraction is unset and the curated pairs contain no English"):
        plan_schedule(TrainConfig(scale=RULE), tmp_path, 1)


@pytest.mark.parametrize(
    ("batch", "ranks", "accum_steps", "message"),
    [
        (10, 4, 1, r"train\.global_batch_size = 10: must be a multiple of 4 .*, for example 8"),
        (75_264, 376, 1, r"75264: must be a multiple of 376 .* or use 336 or 384 processes"),
        (75_264, 193, 2, r"or use 192 or 196 processes"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_an_error_with_a_remedy(batch, ranks, accum_steps, message):
    with pytest.raises(UserError, match=message):
        check_batch(batch, ranks, accum_steps)
    check_batch(12, 2, 3)


def test_learning_rate_warms_up_to_the_peak_and_decays_to_zero():
    rates = [learning_rate(step, 100, 10, 2.0) for step in range(101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) * 0.2)
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)
    assert all(before >= after for before, after in itertools.pairwise(rates[9:]))
    assert learning_rate(0, 10, 0, 1.0) == 1.0
