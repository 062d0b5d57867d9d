"""The progress of a run: the state of each stage, what was kept, which process works on it, where the reports are."""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from worldclip.contracts import layout
from worldclip.core.artifacts import MANIFEST, read_json, read_manifest
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.settings import SECTIONS
from worldclip.report.numbers import duration, short
from worldclip.report.table import Table, text_column
from worldclip.report.table import to_text as table_text
from worldclip.report.train import read_log

LOG_TAIL_BYTES = 2**18
LOG_TIME = "%Y-%m-%d %H:%M:%S"
_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ +(\w+)  (.*)")  # core/console.py
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
    """Counts of the manifest; for an unfinished stage, its finished shards or the steps of training."""


class StageNow(TypedDict):
    """The stage that runs."""

    stage: str
    started_at: str
    """Local time, ISO 8601."""
    unit: NotRequired[str]
    """Unit of progress: shards or steps."""
    finished: NotRequired[int]
    total: NotRequired[int]
    speed: NotRequired[str]
    seconds_left: NotRequired[float]


class RunStatus(TypedDict):
    """The status of a run."""

    run: str
    in_use_by: str | None
    now: NotRequired[StageNow]
    """The work of a live process; missing between stages and for a run that nothing works on."""
    stages: list[StageStatus]
    next: str | None
    """The command that goes on; None of a finished run."""


def status(run: Path) -> RunStatus:
    """Describe a run from its manifests, without reading its inputs.

    run: folder of a run.

    Raises UserError for a folder that is no run.

    Examples:
        worldclip status runs/my_images
        worldclip status runs/my_images --json
    """
    if not layout.recipe(run).is_file():
        raise UserError(f"{run} is not a run: it holds no recipe.toml; give the folder that --out named")
    rows = [stage_status(run, stage) for stage in STAGES]
    record: RunStatus = {"run": str(run), "in_use_by": holder(run), "stages": rows, "next": _next_command(run, rows)}
    if record["in_use_by"] and (now := _running_stage(run)):
        record["now"] = now
    return record


def _next_command(run_dir: Path, rows: Sequence[StageStatus]) -> str | None:
    """Return what to call next: training, the long stage, first says what it takes."""
    unfinished = [row for row in rows if row["state"] != "finished"]
    if not unfinished:
        return None
    if (unfinished[0]["stage"], unfinished[0]["state"]) == ("train", "not started"):
        return f"worldclip train {run_dir} --dry-run"
    return f"worldclip run {run_dir}"


def _running_stage(run_dir: Path) -> StageNow | None:
    """Return the stage that began last and has not finished, by RUN/log.txt, and how fast it is."""
    path = layout.run_log(run_dir)
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        matches = map(_LOG_LINE.match, file.read().decode("utf-8", "replace").splitlines())
    lines = [match.groups() for match in matches if match is not None]
    begun = {stage: (i, at) for i, (at, stage, message) in enumerate(lines) if message.startswith("starts (")}
    if not begun:
        return None
    stage, (i, at) = max(begun.items(), key=lambda item: item[1][0])
    if any(name == stage and message.startswith("finished in") for _, name, message in lines[i:]):
        return None
    start = datetime.strptime(at, LOG_TIME).astimezone()
    now: StageNow = {"stage": stage, "started_at": start.isoformat(timespec="seconds")}
    progress = _training_now(run_dir) if stage == "train" else _shards_now(run_dir, stage, start.timestamp())
    return cast(StageNow, {**now, **progress})


def _training_now(run_dir: Path) -> dict[str, Any]:
    """Return step, steps, speed and time left from the log of a training; {} before its first record."""
    log = read_log(layout.train_log(run_dir))
    if not log:
        return {}
    record = log[-1]
    schedule = read_json(layout.train_dir(run_dir) / "config.json")["schedule"]
    steps_left = schedule["num_steps"] - record["step"]
    return {
        "unit": "steps",
        "finished": record["step"],
        "total": schedule["num_steps"],
        "speed": f"{record['samples_per_s']:,.0f} samples/s",
        "seconds_left": steps_left * schedule["global_batch_size"] / record["samples_per_s"],
    }


def _shards_now(run_dir: Path, stage: str, start: float) -> dict[str, Any]:
    """Return the finished shards of a stage that works shard by shard, and the time for the others."""
    folder = layout.curate_work(run_dir) if stage == "curate" else run_dir / stage
    done_dir = layout.done_dir(folder, "texts") if stage == "match" else layout.done_dir(folder)
    markers = list(done_dir.rglob("*.json"))
    pool = read_manifest(layout.stage_dir(run_dir, "pool"))
    if stage not in ("match", "curate") or pool is None or not markers:
        return {"unit": "shards", "finished": len(markers)} if markers else {}
    total = pool["counts"]["shards"]
    num_new = sum(marker.stat().st_mtime >= start for marker in markers)
    progress = {"unit": "shards", "finished": len(markers), "total": total}
    if not num_new:
        return progress
    per_s = num_new / max(time.time() - start, 1e-9)
    return progress | {"speed": f"{per_s:,.1f} shards/s", "seconds_left": (total - len(markers)) / per_s}


def holder(run_dir: Path) -> str | None:
    """Return which process holds the lock of a run, as core.job.RunLock wrote it; None if none does."""
    path = layout.lock(run_dir)
    if not path.is_file():
        return None
    with open(path, encoding="utf-8") as file:
        text = file.read().strip()
        if not text:  # nobody does; a lock that is tried needlessly could meet a run that starts
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return text
    return None  # the lock went with a process that was killed, or with the calls that shared it


def stage_status(run_dir: Path, stage: str) -> StageStatus:
    """Return the state of a stage, and what its manifest counts."""
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
    return row


def _progress(run_dir: Path, stage: str) -> Mapping[str, Any]:
    """Return how far an unfinished stage got."""
    if stage == "train":
        log = read_log(layout.train_log(run_dir))
        if not log:
            return {}
        record = log[-1]
        schedule = read_json(layout.train_dir(run_dir) / "config.json")["schedule"]
        loss = record["loss"]  # None: not finite
        return {
            "step": record["step"],
            "steps": schedule["num_steps"],
            "loss": None if loss is None else round(loss, 3),
        }
    folder = layout.curate_work(run_dir) if stage == "curate" else run_dir / stage
    markers = sum(1 for _ in layout.done_dir(folder).rglob("*.json"))
    return {"shards finished": markers} if markers else {}


def to_text(record: RunStatus) -> str:
    """Return the status as a table, then what happens now, the next command, and the page of the run."""
    columns = [text_column(title) for title in ("stage", "state", "since", "counts")]
    rows = [
        [row["stage"], row["state"], row.get("finished_at", "")[5:16].replace("T", " "), counts_text(row)]
        for row in record["stages"]
    ]
    lines = [table_text(Table(columns, rows)), ""]
    if "now" in record:
        lines.append(_now_text(record["now"]))
    lines.append(f"in use by {record['in_use_by']}" if record["in_use_by"] else "not running")
    if record["next"] and not record["in_use_by"]:
        lines.append(f"next: {record['next']}")
    page = layout.report_html(Path(record["run"]))
    if page.exists():
        lines.append(f"report: {page}")
    return "\n".join(lines)


def _now_text(now: StageNow) -> str:
    """Return the running stage in one line: `now: train since 14:02, 120 of 500 steps, 109 samples/s, 3 min left`."""
    parts = [f"now: {now['stage']} since {now['started_at'][11:16]}"]
    if "finished" in now:
        total = f" of {now['total']:,}" if "total" in now else ""
        parts.append(f"{now['finished']:,}{total} {now['unit']}")
    if "speed" in now:
        parts.append(now["speed"])
    if "seconds_left" in now:
        parts.append(f"{duration(now['seconds_left'])} left")
    return ", ".join(parts)


def counts_text(row: StageStatus) -> str:
    """Return what a stage counts in a few words: `300 pairs in, 281 pairs out`."""
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
    not_zero = {name: value for name, value in shown.items() if value} or shown
    parts = [f"{_number(value)} {name}" for name, value in not_zero.items()]
    if counts.get("loss", 0) is None:
        parts.append("loss not finite")
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) and value <= 100 else short(value)


STATUS = Command(status, lambda record, flags: to_text(record))
"""Show what a run has done, what it kept, and whether it runs now."""
