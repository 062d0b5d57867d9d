"""The world pool's held-out sets, from a miniature pool of four emoji and four flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miniature import write_tar
from worldclip.core.artifacts import write_json
from worldclip.core.errors import BadShard, UserError
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import load as load_by_name
from worldclip.evaluate.tasks import Dataset

EMOJI, FLAGS = ["A", "B", "C", "D"], ["FR", "DE", "KE", "JP"]
NAMES = {
    "en": ["apple", "bear", "cat", "dog", "France", "Germany", "Kenya", "Japan"],
    "sw": [None, None, None, None, "Ufaransa", "Ujerumani", "Kenya", None],
    "ja": ["林檎", "熊", "猫", None, None, None, "ケニア", None],
}


def load(name: str, run_dir: Path) -> Dataset:
    return load_by_name(name, EvaluateConfig(datasets=(name,)), run_dir)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    pictures = {
        f"openmoji-{subject}": {"subject": subject, "kind": kind}
        for kind, subjects in {"emoji": EMOJI, "flag": FLAGS}.items()
        for subject in subjects
    }
    info = json.dumps({"texts": []}).encode()
    for part, subjects in {"base": [*EMOJI, *FLAGS], "flags": FLAGS}.items():
        members = {}
        for subject in subjects:
            members |= {f"openmoji-{subject}.png": subject.encode(), f"openmoji-{subject}.json": info}
        write_tar(tmp_path / "pool" / part / "000000.tar", members)
    held = {"en": ["FR"], "sw": ["DE", "KE"]}
    names = {"pictures": pictures, "subjects": [*EMOJI, *FLAGS], "lang": NAMES, "held_flags": held}
    write_json(tmp_path / "pool" / "names.json", names)
    return tmp_path


def test_language_that_names_half_of_the_pictures_is_asked_for_those(run_dir: Path) -> None:
    dataset = load("world_base", run_dir)
    assert dataset.languages == ("en", "ja")
    classification, retrieval = dataset.tasks("ja")
    assert [classification.class_names[target][0] for target in classification.target] == ["林檎", "熊", "猫", "ケニア"]
    assert classification.image_idx.tolist() == [0, 1, 2, 6]
    assert len(classification.class_names) == 4
    assert retrieval.pair_image.tolist() == [0, 1, 2, 3]


def test_flags_are_classified_among_names_of_territories_alone(run_dir: Path) -> None:
    dataset = load("world_flags", run_dir)
    assert dataset.languages == ("en", "sw")
    assert len(dataset.tasks("en")[0].class_names) == 4


def test_held_flags_are_asked_only_in_languages_that_lack_their_names(run_dir: Path) -> None:
    dataset = load("world_flags_held", run_dir)
    assert dataset.languages == ("en", "sw")
    (asked,) = (dataset.tasks("sw")[0],)
    assert [asked.class_names[target][0] for target in asked.target] == ["Ujerumani", "Kenya"]
    assert len(asked.class_names) == 3


def test_missing_set_names_the_setting(run_dir: Path) -> None:
    with pytest.raises(UserError, match=r"pool\.parts"):
        load("world_stamps", run_dir)


def test_picture_without_a_record_fails(run_dir: Path) -> None:
    names = json.loads((run_dir / "pool" / "names.json").read_text())
    del names["pictures"]["openmoji-KE"]
    write_json(run_dir / "pool" / "names.json", names)
    with pytest.raises(BadShard, match="openmoji-KE"):
        load("world_flags", run_dir)
