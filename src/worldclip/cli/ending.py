"""The last lines of stages of a run: how long they took, what came out, in which folder, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from worldclip.contracts import layout

NEXT_OF_STAGE = {
    "curate": "worldclip explore {run} --out {explorer}",
    **dict.fromkeys(("train", "evaluate", "export"), "worldclip embed {run} POOL --out embedded"),
}
"""Last stage of a run -> what its user does next; after other stages the run goes on."""


def run_ending(run_dir: Path, stage: str, seconds: float) -> Iterator[str]:
    """Yield the lines after stages of a run.  stage: the last of the call, finished.  seconds: of the whole call."""
    from worldclip.report import STAGES
    from worldclip.report.numbers import duration
    from worldclip.tools.status import counts_text, stage_status

    counts = counts_text(stage_status(run_dir, stage))
    yield f"done in {duration(seconds)}: {counts or stage}; in {layout.stage_dir(run_dir, stage)}"
    if layout.report_html(run_dir).exists():
        yield f"report: {layout.report_html(run_dir)}"
    named = run_dir.resolve() if run_dir.name in ("", "..") else run_dir  # `.` has no name
    places = {"run": str(run_dir), "explorer": f"{named}_explorer"}
    words = {name: shlex.quote(path) for name, path in places.items()}
    if stage in NEXT_OF_STAGE:
        yield f"next: {NEXT_OF_STAGE[stage].format_map(words)}"
    elif not all(layout.stage_report(run_dir, name).exists() for name in STAGES):
        yield f"next: worldclip run {words['run']}"
