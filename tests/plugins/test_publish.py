"""What a run curated as a dataset of the hub: the folder, its card, its Croissant record, the upload."""

import dataclasses
import datetime
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fake_hub import client_of
from fake_hub import hub as hub  # the fixture
from killed import contents
from plain_recipe import LISTS, keys_of, make_recipe, make_shards, run_stages, write_metadata, write_pool
from pools import rows_of_tar
from toy import encode_png, write_tar
from worldclip.cli import main
from worldclip.contracts import layout
from worldclip.core.errors import UserError
from worldclip.curate import read_curated
from worldclip.plugins.publish import tables
from worldclip.plugins.publish.publish import prepared
from worldclip.plugins.publish.upload import list_files, upload_to_hub

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


def picture(key: str) -> bytes:
    """Return a small picture of a colour of its own."""
    pixels = np.full((4, 4, 3), np.frombuffer(key.encode()[-3:], np.uint8), np.uint8)
    return encode_png(pixels)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run after curate, with tars."""
    folder = tmp_path_factory.mktemp("publish")
    write_pool(folder / "pool", make_shards(seed=2), image_of=picture)
    write_metadata(folder / "run", LISTS)
    recipe = make_recipe(folder / "pool", curate={"write": "tars", "samples_per_tar": 7, "text_policy": "all"})
    run_stages(recipe, folder / "run")
    return folder / "run"


def published(run, data="list", license=None):
    """Write RUN/publish and return the upload."""
    with prepared(run, "me/pairs", data, license) as upload:
        return upload


def kept_rows(run):
    return [row for name in layout.matched_shards(run) for row in read_curated(run, name).to_pylist()]


def pairs_of(rows) -> list[tuple]:
    return sorted((row["key"], row["text"], row["lang"]) for row in rows)


def samples_of_tars(run) -> list[tuple]:
    """Return (key, first text, its language, image) of the samples of RUN/curate/tars."""
    rows = [row for tar in sorted((run / "curate/tars").glob("*.tar")) for row in rows_of_tar(tar)]
    return sorted((row["key"], row["texts"][0], row["lang"][0], row["image"]) for row in rows)


@pytest.mark.parametrize("data", ["list", "tars", "parquet"])
def test_datasets_loads_the_published_folder_and_its_croissant_record_is_valid(run, tmp_path, data, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 3)
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    published(run, data, "cc-by-4.0")
    folder = run / "publish"
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    record = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"), mapping={"repo": str(folder)})
    issues = record.metadata.ctx.issues
    assert not [*issues.errors, *issues.warnings]
    assert [records.id for records in record.metadata.record_sets] == ["pairs"]
    rows = [{name.partition("/")[2]: value for name, value in row.items()} for row in record.records("pairs")]
    texts = [{name: row[name].decode() for name in ("key", "text", "lang")} for row in rows]
    samples = samples_of_tars(run)
    if data == "list":
        assert pairs_of(loaded) == pairs_of(texts) == pairs_of(kept_rows(run))
        return
    assert pairs_of(texts) == [sample[:3] for sample in samples]
    if data == "tars":
        assert {row["key"] for row in loaded["json"]} == {key for key, *_ in samples}
        return
    assert {row["image"].size for row in rows} == {(4, 4)}
    assert loaded.features["image"].dtype == "PIL.Image.Image"
    undecoded = loaded.cast_column("image", datasets.Image(decode=False))
    assert sorted((row["key"], row["text"], row["lang"], row["image"]["bytes"]) for row in undecoded) == samples


@pytest.mark.parametrize("data", ["list", "tars", "parquet"])
def test_card_and_croissant_record_say_what_is_published(run, data, snapshot):
    upload = published(run, data, "cc-by-4.0" if data == "list" else None)
    text = (run / "publish/README.md").read_text(encoding="utf-8")
    record = json.loads((run / "publish/croissant.json").read_text())
    today = datetime.date.fromisoformat(record["datePublished"])
    num_bytes = sum(size for name, size in upload.files if name not in ("README.md", "croissant.json"))
    digest = json.loads((run / "curate/manifest.json").read_text())["digest"]
    for of_this_call in (f"{num_bytes:,} bytes", f"curate-{digest}"):
        assert text.count(of_this_call) == 1
        text = text.replace(of_this_call, "MASKED")
    assert "### Kept pairs by language" in text
    assert text.partition("## How it was made")[0] == snapshot
    assert record.pop("version") == f"{today.year}.{today.month}.{today.day}"
    (pairs,) = record.pop("recordSet")
    facts = {name: record[name] for name in ("name", "description", "url", "license", "inLanguage")}
    assert [json.dumps(item) for item in (facts, *record["distribution"], *pairs["field"])] == snapshot


def without_attributes(files) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != ".gitattributes"}


def test_dataset_is_created_private_or_proposed_by_a_pull_request_and_lists_replace_tars(run, hub):
    upload_to_hub(published(run, "tars"), client_of(hub), is_private=True)
    assert (hub.kinds, hub.private) == ({"me/pairs": "dataset"}, {"me/pairs"})
    before = hub.main("me/pairs")
    assert without_attributes(before) == contents(run / "publish")
    done = upload_to_hub(published(run), client_of(hub), as_pull_request=True)
    assert done.address == f"{hub.url}/datasets/me/pairs/discussions/1"
    assert hub.main("me/pairs") == before
    assert without_attributes(hub.pull_requests["me/pairs"][0]) == contents(run / "publish")
    done = upload_to_hub(published(run), client_of(hub))
    assert without_attributes(hub.main("me/pairs")) == contents(run / "publish")
    tars = {f"data/{path.name}" for path in (run / "curate/tars").glob("*.tar")}
    assert set(done.removed) == {*tars, "pairs.parquet"}


def test_data_that_worldclip_did_not_publish_is_not_deleted(run, hub):
    files = {"README.md": b"mine", **{f"data/{i}.csv": b"mine" for i in range(5)}}
    hub.commit("me/pairs", files)
    with pytest.raises(UserError, match=r"would delete: data/0.csv, data/1.csv, data/2.csv and 2 more; choose another"):
        upload_to_hub(published(run), client_of(hub))
    assert hub.main("me/pairs") == files


def test_private_data_is_not_added_to_a_public_dataset(run, hub):
    hub.commit("me/pairs", {"README.md": b"public"})
    with pytest.raises(UserError, match="me/pairs exists and is public"):
        upload_to_hub(published(run), client_of(hub), is_private=True)
    assert hub.main("me/pairs") == {"README.md": b"public"}


def test_an_upload_without_a_network_says_so_in_a_new_process(run):
    """huggingface_hub imports its errors only on demand: in this process they may be imported already."""
    command = [sys.executable, "-m", "worldclip", "publish", str(run), "me/pairs"]
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_TOKEN": "hf_of_the_test"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "was not uploaded to me/pairs: " in done.stderr
    assert "and the network" in done.stderr


def test_refusal_of_the_hub_says_what_to_do(run):
    from huggingface_hub.errors import HfHubHTTPError

    address = "https://huggingface.co/api?token=abc"

    def refuse(*_, **__):
        raise HfHubHTTPError(f"403 for {address}", response=SimpleNamespace(status_code=403, headers={}, request=None))

    with pytest.raises(UserError, match=r"not uploaded to me/pairs: access denied \(403\)") as error:
        upload_to_hub(published(run), SimpleNamespace(repo_exists=refuse))
    assert "abc" not in str(error.value)


def test_a_second_call_is_refused_until_the_upload_ends(run):
    """It would replace the files that are being uploaded."""
    with prepared(run, "me/pairs") as upload:
        with pytest.raises(UserError, match="is in use by"):
            published(run, "tars")
        assert list_files(upload.folder) == upload.files


def test_pairs_that_are_taken_down_leave_the_dataset_and_its_history(tmp_path, hub, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    keys = [f"{number:032x}" for number in range(6)]
    text = json.dumps({"texts": ["the old green tree on the mountain by the water"]}).encode()
    for shard in range(2):
        members = [(f"{key}.{suffix}", text) for key in keys[3 * shard : 3 * shard + 3] for suffix in ("json", "jpg")]
        write_tar(tmp_path / f"pool/{shard}.tar", members)
    unchanged, denied = tmp_path / "unchanged.parquet", tmp_path / "denied.parquet"
    for path in (unchanged, denied):
        pq.write_table(pa.table({"key": pa.array([], pa.string())}), path)
    run = tmp_path / "run"
    write_metadata(run, LISTS)
    sections = {"balance": {"tail_fraction": 1.0}, "curate": {"write": "tars", "samples_per_tar": 1}}
    recipe = make_recipe(tmp_path / "pool", pool={"deny_keys": [str(unchanged), str(denied)]}, **sections)
    run_stages(recipe, run)
    publish = ["publish", str(run), "me/pairs", "--data", "tars"]
    assert main(publish) == 0
    assert "history" not in capsys.readouterr().out
    assert keys_in(hub.main("me/pairs")) == {*keys}

    taken_down = [*keys[:3], keys[4]]
    pq.write_table(pa.table({"key": taken_down}), denied)
    assert main(publish) == 2
    said = capsys.readouterr().err
    assert f"new or changed: pool.deny_keys '{denied}'; run first: worldclip run {run} --until curate" in said
    assert "unchanged" not in said
    assert keys_in(hub.main("me/pairs")) == {*keys}

    run_stages(recipe, run)
    assert main(publish) == 0
    *_, removed, history, command = capsys.readouterr().out.rstrip().splitlines()
    assert without_attributes(hub.main("me/pairs")) == contents(run / "publish")
    assert keys_in(hub.main("me/pairs")) == {*keys} - {*taken_down}
    names = "data/000002.tar, data/000003.tar, data/000004.tar and 1 more"
    assert removed == f"me/pairs: removed what {run / 'publish'} no longer holds: {names}"
    assert history.startswith("me/pairs: its history still holds the files of earlier uploads")
    assert {key for files in hub.commits["me/pairs"].values() for key in keys_in(files)} == {*keys}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_of_the_test"}
    subprocess.run(command, shell=True, check=True, env=environment)
    assert [keys_in(files) for files in hub.commits["me/pairs"].values()] == [{*keys} - {*taken_down}]


def keys_in(files) -> set[str]:
    """Return the keys in the tars, and check that keys.npy has the same ones."""
    tars = "".join(content.decode() for name, content in files.items() if name.endswith(".tar"))
    found = set(re.findall("[0-9a-f]{32}", tars))
    if "keys.npy" in files:
        pairs = np.load(io.BytesIO(files["keys.npy"]))
        assert {f"{high:016x}{low:016x}" for high, low in pairs.tolist()} == found
    return found


def test_no_folder_of_the_machine_is_published(tmp_path):
    """Whatever key of the recipe holds a path: the card has its last part only."""
    private = tmp_path / "home_of_ada" / "secret_project"
    keys = private / "keys.parquet"
    shards = make_shards(seed=3)
    write_pool(private / "pool", shards, image_of=picture)
    pq.write_table(pa.table({"key": keys_of(shards)[:1]}), keys)
    write_metadata(tmp_path / "run", LISTS)
    recipe = make_recipe(private / "pool", curate={"write": "tars"})
    recipe = dataclasses.replace(recipe, pool=dataclasses.replace(recipe.pool, deny_keys=(str(keys),)))
    run_stages(recipe, tmp_path / "run")
    for data in ("list", "tars", "parquet"):
        published(tmp_path / "run", data)
        for name in ("README.md", "croissant.json"):
            text = (tmp_path / "run/publish" / name).read_text("utf-8")
            assert "home_of_ada" not in text
            assert "secret_project" not in text
    card = (tmp_path / "run/publish/README.md").read_text("utf-8")
    assert "keys.parquet" in card
