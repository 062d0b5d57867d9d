"""`pool check`: what is removed and why, decontamination, what is computed again, and its lists in a recipe."""

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import worldclip
from miniature import write_files
from pools import check_pool as run
from pools import encode, pair, photograph, removals, structs, write_table
from stages import QUIET
from tars import write_tar
from toy import ToyWorld
from worldclip.check import CheckConfig, against, check, hashing
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.model import decode, load
from worldclip.pool import open_pool
from worldclip.pool.config import PoolConfig


def removed(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return {key: (rule, other_key, distance)} of FOLDER/out."""
    return removals(folder / "out")


def rules(folder: Path) -> dict[str, str]:
    """Return {key: rule} of FOLDER/out."""
    return {key: rule for key, (rule, *_) in removed(folder).items()}


def valid_keys(folder: Path) -> list[str]:
    return pq.read_table(folder / "out" / "valid_keys.parquet")["key"].to_pylist()


def write_images(folder: Path, **images: Image.Image) -> Path:
    """Write PNG files."""
    folder.mkdir()
    for name, image in images.items():
        (folder / f"{name}.png").write_bytes(encode(image))
    return folder


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two shards: six photographs, copies of some, and unusable pairs."""
    photos = [photograph(seed) for seed in range(6)]
    large = encode(photos[0].resize((240, 180)))
    first = [
        *pair("a", encode(photos[0]), "a red cat"),
        *pair("b", encode(photos[1]), "a blue dog", "ein Hund"),
        *pair("c", encode(photos[2]), "a green bird"),
        *pair("broken", encode(photos[3])[:60], "a broken image"),
        *pair("silent", encode(photos[3]), ""),
    ]
    second = [
        *pair("a_large", large, "the same cat, larger"),
        *pair("b_copy", encode(photos[1]), "a blue dog", "the dog again"),
        *pair("d", encode(photos[4], "JPEG", quality=90), "call +49 30 1234567", suffix="jpg"),
        *pair("no_image", None, "nothing to see"),
        *pair("blank", encode(Image.new("RGB", (50, 50), (9, 9, 9))), "darkness"),
    ]
    write_tar(tmp_path / "pool" / "00000.tar", first)
    write_tar(tmp_path / "pool" / "sub" / "00001.tar", second)
    return tmp_path


def test_largest_duplicate_stays_and_of_equal_files_the_smallest_key(pool: Path) -> None:
    report = run(pool)
    assert removed(pool) == {
        "a": ("near_duplicate", "sub/a_large", removed(pool)["a"][2]),
        "sub/b_copy": ("byte_duplicate", "b", 0),
        "broken": ("undecodable", None, None),
        "silent": ("no_text", None, None),
        "sub/no_image": ("no_image", None, None),
    }
    assert removed(pool)["a"][2] <= 4
    assert valid_keys(pool) == ["b", "c", "sub/a_large", "sub/d", "sub/blank"]
    counts = report["counts"]
    assert counts["pairs_in"] == counts["valid"] + sum(counts["removed"].values()) == 10
    assert report["images"] == {"images": 9, "undecodable": 1, "nearly_blank": 1}
    page = (pool / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count(" alt=") == page.count("<img") == 4, "each picture has its key as a name"


def test_pair_that_another_rule_removes_stays_for_no_group_and_joins_none(tmp_path: Path) -> None:
    """The largest of three copies has no text, and the middle of a chain is an evaluation image."""
    steps = [Image.blend(photograph(8), photograph(9), share) for share in (0, 0.2, 0.4)]
    first, middle, last = (hashing.scan_image(encode(step)).hash for step in steps)
    radius = max((first ^ middle).bit_count(), (middle ^ last).bit_count())
    assert radius < (first ^ last).bit_count()
    members = pair("large", encode(photograph(1, (240, 180))), "")
    for key, image in (("one", photograph(1)), ("two", photograph(1)), *zip(("x", "y", "z"), steps, strict=True)):
        members += pair(key, encode(image), "a text")
    write_tar(tmp_path / "pool" / "0.tar", members)
    evaluated = write_images(tmp_path / "eval", middle=steps[1])
    run(tmp_path, radius=radius)
    chained = dict.fromkeys("yz", "near_duplicate")
    assert rules(tmp_path) == {"large": "no_text", "two": "byte_duplicate", **chained}
    run(tmp_path, radius=radius, against={"set": str(evaluated)}, against_radius=0)
    assert rules(tmp_path) == {"large": "no_text", "two": "byte_duplicate", "y": "against:set"}


def test_decontamination_names_the_evaluation_image(pool: Path) -> None:
    dark = Image.new("RGB", (50, 50), (9, 9, 9))
    images = write_images(pool / "eval", other=photograph(77), dark=dark, silent=photograph(3))
    (images / ".hidden.png").write_bytes(encode(photograph(1)))
    (images / "bird.jpg").write_bytes(encode(photograph(2, (300, 220)), "JPEG", quality=80))
    run(pool, against={"birds": str(images)})
    rule, name, distance = removed(pool)["c"]
    assert (rule, name) == ("against:birds", "bird.jpg")
    assert distance <= 4
    assert removed(pool)["sub/blank"] == ("against:birds", "dark.png", 0), "a nearly blank image is found by its bytes"
    assert rules(pool)["silent"] == "no_text", "the first rule that applies"
    assert "b" in valid_keys(pool)


def test_a_nearly_blank_evaluation_image_moves_no_name_of_another(tmp_path: Path) -> None:
    copy = encode(photograph(1), "JPEG", quality=80)
    write_tar(tmp_path / "pool" / "0.tar", pair("x", copy, "a text", suffix="jpg"))
    blank = Image.new("RGB", (50, 50), (9, 9, 9))
    images = write_images(tmp_path / "eval", a=blank, b=photograph(1), c=photograph(2))
    run(tmp_path, against={"set": str(images)})
    assert removed(tmp_path)["x"][:2] == ("against:set", "b.png")


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_of_equally_near_evaluation_images_the_first_set_and_key_are_named(tmp_path: Path, order: str) -> None:
    write_tar(tmp_path / "pool" / "0.tar", pair("x", encode(photograph(1)), "a text"))
    sets = {name: write_images(tmp_path / name, q=photograph(1), p=photograph(1)) for name in order}
    run(tmp_path, against={name: str(sets[name]) for name in order})
    assert removed(tmp_path) == {"x": ("against:a", "p.png", 0)}


def test_distance_through_chains_is_above_the_radius_and_said(tmp_path: Path, capfd) -> None:
    steps = [Image.blend(photograph(0), photograph(1), step / 23) for step in range(24)]
    members = [member for n, image in enumerate(steps) for member in pair(f"{n:02}", encode(image), "a text")]
    write_tar(tmp_path / "pool" / "0.tar", members)
    largest = run(tmp_path, radius=8)["largest_distance"]
    assert largest == max(distance for rule, _, distance in removed(tmp_path).values() if rule == "near_duplicate") > 8
    assert f"largest distance to the pair that stays: {largest}" in " ".join(capfd.readouterr().err.split())


def test_second_call_does_nothing_and_another_radius_decodes_nothing(pool: Path, monkeypatch, capfd) -> None:
    run(pool)
    before = (pool / "out" / "removed.parquet").stat().st_mtime_ns
    monkeypatch.setattr(hashing, "scan_image", None)  # a call would fail
    run(pool)
    assert "finished and unchanged" in capfd.readouterr().err
    assert (pool / "out" / "removed.parquet").stat().st_mtime_ns == before
    run(pool, duplicates="bytes")
    assert {key for key, rule in rules(pool).items() if "duplicate" in rule} == {"sub/b_copy"}
    run(pool, duplicates="keep")
    assert rules(pool) == {"broken": "undecodable", "silent": "no_text", "sub/no_image": "no_image"}
    run(pool, radius=0)
    assert rules(pool)["sub/b_copy"] == "byte_duplicate"


def test_another_decoder_decodes_all(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(pool)
    monkeypatch.setattr(decode, "VERSION", "another")
    monkeypatch.setattr(hashing, "scan_image", lambda data: hashing.ImageFacts(b"0" * 16, error="none"))
    run(pool)
    assert rules(pool)["b"] == "undecodable"


def test_key_removed_in_one_shard_is_removed_in_all(tmp_path: Path) -> None:
    for shard in range(2):
        image = encode(photograph(shard))
        members = pair("same", image[: None if shard else 60], "a", uid="k")
        members += pair("silent", encode(photograph(5 + shard)), "a" if shard else "", uid="j")
        write_tar(tmp_path / f"pool/{shard}.tar", members)
    run(tmp_path)
    assert {*removed(tmp_path)} == {"same", "silent"}
    settings: dict[str, Any] = {"pool": {"key": "json:uid"}}
    report = run(tmp_path, **settings)
    assert valid_keys(tmp_path) == ["j"], "match drops a pair without a text itself"
    assert report["counts"]["removed"] == {"no_text": 1, "removed_elsewhere": 1, "undecodable": 1}
    assert report["keys_in_several_shards"] == 2
    (tmp_path / "pool" / "0.tar").unlink()
    run(tmp_path, **settings)
    assert valid_keys(tmp_path) == ["k", "j"], "what removed it is gone"
    assert not list((tmp_path / "out").rglob("0.tar.*")), "rows and marker of a shard that is gone"


def test_a_key_that_a_list_denies_in_the_other_shard_is_in_one_shard(tmp_path: Path, capfd) -> None:
    for shard in range(2):
        image = encode(photograph(shard))
        write_tar(tmp_path / f"pool/{shard}.tar", pair("k", image[: None if shard else 60], "a", uid="k"))
    write_table(tmp_path / "denied.parquet", {"shard": ["0.tar"], "key": ["k"]})
    report = run(tmp_path, pool={"key": "json:uid", "deny_keys": (str(tmp_path / "denied.parquet"),)})
    assert valid_keys(tmp_path) == ["k"]
    assert report["keys_in_several_shards"] == 0
    assert "in several shards" not in capfd.readouterr().err
    write_tar(tmp_path / "pool/2.tar", pair("k", encode(photograph(2)), "a", uid="k"))
    report = run(tmp_path, pool={"key": "json:uid", "deny_keys": (str(tmp_path / "denied.parquet"),)})
    assert valid_keys(tmp_path) == ["k", "k"], "the denied image, which is cut, removes no other"
    assert report["keys_in_several_shards"] == 1


class MeanColour:
    """Embeds an image by its mean colour, or all alike: a stand-in for a trained model."""

    def __init__(self, weights: Path) -> None:
        self.is_constant = weights.read_bytes() == b"constant"

    def encode_image(self, images: list[bytes]) -> np.ndarray:
        means = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).mean((0, 1)) - 128 for image in images]
        features: np.ndarray = np.array(means, np.float32)
        return np.ones_like(features) if self.is_constant else features


def test_embedding_hashes_replace_perceptual_hashes(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = pool / "epoch_1.pt"
    weights.write_bytes(b"trained")
    monkeypatch.setattr(load, "load", lambda source: MeanColour(weights))
    config: dict[str, Any] = {"embedding_model": str(weights)}
    run(pool, **config)
    assert removed(pool)["a"][:2] == ("near_duplicate", "sub/a_large")
    assert "c" in valid_keys(pool)
    weights.write_bytes(b"constant")
    run(pool, **config)
    assert valid_keys(pool) == ["sub/a_large"], "other weights hash all images again"


def test_a_model_that_cannot_be_loaded_is_named_before_any_shard(pool: Path) -> None:
    write_files(pool / "model", {"config.json": '{"model_type": "clip"}', "model.safetensors": "cut off"})
    with pytest.raises(UserError, match="does not load as a model in the layout huggingface"):
        run(pool, embedding_model=str(pool / "model"))
    assert not list((pool / "out" / "images").glob("*"))


def test_the_list_of_an_earlier_call_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = '[pool]\npath = "pool"\nvalid_keys = "out/valid_keys.parquet"\n'
    for number in range(2):
        image = encode(photograph(number, (24, 18)))
        write_tar(tmp_path / "pool" / f"{number}.tar", pair(str(number), image, "a text"))
        write_files(tmp_path, {"r.toml": recipe if number else recipe.partition("valid")[0]})
        assert main(["pool", "check", "r.toml", "--out", "out"]) == 0
    assert valid_keys(tmp_path) == ["0", "1"]


def test_embedding_hashes_are_the_signs_of_projections() -> None:
    features = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    hashes = hashing.embedding_hashes(np.concatenate([features, 2 * features, -features]))
    assert (hashes[:3] == hashes[3:6]).all()
    assert (np.bitwise_count(hashes[:3] ^ hashes[6:]) == 64).all()


def test_pool_without_images_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "pool" / "0.parquet", {"uid": ["a"], "text": ["a red cat"]})
    with pytest.raises(UserError, match=r"0\.parquet: the pool holds no images"):
        run(tmp_path, pool={"key": "uid"})
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_page_shows_24_groups_of_at_most_12_pictures(tmp_path: Path) -> None:
    images = [encode(photograph(n, (24, 18))) for n in range(25)]
    members = [part for n in range(25 * 13) for part in pair(f"{n:03}", images[n % 25], "a text")]
    write_tar(tmp_path / "pool" / "0.tar", members)
    assert run(tmp_path, duplicates="bytes")["counts"]["valid"] == 25
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (page.count("<figure"), page.count("<img")) == (24, 24 * 12)
    assert "12 removed for it; 11 are shown" in page


def test_pictures_are_those_of_a_pool_and_a_set_that_moved(pool: Path) -> None:
    write_images(pool / "pets", e0=photograph(2))

    def pictures(prefix: str, radius: int) -> list[str]:
        """Return the pictures on the page of a check; another radius draws the page again and hashes nothing."""
        config = CheckConfig(against={"pets": str(pool / f"{prefix}pets")}, radius=radius)
        check(PoolConfig(path=str(pool / f"{prefix}pool")), pool / "out", config, executor=QUIET)
        return re.findall(r'src="(data:[^"]+)', (pool / "out/report.html").read_text(encoding="utf-8"))

    before = pictures("", 4)
    assert len(before) == 6
    for name in ("pool", "pets"):
        (pool / name).rename(pool / f"moved_{name}")
    assert pictures("moved_", 5) == before


def test_images_of_one_name_in_two_sets_and_in_the_pool_are_groups_of_their_own(tmp_path: Path) -> None:
    images = {"x": 0, "y": 1, "0.png": 2, "copy": 2}
    members = [part for key, n in images.items() for part in pair(key[0], encode(photograph(n)), "a text", uid=key)]
    write_tar(tmp_path / "pool" / "0.tar", members)
    sets = {f"set{n}": str(write_images(tmp_path / f"set{n}", **{"0": photograph(n)})) for n in range(2)}
    run(tmp_path, against=sets, pool={"key": "json:uid"})
    assert {other for _, other, _ in removed(tmp_path).values()} == {"0.png"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    groups = [re.findall(r'src="([^"]+)', group) for group in page.split("<figure")[1:]]
    assert [group[1:] for group in groups] == [group[:1] for group in groups], "the same picture twice"
    assert len(groups) == 3


def test_keys_are_never_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    members = [
        part for n in range(2) for part in pair(f"{n}{hostile}", encode(photograph(0)), "a", uid=f"{n}{hostile}")
    ]
    write_tar(tmp_path / "pool" / "0.tar", members)
    run(tmp_path, pool={"key": "json:uid"})
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count(html.escape(hostile)) >= 3


# --- datasets of evaluate, by name ------------------------------------------------------------------------------------


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
    write_table(world / "tables" / "0.parquet", {"image": structs([encode(photograph(4, (96, 72)))])})
    sets = {name: str(world / name) for name in ("pets", "tables")}
    sets["tar"] = str(world / "data" / "cifar10" / "train" / "0.tar")
    expected = dict.fromkeys(("p0", "p1", "p2"), "against:pets") | {"p3": "against:tar", "p4": "against:tables"}
    assert {key: rule for key, (rule, _) in check_world(world, "", against=sets).items()} == expected
    page = (world / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 * 5, "each removed image beside the evaluation image"
    monkeypatch.setattr(hashing, "scan_image", None)  # a call would fail
    assert {*check_world(world, "", against=sets, radius=5)} == {*expected}
    assert {*check_world(world, "", against={"tar": sets["tar"]})} == {"p3"}


def test_sets_are_hashed_again_by_another_kind_of_hash(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"pets": str(world / "pets")}
    assert len(check_world(world, "", against=sets)) == 3
    (world / "weights").write_bytes(b"constant")
    monkeypatch.setattr(hashing, "load_model", lambda model: MeanColour(world / "weights"))
    monkeypatch.setattr(hashing, "find_model", lambda config: hashing.EmbeddingModel("a/b", "of the hub"))
    assert len(check_world(world, "", against=sets, embedding_model="a/b")) == 6


# --- in a recipe ------------------------------------------------------------------------------------------------------


def test_only_valid_keys_are_curated_and_inspect_names_the_rule(toy_world: ToyWorld, tmp_path: Path, capsys) -> None:
    """The pool is noise and a copy of each; both copies of the first are cut."""
    members = []
    for n in range(6):
        image = encode(photograph(n))
        for copy in range(2):
            members += pair(f"noise{n}{copy}", image if n else image[:60], "a red circle", "x")
    write_tar(tmp_path / "pool" / "0.tar", members)
    out = tmp_path / "check"
    arguments = ["pool", "check", str(tmp_path / "pool"), "--out", str(out), "--workers", "1", "--json"]
    assert main([*arguments, "--set", "radius=0"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    assert counts == {"pairs_in": 12, "valid": 5, "removed": {"byte_duplicate": 5, "undecodable": 2}}
    changes = [f"pool.path={tmp_path / 'pool'}", f"pool.valid_keys={out / 'valid_keys.parquet'}"]
    recipe = load_recipe(toy_world.recipe, changes)
    worldclip.run(recipe, tmp_path / "run", until="curate", executor=QUIET)
    curated = pq.read_table(tmp_path / "run" / "curate" / "0.tar.parquet", columns=["key"])["key"].to_pylist()
    assert 0 < len(curated) <= len({*curated}) == len({*curated} & {f"noise{n}0" for n in range(1, 6)})
    assert main(["inspect", str(tmp_path / "run"), "--key", "noise11"]) == 0
    printed = capsys.readouterr().out
    assert "dropped: not among the valid keys, or denied" in printed
    assert "removed by byte_duplicate in 0.tar for noise10" in printed


def test_of_two_copies_the_denied_one_goes_and_the_allowed_one_stays(tmp_path: Path) -> None:
    image = encode(photograph())
    write_tar(tmp_path / "pool/0.tar", [*pair("a", image, "red"), *pair("b", image, "red")])
    (tmp_path / "denied.txt").write_text("a\n")
    run(tmp_path, pool={"deny_keys": (str(tmp_path / "denied.txt"),)})
    assert valid_keys(tmp_path) == ["b"]
    assert rules(tmp_path) == {"a": "not_valid"}


def test_a_key_that_is_denied_in_one_shard_stays_in_another(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"pool/{shard}.tar", pair("a", encode(photograph(shard)), "red", uid="k"))
    write_table(tmp_path / "denied.parquet", {"key": ["k"], "shard": ["0.tar"]})
    run(tmp_path, pool={"key": "json:uid", "deny_keys": (str(tmp_path / "denied.parquet"),)})
    assert valid_keys(tmp_path) == ["k"]


def test_an_empty_slice_of_a_check_is_no_error(pool: Path, capfd) -> None:
    config = PoolConfig(path=str(pool / "pool"))
    for part, said in ((slice(2, 2), "0 shards scanned"), (slice(0, 2), "2 shards scanned")):
        assert check(config, pool / "out", part=part, executor=QUIET) is None
        assert said in capfd.readouterr().err
