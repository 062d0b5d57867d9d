"""Embedding a pool: rows equal the model's own embeddings, unusable inputs are counted, finished shards are kept."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedded_world import BAD, PER_SHARD, SHARDS, key_of, picture, text_of
from miniature import write_files
from pools import write_table
from stages import QUIET
from toy import write_tar
from worldclip.cli import main
from worldclip.core import image_names
from worldclip.core.artifacts import write_manifest
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.model import worker
from worldclip.model.load import Source
from worldclip.pool import open_pool
from worldclip.tools import embed as of_embed
from worldclip.tools.embed import embed
from worldclip.tools.search import search

NUM_GOOD = SHARDS * (PER_SHARD - 1)


def test_rows_are_the_embeddings_of_images_and_texts(world, clip, tmp_path):
    report = embed(world / "model", world / "pool", tmp_path, of=("images", "texts"), executor=QUIET)
    counts = {"shards": SHARDS, "pairs": SHARDS * PER_SHARD, "embedded": NUM_GOOD, "undecodable": SHARDS, "no_image": 0}
    assert {name: report["images"][name] for name in counts} == counts
    assert {sample["key"] for sample in report["images"]["bad"]} == {key_of(shard, BAD) for shard in range(SHARDS)}
    assert report["texts"]["embedded"] == SHARDS * PER_SHARD
    for shard in range(SHARDS):
        place = tmp_path / "images" / f"{shard:05}.tar"
        rows, features = pq.read_table(f"{place}.parquet").to_pylist(), np.load(f"{place}.npy")
        good = [i for i in range(PER_SHARD) if i != BAD]
        assert [row["key"] for row in rows] == [key_of(shard, i) for i in good]
        expected = clip.encode_image([picture(100 * shard + i) for i in good])
        np.testing.assert_allclose(features, expected, atol=1e-6)
        row = rows[3]
        with open(row["file"], "rb") as file:
            assert file.read()[row["offset"] :][: row["size"]] == picture(100 * shard + good[3])
        place = tmp_path / "texts" / f"{shard:05}.tar"
        texts = pq.read_table(f"{place}.parquet")["text"].to_pylist()
        assert texts == [text_of(shard, i) for i in range(PER_SHARD)]
        np.testing.assert_allclose(np.load(f"{place}.npy"), clip.encode_text(texts), atol=1e-6)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"]["model"]["source"] == str((world / "model").resolve())
    assert manifest["counts"] == {"images": NUM_GOOD, "texts": SHARDS * PER_SHARD}


def test_interrupted_call_resumes_with_the_missing_shards(world, tmp_path, monkeypatch):
    done = []
    plain = of_embed.embed_images

    def watched(shard, **keys):
        done.append(shard.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return plain(shard, **keys)

    monkeypatch.setattr(of_embed, "embed_images", watched)
    with pytest.raises(KeyboardInterrupt):
        embed(world / "model", world / "pool", tmp_path, executor=QUIET)
    assert not (tmp_path / "manifest.json").exists()
    embed(world / "model", world / "pool", tmp_path, executor=QUIET)
    assert done == ["00000.tar", "00001.tar", "00001.tar", "00002.tar"]
    embed(world / "model", world / "pool", tmp_path, executor=QUIET)
    assert len(done) == 4  # finished and unchanged


def test_changed_shards_are_updated_and_another_model_starts_over(world, tmp_path):
    pool = shutil.copytree(world / "pool", tmp_path / "pool")
    (pool / "00002.tar").rename(tmp_path / "00002.tar")
    first = embed(world / "model", pool, tmp_path / "out", executor=QUIET)
    before = (tmp_path / "out/images/00001.tar.npy").stat().st_mtime_ns
    (tmp_path / "00002.tar").rename(pool / "00002.tar")
    (pool / "00000.tar").unlink()
    second = embed(world / "model", pool, tmp_path / "out", executor=QUIET)
    assert (first["images"]["embedded"], second["images"]["embedded"]) == (2 * (PER_SHARD - 1),) * 2
    assert sorted(path.name for path in (tmp_path / "out/images").glob("*.npy")) == ["00001.tar.npy", "00002.tar.npy"]
    assert (tmp_path / "out/images/00001.tar.npy").stat().st_mtime_ns == before
    other = shutil.copytree(world / "model", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    (other / "config.json").write_text(json.dumps(config))
    embed(other, pool, tmp_path / "out", executor=QUIET)
    assert (tmp_path / "out/images/00001.tar.npy").stat().st_mtime_ns != before


def test_folder_of_image_files_is_keyed_by_relative_paths(world, clip, tmp_path):
    report = embed(world / "model", world / "photos", tmp_path, executor=QUIET)
    assert report["images"]["bad"] == [
        {"key": "bad.jpg", "reason": "is not an image that can be decoded (no known image format)"}
    ]
    rows = pq.read_table(tmp_path / "images" / "files_000000.parquet").to_pylist()
    assert [row["key"] for row in rows] == [f"sub/{i}.png" for i in range(4)]
    features = np.load(tmp_path / "images" / "files_000000.npy")
    np.testing.assert_allclose(features, clip.encode_image([row["file"] for row in rows]), atol=1e-6)


@pytest.mark.parametrize("has_heif", [False, True])
def test_files_of_a_folder_that_are_no_images_are_named_by_suffix(world, tmp_path, has_heif, monkeypatch, capsys):
    needs = [] if has_heif else ["HEIF needs pillow_heif: pip install it"]
    monkeypatch.setattr(image_names, "missing_packages", lambda *names, extra: iter(needs))
    photos = shutil.copytree(world / "photos", tmp_path / f"photos{has_heif}")
    write_files(photos, {"a.HEIC": b"\0\0\0\x18ftypheic", "b.mov": "", "c.mov": "", ".DS_Store": "", "notes": ""})
    report = embed(world / "model", photos, tmp_path / "out", executor=QUIET)
    assert {"embedded": 4, "undecodable": 1 + has_heif}.items() <= report["images"].items()
    left_out = "2 .mov, 1 notes" if has_heif else f"2 .mov, 1 .heic, 1 notes ({needs[0]})"
    assert capsys.readouterr().err.count(f"{photos}: left out {left_out}\n") == 1


def test_table_is_embedded_by_its_texts_and_unusable_ones_are_counted(world, clip, tmp_path):
    texts = ["a red apple", "", None, "赤いリンゴ", "again"]
    columns = {"uid": ["a", "b", "c", "d", "a"], "caption": texts}
    write_table(tmp_path / "pool" / "0.parquet", columns)
    report = embed(world / "model", tmp_path / "pool", tmp_path / "out", key="uid", executor=QUIET)["texts"]
    assert (report["embedded"], report["no_text"], report["duplicate"], report["bad_pair"]) == (2, 2, 1, 0)
    expected = clip.encode_text(["a red apple", "赤いリンゴ"])
    np.testing.assert_allclose(np.load(tmp_path / "out/texts/0.parquet.npy"), expected, atol=1e-6)


def test_truncated_tar_fails_alone_and_is_retried(world, tmp_path):
    pool = shutil.copytree(world / "pool", tmp_path / "pool")
    whole = (pool / "00001.tar").read_bytes()
    (pool / "00001.tar").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(StageFailed) as caught:
        embed(world / "model", pool, tmp_path / "out", executor=QUIET)
    assert list(caught.value.failures) == ["00001.tar"]
    assert (tmp_path / "out/images/00002.tar.npy").exists()
    assert not (tmp_path / "out/manifest.json").exists()
    (pool / "00001.tar").write_bytes(whole)
    assert embed(world / "model", pool, tmp_path / "out", executor=QUIET)["images"]["embedded"] == NUM_GOOD


def test_user_errors_are_reported_before_any_work(world, tmp_path, capfd):
    model, pool, out = str(world / "model"), str(world / "pool"), str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    table = write_table(tmp_path / "table/0.parquet", {"uid": ["a"], "caption": ["b"]}).parent
    mine, run, other = tmp_path / "mine", tmp_path / "run", tmp_path / "check"
    # a run has a lock, as the folders that this command writes
    write_files(tmp_path, {"mine/thesis.txt": "", "run/.lock": "", "run/recipe.toml": "", "check/.lock": ""})
    write_manifest(other, config={}, inputs={}, counts={}, job="check")
    for arguments, said in (
        ([str(tmp_path / "none"), pool, "--out", out], "does not exist; give a run"),
        ([model, str(tmp_path / "none"), "--out", out], "no such folder or file"),
        ([model, str(tmp_path / "empty"), "--out", out], "holds no tar and no image"),
        ([model, str(world / "photos"), "--out", out, "--of", "texts"], "no .tar, .parquet, .jsonl, .jsonl.gz, .csv, "),
        ([model, str(table), "--out", out, "--of", "images"], "holds no tar and no image"),
        ([model, str(table), "--out", out, "--key", "urn"], "pool.key: no column or field 'urn'"),
        ([model, pool, "--out", str(mine)], "is not empty and was not written by worldclip"),
        ([model, pool, "--out", str(run)], "is a run, whose files would be removed; choose an empty directory"),
        ([model, pool, "--out", str(other)], "was written by check, not by embed; choose an empty directory"),
        ([model, pool, "--out", f"{pool}/embedded"], "lies in the pool"),
        ([model, pool, "--out", out, "--device", "tpu"], "device = 'tpu'"),
        ([model, pool, "--out", out, "--precision", "int8"], "precision = 'int8': this model runs in torch"),
    ):
        assert main(["embed", *arguments]) == 2, arguments
        assert said in capfd.readouterr().err.replace("\n", " "), arguments
    assert not (tmp_path / "out/images").exists()
    assert (run / "recipe.toml").exists()


def test_pool_without_anything_to_embed_fails(world, tmp_path):
    write_tar(tmp_path / "pool" / "0.tar", [("a.png", b"cut"), ("a.txt", b" ")])
    with pytest.raises(UserError, match="holds nothing to embed of images; a: is not an image"):
        embed(world / "model", tmp_path / "pool", tmp_path / "out", executor=QUIET)
    assert not (tmp_path / "out/manifest.json").exists()


def test_number_of_processes_is_limited_by_half_of_the_memory(world, monkeypatch):
    monkeypatch.setattr(worker, "usable_cores", lambda: 8)
    size = sum(path.stat().st_size for path in (world / "model").iterdir() if path.suffix not in (".json", ".md"))
    for memory, expected in ((2 * 3 * size + 2, 3), (size, 1), (1000 * size, 8)):
        pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": memory}
        monkeypatch.setattr(worker.os, "sysconf", pages.__getitem__)
        assert worker.num_processes("cpu", Source("huggingface", world / "model")) == expected


def test_small_pool_starts_no_processes(world):
    units = of_embed._units(open_pool(world / "pool"), ("images", "texts"))
    size = sum((world / "pool" / f"{shard:05}.tar").stat().st_size for shard in range(SHARDS))
    assert of_embed._num_worthwhile(units) == 1 + size // (256 * 2**10)
    files = of_embed._units(open_pool(world / "photos"), ())
    assert of_embed._num_worthwhile(files) == 1


@pytest.mark.slow
def test_two_processes_write_the_same_embeddings(world, tmp_path):
    embed(world / "model", world / "pool", tmp_path / "one", executor=QUIET)
    embed(world / "model", world / "pool", tmp_path / "two", executor=LocalExecutor(workers=2, quiet=True))
    for shard in range(SHARDS):
        one, two = (np.load(tmp_path / name / f"images/{shard:05}.tar.npy") for name in ("one", "two"))
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_vectors_stand_in_the_table_where_asked_for_and_search_still_works(world, tmp_path):
    kinds = ("images", "texts")
    embed(world / "model", world / "pool", tmp_path, of=kinds, vectors_in_table=True, executor=QUIET)
    for kind in kinds:
        place = tmp_path / kind / "00000.tar"
        table = pq.read_table(f"{place}.parquet")
        vectors = np.stack(table["vector"].to_numpy())
        np.testing.assert_array_equal(vectors, np.load(f"{place}.npy"))
    assert "vector" not in search(tmp_path, ["a red circle"], top=1)[0]["hits"][0]


@pytest.mark.parametrize(("name", "expected"), [("uid", ["a", "b"]), ("name", ["0.parquet#0", "0.parquet#1"])])
def test_a_table_is_embedded_by_the_column_that_usually_identifies_a_pair_or_by_its_rows(
    name, expected, world, tmp_path, capfd
):
    write_table(tmp_path / "pool/0.parquet", {name: ["a", "b"], "caption": ["a red apple", "cat"]})
    embed(world / "model", tmp_path / "pool", tmp_path / "out", of=("texts",), executor=QUIET)
    assert pq.read_table(tmp_path / "out/texts/0.parquet.parquet")["key"].to_pylist() == expected
    assert "--key names another column" in capfd.readouterr().err
