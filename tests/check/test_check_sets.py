"""`pool check` against datasets of evaluate, and its lists in a recipe."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import worldclip
from pools import encode, pair, photograph, removals
from stages import QUIET
from tars import write_tar
from toy import ToyWorld
from worldclip.check import CheckConfig, against, check, hashing
from worldclip.check.removed import why_not_valid
from worldclip.cli import main
from worldclip.contracts.reasons import Reason
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.core.keys import key_lists
from worldclip.pool import open_pool
from worldclip.pool.config import PoolConfig


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


def check_world(world: Path, recipe: str, **config: Any) -> dict[str, tuple[str, str]]:
    """Check the pool; return {removed key: (rule, image of the evaluation set)}."""
    path = world / "recipe.toml"
    path.write_text(f"[pool]\npath = {json.dumps(str(world / 'pool'))}\n{recipe}", encoding="utf-8")
    check(open_pool(path), world / "out", CheckConfig(**config), executor=QUIET)
    return {key: (rule, other) for key, (rule, other, _) in removals(world / "out").items()}


def check_pets(world: Path, **config: Any) -> dict[str, tuple[str, str]]:
    recipe = f"[evaluate.folders]\npets = {json.dumps('folders:' + str(world / 'pets'))}\n"
    return check_world(world, recipe, against_datasets=("pets",), **config)


def test_dataset_of_the_recipe_is_found_by_name_and_hashed_again_after_a_change(world: Path, monkeypatch) -> None:
    monkeypatch.setattr(against, "IMAGES_PER_UNIT", 2)
    found = check_pets(world)
    assert {key: rule for key, (rule, _) in found.items()} == dict.fromkeys(("p0", "p1", "p2"), "against:pets")
    assert [Path(name).stem for _, (_, name) in sorted(found.items())] == ["0", "1", "2"]
    assert read_json(world / "out" / "report.json")["against"] == {"pets": 3}, "images of the set"
    Image.open(world / "pets" / "cat" / "1.jpg").rotate(90).save(world / "pets" / "cat" / "1.jpg")
    assert set(check_pets(world)) == {"p0", "p2"}


def test_catalog_dataset_is_read_from_data_without_its_training_images(world: Path) -> None:
    recipe = '[evaluate]\nalso = ["linear_probe"]\n'
    found = check_world(world, recipe, against_datasets=("cifar10",), data=str(world / "data"))
    assert {key: rule for key, (rule, _) in found.items()} == dict.fromkeys(("p0", "p1"), "against:cifar10")


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
    assert len(check_world(world, "", against=sets, embedding_model="a/b")) == 6


def test_all_problems_of_the_rules_are_reported_at_once(world: Path) -> None:
    config: dict[str, Any] = {"against_datasets": ("cifar11", "cifar10"), "data": "nowhere", "against": {"x": "/no"}}
    with pytest.raises(UserError) as raised:
        check_world(world, "", radius=99, **config)
    for part in ("radius = 99", "did you mean cifar10", "not below data = 'nowhere'", "against.x is '/no'"):
        assert part in str(raised.value)
    config = {"against_datasets": ("cifar10",), "against": {"cifar10": str(world / "pets")}}
    with pytest.raises(UserError, match="both name 'cifar10'"):
        check_world(world, "", **config, data=str(world / "data"))


# --- in a recipe ------------------------------------------------------------------------------------------------------


def test_only_valid_keys_are_curated_and_counts_add_up(toy_world: ToyWorld, tmp_path: Path, capsys) -> None:
    """The toy world with another shard: noise, and copies of the noise, one of which is cut."""
    world = tmp_path / "world"
    shutil.copytree(toy_world.folder, world)
    members = []
    for n in range(6):
        image = encode(photograph(n))
        for copy in range(2):
            members += pair(f"noise{n}{copy}", image if n else image[:60], "a red circle", "x")
    write_tar(world / "pool" / "zz.tar", members)
    arguments = ["pool", "check", str(world / "pool"), "--out", str(world / "check"), "--workers", "1", "--json"]
    assert main([*arguments, "--set", "radius=0"]) == 0
    report = json.loads(capsys.readouterr().out)
    counts = report["counts"]
    assert counts["pairs_in"] == counts["valid"] + sum(counts["removed"].values()) == 75 + 12
    assert counts["removed"]["undecodable"] == 2
    assert counts["removed"]["byte_duplicate"] >= 5

    recipe = world / "toy.toml"
    text = recipe.read_text(encoding="utf-8").replace(str(toy_world.folder), str(world))
    valid = world / "check" / "valid_keys.parquet"
    recipe.write_text(re.sub(r"\[pool\]", f'[pool]\nvalid_keys = "{valid}"', text), encoding="utf-8")
    run = worldclip.run(str(recipe), out=world / "run", until="curate")

    keys = set(pq.read_table(valid)["key"].to_pylist())
    curated = pq.read_table(run / "curate" / "zz.tar.parquet", columns=["key"])["key"].to_pylist()
    assert set(curated) <= keys
    assert {key[:6] for key in curated} <= {f"noise{n}" for n in range(1, 6)}
    languages = read_json(run / "curate" / "report.json")["languages"]
    for lang, counts in languages.items():
        assert counts["pairs_in"] == sum(counts[reason.column] for reason in Reason), lang
    assert sum(counts["not_valid"] for counts in languages.values()) > 0
    assert sum(counts["pairs_in"] for counts in languages.values()) == 75 * 4 + 12 * 2
    copy = next(row for row in pq.read_table(valid.with_name("removed.parquet")).to_pylist() if row["other_key"])
    assert main(["inspect", str(run), "--key", copy["key"]]) == 0
    printed = capsys.readouterr().out
    assert "dropped: not among the valid keys, or denied" in printed
    assert f"removed by {copy['rule']} in {copy['shard']} for {copy['other_key']}" in printed


def test_why_not_valid_names_the_list_or_the_rule(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "0.tar", [*pair("a", encode(photograph(0)), "a"), *pair("b", None, "b")])
    check(PoolConfig(path=str(tmp_path / "pool")), tmp_path / "check")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "gone.parquet")
    lists = key_lists(str(tmp_path / "check" / "valid_keys.parquet"), [str(tmp_path / "gone.parquet")])
    for key, lists_of_key, reason in (
        ("b", lists, f"removed by no_image in 0.tar: {tmp_path}/check/removed.parquet"),
        ("a", lists, f"denied: it is in pool.deny_keys {tmp_path}/gone.parquet"),
        ("c", lists[:1], f"it is not in pool.valid_keys {tmp_path}/check/valid_keys.parquet"),
    ):
        assert why_not_valid(key, lists_of_key, "0.tar") == [reason]
