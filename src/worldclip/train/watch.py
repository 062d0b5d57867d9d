"""Evaluate the checkpoints of a run while another process trains: each once, oldest first, until training has finished.

Training may remove a checkpoint at any moment (train.keep_last).  The files of the one that is evaluated are therefore
linked aside first, which keeps their contents, and the folder of links goes when its scores are written:

    RUN/train/evaluate/step_<9 digits>/checkpoint/
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.console import logged_to, say
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.table import Languages
from worldclip.train.checkpoint import FILES, MODEL, OPTIMIZER, consolidate, read_state
from worldclip.train.config import TrainConfig
from worldclip.train.scores import MEAN, config_of_scores, has_scores, load_datasets, score_checkpoint

Score = Callable[[Path, Path], dict[str, float]]
"""(checkpoint, folder with its files) -> scores, see score_checkpoint."""
POLL_S = 5.0  # interval of looking for a new checkpoint


def watch(run_dir: Path, train: TrainConfig, config: EvaluateConfig, languages: Languages) -> None:
    """Evaluate checkpoints of RUN/train as they appear, and return when training has finished and all are evaluated.

    Raises UserError if training evaluates by itself, without datasets, or if another process watches the run.
    """
    if train.evaluate_every_samples:
        raise UserError(
            f"train.evaluate_every_samples = {train.evaluate_every_samples}: training evaluates its checkpoints; "
            "set it to 0 in the recipe, or leave out --watch"
        )
    scored = config_of_scores(train, config)
    load_datasets(run_dir, scored, languages)  # what is wrong with them is said now and not at the first checkpoint
    score = functools.partial(
        score_checkpoint,
        run_dir=run_dir,
        config=scored,
        languages=languages,
        device=config.device,
        processes=config.processes,
    )
    train_dir = layout.train_dir(run_dir)
    with RunLock(run_dir, name=".watch.lock"), logged_to(layout.run_log(run_dir)):
        say("evaluate", f"watching {train_dir}; stop with Ctrl-C, go on with the same command")
        num_scored = _watch(train_dir, score)
    best = layout.best_of(train_dir)
    best_is = f"; best: {best.name}" if best else ""
    say("evaluate", f"training has finished; {num_scored:,} checkpoints evaluated by this call{best_is}")


def _watch(train_dir: Path, score: Score) -> int:
    """Return how many checkpoints got scores."""
    num_scored = 0
    seen: set[tuple[str, int]] = set()
    is_waiting = False
    while True:
        is_finished = artifacts.read_manifest(train_dir) is not None  # before the list: the last checkpoint is older
        new = next((path for path in layout.checkpoints(train_dir) if _identity(path) not in seen), None)
        if new is not None:
            is_waiting = False
            seen.add(_identity(new))
            num_scored += _evaluate_once(new, score)
        elif is_finished:
            return num_scored
        else:
            if not is_waiting:
                say("evaluate", "waiting for the next checkpoint")
            is_waiting = True
            time.sleep(POLL_S)


def _identity(checkpoint: Path) -> tuple[str, int]:
    """Return what tells a checkpoint from one of the same name after training was restarted."""
    try:
        return checkpoint.name, layout.trainer_state(checkpoint).stat().st_mtime_ns
    except FileNotFoundError:
        return checkpoint.name, 0  # removed since it was listed


def _evaluate_once(checkpoint: Path, score: Score) -> bool:
    """Evaluate a checkpoint unless it has scores; return whether it was evaluated."""
    aside = layout.step_scores(checkpoint).with_name("checkpoint")
    shutil.rmtree(aside, ignore_errors=True)  # remains of a call that was killed
    try:
        try:
            _link_files(checkpoint, aside)
        except FileNotFoundError:
            say(
                "evaluate", f"{checkpoint.name} was removed before it was evaluated; raise train.keep_last to keep more"
            )
            return False
        _consolidate(checkpoint, aside)
        if has_scores(checkpoint, aside):
            return False
        say("evaluate", f"evaluating {checkpoint.name}")
        scores = score(checkpoint, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _draw(checkpoint.parent, scores, layout.step_of(checkpoint))
    say("evaluate", f"step {layout.step_of(checkpoint)}: mean score over datasets {scores[MEAN]:.4f}")
    return True


def _link_files(checkpoint: Path, aside: Path) -> None:
    """Link a checkpoint's files but the optimizer's into `aside`; copy them where the file system has no links.

    Raises FileNotFoundError if the checkpoint is removed meanwhile.
    """
    read_state(checkpoint)
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint)
        if path.is_dir() or name.as_posix() == OPTIMIZER:
            continue
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        _link(path, aside / name)
    if not checkpoint.exists():  # a listing of a folder that goes away may be short
        raise FileNotFoundError(checkpoint)


def _link(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(path, link)


def _consolidate(checkpoint: Path, aside: Path) -> None:
    """Write model.safetensors of a sharded checkpoint, into the checkpoint too while it is there."""
    if (aside / MODEL).exists():
        return
    consolidate(aside)
    try:
        for name in (MODEL, FILES):
            new = checkpoint / f"{name}.new"
            _link(aside / name, new)
            os.replace(new, checkpoint / name)
    except FileNotFoundError:
        return  # training has removed it


def _draw(train_dir: Path, scores: dict[str, float], step: int) -> None:
    """Add the scores to what TensorBoard shows."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(layout.tensorboard_dir(train_dir))) as board:
        for name, score in scores.items():
            board.add_scalar(f"evaluate/{name}", score, step)
