"""What curate leaves: tars, rows, keys, a card that `datasets` reads; and no file after match holds a denied key."""

import hashlib
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miniature import write_files
from plain_recipe import keys_of, make_recipe, make_run, make_shards, run_stages, write_pool
from pools import read_tar, texts_of, write_parquet, write_table
from stages import QUIET, context
from tars import as_json, write_tar
from toy import markdown_rows
from worldclip import curate, pool
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.keys import key_lists
from worldclip.curate.samples import merge_samples
from worldclip.export.embedded import open_embedded
from worldclip.plugins.publish.publish import publish
from worldclip.recipe import walk
from worldclip.tools.embed import embed

SHARDS = make_shards(seed=2)
TEXTS = ["the old green tree on the mountain by the water", "unmatched words everywhere without any listed thing"]
TEXT = TEXTS[0]
KEEP_ALL = {"balance": {"tail_fraction": 1.0}}
KEY_OF_CURATED = {"tars": "json:key", "parquet": "uid"}


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, SHARDS)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def kept_keys(run: Path) -> list[str]:
    return [key for name in layout.matched_shards(run) for key in curate.read_curated(run, name)["key"].to_pylist()]


def test_hex_keys_give_datacomps_list_which_serves_as_valid_keys(tmp_path, run):
    names = [hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest() for i in range(40)]
    shards = {"0.tar": names[:25], "1.tar": names[20:]}  # five keys are in both
    write_pool(
        tmp_path / "pool",
        {shard: [(name, [TEXT, f"{TEXT} water"]) for name in keys] for shard, keys in shards.items()},
    )
    report = run_stages(make_recipe(tmp_path / "pool", curate={"text_policy": "all"}), run)["curate"]
    kept = sorted({*kept_keys(run)})
    listed = np.load(run / "curate" / "keys.npy")
    assert listed.dtype == np.dtype("u8,u8")
    assert listed.tolist() == [(int(key[:16], 16), int(key[16:], 16)) for key in kept]
    assert report["num_keys_in_list"] == len(kept) > 0

    valid = (run / "curate" / "keys.npy").rename(tmp_path / "keys.npy")
    recipe = make_recipe(tmp_path / "pool", pool={"valid_keys": str(valid)}, curate={"text_policy": "all"})
    assert run_stages(recipe, run)["curate"]["total"]["not_valid"] > 0
    unlisted = {"text_policy": "all", "write_keys": False}
    assert run_stages(make_recipe(tmp_path / "pool", curate=unlisted), run)["curate"]["num_keys_in_list"] is None
    assert not (run / "curate" / "keys.npy").exists()
    write_pool(tmp_path / "pool", {"0.tar": [("no_hex", [TEXT])]})
    assert run_stages(make_recipe(tmp_path / "pool", **KEEP_ALL), run)["curate"]["num_keys_in_list"] is None
    assert not (run / "curate" / "keys.npy").exists()


@pytest.mark.parametrize("policy", ["one", "all"])
def test_kept_samples_as_tars_hold_the_pools_bytes_and_make_a_pool_again(pool_folder, run, policy):
    options = {"text_policy": policy, "write": "tars", "samples_per_tar": 7}
    report = run_stages(make_recipe(pool_folder, curate=options), run)
    kept: dict[str, list[str]] = {}
    for name in sorted(SHARDS):
        for row in curate.read_curated(run, name).to_pylist():
            kept.setdefault(row["key"], []).append(row["text"])
    assert report["curate"]["tars"] == {"samples": len(kept), "no_image": 0, "cut_image": 0}
    assert len(list((run / "curate/tars").glob("*.tar"))) == -(-len(kept) // 7)

    recipe = make_recipe(run / "curate" / "tars", pool={"key": "json:key", "texts": ["json:texts"]})
    found: dict[str, list[str]] = {}
    numbers = []
    for shard in pool.list_pool(context(recipe, run)):
        texts = texts_of(shard, recipe.pool)
        for key, text in zip(texts.key.to_pylist(), texts.text.to_pylist(), strict=True):
            found.setdefault(key, []).append(text)
        members = read_tar(Path(shard.path))
        for name in (name for name in members if name.endswith(".json")):
            record = json.loads(members[name])
            numbers.append(int(name.removesuffix(".json")))
            assert members[name.replace(".json", ".jpg")] == b"image of " + Path(record["key"]).name.encode()
            assert members[name.replace(".json", ".txt")].decode() == record["texts"][0]
    assert found == kept
    assert numbers == list(range(len(kept)))


@pytest.mark.parametrize(
    ("texts", "fields", "others"),
    [
        ([], {"caption": "", "texts": [TEXT, "zzz"]}, {}),
        (["txt", "json:texts"], {"caption": "", "texts": [TEXT, "zzz"]}, {}),
        (["json:words"], {"words": [TEXT, "zzz"]}, {"caption": "no text of the pool"}),
    ],
)
def test_curated_tars_keep_the_fields_of_the_pool_but_no_dropped_text(tmp_path, run, texts, fields, others, capfd):
    others = {"url": "http://x/a.jpg", "sha256": "ab", "width": 3, "alt": "\ud800", **others}
    record = as_json(others | fields)
    write_tar(tmp_path / "pool/0.tar", [("a.json", record), ("a.jpg", b"A"), ("b.json", record)])
    sections = {"pool": {"texts": texts}, "curate": {"write": "tars"}, **KEEP_ALL}
    report = run_stages(make_recipe(tmp_path / "pool", **sections), run)["curate"]
    written = json.loads(read_tar(run / "curate/tars/000000.tar")["000000000.json"])
    assert written == {**others, "key": "a", "texts": [TEXT], "text_idx": [0], "lang": ["en"]}
    assert report["tars"] == {"samples": 1, "no_image": 1, "cut_image": 0}, "b has no image"
    said = capfd.readouterr().err
    assert f"1 sample in tars: {run}/curate/tars" in said
    assert "warning: kept keys without an image in the pool, which are in no tar: 1\n" in said
    run_stages(make_recipe(tmp_path / "pool", **KEEP_ALL), run, stages="curate")
    assert not (run / "curate" / "tars").exists()


def test_a_picture_in_the_tars_has_the_texts_of_its_key_where_other_keys_have_none(tmp_path, run):
    for shard, without in (("a", (0, 3, 4)), ("b", (1, 5))):
        members = []
        for key in (f"{shard}{i}" for i in range(8)):
            members.append((f"{key}.json", as_json({"texts": [f"{TEXT} {key}"]})))
            if int(key[1]) not in without:
                members.append((f"{key}.jpg", key.encode()))
        write_tar(tmp_path / f"pool/{shard}.tar", members)
    curating = {"write": "tars", "samples_per_tar": 5}
    report = run_stages(make_recipe(tmp_path / "pool", curate=curating, **KEEP_ALL), run)["curate"]
    assert report["tars"] == {"samples": 11, "no_image": 5, "cut_image": 0}
    for tar in (run / "curate/tars").glob("*.tar"):
        members = read_tar(tar)
        for name in (name for name in members if name.endswith(".jpg")):
            record = json.loads(members[name.replace(".jpg", ".json")])
            assert [record["key"], record["texts"]] == [members[name].decode(), [f"{TEXT} {record['key']}"]]


@pytest.mark.parametrize("least", [0, 10])
def test_curated_rows_of_a_parquet_pool_keep_all_columns(tmp_path, run, least):
    texts = [["zzz", *(f"{TEXT} {i} {n}" for n in range(i % 4))] for i in range(30)]
    rows = [{"uid": f"{i:03}", "url": f"http://x/{i}", "text": text, "n": i} for i, text in enumerate(texts)]
    rows.append({**rows[1], "n": 99})  # a repeated key: the first is the pair
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    write_table(tmp_path / "pool/part.parquet", columns, row_group_size=7)
    pool_config = {"key": "uid", "texts": ["text"]}
    if least:  # rows that pool.where leaves out shift none of the others
        pool_config["where"] = [["n", ">=", least]]
    sections = {"pool": pool_config, **KEEP_ALL}
    curating = {"write": "parquet", "text_policy": "all"}
    report = run_stages(make_recipe(tmp_path / "pool", curate=curating, **sections), run)["curate"]
    written = pq.read_table(run / "curate/parquet/part.parquet")
    assert written.column_names == [*columns, "kept_text", "kept_texts", "kept_text_idx", "kept_lang"]
    first = {row["uid"]: row for row in reversed(rows) if row["n"] >= least}
    expected = [row for row in rows if row in first.values() and len(row["text"]) > 1]
    assert written.select(list(columns)).to_pylist() == expected
    kept = [row["text"][1:] for row in expected]
    assert (report["parquet"], report["total"]["pairs_out"]) == ({"rows": len(expected)}, sum(map(len, kept)))
    assert written["kept_text"].to_pylist() == [texts[0] for texts in kept]
    assert written["kept_texts"].to_pylist() == kept
    assert written["kept_text_idx"].to_pylist() == [list(range(1, len(texts) + 1)) for texts in kept]
    run_stages(make_recipe(tmp_path / "pool", **sections), run, stages="curate")
    assert not (run / "curate" / "parquet").exists()


def test_the_joins_of_the_page_give_each_pair_its_own_row(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/4_curate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page.partition("## Join the lists")[2].partition("\n## ")[0], re.DOTALL)
    pytest.importorskip("pandas", reason="pandas is not installed")
    rows = {
        "a": [*((f"{i:03}", TEXTS[i % 3 == 0], i) for i in range(30)), ("x", TEXT, 30), ("x", TEXTS[1], 31)],
        "b": [("x", TEXT, 32), ("y", TEXTS[1], 33), ("x", TEXT, 34), ("y", TEXT, 35)],
    }
    for name, (uids, texts, numbers) in {name: zip(*part, strict=True) for name, part in rows.items()}.items():
        write_table(tmp_path / f"my_pool/{name}.parquet", {"uid": uids, "text": texts, "n": numbers})
    options = {"pool": {"key": "uid", "texts": ["text"]}, **KEEP_ALL}
    run_stages(make_recipe(tmp_path / "my_pool", **options), tmp_path / "runs/mine")
    monkeypatch.chdir(tmp_path)
    firsts = [row for row in (*rows["a"], *rows["b"]) if row[2] not in (31, 34, 35)]
    kept = [n for _, text, n in firsts if text == TEXT]
    for code in blocks:
        names: dict[str, Any] = {}
        exec(code, names)
        tables = {name: names[name].df() if "duckdb" in names else names[name] for name in ("kept", "why")}
        assert sorted(tables["kept"]["n"]) == kept
        reasons = sorted(zip(tables["why"]["n"], tables["why"]["reason"], strict=True))
        assert reasons == [(n, "no_match") for _, text, n in firsts if text != TEXT]
    assert len(blocks) == 2


def test_files_that_would_mix_with_others_are_refused(pool_folder, tmp_path, run):
    with pytest.raises(UserError, match=r'curate\.write = "parquet": .*\.tar is no Parquet file'):
        run_stages(make_recipe(pool_folder, curate={"write": "parquet"}), run)
    write_pool(tmp_path / "pool", {f"{folder}/0.tar": [("a", [TEXT])] for folder in ("tars", "sums", "windows")})
    recipe = make_recipe(tmp_path / "pool", curate={"write": "tars"}, **KEEP_ALL)
    with pytest.raises(UserError, match=r"\.tar files .* choose a folder outside"):
        run_stages(recipe, tmp_path / "pool/run")
    with pytest.raises(UserError, match=r"list of the shard tars/0\.tar stands as well; rename the pool's folder"):
        run_stages(recipe, run)
    write_pool(tmp_path / "other", {"dropped/0.tar": [("a", [TEXT])]})
    with pytest.raises(UserError, match=r"shard dropped/0\.tar stands .* or set curate\.write_dropped = false"):
        run_stages(make_recipe(tmp_path / "other"), tmp_path / "other_run")
    report = run_stages(make_recipe(tmp_path / "pool", curate={"max_pairs": 3}, **KEEP_ALL), run)["curate"]
    hidden = {".work", "dropped"}
    lists = [path for path in (run / "curate").rglob("*.tar.parquet") if hidden.isdisjoint(path.parts)]
    assert sum(pq.read_metadata(path).num_rows for path in lists) == report["total"]["pairs_out"] > 0
    assert len(lists) == 3


def mixed_lake(folder: Path, names: tuple[str, str]) -> dict[str, Any]:
    """Write a place of tars and one of Parquet with images; return [pool] of both."""
    write_pool(folder / names[0], {"0.tar": [("a", [TEXT])]})
    write_parquet(folder / names[1] / "0.parquet", [{"uid": "b", "text": TEXT, "image": b"\x89PNG", "name": "b.png"}])
    tars, tables = (str(folder / name) for name in names)
    return {"place": [{"path": tars, "texts": ["json:texts"]}, {"path": tables, "key": "uid", "texts": ["text"]}]}


@pytest.mark.parametrize("names", [("tars", "tables"), ("dropped", "parquet")])
def test_what_a_mixed_lake_cannot_be_written_as_is_said_before_the_work(names, tmp_path, run):
    sections = {"pool": mixed_lake(tmp_path, names), "languages": {"codes": ["en"]}, **KEEP_ALL}
    problems = set()
    for kind in ("tars", "parquet"):
        recipe = load_recipe({**sections, "metadata": {"sources": ["number"]}, "curate": {"write": kind}})
        for is_dry in (False, True):
            with pytest.raises(UserError) as raised:
                walk(recipe, run, until="curate", dry_run=is_dry)
            problems |= {*raised.value.problems}
    assert not run.exists()
    said = "\n".join(sorted(problems))
    assert f'curate.write = "parquet": {names[0]}/0.tar is no Parquet file; set "list", or "tars" for tars' in said
    for name in {*names} - {"tables"}:
        assert f"RUN/curate/{name} is written, where the list of the shard {name}/0." in said
    assert len(problems) == len({*names} - {"tables"}) + 1


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_tables_without_images_are_refused_as_tars_before_the_work(prefix, tmp_path, run):
    row = {"uid": "b", "text": TEXT}
    write_files(tmp_path, {"dropped/0.parquet": "damaged", "lines/0.jsonl": json.dumps(row)})
    write_table(tmp_path / "dropped/1.parquet", {name: [value] for name, value in row.items()})
    write_parquet(tmp_path / "photos/0.parquet", [{**row, "image": b"\x89PNG", "name": "b.png"}])

    def walk_places(*names: str) -> None:
        places = [{"path": f"{prefix}{tmp_path / name}", "key": "uid"} for name in names]
        sections = {"pool": {"place": places}, "languages": {"codes": ["en"]}, "metadata": {"sources": ["number"]}}
        recipe = load_recipe({**sections, **KEEP_ALL, "curate": {"write": "tars", "write_dropped": "lines" in names}})
        walk(recipe, run, until="curate", dry_run="photos" in names)

    with pytest.raises(UserError) as raised:
        walk_places("dropped", "lines")
    kept_in_dropped, no_images = raised.value.problems
    assert "RUN/curate/dropped is written, where the list of the shard dropped/0.parquet stands" in kept_in_dropped
    assert no_images.startswith('curate.write = "tars": the pool consists of tables without images; set "list"')
    assert not run.exists()
    walk_places("dropped", "photos")


def test_a_mixed_lake_is_written_as_tars(tmp_path, run):
    in_pool = mixed_lake(tmp_path, ("photos", "tables"))
    recipe = load_recipe({"pool": in_pool, "languages": {"codes": ["en"]}, "curate": {"write": "tars"}, **KEEP_ALL})
    assert run_stages(recipe, run)["curate"]["tars"] == {"samples": 2, "no_image": 0, "cut_image": 0}


def test_data_card_states_counts_settings_and_digests(tmp_path):
    valid = tmp_path / "check" / "valid_keys.parquet"
    artifacts.write_table(valid, pa.table({"key": keys_of(SHARDS)}), schemas.VALID_KEYS)
    run = make_run(tmp_path, SHARDS, pool={"valid_keys": str(valid)}, curate={"text_policy": "all"})
    report = artifacts.read_json(run / "curate" / "report.json")
    card = (run / "curate" / "DATA_CARD.md").read_text(encoding="utf-8")
    assert f"{report['total']['pairs_out']:,} of {report['total']['pairs_in']:,} image-text pairs" in card
    rows = {row[:3] for row in markdown_rows(card)}
    for lang, row in report["languages"].items():
        assert (lang, f"{row['pairs_in']:,}", f"{row['pairs_out']:,}") in rows
    assert 'text_policy = "all"' in card
    assert 'valid_keys = "valid_keys.parquet"' in card, "the card is published: no folder of this machine"
    assert artifacts.require_manifest(run, "balance")["digest"] in card


def test_deny_list_that_leaves_nothing_leaves_no_tar_and_no_list_of_keys(tmp_path, run):
    options = {"curate": {"write": "tars"}, **KEEP_ALL}
    key = "0a" * 16  # hex, so that keys.npy is written
    make_run(tmp_path, {"0.tar": [(key, [TEXT])]}, **options)
    assert all((run / "curate" / name).exists() for name in ("tars/000000.tar", "keys.npy"))
    denied = write_table(tmp_path / "deny.parquet", {"key": [key]})
    with pytest.raises(UserError, match="0 of 1 samples kept"):
        run_stages(make_recipe(tmp_path / "pool", pool={"deny_keys": [str(denied)]}, **options), run)
    assert not list((run / "curate").glob("tars*"))
    assert not list((run / "curate").glob("keys*"))


def test_denied_key_with_a_credential_is_not_shown(tmp_path) -> None:
    """Match writes a key that is an address without its signature, so the deny list cannot be asked about it."""
    key = "https://h.org/p.jpg?sig=1"
    artifacts.write_json(tmp_path / "sample.json", {"shard": "0.parquet", "key": key, "text": "private"})
    sample = artifacts.read_json(tmp_path / "sample.json")
    pq.write_table(pa.table({"key": [key]}), tmp_path / "deny.parquet")
    lists = key_lists(None, [str(tmp_path / "deny.parquet")], tmp_path / "sorted")
    assert merge_samples(tmp_path, [], {"no_match": [sample]}, lists) == {}
    assert merge_samples(tmp_path, [], {"no_match": [sample]}, ()) == {"no_match": [sample]}


def loaded(folder: Path, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("place", ["curate", "curate/tars", "publish list", "publish tars"])
def test_another_run_and_one_that_is_curated_again_have_their_own_rows_in_one_cache(place, tmp_path) -> None:
    denied = tmp_path / "denied.parquet"
    options = {"curate": {"write": "tars", "samples_per_tar": 7}, "pool": {"deny_keys": [str(denied)]}}
    folder, _, data = place.partition(" ")
    taken_down: list[str] = []
    for name, seed in (("first", 2), ("second", 3), ("second", 3)):
        write_table(denied, {"key": pa.array(taken_down, pa.string())})
        run = make_run(tmp_path / name, make_shards(seed=seed), **options)
        if data:
            publish.function(run, "me/pairs", data=data, dry_run=True)
        rows = loaded(run / folder, tmp_path)
        keys = [row["key"] for row in rows["json"]] if place.endswith("tars") else rows["key"]
        kept = kept_keys(run)
        assert sorted(keys) == sorted(kept)
        assert {*kept}.isdisjoint(taken_down)
        taken_down = kept[::2]


def test_tables_and_lists_of_a_parquet_pool_load_apart_and_anew(tmp_path, run) -> None:
    options = {"pool": {"key": "uid", "texts": ["text"]}, "curate": {"write": "parquet"}, **KEEP_ALL}
    for size in (5, 3):
        keys = [f"{i:03}" for i in range(size)]
        write_table(tmp_path / "pool/part.parquet", {"uid": keys, "text": TEXTS[:1] * size})
        run_stages(make_recipe(tmp_path / "pool", **options), run)
        assert loaded(run / "curate", tmp_path)["key"] == keys
        assert loaded(run / "curate/parquet", tmp_path)["uid"] == keys
    (tmp_path / "pool/part.parquet").rename(tmp_path / "pool/other.parquet")
    run_stages(make_recipe(tmp_path / "pool", **options), run)
    assert loaded(run / "curate/parquet", tmp_path)["uid"] == keys, "those of the shard that is gone are gone"


def test_shards_of_which_nothing_is_kept_do_not_matter(tmp_path) -> None:
    """They come first, between the others, and last."""
    kinds = [1, 0, 1, 0, 1]
    shards = {f"{n:05}.tar": [(f"{n}{i}", [TEXTS[kind]]) for i in range(3)] for n, kind in enumerate(kinds)}
    run = make_run(tmp_path, shards, **KEEP_ALL)
    expected = [f"{n}{i}" for n in (1, 3) for i in range(3)]
    assert loaded(run / "curate", tmp_path)["key"] == expected
    publish.function(run, "me/pairs", data="list", dry_run=True)
    assert loaded(run / "publish", tmp_path)["key"] == expected
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    record = mlcroissant.Dataset(jsonld=str(run / "publish/croissant.json"), mapping={"repo": str(run / "publish")})
    assert [row["pairs/key"].decode() for row in record.records("pairs")] == expected


def test_tars_of_a_csv_pool_keep_its_columns_and_the_first_row_of_a_repeated_key(tmp_path, run) -> None:
    (tmp_path / "pool").mkdir()
    for name in "ab":
        (tmp_path / f"pool/{name}.png").write_bytes(name.encode())
    rows = [f"u1,a.png,{TEXT},first", "short", f"u1,b.png,{TEXT},second", f"u2,b.png,{TEXT},007"]
    (tmp_path / "pool/0.csv").write_text("\n".join(["uid,file,text,note", *rows]))
    pooled = {"key": "uid", "texts": ["text"], "image_field": "file"}
    run_stages(make_recipe(tmp_path / "pool", pool=pooled, curate={"write": "tars"}, **KEEP_ALL), run)
    members = read_tar(run / "curate/tars/000000.tar")
    records = [json.loads(content) for name, content in members.items() if name.endswith(".json")]
    assert [(record["uid"], record["note"]) for record in records] == [("u1", "first"), ("u2", "007")]
    assert [content for name, content in members.items() if name.endswith(".png")] == [b"a", b"b"]


def test_tars_are_not_written_while_the_disk_of_the_pictures_is_away(tmp_path, run) -> None:
    pictures = write_files(tmp_path / "disk", {"a.png": b"a", "b.png": b"b"})
    rows = [f"u{name},{pictures / name}.png,{TEXT}" for name in "ab"]
    write_files(tmp_path / "pool", {"0.csv": "\n".join(["uid,file,text", *rows])})
    pooled = {"key": "uid", "texts": ["text"], "image_field": "file"}
    run_stages(make_recipe(tmp_path / "pool", pool=pooled, **KEEP_ALL), run)
    pictures.rename(tmp_path / "unmounted")
    recipe = make_recipe(tmp_path / "pool", pool=pooled, curate={"write": "tars"}, **KEEP_ALL)
    said = r"a\.png: cannot be read \(No such file or directory\); put it back, or read the pool again: "
    with pytest.raises(StageFailed, match=said):
        run_stages(recipe, run)
    (tmp_path / "unmounted").rename(pictures)
    assert run_stages(recipe, run)["curate"]["tars"]["samples"] == 2
    (pictures / "a.png").unlink()
    (run / "curate/manifest.json").unlink()
    shutil.rmtree(run / "curate/tars")
    with pytest.raises(StageFailed, match=said):
        run_stages(recipe, run)
    shutil.rmtree(run / "pool")  # as --from pool: its pair is a bad one now
    report = run_stages(recipe, run)["curate"]
    assert report["tars"] == {"samples": 1, "no_image": 0, "cut_image": 0}


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="embeds with a model")
@pytest.mark.parametrize("write", ["tars", "parquet"])
def test_only_what_was_kept_is_embedded_from_curated_files(world, tmp_path, run, write) -> None:
    from embedded_world import picture

    texts = [(f"k{i}", TEXTS[i % 2]) for i in range(6)]
    rows = [{"uid": key, "text": text, "image": picture(0), "name": f"{key}.png"} for key, text in texts]
    write_parquet(tmp_path / "pool/0.parquet", rows)
    options = {"pool": {"key": "uid", "texts": ["text"]}, "curate": {"write": write}, **KEEP_ALL}
    run_stages(make_recipe(tmp_path / "pool", **options), run)
    keys: dict[str, set[str]] = {}
    for name, source, key in (("every", run, None), ("kept", run / "curate" / write, KEY_OF_CURATED[write])):
        embed(world / "model", source, tmp_path / name, of=("images",), key=key, executor=QUIET)
        embedded = open_embedded(tmp_path / name)
        keys[name] = {row["key"] for row in embedded.rows(np.arange(len(embedded)))}
    assert keys["kept"] == set(kept_keys(run)) == {"k0", "k2", "k4"} < keys["every"]


def test_curated_parquet_keeps_the_metadata_of_the_schema(tmp_path, run) -> None:
    metadata = {b"huggingface": b'{"info": {"features": {"image": {"_type": "Image"}}}}', b"licence": b"CC0"}
    table = pa.table({"uid": ["a"], "text": [TEXT]}).replace_schema_metadata(metadata)
    (tmp_path / "pool").mkdir()
    pq.write_table(table, tmp_path / "pool/0.parquet")
    pooled = {"key": "uid", "texts": ["text"]}
    run_stages(make_recipe(tmp_path / "pool", pool=pooled, curate={"write": "parquet"}, **KEEP_ALL), run)
    written = pq.read_schema(run / "curate/parquet/0.parquet").metadata
    assert written[b"licence"] == b"CC0"
    assert json.loads(written[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}


def test_rows_of_shards_two_folders_deep_are_loaded_once(tmp_path, run) -> None:
    shards = {"a/b/0.tar": [("1", [TEXT])], "a/c/0.tar": [("2", [TEXT])], "d/0.tar": [("3", [TEXT])]}
    write_pool(tmp_path / "pool", shards)
    run_stages(make_recipe(tmp_path / "pool", **KEEP_ALL), run)
    assert sorted(loaded(run / "curate", tmp_path)["key"]) == ["a/b/1", "a/c/2", "d/3"]
