"""The tables of the ablation from made-up hits: contrasts against plain computations, and against a known truth."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
pytest.importorskip("scipy")
sys.path.insert(0, str(REPOSITORY / "examples" / "ablation"))

import contrasts  # noqa: E402
import hits  # noqa: E402
import page_tables  # noqa: E402
import plan  # noqa: E402

NUM_LANGS, NUM_CONCEPTS, NUM_PICTURES = 14, 610, 20
KINDS = np.repeat([0, 1, 2, 3], [450, 150, 5, 5])


def made_up_set(random, accuracy, concepts) -> hits.HitSet:
    """Hits at an accuracy, the same for all languages and concepts; a fifth of the rest are in top-5."""
    u = random.random((NUM_LANGS, NUM_CONCEPTS, NUM_PICTURES))
    thirds = np.full((NUM_LANGS, NUM_CONCEPTS), -1)
    thirds[:, :600] = random.permuted(np.tile(np.arange(600) % 3, (NUM_LANGS, 1)), axis=1)
    return hits.HitSet(
        top1_LCR=u < accuracy,
        top5_LCR=u < accuracy + (1 - accuracy) / 5,
        concepts=concepts,
        kinds=KINDS,
        thirds=thirds,
    )


def made_up_table(random, effects, num_worlds, world_sd=0.0, concept_sd=0.0, num_concepts=100, is_shared=False):
    """A table of arms with log effects on an accuracy of 0.3; each world has concepts of its own, or all the same."""
    parts = {str(arm): [] for arm in range(len(effects))}
    keys = []
    shared_AC = random.normal(0, concept_sd, (len(effects), num_concepts))
    for world in range(num_worlds):
        keys.append(np.array([f"c{place}" if is_shared else f"w{world}_{place}" for place in range(num_concepts)]))
        of_arms_AC = shared_AC if is_shared else random.normal(0, concept_sd, shared_AC.shape)
        for arm, effect in enumerate(effects):
            noise = of_arms_AC[arm] + random.normal(0, world_sd)
            parts[str(arm)].append(0.3 * np.exp(effect) * (1 + noise) / num_concepts)
    return contrasts.Table(
        arms=tuple(parts),
        accuracy_AW=np.array([[part.sum() for part in of_arm] for of_arm in parts.values()]),
        parts=parts,
        weights=[np.full(num_concepts, 1 / num_concepts)] * num_worlds,
        concepts=keys,
    )


def test_the_pooled_residual_is_that_of_least_squares():
    table = made_up_table(np.random.default_rng(0), [0, 0.1, 0.3, -0.2], 5, world_sd=0.05)
    values = np.log(table.accuracy_AW)
    design = [np.concatenate([np.eye(4)[arm], np.eye(5)[world]]) for arm in range(4) for world in range(5)]
    fitted = np.array(design) @ np.linalg.lstsq(np.array(design), values.ravel(), rcond=None)[0]
    deviation, degrees = table.residual(is_log=True)
    assert degrees == 12
    assert deviation == pytest.approx(np.sqrt(((values.ravel() - fitted) ** 2).sum() / 12))


def test_the_concepts_error_of_a_log_ratio_is_that_of_a_plain_bootstrap():
    random = np.random.default_rng(0)
    table = made_up_table(random, [0, 0.5], 3, concept_sd=0.4, is_shared=True)
    resampled = []
    for _ in range(2_000):
        rows = random.integers(100, size=100)
        ratios = [np.log(two[rows].sum() / one[rows].sum()) for one, two in zip(*table.parts.values(), strict=True)]
        resampled.append(np.mean(ratios))
    assert contrasts.estimate(table, "0", "1", is_log=True).concept_error == pytest.approx(np.std(resampled), rel=0.06)


@pytest.mark.parametrize("concept_sd", [0.0, 0.3])
@pytest.mark.parametrize("num_worlds", [5, 8])
def test_intervals_hold_the_truth(num_worlds, concept_sd):
    random = np.random.default_rng(0)
    held_95 = held_90 = 0
    for _ in range(400):
        table = made_up_table(random, [0, 0.05, 0.1, 0, 0], num_worlds, 0.03, concept_sd)
        found = contrasts.estimate(table, "0", "1", is_log=True)
        held_95 += found.interval(0.95)[0] <= 0.05 <= found.interval(0.95)[1]
        held_90 += found.interval(0.90)[0] <= 0.05 <= found.interval(0.90)[1]
    assert held_95 / 400 > 0.93
    assert held_90 / 400 > 0.87


def test_holm_steps_down():
    assert contrasts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert contrasts.holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.20, 0.010, "difference"),
        (0.20, 0.200, "not decided"),
        (0.00, 0.010, "no difference"),
        (0.04, 0.005, "difference below the margin"),
        (0.05, 0.030, "not decided"),
    ],
)
def test_verdicts(value, error, said):
    found = contrasts.Estimate(value=value, world_error=error, degrees=35, concept_error=0, num_concepts=600)
    assert contrasts.verdict(found, found.p_value(), is_log=True) == said
    assert contrasts.verdict(found, 1.0, is_log=True) in ("not decided", "no difference")
    assert "no" not in contrasts.verdict(found, found.p_value(), is_log=False).split()


def test_measures_weigh_concepts_and_languages_equally():
    random = np.random.default_rng(0)
    found = made_up_set(random, 0.3, np.arange(NUM_CONCEPTS).astype(str))
    by_LC = found.top1_LCR.mean(axis=2)
    plain = {
        "English": by_LC[0].mean(),
        "others": by_LC[1:].mean(),
        "English, head": by_LC[0][found.thirds[0] == 0].mean(),
        "others, tail": np.mean([by_LC[row][found.thirds[row] == 2].mean() for row in range(1, 14)]),
        "English, flags": by_LC[0, 450:600].mean(),
        "English, seldom_in_english": by_LC[0, 600:605].mean(),
    }
    for name, value in plain.items():
        assert page_tables.MEASURES[name].parts(found).sum() == pytest.approx(value)


# Whole folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All runs but pilots: own_t a quarter ahead of raw, one_t and merged as own_t, m2 far ahead of m1."""
    path = tmp_path_factory.mktemp("hits")
    ahead = {"raw": 1.0, "m2": 1.5, "m4": 2.0, "english_list": 0.5}
    random = np.random.default_rng(0)
    choice = plan.Choice(rates=dict.fromkeys((32, 64, 128), 2e-3), batch=128)
    for training in (
        training for name in ("pairs", "languages", "natural") for training in plan.trainings(name, choice)
    ):
        accuracy = 0.2 * ahead.get(training.arm, 1.25)
        concepts = np.array([f"{training.seed if place % 2 else ''}c{place}" for place in range(NUM_CONCEPTS)])
        record = {
            "samples": training.samples,
            "cpu_s": 36.0,
            "revision": "abcdefghi",
            "processor": "made up",
            "list": {"pairs": 100, "noise_share": 0.1, "langs": {"en": 44}},
        }
        names = ("base", "tone", "artist") if training.experiment == "natural" else ("test",)
        record["pictures"] = dict.fromkeys(names, NUM_PICTURES)
        sets = {name: made_up_set(random, accuracy, concepts) for name in names}
        hits.write_hits(path / f"{training.name}.npz", hits.Hits(record=record, sets=sets))
    return path


def test_the_script_finds_what_was_put_into_the_hits(folder, capsys):
    page_tables.main([str(folder)])
    printed = capsys.readouterr().out
    assert "48 runs, 0.5 CPU-hours, on made up, revision abcdefg." in printed
    rows = re.findall(r"^\| (\S+ against \S+, width [^|]*) \| ([^|]*) \| ([^|]*) \|.* \| ([^|]*) \|$", printed, re.M)
    verdicts = {(name, measure): (shown, said) for name, measure, shown, said in rows}
    assert len(rows) == len(verdicts) == 16 + 15 + 9
    assert verdicts["own_t against raw, width 64", "English"][1].startswith("difference")
    assert float(verdicts["own_t against raw, width 64", "English"][0][:-1]) == pytest.approx(
        25, abs=3
    )  # 98,000 coins per arm
    for arm in ("one_t", "merged"):
        for measure in ("English", "others"):
            assert verdicts[f"{arm} against own_t, width 64", measure][1] == "no difference"
    assert verdicts["m2 against m1, width 32", "English"][1] == "difference"
    assert "points" in verdicts["m2 against m1, width 32", "English, seldom_in_english"][0]
    assert verdicts["m3 against m0, width 32 to 128", "English"][1] == "no difference"
    assert verdicts["english_list against p, width 128", "base in English"][1] == "difference"
    assert verdicts["one_t against p, width 128", "tone"][1] == "no difference"
    assert "9 of 9 runs are missing" in printed


def test_the_page_has_the_tables_and_charts_of_the_hits():
    """After new hits: python examples/ablation/page_tables.py docs/ablation/hits --page docs/ablation.md"""
    docs = REPOSITORY / "docs"
    page = (docs / "ablation.md").read_text(encoding="utf-8")
    assert page_tables.renew(page, docs / "ablation" / "hits") == page
    for experiment in plan.EXPERIMENTS:
        assert page.count(page_tables.BEGIN.format(experiment)) == page.count(page_tables.END.format(experiment)) == 1
        path = docs / "ablation" / f"{experiment}.svg"
        drawn = page_tables.chart(experiment, docs / "ablation" / "hits") if experiment != "pilots" else None
        assert (path.read_text(encoding="utf-8") if path.exists() else None) == drawn
        assert (f"(ablation/{experiment}.svg)" in page) == (drawn is not None)
