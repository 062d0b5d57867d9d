"""Runs and checkpoints of releases: this version reads them, goes on with them, and refuses those of a newer format."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from released.make import embeddings, unpack

import worldclip
from killed import contents, modified
from programs import words_of
from worldclip.cli import main
from worldclip.cli.overview import COMMANDS
from worldclip.contracts import layout, schemas
from worldclip.core.artifacts import read_json, read_manifest, read_table
from worldclip.core.errors import UserError
from worldclip.core.job_files import FORMAT_VERSION
from worldclip.curate import Curator
from worldclip.recipe import stage_names

pytest.importorskip("torch")
ARCHIVES = sorted((Path(__file__).parent / "released").glob("*.tar.gz"))
VOLATILE = (".lock", "log.txt", "run.json", "report.html")  # say when and how, not what


@pytest.fixture(params=ARCHIVES, ids=lambda archive: archive.name.removesuffix(".tar.gz"))
def released(request, tmp_path) -> Path:
    """The folder of a release's archive, to change."""
    return unpack(request.param, tmp_path / "released")


def test_the_run_of_a_release_is_finished_and_every_reader_takes_it(released, capfd):
    run, out = released / "run", released / "out"
    before = contents(released, VOLATILE)
    assert main(["run", str(run), "--until", "evaluate"]) == 0
    assert capfd.readouterr().err.count("is finished and unchanged") == len(stage_names()) - 1
    assert main(["status", str(run), "--json"]) == 0
    states = {row["stage"]: row["state"] for row in json.loads(capfd.readouterr().out)["stages"]}
    assert states == dict.fromkeys(stage_names(), "finished") | {"export": "not started"}
    for words in ("inspect RUN --key 00003", "inspect RUN --entry red", "estimate RUN", "compare RUN RUN"):
        assert main(words_of(words, {"RUN": run})) == 0
        assert capfd.readouterr().out
    assert main(["explore", str(run), "--out", str(out)]) == 0
    shutil.rmtree(out)
    assert contents(released, VOLATILE) == before


def test_curator_keeps_the_list_of_a_release(released):
    run = released / "run"
    tables = [read_table(layout.curated(run, shard), schemas.CURATED) for shard in layout.matched_shards(run)]
    kept = {(row["key"], row["text_idx"]) for table in tables for row in table.to_pylist()}
    keys = [f"{number:05}" for number in range(24)]
    key_idx, text_idx = Curator(run).keep(keys)
    assert {(keys[i], idx) for i, idx in zip(key_idx, text_idx.tolist(), strict=True)} == kept
    assert 0 < len(kept) < 48


def test_a_stage_of_a_release_goes_on_where_it_was_killed(released):
    run = released / "run"
    # as this version writes them: a reason that is new to it has a column there
    redone = ("manifest.json", "report.json", "00001.tar.json", "00001.tar.parquet", "DATA_CARD.md")
    before, written = contents(run, [*VOLATILE, *redone]), modified(run / "curate", "0*.parquet")
    digest, report = read_manifest(run / "curate")["digest"], read_json(run / "curate/report.json")
    table = pq.read_table(run / "curate/00001.tar.parquet")
    for name in ("manifest.json", ".work/done/00001.tar.json"):
        (run / "curate" / name).unlink()
    assert main(["run", str(run), "--until", "evaluate"]) == 0
    assert contents(run, [*VOLATILE, *redone]) == before
    assert read_manifest(run / "curate")["digest"] == digest
    assert read_json(run / "curate/report.json")["total"].items() >= report["total"].items()
    assert pq.read_table(run / "curate/00001.tar.parquet").equals(table)
    again = {path for path, at in modified(run / "curate", "0*.parquet").items() if at != written[path]}
    assert {path.name for path in again} == {"00001.tar.parquet"}


def test_shards_of_a_release_that_knew_fewer_reasons_count_as_they_are(released):
    curate = released / "run/curate"
    total = read_json(curate / "report.json")["total"]
    for record in (curate / ".work/done").glob("*.json"):
        done = read_json(record)
        assert done["report"]["samples"].pop("excluded") == []
        for row in done["report"]["languages"].values():
            assert row.pop("excluded") == 0
        record.write_text(json.dumps(done))
    (curate / "manifest.json").unlink()
    assert main(["run", str(released / "run"), "--until", "curate"]) == 0
    assert read_json(curate / "report.json")["total"].items() >= total.items()


def test_the_checkpoint_of_a_release_embeds_as_it_did(released, capfd):
    expected = np.load(released / "expected.npz")
    for model in (released / "run", *layout.checkpoints(released / "run/train")):
        vectors = embeddings(model, released / "pictures")
        for name in ("images", "texts"):
            assert np.allclose(vectors[name], expected[name], rtol=0, atol=1e-4)
    assert main(["search", str(released / "embedded"), "红色圆形", "--top", "3", "--device", "cpu"]) == 0
    assert capfd.readouterr().out.count("00000.tar") > 0
    embed = "embed RUN POOL --out OUT --of texts --precision fp32 --device cpu"
    places = {"RUN": released / "run", "POOL": released / "pool", "OUT": released / "embedded"}
    assert main(words_of(embed, places)) == 0
    assert "is finished and unchanged" in capfd.readouterr().err


def test_training_of_a_release_goes_on(released, capfd):
    run = released / "run"
    assert main(["train", str(run), "--samples-seen", "128"]) == 0
    assert "resumes from step_000000008" in capfd.readouterr().err
    assert layout.latest_checkpoint(run).name == "step_000000016"


# RUN, EMBEDDED and CHECKPOINT are of a newer format
NEWER = """
run RUN
run RUN --dry-run
run RECIPE --out RUN
run RECIPE --out RUN --dry-run
run RECIPE --out OUT --from-run RUN
run RUN --from train
pool RUN
metadata RUN
match RUN --shards 1/2
balance RUN
curate RUN --seed 3
train RUN
train RUN --dry-run
evaluate RUN
evaluate RUN --out OUT
export RUN
export RUN --out OUT
status RUN
inspect RUN --key 00003
inspect RUN --entry red
estimate RUN
explore RUN --out OUT
compare RUN RUN
publish RUN owner/name --dry-run
consolidate RUN
classify RUN PICTURE --labels a
embed RUN POOL --out OUT
embed POOL RUN --out OUT
pool check RUN --out OUT
pool dedup RUN --out OUT
fetch metadata RUN
serve RUN --port 0
serve POOL EMBEDDED --port 0
search EMBEDDED word
embed POOL POOL --out EMBEDDED
consolidate CHECKPOINT
classify CHECKPOINT PICTURE --labels a
"""
OPEN_NO_RUN = {"init", "fetch dataset", "languages", "doctor", "pool emoji", "pool world", "pool pack", "pool wat"}


def test_every_command_that_opens_a_run_is_in_this_table():
    names = {name.removesuffix(" MODEL") for name in (*COMMANDS.names(), *stage_names())} - OPEN_NO_RUN
    assert [name for name in names if not any(row.startswith(f"{name} ") for row in NEWER.splitlines())] == []


def raise_format(record: Path) -> Path:
    """Let a record state the next format; return it."""
    written = json.loads(record.read_text())
    assert written["format_version"] == FORMAT_VERSION
    record.write_text(json.dumps(written | {"format_version": FORMAT_VERSION + 1}))
    return record


@pytest.fixture(scope="module")
def newer(tmp_path_factory) -> dict[str, Path]:
    """The places of NEWER, which no command may change, and the records that state their format."""
    folder = unpack(ARCHIVES[-1], tmp_path_factory.mktemp("newer") / "released")
    checkpoint = shutil.copytree(layout.latest_checkpoint(folder / "run"), folder / "checkpoint")
    for place, name in ((folder / "run", "run.json"), (folder / "embedded", "manifest.json")):
        raise_format(place / name)
    raise_format(layout.trainer_state(checkpoint))
    places = {"RUN": folder / "run", "EMBEDDED": folder / "embedded", "CHECKPOINT": checkpoint}
    places |= {"RECIPE": folder / "recipe.toml", "POOL": folder / "pool"}
    return {**places, "PICTURE": folder / "pictures/red/0.png"}


@pytest.mark.parametrize("command", [line for line in NEWER.splitlines() if line])
def test_a_newer_format_is_refused_and_nothing_is_changed(command, newer, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    folder = newer["RECIPE"].parent
    before = contents(folder)
    assert main(words_of(command, {**newer, "OUT": tmp_path / "OUT"})) == 2
    error = capfd.readouterr().err
    records = {"RUN": "run/run.json", "EMBEDDED": "embedded/manifest.json"}
    records["CHECKPOINT"] = "checkpoint/trainer/state.json"
    named = [records[word] for word in command.split() if word in records]
    told = f"has format {FORMAT_VERSION + 1}, and this worldclip reads up to {FORMAT_VERSION}"
    assert f"{folder / named[0]} {told}; install a newer worldclip" in error
    assert (error.count("worldclip: "), "Traceback" in error) == (1, False)
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == []


def test_public_calls_refuse_a_newer_format(newer):
    for call in (
        lambda: worldclip.run(newer["RECIPE"], out=newer["RUN"]),
        lambda: worldclip.load(newer["RUN"]),
        lambda: worldclip.metadata.read_entries(newer["RUN"], "en"),
        lambda: Curator(newer["RUN"]),
    ):
        with pytest.raises(UserError, match=r"run\.json has format .*; install a newer worldclip"):
            call()


def test_a_stage_of_a_newer_format_is_refused_by_its_own_manifest(released, capfd):
    run = released / "run"
    manifest = raise_format(run / "balance/manifest.json")
    for command in ("run RUN", "status RUN", "inspect RUN --key 00003", "explore RUN --out OUT"):
        assert main(words_of(command, {"RUN": run, "OUT": released / "out"})) == 2
        assert f"{manifest} has format {FORMAT_VERSION + 1}" in capfd.readouterr().err
