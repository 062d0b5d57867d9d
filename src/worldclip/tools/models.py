"""Commands on any model: evaluate, export, consolidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldclip.contracts.layout import latest_checkpoint, trainer_dir
from worldclip.core.artifacts import read_json
from worldclip.core.command import Command, PushFlag
from worldclip.core.console import note
from worldclip.core.errors import UserError
from worldclip.core.preflight import require_packages
from worldclip.evaluate.config import EvaluateConfig
from worldclip.export.config import ExportConfig
from worldclip.export.push import check_push


@Command
def evaluate(model: str, out: Path, *, config: EvaluateConfig) -> tuple[Any, str]:
    """Evaluate any model on datasets.

    Of a run, the datasets are by default those of its recipe.

    out: folder to write: results.jsonl, results.csv, table.md, table.tex, report.html.
    """
    from worldclip.evaluate.stage import evaluate_model
    from worldclip.report import write_evaluation

    report = evaluate_model(model, config, out)
    note(f"report: {write_evaluation(out)}")
    return report, (out / "table.md").read_text(encoding="utf-8")


@Command
def export(
    model: str,
    out: Path,
    *,
    config: ExportConfig,
    layout: str | None = None,
    arch: str | None = None,
    tokenizer: str | None = None,
    push: PushFlag = None,
    dry_run: bool = False,
) -> tuple[Any, str]:
    """Export any model to the formats of other libraries.

    Of a run, the formats are by default those of its recipe.

    out: folder to write, with one folder per format.
    dry_run: with --push: print what would be uploaded, and upload nothing.
    """
    from worldclip.export import export_model

    if push:
        check_push(push, dry_run=dry_run)
    report = export_model(model, out, config, layout=layout, arch=arch, tokenizer=tokenizer)
    lines = []
    for name, facts in report["formats"].items():
        checks = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "bytes")
        lines.append(f"{out / name}: {facts['bytes']:,} bytes, {checks}")
    if push:
        push_exports(out, push, dry_run)
    return report, "\n".join(lines)


def push_exports(out: Path, repository: str, dry_run: bool) -> None:
    """Upload the formats of an export to the hub, or with `dry_run` list their files only."""
    from worldclip.export.push import plan, push

    uploads = plan([out / name for name in read_json(out / "report.json")["formats"]], repository)
    for upload in uploads:
        note("\n".join(upload.lines()))
    if dry_run:
        note("dry run: nothing was uploaded")
        return
    for pushed in push(uploads):
        note("\n".join(pushed.lines()))


@Command
def consolidate(checkpoint: Path) -> tuple[Any, str]:
    """Write one model.safetensors from a checkpoint in several shards.

    checkpoint: folder of the checkpoint (RUN/train/step_...), or a run for its newest.
    """
    from worldclip.train.checkpoint import consolidate

    require_packages("consolidate", ("torch", "safetensors"), extra="train")
    folder = latest_checkpoint(checkpoint) or checkpoint
    if not trainer_dir(folder).is_dir():
        raise UserError(f"{folder} is not a checkpoint of a training; give RUN/train/step_... or a run")
    consolidate(folder)
    path = str(folder / "model.safetensors")
    return {"model": path}, path
