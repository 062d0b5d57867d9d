"""The last lines of stages of a run: how long they took, what came out, in which folder, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json

NEXT_OF_STAGE = {"curate": "worldclip explore", **dict.fromkeys(("train", "evaluate", "export"), "worldclip embed")}
"""Last stage of a run -> how the command begins that its user wants next; after other stages the run goes on."""


def run_ending(run_dir: Path, stage: str, seconds: float) -> Iterator[str]:
    """Yield the lines after stages of a run.  stage: the last of the call, finished.  seconds: of the whole call."""
    from worldclip.report.next_steps import ORDER, next_steps
    from worldclip.report.numbers import duration
    from worldclip.tools.status import counts_text, stage_status

    counts = counts_text(stage_status(run_dir, stage))
    yield f"done in {duration(seconds)}: {counts or stage}; in {layout.stage_dir(run_dir, stage)}"
    if layout.report_html(run_dir).exists():
        yield f"report: {layout.report_html(run_dir)}"
    paths = {name: layout.stage_report(run_dir, name) for name in ORDER}
    reports = {name: read_json(path) for name, path in paths.items() if path.exists()}
    begins = NEXT_OF_STAGE.get(stage)
    for step in next_steps(run_dir, reports):
        if step.command.startswith(begins) if begins else step.purpose.startswith("Go on"):
            yield f"next: {step.command}"
            return
