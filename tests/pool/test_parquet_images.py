"""Pools of Parquet with the images inside, or with their paths: the same pairs give the same artifacts as from tars."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pools import IMAGE, images_of, pool_recipe, run_pool, structs, write_parquet_pool, write_table
from stages import QUIET, context, run_stage
from tars import shard_of
from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.model.config import ModelConfig
from worldclip.model.tokenizer import train_tokenizer
from worldclip.pool import row_groups
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.tar import image_suffix
from worldclip.pool.picture_files import digest_of_pictures
from worldclip.pool.row_groups import RowGroups, read_rows
from worldclip.train.loader import Loader

KEYED = PoolConfig(path="pool", key="key")
IMAGES = [b"\xff\xd8\xff0", b"\x89PNG1", b"RIFF2", b"3"]


def table_of(path: Path, images: pa.Array, row_group_size: int = 2, **columns: object) -> Path:
    numbers = [str(number) for number in range(len(images))]
    return write_table(path, {"key": numbers, "text": numbers, "image": images, **columns}, row_group_size)


def read_all(path: Path, config: PoolConfig = KEYED) -> dict[str, bytes]:
    index, images = images_of(shard_of(path), config)
    return dict(zip(index["key"].to_pylist(), images, strict=True))


@pytest.fixture(scope="module")
def curated(toy_world, tmp_path_factory) -> dict[str, tuple[Recipe, Path]]:
    """Return (recipe, run after curate) of the toy world as tars and as Parquet with each kind of columns."""
    root = tmp_path_factory.mktemp("parquet")
    runs = {}
    for kind in ("tar", "struct", "paths"):
        recipe = load_recipe(toy_world.recipe)
        settings = recipe.pool
        if kind != "tar":
            folder = write_parquet_pool(toy_world.pool, root / "pools" / kind, kind, row_group_size=7)
            named = {"image_field": "image"} if kind == "paths" else {}
            settings = dataclasses.replace(recipe.pool, path=str(folder), key="key", **named)
        curate = dataclasses.replace(recipe.curate, write="tars", samples_per_tar=20)
        recipe = dataclasses.replace(recipe, pool=settings, curate=curate)
        for stage in ("pool", "metadata", "match", "balance", "curate"):
            run_stage(stage, recipe, root / kind, QUIET)
        runs[kind] = (recipe, root / kind)
    return runs


def loader_of(recipe: Recipe, run: Path, shards: Sequence[Shard], **options: int) -> Loader:
    tokenizer = train_tokenizer(["a photo of a red circle"], vocab_size=60, context_length=12)
    train = dataclasses.replace(recipe.train, model=ModelConfig(preset="tiny", image_size=32))
    return Loader(run, shards, tokenizer, train, **options)


@pytest.mark.parametrize("kind", ["struct", "paths"])
@pytest.mark.parametrize("num_streams", [0, 2])
def test_training_batches_equal_those_of_tars(curated, kind, num_streams) -> None:
    ours, plain = (
        loader_of(recipe, run, pool.list_pool(context(recipe, run)), global_batch_size=12, num_streams=num_streams)
        for recipe, run in (curated[kind], curated["tar"])
    )
    if num_streams:  # the order of shards is a hash of their names
        names = [shard.name.replace(".tar", ".parquet") for shard in plain.shards]
        plain.order.names = names
    for step in (0, 3, 40):
        one, other = ours.batch(step), plain.batch(step)
        assert (one.keys, one.texts, one.bad.counts) == (other.keys, other.texts, Counter())
        assert one.images.equal(other.images)
        assert np.array_equal(one.tokens.ids, other.tokens.ids)


def test_column_of_images_is_found_by_its_type_or_by_what_datasets_says(tmp_path: Path) -> None:
    assert read_all(table_of(tmp_path / "a.parquet", structs(IMAGES)))["1"] == IMAGES[1]
    assert read_all(table_of(tmp_path / "b.parquet", pa.array(IMAGES, pa.large_binary())))["2"] == IMAGES[2]
    first = pa.table({"image": pa.array(IMAGES, pa.binary()), "key": list("0123"), "text": list("0123")})
    pq.write_table(first, tmp_path / "first.parquet")  # its first image has the place 0
    assert list(read_all(tmp_path / "first.parquet").values()) == IMAGES
    sound = {"sound": structs(IMAGES), "image": structs(IMAGES)}
    table = pa.table({"key": list("0123"), "text": list("0123"), **sound})
    features = {"sound": {"_type": "Audio"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "c.parquet")
    assert read_all(tmp_path / "c.parquet")["3"] == IMAGES[3]
    pq.write_table(table.replace_schema_metadata({"huggingface": "{broken"}), tmp_path / "d.parquet")
    with pytest.raises(BadShard, match="set it to one of: sound, image"):
        read_all(tmp_path / "d.parquet")


def test_one_of_several_columns_is_named(tmp_path: Path) -> None:
    other = structs([image + b"other" for image in IMAGES])
    table_of(tmp_path / "pool/0.parquet", structs(IMAGES), thumbnail=other, size=[1] * 4)
    settings = {"path": str(tmp_path / "pool"), "key": "key"}
    for more, message in (
        ({}, "set it to one of: image, thumbnail"),
        ({"image_field": "thumbnial"}, "did you mean 'thumbnail'"),
        ({"image_field": "size", "texts": ["txet"]}, "'size' is int64; images are binary"),
    ):
        with pytest.raises(UserError, match=message):
            run_pool(tmp_path / "wrong", **settings, **more)
    run_pool(tmp_path / "named", **settings, image_field="thumbnail")
    assert read_json(tmp_path / "named/pool/report.json")["images"] == 4
    chosen = dataclasses.replace(KEYED, image_field="thumbnail")
    assert read_all(tmp_path / "pool/0.parquet", chosen)["0"] == IMAGES[0] + b"other"


def test_null_images_and_paths_without_bytes_are_pairs_without_an_image(tmp_path: Path) -> None:
    some = structs([IMAGES[0], None, IMAGES[2], None, IMAGES[1], b""])
    whole = pa.array([*some.to_pylist()[:5], None], IMAGE)
    for name, images in (("some", some), ("whole", whole)):
        path = table_of(tmp_path / f"{name}.parquet", images)
        index, counts = (settled := pool.read_shard(shard_of(path), KEYED)).images, settled.counts
        expected = ["0", "2", "4", "5"][: 4 if name == "some" else 3]
        assert index["key"].to_pylist() == expected
        assert (counts["samples"], counts["images"]) == (6, len(expected))
        assert list(read_all(path)) == expected
    for statistics in (True, False):
        pq.write_table(pq.read_table(path), path, row_group_size=2, write_statistics=statistics)
        assert pool.read_shard(shard_of(path), KEYED).images["key"].to_pylist() == ["0", "2", "4"]


def test_row_groups_of_only_nulls_have_no_images(tmp_path: Path) -> None:
    images = pa.array([None, None, *IMAGES[:2], None, IMAGES[2]], pa.binary())
    path = table_of(tmp_path / "0.parquet", images, row_group_size=2)
    assert read_all(path) == {"2": IMAGES[0], "3": IMAGES[1], "5": IMAGES[2]}


@pytest.mark.parametrize("place", [0, 1, None])
def test_one_shard_with_an_image_makes_a_pool_of_images(tmp_path: Path, place: int | None) -> None:
    for number in range(2):
        image = IMAGES[0] if number == place else None
        table_of(tmp_path / f"pool/{number}.parquet", pa.array([None, image], pa.binary()))
    recipe = pool_recipe(path=str(tmp_path / "pool"), key="key")
    run_stage("pool", recipe, tmp_path / "run", QUIET)
    shards = pool.indexed_shards(context(recipe, tmp_path / "run"))
    assert pool.holds_images(tmp_path / "run", shards) == (place is not None)


def test_names_of_images_decide_only_the_suffix(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "x.JPG", None, "a.tar.gz/\ud7ff.exe"]
    path = table_of(tmp_path / "0.parquet", structs(IMAGES, names))
    index, images = images_of(shard_of(path), KEYED)
    suffixes = [image_suffix(*one) for one in zip(index["member"].to_pylist(), images, strict=True)]
    assert suffixes == [".jpg", ".JPG", ".webp", ".jpg"]


def damage_page(path: Path, group: int) -> None:
    """Overwrite the compressed images of a row group."""
    facts = pq.read_metadata(path).row_group(group)
    columns = [facts.column(leaf) for leaf in range(facts.num_columns)]
    column = next(column for column in columns if column.path_in_schema == "image.bytes")
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


def test_damaged_page_spoils_its_row_group_alone(tmp_path: Path) -> None:
    path = table_of(tmp_path / "0.parquet", structs(IMAGES * 2))
    places = pool.read_shard(shard_of(path), KEYED).images["offset"].to_numpy()
    damage_page(path, 1)
    images = list(read_rows(str(path), places))
    assert [image for image in images if isinstance(image, bytes)] == [*IMAGES[:2], *IMAGES]
    assert all("row group 1, column image.bytes: damaged" in str(image) for image in images[2:4])
    assert list(map(type, RowGroups(10**6).read(str(path), places))) == list(map(type, images)), "what the loader reads"
    assert pool.read_member(path, int(places[7]), -1) == IMAGES[3]
    with pytest.raises(BadShard, match="row group 1"):
        pool.read_member(path, int(places[3]), -1)


@pytest.mark.parametrize(("module", "name"), [(row_groups, "leaf_batches"), (pq, "ParquetFile"), (pq, "read_metadata")])
def test_lack_of_memory_is_no_damage(module, name, tmp_path: Path, monkeypatch) -> None:
    path = table_of(tmp_path / "a.parquet", pa.array(IMAGES))

    def fail(*arguments: object, **options: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 33554432 failed")

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(MemoryError):
        list(read_rows(str(path), row_groups.pack_places(2, np.arange(4))))


def test_a_file_that_is_replaced_gives_its_own_images_to_a_reader_that_kept_those_before(tmp_path: Path) -> None:
    reader = RowGroups(10**6)
    for number, images in enumerate((IMAGES, [image[::-1] for image in IMAGES])):
        path = table_of(tmp_path / f"{number}.parquet", structs(images)).replace(tmp_path / "a.parquet")
        places = pool.read_shard(shard_of(path), KEYED).images["offset"].to_numpy()
        assert reader.read(str(path), places) == images


def test_rows_beyond_the_file_say_that_it_changed(tmp_path: Path) -> None:
    path = table_of(tmp_path / "0.parquet", structs(IMAGES[:1]))
    for place in (row_groups.pack_places(2, np.array([1])), row_groups.pack_places(99, np.array([0])), [-(2**62)]):
        with pytest.raises(BadShard, match="the file changed after it was indexed"):
            pool.read_member(path, int(place[0]), -1)


def test_row_group_is_decoded_once_per_batch_and_kept_for_the_next(tmp_path, monkeypatch) -> None:
    path = str(table_of(tmp_path / "0.parquet", structs([bytes([n]) * 1000 for n in range(100)]), row_group_size=10))
    places = pool.read_shard(shard_of(Path(path)), KEYED).images["offset"].to_numpy()
    decoded = Counter()
    plain_batches = row_groups.leaf_batches

    def count_batches(file, column, group):
        decoded[group] += 1
        return plain_batches(file, column, group)

    monkeypatch.setattr(row_groups, "leaf_batches", count_batches)
    for max_bytes, expected in ((10**6, 1), (50_000, 3), (30_000, 3)):  # all kept; 5 of 10 kept; each too large
        decoded.clear()
        groups = RowGroups(max_bytes)
        for seed in range(3):
            rows = np.sort(np.random.default_rng(seed).choice(100, 50, replace=False))
            assert groups.read(path, places[rows]) == [bytes([n]) * 1000 for n in rows.tolist()]
        assert set(decoded.values()) == {expected}


def test_row_group_larger_than_a_batch_is_streamed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(row_groups, "BATCH_BYTES", 5_000)
    path = table_of(tmp_path / "0.parquet", structs([bytes([n]) * 1000 for n in range(100)]), row_group_size=100)
    with row_groups.open_parquet(str(path)) as file:
        assert max(map(len, row_groups.leaf_batches(file, 2, 0))) <= 5
    assert list(read_all(path).values()) == [bytes([n]) * 1000 for n in range(100)]


def test_a_picture_that_goes_while_its_table_is_read_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    images = pa.table({"member": ["a.png", "b.png"], "offset": [-1, -2], "size": [7, 7]})
    with pytest.raises(BadShard, match=r"b\.png: went while the pool was read"):
        digest_of_pictures(str(tmp_path / "t.parquet"), images)
