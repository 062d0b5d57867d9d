"""Exact search equals sorting all products."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded_world import PER_SHARD, SHARDS, key_of, picture
from stages import QUIET
from worldclip.cli import main
from worldclip.contracts.schemas import IMAGE_PLACES
from worldclip.core.artifacts import write_array, write_manifest, write_table
from worldclip.core.errors import UserError
from worldclip.tools import search as of_search
from worldclip.tools.embed import embed
from worldclip.tools.search import nearest, open_embedded, search


def plain(parts, query_QD, top) -> np.ndarray:
    """Sort all products, equal ones by row."""
    return np.argsort(-(query_QD @ np.concatenate(parts).T), axis=1, kind="stable")[:, :top]


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
    num_queries=st.sampled_from([1, 3, 9]),
    top=st.integers(1, 50),
    block=st.integers(1, 17),
    levels=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_blocks_equal_a_plain_sort(sizes, num_queries, top, block, levels, seed):
    """Use small integers: products are exact, and many are equal."""
    random = np.random.default_rng(seed)
    parts = [random.integers(-levels, levels + 1, (size, 4)).astype(np.float32) for size in sizes]
    query = random.integers(-levels, levels + 1, (num_queries, 4)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_search, "BLOCK_ROWS", block)
        ids, scores = nearest(parts, query, top)
    expected = plain(parts, query, top)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(query @ np.concatenate(parts).T, expected, axis=1))


def test_text_query_finds_the_nearest_images(world, clip):
    (result,) = search(world / "embedded", "一只猫", top=5)
    good = [(shard, i) for shard in range(SHARDS) for i in range(PER_SHARD) if i != 7]
    cosines = clip.similarity([picture(100 * shard + i) for shard, i in good], "一只猫")[:, 0]
    best = np.argsort(-cosines, kind="stable")[:5]
    assert result["query"] == "一只猫"
    assert [hit["key"] for hit in result["hits"]] == [key_of(*good[i]) for i in best]
    np.testing.assert_allclose([hit["score"] for hit in result["hits"]], cosines[best], atol=1e-6)


def test_image_query_finds_itself_and_texts_can_be_searched(world, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(203))
    by_text, by_image = search(world / "embedded", ["apple"], [tmp_path / "a.png"], top=1000)
    assert by_image["hits"][0]["key"] == key_of(2, 3)
    assert by_image["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert len(by_text["hits"]) == len(by_image["hits"]) == SHARDS * (PER_SHARD - 1)
    (result,) = search(world / "embedded", ["a red apple 1 4 赤いリンゴ"], top=1, of="texts")
    assert result["hits"][0]["text"] == "a red apple 1 4 赤いリンゴ"
    assert result["hits"][0]["score"] == pytest.approx(1, abs=1e-5)


@pytest.fixture
def folder(world, tmp_path) -> Path:
    """Return a copy of the embedded folder, to change; as somebody else might send it."""
    return Path(shutil.copytree(world / "embedded", tmp_path / "embedded"))


def test_another_model_is_refused_and_a_moved_one_accepted(world, folder, tmp_path):
    from transformers import MetaClip2Config

    from small_models import random_model

    moved = shutil.copytree(world / "model", tmp_path / "moved")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["model"]["source"] = str(tmp_path / "gone")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="if it moved, give its path as --model"):
        search(folder, ["a"])
    assert search(folder, ["a"], model=moved) == search(world / "embedded", ["a"])
    random_model(MetaClip2Config.from_pretrained(moved), seed=1).save_pretrained(moved)
    with pytest.raises(UserError, match="is not the model that embedded"):
        search(folder, ["a"], model=moved)


def test_shards_of_the_manifest_outside_of_the_folder_are_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inputs"]["images"] = {"../../x": {"path": "../../x", "size": 1}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is not a path below"):
        open_embedded(folder)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", pickle.dumps([1])])
def test_damaged_embeddings_are_named(folder, content):
    (path,) = (folder / "images").glob("00000*.npy")
    path.write_bytes(content)
    with pytest.raises(UserError, match="embed the pool again"):
        open_embedded(folder)


def test_more_shards_than_open_files_can_be_searched(world, tmp_path):
    folder, num_shards, dim = tmp_path / "embedded", 100, 48
    rows = np.eye(dim, dtype=np.float32)[:2]
    places = {"key": ["a", "b"], "file": ["f", "f"], "offset": [0, 1], "size": [1, 1]}
    names = [f"{i:05}.tar" for i in range(num_shards)]
    for name in names:
        write_array(folder / "images" / f"{name}.npy", rows)
        write_table(folder / "images" / f"{name}.parquet", pa.table(places), IMAGE_PLACES)
    write_manifest(folder, config={"of": ["images"]}, inputs={"images": {name: {} for name in names}}, counts={})
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, limit[1]))
    try:
        embedded = open_embedded(folder)
        ids, _ = nearest(embedded.parts, rows[1:], 3)
        assert ids.tolist() == [[1, 3, 5]]
        assert embedded.take(np.arange(0, 200, 7)).shape == (29, dim)
        assert [row["shard"] for row in embedded.rows(ids[0])] == names[:3]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_user_errors_of_a_search(world, tmp_path, capfd):
    embedded = str(world / "embedded")
    unfinished = shutil.copytree(world / "embedded", tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    embed(world / "model", world / "photos", tmp_path / "photos", executor=QUIET)
    for arguments, said in (
        (["search", str(tmp_path / "none"), "a"], "give a folder that `worldclip embed"),
        (["search", str(world / "pool"), "a"], "give a folder that `worldclip embed"),
        (["search", str(unfinished), "a"], "is unfinished"),
        (["search", embedded], "no query; give a text or an image"),
        (["search", embedded, ""], "query '' is blank; give words"),
        (["search", embedded, "  \n"], "is blank; give words"),
        (["search", embedded, "a", "--top", "0"], "top = 0"),
        (["search", embedded, "--images", str(tmp_path / "none.png")], "none.png: does not exist"),
        (["search", embedded, "--images", "https://example.org/a.png"], "is a URL"),
        (["search", str(tmp_path / "photos"), "a", "--of", "texts"], "holds no texts, only images"),
    ):
        assert main(arguments) == 2, arguments
        assert said in capfd.readouterr().err.replace("\n", " "), arguments
