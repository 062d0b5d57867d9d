"""The world pool from a part of OpenMoji and small folders in their sources' formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from killed import contents, modified
from miniature import write_files
from pools import rows_of_tar
from stages import QUIET
from world_parts import write_fluent, write_json, write_xml
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import load
from worldclip.plugins.drawings import openmoji_files
from worldclip.plugins.world import build, packages
from worldclip.plugins.world.commands import pool_world
from worldclip.plugins.world.parts import char_of, flag_of

TONES = ("", "-1F3FB", "-1F3FC", "-1F3FD", "-1F3FE", "-1F3FF")
HANDS = [f"{hand}{tone}" for hand in ("1F44B", "1F44D", "1F44F", "1F64F", "1F4AA", "270B") for tone in TONES]
FLAGS = [flag_of(code) for code in ("FR", "DE", "JP", "KE", "BR", "IN", "TR", "GE", "FI", "VN", "PE", "CA")]
OTHERS = ["1F34E", "1F436", "1F30D", "E000"]  # an apple, a dog, the earth; one of OpenMoji's own, without a name


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parts")
    apple, dog, hand = char_of("1F34E"), char_of("1F436"), char_of("1F44B-1F3FB")
    write_xml(root / "cldr", "no", {apple: ("rødt eple", ["eple", "frukt"]), dog: ("hundefjes", ["hund"])})
    write_xml(root / "cldr", "nn", {apple: ("raudt eple", ["eple"])})
    write_xml(root / "cldr", "de", {apple: ("roter Apfel", ["Apfel", "Obst"])})
    write_xml(root / "cldr", "de", {hand: ("winkende Hand: helle Hautfarbe", ["winken"])}, derived=True)
    write_xml(root / "cldr", "de_CH", {apple: ("roter Öpfel", ["Öpfel", "Obst"])})
    write_xml(root / "cldr", "xx_nowhere", {apple: ("?", [])})
    write_json(root / "cldr", "fr", {apple: ("pomme rouge", ["pomme", "France", "Allemagne"])})
    names = {"1f34e": "red-apple", "1f44b-1f3fb": "waving-light", "1f436": "lost"}
    fluent = write_fluent(root / "fluent", names, lost="<path")
    flags = write_fluent(root / "flags", {"x": "fr", "y": "jp-4x3", "z": "lang-de"})
    return {"cldr": root / "cldr", "fluent": fluent, "flags": flags}


@pytest.fixture(scope="module", autouse=True)
def few_drawings() -> Iterator[None]:
    """Let OpenMoji have some 50 drawings."""
    files = openmoji_files()
    chosen = {key: files[key] for key in [*HANDS, *FLAGS, *OTHERS] if key in files}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "openmoji_files", lambda: chosen)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory, parts) -> Path:
    out = tmp_path_factory.mktemp("world") / "pool"
    build.build_world(out, parts, image_px=16, samples_per_shard=20, executor=QUIET)
    return out


def samples(folder: Path) -> dict[str, dict]:
    return {row["key"]: row for path in sorted(folder.glob("*.tar")) for row in rows_of_tar(path)}


def texts_of(record: dict, lang: str) -> list[str]:
    return [text for text, code in zip(record["texts"], record["lang_truth"], strict=True) if code == lang]


def test_both_drawings_of_an_emoji_have_its_name_first_then_its_keywords(built):
    pairs = samples(built / "pairs")
    for key in ("openmoji-1F34E", "fluent-1F34E"):
        assert texts_of(pairs[key], "no") == ["rødt eple", "eple", "frukt"]
        assert texts_of(pairs[key], "fr")[:2] == ["pomme rouge", "pomme"]
    assert pairs["fluent-1F34E"]["licence"] == "MIT"
    assert pairs["openmoji-1F34E"]["source"] == "openmoji"


def test_locale_inherits_from_its_parent_and_region_adds_to_its_language(built):
    pairs = samples(built / "pairs")
    assert texts_of(pairs["openmoji-1F34E"], "nn") == ["raudt eple", "eple"]
    assert texts_of(pairs["openmoji-1F436"], "nn") == ["hundefjes", "hund"]
    assert texts_of(pairs["openmoji-1F34E"], "de") == ["roter Apfel", "Apfel", "Obst", "roter Öpfel", "Öpfel"]


def test_annotations_replace_names_of_the_package_in_their_languages(built):
    apple = samples(built / "pairs")["openmoji-1F34E"]
    assert texts_of(apple, "en") == ["red apple"]
    assert "pomme rouge" in texts_of(apple, "fr")
    assert len(texts_of(apple, "es")) == 1


def test_held_out_names_of_territories_are_not_in_training_in_their_language(built):
    names = read_json(built / "names.json")
    pairs = samples(built / "pairs")
    held = names["held_flags"]
    assert sum(map(len, held.values())) > 20
    for lang, subjects in held.items():
        in_lang = {text for record in pairs.values() for text in texts_of(record, lang)}
        for subject in subjects:
            assert names["lang"][lang][names["subjects"].index(subject)] not in in_lang
            assert texts_of(pairs[f"openmoji-{subject}"], lang) == []
            assert pairs[f"openmoji-{subject}"]["texts"]
    assert all(len(texts_of(record, "sv")) for key, record in pairs.items() if key.startswith("openmoji-1F1"))


def test_held_out_sets_ask_for_what_they_hold_in_languages_that_name_half_of_it(built):
    names = read_json(built / "names.json")
    for name in ("world_tone", "world_base", "world_flags"):
        dataset = load(name, EvaluateConfig(datasets=(name,)), built.parent)
        subjects = [names["pictures"][key]["subject"] for key in dataset.image_keys]
        assert "en" in dataset.languages
        for lang in dataset.languages:
            name_of = dict(zip(names["subjects"], names["lang"][lang], strict=True))
            classification, _ = dataset.tasks(lang)
            expected = [name_of[subject] for subject in subjects if name_of[subject] is not None]
            assert len(expected) >= len(subjects) / 2
            assert [classification.class_names[i][0] for i in classification.target] == expected
    held = load("world_flags_held", EvaluateConfig(datasets=("world_flags_held",)), built.parent)
    num_territories = sum(record["kind"] == "flag" for key, record in names["pictures"].items() if "openmoji" in key)
    for lang in held.languages:
        classification, _ = held.tasks(lang)
        keys = [held.image_keys[i] for i in classification.image_idx]
        assert {names["pictures"][key]["subject"] for key in keys} == set(names["held_flags"][lang])
        assert len(classification.class_names) > num_territories / 2


def test_flags_by_other_artists_have_the_same_texts(built):
    pairs = samples(built / "pairs")
    france = f"openmoji-{flag_of('FR')}"
    assert pairs["flags-fluent-emoji-flat-fr"]["texts"] == pairs[france]["texts"]
    assert "flags-fluent-emoji-flat-jp-4x3" in pairs
    assert not [key for key in pairs if "lang" in key]


def test_held_out_tone_is_in_no_drawing_of_training(built):
    pictures = read_json(built / "names.json")["pictures"]
    held = {record["subject"] for record in pictures.values() if record["split"] == "tone"}
    assert held
    assert held == {key.removeprefix("openmoji-") for key in samples(built / "tone")}
    assert not held & {key.partition("-")[2] for key in samples(built / "pairs")}


def test_names_list_kind_source_and_one_name_per_language(built):
    names = read_json(built / "names.json")
    apple = names["subjects"].index("1F34E")
    expected = {"source": "fluent", "kind": "emoji", "licence": "MIT", "subject": "1F34E", "split": "train"}
    assert names["pictures"]["fluent-1F34E"] == expected
    assert names["lang"]["nn"][apple] == "raudt eple"
    assert names["lang"]["sw"][apple] is None
    assert read_json(built / "keywords.json")["de"]["1F34E"] == ["Apfel", "Obst", "roter Öpfel", "Öpfel"]
    france = names["subjects"].index(flag_of("FR"))
    assert names["lang"]["sw"][france] == "Ufaransa"
    kinds = {record["kind"] for record in names["pictures"].values()}
    assert kinds == {"emoji", "flag", "toned"}


def test_what_is_left_out_is_counted_and_costs_nothing_else(built):
    counts = read_json(built / "counts.json")
    assert counts["unknown_locales"] == {"xx_nowhere": 1}
    assert list(counts["undrawable"]) == ["fluent-1F436"]
    assert counts["parts"]["openmoji"]["left_out"] == {"no text": 1}
    assert "fluent-1F436" not in read_json(built / "names.json")["pictures"]
    assert counts["pairs"]["samples"] == len(samples(built / "pairs"))
    assert counts["pairs"]["texts"] == sum(len(record["texts"]) for record in samples(built / "pairs").values())
    assert counts["without_row"]["agq"] > 0


def test_readme_states_licences_and_counts(built):
    readme = (built / "README.md").read_text(encoding="utf-8")
    for words in (
        "All emojis designed by OpenMoji",
        "CC BY-SA 4.0",
        "adapted material",
        "Unicode License",
        "Microsoft",
    ):
        assert words in readme
    assert "| fr | " in readme


def test_two_workers_write_the_same_bytes_and_a_second_call_draws_nothing(built, parts, tmp_path):
    for _ in range(2):
        executor = LocalExecutor(workers=2, quiet=True)
        build.build_world(tmp_path, parts, image_px=16, samples_per_shard=20, executor=executor)
        first = (tmp_path / "pairs" / "000000.tar").stat().st_mtime_ns
    assert contents(tmp_path) == contents(built)
    assert (tmp_path / "pairs" / "000000.tar").stat().st_mtime_ns == first


def test_part_taken_away_redraws_and_leaves_no_stale_tar(built, parts, tmp_path):
    build.build_world(tmp_path, parts, image_px=16, samples_per_shard=5, executor=QUIET)
    build.build_world(tmp_path, {}, image_px=16, samples_per_shard=20, executor=QUIET)
    assert not [key for key in samples(tmp_path / "pairs") if key.startswith(("fluent", "flags"))]
    assert len(list((tmp_path / "pairs").iterdir())) == -(-len(samples(tmp_path / "pairs")) // 20)


def test_drawings_of_an_updated_part_replace_those_of_before(tmp_path):
    fluent = write_fluent(tmp_path / "fluent", {"1f34e": "red"})
    out = tmp_path / "pool"
    build.build_world(out, {"fluent": fluent}, image_px=16, samples_per_shard=10, executor=QUIET)
    before = modified(out / "pairs", "*.tar")
    old = samples(out / "pairs")["fluent-1F34E"]["image"]
    write_fluent(fluent, {"1f34e": "red"}, red='<path fill="#ff0000" d="M0 0h32v32H0z"/>')
    build.build_world(out, {"fluent": fluent}, image_px=16, samples_per_shard=10, executor=QUIET)
    assert samples(out / "pairs")["fluent-1F34E"]["image"] != old
    after = modified(out / "pairs", "*.tar")
    assert sum(before[name] != after[name] for name in before) == 1


def test_invalid_sizes_and_folders_are_reported_together(tmp_path):
    with pytest.raises(UserError) as error:
        pool_world.function(tmp_path, cldr=tmp_path / "none", image_px=1, samples_per_shard=0, executor=QUIET)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"photos/mine.jpg": "mine", "README.md": "mine"}, "is not empty and was not written by worldclip"),
        ({"done/compare/0.json": "", "base/0.tar": "", ".lock": "job pool emoji\n"}, "was written by pool emoji, "),
    ],
)
def test_files_of_others_in_the_folder_stay(files, problem, tmp_path):
    """Its sets are folders with plain names, in which everything else is removed."""
    write_files(tmp_path, files)
    with pytest.raises(UserError, match=problem):
        pool_world.function(tmp_path, image_px=16, executor=QUIET)
    assert contents(tmp_path) == {name: content.encode() for name, content in files.items()}


def test_the_command_draws_again_into_its_folder_and_that_of_an_earlier_version(tmp_path):
    for _ in range(2):
        pool_world.function(tmp_path, image_px=16, executor=QUIET)
    (tmp_path / ".lock").unlink()
    report, _ = pool_world.function(tmp_path, image_px=16, executor=QUIET)
    assert report == read_json(tmp_path / "counts.json")


def test_folder_without_annotations_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"docs/world\.md"):
        build.build_world(tmp_path / "out", {"cldr": tmp_path})
