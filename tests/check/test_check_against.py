"""Decontamination against datasets of `evaluate`, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pools import encode, pair, photograph, removals
from stages import QUIET
from tars import write_tar
from worldclip.check import CheckConfig, against, check, hashing
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.pool import open_pool


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A pool of six photographs; evaluation sets have smaller copies of some, one of them among its train images."""
    members = [member for n in range(6) for member in pair(f"p{n}", encode(photograph(n)), f"text {n}")]
    write_tar(tmp_path / "pool" / "0.tar", members)
    copies = [encode(photograph(n).resize((96, 72)), "JPEG", quality=90) for n in range(4)]
    for name in ("dog/0.jpg", "cat/1.jpg", "dog/2.jpg"):
        place = tmp_path / "pets" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(copies[int(place.stem)])
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(f"class {n}" for n in range(10)))
    write_tar(folder / "test" / "0.tar", [("a.jpg", copies[0]), ("a.cls", b"1"), ("b.jpg", copies[1]), ("b.cls", b"2")])
    write_tar(folder / "train" / "0.tar", [("c.jpg", copies[3]), ("c.cls", b"3")])
    (folder / "zeroshot_classification_templates.txt").write_text("{c}")
    for split in ("test", "train"):
        (folder / split / "nshards.txt").write_text("1")
    return tmp_path


def check_pets(world: Path) -> dict[str, tuple[str, str]]:
    recipe = f"[evaluate.folders]\npets = {json.dumps('folders:' + str(world / 'pets'))}\n"
    return check_world(world, recipe, against_datasets=("pets",))


def check_world(world: Path, recipe: str, **config: Any) -> dict[str, tuple[str, str]]:
    """Check the pool; return {removed key: (rule, image of the evaluation set)}."""
    path = world / "recipe.toml"
    path.write_text(f"[pool]\npath = {json.dumps(str(world / 'pool'))}\n{recipe}", encoding="utf-8")
    check(open_pool(path), world / "out", CheckConfig(**config), executor=QUIET)
    return {key: (rule, other) for key, (rule, other, _) in removals(world / "out").items()}


def test_dataset_of_the_recipe_is_found_by_name(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "IMAGES_PER_UNIT", 2)
    removed = check_pets(world)
    assert {key: rule for key, (rule, _) in removed.items()} == dict.fromkeys(("p0", "p1", "p2"), "against:pets")
    assert [Path(name).stem for _, (_, name) in sorted(removed.items())] == ["0", "1", "2"]
    report = read_json(world / "out" / "report.json")
    assert report["against"] == {"pets": 3}, "images of the set"


def test_catalog_dataset_is_read_from_data_without_its_training_images(world: Path) -> None:
    recipe = '[evaluate]\nalso = ["linear_probe"]\n'
    removed = check_world(world, recipe, against_datasets=("cifar10",), data=str(world / "data"))
    assert {key: rule for key, (rule, _) in removed.items()} == dict.fromkeys(("p0", "p1"), "against:cifar10")


def test_changed_dataset_is_hashed_again(world: Path) -> None:
    check_pets(world)
    Image.open(world / "pets" / "cat" / "1.jpg").rotate(90).save(world / "pets" / "cat" / "1.jpg")
    assert set(check_pets(world)) == {"p0", "p2"}


def test_evaluation_images_are_hashed_once_and_shown(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"pets": str(world / "pets"), "tar": str(world / "data" / "cifar10" / "train" / "0.tar")}
    expected = dict.fromkeys(("p0", "p1", "p2"), "against:pets") | {"p3": "against:tar"}
    assert {key: rule for key, (rule, _) in check_world(world, "", against=sets).items()} == expected
    page = (world / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 * 4, "each removed image beside the evaluation image"
    monkeypatch.setattr(hashing, "scan_image", None)  # a call would fail
    assert {*check_world(world, "", against=sets, radius=5)} == {*expected}
    assert {*check_world(world, "", against={"tar": sets["tar"]})} == {"p3"}


def test_sets_are_hashed_again_by_another_kind_of_hash(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"pets": str(world / "pets")}
    assert len(check_world(world, "", against=sets)) == 3

    class Constant:
        """Embeds all images alike."""

        def encode_image(self, images: list[bytes]) -> np.ndarray:
            return np.ones((len(images), 8), np.float32)

    monkeypatch.setattr(hashing, "load_model", lambda model: Constant())
    assert len(check_world(world, "", against=sets, hash="embedding", embedding_model="a/b")) == 6


def test_unknown_dataset_names_are_reported_with_the_other_problems(world: Path) -> None:
    with pytest.raises(UserError) as raised:
        check_world(world, "", against_datasets=("cifar11", "cifar10"), data="nowhere", against={"x": "/nowhere"})
    text = str(raised.value)
    for part in ("did you mean cifar10", "'cifar10', which is not below data = 'nowhere'", "against.x is '/nowhere'"):
        assert part in text
    (world / "data" / "cifar10" / "test" / "0.tar").rename(world / "eval.tar")
    config = {"against_datasets": ("cifar10",), "against": {"cifar10": str(world / "eval.tar")}}
    with pytest.raises(UserError, match="both name 'cifar10'"):
        check_world(world, "", **config, data=str(world / "data"))
