"""The bracket around a job, the context that decides which stages run, locks of a folder, registries."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from worldclip.core.artifacts import NOT_INSTALLED, code_digest, read_manifest
from worldclip.core.errors import UserError
from worldclip.core.job import (
    Change,
    Job,
    Result,
    Run,
    changed_inputs,
    changed_keys,
    files_per_shard,
    lock_folder,
    remove_stale,
)
from worldclip.pool.formats import POOL_FORMATS


def job_in(folder: Path, seed: int = 0, pool: str = "a") -> Job:
    return Job("demo", folder, {"demo": {"seed": seed}}, lambda: {"pool": pool})


def no_work() -> Result:
    return Result(report={"rows": 3}, counts={"rows": 3})


def write_in(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("values", "reason"),
    [({}, None), ({"seed": 7}, "demo.seed was 0, is 7"), ({"pool": "b"}, "its inputs changed: pool was a, is b")],
)
def test_job_runs_again_only_for_a_changed_key_or_input(tmp_path: Path, values: Any, reason: str) -> None:
    assert job_in(tmp_path / "demo").reason_to_run() == "new"
    assert job_in(tmp_path).reason_to_run() == "not finished before"
    job_in(tmp_path).run(no_work)
    assert job_in(tmp_path, **values).reason_to_run() == reason


def test_input_that_changes_during_the_work_makes_the_next_call_work_again(tmp_path: Path) -> None:
    inputs = {"pool": "a"}

    def work() -> Result:
        inputs["pool"] = "b"
        return no_work()

    Job("demo", tmp_path, {}, lambda: dict(inputs)).run(work)
    assert Job("demo", tmp_path, {}, lambda: {"pool": "b"}).reason_to_run() == "its inputs changed: pool was a, is b"


def tar(name: str, content: str) -> Any:
    """Return the fingerprint of a file."""
    return {"path": name, "size": 3, "sha256": content * 64}


def test_changed_inputs_are_named_by_file_stage_and_version() -> None:
    old = {"match": "a" * 32, "shards": {"0.tar": tar("0.tar", "a"), "1.tar": tar("1.tar", "a")}, "sources": {"x": "1"},
           "lists": [tar("a.txt", "a"), tar("b.txt", "a")], "model": tar("old.npy", "a")}  # fmt: skip
    new = {"match": "b" * 32, "shards": {"0.tar": tar("0.tar", "b"), "2.tar": tar("2.tar", "a")}, "sources": {"x": "2"},
           "lists": [tar("a.txt", "a"), tar("b.txt", "b")], "model": None}  # fmt: skip
    assert changed_inputs(old, old) == []
    changes = changed_inputs(old, new)
    assert [str(change) for change in changes] == [
        "match", "0.tar", "1.tar (gone)", "2.tar (new)", "x was 1, is 2", "b.txt", "model (gone)"
    ]  # fmt: skip
    assert [change.name for change in changes] == ["match", "0.tar", "1.tar", "2.tar", "x", "b.txt", "model"]


def test_many_changed_inputs_are_counted_and_groups_of_files_once(tmp_path: Path) -> None:
    def inputs(content: str) -> Any:
        files = {f"files_{group:06}": {"files": content * 32} for group in range(257)}
        return {"images": files, "texts": {f"{i}.tar": tar(f"{i}.tar", content) for i in range(1004)}}

    Job("demo", tmp_path, {}, lambda: inputs("a")).run(no_work)
    reason = Job("demo", tmp_path, {}, lambda: inputs("b")).reason_to_run()
    assert reason == "its inputs changed: files of 257 groups, 0.tar, 1.tar and 1,002 more"


def test_changed_lists_of_keys_are_named_by_their_setting() -> None:
    def lists(*settings: str) -> Any:
        return {"key_lists": [{"setting": f"pool.{setting[:-1]}", "digest": setting[-1] * 32} for setting in settings]}

    old = lists("valid_keysa", "deny_keysb", "deny_keysc")
    for new, changed in (
        (lists("valid_keysa", "deny_keysd", "deny_keyse"), ["pool.deny_keys"]),
        (lists("valid_keysa"), ["pool.deny_keys (gone)"]),
        (lists("valid_keysb", "deny_keysb", "deny_keysc"), ["pool.valid_keys"]),
        (lists(), ["pool.valid_keys (gone)", "pool.deny_keys (gone)"]),
    ):
        assert list(map(str, changed_inputs(old, new))) == changed
    assert list(map(str, changed_inputs(lists(), lists("deny_keysa")))) == ["pool.deny_keys (new)"]


def test_changed_inputs_of_one_path_are_told_apart() -> None:
    def changed(old: Any, new: Any) -> list[str]:
        return [str(change) for change in changed_inputs({"shards": old}, {"shards": new})]

    a, b, c = (tar("0.tar", content) for content in "abc")
    old = {"a/0.tar": a, "b/0.tar": b}
    assert changed(old, old | {"a/0.tar": c}) == ["a/0.tar"]
    assert changed(old, old | {"b/0.tar": c}) == ["b/0.tar"]
    assert changed({"b/0.tar": b}, old) == ["a/0.tar (new)"]
    assert changed({"a/0.tar": a}, {"renamed/0.tar": a}) == ["a/0.tar (gone)", "renamed/0.tar (new)"]
    assert changed([a, b], [c, b]) == ["shards 0"]


def test_changed_keys_are_named_with_their_values() -> None:
    old, new = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}}
    assert [str(change) for change in changed_keys(old, new)] == ["a.c was 2, is 3", "a.d was None, is 4"]
    assert str(Change("pool.where", "x" * 100, "y")) == f"pool.where was {'x' * 57}..., is y"
    lists = [(["a"], ["b"]), (["a", "b"], None), (["a"], ["b", "a"]), (None, ["a"])]
    said = ["are allowed again" in str(Change("pool.deny_keys", *old_and_new)) for old_and_new in lists]
    assert said == [True, True, False, False]


@pytest.mark.parametrize(
    ("made_by", "now", "reason"),
    [
        ("2.14", NOT_INSTALLED, None),
        ("2.14", "2.15", "its inputs changed: emoji was 2.14, is 2.15"),
        (NOT_INSTALLED, "2.15", "its inputs changed: emoji was not installed, is 2.15"),
    ],
)
def test_a_finished_job_runs_again_with_another_package_not_without_it(tmp_path, made_by, now, reason) -> None:
    Job("demo", tmp_path, {}, lambda: {"sources": {"emoji": made_by}}).run(no_work)
    assert Job("demo", tmp_path, {}, lambda: {"sources": {"emoji": now}}).reason_to_run() == reason


def test_stale_files_go_and_declared_outputs_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_in(out, "old.parquet", "old/x.parquet", "t/a/x.tar.parquet", "t/b.tar", "sums/deep/2.npy", "report.html")
    write_in(tmp_path, "else/x.npy")
    (out / "link").symlink_to(tmp_path / "else")
    tables = files_per_shard(out / "t", ["a/x.tar", "b.tar"], ".parquet")
    job_in(out).run(lambda: Result(report={}, counts={"rows": 3}, manifest={"lists": ["en"]}))
    assert len(files_of(out)) == 8, "work that declares no outputs keeps all files"
    manifest = read_manifest(out)
    assert manifest is not None
    expected = {"config": {"demo": {"seed": 0}}, "inputs": {"pool": "a"}, "counts": {"rows": 3}, "lists": ["en"]}
    assert {name: manifest[name] for name in expected} == expected
    job_in(out).run(lambda: Result(report={}, counts={}, outputs=[*tables, out / "sums"]))
    assert files_of(out) == {"t/a/x.tar.parquet", "sums/deep/2.npy", "report.html", "report.json", "manifest.json"}
    assert not (out / "old").exists()
    assert (tmp_path / "else/x.npy").exists()
    remove_stale(tmp_path / "none", [])


def test_the_code_of_a_stage_is_recorded_and_a_change_of_it_leaves_the_stage_finished(
    tmp_path: Path, monkeypatch
) -> None:
    balance, demo = Job("balance", tmp_path / "balance", {}, dict), job_in(tmp_path / "demo")
    for job in (balance, demo):
        job.run(no_work)
    manifest = read_manifest(balance.folder)
    assert manifest is not None
    assert re.fullmatch("[0-9a-f]{32}", manifest["code"])
    assert manifest["code"] != code_digest("curate")
    assert "code" not in (read_manifest(demo.folder) or {}), "a tool has no package"
    monkeypatch.setattr("worldclip.core.job.code_digest", lambda stage: "another")
    assert balance.reason_to_run() is None


def test_markers_of_stale_outputs_go_before_the_outputs(tmp_path: Path, monkeypatch) -> None:
    """Killed in between, a marker would say that outputs are there which are gone."""
    write_in(tmp_path, "texts/a.parquet", "done/texts/a.json", "done/texts/b.json", "zone/done/c.json", "zone/c.npy")
    removed = []
    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", lambda path, **options: (removed.append(Path(path).suffix), unlink(path)))
    remove_stale(tmp_path, [])
    assert removed[:3] == [".json"] * 3
    assert list(tmp_path.iterdir()) == []


def test_work_that_raises_leaves_no_manifest(tmp_path: Path) -> None:
    job_in(tmp_path).run(no_work)

    def fail() -> Result:
        assert not (tmp_path / "manifest.json").exists()
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        job_in(tmp_path).run(fail)
    assert job_in(tmp_path).reason_to_run() == "not finished before"


def test_stages_that_a_killed_call_was_to_restart_run_in_the_next_one(tmp_path: Path) -> None:
    def walk(**options: Any) -> list[str]:
        run = Run(dir=tmp_path, sections={}, **options)
        job_of = {stage: run.job(stage, lambda run: {}) for stage in ("match", "balance")}
        work = {"problems": lambda run: (), "work": lambda run, job: no_work()}
        return [stage for stage, job in job_of.items() if run.stage(job, **work)]

    def kill(run_dir: Path) -> None:
        raise KeyboardInterrupt

    assert walk() == ["match", "balance"]
    assert walk() == []
    with pytest.raises(KeyboardInterrupt):
        walk(restarted=frozenset(["match", "balance"]), after_stage=kill)
    assert walk() == ["balance"]


@pytest.mark.parametrize(("restarted", "found"), [([], []), (["match"], ["no GPU"])])
def test_what_would_stop_a_finished_stage_is_found_first_where_it_is_restarted(
    tmp_path: Path, restarted: list[str], found: list[str]
) -> None:
    run = Run(dir=tmp_path, sections={}, restarted=frozenset(restarted), preflight=[])
    job = run.job("match", lambda run: {})
    job.run(no_work)
    run.stage(job, problems=lambda run: ["no GPU"], work=lambda run, job: no_work())
    assert run.preflight == found


def test_slices_may_share_a_folder_but_whole_runs_may_not(tmp_path: Path) -> None:
    is_refused = pytest.raises(UserError, match="in use by calls with --shards")
    with lock_folder(tmp_path, is_shared=True), lock_folder(tmp_path, is_shared=True), is_refused:
        lock_folder(tmp_path).__enter__()
    for is_shared in (True, False):
        with lock_folder(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
            lock_folder(tmp_path, is_shared=is_shared).__enter__()


def test_unknown_item_of_a_registry_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"'parqet': unknown pool format; did you mean parquet\?"):
        POOL_FORMATS.load("parqet")
