"""The progress of a run: the state of each stage, what was kept, which process works on it, where the report is."""

from __future__ import annotations

import dataclasses
import fcntl
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from worldclip.contracts import layout
from worldclip.contracts.records import outdated_stages, skipped_shards
from worldclip.contracts.summary import Step, account
from worldclip.core.artifacts import MANIFEST, read_json, read_manifest
from worldclip.core.changes import name_changes
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.job import Report, Run
from worldclip.core.preflight import problems_of
from worldclip.core.printable import command_line
from worldclip.core.settings import SECTIONS
from worldclip.curate import require_current
from worldclip.model.load import outdated_results
from worldclip.pool.excluded_keys import older_lists
from worldclip.pool.stage import reason_to_run, skipped_lines
from worldclip.report import table
from worldclip.report.numbers import short
from worldclip.report.train import read_log
from worldclip.tools import find_keys

STAGES = tuple(section for section in SECTIONS if section != "languages")
"""The stages in order: each has a section of its name in the recipe."""


def status(run: Path | None = None, *, keys: Path | None = None, folders: Sequence[Path] = ()) -> Report:
    """Describe a run from its manifests and its lists of keys; list its pool if that is local, without reading it.

    run: folder of a run (default: list those in runs/); with keys also a folder that `worldclip embed` wrote.
    keys: a list of keys, as pool.deny_keys takes it: whether each is in the pool, gone or unknown, and which files have
        it.
    folders: with --keys, folders to search besides those next to the run and in the working directory.

    With keys, returns tools.find_keys.find_keys, of embeddings find_embedded_keys.  Raises UserError for a folder that
    is neither.

    Examples:
        worldclip status runs/my_images
        worldclip status runs/my_images --keys takedown.txt
    """
    if folders and keys is None:
        raise UserError("--folders is a flag of --keys; give a list of keys too")
    if run is None and keys is not None:
        raise UserError("--keys needs a run: worldclip status RUN --keys LIST")
    if run is None:
        return {"runs": [str(recipe.parent) for recipe in sorted(Path("runs").glob("*/recipe.toml"))]}
    manifest = read_manifest(run) if run.is_dir() else None
    if keys is not None and manifest is not None and manifest.get("job") == "embed":
        if folders:
            raise UserError(f"--folders is for the keys of a run, and {run} is a folder of embeddings")
        return find_keys.find_embedded_keys(run, keys)
    if not layout.is_run(run):
        raise UserError(f"{run} is not a run: it holds no recipe.toml; give the folder that --out named")
    if keys is not None:
        return find_keys.find_keys(run, keys, folders)
    rows = [stage_status(run, stage) for stage in STAGES]
    outdated = outdated_results(run) | outdated_stages(run, {})
    for row in rows:
        if row["state"] != "finished":
            continue
        if row["stage"] in outdated:
            remedy = f"run first: {command_line('run', run)}"
            if row["stage"] == "train" and layout.checkpoints(layout.train_dir(run)):
                remedy = f"what can be done: {command_line('train', run, '--dry-run')}"
            problem = f"{run / row['stage']} is out of date: {outdated[row['stage']]}; {remedy}"
            row |= {"state": "out of date", "problems": [problem]}
        if row["stage"] == "pool":
            row |= _changes_of_pool(run)
        if row["stage"] == "metadata":
            row |= _changes_of_metadata(run)
        if row["stage"] == "curate":
            problems = problems_of(lambda: require_current(Run.open(run)))
            if problems:
                row |= {"state": "out of date", "problems": problems}
    unfinished = [row for row in rows if row["state"] != "finished"]
    next_command = command_line("run", run) if unfinished else None
    if unfinished and unfinished[0]["stage"] == "train" and unfinished[0]["state"] != "unfinished":
        next_command = command_line("train", run, "--dry-run")  # the long stage: what it takes, or why it is refused
    return {
        "run": str(run),
        "in_use_by": holder(run),
        "stages": rows,
        "account": [dataclasses.asdict(step) for step in account(run)],
        "skipped": skipped_shards(run),
        "next": next_command,
    }


def _changes_of_pool(run_dir: Path) -> Report:
    """Return what is new about a finished pool: `state` if the stage would run again, and `problems`; {} if nothing is.

    The pool is listed if it lies in local folders.
    """
    reasons: list[str | None] = []
    problems = problems_of(lambda: reasons.append(reason_to_run(Run.open(run_dir))))  # its folder may be gone
    changes: Report = {}
    if any(reasons):
        changes["state"] = "out of date"
        problems.append(f"{run_dir / 'pool'} is out of date: {reasons[0]}; run first: {command_line('run', run_dir)}")
    problems += older_lists(Run.open(run_dir))
    if problems:
        changes["problems"] = problems
    return changes


def _changes_of_metadata(run_dir: Path) -> Report:
    """Return `state` and `problems` if a source of the finished lists is another now; {} if none is."""
    from worldclip.metadata.stage import changes_of_sources

    changes = []
    problems = problems_of(lambda: changes.extend(changes_of_sources(Run.open(run_dir))))
    if changes:
        reason = f"its inputs changed: {name_changes(changes)}"
        problems = [f"{run_dir / 'metadata'} is out of date: {reason}; run first: {command_line('run', run_dir)}"]
    return {"state": "out of date", "problems": problems} if problems else {}


def holder(run_dir: Path) -> str | None:
    """Return which process holds the lock of a run, as core.job.lock_folder wrote it; None if none does."""
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


def stage_status(run_dir: Path, stage: str) -> Report:
    """Return stage, state (finished, unfinished or not started), counts, and the local time when it was finished.

    A finished stage has the counts of its manifest; those of an unfinished one say how far it got.
    """
    manifest = read_manifest(run_dir / stage)
    if manifest is None:
        counts = _progress(run_dir, stage)
        return {"stage": stage, "state": "unfinished" if counts else "not started", "counts": counts}
    finished_at = datetime.fromtimestamp((run_dir / stage / MANIFEST).stat().st_mtime).astimezone()
    return {
        "stage": stage,
        "state": "finished",
        "finished_at": finished_at.isoformat(timespec="seconds"),
        "counts": manifest["counts"],
    }


def _progress(run_dir: Path, stage: str) -> Report:
    """Return the last step of a training, else the finished shards; of how many, where that is known."""
    if stage == "train":
        log = read_log(layout.train_log(run_dir))
        if not log:
            return {}
        steps = read_json(layout.train_dir(run_dir) / "config.json")["schedule"]["num_steps"]
        saved = map(layout.step_of, layout.checkpoints(layout.train_dir(run_dir)))
        return {"step": max([log[-1]["step"], *saved]), "steps": steps, "loss": log[-1]["loss"]}
    folder = layout.curate_work(run_dir) if stage == "curate" else run_dir / stage
    done_dir = layout.done_dir(folder, "texts") if stage == "match" else layout.done_dir(folder)
    finished = len(list(done_dir.rglob("*.json")))
    pool = read_manifest(layout.stage_dir(run_dir, "pool"))
    if not finished:
        return {}
    if pool is None or stage not in ("match", "curate"):
        return {"shards_finished": finished}
    return {"shards_finished": finished, "shards": pool["counts"]["shards"]}


def to_text(record: Report) -> str:
    """Return the status as a table, then the process that works on it, the next command, and the page of the run."""
    if "runs" in record:
        return "\n".join(record["runs"]) or "no runs in runs/; worldclip status RUN describes the folder of a run"
    if "states" in record:
        return find_keys.to_text(record)
    columns = list(map(table.text_column, ("stage", "state", "since", "counts")))
    rows = []
    problems: list[str] = []
    for row in record["stages"]:
        since = row.get("finished_at", "")[5:16].replace("T", " ")
        rows.append([row["stage"], row["state"], since, counts_text(row)])
        problems += row.get("problems", ())
    lines = [table.to_text(table.Table(columns, rows)), ""]
    if record["account"]:
        lines += [str(Step(**step)) for step in record["account"]]
        lines += [*skipped_lines(record["skipped"]), ""]
    lines += problems
    if record["in_use_by"]:
        lines.append(f"in use by {record['in_use_by']}")
    else:
        lines.append("not running")
        if record["next"]:
            lines.append(f"next: {record['next']}")
    page = layout.report_html(Path(record["run"]))
    if page.exists():
        lines.append(f"report: {page}")
    return "\n".join(lines)


def counts_text(row: Report) -> str:
    """Return what a stage counts in a few words: `300 pairs in, 281 pairs out`."""
    counts = row["counts"]
    is_unfinished = row["state"] == "unfinished"
    if is_unfinished and "step" in counts:
        loss = "not finite" if counts["loss"] is None else f"{counts['loss']:.3f}"
        return f"step {counts['step']:,} of {counts['steps']:,}, loss {loss}"
    if is_unfinished:
        total = f" of {counts['shards']:,}" if "shards" in counts else ""
        return f"{counts['shards_finished']:,}{total} shards finished"
    if row["stage"] == "metadata" and counts:
        return f"{len(counts):,} list{'s' * (len(counts) != 1)}, {sum(counts.values()):,} entries"
    if row["stage"] == "export":
        return ", ".join(counts)
    numbers = {name: value for name, value in counts.items() if isinstance(value, int | float)}
    parts = []
    for name, value in numbers.items():
        if not value and any(numbers.values()):
            continue
        words = name.removeprefix("num_").replace("_", " ")
        if name == "num_keys":
            words = "samples"
        if value == 1:
            words = re.sub(r"(?<=ch)es\b|(?<!s)s\b", "", words)
        number = f"{value:.3f}" if isinstance(value, float) and value <= 100 else short(value)
        parts.append(f"{number} {words}")
    return ", ".join(parts)


STATUS = Command(status, lambda record, flags: to_text(record), positional=("run",))
"""Show what a run has done, what it kept, and whether it runs now."""
