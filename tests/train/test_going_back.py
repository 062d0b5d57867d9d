"""Back to a kept checkpoint under a changed learning rate, seed or plan; what came after it is set aside."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import trainings
from small_world import write_world
from trainings import losses, pairs_of, result_bytes, steps_of, train, train_until
from worldclip.cli import main
from worldclip.contracts import layout
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.train import going_back, plan
from worldclip.train.log import Lines, read_log

KEPT = {"keep_last": 99}
BATCH = 16


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a finished run with checkpoints at steps 5, 10, 15, 20 and 24."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(run_dir, **KEPT)
    return run_dir


def copy_of(run_dir, tmp_path):
    shutil.copytree(run_dir.parent / "tars", tmp_path / "tars")
    shutil.copytree(run_dir, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_goes_back_under_another_rate_and_keeps_what_came_after(whole, tmp_path):
    run_dir, changed = copy_of(whole, tmp_path), {**KEPT, "lr": 1e-3, "skip_samples": [[10 * BATCH, 11 * BATCH]]}
    train(run_dir, resume_from=10, **changed)
    (part,) = read_json(run_dir / "train/config.json")["parts"]
    assert part["from_step"] == 10
    assert part["changes"]["train.lr"] == [2e-3, 1e-3]
    aside = run_dir / "train/set_aside" / part["set_aside"]
    assert steps_of(aside) == [15, 20, 24]
    assert [record["step"] for record in read_log(aside / "log.jsonl")] == [*losses(whole)]
    assert steps_of(run_dir / "train") == [5, 10, 15, 20, 24]
    assert losses(run_dir)[10] == losses(whole)[10]
    assert losses(run_dir)[20] != losses(whole)[20]
    result = result_bytes(run_dir)
    train(run_dir, resume_from=10, **changed)  # the same call again
    train(run_dir, **changed)
    assert len(read_json(run_dir / "train/config.json")["parts"]) == 1
    assert result_bytes(run_dir) == result


def test_all_records_after_the_step_are_set_aside(tmp_path):
    (tmp_path / "aside").mkdir()
    logs = ("log.jsonl", "seen.jsonl", "validation.jsonl")
    for name in logs:
        (tmp_path / name).write_text("".join(f'{{"step": {step}}}\n' for step in (10, 20, 30)))
    going_back._set_aside(tmp_path, 10, tmp_path / "aside")
    for name in logs:
        Lines(tmp_path / name, 10).close()  # as the resumed run
        assert [record["step"] for record in read_log(tmp_path / name)] == [10]
        assert [record["step"] for record in read_log(tmp_path / "aside" / name)] == [10, 20, 30]


def test_a_part_that_is_interrupted_resumes_to_the_same_bytes(whole, tmp_path):
    changed = {**KEPT, "seed": 7, "beta2": 0.98, "max_grad_norm": 0.5}
    run_dirs = [copy_of(whole, tmp_path / name) for name in ("once", "cut")]
    train(run_dirs[0], resume_from=10, **changed)
    train_until(7, run_dirs[1], resume_from=10, **changed)
    train_until(2, run_dirs[1], resume_from=10, **changed)  # as a scheduler that repeats the command
    train(run_dirs[1], **changed)
    assert result_bytes(run_dirs[0]) == result_bytes(run_dirs[1])


def test_going_back_without_a_change_gives_the_same_weights(whole, tmp_path):
    run_dir = copy_of(whole, tmp_path)
    train(run_dir, resume_from=15, **KEPT)
    assert result_bytes(run_dir) == result_bytes(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume_from": 7}, r"no checkpoint of this step; it has those of steps 5, 10, 15, 20, 24"),
        ({"resume_from": 10, "ema_decay": 0.5}, r"ema_decay .*cannot change in the middle of a run, only lr, beta1"),
        ({"resume_from": 10, "skip_samples": [[8, 16]]}, r"\[8, 16\] begins before sample 160"),
        ({"resume_from": 10, "skip_samples": [[20, 10]]}, r"pairs \[FIRST, LAST\] of ascending numbers"),
    ],
)
def test_what_cannot_be_gone_back_to_is_refused_and_changes_nothing(whole, changes, message):
    before = (steps_of(whole / "train"), read_json(whole / "train/config.json"))
    with pytest.raises(UserError, match=message):
        train(whole, **KEPT, **changes)
    assert (steps_of(whole / "train"), read_json(whole / "train/config.json")) == before


def test_a_better_step_that_is_set_aside_is_no_longer_the_best(whole, tmp_path):
    from worldclip.train.scores import update_best

    run_dir = copy_of(whole, tmp_path)
    for step, score in ((5, 0.2), (10, 0.3), (20, 0.9)):
        checkpoint = layout.step_folder(run_dir / "train", step)
        update_best(checkpoint, score)
        layout.step_scores(checkpoint).parent.mkdir(parents=True)
        layout.step_scores(checkpoint).write_text(f'{{"scores": {{"mean": {score}}}}}')
    train(run_dir, resume_from=15, **KEPT)
    assert layout.best_of(run_dir / "train").name == "step_000000010"


def test_the_command_records_the_change_and_not_the_request(whole, tmp_path):
    run_dir = copy_of(whole, tmp_path)
    (run_dir / ".lock").touch()  # as a command leaves it; without it the folder need not be a run
    words = ["train", str(run_dir), "--resume-from", "20", "--set", "train.lr=0.0001"]
    assert main(words) == 0
    recipe = (run_dir / "recipe.toml").read_text()
    assert "lr = 0.0001" in recipe
    assert "resume_from" not in recipe
    assert main(["train", str(run_dir)]) == 0


def test_skipped_stretches_are_left_out_of_the_plan(tmp_path):
    stretches = ((5, 9), (9, 10), (20, 25))
    positions = np.concatenate([plan.skip(plan.batch_positions(step, 4), stretches) for step in range(6)])
    assert positions.tolist() == [n for n in range(34) if n not in {5, 6, 7, 8, 9, 20, 21, 22, 23, 24}]
    write_world(tmp_path / "run")
    plain = trainings.make_loader(tmp_path / "run")
    skipping = trainings.make_loader(tmp_path / "run", skip_samples=((12, 24), (36, 48)))
    expected = [pairs_of(plain.batch(step)) for step in (0, 2, 4, 5)]
    assert [pairs_of(skipping.batch(step)) for step in range(4)] == expected
    assert skipping.epochs_of(12) == plain.epochs_of(24)
