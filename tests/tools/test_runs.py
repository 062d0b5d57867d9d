"""What is read of a run, or reused: `estimate`, `inspect`, `status`, `run --from-run`; and `doctor` of the machine."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from killed import contents
from miniature import write_files
from plain_recipe import LISTS, keys_of, make_recipe, make_run, make_shards, run_stages
from pools import write_table
from stages import QUIET
from worldclip import curate
from worldclip.balance.config import BalanceConfig
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.contracts.records import add_cpu_time, outdated_stages, read_cpu_time
from worldclip.core import artifacts
from worldclip.core.errors import UserError, install_hint
from worldclip.core.job import lock_folder
from worldclip.core.settings import read_toml, to_toml
from worldclip.recipe import run as run_recipe
from worldclip.recipe import stage_names
from worldclip.report import write_report
from worldclip.tools import branch as branch_module
from worldclip.tools import doctor
from worldclip.tools.branch import branch
from worldclip.tools.dedup import dedup
from worldclip.tools.estimate import estimate, to_text
from worldclip.tools.inspect_run import inspect_entry, inspect_key, verdict
from worldclip.tools.status import STAGES, counts_text, holder, status

SHARDS = make_shards(seed=5, num_shards=2, num_samples=25)
DENIED = keys_of(SHARDS)[:4]


@pytest.fixture(scope="module", params=["one", "all"])
def run(request, tmp_path_factory) -> Path:
    """A run after curate, some of whose keys are denied; do not change it."""
    folder = tmp_path_factory.mktemp("explained")
    pq.write_table(pa.table({"key": DENIED}), folder / "denied.parquet")
    curate = {"text_policy": request.param, "exclude": ["ar"], "max_pairs": {"en": 5}}
    return make_run(folder, SHARDS, curate=curate, pool={"deny_keys": [str(folder / "denied.parquet")]})


# estimate
@pytest.mark.parametrize("values", [{"tail_fraction": 0.2}, {"english_threshold": 6}, {"tail_fraction": 0.05}])
def test_an_estimate_is_what_curate_reports_later(run, values, tmp_path):
    key, value = next(iter(values.items()))
    found = estimate(run, **{"threshold" if key == "english_threshold" else key: [value]})
    candidate = found["candidates"][0]
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    recipe = dataclasses.replace(load_recipe(run), balance=BalanceConfig(**values))
    (copy / "recipe.toml").write_text(to_toml(recipe), "utf-8")
    reports = run_stages(recipe, copy, stages="balance curate")
    total = reports["curate"]["total"]
    assert found["text_policy"] == recipe.curate.text_policy
    assert candidate["total"]["pairs_in"] == total["pairs_in"]
    assert candidate["total"]["expected_pairs"] == pytest.approx(total["expected_pairs"])
    assert candidate["total"]["pairs_matched"] == total["sampled_out"] + total["pairs_out"]
    assert candidate["languages"].keys() == reports["curate"]["languages"].keys()
    for lang, row in candidate["languages"].items():
        assert row["pairs_in"] == reports["curate"]["languages"][lang]["pairs_in"]
        if lang == "und":
            continue
        assert row["threshold"] == reports["balance"]["lists"][lang]["threshold"]
        assert row["tail_fraction"] == reports["balance"]["lists"][lang]["tail_fraction"]
        assert row["expected_pairs"] == pytest.approx(reports["curate"]["languages"][lang]["expected_pairs"])


def test_without_values_the_recipe_itself_is_estimated_and_nothing_is_written(run, tmp_path):
    before = sorted(run.rglob("*"))
    (candidate,) = estimate(run)["candidates"]
    assert candidate["tail_fraction"] == load_recipe(run).balance.tail_fraction
    assert sorted(run.rglob("*")) == before
    (tmp_path / "recipe.toml").write_text((run / "recipe.toml").read_text())
    with pytest.raises(UserError, match="match is not finished"):
        estimate(tmp_path)


def test_estimates_as_text_and_as_json(run, capsys):
    found = estimate(run, tail_fraction=[0.1], threshold=[1000])
    text = to_text(found)
    unit = {"one": "samples", "all": "pairs"}[found["text_policy"]]
    for line in (f" {unit} expected", "english_threshold = 1,000:", "warning: no entry of list en reaches"):
        assert line in text
    assert main(["estimate", str(run), "--threshold", "5,1000", "20", "--tail-fraction", "0.1,0.2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["candidates"]
    assert [row["english_threshold"] for row in rows] == [5, 1000, 20, None, None]
    assert [row["tail_fraction"] for row in rows] == [None, None, None, 0.1, 0.2]


def test_an_estimate_has_the_cpu_time_that_the_stages_of_the_run_took(run, tmp_path, capsys):
    assert main(["estimate", str(run)]) == 0
    assert "CPU time: not measured" in capsys.readouterr().out
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    counts = artifacts.read_manifest(copy / "pool")["counts"]
    artifacts.write_json(copy / "run.json", {"format_version": 1})
    measured = {"pool": (1, 0.5), "match": (2, 2.0), "count": (4, 1.0), "keys": (2, 9.0)}
    for _ in range(2):  # two calls
        add_cpu_time(copy, {label: {"shards": n, "seconds": s} for label, (n, s) in measured.items()})
    per_million = counts["shards"] / counts["pairs"] * 1e6
    expected = {"pool": 0.5 * per_million, "match": (1.0 + 0.25) * per_million}
    assert estimate(copy)["cpu_s_per_million_pairs"] == pytest.approx(expected)
    total = sum(expected.values())
    pairs_per_shard = round(counts["pairs"] / counts["shards"])
    assert estimate(copy)["cpu_sample"] == {"shards": 2, "pairs_per_shard": pairs_per_shard}
    assert main(["estimate", str(copy)]) == 0
    assert (
        f"CPU time: {total:,.1f} s per million pairs (pool {expected['pool']:,.1f}, match {expected['match']:,.1f}, "
        f"curate not measured); {total / 3.6:,.1f} core-hours per billion\n"
        f"measured on 2 shards of {pairs_per_shard:,} pairs; rough: below 50,000 "
    ) in capsys.readouterr().out


def test_an_estimate_of_few_pairs_says_that_it_is_rough_and_that_of_many_does_not(run):
    estimated = estimate(run)
    rows = estimated["candidates"][0]["languages"]
    assert estimated["cpu_sample"] is None
    for row in rows.values():
        if row["expected_pairs"]:
            assert row["relative_error"] == pytest.approx(row["expected_pairs"] ** -0.5)
        else:
            assert row["relative_error"] is None
    assert "rough: " in to_text(estimated)
    for row in rows.values():
        row["expected_pairs"] *= 1_000
    assert "rough: " not in to_text(estimated)


# inspect
def test_every_key_is_explained_as_it_was_decided(run):
    kept = {}
    reasons: set[str] = set()
    caps = artifacts.read_json(run / "curate/report.json")["caps"]
    for name, samples in SHARDS.items():
        for row in curate.read_curated(run, name).to_pylist():
            kept[(row["key"], row["text_idx"])] = row
        for stem, _ in samples:
            found = inspect_key(run, f"{Path(name).parent}/{stem}")
            assert found["shard"] == name
            assert found["is_valid"] == (found["key"] not in DENIED)
            for text in found["texts"]:
                reasons.add(text["reason"])
                row = kept.get((found["key"], text["text_idx"])) if text["reason"] != "duplicate" else None
                assert (row is not None) == (text["reason"] == "kept")
                if row is not None:
                    assert text["keep_prob"] == row["keep_prob"]
                    assert text["coin"] < text["keep_prob"]
                    assert text["lang"] == row["lang"]
                    factor = caps.get(text["lang"], {"factor": 1.0})["factor"]
                    worth = [1 - entry["prob"] for entry in text["entries"]]
                    assert text["keep_prob"] == pytest.approx((1 - np.prod(worth)) * factor)
                    assert all(entry["entry"] in text["text"] for entry in text["entries"])
            assert found["kept"] == any(text["reason"] == "kept" for text in found["texts"])
            if "draw" in found:
                draw = found["draw"]
                ends = ("kept", "sampled_out", "not_drawn")
                drawable = [text["text_idx"] for text in found["texts"] if text["reason"] in ends]
                assert (len(drawable), drawable[int(draw["coin"] * len(drawable))]) == (draw["among"], draw["text_idx"])
    assert {"duplicate", "no_text", "no_language", "not_valid", "excluded", "kept", "sampled_out"} <= reasons
    assert kept


def test_a_key_of_two_shards_is_explained_by_the_one_that_keeps_it(tmp_path):
    texts = [f"a text with {LISTS['en'][0]} in it"]
    shards = {"x/0.tar": [("twice", ["unmatched words"]), ("other", texts)], "x/1.tar": [("twice", texts)]}
    found = inspect_key(make_run(tmp_path, shards, balance={"english_threshold": 100}), "x/twice")
    assert (found["shard"], found["kept"]) == ("x/1.tar", True)


def test_an_entry_is_explained_as_text(run, capsys):
    entry = LISTS["en"][0]
    assert main(["inspect", str(run), "--entry", entry]) == 0
    assert f"{entry!r} of en (entry 0, list): " in capsys.readouterr().out


def test_an_entry_is_shown_with_its_count_place_and_texts(run):
    counts = np.load(run / "balance" / "counts" / "en.npy")
    top = int(np.argmax(counts))
    found = inspect_entry(run, LISTS["en"][top], "en")
    assert (found["matches"], found["rank"], found["is_head"]) == (counts.max(), 1, True)
    assert found["prob"] == pytest.approx(found["threshold"] / found["matches"])
    assert 0 < len(found["samples"]) <= 10
    assert all(f" {found['entry']} " in f" {sample['text']} " for sample in found["samples"])
    assert found == inspect_entry(run, LISTS["en"][top], "en")
    with pytest.raises(UserError, match="did you mean 'green'"):
        inspect_entry(run, "gren", "en")
    with pytest.raises(UserError, match="its lists are ar, en, th, zh"):
        inspect_entry(run, "red", "fr")


def test_noise_is_not_told_to_need_a_list():
    said = {}
    for label, prob in (("und", 0.0), ("und", 1.0), ("tr", 0.3), ("tr", 0.9)):
        text = {"reason": "no_language", "lid_label": label, "lang_prob": prob}
        said[label, prob] = "has no list in this run" in verdict({"texts": [text]})
    assert [case for case, is_list in said.items() if is_list] == [("tr", 0.9)]


# status
def rows_of(run: Path) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in status(run)["stages"]}


def test_finished_run_has_no_next_command(toy_run):
    record = status(toy_run)
    assert [row["stage"] for row in record["stages"]] == list(stage_names()) == list(STAGES)
    assert {row["state"] for row in record["stages"]} == {"finished"}
    assert (record["next"], record["in_use_by"]) == (None, None)


def test_interrupted_stages_show_their_finished_shards_and_the_next_command(own_run):
    for stage in ("export", "evaluate", "train"):
        shutil.rmtree(own_run / stage)
    assert status(own_run)["next"] == f"worldclip train {own_run} --dry-run"  # what it takes is asked first
    renamed = own_run.rename(own_run.with_name("my run"))
    assert status(renamed)["next"] == f"worldclip train '{renamed}' --dry-run"
    renamed.rename(own_run)
    for stage in ("match", "balance", "curate"):
        (own_run / stage / "manifest.json").unlink()
    shutil.rmtree(own_run / "balance")
    rows = rows_of(own_run)
    states = [rows[stage]["state"] for stage in ("match", "balance", "curate")]
    assert states == ["unfinished", "not started", "unfinished"]
    assert rows["match"]["counts"] == {"shards_finished": 3, "shards": 3}
    assert status(own_run)["next"] == f"worldclip run {own_run}"


def test_a_source_that_changed_puts_metadata_out_of_date(own_run):
    manifest = artifacts.read_manifest(own_run / "metadata")
    (own_run / "metadata/manifest.json").unlink()
    record = next(iter(manifest["inputs"].values()))
    record["files"][0]["sha256"] = "of before"
    artifacts.write_json(own_run / "metadata/manifest.json", manifest)
    row = rows_of(own_run)["metadata"]
    assert row["state"] == "out of date"
    reason = f"its inputs changed: {record['files'][0]['path']}; run first: worldclip run {own_run}"
    assert row["problems"] == [f"{own_run}/metadata is out of date: {reason}"]


def test_a_list_that_changed_puts_curate_out_of_date(tmp_path, capsys):
    run, denied = tmp_path / "run", write_files(tmp_path, {"takedown.txt": f"{DENIED[0]}\n"}) / "takedown.txt"
    make_run(tmp_path, SHARDS, pool={"deny_keys": [str(denied)]})
    assert "(1 key) names 1 sample with a match" in capsys.readouterr().err
    assert rows_of(run)["curate"]["state"] == "finished"
    denied.write_text("\n".join(DENIED))
    assert main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"curate is out of date: new or changed: pool.deny_keys '{denied}'; run first: " in said
    assert f"next: worldclip run {run}\n" in said
    denied.unlink()
    assert "which is not a file" in rows_of(run)["curate"]["problems"][0]
    counts = {"lists": 1, "matches": 1, "num_keys": 2}
    assert counts_text({"stage": "balance", "state": "finished", "counts": counts}) == "1 list, 1 match, 2 samples"


@pytest.mark.parametrize(
    ("section", "key", "value", "outdated"),
    [
        ("train", "lr", 1.0, "train evaluate export"),
        ("balance", "min_threshold", 7, "balance curate train evaluate export"),
    ],
)
def test_what_follows_a_stage_of_another_recipe_is_out_of_date(toy_run, section, key, value, outdated):
    recipe = read_toml(toy_run)
    assert outdated_stages(toy_run, recipe) == {}
    recipe[section][key] = value
    assert " ".join(outdated_stages(toy_run, recipe)) == outdated


def test_an_export_of_the_run_with_a_tokenizer_that_is_named_is_not_out_of_date(own_run, capsys):
    tokenizer = str(own_run / "train/tokenizer")
    out = str(own_run / "export")
    shutil.rmtree(out)
    assert main(["export", str(own_run), "--out", out, "--formats", "huggingface", "--tokenizer", tokenizer]) == 0
    assert main(["status", str(own_run)]) == 0
    assert "out of date" not in capsys.readouterr().out


def test_without_a_run_status_lists_those_in_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for files, said in (({}, "no runs in runs/; worldclip status RUN"), (["b", "a"], "runs/a\nruns/b\n")):
        write_files(tmp_path / "runs", {f"{name}/recipe.toml": "" for name in files})
        assert main(["status"]) == 0
        assert capsys.readouterr().out.startswith(said)


def test_holder_is_the_live_process_that_locked_the_run(tmp_path):
    with lock_folder(tmp_path):
        assert holder(tmp_path) == f"process {os.getpid()}"
    with lock_folder(tmp_path, is_shared=True):
        assert holder(tmp_path) == "calls with --shards"
    assert holder(tmp_path) is None
    (tmp_path / ".lock").write_text(f"process {os.getpid()}")  # a number that another process has now
    assert holder(tmp_path) is None


def test_interrupted_training_shows_its_last_step_and_that_its_loss_is_not_finite(own_run, capsys):
    (own_run / "train/manifest.json").unlink()
    log = own_run / "train/log.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])
    with open(log, "a") as file:
        file.write('{"step": 99')  # a line that is being written
    train = rows_of(own_run)["train"]
    assert train["state"] == "unfinished"
    assert 0 < train["counts"]["step"] == last["step"] <= train["counts"]["steps"]
    layout.step_folder(own_run / "train", last["step"] + 5).mkdir()  # a checkpoint between two lines of the log
    assert rows_of(own_run)["train"]["counts"]["step"] == last["step"] + 5
    log.write_text(json.dumps(last | {"loss": None}) + "\n")
    assert main(["status", str(own_run)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("train"))
    assert "of 20, loss not finite" in line
    assert rows_of(own_run)["train"]["counts"]["loss"] is None


# --from-run
def files_of(folder: Path) -> dict[str, bytes]:
    return contents(folder, without=[".lock"])


def test_branch_of_the_same_recipe_runs_nothing(toy_run, tmp_path):
    before = files_of(toy_run)
    run_recipe(str(toy_run), tmp_path / "b", from_run=toy_run, executor=QUIET)
    assert files_of(toy_run) == before
    of_stages = {path: content for path, content in before.items() if "/" in path}
    assert {path: content for path, content in files_of(tmp_path / "b").items() if "/" in path} == of_stages
    assert os.path.samefile(tmp_path / "b/match/manifest.json", toy_run / "match/manifest.json")
    assert read_cpu_time(tmp_path / "b") == read_cpu_time(toy_run) != {}
    for name in ("train/log.jsonl", "evaluate/results.jsonl"):  # files that grow are copied
        assert not os.path.samefile(tmp_path / "b" / name, toy_run / name)


def test_nothing_is_linked_into_a_folder_of_something_else(toy_run, tmp_path):
    write_files(tmp_path / "b", {"match/notes.txt": "mine"})
    with pytest.raises(UserError, match="is no run and holds a folder 'match'"):
        run_recipe(str(toy_run), tmp_path / "b", from_run=toy_run, executor=QUIET)
    assert contents(tmp_path / "b") == {"match/notes.txt": b"mine"}


def test_only_the_first_rank_links_the_stages(toy_run, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run_recipe(str(toy_run), tmp_path / "b", from_run=toy_run, until="curate", executor=QUIET)
    assert not (tmp_path / "b").exists()


def test_changed_key_reruns_its_stage_and_those_below_in_the_branch_alone(toy_run, toy_world, tmp_path, capsys):
    before = files_of(toy_run)
    changed = load_recipe(toy_run, ["balance.tail_fraction=0.15"])
    run_recipe(changed, tmp_path / "b", from_run=toy_run, until="curate", executor=QUIET)
    assert files_of(toy_run) == before
    said = capsys.readouterr().err
    for stage in ("pool", "metadata", "match"):
        assert f"{stage}  is finished and unchanged" in said
    assert "balance  starts (balance.tail_fraction was" in said
    assert not (tmp_path / "b/train").exists()
    alone = run_recipe(changed, tmp_path / "alone", until="curate", executor=QUIET)
    curated = {path: content for path, content in files_of(alone / "curate").items() if path.endswith(".parquet")}
    assert curated.items() <= files_of(tmp_path / "b/curate").items()
    pool = shutil.copytree(toy_world.folder / "pool", tmp_path / "pool")
    next(pool.iterdir()).unlink()
    changed = load_recipe(toy_run, [f"pool.path={pool}"])
    run_recipe(changed, tmp_path / "of_pool", from_run=toy_run, until="metadata", executor=QUIET)
    said = capsys.readouterr().err
    assert "pool  starts (new)" in said
    assert "metadata  is finished and unchanged" in said


def test_a_branch_trains_in_the_precision_of_the_run_that_it_comes_from(toy_run, tmp_path, monkeypatch):
    monkeypatch.setattr("worldclip.train.stage.bf16_hardware", lambda device: "")
    source = Path(shutil.copytree(toy_run, tmp_path / "source"))
    config = artifacts.read_json(source / "train/config.json")
    config["schedule"]["precision"] = "bf16"
    artifacts.write_json(source / "train/config.json", config)
    recipe = load_recipe(toy_run, ["train.precision=auto", "train.samples_seen=64", "train.warmup_samples=0"])
    first = run_recipe(recipe, tmp_path / "first", from_run=source, until="curate", executor=QUIET)
    second = run_recipe(recipe, tmp_path / "second", from_run=first, until="train", executor=QUIET)
    schedule = artifacts.read_json(second / "train/config.json")["schedule"]
    assert (schedule["precision"], schedule["precision_by"]) == ("bf16", "--from-run")
    assert load_recipe(second).train.precision == "auto", "a recipe of another precision is another arm of a comparison"


def test_without_hard_links_files_are_copied_and_unfinished_stages_are_not(toy_run, tmp_path, monkeypatch):
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    source = Path(shutil.copytree(toy_run, tmp_path / "source"))
    (source / "match/manifest.json").unlink()
    (tmp_path / "b/.pool.tmp").mkdir(parents=True)
    (tmp_path / "b/.pool.tmp/half").write_text("of a killed branch")
    monkeypatch.setattr(branch_module.os, "link", refuse)
    assert branch(source, tmp_path / "b", ["pool", "match"]) == ["pool"]
    assert files_of(tmp_path / "b/pool") == files_of(toy_run / "pool")


def test_wrong_sources_are_refused(toy_run, tmp_path):
    with pytest.raises(UserError, match=r"holds no recipe\.toml"):
        branch(tmp_path, tmp_path / "b", ["pool"])
    with pytest.raises(UserError, match="is the run itself"):
        branch(toy_run, toy_run, ["pool"])
    with lock_folder(toy_run), pytest.raises(UserError, match="is in use by process"):
        branch(toy_run, tmp_path / "b", ["pool"])


# doctor
def test_doctor_names_missing_modules_and_problems_and_versions_are_those_of_version(tmp_path, monkeypatch, capsys):
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["versions"]["worldclip"]
    assert record["device"].split()[0] in ("cpu", "cuda", "mps")
    assert main(["--version", "--json"]) == 0
    record.pop("problems")
    assert json.loads(capsys.readouterr().out) == record
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    monkeypatch.setattr("worldclip.language.identify.model_path", lambda: tmp_path / "lid.176.ftz")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    diagnosis = doctor.diagnose()
    assert diagnosis["extras"]["metadata"] == ["wordfreq"]
    assert f"extra metadata: lacks wordfreq: {install_hint('metadata')}" in doctor.to_text(diagnosis)
    places = [problem.partition(" ")[0] for problem in diagnosis["problems"]]
    assert places == [str(tmp_path / "lid.176.ftz"), str(tmp_path)]


# the account
RED = f"a text with {LISTS['en'][0]} in it"
SCORED = {"uid": ["a", "b", "c", "d"], "text": [RED, "", RED, "unmatched words"], "score": [1, 1, 0, 1]}
WHERE = {"key": "uid", "texts": ["text"], "where": [["score", "=", 1]]}


def scored_run(folder: Path, pool: dict[str, Any], **sections: Any) -> Path:
    """A run of FOLDER/pool, every match of which is kept."""
    recipe = make_recipe(folder / "pool", pool=pool, balance={"tail_fraction": 1.0}, **sections)
    run_stages(recipe, folder / "run")
    return folder / "run"


@pytest.mark.parametrize("policy", ["one", "all"])
def test_the_account_has_the_same_words_in_log_status_card_and_page(tmp_path, capsys, policy):
    write_table(tmp_path / "pool/0.parquet", SCORED)
    (tmp_path / "pool/1.parquet").write_bytes(b"damaged")
    run = scored_run(tmp_path, {**WHERE, "broken_shards": "skip"}, curate={"text_policy": policy})
    said = capsys.readouterr().err
    unit = {"one": "samples", "all": "pairs"}[policy]
    lines = [
        "1 of 2 shards read; 1 broken and skipped",
        "3 of 4 rows are samples; 1 left out by pool.where",
        "1 of 3 pairs matched; 1 without text; 1 without a match",
        f"1 of 3 {unit} kept; 1 without text; 1 without a match",
    ]
    card = (run / "curate/DATA_CARD.md").read_text(encoding="utf-8")
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    page = write_report(run).read_text(encoding="utf-8")
    for line in lines:
        assert line in said
        assert line in shown
        assert f"- {line}" in card
        assert f"<li>{line}</li>" in page
    assert "2 of 3 pairs have a text; 1 without text" in said
    assert "skipped broken shards, 1 in all: 1.parquet: " in shown
    record = status(run)
    assert list(record["skipped"]) == ["1.parquet"]
    for step in record["account"]:
        assert step["kept"] + sum(step["dropped"].values()) == step["total"]


def test_a_stage_below_one_that_ran_again_is_out_of_date_and_not_in_the_account(tmp_path, capsys):
    write_table(tmp_path / "pool/0.parquet", SCORED)
    run = scored_run(tmp_path, WHERE)

    def outdated_and_verb() -> tuple[list[str], str]:
        rows = rows_of(run)
        del rows["metadata"]  # whose lists are written by hand
        outdated = [stage for stage, row in rows.items() if row["state"] == "out of date"]
        return outdated, status(run)["account"][-1]["verb"]

    assert outdated_and_verb() == ([], "kept")
    write_table(tmp_path / "pool/1.parquet", {**SCORED, "uid": ["e", "f", "g", "h"]})
    run_stages(load_recipe(run), run, stages="pool")
    assert outdated_and_verb() == (["match", "balance", "curate"], "have a text")
    with pytest.raises(UserError, match="curate is out of date: pool ran again; run first"):
        curate.Curator(run)
    assert main(["curate", str(run), "--seed", "1"]) == 2
    said = f"{run}/match is out of date: pool ran again; run first: worldclip run {run} --until match"
    assert said in capsys.readouterr().err
    trained = run / "train/step_000000001"
    trained.mkdir(parents=True)
    artifacts.write_json(run / "train/config.json", {"config": {}, "inputs": {"curate": "of before"}})
    artifacts.write_manifest(run / "train", config={}, inputs={"curate": "of before"}, counts={})
    assert main(["export", str(run)]) == 2
    said = capsys.readouterr().err
    assert status(run)["next"] == f"worldclip run {run}", "match is above"
    assert f"take its checkpoint by itself, worldclip export {trained} --out DIR, or move the folder away" in said
    shutil.rmtree(run / "train")
    for stage, outdated, verb in (
        ("match", ["balance", "curate"], "matched"),
        ("balance", ["curate"], "matched"),
        ("curate", [], "kept"),
    ):
        run_stages(load_recipe(run), run, stages=stage)
        assert outdated_and_verb() == (outdated, verb)


def test_what_was_made_by_a_key_that_is_taken_out_or_below_an_unfinished_stage_is_outdated(tmp_path):
    write_table(tmp_path / "pool/0.parquet", SCORED)
    run = scored_run(tmp_path, WHERE, curate={"max_pairs": 2})
    assert outdated_stages(run) == {}
    recipe = (run / "recipe.toml").read_text()
    assert "max_pairs = 2\n" in recipe
    (run / "recipe.toml").write_text(recipe.replace("max_pairs = 2\n", ""))
    assert list(outdated_stages(run)) == ["curate"]
    (run / "recipe.toml").write_text(recipe)
    (run / "balance/manifest.json").unlink()
    assert outdated_stages(run) == {"curate": "balance is unfinished"}


def test_status_names_shards_that_are_new_or_changed_and_older_lists(tmp_path, capsys):
    write_table(tmp_path / "pool/0.parquet", SCORED)
    copies = tmp_path / "copies/duplicates.parquet"
    config = make_recipe(tmp_path / "pool", pool=WHERE).pool
    dedup(config, copies.parent, executor=QUIET)
    by_hand = tmp_path / "denied.txt"
    by_hand.write_text("d\n")
    run = scored_run(tmp_path, {**WHERE, "deny_keys": [str(by_hand), str(copies)]})
    assert rows_of(run)["pool"]["state"] == "finished"
    assert "problems" not in rows_of(run)["pool"]
    write_table(tmp_path / "pool/1.parquet", {**SCORED, "uid": ["e", "b", "g", "h"]})
    assert main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"{run}/pool is out of date: its inputs changed: 1.parquet (new); run first: worldclip run {run}\n" in said
    assert f"next: worldclip run {run}\n" in said
    run_stages(load_recipe(run), run)
    warning = f"'{copies}' was made from other shards than the pool has now: 1.parquet (new); rerun: "
    assert f"   curate  warning: pool.deny_keys {warning}" in capsys.readouterr().err
    (problem,) = rows_of(run)["pool"]["problems"]
    assert warning in problem
    dedup(config, copies.parent, executor=QUIET)
    assert "problems" not in rows_of(run)["pool"]
    run_stages(make_recipe(tmp_path / "pool", pool={**WHERE, "where": [], "deny_keys": [str(copies)]}), run)
    (problem,) = rows_of(run)["pool"]["problems"]
    assert f"'{copies}' was made under other keys: pool.where was [['score', '=', 1]], is []; rerun: " in problem
    shutil.rmtree(tmp_path / "pool")
    pool = rows_of(run)["pool"]
    assert (pool["state"], len(pool["problems"])) == ("finished", 2)
    assert "no such folder" in pool["problems"][0]


def test_a_key_that_where_leaves_out_is_explained(tmp_path):
    rows = zip(*SCORED.values(), strict=True)
    lines = [",".join(SCORED), *(",".join(map(str, row)) for row in rows)]
    write_files(tmp_path / "pool", {"0.csv": "\n".join(lines)})
    run = scored_run(tmp_path, {**WHERE, "where": [["score", "=", "1"]]})
    with pytest.raises(UserError, match=r"--key 'c': pool\.where leaves it out of 0\.csv: score is '0', not = '1'"):
        inspect_key(run, "c")
    with pytest.raises(UserError, match="--key 'x': not a key of this run's pool"):
        inspect_key(run, "x")


def test_shards_without_rows_that_where_leaves_out_are_not_read_for_an_unknown_key(tmp_path, monkeypatch):
    write_table(tmp_path / "pool/0.parquet", SCORED)
    (tmp_path / "pool/1.parquet").write_bytes(b"damaged")
    whole = {**WHERE, "where": [["score", ">=", 0]], "broken_shards": "skip"}
    run = scored_run(tmp_path, whole)
    monkeypatch.setattr("worldclip.pool.left_out_by", lambda *_: pytest.fail("a shard is read"))
    with pytest.raises(UserError, match=r"keys look like 'a'; skipped broken shards, 1 in all: 1\.parquet: "):
        inspect_key(run, "x")
