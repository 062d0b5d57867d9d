"""`worldclip embed` writes the model's own embeddings of a pool; `search` finds in them what sorting all would."""

import inspect
import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded_world import (
    BAD,
    PER_SHARD,
    SHARDS,
    change_places,
    key_of,
    picture,
    segment_of,
    text_of,
    write_other_weights,
)
from killed import contents
from miniature import write_files
from pools import write_table
from stages import QUIET
from toy import write_tar
from worldclip.cli import main
from worldclip.contracts.schemas import EMBEDDED_IMAGES, IMAGE_PLACES
from worldclip.core import image_names
from worldclip.core.artifacts import read_table, write_array, write_manifest
from worldclip.core.artifacts import write_table as write_artifact_table
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.export.embedded import Embedded
from worldclip.model import decode, precision, worker
from worldclip.model.load import Source
from worldclip.plugins.server.serve import serve
from worldclip.tools import embed_shard
from worldclip.tools import search as of_search
from worldclip.tools.embed import embed
from worldclip.tools.models import classify
from worldclip.tools.search import nearest, open_embedded, search

NUM_GOOD = SHARDS * (PER_SHARD - 1)
KINDS = ("images", "texts")


def column_of(out: Path, shard: str, name: str, of: str = "texts") -> list:
    """Return a column of a segment's table."""
    return pq.read_table(segment_of(out, shard, "parquet", of))[name].to_pylist()


def first_row(embedded: Embedded) -> dict:
    return embedded.rows(np.array([0]))[0]


def test_rows_are_the_embeddings_of_images_and_texts(world, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_shard, "IMAGES_AT_ONCE", BAD - 2)  # the bad picture is not of the first ones
    report = embed(world / "model", world / "pool", tmp_path, of=KINDS, vectors_in_table=True, executor=QUIET)
    counts = {"shards": SHARDS, "pairs": SHARDS * PER_SHARD, "embedded": NUM_GOOD, "undecodable": SHARDS, "no_image": 0}
    assert {name: report["images"][name] for name in counts} == counts
    assert {sample["key"] for sample in report["images"]["bad"]} == {key_of(shard, BAD) for shard in range(SHARDS)}
    assert report["texts"]["embedded"] == SHARDS * PER_SHARD
    for shard in range(SHARDS):
        rows = pq.read_table(segment_of(tmp_path, f"{shard:05}.tar", "parquet")).to_pylist()
        features = np.load(segment_of(tmp_path, f"{shard:05}.tar", "npy"))
        good = [i for i in range(PER_SHARD) if i != BAD]
        assert [row["key"] for row in rows] == [key_of(shard, i) for i in good]
        expected = clip.encode_image([picture(100 * shard + i) for i in good])
        np.testing.assert_allclose(features, expected, atol=1e-6)
        np.testing.assert_array_equal([row["vector"] for row in rows], features)
        row = rows[3]
        assert (row["place"], row["file"]) == (0, f"{shard:05}.tar")
        with open(world / "pool" / row["file"], "rb") as file:
            assert file.read()[row["offset"] :][: row["size"]] == picture(100 * shard + good[3])
        texts = column_of(tmp_path, f"{shard:05}.tar", "text")
        assert texts == [text_of(shard, i) for i in range(PER_SHARD)]
        features = np.load(segment_of(tmp_path, f"{shard:05}.tar", "npy", "texts"))
        np.testing.assert_allclose(features, clip.encode_text(texts), atol=1e-6)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"]["model"]["source"] == str((world / "model").resolve())
    assert manifest["counts"] == {"images": NUM_GOOD, "texts": SHARDS * PER_SHARD}
    assert "vector" not in search(tmp_path, ["a red circle"], top=1)[0]["hits"][0]


def test_a_moved_pool_and_a_removed_file_are_embedded_again(world, tmp_path, monkeypatch, capfd):
    """Search prints paths that exist, and the remedy in the message of a damaged file works."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "photos", "photos")
    embed(world / "model", "photos", "out", executor=QUIET)
    Path("photos").rename("fotos")
    embed(world / "model", "fotos", "out", executor=QUIET)
    assert f"source was {tmp_path}/photos"[:30] in capfd.readouterr().err
    assert open_embedded("out").manifest["source"] == f"{tmp_path}/fotos"
    hits = search("out", ["a"])[0]["hits"]
    assert {hit["file"] for hit in hits} == {f"{tmp_path}/fotos/sub/{i}.png" for i in range(4)}
    for suffix in ("npy", "parquet"):
        path = segment_of(tmp_path / "out", "files_000000", suffix)
        path.write_bytes(b"cut")
        with pytest.raises(UserError, match=f"{path.name}.*; remove it and embed the pool again"):
            search("out", ["a"])
        path.unlink()
        embed(world / "model", "fotos", "out", executor=QUIET)
        assert search("out", ["a"])[0]["hits"] == hits
    capfd.readouterr()
    embed(world / "model", "fotos", "out", executor=QUIET)
    assert capfd.readouterr().err.count("is finished and unchanged") == 1
    shutil.copy("fotos/sub/0.png", "fotos/new.png")
    embed(world / "model", "fotos", "out", executor=QUIET)
    assert "starts (its inputs changed: image files)" in capfd.readouterr().err


def test_damaged_arrays_of_a_folder_are_named(world, tmp_path):
    out = tmp_path / "out"
    embed(world / "model", world / "photos", out, executor=QUIET)
    probe = out / json.loads((out / "manifest.json").read_text())["probe"]
    content = probe.read_bytes()
    probe.write_bytes(content[:100])
    with pytest.raises(UserError, match=rf"{probe.name} cannot be read .*; remove .*out and embed the pool again"):
        search(out, ["a"])
    probe.write_bytes(content)
    rows = segment_of(out, "files_000000", "npy")
    for size in ((), 4, (4, 1, 1)):
        np.save(rows, np.zeros(size, np.float32))
        with pytest.raises(UserError, match=f"{rows.name} is cut or no array .*; remove it and embed the pool again"):
            search(out, ["a"])


def test_another_model_or_decoder_starts_over(world, tmp_path, monkeypatch):
    def written(model: Path) -> int:
        """Return when the embeddings of a shard were written."""
        embed(model, world / "pool", tmp_path / "out", executor=QUIET)
        return segment_of(tmp_path / "out", "00001.tar", "npy").stat().st_mtime_ns

    first = written(world / "model")
    assert written(world / "model") == first
    monkeypatch.setattr(decode, "VERSION", "newer")
    second = written(world / "model")
    assert second > first
    other = shutil.copytree(world / "model", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    (other / "config.json").write_text(json.dumps(config))
    assert written(other) > second


def test_an_unfinished_check_is_not_taken_over(world, tmp_path):
    out = tmp_path / "out"
    assert main(["pool", "check", str(world / "pool"), "--out", str(out), "--shards", "1/3", "--workers", "1"]) == 0
    before = contents(out)
    with pytest.raises(UserError, match="holds the images of an unfinished check; choose an empty directory"):
        embed(world / "model", world / "pool", out, executor=QUIET)
    assert contents(out) == before


def test_texts_are_embedded_again_with_another_tokenizer_at_the_same_path(world, tmp_path):
    tokenizer = shutil.copytree(world / "model", tmp_path / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))

    def embedded(out: Path) -> bytes:
        embed(world / "model", world / "pool", out, of=["texts"], tokenizer=tokenizer, executor=QUIET)
        return segment_of(out, "00000.tar", "npy", "texts").read_bytes()

    first = embedded(tmp_path / "out")
    spec = json.loads((tokenizer / "tokenizer.json").read_text())
    spec["model"]["vocab"][5:] = spec["model"]["vocab"][:4:-1]  # other ids of the same pieces
    (tokenizer / "tokenizer.json").write_text(json.dumps(spec))
    second = embedded(tmp_path / "out")
    assert second == embedded(tmp_path / "anew") != first


def test_a_folder_of_images_alone_has_no_captions(world, tmp_path):
    embed(world / "model", world / "photos", tmp_path / "out", executor=QUIET)
    embedded = open_embedded(tmp_path / "out")
    assert embedded.captions(embedded.rows(np.array([0, 1]))) == {}


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


def test_a_table_is_embedded_by_its_texts_those_of_another_column_anew(world, clip, tmp_path, capfd):
    texts = ["a red apple", "", None, "赤いリンゴ", "again"]
    columns = {"uid": ["a", "b", "c", "d", "a"], "caption": texts, "title": ["cat"] * 5, "name": ["x"] * 5}
    path = write_table(tmp_path / "pool" / "0.parquet", columns)
    recipe = tmp_path / "r.toml"
    for column, expected in (("caption", ["a red apple", "赤いリンゴ"]), ("title", ["cat"] * 4)):
        recipe.write_text(f'[pool]\npath = "{path.parent}"\nkey = "uid"\ntexts = ["{column}"]\n')
        report = embed(world / "model", recipe, tmp_path / "out", executor=QUIET)["texts"]
        assert (report["embedded"], report["duplicate"], report["bad_pair"]) == (len(expected), 1, 0)
        features = np.load(segment_of(tmp_path / "out", "0.parquet", "npy", "texts"))
        np.testing.assert_allclose(features, clip.encode_text(expected), atol=1e-6)
    for name, keys in (("uid", ["a", "b", "c", "d"]), ("name", [f"0.parquet#{row}" for row in range(5)])):
        write_table(tmp_path / name / "0.parquet", {name: columns[name], "caption": ["cat"] * 5})
        embed(world / "model", tmp_path / name, tmp_path / f"by_{name}", of=("texts",), executor=QUIET)
        assert column_of(tmp_path / f"by_{name}", "0.parquet", "key") == keys
        assert "--key names another column" in capfd.readouterr().err


def test_columns_that_a_recipe_names_go_before_the_usual_ones(world, tmp_path):
    write_table(tmp_path / "pool/0.parquet", {"uid": ["a", "b"], "caption": ["red", "blue"], "title": ["cat", "dog"]})
    (tmp_path / "r.toml").write_text('[pool]\npath = "pool"\ntexts = ["title"]\n')
    embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)
    assert column_of(tmp_path / "out", "0.parquet", "text") == ["cat", "dog"]


def test_keys_that_a_recipe_denies_are_left_out_and_its_folder_stays(world, tmp_path):
    write_table(tmp_path / "mine/pool/0.parquet", {"uid": ["a", "b"], "caption": ["red", "blue"]})
    recipe = '[pool]\npath = "pool"\nkey = "uid"\ntexts = ["caption"]\ndeny_keys = ["denied.txt"]\n'
    write_files(tmp_path / "mine", {"r.toml": recipe, "denied.txt": "b\n"})
    before = contents(tmp_path / "mine")
    embed(world / "model", tmp_path / "mine/r.toml", tmp_path / "out", executor=QUIET)
    assert column_of(tmp_path / "out", "0.parquet", "key") == ["a"]
    assert contents(tmp_path / "mine") == before
    (tmp_path / "mine/denied.txt").write_text("a\n")
    embed(world / "model", tmp_path / "mine/r.toml", tmp_path / "out", executor=QUIET)
    assert column_of(tmp_path / "out", "0.parquet", "key") == ["b"]
    assert len(open_embedded(tmp_path / "out")) == 1
    write_files(tmp_path / "mine", {"r.toml": recipe.replace('"denied.txt"', '"denied.txt", "more.txt"')})
    assert len(open_embedded(tmp_path / "out")) == 1, "a list that is not there yet tells nothing"
    write_files(tmp_path / "mine", {"more.txt": "b\n"})
    with pytest.raises(UserError, match=r"new or changed lists of keys: '.*more\.txt'; embed the pool again"):
        open_embedded(tmp_path / "out")
    (tmp_path / "mine/r.toml").write_text(f'{recipe}where = [["caption", "=", "red"]]\n')
    with pytest.raises(UserError, match=r"out of date: pool\.where of .*r\.toml changed; embed the pool again"):
        open_embedded(tmp_path / "out")


def test_a_denied_key_without_a_text_counts_as_one_without_a_text(world, tmp_path):
    write_table(tmp_path / "pool/0.parquet", {"uid": ["a", "b", "c"], "caption": ["red", "blue", " "]})
    recipe = '[pool]\npath = "pool"\nkey = "uid"\ntexts = ["caption"]\ndeny_keys = ["denied.txt"]\n'
    write_files(tmp_path, {"r.toml": recipe, "denied.txt": "b\nc\n"})
    counts = embed(world / "model", tmp_path / "r.toml", tmp_path / "out", executor=QUIET)["texts"]
    assert [counts[name] for name in ("embedded", "no_text", "not_valid")] == [1, 1, 1]


def test_a_pool_of_only_bad_pictures_is_refused(world, tmp_path):
    write_tar(tmp_path / "bad" / "0.tar", [("a.png", b"cut"), ("a.txt", b" ")])
    with pytest.raises(UserError, match="holds nothing to embed of images; a: is not an image"):
        embed(world / "model", tmp_path / "bad", tmp_path / "out", executor=QUIET)
    assert not (tmp_path / "out/manifest.json").exists()
    assert (tmp_path / "out/.lock").read_text() == ""
    write_tar(tmp_path / "bad" / "1.tar", [("b.png", picture(0)), ("b.txt", b"x")])
    assert embed(world / "model", tmp_path / "bad", tmp_path / "out", executor=QUIET)["images"]["embedded"] == 1


def test_processes_are_as_many_as_memory_allows(world, monkeypatch):
    monkeypatch.setattr(worker, "usable_cores", lambda: 8)
    size = sum(path.stat().st_size for path in (world / "model").iterdir() if path.suffix not in (".json", ".md"))
    for memory, expected in ((2 * 3 * size + 2, 3), (size, 1), (1000 * size, 8)):
        pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": memory}
        monkeypatch.setattr(worker.os, "sysconf", pages.__getitem__)
        assert worker.num_processes("cpu", Source("huggingface", world / "model")) == expected


@pytest.mark.slow
def test_two_processes_write_the_same_embeddings(world, tmp_path):
    embed(world / "model", world / "pool", tmp_path / "one", executor=QUIET)
    embed(world / "model", world / "pool", tmp_path / "two", executor=LocalExecutor(workers=2, quiet=True))
    for shard in range(SHARDS):
        one, two = (np.load(segment_of(tmp_path / name, f"{shard:05}.tar", "npy")) for name in ("one", "two"))
        np.testing.assert_allclose(two, one, atol=1e-6)


# Search
@settings(deadline=None, max_examples=120)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
    num_queries=st.sampled_from([1, 3, 9]),
    top=st.integers(1, 50),
    block=st.integers(1, 17),
    levels=st.integers(1, 5),
    share=st.none() | st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_blocks_of_all_or_chosen_rows_equal_a_plain_sort(sizes, num_queries, top, block, levels, share, seed):
    """Use small integers: products are exact, and many are equal."""
    random = np.random.default_rng(seed)
    parts = [random.integers(-levels, levels + 1, (size, 4)).astype(np.float32) for size in sizes]
    query = random.integers(-levels, levels + 1, (num_queries, 4)).astype(np.float32)
    chosen = None if share is None else random.random(sum(sizes)) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_search, "BLOCK_ROWS", block)
        ids, scores = nearest(parts, query, top, chosen)
    products = query @ np.concatenate(parts).T
    order = np.argsort(-products, axis=1, kind="stable")
    if chosen is not None:
        order = order[chosen[order]].reshape(num_queries, chosen.sum())
    expected = order[:, :top]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(products, expected, axis=1))


def test_queries_of_texts_and_images_find_the_nearest(world, clip, tmp_path):
    (result,) = search(world / "embedded", "一只猫", top=5)
    good = [(shard, i) for shard in range(SHARDS) for i in range(PER_SHARD) if i != BAD]
    cosines = clip.similarity([picture(100 * shard + i) for shard, i in good], "一只猫")[:, 0]
    best = np.argsort(-cosines, kind="stable")[:5]
    assert result["query"] == "一只猫"
    assert [hit["key"] for hit in result["hits"]] == [key_of(*good[i]) for i in best]
    np.testing.assert_allclose([hit["score"] for hit in result["hits"]], cosines[best], atol=1e-6)
    (tmp_path / "a.png").write_bytes(picture(203))
    by_text, by_image = search(world / "embedded", ["apple"], [tmp_path / "a.png"], top=1000)
    assert len(by_text["hits"]) == len(by_image["hits"]) == NUM_GOOD
    (caption,) = search(world / "embedded", [text_of(1, 4)], top=1, of="texts")
    for hit, name, value in ((by_image["hits"][0], "key", key_of(2, 3)), (caption["hits"][0], "text", text_of(1, 4))):
        assert hit[name] == value
        assert hit["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("hardware", "taken", "other"), [("", "fp32", "bf16"), ("amx_bf16", "bf16", "fp32")])
def test_embed_takes_bfloat16_where_the_processor_multiplies_it(
    hardware, taken, other, world, clip, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(precision, "bf16_hardware", lambda device: hardware)
    command = ["embed", str(world / "model"), str(world / "photos"), "--out", str(tmp_path / "auto")]
    assert main(command) == 0
    assert main([*command[:-1], str(tmp_path / "fp32"), "--precision", "fp32"]) == 0
    features, plain = (np.load(next((tmp_path / name / "images").glob("*.npy"))) for name in ("auto", "fp32"))
    assert np.array_equal(features, plain) == (taken == "fp32")
    assert (features * plain).sum(axis=1).min() >= 0.9999
    assert open_embedded(tmp_path / "auto").manifest["config"]["model"]["precision"] == taken
    capfd.readouterr()
    assert main(["search", str(tmp_path / "auto"), "a red apple"]) == 0
    assert "was embedded in" not in capfd.readouterr().err
    assert main(["search", str(tmp_path / "auto"), "a red apple", "--precision", other]) == 0
    assert f"was embedded in {taken}, but {world / 'model'} runs in {other}" in capfd.readouterr().err
    assert all(
        inspect.signature(of).parameters["precision"].default == "auto" for of in (embed, classify.function, serve)
    )


@pytest.fixture
def folder(world, tmp_path) -> Path:
    """Return a copy of the embedded folder, to change; as somebody else might send it."""
    return Path(shutil.copytree(world / "embedded", tmp_path / "embedded"))


def change_manifest(folder: Path, section: str, values: dict) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[section] |= values
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_another_model_is_refused_and_a_moved_one_accepted(world, folder, tmp_path):
    moved = shutil.copytree(world / "model", tmp_path / "moved")
    model = json.loads((folder / "manifest.json").read_text())["config"]["model"]
    change_manifest(folder, "config", {"model": {**model, "source": str(tmp_path / "gone")}})
    with pytest.raises(UserError, match="if it moved, give its path as --model"):
        search(folder, ["a"])
    assert search(folder, ["a"], model=moved) == search(world / "embedded", ["a"])
    write_other_weights(moved)
    with pytest.raises(UserError, match="is not the model that embedded"):
        search(folder, ["a"], model=moved)


def test_an_opened_folder_that_was_embedded_again_is_not_read_on(world, tmp_path):
    out = tmp_path / "out"
    embed(world / "model", world / "pool", out, executor=QUIET)
    opened = open_embedded(out)
    opened.take(np.arange(2))
    other = shutil.copytree(world / "model", tmp_path / "other")
    write_other_weights(other)
    embed(other, world / "pool", out, executor=QUIET)
    with pytest.raises(UserError, match=r"00000\.tar\..*npy changed or went since the folder was opened"):
        opened.take(np.arange(2))
    with pytest.raises(UserError, match="open it again"):
        opened.rows(np.arange(2))
    open_embedded(out).take(np.arange(2))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", pickle.dumps([1])])
def test_damaged_embeddings_and_shards_elsewhere_are_refused(folder, content):
    (path,) = (folder / "images").glob("00000*.npy")
    path.write_bytes(content)
    with pytest.raises(UserError, match="remove it and embed the pool again"):
        open_embedded(folder)
    change_manifest(folder, "segments", {"images": {"a.tar": "../../x"}})
    with pytest.raises(UserError, match="is not a path below"):
        open_embedded(folder)


@pytest.mark.parametrize("kind", ["null", "type", "length"])
def test_tables_that_do_not_fit_their_embeddings_are_refused(kind, folder):
    path = segment_of(folder, "00000.tar", "parquet")
    table = read_table(path, EMBEDDED_IMAGES)
    if kind == "null":
        change_places(folder, file=None)
    elif kind == "type":
        pq.write_table(table.set_column(4, "size", pa.array(["x"] * len(table))), path)
    else:
        pq.write_table(table.slice(1), path)
    with pytest.raises(UserError, match=r"00000\.tar\..*parquet does not fit its \.npy"):
        search(folder, ["a"], top=1000)


@pytest.mark.parametrize(
    "place", ["{}/a.png", "{}/pool/../a.png", "{}/pool/link.png", "http://127.0.0.1:9/a.png", "file://{}/a.png"]
)
def test_pictures_outside_of_the_pool_and_at_addresses_are_not_read(place, world, folder, tmp_path, monkeypatch):
    """Somebody else may have written the tables, and the manifest, which says where the pool is."""
    monkeypatch.setattr(fsspec, "url_to_fs", lambda *arguments, **keys: pytest.fail(f"asked {arguments}"))
    write_files(tmp_path, {"a.png": picture(0), "pool/.hidden": ""})
    (tmp_path / "pool/link.png").symlink_to(tmp_path / "a.png")
    change_places(folder, place=-1, file=place.format(tmp_path), offset=0, size=len(picture(0)))
    row = first_row(open_embedded(folder))
    for places in ([str(tmp_path / "pool")], ["http://127.0.0.1:9"], []):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"places": places}))
        with pytest.raises(UserError, match=r"a\.png|link\.png.* does not lie in .*--pictures-from"):
            open_embedded(folder).read_picture(row)


def test_pictures_of_the_users_own_pool_are_read(world, tmp_path, monkeypatch):
    """Through links and `..`, of a single table, and at a URL that the user names."""
    (tmp_path / "link").symlink_to(world / "pool")
    shutil.copytree(world / "photos/sub", tmp_path / "photos")
    write_files(tmp_path, {"photos/table.csv": "filepath,title\n0.png,a picture\n"})
    for name, pool in (
        ("linked", tmp_path / "link"),
        ("dots", tmp_path / "photos/../link/0000[01].tar"),
        ("table", tmp_path / "photos/table.csv"),
        ("files", world / "photos/../photos"),
    ):
        embed(world / "model", pool, tmp_path / name, of=("images",), executor=QUIET)
        embedded = open_embedded(tmp_path / name)
        assert embedded.read_picture(first_row(embedded)) == picture(0), name
    fsspec.filesystem("memory").pipe_file("/place/pool/0.tar", (world / "pool/00000.tar").read_bytes())
    embed(world / "model", "memory://place/pool", tmp_path / "remote", executor=QUIET)
    row = first_row(open_embedded(tmp_path / "remote"))
    for place in ("memory:///place", "memory:///place/pool/"):
        assert open_embedded(tmp_path / "remote", pictures_from=[place]).read_picture(row) == picture(0)
    for place in ("memory:///plac", "memory:///place/pool/0"):
        with pytest.raises(UserError, match=f"0.tar does not lie in {place}"):
            open_embedded(tmp_path / "remote", pictures_from=[place]).read_picture(row)
    with pytest.raises(UserError) as caught:
        open_embedded(tmp_path / "remote", pictures_from=["https://", str(tmp_path / "none")])
    assert len(caught.value.problems) == 2


def test_pictures_that_were_replaced_since_are_not_shown_for_the_kept_vectors(world, tmp_path):
    shutil.copytree(world / "pool", tmp_path / "pool")
    shutil.copytree(world / "photos/sub", tmp_path / "photos")
    for name, file in (("pool", "00000.tar"), ("photos", "0.png")):
        embed(world / "model", tmp_path / name, tmp_path / f"of_{name}", of=("images",), executor=QUIET)
        embedded = open_embedded(tmp_path / f"of_{name}")
        row = first_row(embedded)
        assert embedded.read_picture(row) == picture(0)
        path = tmp_path / name / file
        content = path.read_bytes()
        path.write_bytes(content.replace(picture(0), picture(0)[::-1]))  # of the same size, at the same place
        with pytest.raises(UserError, match=rf"{file} changed since it was embedded; embed the pool again"):
            embedded.read_picture(row)
    later = (tmp_path / "of_photos/manifest.json").stat().st_mtime + 60
    os.utime(tmp_path / "of_photos/manifest.json", (later, later))  # as of a copy of the folder
    with pytest.raises(UserError, match=r"0\.png changed since it was embedded"):
        open_embedded(tmp_path / "of_photos").read_picture(row)
    other_shard = open_embedded(tmp_path / "of_pool").rows(np.array([PER_SHARD]))[0]
    assert open_embedded(tmp_path / "of_pool").read_picture(other_shard) == picture(101)


def test_more_shards_than_open_files_can_be_searched(world, tmp_path):
    folder, num_shards, dim = tmp_path / "embedded", 100, 48
    rows = np.eye(dim, dtype=np.float32)[:2]
    places = {"key": ["a", "b"], "file": ["f", "f"], "offset": [0, 1], "size": [1, 1]}
    names = [f"{i:05}.tar" for i in range(num_shards)]
    for name in names:
        write_array(folder / "images" / f"{name}.npy", rows)
        write_artifact_table(folder / "images" / f"{name}.parquet", pa.table(places), IMAGE_PLACES)
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


def test_search_prints_the_paths_of_pictures_from_here(world, tmp_path, monkeypatch, capfd):
    embed(world / "model", world / "photos", tmp_path / "photos", executor=QUIET)
    monkeypatch.chdir(world)
    write_files(tmp_path / "list", {"a.csv": f"image,sku,title\n{world}/photos/sub/3.png,k3,a dog\n"})
    embed(world / "model", tmp_path / "list", tmp_path / "of_list", of=("images",), executor=QUIET)
    for folder, path in (
        (tmp_path / "photos", "photos/sub/3.png"),
        (tmp_path / "of_list", "photos/sub/3.png  (a.csv/k3)"),
        ("embedded", f"pool/00000.tar/{key_of(0, 3)}"),
    ):
        assert main(["search", str(folder), "a", "--top", "1000"]) == 0
        assert path in [line.partition("  ")[2].partition("  ")[2] for line in capfd.readouterr().out.splitlines()]


def test_a_picture_among_the_texts_of_the_command_is_a_picture(world, monkeypatch, capfd):
    monkeypatch.chdir(world)
    assert main(["search", "embedded", "photos/sub/3.png", "a dog", "--of", "images", "--top", "1"]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[2:] == ["photos/sub/3.png", f"   1.000  pool/00000.tar/{key_of(0, 3)}"]
    assert shown[0] == "a dog"


def test_single_words_are_said_to_be_queries_of_their_own(world, monkeypatch, capfd):
    monkeypatch.chdir(world)
    hint = "2 queries: two, dogs; for one query write 'two dogs' in quotes"
    for words, is_said in ((["two", "dogs"], True), (["two dogs"], False), (["two dogs", "cat"], False)):
        assert main(["search", "embedded", *words, "--top", "1"]) == 0
        assert (hint in " ".join(capfd.readouterr().err.split())) == is_said, words


def test_user_errors_of_a_search(world, folder, tmp_path, capfd):
    embedded = str(world / "embedded")
    embed(world / "model", world / "photos", tmp_path / "photos", executor=QUIET)
    (folder / "manifest.json").unlink()
    for arguments, said in (
        ([str(tmp_path / "none"), "a"], "give a folder that `worldclip embed"),
        ([str(world / "pool"), "a"], "give a folder that `worldclip embed"),
        ([str(folder), "a"], "is unfinished"),
        ([f"{tmp_path}/photo", "a"], f"{tmp_path}/photo: no such folder; did you mean {tmp_path}/photos? give"),
        ([embedded], "no query"),
        ([embedded, "  \n"], "is blank"),
        ([embedded, "a", "--top", "0"], "top = 0"),
        ([embedded, "--images", str(tmp_path / "none.png")], "none.png: does not exist"),
        ([embedded, "a dog", "typo.jpg"], "typo.jpg: no such picture here"),
        ([embedded, "--images", "https://example.org/a.png"], "is a URL"),
        ([str(folder), "--images", str(world / "photos/bad.jpg")], "bad.jpg: is not an image that can be decoded"),
        ([str(tmp_path / "photos"), "a", "--of", "texts"], "holds no texts, only images"),
    ):
        assert main(["search", *arguments]) == 2, arguments
        assert said in capfd.readouterr().err.replace("\n", " "), arguments
