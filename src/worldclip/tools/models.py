"""Commands on models and their results: classify, evaluate, compare, export, consolidate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.contracts.layout import latest_checkpoint, trainer_dir, trainer_state
from worldclip.core.command import Command, OutFile, OutFolder, ShardsFlag, read_slice
from worldclip.core.console import note
from worldclip.core.errors import UserError
from worldclip.core.job_files import read_record, refuse_newer_run
from worldclip.core.preflight import require_packages
from worldclip.evaluate.config import EvaluateConfig
from worldclip.export.config import ExportConfig


@Command
def classify(
    model: str,
    images: Sequence[str],
    *,
    labels: Sequence[str],
    templates: Sequence[str] = (),
    arch: str | None = None,
    tokenizer: str | None = None,
    precision: str | None = "auto",
    device: str = "auto",
) -> tuple[Any, str]:
    """Print the probabilities of labels for images.

    images: image files.
    labels: words or sentences to choose from, in any language.
    templates: sentences around a label, {} is the label (default: only the label).

    Examples:
        worldclip classify runs/emoji a.jpg --labels cat dog
        worldclip classify facebook/metaclip-2-worldwide-b32 a.jpg --labels Katze Hund
    """
    from worldclip.model.images import require_files
    from worldclip.model.inference import label_sentences
    from worldclip.model.load import load

    if not images:
        raise UserError("no image is named; give image files: worldclip classify MODEL a.jpg b.jpg --labels cat dog")
    problems = []
    for label, number in Counter(labels).items():
        if not label.strip():
            problems.append(f"label {label!r} is blank; give words")
        elif number > 1:
            problems.append(f"label {label!r} is given {number} times; give it once")
    if problems:
        raise UserError(problems)
    label_sentences(labels, templates or ("{}",))  # refuses templates, as require_files does images, without the model
    require_files(images)
    if len(labels) == 1 and "," in labels[0]:
        note(f"--labels {labels[0]!r} is one label; separate several by spaces, in quotes where they hold spaces")
    clip = load(model, device, arch=arch, tokenizer=tokenizer, precision=precision)
    scores = clip.classify(list(images), list(labels), templates or ("{}",))
    lines = []
    record = []
    for image, row in zip(images, scores, strict=True):
        shares = dict(zip(labels, map(float, row), strict=True))
        record.append({"image": image, "probabilities": shares})
        lines.append(image)
        lines += [f"  {share:7.2%}  {label}" for label, share in sorted(shares.items(), key=lambda item: -item[1])]
    return record, "\n".join(lines)


@Command
def evaluate(model: str, out: OutFolder, *, config: EvaluateConfig, shards: ShardsFlag = None) -> tuple[Any, str]:
    """Evaluate any model on datasets.

    Of a run, the datasets are by default those of its recipe.

    out: folder to write: results.jsonl, results.csv, table.md, report.html.
    shards: measure only slice I of N of the pairs of dataset and language, for several GPUs or jobs that share `out`;
        rerun without --shards to finish.

    Examples:
        worldclip evaluate facebook/metaclip-2-worldwide-b32 --out results --datasets mine --folders.mine folders:photos
        worldclip evaluate runs/emoji --out results --suite multilingual --data data
    """
    from worldclip.evaluate.stage import evaluate_model
    from worldclip.report import write_evaluation

    part = None
    if shards is not None:
        every = read_slice(shards)
        part = every.start + 1, every.step
    report = evaluate_model(model, config, out, part=part)
    if part is not None:
        note(f"slice {shards} measured. Rerun without --shards to finish.")
        return report, ""
    note(f"report: {write_evaluation(out)}")
    return report, (out / "table.md").read_text(encoding="utf-8")


@Command
def compare_runs(runs: Sequence[Path], *, curation: bool = False, out: OutFile = None) -> tuple[Any, str]:
    """Compare evaluations query by query, with confidence intervals over images and seeds, or two curated lists.

    runs: runs, or folders that evaluate wrote.  Runs that differ only in seeds count as one, with several seeds.
    curation: compare the curated lists of two runs, by keys and languages (default: if neither has an evaluation).
    out: file to write, Parquet, with the keys that only one of two curated lists has.

    Examples:
        worldclip compare runs/a runs/b
        worldclip compare runs/a_0 runs/a_1 runs/b_0 > comparison.md
    """
    from worldclip.evaluate.compare import compare
    from worldclip.evaluate.comparison_table import comparison_text
    from worldclip.tools.compare_curations import are_curations, compare_curations, to_text

    if len(runs) < 2:
        raise UserError("worldclip compare takes two or more runs")
    if curation or out is not None or are_curations(runs):
        if len(runs) != 2:
            raise UserError("curated lists are compared in pairs; give two runs")
        compared = compare_curations(runs[0], runs[1], out)
        return compared, to_text(compared)
    comparison = compare(*runs)
    arms = []
    for arm in comparison.arms:
        record = {"name": arm.name, "folders": list(map(str, arm.folders)), "changes": list(map(str, arm.changes))}
        arms.append({**record, "code": arm.code, "schedules": arm.schedules, "seen": arm.seen})
    result = {"arms": arms, "rows": comparison.rows, "by_language": comparison.by_language}
    return result, comparison_text(comparison)


@Command
def export(
    model: str, out: OutFolder, *, config: ExportConfig, arch: str | None = None, tokenizer: str | None = None
) -> tuple[Any, str]:
    """Export any model to the formats of other libraries.

    Of a run, the formats are by default those of its recipe.

    out: folder to write, with one folder per format.

    Examples:
        worldclip export runs/emoji --out exports --formats onnx
        worldclip export facebook/metaclip-2-worldwide-b32 --out exports --formats open_clip
    """
    from worldclip.export import export_model

    report = export_model(model, out, config, arch=arch, tokenizer=tokenizer)
    lines = []
    for name, facts in report["formats"].items():
        checks = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "bytes" and value is not None)
        lines.append(f"{out / name}: {facts['bytes']:,} bytes, {checks}")
    return report, "\n".join(lines)


@Command
def consolidate(checkpoint: Path) -> tuple[Any, str]:
    """Write one model.safetensors from a checkpoint in several shards.

    checkpoint: folder of the checkpoint (RUN/train/step_...), or a run for its newest.

    Examples:
        worldclip consolidate runs/emoji/train/step_000000010
        worldclip consolidate runs/emoji/train/step_000000010 --json
    """
    from worldclip.train.checkpoint import consolidate

    require_packages("consolidate", ("torch", "safetensors"), extra="train")
    refuse_newer_run(checkpoint)
    folder = latest_checkpoint(checkpoint) or checkpoint
    read_record(trainer_state(folder))
    if not trainer_dir(folder).is_dir():
        raise UserError(f"{folder} is not a checkpoint of a training; give RUN/train/step_... or a run")
    consolidate(folder)
    path = str(folder / "model.safetensors")
    return {"model": path}, path
