"""Scores of checkpoints while a run trains.

RUN/train/evaluate/step_<9 digits>/results.jsonl    a record per dataset, language and task
RUN/train/evaluate/step_<9 digits>/scores.json      written last: model_digest, datasets, scores and their mean
RUN/train/best.json                                 the step with the best mean over the same datasets

`datasets` of both files has a digest per dataset.  Only scores of equal digests are compared.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets, engine
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import Languages
from worldclip.model.load import Source, load
from worldclip.train.config import TrainConfig

MEAN = "mean"  # mean of the datasets' scores; chooses the best checkpoint
Digests = dict[str, str]
"""What the score of each dataset depends on besides the model, by the dataset's name."""


def config_of_scores(train: TrainConfig, config: EvaluateConfig) -> EvaluateConfig:
    """Return the config of evaluations while training: train.evaluate_datasets take the place of evaluate.datasets.

    evaluate.also is left out: some of its measures are better when smaller, or highest for a model that sees nothing.
    Raises UserError for unknown datasets and without any.
    """
    config = dataclasses.replace(config, also=())
    if train.evaluate_datasets:
        config = dataclasses.replace(config, datasets=train.evaluate_datasets, suite="")
        problems = [problem.replace("evaluate.datasets", "train.evaluate_datasets", 1) for problem in config.problems()]
        if problems:
            raise UserError(problems)
    if not config.dataset_names:
        raise UserError("no dataset to evaluate checkpoints on; set train.evaluate_datasets or evaluate.datasets")
    return config


def load_datasets(config: EvaluateConfig, run_dir: Path, languages: Languages) -> tuple[list[Dataset], Digests]:
    """Return the datasets of `config`, and their digests over images, texts, languages, preprocessing and protocol."""
    loaded = [datasets.load(name, config, run_dir, languages) for name in config.dataset_names]
    conditions = [list(config.languages), config.preprocess_rule, config.tie_rule, engine.PROTOCOL_VERSION]
    return loaded, {dataset.name: artifacts.digest([dataset.digest, *conditions]) for dataset in loaded}


def read_mean(checkpoint: Path, digests: Digests) -> float | None:
    """Return a checkpoint's mean score over datasets of these digests; None if its weights have none."""
    path = layout.step_scores(checkpoint)
    if not path.exists():
        return None
    record = artifacts.read_json(path)
    if record.get("datasets") != digests or record["model_digest"] != Source("huggingface", checkpoint).digest():
        return None
    mean: float = record["scores"][MEAN]
    return mean


def write_best(train_dir: Path, digests: Digests) -> None:
    """Name the best checkpoint in best.json; of equal means the earlier step wins.  Without scores best.json stays."""
    means = {}
    for checkpoint in layout.checkpoints(train_dir):
        mean = read_mean(checkpoint, digests)
        if mean is not None:
            means[layout.step_of(checkpoint)] = mean
    if means:
        step = max(means, key=means.__getitem__)
        record = {"step": step, "metric": MEAN, "value": means[step], "datasets": digests}
        artifacts.write_json(train_dir / layout.BEST, record)


def score_checkpoint(
    checkpoint: Path,
    run_dir: Path,
    config: EvaluateConfig,
    languages: Languages,
    *,
    device: str,
) -> dict[str, float]:
    """Evaluate a checkpoint, loaded as anyone would, and update best.json.

    config: what config_of_scores returned.
    Returns {dataset: mean of the first metric over languages and tasks, "mean": mean over datasets}.
    """
    results = layout.step_scores(checkpoint).with_name("results.jsonl")
    loaded, digests = load_datasets(config, run_dir, languages)
    model_id = {"model": f"train/{checkpoint.name}", "model_digest": Source("huggingface", checkpoint).digest()}
    model = load(checkpoint, device=device, preprocess=config.preprocess_rule)
    records, _, _ = engine.evaluate(model, model_id, loaded, config.languages, results, batch_size=config.batch_size)
    first_metrics: dict[str, list[float]] = {}
    for record in records:
        first_metrics.setdefault(record["dataset"], []).append(next(iter(record["metrics"].values())))
    scores = {name: sum(values) / len(values) for name, values in first_metrics.items()}
    scores[MEAN] = sum(scores.values()) / len(scores)
    written = {"model_digest": model_id["model_digest"], "datasets": digests, "scores": scores}
    artifacts.write_json(layout.step_scores(checkpoint), written)
    write_best(checkpoint.parent, digests)
    return scores
