from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pools import check_pool as run
from pools import encode, pair, photograph, read_rows, read_tar, removals, write_table
from stages import QUIET
from tars import as_json, write_tar
from worldclip.check import CheckConfig, check, hash_images, hashing, load_config
from worldclip.check.report import write_report
from worldclip.contracts.schemas import REMOVED
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.pool import list_shards
from worldclip.pool.config import PoolConfig


def removed(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return {key: (rule, other_key, distance)} of FOLDER/out."""
    return removals(folder / "out")


def rules(folder: Path) -> dict[str, str]:
    """Return {key: rule} of FOLDER/out."""
    return {key: rule for key, (rule, *_) in removed(folder).items()}


def page_of(folder: Path) -> str:
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def valid_keys(folder: Path) -> list[str]:
    return pq.read_table(folder / "out" / "valid_keys.parquet")["key"].to_pylist()


def written_record(folder: Path, key: str, shard: str = "0.tar") -> dict[str, Any]:
    """Return the .json of a sample of a written tar."""
    return json.loads(read_tar(folder / "out" / "pairs" / shard)[f"{key}.json"])


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
    page = page_of(pool)
    assert page.count("<img") >= 4
    assert page.count(" alt=") == page.count("<img"), "each picture has its key as a name"
    assert "<h2>Groups of duplicates</h2>" in page
    assert "2 of 2, chosen by hash." in page
    assert re.search(r"sub/a_large stays .*?<summary>1 removed for it</summary><p>a</p>", page)


def test_duplicates_bytes_and_keep(pool: Path) -> None:
    run(pool, duplicates="bytes")
    assert {key for key, rule in rules(pool).items() if "duplicate" in rule} == {"sub/b_copy"}
    report = run(pool, duplicates="keep")
    assert set(removed(pool)) == {"silent"}, "no image is decoded if no rule needs one"
    assert report["images"]["images"] == 0


def test_pair_removed_by_a_rule_is_never_kept_for_its_group(pool: Path) -> None:
    run(pool, texts={"max_chars": len("the same cat, larger") - 1})
    assert rules(pool)["sub/a_large"] == "max_chars"
    assert "a" in valid_keys(pool)


def test_mirrored_finds_mirror_images(tmp_path: Path) -> None:
    image = photograph(0)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    write_tar(tmp_path / "pool" / "0.tar", [*pair("a", encode(image), "x y"), *pair("b", encode(mirrored), "x y")])
    run(tmp_path)
    assert valid_keys(tmp_path) == ["a", "b"]
    run(tmp_path, mirrored=True)
    assert removed(tmp_path) == {"b": ("near_duplicate", "a", 0)}


def test_decontamination_names_the_evaluation_image(pool: Path) -> None:
    images = write_images(pool / "eval", other=photograph(77), dark=Image.new("RGB", (50, 50), (9, 9, 9)))
    (images / "bird.jpg").write_bytes(encode(photograph(2, (300, 220)), "JPEG", quality=80))
    run(pool, against={"birds": str(images)})
    rule, name, distance = removed(pool)["c"]
    assert (rule, name) == ("against:birds", "bird.jpg")
    assert distance <= 4
    assert removed(pool)["sub/blank"] == ("against:birds", "dark.png", 0), "a nearly blank image is found by its bytes"


def test_decontamination_by_hash_file_equals_that_by_images(pool: Path) -> None:
    write_tar(pool / "eval.tar", [("bird.png", encode(photograph(2)))])
    counts = hash_images(pool / "eval.tar", pool / "eval.parquet", QUIET)
    assert counts == {"images": 1, "undecodable": 0, "nearly_blank": 0}
    run(pool, against={"tar": str(pool / "eval.tar")})
    with_tar = removed(pool)
    (pool / "eval.tar").unlink()
    run(pool, against={"tar": str(pool / "eval.parquet")})
    assert removed(pool) == with_tar
    assert with_tar["c"] == ("against:tar", "bird", 0)


def change_places(path: Path, **values: Any) -> None:
    """Set columns of a file of hashes to one value each, as somebody else may have written them."""
    table = pq.read_table(path)
    for name, value in values.items():
        column = pa.array([value] * len(table), table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    pq.write_table(table, path)


def test_report_shows_images_of_a_hash_file_only_where_the_file_says_that_they_are(pool: Path) -> None:
    hashes, secret = pool / "eval.parquet", pool / "secret.png"
    write_images(pool / "eval", bird=photograph(2))
    write_tar(pool / "eval" / "more.tar", [("blank.png", encode(photograph(2, (121, 90))))])
    secret.write_bytes(encode(photograph(50)))
    hash_images(pool / "eval", hashes, QUIET)
    whole = hashes.read_bytes()
    run(pool, against={"birds": str(hashes)})
    num_own = page_of(pool).count("data:image")
    size = secret.stat().st_size
    inside = f"{pool}/eval/../secret.png"
    for file in (str(secret), inside, "http://127.0.0.1:9/a.png", "/dev/zero", str(pool / "eval")):
        hashes.write_bytes(whole)
        change_places(hashes, file=file, offset=0, size=size)
        run(pool, against={"birds": str(hashes)})
        assert page_of(pool).count("data:image") == num_own - 1, file
    for place in ({"offset": None}, {"size": -1}, {"size": 10**15}, {"offset": -5}):
        hashes.write_bytes(whole)
        change_places(hashes, **place)
        run(pool, against={"birds": str(hashes)})
    hash_images(pool / "eval" / "more.tar", hashes, QUIET)
    run(pool, against={"birds": str(hashes)})
    assert page_of(pool).count("data:image") == num_own


def test_mirrored_finds_mirrored_evaluation_images(pool: Path) -> None:
    write_images(pool / "eval", bird=photograph(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    run(pool, against={"birds": str(pool / "eval")})
    assert "c" not in removed(pool)
    run(pool, against={"birds": str(pool / "eval")}, mirrored=True)
    assert rules(pool)["c"] == "against:birds"


def test_file_without_hashes_raises(pool: Path) -> None:
    write_table(pool / "foreign.parquet", {"key": ["a"]})
    with pytest.raises(Exception, match="expected 'image_hashes'"):
        run(pool, against={"x": str(pool / "foreign.parquet")})


def test_number_of_workers_changes_no_byte(pool: Path, tmp_path: Path) -> None:
    run(pool)
    other = tmp_path / "other"
    check(PoolConfig(path=str(pool / "pool")), other, CheckConfig(), executor=LocalExecutor(workers=2, quiet=True))
    for name in ("valid_keys.parquet", "removed.parquet"):
        assert (other / name).read_bytes() == (pool / "out" / name).read_bytes()


def test_order_of_shards_changes_no_removal(tmp_path: Path) -> None:
    def removed_of(order: list[int]) -> dict[str, tuple[Any, ...]]:
        folder = tmp_path / "".join(map(str, order))
        for place, n in enumerate(order):
            image = encode(photograph(n // 2, (120, 90) if n % 2 else (180, 135)))
            write_tar(folder / f"pool/{place}.tar", pair("x", image, "a text", uid=f"k{n}"))
        run(folder, pool={"key": "json:uid"}, radius=6)
        return removed(folder)

    expected = removed_of([0, 1, 2, 3])
    others = {key: (rule, other) for key, (rule, other, _) in expected.items()}
    assert others == {"k1": ("near_duplicate", "k0"), "k3": ("near_duplicate", "k2")}
    assert removed_of([3, 1, 0, 2]) == removed_of([2, 3, 1, 0]) == expected


def test_largest_distance_through_chains_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, last = photograph(0), photograph(1)
    steps = [Image.blend(first, last, step / 23) for step in range(24)]
    members = [member for n, image in enumerate(steps) for member in pair(f"{n:02}", encode(image), "a text")]
    write_tar(tmp_path / "pool" / "0.tar", members)
    run(tmp_path, radius=8)
    largest = max(distance for rule, _, distance in removed(tmp_path).values() if rule == "near_duplicate")
    assert largest > 8
    said = " ".join(capfd.readouterr().err.split())
    assert f"largest distance to the pair that stays: {largest} of 64 bits" in said
    assert "above the radius of 8 through chains of near pairs" in said
    assert "two colours of one shape are near" in said
    assert "Look at the groups before you use the list" in said


def test_second_call_does_nothing_and_changed_rule_decodes_nothing(pool: Path, monkeypatch, capfd) -> None:
    run(pool)
    before = (pool / "out" / "removed.parquet").stat().st_mtime_ns
    monkeypatch.setattr(hashing, "scan_image", None)  # a call would fail
    run(pool)
    assert "finished and unchanged" in capfd.readouterr().err
    assert (pool / "out" / "removed.parquet").stat().st_mtime_ns == before
    run(pool, images={"min_side_px": 100})
    assert rules(pool)["b"] == "min_side_px"


def test_truncated_shard_fails_alone_and_is_retried(pool: Path) -> None:
    cut = pool / "pool" / "sub" / "00001.tar"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:3000])
    with pytest.raises(StageFailed, match=r"00001\.tar"):
        run(pool)
    assert (pool / "out" / "images" / "00000.tar.parquet").exists()
    assert not (pool / "out" / "manifest.json").exists()
    cut.write_bytes(whole)
    run(pool)
    assert "sub/d" in valid_keys(pool)


def test_key_removed_in_one_shard_is_removed_in_all(tmp_path: Path, capsys) -> None:
    for shard in range(2):
        record = as_json({"uid": "k", "text": "ab"[: shard + 1]})
        write_tar(tmp_path / f"pool/{shard}.tar", {"same.png": encode(photograph(shard)), "same.json": record})
    settings: dict[str, Any] = {"pool": {"key": "json:uid"}, "texts": {"min_chars": 2}}
    report = run(tmp_path, **settings)
    assert valid_keys(tmp_path) == []
    assert report["counts"]["removed"] == {"min_chars": 1, "removed_elsewhere": 1}
    assert report["keys_in_several_shards"] == 1
    assert "1 keys are in several shards; valid_keys cannot tell their pairs apart" in capsys.readouterr().err
    (tmp_path / "pool" / "0.tar").unlink()
    run(tmp_path, **settings)
    assert valid_keys(tmp_path) == ["k"], "what removed it is gone"


def test_image_rules_remove_pairs(tmp_path: Path) -> None:
    frames = [photograph(seed, (64, 64)) for seed in range(2)]
    faint = Image.fromarray(np.random.default_rng(0).integers(120, 130, (64, 64, 3), dtype=np.uint8))
    members = [
        *pair("good", encode(photograph(5)), "good"),
        *pair("small", encode(photograph(6, (20, 64))), "small"),
        *pair("wide", encode(photograph(7, (640, 64))), "wide"),
        *pair("moving", encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "moving", suffix="gif"),
        *pair("faint", encode(faint), "faint"),
    ]
    write_tar(tmp_path / "pool" / "0.tar", members)
    run(tmp_path, images={"min_side_px": 32, "max_aspect_ratio": 4.0, "animated": True, "min_contrast": 4.0})
    expected = {"small": "min_side_px", "wide": "max_aspect_ratio", "moving": "animated", "faint": "min_contrast"}
    assert rules(tmp_path) == expected


def merged_texts(folder: Path) -> list[tuple[str, str, str, int]]:
    """Return key, text, from_key and from_text_idx of FOLDER/out."""
    rows = pq.read_table(folder / "out" / "merged_texts.parquet").to_pylist()
    return [(row["key"], row["text"], row["from_key"], row["from_text_idx"]) for row in rows]


def test_written_tars_hold_valid_pairs_with_their_texts_then_those_of_their_duplicates(pool: Path) -> None:
    report = run(pool, write="tars", merge_texts=True, texts={"personal_data": "mask", "max_digit_fraction": 0.9})
    texts_by_key: dict[str, list[str | None]] = {}
    for shard in list_shards(PoolConfig(path=str(pool / "out" / "pairs"))):
        for key, _, text, _ in read_rows(Path(shard.path), shard.name):
            texts_by_key.setdefault(key, []).append(text)
    assert texts_by_key == {
        "b": ["a blue dog", "ein Hund", "the dog again"],
        "c": ["a green bird"],
        "sub/a_large": ["the same cat, larger", "a red cat"],
        "sub/d": ["call █"],
        "sub/blank": ["darkness"],
    }
    assert report["counts"]["written"] == {"pairs": 5, "texts": 8, "blurred": 0}
    assert merged_texts(pool) == [("b", "the dog again", "sub/b_copy", 1), ("sub/a_large", "a red cat", "a", 0)]


def test_masked_text_does_not_survive_in_a_downloaders_caption(tmp_path: Path) -> None:
    """img2dataset writes a sample's .txt into its .json as well."""
    members = {"a.png": encode(photograph(1)), "a.txt": b"mail me at me@site.net"}
    members["a.json"] = as_json({"caption": "mail me at me@site.net", "url": "http://x.org/1"})
    write_tar(tmp_path / "pool" / "0.tar", members)
    run(tmp_path, pool={"texts": ("txt",)}, write="tars", texts={"personal_data": "mask"})
    assert written_record(tmp_path, "a") == {"url": "http://x.org/1", "texts": ["mail me at █"]}


def test_texts_of_a_key_that_two_shards_have_merge_by_shard(tmp_path: Path) -> None:
    """A copy of a pair adds no text that the pair has; another picture under a removed key keeps its own texts."""
    first, second = encode(photograph(0)), encode(photograph(1))
    write_tar(tmp_path / "pool" / "0.tar", [*pair("k", first, "a cat"), *pair("j", second, "a dog")])
    write_tar(tmp_path / "pool" / "1.tar", [*pair("k", first, "a cat", "my cat"), *pair("l", second, "a hound")])
    run(tmp_path, merge_texts=True)
    assert merged_texts(tmp_path) == [("j", "a hound", "l", 0), ("k", "my cat", "k", 1)]


def test_rejected_text_is_written_as_empty_text(pool: Path) -> None:
    run(pool, write="tars", texts={"languages": ["en"]})
    assert written_record(pool, "b", "00000.tar")["texts"] == ["a blue dog", ""]


def test_written_tars_keep_a_field_that_utf8_cannot_express(tmp_path: Path) -> None:
    record = {"texts": ["a réd cat"], "alt": "\ud800"}
    write_tar(tmp_path / "pool" / "0.tar", {"a.png": encode(photograph(1)), "a.json": as_json(record)})
    run(tmp_path, write="tars")
    assert written_record(tmp_path, "a") == record


def test_all_config_problems_are_reported_at_once(pool: Path) -> None:
    with pytest.raises(UserError) as raised:
        load_config({"radius": 99, "texts": {"min_chars": 0}, "classifiers": {"nsfw": {"label": -1}}, "imges": {}})
    text = str(raised.value)
    parts = ("radius = 99: must be", "texts.min_chars = 0", "nsfw.label = -1", "nsfw.path =", "did you mean images?")
    for part in parts:
        assert part in text
    with pytest.raises(UserError) as raised:
        run(pool, texts={"deny_phrases": ["/nowhere/phrases.txt"]}, against={"x": "/nowhere/images"})
    assert "texts.deny_phrases names" in str(raised.value)
    assert "against.x is" in str(raised.value)


def test_report_is_independent_of_batch_size(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"against": {"mine": str(write_images(pool / "eval", c=photograph(2)))}}
    run(pool, **settings)
    whole = page_of(pool)
    of_any_size = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda file, **options: of_any_size(file, 1, **options))
    (pool / "out" / "manifest.json").unlink()
    run(pool, **settings)
    assert page_of(pool) == whole
    assert whole.count("<img") == 2 * 2 + 3 * 2 + 1, "two groups, three removals beside what they copy, one alone"


def test_embedding_hashes_replace_perceptual_hashes(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanColour:
        """Embeds an image by its mean colour: a stand-in for a trained model."""

        def encode_image(self, images: list[bytes]) -> np.ndarray:
            means = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).mean((0, 1)) - 128 for image in images]
            return np.array(means, np.float32)

    monkeypatch.setattr(hashing, "load_model", lambda model: MeanColour())
    run(pool, hash="embedding", embedding_model="some/model", radius=4)
    assert removed(pool)["a"][:2] == ("near_duplicate", "sub/a_large")
    assert "c" in valid_keys(pool)
    features = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    hashes = hashing.embedding_hashes(np.concatenate([features, 2 * features, -features]))
    assert (hashes[:3] == hashes[3:6]).all()
    assert (np.bitwise_count(hashes[:3] ^ hashes[6:]) == 64).all()


def test_write_tars_of_tables_raises_before_any_work(tmp_path: Path) -> None:
    write_table(tmp_path / "pool" / "0.parquet", {"uid": ["a"], "text": ["a red cat"]})
    with pytest.raises(UserError, match="it holds no images"):
        run(tmp_path, pool={"key": "uid"}, write="tars")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, pool={"key": "uid"})["counts"]["valid"] == 1


def test_unloadable_model_is_reported_before_any_work(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: str) -> None:
        raise UserError(f"{model} does not exist")

    monkeypatch.setattr(hashing, "load_model", refuse)
    with pytest.raises(UserError, match="some/model does not exist"):
        run(pool, hash="embedding", embedding_model="some/model")
    assert not (pool / "out" / "images").exists()
    config = CheckConfig(hash="embedding", embedding_model="some/model")
    with pytest.raises(UserError, match="some/model does not exist"):
        hash_images(pool / "pool", pool / "set.parquet", QUIET, config=config)


def test_check_says_which_texts_many_duplicates_take_with_them(tmp_path: Path, capsys) -> None:
    image = encode(photograph(0))
    members = [part for lang in ("en", "de", "sw") for part in pair(lang, image, f"a cat, in {lang}")]
    write_tar(tmp_path / "pool" / "0.tar", members)
    run(tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 images are duplicates and go with all their texts, those in other languages included" in said
    run(tmp_path, merge_texts=True)
    assert "go with all their texts" not in capsys.readouterr().err


def test_keys_and_details_are_never_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    row = {"key": hostile, "lang": "en", "detail": hostile, "other_key": f"other {hostile}"}
    rows = [row | {"rule": "near_duplicate", "distance": 3}, row | {"rule": "min_chars", "distance": None}]
    columns = {name: [row.get(name) for row in rows] for name in REMOVED.names}
    write_table(tmp_path / "out" / "removed.parquet", columns)
    removed = {"near_duplicate": 1, "min_chars": 1}
    report = {
        "counts": {"pairs_in": 3, "valid": 1, "removed": removed, "by_language": {hostile: {"valid": 1}}},
        "images": {"images": 3, "undecodable": 0, "nearly_blank": 0},
        "texts": {"read": 3, "rejected": {hostile: 1}},
        "duplicate_groups": 1,
        "pairs_by_distance": [0, 0, 0, 1],
        "radius": 4,
        "against": {},
    }
    write_report(tmp_path / "out", report, {})
    page = page_of(tmp_path)
    assert "<script" not in page
    assert page.count(html.escape(hostile)) >= 7


def test_a_language_that_is_none_is_refused(pool: Path) -> None:
    with pytest.raises(UserError, match=r"texts\.languages: 'eng' is no language; did you mean \"en\""):
        run(pool, texts={"languages": ["eng", "und", "other", "en"]})
