"""However often training is interrupted, it ends with the bytes of an uninterrupted run; checkpoints are whole."""

import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import pytest
import safetensors.torch
import torch

from calls import before, calls_of, fail_at
from miniature import write_files
from on_ranks import run_on_ranks, start_ranks
from small_world import TRAIN, write_world
from trainings import losses, result_bytes, steps_of, train, train_until
from worldclip.contracts import layout
from worldclip.contracts.layout import checkpoints, latest_checkpoint, step_of
from worldclip.core.artifacts import read_json, remove, write_json
from worldclip.core.errors import UserError
from worldclip.train import checkpoint, checkpoint_writer, loop, stage
from worldclip.train.checkpoint import (
    CheckpointReader,
    consolidate,
    drop_best_of_removed,
    find_corruption,
    latest_valid_checkpoint,
    read_state,
    write_digests,
)
from worldclip.train.checkpoint_writer import (
    CheckpointWriter,
    LocalTensor,
    copy_to_cpu,
    cut_share,
    write_index,
    write_shard,
)
from worldclip.train.distributed import ALONE, World
from worldclip.train.log import read_log
from worldclip.train.loss import LOSSES
from worldclip.train.signals import EXIT_CODES, Requests, catch_signals
from worldclip.train.step import LaunchedStep


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a finished run."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(run_dir, broken={4})
    return run_dir


def test_the_model_learns_and_keeps_the_newest_checkpoints_without_pickle(whole):
    first, *_, last = losses(whole).values()
    assert last < first - 0.2
    assert steps_of(whole / "train") == [20, 24]
    suffixes = {path.suffix for path in latest_checkpoint(whole).rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


@pytest.mark.parametrize("interruptions", [(3,), (7, 1, 9), (23,)])
def test_a_run_interrupted_anywhere_ends_with_the_same_bytes(whole, tmp_path, interruptions):
    for num_steps in interruptions:
        train_until(num_steps, tmp_path / "run", broken={4})
    report = train(tmp_path / "run")
    assert result_bytes(tmp_path / "run") == result_bytes(whole)
    assert losses(tmp_path / "run") == losses(whole)
    assert report["seen"] == read_json(whole / "train" / "report.json")["seen"]
    assert report["bad"] == read_json(whole / "train" / "report.json")["bad"] != {}


def test_a_run_goes_on_in_the_precision_that_auto_took_first(tmp_path, monkeypatch):
    whole, moved, plain = (tmp_path / name / "run" for name in ("whole", "moved", "plain"))
    monkeypatch.setattr(stage, "bf16_hardware", lambda device: "amx_bf16")
    train(whole, precision="auto")
    train_until(7, moved, precision="auto")
    monkeypatch.setattr(stage, "bf16_hardware", lambda device: "")
    train(moved, precision="auto")
    train(plain, precision="auto")
    schedules = [read_json(run_dir / "train/report.json")["schedule"] for run_dir in (moved, plain)]
    assert [schedule["precision"] for schedule in schedules] == ["bf16", "fp32"]
    assert [schedule["precision_by"] for schedule in schedules] == ["amx_bf16", ""]
    assert result_bytes(moved) == result_bytes(whole) != result_bytes(plain)


def test_killed_and_terminated_processes_resume_to_the_same_bytes(tmp_path):
    places = tmp_path / "interrupted", tmp_path / "whole"
    run_dir, whole = (place / "run" for place in places)
    for place in places:
        recipe = {"pool": {"path": str(write_world(place / "run"))}, "balance": {"tail_fraction": 0.1}}
        (place / "recipe.json").write_text(json.dumps({**recipe, "train": TRAIN | {"samples_seen": 60 * 16}}))
    ends = [(signal.SIGKILL, -9, ""), (signal.SIGTERM, 143, "SIGTERM: step"), (signal.SIGINT, 130, "Ctrl-C: step")]
    for number, code, said in ends:
        newest = latest_checkpoint(run_dir)
        (process,) = start_ranks("train", places[0], 1)
        while latest_checkpoint(run_dir) == newest:
            assert process.returncode is None, process.communicate()[1]
            time.sleep(0.01)
        time.sleep(random.Random(tmp_path.name).random() * 0.2)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == code, errors
        assert said in errors
        assert latest_checkpoint(run_dir).name < "step_000000060", "it stops before the end"
    assert not (run_dir / "train" / "manifest.json").exists()
    for place in places:
        run_on_ranks("train", place, 1)
    assert result_bytes(run_dir) == result_bytes(whole)
    assert losses(run_dir) == losses(whole)


def test_a_first_ctrl_c_asks_for_a_checkpoint_and_a_second_one_interrupts(capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    with catch_signals() as exit_code:
        signal.raise_signal(signal.SIGINT)
        assert exit_code() == 130
        assert "a second Ctrl-C ends at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_any_rank_that_is_told_to_exit_is_heard_by_all():
    for exit_code in (0, *EXIT_CODES):
        asked = Requests(is_overdue=exit_code == 0, exit_code=exit_code)
        votes = [any(of_kind) for of_kind in zip(Requests().votes(), asked.votes(), strict=True)]
        assert Requests.of_votes(votes) == asked
    every = [any(of_kind) for of_kind in zip(*(Requests(exit_code=code).votes() for code in EXIT_CODES), strict=True)]
    assert Requests.of_votes(every).exit_code == next(iter(EXIT_CODES))


def test_a_corrupt_checkpoint_is_skipped_with_a_warning(whole, tmp_path, capsys):
    train_until(17, tmp_path / "run", broken={4})
    newest = latest_checkpoint(tmp_path / "run")
    assert newest.name == "step_000000015"
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    train(tmp_path / "run")
    output = " ".join(capsys.readouterr().err.split())
    assert "WARNING: step_000000015 is corrupt (model.safetensors differs from its digest)" in output
    assert "resumes from step_000000010" in output
    assert result_bytes(tmp_path / "run") == result_bytes(whole)


@pytest.mark.parametrize("num_corrupt", range(6))
def test_the_newest_checkpoint_that_is_whole_is_found_behind_any_number_of_corrupt_ones(num_corrupt, tmp_path):
    folders = [layout.step_folder(tmp_path, step) for step in range(1, 6)]
    for folder in folders:
        write_files(folder, {"config.json": "{}", "trainer/state.json": "{}"})
        write_digests(folder, {})
    for folder in folders[5 - num_corrupt :]:
        (folder / "config.json").write_text("[]")
    if num_corrupt == 5:
        with pytest.raises(UserError, match="all checkpoints are corrupt"):
            latest_valid_checkpoint(tmp_path)
        return
    assert latest_valid_checkpoint(tmp_path) == folders[4 - num_corrupt]
    assert checkpoints(tmp_path) == folders[: 5 - num_corrupt]


# keys that change at a resume


def test_keys_that_do_not_affect_weights_may_change_and_a_finished_run_takes_no_step(whole, monkeypatch):
    before = result_bytes(whole)
    monkeypatch.setattr(loop, "launch_step", None)
    train(whole, keep_last=5, checkpoint_every_samples=1_000, decode_threads=1)
    assert result_bytes(whole) == before


def test_after_checkpoints_are_removed_training_goes_on_at_another_rate_without_a_stretch(tmp_path, capfd):
    """The change is recorded once, and interruptions after it end with the same bytes."""
    changed = {"keep_last": 99, "lr": 1e-3, "skip_samples": [[10 * 16, 11 * 16]]}
    run_dirs = [tmp_path / name / "run" for name in ("whole", "changed", "interrupted")]
    for run_dir in run_dirs:
        train(run_dir, keep_last=99)
    for run_dir in run_dirs[1:]:
        for newer in checkpoints(run_dir / "train"):
            if step_of(newer) > 10:
                shutil.rmtree(newer)
    train(run_dirs[1], **changed)
    said = capfd.readouterr().err
    assert "from step 10 on train.lr was 0.002, is 0.001" in said
    assert re.search(r"learning rate 0\.000708, was 0\.00142", said)
    train_until(7, run_dirs[2], **changed)
    train(run_dirs[2], **changed)
    assert result_bytes(run_dirs[2]) == result_bytes(run_dirs[1]) != result_bytes(run_dirs[0])
    record = read_json(run_dirs[2] / "train/config.json")
    assert record["config"]["train"]["lr"] == 1e-3
    keys = {"train.lr": [2e-3, 1e-3], "train.skip_samples": [None, [[160, 176]]]}
    assert record["changes"] == [{"from_step": 10, "keys": keys}]
    with pytest.raises(UserError, match="samples before 400 are seen already"):  # what was skipped stays skipped
        train(run_dirs[2], **{**changed, "samples_seen": 480, "skip_samples": None})
    assert losses(run_dirs[1])[10] == losses(run_dirs[0])[10]
    assert losses(run_dirs[1])[20] != losses(run_dirs[0])[20]


def test_a_finished_run_trains_longer_as_if_stopped_before(whole, tmp_path):
    longer = tmp_path / "run"
    train(longer, broken={4})
    report = train(longer, samples_seen=30 * 16)
    assert (report["steps"], report["samples_seen"]) == (30, 480)
    assert losses(longer)[20] == losses(whole)[20]
    assert read_json(longer / "train/config.json")["schedule"]["num_steps"] == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1e-3}, "train.lr was 0.002, is 0.001: 384 samples are seen already"),
        ({"samples_seen": 20 * 16}, "384 samples are seen already"),
        ({"samples_seen": 480, "skip_samples": [[8, 16]]}, "samples before 384 are seen already"),
        ({"samples_seen": 480, "skip_samples": [[380, 390]]}, "samples before 384 are seen already"),
        ({"samples_seen": 480, "beta2": 0.98}, "train.beta2 was 0.95, is 0.98"),
        ({"model": TRAIN["model"] | {"embed_dim": 8}}, "train.model.embed_dim was 16, is 8"),
    ],
)
def test_a_change_that_cannot_apply_is_refused_and_changes_nothing(whole, changes, message):
    before = read_json(whole / "train/config.json")
    with pytest.raises(UserError, match=re.escape(message)):
        train(whole, **changes)
    assert read_json(whole / "train/config.json") == before


# steps whose loss is not finite, and steps that are read late


@pytest.fixture(params=[0, 1], ids=["read at once", "read a step late"])
def spoil_losses(request, monkeypatch):
    """A function that makes the losses of some steps, counted from 1, NaN."""
    monkeypatch.setattr(loop, "steps_ahead", lambda device: request.param)
    compute, numbers = LOSSES["contrastive"], itertools.count(1)

    def spoil(steps):
        def contrastive_loss(*args, **keys):
            return compute(*args, **keys) * (math.nan if next(numbers) in steps else 1)

        monkeypatch.setitem(LOSSES, "contrastive", contrastive_loss)

    return spoil


def test_steps_with_a_non_finite_loss_change_no_weight_and_are_counted(tmp_path, monkeypatch, spoil_losses):
    original_step, is_unchanged, updates = loop.launch_step, [], set()

    def launch_step(state, *args, **kwargs):
        before = copy_to_cpu(state)
        launched = original_step(state, *args, **kwargs)
        after = copy_to_cpu(state)
        moments = {name for name in after if name.startswith("exp_avg")}  # the first step makes them, of zeros
        equal = {name: torch.equal(before[name].tensor, after[name].tensor) for name in before}
        is_unchanged.append(all(equal.values()))
        assert is_unchanged[-1] or not any(equal[name] for name in equal if name.endswith("projection.weight"))
        if len(is_unchanged) == 1:
            assert not any(after[name].tensor.any() for name in moments)
        updates.add(max(int(values["step"]) for values in state.optimizer.state.values()))
        return launched

    spoil_losses({1, 3, 4})
    monkeypatch.setattr(loop, "launch_step", launch_step)
    report = train(tmp_path / "run", samples_seen=6 * 16, max_grad_norm=0.1)
    assert report["skipped_steps"] == 3
    assert is_unchanged == [True, False, True, True, False, False]
    assert updates == {0, 1, 2, 3}


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(tmp_path, spoil_losses):
    spoil_losses(range(7, 99))
    with pytest.raises(UserError, match=r"train\.lr = 0\.002: .* not finite for 10 steps in a row, up to step 16"):
        train(tmp_path / "run", checkpoint_every_samples=5 * 16)
    assert not (tmp_path / "run" / "train" / "manifest.json").exists()
    assert read_state(checkpoints(tmp_path / "run" / "train")[0])["step"] <= 10


def test_numbers_read_a_step_late_change_nothing(whole, tmp_path, monkeypatch):
    events = []
    before(monkeypatch.setattr, loop, "launch_step", lambda *_, **__: events.append("launch"))
    before(monkeypatch.setattr, LaunchedStep, "read", lambda self: events.append("read"))
    monkeypatch.setattr(loop, "steps_ahead", lambda device: 1)
    train(tmp_path / "run", broken={4})
    assert events[:5] == ["launch", "launch", "read", "launch", "read"]
    assert events[-2:] == ["read", "read"]
    assert result_bytes(tmp_path / "run") == result_bytes(whole)
    numbers = ("step", "epoch", "loss", "lr", "logit_scale", "grad_norm")
    late, expected = (
        [[record[name] for name in numbers] for record in read_log(folder / "train" / "log.jsonl")]
        for folder in (tmp_path / "run", whole)
    )
    assert late == expected


# checkpoints: when they are written, and what a failing disk costs

EIO = safetensors.SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)")
FULL = OSError(28, "No space left on device", "folder")


def test_checkpoints_are_also_written_by_time(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_S_WITHOUT_CHECKPOINT", 0.0)
    train(tmp_path / "run", samples_seen=64, checkpoint_every_samples=10**9, keep_last=99)
    assert steps_of(tmp_path / "run/train") == [1, 2, 3, 4]


def test_a_disk_that_does_not_take_the_last_checkpoint_ends_training(tmp_path, monkeypatch):
    fail_at(monkeypatch.setattr, safetensors.torch, "save_file", 9, FULL)  # two files each
    launched = calls_of(monkeypatch.setattr, loop, "launch_step")
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "run")
    assert len(launched) == 24
    assert not (tmp_path / "run/train/manifest.json").exists()


def save(writer, step, fails=False):
    weights = {"weights.a": LocalTensor(torch.arange(6.0), (6,), 0)}
    write_model = Mock(side_effect=FULL if fails else None)
    writer.start(step, weights, {"samples_seen": 10 * step, "updates": step}, write_model)


@pytest.fixture
def writer(tmp_path):
    return CheckpointWriter(tmp_path, ALONE, keep_last=9)


def test_a_failed_checkpoint_is_warned_about_and_the_third_in_a_row_ends_training(writer, tmp_path, capfd):
    for step, fails in ((1, False), (2, True), (3, True), (4, False), (5, True), (6, False)):
        save(writer, step, fails)
    writer.wait()
    assert capfd.readouterr().err.count("WARNING: a checkpoint was not written") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:09}" for step in (1, 4, 6)]
    for step in (7, 8, 9):
        save(writer, step, fails=True)
    with pytest.raises(OSError, match="No space left"):
        save(writer, 10)


@pytest.mark.parametrize(
    ("place", "error"), [("safetensors.torch.save_file", EIO), ("pathlib.Path.mkdir", FULL)], ids=["file", "folder"]
)
def test_an_error_of_the_disk_costs_one_checkpoint(writer, tmp_path, monkeypatch, capfd, place, error):
    with monkeypatch.context() as patch:
        patch.setattr(place, Mock(side_effect=error))
        save(writer, 1)
        writer.close()  # waits
    save(writer, 2)
    writer.wait()
    assert steps_of(tmp_path) == [2]
    assert "WARNING" in capfd.readouterr().err


def test_a_checkpoint_gets_its_name_when_its_files_and_their_digests_are_on_disk(writer, tmp_path, monkeypatch):
    """A kill after the rename would leave a checkpoint that nobody can check."""
    flushed = calls_of(monkeypatch.setattr, checkpoint, "flush_to_disk")
    unsafe = []

    def check(source, target):
        if target == layout.step_folder(tmp_path, 1):
            files = {path for path in source.rglob("*") if path.is_file()}
            digests = source / checkpoint.FILES
            recorded = {source / name for name in read_json(digests)} if digests.exists() else set()
            on_disk = {path for (path,) in flushed}
            unsafe.append(sorted(path.name for path in files - {digests} if path not in recorded & on_disk))

    before(monkeypatch.setattr, os, "replace", check)
    save(writer, 1)
    writer.wait()
    assert unsafe == [[]]
    assert find_corruption(layout.step_folder(tmp_path, 1)) is None


def test_an_older_checkpoint_goes_once_the_name_of_the_new_one_is_on_disk(tmp_path, monkeypatch):
    """A loss of power in between would leave neither."""
    events = []
    before(monkeypatch.setattr, os, "replace", lambda source, target: events.append(Path(source).name))
    before(monkeypatch.setattr, checkpoint_writer, "flush_to_disk", lambda path: events.append(path.name))
    writer = CheckpointWriter(tmp_path, ALONE, keep_last=1)
    save(writer, 1)
    save(writer, 2)
    writer.wait()
    renamed, removed = ".step_000000002.tmp", "step_000000001"
    ordered = [event for event in events if event in (renamed, tmp_path.name, removed)]
    assert ordered[-3:] == [renamed, tmp_path.name, removed]


@pytest.mark.parametrize(
    ("steps", "kept"),
    [(range(3, 60, 3), [12, 21, 30, 42, 51, 54, 57]), (range(25, 30), [25, 28, 29])],  # the second: after a gap
)
def test_the_first_checkpoint_of_each_interval_is_kept_for_good(tmp_path, steps, kept):
    writer = CheckpointWriter(tmp_path, ALONE, keep_last=2, keep_every_samples=100)
    for step in steps:  # of 10 samples
        save(writer, step)
    writer.wait()
    assert steps_of(tmp_path) == kept


@pytest.mark.parametrize(("step", "is_left"), [(None, False), (2, False), (4, True), (6, True)])
def test_the_best_step_is_forgotten_where_training_goes_on_before_it(tmp_path, step, is_left):
    write_json(tmp_path / "best.json", {"step": 4})
    drop_best_of_removed(tmp_path, None if step is None else layout.step_folder(tmp_path, step))
    assert (tmp_path / "best.json").exists() == is_left


# checkpoints of several ranks


def rows_of(rank):
    return {f"weights.{name}": LocalTensor(torch.full((2, 3), float(rank)), (4, 3), 2 * rank) for name in "abcdefgh"}


def write_sharded(folder, tensors_of_rank):
    """Write a checkpoint of several ranks, without a model's configuration.  Return the digests of the ranks' files."""
    write_json(folder / "trainer" / "state.json", {"updates": 1})
    shards, num_ranks = folder / checkpoint.SHARDS, len(tensors_of_rank)
    shards.mkdir()
    for rank, tensors in reversed(list(enumerate(tensors_of_rank))):
        write_shard(shards, tensors, World(rank, num_ranks))
    return write_index(shards, World(0, num_ranks), math.inf, Event())


@pytest.mark.parametrize("error", [FULL, EIO], ids=["full disk", "EIO"])
def test_a_rank_that_cannot_write_fails_the_checkpoint_of_all(tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", Mock(side_effect=error))
        with pytest.raises(type(error)):
            write_shard(tmp_path, rows_of(1), World(1, 2))
    write_shard(tmp_path, rows_of(0), World(0, 2))
    with pytest.raises(OSError, match=r"rank 1: .*(No space left|os error 5)"):
        write_index(tmp_path, World(0, 2), math.inf, Event())


def test_a_writer_that_closes_waits_shortly_for_a_dead_rank(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(checkpoint_writer, "barrier", lambda world: None)
    writer = CheckpointWriter(tmp_path, World(0, 2), keep_last=1)
    save(writer, 1)
    start = time.monotonic()
    writer.close()
    assert time.monotonic() - start < 5
    with pytest.raises(TimeoutError, match="rank 1 has not written"):
        writer.wait()


def test_each_file_of_a_sharded_checkpoint_is_opened_once_and_missing_rows_are_named(tmp_path, monkeypatch):
    write_sharded(tmp_path / "whole", [rows_of(0), rows_of(1)])
    opened = calls_of(monkeypatch.setattr, safetensors, "safe_open")
    reader = CheckpointReader(tmp_path / "whole")
    for name in rows_of(0):
        assert reader.read(name)[:, 0].tolist() == [0, 0, 1, 1]
        assert reader.read(name, slice(1, 3))[:, 0].tolist() == [0, 1]
    assert len(opened) == 2
    write_sharded(tmp_path / "cut", [rows_of(1)])
    with pytest.raises(UserError, match=r"2 of 4 rows of weights\.a; the checkpoint is incomplete"):
        CheckpointReader(tmp_path / "cut").read("weights.a")


@pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
def test_shares_cover_each_row_once_and_are_equal_up_to_a_row(count):
    tensors = {"table": torch.arange(70.0).reshape(14, 5), "gain": torch.arange(7.0), "scale": torch.tensor(3.0)}
    held = {name: LocalTensor(tensor, tuple(tensor.shape), 0) for name, tensor in tensors.items()}
    shares = [cut_share(held, index, count) for index in range(count)]
    for name, tensor in tensors.items():
        parts = [share[name] for share in shares if name in share]
        assert [part.first_row for part in parts] == [sum(p.num_rows for p in parts[:i]) for i in range(len(parts))]
        assert torch.equal(torch.cat([part.tensor.reshape(-1) for part in parts]), tensor.reshape(-1))
    sizes = [sum(local.tensor.nbytes for local in share.values()) for share in shares]
    assert max(sizes) - min(sizes) <= 2 * tensors["table"][0].nbytes
    assert sum(map(len, shares)) < len(tensors) + count  # most tensors are in one file


def test_consolidating_a_corrupt_checkpoint_does_not_make_it_valid(tmp_path):
    write_digests(tmp_path, write_sharded(tmp_path, [rows_of(0), rows_of(1)]))
    assert find_corruption(tmp_path) is None
    path = tmp_path / "trainer" / "shards" / "00001_of_00002.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    consolidate(tmp_path)
    assert find_corruption(tmp_path) == f"trainer/shards/{path.name} differs from its digest"


def test_the_consolidated_weights_have_a_digest_too(tmp_path):
    write_digests(tmp_path, write_sharded(tmp_path, [rows_of(0), rows_of(1)]))
    consolidate(tmp_path)
    assert find_corruption(tmp_path) is None
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert find_corruption(tmp_path) == "model.safetensors differs from its digest"


def test_a_list_of_digests_that_names_a_file_outside_is_corrupt(tmp_path):
    write_json(tmp_path / checkpoint.FILES, {"../other": {"size": 1, "sha256": "0"}})
    assert find_corruption(tmp_path) == f"{checkpoint.FILES} names '../other'"


def test_a_checkpoint_that_training_removes_while_it_is_consolidated_does_not_come_back(tmp_path, monkeypatch):
    folder = tmp_path / "step_000000001"
    write_digests(folder, write_sharded(folder, [rows_of(0), rows_of(1)]))
    reads = []

    def remove_at_second(*_):
        reads.append(None)
        if len(reads) == 2:
            remove(folder)

    before(monkeypatch.setattr, CheckpointReader, "read", remove_at_second)
    with pytest.raises(UserError, match="was removed meanwhile"):
        consolidate(folder)
    assert list(tmp_path.iterdir()) == []
