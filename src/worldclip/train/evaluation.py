"""Evaluation while training: a checkpoint as anyone would load it, on the recipe's data sets, and which was best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.artifacts import read_json, write_json
from worldclip.core.layout import BEST, step_folder
from worldclip.train.checkpoint import consolidate

if TYPE_CHECKING:
    from worldclip.config import Recipe

MEAN = "mean"  # of the data sets' scores: what the best checkpoint is chosen by


def evaluate_checkpoint(recipe: Recipe, run_dir: Path, step: int) -> dict[str, float]:
    """{dataset: mean over its languages and tasks of the first metric, "mean": their mean} of step_<step>.

    Records go to RUN/train/evaluate/step_<step>/results.jsonl.  Needs the checkpoint whole on disk.
    """
    from worldclip.evaluate import datasets, engine
    from worldclip.model.load import load

    folder = step_folder(run_dir / "train", step)
    consolidate(folder)
    config = recipe.evaluate
    loaded = [datasets.load(name, config, run_dir) for name in recipe.train.evaluate_datasets or config.asked]
    model_id = {"model": f"train/{folder.name}", "model_digest": folder.name}
    out = run_dir / "train" / "evaluate" / folder.name / "results.jsonl"
    model = load(folder, device=recipe.train.device)
    records, _, _ = engine.evaluate(model, model_id, loaded, config.languages, out, batch_size=config.batch_size)
    scores = {}
    for name in dict.fromkeys(record["dataset"] for record in records):
        first = [next(iter(record["metrics"].values())) for record in records if record["dataset"] == name]
        scores[name] = sum(first) / len(first)
    scores[MEAN] = sum(scores.values()) / len(scores)
    _keep_best(run_dir / "train", step, scores[MEAN])
    return scores


def _keep_best(train_dir: Path, step: int, value: float) -> None:
    """train/best.json names the best step so far: of equal ones, and of runs that were cut back, the earlier."""
    path = train_dir / BEST
    best: dict[str, Any] = read_json(path) if path.exists() else {}
    stands = bool(best) and best["step"] < step and step_folder(train_dir, best["step"]).exists()
    if not stands or value > best["value"]:
        write_json(path, {"step": step, "metric": MEAN, "value": value})
