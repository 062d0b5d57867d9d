"""The scaling rule on paper."""

from __future__ import annotations

import dataclasses
import json

import pytest

from worldclip.core.errors import UserError
from worldclip.train.config import ScaleConfig, TrainConfig
from worldclip.train.scale import check_batch, scale, schedule


def test_the_papers_numbers():
    """arXiv:2507.22062: English is 44% of the pairs, its run 12.8B samples in batches of 32,768."""
    factor, samples, batch, steps = scale(0.44, 12_800_000_000, 32_768)
    assert (factor, samples, batch) == (2.3, 29_440_000_000, 75_366)
    assert steps == round(29_440_000_000 / 75_366) == 390_627
    assert abs(steps - 12_800_000_000 / 32_768) / steps < 1e-4  # the English run's, up to the rounding of the batch


def test_the_batch_is_rounded_down_to_what_processes_and_parts_can_share():
    assert scale(0.44, 12_800_000_000, 32_768, multiple_of=48 * 8)[2] == 75_264  # 48 x 8 x 196, as the code has it
    assert scale(1.0, 1_000, 100, multiple_of=8)[2:] == (96, 10)


def test_a_plain_recipe_keeps_its_own_numbers(tmp_path):
    found = schedule(TrainConfig(samples_seen=170_000, global_batch_size=256, warmup_samples=10_000), tmp_path, 1)
    assert (found.samples_seen, found.global_batch_size, found.num_steps, found.warmup_steps) == (170_000, 256, 664, 39)
    assert schedule(TrainConfig(samples_seen=3, global_batch_size=256, warmup_samples=0), tmp_path, 1).num_steps == 1


def report(tmp_path, expected_pairs):
    (tmp_path / "curate").mkdir()
    languages = {lang: {"expected_pairs": pairs} for lang, pairs in expected_pairs.items()}
    (tmp_path / "curate" / "report.json").write_text(json.dumps({"languages": languages}))


RULE = ScaleConfig(english_samples_seen=1_000, english_batch_size=100)


def test_the_english_share_is_that_of_the_expected_curated_pairs(tmp_path):
    report(tmp_path, {"en": 40.0, "de": 35.0, "zh": 25.0})
    found = schedule(TrainConfig(scale=RULE, warmup_samples=200), tmp_path, 1)
    assert found.english_fraction == 0.4
    assert (found.factor, found.samples_seen, found.global_batch_size, found.num_steps) == (2.5, 2_500, 250, 10)
    assert found.warmup_steps == 2  # as many as the English run's


def test_a_stated_share_takes_precedence_and_processes_round_the_batch(tmp_path):
    rule = dataclasses.replace(RULE, english_fraction=0.3)
    found = schedule(TrainConfig(scale=rule, accum_steps=4, warmup_samples=0), tmp_path, 2)
    assert (found.factor, found.samples_seen, found.global_batch_size) == (3.3, 3_300, 328)


def test_without_english_the_rule_says_what_to_set(tmp_path):
    report(tmp_path, {"de": 35.0})
    with pytest.raises(
        UserError, match=r"train\.scale\.english_fraction is unset and the curated pairs hold no English"
    ):
        schedule(TrainConfig(scale=RULE), tmp_path, 1)


def test_processes_that_cannot_share_the_batch_are_an_error_that_names_one():
    with pytest.raises(UserError, match=r"train\.global_batch_size is 10; 4 processes .* multiple of 4, for example 8"):
        check_batch(10, 4, 1)
    check_batch(12, 2, 3)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            ScaleConfig(english_samples_seen=10),
            "train.scale: english_samples_seen and english_batch_size need each other",
        ),
        (
            ScaleConfig(english_samples_seen=0, english_batch_size=8),
            "train.scale.english_samples_seen = 0: must be at least 1",
        ),
        (ScaleConfig(english_fraction=0.5), "train.scale.english_fraction = 0.5: needs english_samples_seen"),
        (
            dataclasses.replace(RULE, english_fraction=1.5),
            "train.scale.english_fraction = 1.5: must be above 0 and at most 1",
        ),
    ],
)
def test_invalid_scale_is_reported(rule, said):
    (problem,) = TrainConfig(scale=rule, warmup_samples=0).problems()
    assert problem.startswith(said)
