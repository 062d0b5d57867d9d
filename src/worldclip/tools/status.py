"""What a run has done: the state of each stage, what was kept, which process works on it, where the reports are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from worldclip.contracts import layout
from worldclip.core.artifacts import MANIFEST, read_json, read_manifest
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.settings import SECTIONS
from worldclip.report.table import Table, text_column, to_markdown

STAGES = tuple(section for section in SECTIONS if section != "languages")
"""The stages in order: each has a section of its name in the recipe."""


class StageStatus(TypedDict):
    """A stage of a run."""

    stage: str
    state: str
    """finished, unfinished or not started."""
    finished_at: NotRequired[str]
    """Local time, ISO 8601."""
    counts: Mapping[str, Any]
    """What the manifest counts; of an unfinished stage its finished shards, or the steps of training."""
    report: NotRequired[str]


class RunStatus(TypedDict):
    """What `worldclip status` says of a run."""

    run: str
    in_use_by: str | None
    stages: list[StageStatus]
    next: str | None
    """The command that goes on; None of a finished run."""


def status(run: Path) -> RunStatus:
    """Describe a run from its manifests, without reading its inputs.

    run: folder of a run.

    Raises UserError for a folder that is no run.
    """
    if not layout.recipe(run).is_file():
        raise UserError(f"{run} is not a run: it holds no recipe.toml; give the folder that --out named")
    rows = [_stage_status(run, stage) for stage in STAGES]
    is_done = all(row["state"] == "finished" for row in rows)
    command = None if is_done else f"worldclip run {run}"
    return {"run": str(run), "in_use_by": holder(run), "stages": rows, "next": command}


def holder(run_dir: Path) -> str | None:
    """Return which live process holds the lock of a run, as core.job.RunLock wrote it; None if none does."""
    path = layout.lock(run_dir)
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    process = re.fullmatch(r"process (\d+)", text)
    if process is not None and not _is_alive(int(process[1])):  # it was killed, and the lock went with it
        return None
    return text or None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _stage_status(run_dir: Path, stage: str) -> StageStatus:
    folder = run_dir / stage
    manifest = read_manifest(folder)
    if manifest is None:
        counts = _progress(run_dir, stage)
        return {"stage": stage, "state": "unfinished" if counts else "not started", "counts": counts}
    finished_at = datetime.fromtimestamp((folder / MANIFEST).stat().st_mtime).astimezone()
    row: StageStatus = {
        "stage": stage,
        "state": "finished",
        "finished_at": finished_at.isoformat(timespec="seconds"),
        "counts": manifest["counts"],
    }
    if layout.report_html(folder).exists():
        row["report"] = str(layout.report_html(folder))
    return row


def _progress(run_dir: Path, stage: str) -> Mapping[str, Any]:
    """Return how far an unfinished stage got."""
    if stage == "train":
        log = layout.train_log(run_dir)
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        if not lines:
            return {}
        record = json.loads(lines[-1])
        schedule = read_json(layout.train_dir(run_dir) / "config.json")["schedule"]
        return {"step": record["step"], "steps": schedule["num_steps"], "loss": round(record["loss"], 3)}
    folder = layout.curate_work(run_dir) if stage == "curate" else run_dir / stage
    markers = sum(1 for _ in layout.done_dir(folder).rglob("*.json"))
    return {"shards finished": markers} if markers else {}


def to_text(record: RunStatus) -> str:
    """Return the status as a table, then what happens now, the next command, and the page of the run."""
    columns = [text_column(title) for title in ("stage", "state", "since", "counts")]
    rows = [
        [row["stage"], row["state"], row.get("finished_at", "")[:16].replace("T", " "), _counts_text(row)]
        for row in record["stages"]
    ]
    lines = [to_markdown(Table(columns, rows)), ""]
    lines.append(f"in use by {record['in_use_by']}" if record["in_use_by"] else "not running")
    if record["next"] and not record["in_use_by"]:
        lines.append(f"next: {record['next']}")
    page = layout.report_html(Path(record["run"]))
    if page.exists():
        lines.append(f"report: {page}")
    return "\n".join(lines)


def _counts_text(row: StageStatus) -> str:
    counts = row["counts"]
    if row["stage"] == "metadata" and row["state"] == "finished":
        return f"{len(counts):,} lists, {sum(counts.values()):,} entries"
    if row["stage"] == "export" and row["state"] == "finished":
        return ", ".join(counts)
    shown = {
        name.removeprefix("num_").replace("_", " "): value
        for name, value in counts.items()
        if isinstance(value, int | float)
    }
    return ", ".join(f"{value:,.{0 if value > 100 else 3}f} {name}" if isinstance(value, float)
                     else f"{value:,} {name}" for name, value in shown.items())  # fmt: skip


STATUS = Command(status, lambda record, flags: to_text(record))
"""Show what a run has done, what it kept, and whether it runs now."""
