"""A folder of embeddings follows its pool: only what is new is embedded, whatever else moves."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import before
from embedded_world import BAD, PER_SHARD, SHARDS, picture, segment_of, text_of
from miniature import write_files
from pools import write_table
from stages import QUIET
from toy import write_tar
from worldclip import pool as pools
from worldclip.contracts.schemas import EMBEDDED_TEXTS, IMAGE_PLACES
from worldclip.core.artifacts import write_table as write_artifact_table
from worldclip.core.errors import UserError
from worldclip.export.embedded import open_embedded
from worldclip.export.segments import read_segment
from worldclip.model import sample_inputs
from worldclip.model.inference import Clip
from worldclip.pool import picture_folder
from worldclip.pool.picture_folder import group_files, list_folder
from worldclip.tools import draft_recipe
from worldclip.tools.embed import embed
from worldclip.tools.search import search


@pytest.fixture
def embedded_items(monkeypatch) -> list:
    """Return a list that gets every picture and text that a model embeds, but not those of the probe."""
    items = []

    def record(clip, things, **keys):
        items.extend(thing for thing in things if isinstance(thing, str | bytes) and thing not in sample_inputs.TEXTS)

    for name in ("encode_each", "encode_text"):
        before(monkeypatch.setattr, Clip, name, record)
    return items


def counts(report: dict, kind: str = "images") -> tuple[int, int, int, int]:
    return tuple(report[kind][name] for name in ("new", "removed", "changed", "unchanged"))


def nonzero_counts(report: dict) -> dict[str, int]:
    return {name: count for name, count in report["images"].items() if count and name not in ("shards", "pairs", "bad")}


def vectors_by_key(folder: Path) -> dict[str, np.ndarray]:
    embedded = open_embedded(folder, "images")
    every = np.arange(len(embedded))
    keys = [row["key"] for row in embedded.rows(every)]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, embedded.take(every), strict=True))


def check_against_fresh(updated: Path, model: Path, pool: Path, fresh: Path) -> None:
    """A folder that was updated has the images of one that was embedded now."""
    embed(model, pool, fresh, executor=QUIET)
    vectors, expected = vectors_by_key(updated), vectors_by_key(fresh)
    assert vectors.keys() == expected.keys()
    for key, vector in expected.items():
        np.testing.assert_allclose(vectors[key], vector, atol=1e-6)


def write_photos(folder: Path, number: int) -> Path:
    return write_files(folder, {f"{i % 3}/{i:03}.png": picture(i) for i in range(number)})


def test_new_and_removed_photographs_embed_the_new_ones_only(world, tmp_path, embedded_items, monkeypatch):
    monkeypatch.setattr(picture_folder, "FILES_PER_GROUP", 4)
    photos = write_photos(tmp_path / "photos", 20)
    first = embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    assert (counts(first), len(embedded_items)) == ((20, 0, 0, 0), 20)
    embedded_items.clear()
    write_files(photos, {"a_new.png": picture(100), "2/new.png": picture(101)})
    (photos / "0/000.png").unlink()
    (photos / "1/010.png").unlink()
    report = embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    assert counts(report) == (2, 2, 0, 18)
    assert sorted(embedded_items) == sorted([picture(100), picture(101)])
    check_against_fresh(tmp_path / "out", world / "model", photos, tmp_path / "fresh")


def test_times_another_checkout_a_moved_folder_and_a_column_of_vectors_embed_nothing(
    world, tmp_path, embedded_items, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    photos = write_photos(tmp_path / "photos", 5)
    embed(world / "model", photos, "out", executor=QUIET)
    first = vectors_by_key("out")
    embedded_items.clear()
    for path in photos.rglob("*.png"):
        path.touch()
    assert counts(embed(world / "model", photos, "out", executor=QUIET)) == (0, 0, 0, 5)
    Path("elsewhere").mkdir()
    shutil.copytree(photos, "elsewhere/checkout", copy_function=shutil.copyfile)  # with times of now
    assert counts(embed(world / "model", "elsewhere/checkout", "out", executor=QUIET)) == (0, 0, 0, 5)
    Path("elsewhere/checkout").rename("moved")
    shutil.rmtree(photos)
    embed(world / "model", "moved", "out", executor=QUIET)
    embedded = open_embedded("out")
    assert embedded.read_picture(embedded.rows(np.array([0]))[0]) == picture(0)
    embed(world / "model", "moved", "out", vectors_in_table=True, executor=QUIET)
    rows = pq.read_table(segment_of(Path("out"), "files_000000", "parquet")).to_pylist()
    np.testing.assert_array_equal(
        [row["vector"] for row in rows], np.load(segment_of(Path("out"), "files_000000", "npy"))
    )
    shutil.move(shutil.copytree(world / "model", "model"), "other_place")
    embed("other_place", "moved", "out", executor=QUIET)  # the same model, elsewhere
    assert embedded_items == []
    last = vectors_by_key("out")
    assert all((last[key] == vector).all() for key, vector in first.items())


def test_a_photograph_that_was_replaced_is_embedded_and_keeps_its_id(world, tmp_path, embedded_items):
    photos = write_photos(tmp_path / "photos", 5)
    embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    (hit,) = search(tmp_path / "out", images=[photos / "1/001.png"], top=1)[0]["hits"]
    embedded_items.clear()
    (photos / "1/001.png").write_bytes(picture(50))
    assert counts(embed(world / "model", photos, tmp_path / "out", executor=QUIET)) == (0, 0, 1, 4)
    assert embedded_items == [picture(50)]
    (again,) = search(tmp_path / "out", images=[photos / "1/001.png"], top=1)[0]["hits"]
    assert (again["key"], again["id"]) == ("1/001.png", hit["id"])
    assert again["sha256"] != hit["sha256"]


def test_every_photograph_is_counted_once_by_what_happened_to_it(world, tmp_path):
    photos = write_files(tmp_path / "photos", {f"{i}.png": picture(i) for i in range(6)} | {"bad.png": b"none"})

    def update() -> dict[str, int]:
        return nonzero_counts(embed(world / "model", photos, tmp_path / "out", executor=QUIET))

    assert update() == {"new": 6, "embedded": 6, "undecodable": 1}
    assert update() == {"unchanged": 6, "embedded": 6, "undecodable": 1}
    (photos / "0.png").rename(photos / "renamed.png")
    shutil.copyfile(photos / "1.png", photos / "copy.png")
    (photos / "2.png").write_bytes(picture(20))
    (photos / "3.png").write_bytes(picture(3)[:50])
    (photos / "4.png").unlink()
    (photos / "bad.png").write_bytes(picture(9))
    expected = {"new": 2, "renamed": 1, "removed": 2, "changed": 1, "unchanged": 2, "embedded": 6, "undecodable": 1}
    assert update() == expected, "bad.png and copy.png are new; 3.png and 4.png are no more"
    (photos / "3.png").write_bytes(picture(3))
    (photos / "bad.png").write_bytes(b"none again")
    assert update() == {"new": 1, "removed": 1, "unchanged": 5, "embedded": 6, "undecodable": 1}
    assert update() == {"unchanged": 6, "embedded": 6, "undecodable": 1}


def test_an_empty_folder_keeps_its_embeddings_and_asks_for_its_disk(world, tmp_path, capfd):
    photos = write_photos(tmp_path / "photos", 3)
    embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    photos.rename(tmp_path / "away")
    photos.mkdir()
    with pytest.raises(UserError, match="photos has no picture any more, and"):
        embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    assert len(vectors_by_key(tmp_path / "out")) == 3
    photos.rmdir()
    (tmp_path / "away").rename(photos)
    (photos / "0/000.png").unlink()
    assert counts(embed(world / "model", photos, tmp_path / "out", executor=QUIET)) == (0, 1, 0, 2)
    assert "embed  starts (its inputs changed: image files)" in capfd.readouterr().err


def test_a_photograph_that_goes_for_a_moment_while_embed_runs_is_read_next_time(world, tmp_path, monkeypatch):
    """It comes back with the same size and time, as one does that nobody could read until its rights were set."""
    photos = write_photos(tmp_path / "photos", 4)
    read_members = pools.read_members

    def read_without_one(places):
        (photos / "0/000.png").rename(tmp_path / "away.png")
        images = list(read_members(places))
        (tmp_path / "away.png").rename(photos / "0/000.png")
        return iter(images)

    with monkeypatch.context() as reading:
        reading.setattr(pools, "read_members", read_without_one)
        for change in ("new", "unchanged"):
            report = embed(world / "model", photos, tmp_path / "out", executor=QUIET)
            assert nonzero_counts(report) == {change: 3, "embedded": 3, "unreadable": 1}
    assert embed(world / "model", photos, tmp_path / "out", executor=QUIET)["images"]["new"] == 1
    assert counts(embed(world / "model", photos, tmp_path / "out", executor=QUIET)) == (0, 0, 0, 4)
    (photos / "1/001.png").unlink()
    assert counts(embed(world / "model", photos, tmp_path / "out", executor=QUIET)) == (0, 1, 0, 3)


def test_a_photograph_that_goes_or_is_cut_while_embed_runs_is_left_out_and_taken_next_time(
    world, tmp_path, monkeypatch
):
    photos = write_photos(tmp_path / "photos", 6)
    listed = []

    def change_once(places):
        if not listed:
            (photos / "0/000.png").unlink()
            (photos / "1/001.png").write_bytes(picture(1)[:30])
        listed.append(places)

    before(monkeypatch.setattr, pools, "read_members", change_once)
    report = embed(world / "model", photos, tmp_path / "embedded", executor=QUIET)
    assert nonzero_counts(report) == {"embedded": 4, "new": 4, "unreadable": 2}
    assert {row["key"] for row in report["images"]["bad"]} == {"0/000.png", "1/001.png"}
    (photos / "1/001.png").write_bytes(picture(1))
    assert embed(world / "model", photos, tmp_path / "embedded", executor=QUIET)["images"]["embedded"] == 5
    expected = ["0/003.png", "1/001.png", "1/004.png", "2/002.png", "2/005.png"]
    assert sorted(vectors_by_key(tmp_path / "embedded")) == expected


def test_a_rewritten_tar_embeds_what_is_new_in_it(world, tmp_path, embedded_items):
    pool = shutil.copytree(world / "pool", tmp_path / "pool")
    embed(world / "model", pool, tmp_path / "out", of=("images", "texts"), executor=QUIET)
    embedded_items.clear()
    members = [("x.png", picture(500)), ("x.txt", b"a new apple")]
    for i in range(4, PER_SHARD):
        if i != BAD:
            members += [(f"00000{i:04}.png", picture(i)), (f"00000{i:04}.txt", text_of(0, i).encode())]
    write_tar(pool / "00000.tar", members)
    (pool / "00001.tar").rename(pool / "renamed.tar")
    report = embed(world / "model", pool, tmp_path / "out", of=("images", "texts"), executor=QUIET)
    undecodable = picture(100 + BAD)[:80]  # has no vector, so it is tried again
    assert embedded_items == [picture(500), undecodable, "a new apple"]
    good = PER_SHARD - 1
    assert counts(report) == (1, 4, 0, 2 * good - 4)
    assert counts(report, "texts")[:2] == (1, 5)
    assert [report[kind]["renamed"] for kind in ("images", "texts")] == [good, PER_SHARD]
    check_against_fresh(tmp_path / "out", world / "model", pool, tmp_path / "fresh")


def test_a_denied_key_reads_and_embeds_no_picture_again(world, tmp_path, embedded_items, monkeypatch):
    recipe = f'[pool]\npath = "{world / "pool"}"\ndeny_keys = ["denied.txt"]\n'
    write_files(tmp_path, {"r.toml": recipe, "denied.txt": "none\n"})
    embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)
    embedded_items.clear()
    key = open_embedded(tmp_path / "out").rows(np.array([0]))[0]["key"]
    (tmp_path / "denied.txt").write_text(f"{key}\n")
    read = []
    before(monkeypatch.setattr, pools, "read_members", lambda places: read.extend(places["key"]))
    report = embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)
    assert counts(report) == (0, 1, 0, SHARDS * (PER_SHARD - 1) - 1)
    assert key not in vectors_by_key(tmp_path / "out")
    undecodable = [picture(100 * shard + BAD)[:80] for shard in range(SHARDS)]
    assert (embedded_items, len(read)) == (undecodable, SHARDS)


def test_lists_of_keys_take_image_files_down(world, tmp_path, embedded_items, capfd):
    photos = write_photos(tmp_path / "photos", 6)
    recipe = f'[pool]\npath = "{photos}"\ndeny_keys = ["denied.txt", "none.txt"]\n'
    write_files(tmp_path, {"r.toml": recipe, "denied.txt": "0/000.png\n", "valid.txt": "1/001.png\n2/002.png\n"})
    write_files(tmp_path, {"none.txt": "of another folder\n"})
    assert counts(embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)) == (5, 0, 0, 0)
    assert "leaves out 1 file by pool.valid_keys and pool.deny_keys" in capfd.readouterr().err
    embedded_items.clear()
    (tmp_path / "denied.txt").write_text("0/000.png\n2/002.png\n")
    with pytest.raises(UserError, match="out of date"):
        search(tmp_path / "out", ["a"])
    assert counts(embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)) == (0, 1, 0, 4)
    (tmp_path / "r.toml").write_text(recipe + 'valid_keys = "valid.txt"\n')
    assert counts(embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)) == (0, 3, 0, 1)
    assert vectors_by_key(tmp_path / "out").keys() == {"1/001.png"}
    assert not embedded_items
    (tmp_path / "denied.txt").unlink()
    with pytest.raises(UserError, match=r"denied\.txt"):
        embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)


def test_a_killed_update_leaves_the_folder_of_before_and_embeds_nothing_twice(
    world, tmp_path, embedded_items, monkeypatch
):
    monkeypatch.setattr(picture_folder, "FILES_PER_GROUP", 3)
    photos = write_photos(tmp_path / "photos", 6)
    embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    earlier = search(tmp_path / "out", ["a"])
    (photos / "0/000.png").unlink()
    write_files(photos, {f"new/{i}.png": picture(100 + i) for i in range(7)})
    embedded_items.clear()

    def kill(clip, images, **keys):
        if len(embedded_items) > 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        before(killing.setattr, Clip, "encode_each", kill)
        with pytest.raises(KeyboardInterrupt):
            embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    after = search(tmp_path / "out", ["a"])
    del embedded_items[-1]  # the query
    assert after == earlier
    assert counts(embed(world / "model", photos, tmp_path / "out", executor=QUIET)) == (7, 1, 0, 5)
    assert sorted(embedded_items) == sorted(picture(100 + i) for i in range(7))
    named = json.loads((tmp_path / "out/manifest.json").read_text())["segments"]["images"].values()
    assert {path.stem for path in (tmp_path / "out/images").glob("*.npy")} == set(named)


def test_ids_do_not_move_with_the_rows(world, tmp_path):
    photos = write_photos(tmp_path / "photos", 9)
    embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    embedded = open_embedded(tmp_path / "out")
    ids = {row["key"]: row["id"] for row in embedded.rows(np.arange(9))}
    assert len(set(ids.values())) == 9
    assert [int(row_id, 16) for row_id in ids.values()] == embedded.all_ids().tolist()
    (photos / "0/000.png").unlink()
    embed(world / "model", photos, tmp_path / "other", executor=QUIET)
    rows = open_embedded(tmp_path / "other").rows(np.arange(8))
    assert {row["key"]: row["id"] for row in rows}.items() < ids.items()


def test_a_table_that_was_written_again_with_its_size_is_read_again(tmp_path):
    path = tmp_path / "0.parquet"
    sizes = set()
    for time_ns, key in enumerate("ab"):
        rows = pa.Table.from_pylist([dict.fromkeys(EMBEDDED_TEXTS.names) | {"key": key}], EMBEDDED_TEXTS)
        write_artifact_table(path, rows, EMBEDDED_TEXTS)
        os.utime(path, ns=(time_ns, time_ns))
        sizes.add(path.stat().st_size)
        assert read_segment(path, EMBEDDED_TEXTS)["key"].to_pylist() == [key]
    assert len(sizes) == 1


def test_a_moved_pool_is_named_by_search_and_given_anew(world, tmp_path):
    shutil.copytree(world / "pool", tmp_path / "pool")
    embed(world / "model", tmp_path / "pool", tmp_path / "out", executor=QUIET)
    (tmp_path / "pool").rename(tmp_path / "disk")
    embedded = open_embedded(tmp_path / "out")
    assert embedded.remark == "pictures are not shown: the folder pool is gone; restore it, or give --pool NEW_PATH"
    there = open_embedded(tmp_path / "out", pool=[str(tmp_path / "disk")])
    assert there.remark == ""
    assert there.read_picture(there.rows(np.array([0]))[0]) == picture(0)
    with pytest.raises(UserError, match="was embedded from 1 place; give as many"):
        open_embedded(tmp_path / "out", pool=["a", "b"])


def test_hidden_files_and_links_out_of_the_folder_are_counted_and_named(world, tmp_path, capfd, monkeypatch):
    photos = write_photos(tmp_path / "photos", 2)
    write_files(photos, {".hidden.png": picture(7), ".git/a.png": picture(8)})
    write_files(tmp_path, {"elsewhere/b.png": picture(9)})
    (photos / "link.png").symlink_to(tmp_path / "elsewhere/b.png")
    (photos / "inside.png").symlink_to(photos / "0/000.png")
    (photos / "folder").symlink_to(tmp_path / "elsewhere")
    Path(os.fsdecode(os.fsencode(photos) + b"/\xff.png")).write_bytes(picture(3))
    write_files(photos, {"closed/a.png": picture(4)})
    plain = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    assert report["images"]["embedded"] == 4
    said = capfd.readouterr().err
    assert f"{photos}: cannot enter closed/\n" in said
    assert f"{photos}: left out 2 hidden files and folders\n" in said
    assert f"{photos}: left out 1 files and folders whose names are not UTF-8\n" in said
    assert f"{photos}: does not enter linked folders: folder\n" in said
    assert f"{photos}: 1 link to files elsewhere: link.png -> {tmp_path}/elsewhere/b.png; a search page shows" in said


def test_files_keep_their_groups_and_new_ones_fill_those_that_are_half_empty(monkeypatch):
    monkeypatch.setattr(picture_folder, "FILES_PER_GROUP", 3)
    files = [(f"{i:02}", 1, 1) for i in range(8)]
    groups = group_files(files, {})
    assert list(groups) == ["files_000000", "files_000001", "files_000002"]
    assert list(map(len, groups.values())) == [3, 3, 2]
    earlier = {name: [stamp[0] for stamp in group] for name, group in groups.items()}
    assert group_files(files, earlier) == groups
    changed = [*files[2:], ("a", 1, 1), ("b", 1, 1), ("c", 1, 1)]
    after = group_files(changed, earlier)
    assert (after["files_000001"], after["files_000002"]) == (groups["files_000001"], groups["files_000002"])
    assert [len(group) for group in after.values()] == [3, 3, 2, 1]
    assert sorted(itertools.chain(*after.values())) == sorted(changed)
    few = group_files(files[:2], {f"files_{i:06}": [name] for i, (name, _, _) in enumerate(files)})
    assert list(few) == ["files_000000"], "many small groups become one"


@given(st.lists(st.sets(st.integers(0, 20)), max_size=6))
def test_groups_of_a_folder_with_any_history_hold_each_file_once_and_are_never_empty(history):
    earlier: dict[str, list[str]] = {}
    for numbers in history:
        files = [(f"{number:02}", 1, 1) for number in sorted(numbers)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(picture_folder, "FILES_PER_GROUP", 3)
            groups = group_files(files, earlier)
        assert sorted(itertools.chain(*groups.values())) == files
        assert {len(group) for group in groups.values()} <= {1, 2, 3}
        names = {group: [stamp[0] for stamp in members] for group, members in groups.items()}
        if len(earlier) <= 2 * (len(files) // 3 + 1):  # else all are grouped anew
            for group, before in earlier.items():
                assert {name for name in before if (name, 1, 1) in files} <= set(names.get(group, []))
        earlier = names


def test_a_listing_has_every_picture_once_with_size_and_time_and_the_names_of_other_files(tmp_path):
    write_files(tmp_path, {"b/2.png": "12", "b.png": "1", "a.JPG": "1", "b/c/ü.webp": "123", "b/c/d.txt": "", "a": ""})
    expected = []
    for name in ("a.JPG", "b.png", "b/2.png", "b/c/ü.webp"):
        status = os.stat(tmp_path / name)
        expected.append((name, status.st_size, status.st_mtime_ns))
    listing = list_folder(tmp_path)
    assert listing.pictures == expected
    assert listing.others == ["a", "b/c/d.txt"]


def test_texts_of_a_grown_table_embed_the_new_texts(world, tmp_path, embedded_items):
    columns = {"uid": ["a", "b"], "caption": ["red apple", "blue apple"]}
    write_table(tmp_path / "pool/0.parquet", columns)
    embed(world / "model", tmp_path / "pool", tmp_path / "out", executor=QUIET)
    embedded_items.clear()
    write_table(
        tmp_path / "pool/0.parquet", {"uid": ["a", "c", "d"], "caption": ["blue apple", "red apple", "an apple"]}
    )
    report = embed(world / "model", tmp_path / "pool", tmp_path / "out", executor=QUIET)
    assert embedded_items == ["an apple"]
    assert counts(report, "texts") == (2, 1, 1, 0)


def test_a_folder_of_release_0_1_is_searched_and_embedded_again(world, tmp_path):
    """Its groups of image files were lists of stamps, and its tables had neither places nor hashes."""
    photos = write_photos(tmp_path / "photos", 5)
    out = tmp_path / "out"
    embed(world / "model", photos, out, executor=QUIET)
    newer = search(out, ["a"])[0]["hits"]
    for suffix in ("npy", "parquet"):
        segment_of(out, "files_000000", suffix).rename(out / f"images/files_000000.{suffix}")
    table = out / "images/files_000000.parquet"
    rows = pq.read_table(table)
    files = [str(photos / name) for name in rows["file"].to_pylist()]
    write_table(table, {**rows.select(["key", "offset", "size"]).to_pydict(), "file": files})
    write_artifact_table(table, pq.read_table(table), IMAGE_PLACES)
    (probe,) = out.glob("probe.*.npy")
    probe.rename(out / "probe.npy")
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["segments"], manifest["probe"]
    stamps = [[name, size, time_ns] for name, size, time_ns in list_folder(photos).pictures]
    manifest["inputs"]["images"] = {"files_000000": {"files": stamps}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    marker = out / "done/images/files_000000.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "fingerprint": {"files": stamps}}))
    older = search(out, ["a"])[0]["hits"]
    for name in ("key", "id", "score"):
        assert [hit[name] for hit in older] == [hit[name] for hit in newer]
    embedded = open_embedded(out)
    assert embedded.read_picture(embedded.rows(np.array([0]))[0]) == picture(0)
    (photos / "0/000.png").unlink()
    assert embed(world / "model", photos, out, executor=QUIET)["images"]["embedded"] == 4
    assert {hit["key"] for hit in search(out, ["a"])[0]["hits"]} == {hit["key"] for hit in newer} - {"0/000.png"}


@pytest.fixture
def shop(tmp_path) -> Path:
    """Return a recipe of a table that names pictures."""
    rows = "".join(
        f"{name},img/{name}.png,a {name},{price}\n" for price, name in enumerate(("cat", "dog", "cow", "hen"))
    )
    write_files(tmp_path, {"pool/shop.csv": f"sku,image,title,price\n{rows}"})
    for seed, name in enumerate(("cat", "dog", "cow")):
        write_files(tmp_path, {f"pool/img/{name}.png": picture(seed)})
    recipe = '[pool]\npath = "pool"\nkey = "sku"\ntexts = ["title"]\nimage_field = "image"\n'
    write_files(tmp_path, {"shop.toml": recipe})
    return tmp_path / "shop.toml"


def test_pictures_that_a_table_names_are_followed_under_an_unchanged_table(
    world, shop, tmp_path, embedded_items, monkeypatch, capfd
):
    img = tmp_path / "pool/img"

    def update() -> tuple:
        embedded_items.clear()
        return counts(embed(world / "model", shop, tmp_path / "out", executor=QUIET))

    assert update() == (3, 0, 0, 0)
    assert update() == (0, 0, 0, 3)
    assert "pictures that shop.csv names have changed" not in capfd.readouterr().err
    same_size = next(picture(seed) for seed in range(3, 5000) if len(picture(seed)) == len(picture(0)))
    (img / "cat.png").write_bytes(same_size)
    read = []
    with monkeypatch.context() as reading:
        before(reading.setattr, pools, "read_members", lambda places: read.extend(places["key"]))
        assert update() == (0, 0, 1, 2)
    assert (embedded_items, [key.as_py() for key in read]) == ([same_size], ["cat"])
    assert "pictures that shop.csv names have changed" in capfd.readouterr().err
    (img / "dog.png").unlink()
    (img / "hen.png").write_bytes(picture(9))
    assert update() == (1, 1, 0, 2)
    assert embedded_items == [picture(9)]
    for path in img.iterdir():
        path.touch()
    assert update() == (0, 0, 0, 3)
    assert not embedded_items


def test_pictures_that_come_where_a_table_had_none_are_embedded(world, shop, tmp_path):
    img = tmp_path / "pool/img"
    img.rename(tmp_path / "away")
    write_files(tmp_path, {"pool/more.csv": "sku,image,title,price\nfox,photos/fox.png,a fox,1\n"})
    write_files(tmp_path, {"pool/photos/fox.png": picture(7)})
    assert counts(embed(world / "model", shop, tmp_path / "out", executor=QUIET)) == (1, 0, 0, 0)
    (tmp_path / "away").rename(img)
    assert counts(embed(world / "model", shop, tmp_path / "out", executor=QUIET)) == (3, 0, 0, 1)
    check_against_fresh(tmp_path / "out", world / "model", shop, tmp_path / "fresh")


def test_changed_values_of_columns_are_counted_and_embed_nothing(
    world, shop, tmp_path, embedded_items, monkeypatch, capfd
):
    def update(columns: list[str]) -> dict[str, int]:
        embedded_items.clear()
        return nonzero_counts(embed(world / "model", shop, tmp_path / "out", columns=columns, executor=QUIET))

    table = tmp_path / "pool/shop.csv"
    assert update(["price"]) == {"new": 3, "embedded": 3, "no_image": 1}
    assert "numbers as texts: price; pool.where, embed and search compare" in " ".join(capfd.readouterr().err.split())
    table.write_text(table.read_text().replace("a dog,1", "a dog,10").replace("a cow,2", "a cow,"))
    assert update(["price"]) == {"changed_only_in_columns": 2, "unchanged": 1, "embedded": 3, "no_image": 1}
    table.write_text(table.read_text().replace("a cat", "the cat"))
    assert update(["price"]) == {"unchanged": 3, "embedded": 3, "no_image": 1}, "title is no column of the folder"
    monkeypatch.setattr(draft_recipe, "LARGE_FILE", 100)
    assert update(["price", "title"]) == {"unchanged": 3, "embedded": 3, "no_image": 1}
    assert "shop.csv: CSV and TSV are read whole into memory" in capfd.readouterr().err
    table.write_text(f"{table.read_text()}cat,img/dog.png,another cat,9\n")
    assert update([]) == {"unchanged": 3, "embedded": 3, "no_image": 1, "duplicate": 1}
    assert embedded_items == []


def test_a_key_that_names_another_picture_of_the_same_size_and_time_has_its_vector(world, shop, tmp_path):
    table = tmp_path / "pool/shop.csv"
    write_files(
        tmp_path, {"pool/img/hen.png": next(picture(i) for i in range(3, 5000) if len(picture(i)) == len(picture(0)))}
    )
    for path in (tmp_path / "pool/img").iterdir():
        os.utime(path, (10, 10))  # as a zip leaves them
    embed(world / "model", shop, tmp_path / "out", executor=QUIET)
    table.write_text(table.read_text().replace("cat.png", "x").replace("hen.png", "cat.png").replace("x", "hen.png"))
    assert counts(embed(world / "model", shop, tmp_path / "out", executor=QUIET)) == (0, 0, 2, 2)
    check_against_fresh(tmp_path / "out", world / "model", shop, tmp_path / "fresh")


def test_pictures_that_come_after_a_first_call_without_any_are_embedded(world, shop, tmp_path):
    (tmp_path / "pool/img").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="holds no tar and no image"):
        embed(world / "model", shop, tmp_path / "out", of=("images",), executor=QUIET)
    (tmp_path / "elsewhere").rename(tmp_path / "pool/img")
    report = embed(world / "model", shop, tmp_path / "out", of=("images",), executor=QUIET)
    assert report["images"]["embedded"] == 3


def test_places_of_images_are_found_from_any_working_directory(world, tmp_path, monkeypatch):
    write_tar(tmp_path / "pool/0.tar", [("a.png", picture(0)), ("a.txt", b"a")])
    monkeypatch.chdir(tmp_path)
    embed(world / "model", "pool", "out", executor=QUIET)
    monkeypatch.chdir(tmp_path / "pool")
    there = open_embedded(tmp_path / "out")
    assert there.read_picture(there.rows(np.array([0]))[0]) == picture(0)
