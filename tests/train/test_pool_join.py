"""The join by key of a training pool, as a downloader writes it, with a matched pool of tables."""

import dataclasses
import json
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.io import ImageReadMode, decode_image

import killed
from killed import modified
from pools import write_parquet
from small_world import COLOURS, FORMS, TRAIN, finish_curate, picture
from stages import QUIET, context, finish
from tars import as_json, write_tar
from trainings import make_loader, read, write_matched
from worldclip import pool
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.settings import to_dict
from worldclip.model.config import ModelConfig
from worldclip.pool.row_groups import ROW_BITS
from worldclip.train import loop, pool_join
from worldclip.train.before_start import plan_lines
from worldclip.train.pool_join import image_shards, join_images, read_places

NUM_KEYS = 24


def image_bytes(n):
    return picture(list(COLOURS)[n % 4], FORMS[n % 3])


def sample_of(stem, image, **record):
    """Return a sample as img2dataset --save_additional_columns writes it, renumbered."""
    return [(f"{stem}.png", image), (f"{stem}.json", as_json({"key": stem, "status": "success"} | record))]


@pytest.fixture
def world(tmp_path):
    """Return (run after curate, recipe, (tar, key, bytes) of the images).  Keys 5 and 20 have no image."""
    run = tmp_path / "run"
    (tmp_path / "tables").mkdir()
    for shard, numbers in enumerate((range(10), range(10, NUM_KEYS))):
        rows = [(f"u{n}", i, f"a picture {n}", "en", 1.0) for n in numbers for i in range(1 + n % 2)]
        columns = dict(zip(schemas.CURATED.names, map(list, zip(*rows, strict=True)), strict=True))
        artifacts.write_table(run / "curate" / f"{shard:03}.parquet.parquet", pa.table(columns), schemas.CURATED)
        table = pa.table({"uid": [f"u{n}" for n in numbers], "texts": [["a picture", "another"]] * len(numbers)})
        pq.write_table(table, tmp_path / "tables" / f"{shard:03}.parquet")
    numbers = random.Random(0).sample([n for n in range(NUM_KEYS) if n not in (5, 20)], NUM_KEYS - 2)
    images = []
    for name, own in {"00000.tar": numbers[:9], "00001.tar": numbers[9:], "again/00000.tar": numbers[:2]}.items():
        samples = [(f"{place:05}", f"u{n}", image_bytes(n)) for place, n in enumerate(own)]
        samples += [("99998", "unknown", image_bytes(0)), ("99999", None, image_bytes(0))]
        members = [member for stem, uid, image in samples for member in sample_of(stem, image, uid=uid)]
        write_tar(tmp_path / "tars" / name, members)
        images += [(name, f"u{n}", image_bytes(n)) for n in own]
    values = {"pool": {"path": str(tmp_path / "tables"), "key": "uid"}, "balance": {"tail_fraction": 0.1}}
    values["train"] = TRAIN | {"samples_seen": 64, "pool": {"path": str(tmp_path / "tars"), "key": "json:uid"}}
    recipe = load_recipe(values)
    finish_curate(run, recipe.pool, recipe.curate)
    return run, recipe, images


def changed(recipe, **train):
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train))


def with_files(recipe, folder):
    """Return the recipe with the Parquet files of a folder as train.pool."""
    return changed(recipe, pool=dataclasses.replace(recipe.train.pool, path=str(folder), key="uid"))


def join(run, recipe, executor=QUIET):
    """Join the images, and return the places of all shards: key, file, offset, size, and the name of the shard."""
    shards = pool.list_pool(context(recipe, run))
    join_images(context(recipe, run, executor), shards, image_shards(recipe.train))
    places = [(shard, read_places(run, shard).sort_by("key").to_pylist()) for shard in shards]
    return [{**row, "shard": shard.name} for shard, rows in places for row in rows]


def read_image(recipe, place):
    (path,) = (tar.path for tar in image_shards(recipe.train) if tar.name == place["file"])
    return pool.read_member(path, place["offset"], place["size"])


def test_each_kept_key_has_the_place_of_its_first_image(world):
    run, recipe, images = world
    first = {}
    for tar, key, image in images:
        first.setdefault(key, (tar, image))
    places = {row["key"]: (row["file"], read_image(recipe, row)) for row in join(run, recipe)}
    assert places == first
    assert len(places) == NUM_KEYS - 2


def test_images_in_parquet_files_join_by_the_first_row_of_each_key_that_has_one(world, tmp_path):
    """Of a key that a file has twice, the first row counts, with or without an image."""
    run, recipe, _ = world
    draw = random.Random(3)
    expected = {}
    for number in range(4):
        uids = [draw.choice([None, *(f"u{n}" for n in range(NUM_KEYS + 9))]) for _ in range(20)]
        images = [None if draw.random() < 0.2 else image_bytes(row) for row in range(20)]
        rows = [{"uid": uid, "image": image, "name": "0.png"} for uid, image in zip(uids, images, strict=True)]
        write_parquet(tmp_path / "files" / f"{number}.parquet", rows)
        for uid in {f"u{n}" for n in range(NUM_KEYS)} & {*uids} - {*expected}:
            if images[uids.index(uid)] is not None:
                expected[uid] = (f"{number}.parquet", uids.index(uid))
    recipe = with_files(recipe, tmp_path / "files")
    places = join(run, recipe)
    assert {row["key"]: (row["file"], row["offset"] & (2**ROW_BITS - 1)) for row in places} == expected
    for row in places:
        assert read_image(recipe, row) == image_bytes(expected[row["key"]][1])


def test_online_curation_joins_the_keys_of_all_epochs(world):
    """The list is what epoch 0 keeps; later epochs keep other keys of the matched texts."""
    run, recipe, images = world
    write_matched(run, recipe, lambda key: 0)
    for shard in pool.list_pool(context(recipe, run)):
        path = layout.curated(run, shard.name)
        artifacts.write_table(path, artifacts.read_table(path, schemas.CURATED).slice(0, 1), schemas.CURATED)
    artifacts.write_manifest(run / "curate", config={}, inputs={"of": "one pair per shard"}, counts={})
    all_keys, kept = {key for _, key, _ in images}, {"u0", "u10"}
    for curation, expected in (("offline", kept), ("online", all_keys), ("offline", kept)):
        assert {row["key"] for row in join(run, changed(recipe, curation=curation))} == expected


def test_pools_without_images_are_an_error_that_names_the_keys_to_set(world, tmp_path):
    run, recipe, _ = world
    with pytest.raises(UserError, match=r"train\.pool: 000\.parquet holds no images"):
        image_shards(with_files(recipe, tmp_path / "tables").train)
    alone = load_recipe({"pool": {"path": recipe.pool.path, "key": "uid"}, "balance": {"tail_fraction": 0.1}})
    with pytest.raises(UserError, match=r"train\.pool is unset"):
        finish("train", alone, run, QUIET)
    assert next(iter(plan_lines(context(alone, run)))).startswith("images      train.pool is unset")
    assert not any(line.startswith("images") for line in plan_lines(context(recipe, run)))
    above = context(alone, run)
    above.reports["pool"] = {"would_run": True}  # it may be another pool than that of the index
    assert not any(line.startswith("images") for line in plan_lines(above))


def test_places_do_not_depend_on_workers_or_memory(world, monkeypatch):
    run, recipe, _ = world
    before = join(run, recipe)
    shutil.rmtree(run / "train/join/places")
    shutil.rmtree(run / "train/join/done")
    monkeypatch.setattr(pool_join, "BATCH_ROWS", 5)
    assert join(run, recipe, LocalExecutor(workers=2, quiet=True)) == before
    assert not (run / "train/join/.spilled").exists()


def test_a_run_trains_on_the_joined_images_counts_missing_ones_and_does_not_join_again(world):
    run, recipe, _ = world
    report = finish("train", recipe, run, QUIET)
    assert (report["pairs"], report["no_image"], report["bad"]) == (33, 3, {})
    before = modified(run / "train" / "join")
    assert finish("train", recipe, run, QUIET)["steps"] == report["steps"]
    assert modified(run / "train" / "join") == before
    images, model = image_shards(recipe.train), ModelConfig(preset="tiny", image_size=32)
    loader = make_loader(run, recipe, global_batch_size=11, images=images, model=model, crop_scale_min=1.0)
    kept = [(f"u{n}", i) for n in range(NUM_KEYS) for i in range(1 + n % 2) if n not in (5, 20)]
    assert sorted(read(loader, 3)) == sorted(kept)
    for batch in loader.batches(0, 3):
        for key, image in zip(batch.keys, batch.images, strict=True):
            encoded = torch.frombuffer(bytearray(image_bytes(int(key[1:]))), dtype=torch.uint8)
            expected = decode_image(encoded, ImageReadMode.RGB)
            assert (image.int() - expected.int()).abs().max() <= 1


def test_images_that_come_before_the_first_checkpoint_are_trained_on(world):
    run, recipe, _ = world
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(loop, "launch_step")
        with pytest.raises(NameError):
            finish("train", recipe, run, QUIET)
    write_tar(run.parent / "tars/later.tar", sample_of("0", image_bytes(5), uid="u5"))
    report = finish("train", recipe, run, QUIET)
    assert (report["pairs"], report["no_image"]) == (35, 1)


_JOIN = """
import json, shutil
from pathlib import Path
from worldclip import pool
from worldclip.config import load_recipe
from worldclip.core.job import Run
from worldclip.recipe import sections_of
from worldclip.train.pool_join import image_shards, join_images

run, recipe = Path(sys.argv[2]), load_recipe(json.loads(sys.argv[4]))
if not run.exists():
    shutil.copytree(sys.argv[3], run)
context = Run(dir=run, sections=sections_of(recipe))
join_images(context, pool.list_pool(context), image_shards(recipe.train))
"""


def test_a_killed_join_resumes_to_the_same_bytes(world, tmp_path):
    run, recipe, _ = world
    killed.check(_JOIN, tmp_path / "killed", run, json.dumps(to_dict(recipe)))
