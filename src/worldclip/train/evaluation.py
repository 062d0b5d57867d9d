"""Evaluation during training: load a checkpoint as anyone would, evaluate it, and remember which was best."""

from __future__ import annotations

from pathlib import Path

from worldclip.core import layout
from worldclip.core.artifacts import read_json, write_json
from worldclip.core.layout import BEST, step_folder
from worldclip.evaluate import datasets, engine
from worldclip.evaluate.config import EvaluateConfig
from worldclip.model.load import load
from worldclip.train.checkpoint import consolidate
from worldclip.train.config import TrainConfig

MEAN = "mean"  # of the datasets' scores; chooses the best checkpoint


def evaluate_checkpoint(
    train_config: TrainConfig, config: EvaluateConfig, run_dir: Path, step: int
) -> dict[str, float]:
    """Evaluate step_<step>, which must be complete on disk, and update best.json.

    Returns {dataset: mean of the first metric over languages and tasks, "mean": mean over datasets}.  The records go to
    RUN/train/evaluate/step_<step>/results.jsonl.
    """
    train_dir = layout.train_dir(run_dir)
    folder = step_folder(train_dir, step)
    consolidate(folder)
    loaded = [datasets.load(name, config, run_dir) for name in train_config.evaluate_datasets or config.dataset_names]
    model_id = {"model": f"train/{folder.name}", "model_digest": folder.name}
    results_path = train_dir / "evaluate" / folder.name / "results.jsonl"
    records, _, _ = engine.evaluate(
        load(folder, device=train_config.device),
        model_id,
        loaded,
        config.languages,
        results_path,
        batch_size=config.batch_size,
    )
    first_metrics: dict[str, list[float]] = {}
    for record in records:
        first_metrics.setdefault(record["dataset"], []).append(next(iter(record["metrics"].values())))
    scores = {name: sum(values) / len(values) for name, values in first_metrics.items()}
    scores[MEAN] = sum(scores.values()) / len(scores)
    _update_best(train_dir, step, scores[MEAN])
    return scores


def _update_best(train_dir: Path, step: int, value: float) -> None:
    """Name the best step so far in train/best.json; of equal scores, the earlier step.

    A resumed run may evaluate steps again.  The recorded best then counts only if it is an earlier step whose folder
    still exists.
    """
    path = train_dir / BEST
    if path.exists():
        best = read_json(path)
        is_valid = best["step"] < step and step_folder(train_dir, best["step"]).exists()
        if is_valid and value <= best["value"]:
            return
    write_json(path, {"step": step, "metric": MEAN, "value": value})
