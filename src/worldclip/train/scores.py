"""Scores of checkpoints while a run trains.

RUN/train/evaluate/step_<9 digits>/results.jsonl    a record per dataset, language and task
RUN/train/evaluate/step_<9 digits>/scores.json      written last: model_digest, scores by dataset and their mean
RUN/train/best.json                                 the step with the best mean
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets, engine
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.table import Languages
from worldclip.model.load import Source, load
from worldclip.train.config import TrainConfig

MEAN = "mean"  # mean of the datasets' scores; chooses the best checkpoint


def config_of_scores(train: TrainConfig, config: EvaluateConfig) -> EvaluateConfig:
    """Return the config of evaluations while training: train.evaluate_datasets take the place of evaluate.datasets.

    evaluate.also is left out: some of its measures are better when smaller, or highest for a model that sees nothing.
    Raises UserError for unknown datasets and without any.
    """
    config = dataclasses.replace(config, also=())
    if train.evaluate_datasets:
        config = dataclasses.replace(config, datasets=train.evaluate_datasets, suite="")
        if problems := config.problems():
            raise UserError(
                [problem.replace("evaluate.datasets", "train.evaluate_datasets", 1) for problem in problems]
            )
    if not config.dataset_names:
        raise UserError("no dataset to evaluate checkpoints on; set train.evaluate_datasets or evaluate.datasets")
    return config


def has_scores(checkpoint: Path) -> bool:
    """Return whether the evaluation of a checkpoint's weights has ended."""
    marker = layout.step_scores(checkpoint)
    return marker.exists() and artifacts.read_json(marker)["model_digest"] == Source("huggingface", checkpoint).digest()


def score_checkpoint(
    checkpoint: Path,
    run_dir: Path,
    config: EvaluateConfig,
    languages: Languages,
    *,
    device: str,
) -> dict[str, float]:
    """Evaluate a checkpoint, loaded as anyone would, and update best.json; of equal means the earlier step wins.

    config: from config_of_scores.
    Returns {dataset: mean of the first metric over languages and tasks, "mean": mean over datasets}.
    """
    results = layout.step_scores(checkpoint).with_name("results.jsonl")
    loaded = [datasets.load(name, config, run_dir, languages) for name in config.dataset_names]
    model_id = {"model": f"train/{checkpoint.name}", "model_digest": Source("huggingface", checkpoint).digest()}
    model = load(checkpoint, device=device, preprocess=config.preprocess_rule)
    records, _, _ = engine.evaluate(model, model_id, loaded, config.languages, results, batch_size=config.batch_size)
    first_metrics: dict[str, list[float]] = {}
    for record in records:
        first_metrics.setdefault(record["dataset"], []).append(next(iter(record["metrics"].values())))
    scores = {name: sum(values) / len(values) for name, values in first_metrics.items()}
    scores[MEAN] = sum(scores.values()) / len(scores)
    update_best(checkpoint, scores[MEAN])
    artifacts.write_json(layout.step_scores(checkpoint), {"model_digest": model_id["model_digest"], "scores": scores})
    return scores


def update_best(checkpoint: Path, score: float) -> None:
    """Name a checkpoint in best.json, unless another step that still exists is better or as good and earlier."""
    train_dir, step = checkpoint.parent, layout.step_of(checkpoint)
    best = artifacts.read_json(train_dir / layout.BEST) if layout.best_of(train_dir) else None
    if best is None or best["step"] == step or (score, -step) > (best["value"], -best["step"]):
        artifacts.write_json(train_dir / layout.BEST, {"step": step, "metric": MEAN, "value": score})
