"""No file after match contains a denied key: no table, report, page, list or tar."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plain_recipe import keys_of, make_recipe, make_run, make_shards, run_stages
from worldclip import curate
from worldclip.cli import main
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.keys import key_lists
from worldclip.curate.samples import merge_samples
from worldclip.report import write_report

SHARDS = make_shards(seed=21, num_shards=3, num_samples=12)
ALLOWED = ("match/texts/", "match/done/", "match/report.json", "match/accounting.json", "pool/index/", "metadata/")


def contents(path: Path) -> bytes:
    """A file as text to search in: tables unpacked."""
    if path.suffix == ".parquet":
        return repr(pq.read_table(path).to_pydict()).encode()
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("how", ["denied", "not in the valid list", "denied in its shard"])
def test_denied_key_reaches_no_artifact_after_match(tmp_path, policy, how) -> None:
    config = {"text_policy": policy, "write": "tars", "max_pairs": 15}
    run = make_run(tmp_path, SHARDS, curate=config)
    kept = [(name, key) for name in sorted(SHARDS) for key in curate.read_curated(run, name)["key"].to_pylist()]
    shard_of, key_of = zip(*kept[::2], strict=True)
    gone = set(key_of)
    path = str(tmp_path / "list.parquet")
    setting, columns = {
        "denied": ({"deny_keys": [path]}, {"key": sorted(gone)}),
        "denied in its shard": ({"deny_keys": [path]}, {"shard": shard_of, "key": key_of}),
        "not in the valid list": ({"valid_keys": path}, {"key": sorted({*keys_of(SHARDS)} - gone)}),
    }[how]
    pq.write_table(pa.table(columns), path)

    recipe = make_recipe(tmp_path / "pool", pool=setting, curate=config)
    report = run_stages(recipe, run, stages="match balance curate")["curate"]
    write_report(run)
    assert report["total"]["not_valid"] >= len(gone) > 5
    files = {path.relative_to(run).as_posix(): path for path in run.rglob("*") if path.is_file()}
    below = {name: path for name, path in files.items() if not name.startswith(ALLOWED)}
    assert {"report.html", "curate/report.json", "curate/tars/000000.tar", "curate/DATA_CARD.md"} <= set(below)
    for name, path in below.items():
        found = contents(path)
        for key in gone:
            assert repr(key).strip("'").encode() + b"'" not in found, f"{key} stands in {name}"
            assert f'"{key}"'.encode() not in found, f"{key} stands in {name}"
            assert b"image of " + Path(key).name.encode() + b"\0" not in found, f"the image of {key} stands in {name}"
    curator = curate.Curator(run)
    for epoch in range(3):
        assert len(curator.keep(sorted(gone), epoch)[0]) == 0


def test_a_reader_of_the_list_refuses_it_when_the_deny_list_has_grown(own_run, toy_run, tmp_path, capfd) -> None:
    artifacts.remove(own_run / "train")
    shards = sorted(path.name.removesuffix(".parquet") for path in (own_run / "curate").glob("*.parquet"))
    keys = sorted({key for name in shards for key in curate.read_curated(own_run, name)["key"].to_pylist()})
    deny_list = tmp_path / "deny.parquet"
    pq.write_table(pa.table({"key": keys[:1]}), deny_list)
    assert main(["run", str(own_run), "--set", f'pool.deny_keys=["{deny_list}"]', "--until", "curate"]) == 0
    curate.Curator(own_run)
    pq.write_table(pa.table({"key": keys[:2]}), deny_list)
    capfd.readouterr()
    run, outdated = str(own_run), f"{own_run / 'curate'} is out of date: new or changed: pool.deny_keys '{deny_list}'"
    for command in (
        ["train", run],
        ["train", run, "--dry-run"],
        ["explore", run, "--out", str(tmp_path / "explorer")],
        ["embed", str(toy_run), run, "--out", str(tmp_path / "embedded"), "--of", "images"],
    ):
        assert main(command) == 2, command
        assert outdated in capfd.readouterr().err, command
    with pytest.raises(UserError, match=re.escape(outdated)):
        curate.Curator(own_run)
    assert not (own_run / "train").exists()


def test_denied_key_with_a_credential_is_not_shown(tmp_path) -> None:
    """Match writes a key that is an address without its signature, so the deny list cannot be asked about it."""
    key = "https://h.org/p.jpg?sig=1"
    artifacts.write_json(tmp_path / "accounting.json", {"shard": "0.parquet", "key": key, "text": "private"})
    sample = artifacts.read_json(tmp_path / "accounting.json")
    pq.write_table(pa.table({"key": [key]}), tmp_path / "deny.parquet")
    lists = key_lists(None, [str(tmp_path / "deny.parquet")])
    assert merge_samples(tmp_path, [], {"no_match": [sample]}, lists) == {}
    assert merge_samples(tmp_path, [], {"no_match": [sample]}, ()) == {"no_match": [sample]}
