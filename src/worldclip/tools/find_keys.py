"""Where the keys of a list stand: in the pool, in the run, and in the folders that were made from both."""

from __future__ import annotations

import json
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.contracts import layout
from worldclip.core.artifacts import read_manifest
from worldclip.core.errors import UserError
from worldclip.core.job import Report, Run
from worldclip.core.keys import KeyTable, is_valid, read_list
from worldclip.core.printable import command_line, counted, one_line
from worldclip.core.safe_path import is_safe_name
from worldclip.export.segments import is_group
from worldclip.pool.config import PoolConfig, bare
from worldclip.report import table
from worldclip.tools.keys_in_files import rows_in

STATES = {
    "in the pool": "no list of the recipe leaves it out",
    "in older files": "left out, but a file that was made before has it",
    "unknown": "neither in the pool nor in a file that was made from it",
    "gone": "left out, and no file of RUN and of the folders found to be made from it has it; --folders names others",
}
"""State of a key -> what it means."""
EMBEDDED_STATES = {
    "embedded": "a search finds it",
    "in the pool": "not embedded, but its file lies in the pool: a later embed may take it",
    "not here": "neither embedded nor a file of the pool: it is gone, or spelt otherwise",
}
"""State of a key in a folder of embeddings -> what it means."""
MAX_SHOWN = 20  # keys that the text lists
COMMANDS = {
    "curate": "worldclip run {run} --until curate",
    "report.html": "worldclip run {run} --until curate",
    "train/join/places": "rm -r {run}/train/join",  # the next training writes it
    "evaluate": "worldclip evaluate {run}",
    "export": "worldclip export {run}",
    "publish": "worldclip publish {run} OWNER/NAME",
}
"""What was made from the pool, in RUN -> the command that writes it again; RUN/pool and RUN/match hold all pairs."""


class Place(NamedTuple):
    """Files that were made from the pool."""

    path: Path
    command: str
    """Writes them again, without the keys that the recipe leaves out."""


def find_keys(run_dir: Path, listed: Path, folders: Sequence[Path] = ()) -> Report:
    """Return the state of each key of a list, and the files that have it; change nothing.

    listed: a list of keys as pool.deny_keys takes it.  folders: to search in addition to `find_places`.

    Keys: list; states {state: number}; keys {key: {state, shards, places}}; pool {shard's file: number of keys};
    places {path: {keys, command}}; unread {file: why}; other_runs, the runs of the pool that are not searched; next,
    the command that leaves the keys out, or None.

    Raises UserError for a file that is no list, a folder that is missing, and an unfinished stage pool.
    """
    run = Run.open(run_dir)
    if read_manifest(layout.stage_dir(run.dir, "pool")) is None:
        raise UserError(
            f"--keys: the pool of {run_dir} has not been read to the end, so nobody knows which keys it has; run "
            f"first: {command_line('pool', run_dir)}"
        )
    wanted = read_list(str(listed), "--keys")
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        raise UserError(f"--folders {', '.join(missing)}: no such folder; name what worldclip wrote")
    lookup = KeyTable(wanted)
    shards_of_row, is_left_out, files_of_pool = _find_in_pool(run, wanted, lookup)
    places: dict[str, Report] = {}
    places_of_row: dict[int, list[str]] = defaultdict(list)
    unread: dict[str, str] = {}
    for place in find_places(run, folders):
        rows = rows_in(place.path, lookup, bare(run.section(PoolConfig).key), unread)
        if rows:
            places[str(place.path)] = {"keys": len(rows), "command": place.command}
        for row in rows:
            places_of_row[row].append(str(place.path))
    by_key: dict[str, Report] = {}
    states = dict.fromkeys(STATES, 0)
    for row, key in enumerate(wanted.to_pylist()):
        is_in_pool = row in shards_of_row
        if is_in_pool and not is_left_out[row]:
            state = "in the pool"
        elif row in places_of_row:
            state = "in older files"
        elif is_in_pool:
            state = "gone"
        else:
            state = "unknown"
        states[state] += 1
        by_key[key] = {"state": state, "shards": shards_of_row.get(row, []), "places": places_of_row.get(row, [])}
    next_command = None
    if states["in the pool"]:
        lists = [*run.section(PoolConfig).deny_keys, os.path.abspath(listed)]
        setting = f"pool.deny_keys={json.dumps(lists, ensure_ascii=False)}"
        next_command = command_line("run", run.dir, "--set", setting, "--until", "curate")
    return {
        "list": str(listed),
        "states": states,
        "keys": by_key,
        "pool": files_of_pool,
        "places": places,
        "unread": unread,
        "other_runs": other_runs(run),
        "next": next_command,
    }


def find_embedded_keys(folder: Path, listed: Path) -> Report:
    """Return whether each key of a list is in a folder of embeddings, and how it leaves the folder; change nothing.

    Keys: list; folder; states {state: number}; keys {key: {state, file}}, with an image file that is still there, else
    None; unread {file: why}; remedy, which takes the keys down, and next, the command after it, None where no key is
    here.

    Raises UserError for a file that is no list.
    """
    manifest = read_manifest(folder)
    assert manifest is not None
    wanted = read_list(str(listed), "--keys")
    lookup = KeyTable(wanted)
    unread: dict[str, str] = {}
    embedded_rows: set[int] = set()
    for kind in ("images", "texts"):
        embedded_rows.update(rows_in(folder / kind, lookup, "key", unread))
    source = manifest["source"]
    has_image_files = all(map(is_group, manifest["inputs"].get("images", ()))) and "texts" not in manifest["inputs"]
    by_key: dict[str, Report] = {}
    states = dict.fromkeys(EMBEDDED_STATES, 0)
    for row, key in enumerate(wanted.to_pylist()):
        path = f"{source}/{key}"
        is_file = has_image_files and is_safe_name(key) and os.path.isfile(path)
        state = "not here"
        if row in embedded_rows:
            state = "embedded"
        elif is_file:
            state = "in the pool"
        states[state] += 1
        by_key[key] = {"state": state, "file": path if is_file else None}
    is_here = states["embedded"] + states["in the pool"] > 0
    recipe = manifest.get("recipe")
    removal = "delete the files" if has_image_files else f"remove them from {source}"
    remedy = f"{removal}, or name {listed} in pool.deny_keys of {recipe or 'a recipe and embed that'}"
    next_command = command_line("embed", manifest["config"]["model"]["source"], recipe or source, "--out", folder)
    if recipe is not None and layout.is_run(Path(recipe)):  # which leaves them out first
        next_command = command_line("status", recipe, "--keys", listed)
    return {
        "list": str(listed),
        "folder": str(folder),
        "states": states,
        "keys": by_key,
        "unread": unread,
        "remedy": remedy if is_here else None,
        "next": next_command if is_here else None,
    }


def _find_in_pool(
    run: Run, wanted: pa.ChunkedArray, lookup: KeyTable
) -> tuple[dict[int, list[str]], np.ndarray, dict[str, int]]:
    """Return the shards of each key by its row, which keys the recipe's lists leave out everywhere, keys per file."""
    shards_of_row: dict[int, list[str]] = defaultdict(list)
    is_left_out = np.ones(len(wanted), np.bool_)
    files: dict[str, int] = {}
    key_lists = pool.key_lists(run)
    for shard in pool.indexed_shards(run):
        of_shard, _, _ = pool.read_keys(run.dir, shard.name)
        rows = np.unique(lookup.find(of_shard))
        rows = rows[rows >= 0]
        if not len(rows):
            continue
        is_left_out[rows] &= ~is_valid(wanted.take(pa.array(rows)), key_lists, shard.name)
        files[shard.path] = len(rows)
        for row in rows.tolist():
            shards_of_row[row].append(shard.name)
    return shards_of_row, is_left_out, files


# --- places -----------------------------------------------------------------------------------------------------------


def find_places(run: Run, folders: Sequence[Path] = ()) -> Iterator[Place]:
    """Yield what was made from the pool of a run: in RUN, next to RUN, in the working directory, and in `folders`.

    Folders are explorers of a run of this name, those that `embed` and `pool check` made from this run or its pool, and
    those that `embed` made from files in RUN, such as the curated ones.
    """
    for name, remedy in COMMANDS.items():
        if (run.dir / name).exists():
            yield Place(run.dir / name, remedy.format(run=shlex.quote(str(run.dir))))
    seen = {run.dir.resolve(), *(path.resolve() for path in folders)}
    for folder in folders:
        yield from _places_of(folder, run) or [Place(folder, "write it again, or remove it")]
    for parent in (run.dir, run.dir.parent, Path()):
        for folder in sorted(parent.iterdir()):
            if folder.resolve() not in seen and folder.is_dir():
                seen.add(folder.resolve())
                yield from _places_of(folder, run)


def other_runs(run: Run) -> list[str]:
    """Return the runs next to this one that read the same pool."""
    location = run.section(PoolConfig).location
    others = []
    for folder in sorted(run.dir.resolve().parent.iterdir()):
        try:
            is_run = folder != run.dir.resolve() and folder.is_dir() and layout.is_run(folder)
            if is_run and Run.open(folder).section(PoolConfig).location == location:
                others.append(str(run.dir.parent / folder.name))
        except (UserError, OSError):  # of a newer worldclip, or damaged
            continue
    return others


def _places_of(folder: Path, run: Run) -> list[Place]:
    """Return the files of a folder that may have keys of the run; none if it was made from something else."""
    try:
        manifest = read_manifest(folder) if folder.is_dir() else None
    except (UserError, OSError):
        manifest = None
    if manifest is None:
        return []
    location = run.section(PoolConfig).location
    run_dir = os.path.abspath(run.dir)
    source = str(manifest.get("source"))
    inputs = manifest.get("inputs")
    run_name = inputs.get("run") if isinstance(inputs, dict) else None
    recipe = manifest.get("recipe")
    if manifest.get("tool") == "explore" and run_name == run.dir.resolve().name:
        return [Place(folder / "data", command_line("explore", run.dir, "--out", folder))]
    is_of_pool = source == location
    names: list[str] = []
    remedy = ""
    # the other files of both are about all pairs of the pool
    if manifest.get("job") == "check" and is_of_pool:
        names = ["report.html", "valid_keys.parquet"]
        remedy = command_line("pool", "check", run.dir, "--out", folder)
    if manifest.get("job") == "embed" and (is_of_pool or f"{source}/".startswith(f"{run_dir}/") or recipe == run_dir):
        names = [kind for kind in ("images", "texts") if (folder / kind).is_dir()]
        embedded = run.dir if is_of_pool or recipe == run_dir else source
        remedy = command_line("embed", "MODEL", embedded, "--out", folder, "--of", *names)  # keeps the folder's columns
    return [Place(folder / name, remedy) for name in names]


# --- as text ----------------------------------------------------------------------------------------------------------


def to_text(found: Report) -> str:
    """Return the states, up to MAX_SHOWN keys, and the places with the commands."""
    states = {state: number for state, number in found["states"].items() if number}
    numbers = ", ".join(f"{number:,} {state}" for state, number in states.items())
    lines = [f"{found['list']}, {counted(len(found['keys']), 'key')}: {numbers or 'none'}"]
    is_folder = "folder" in found
    meanings = EMBEDDED_STATES if is_folder else STATES
    lines += [f"{state}: {meanings[state]}" for state in states]
    in_order = sorted(found["keys"].items(), key=lambda item: list(meanings).index(item[1]["state"]))
    rows: list[list[Any]] = []
    for key, record in in_order[:MAX_SHOWN]:
        row = [one_line(key), record["state"]]
        if is_folder:
            row.append(one_line(record["file"] or ""))
        else:
            row += [", ".join(record["shards"]), ", ".join(record["places"])]
        rows.append(row)
    titles = ("file that is still there",) if is_folder else ("shards", "files that have it")
    columns = list(map(table.text_column, ("key", "state", *titles)))
    lines += ["", table.to_text(table.Table(columns, rows))]
    if len(in_order) > MAX_SHOWN:
        lines.append(f"and {len(in_order) - MAX_SHOWN:,} more (--json lists all)")
    if found.get("places"):
        rows = [[path, place["keys"], place["command"]] for path, place in found["places"].items()]
        columns = [table.text_column("made from the pool"), table.Column("keys"), table.text_column("written again by")]
        lines += ["", table.to_text(table.Table(columns, rows))]
    if found.get("pool"):
        rows = [[path, number] for path, number in found["pool"].items()]
        columns = [table.text_column("the pool's own files"), table.Column("keys")]
        lines += ["", table.to_text(table.Table(columns, rows[:MAX_SHOWN]))]
        lines.append(
            "RUN/pool and RUN/match have every pair of these files; remove rows there, then run the recipe again"
        )
    lines += [f"cannot be read: {path}: {why}" for path, why in found["unread"].items()]
    for other in found.get("other_runs", ()):
        lines.append(f"another run of this pool: {command_line('status', other, '--keys', found['list'])}")
    if found["next"]:
        lines.append("")
        if is_folder:
            lines.append(f"to take them down: {found['remedy']}")
        lines.append(f"next: {found['next']}")
    return "\n".join(lines)
