"""Where the keys of a list stand: in the pool, in the run, and in the folders that were made from both."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip import pool
from worldclip.contracts import layout
from worldclip.core.arrow import Strings
from worldclip.core.artifacts import read_manifest
from worldclip.core.errors import BadShard, UserError
from worldclip.core.job import Report, Run
from worldclip.core.keys import BATCH_KEYS, HEX_PAIR, KeyTable, hex_strings, is_valid, read_list
from worldclip.core.parquet_size import check_parquet
from worldclip.core.printable import counted, one_line
from worldclip.core.regular_file import open_regular, read_regular
from worldclip.core.safe_path import is_safe_name
from worldclip.export.segments import is_group
from worldclip.pool.config import PoolConfig, bare
from worldclip.report import table

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
    "train/join/places": "worldclip train {run}",
    "evaluate": "worldclip evaluate {run}",
    "export": "worldclip export {run}",
    "publish": "worldclip publish {run} OWNER/NAME",
}
"""What was made from the pool, in RUN -> the command that writes it again; RUN/pool and RUN/match hold all pairs."""
CHUNK = "receiveChunk("  # beginning of the data of an explorer
CHUNKS = ("examples/", "pairs", "dropped")  # those with keys; others have entries
_DAMAGE = (BadShard, OSError, RecursionError, ValueError, tarfile.TarError)  # pa.ArrowInvalid is a ValueError
_OF_PAGE = re.compile('<code>([^<]*)</code>|alt="([^"]*)"|<p>([^<]*): ')  # how a report shows keys


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
            f"first: worldclip pool {shlex.quote(str(run_dir))}"
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
    return {
        "list": str(listed),
        "states": states,
        "keys": by_key,
        "pool": files_of_pool,
        "places": places,
        "unread": unread,
        "other_runs": other_runs(run),
        "next": _next(run, listed, states),
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
    embedded_rows = {row for kind in ("images", "texts") for row in rows_in(folder / kind, lookup, "key", unread)}
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
    names = [manifest["config"]["model"]["source"], recipe or source, "--out", str(folder)]
    next_command = f"worldclip embed {shlex.join(names)}"
    if recipe is not None and layout.is_run(Path(recipe)):  # which leaves them out first
        next_command = f"worldclip status {shlex.join([recipe, '--keys', str(listed)])}"
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


def _next(run: Run, listed: Path, states: dict[str, int]) -> str | None:
    """Return the command that leaves the keys out of the run, None if its recipe does."""
    if not states["in the pool"]:
        return None
    lists = [*run.section(PoolConfig).deny_keys, os.path.abspath(listed)]
    setting = shlex.quote(f"pool.deny_keys={json.dumps(lists, ensure_ascii=False)}")
    return f"worldclip run {shlex.quote(str(run.dir))} --set {setting} --until curate"


# --- places -----------------------------------------------------------------------------------------------------------


def find_places(run: Run, folders: Sequence[Path] = ()) -> Iterator[Place]:
    """Yield what was made from the pool of a run: in RUN, next to RUN, in the working directory, and in `folders`.

    Folders are explorers of a run of this name, those that `embed` and `pool check` made from this run or its pool, and
    those that `embed` made from files in RUN, such as the curated ones.
    """
    for name, command in COMMANDS.items():
        if (run.dir / name).exists():
            yield Place(run.dir / name, command.format(run=shlex.quote(str(run.dir))))
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
    out = f"--out {shlex.quote(str(folder))}"
    names = f"{shlex.quote(str(run.dir))} {out}"
    if manifest.get("tool") == "explore" and run_name == run.dir.resolve().name:
        return [Place(folder / "data", f"worldclip explore {names}")]
    if manifest.get("job") == "embed":  # embed keeps the columns of its folder
        if source == location or manifest.get("recipe") == run_dir:
            return [Place(folder, f"worldclip embed MODEL {names}")]
        if source.startswith(f"{run_dir}/"):
            return [Place(folder, f"worldclip embed MODEL {shlex.quote(source)} {out}")]
    if manifest.get("job") == "check" and source == location:  # its other files are about all pairs of the pool
        command = f"worldclip pool check {names}"
        return [Place(folder / name, command) for name in ("report.html", "valid_keys.parquet")]
    return []


# --- files ------------------------------------------------------------------------------------------------------------


def rows_in(path: Path, lookup: KeyTable, column: str, unread: dict[str, str]) -> list[int]:
    """Return the rows of the keys that a file, or a file in a folder, has.

    column: of the pool's keys, in tables with the columns of the pool.  unread: gets why a file cannot be read.
    """
    rows_of_files: set[int] = set()
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        try:
            for candidates in _read_strings(file, column):
                rows = np.unique(lookup.find(candidates))
                rows_of_files.update(rows[rows >= 0].tolist())
        except _DAMAGE as error:
            unread[str(file)] = str(error)
    return sorted(rows_of_files)


def _read_strings(path: Path, column: str) -> Iterator[Strings]:
    """Yield strings of a file that may be keys."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path, {"key", "other_key", column})
    elif path.name == "keys.npy":
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        for start in range(0, len(mapped) if mapped.dtype == HEX_PAIR else 0, BATCH_KEYS):
            yield hex_strings(mapped[start : start + BATCH_KEYS])
    elif path.suffix == ".tar":
        yield from _read_tar(path)
    elif path.suffix == ".html":
        yield _utf8(_keys_of_page(read_regular(path).decode("utf-8", "replace")))
    elif path.suffix in (".js", ".json", ".jsonl"):
        yield _utf8(_keys_of_records(read_regular(path).decode("utf-8", "replace"), path.suffix))


def _read_parquet(path: Path, columns: set[str]) -> Iterator[Strings]:
    with open_regular(path), pq.ParquetFile(path) as file:
        check_parquet(path, path.stat().st_size, file.metadata, held_rows=BATCH_KEYS)
        for field in file.schema_arrow:
            if field.name not in columns:
                continue
            for batch in file.iter_batches(BATCH_KEYS, columns=[field.name]):
                yield batch[0].drop_null().cast(pa.large_string())


def _read_tar(path: Path) -> Iterator[Strings]:
    """Yield the key of each sample of curated tars."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name.endswith(".json") else None
            if content is not None:
                yield _utf8(_keys_of_json(json.loads(content.read())))


def _keys_of_records(text: str, suffix: str) -> Iterator[str]:
    """Yield the keys in JSON, JSON lines, or a chunk of an explorer; other scripts are programs."""
    if suffix == ".jsonl":
        for line in text.splitlines():
            yield from _keys_of_json(json.loads(line))
    elif suffix == ".json":
        yield from _keys_of_json(json.loads(text))
    elif text.startswith(tuple(f'{CHUNK}"{name}' for name in CHUNKS)):
        yield from _keys_of_json(json.loads(text.partition(",")[2].rpartition(")")[0]))


def _keys_of_json(value: Any) -> Iterator[str]:
    """Yield what may be a key: a value named so, and the first two texts of a row, which has a picture's file first.

    Entries of a list are no keys, though a number may be both.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            if name in ("key", "other_key") and isinstance(item, str):
                yield item
            elif name != "entries":
                yield from _keys_of_json(item)
    elif isinstance(value, list):
        yield from (item for item in value[:2] if isinstance(item, str))
        for item in value:
            yield from _keys_of_json(item)


def _keys_of_page(text: str) -> Iterator[str]:
    for match in _OF_PAGE.finditer(text):
        yield html.unescape(match[match.lastindex or 0])


def _utf8(strings: Iterable[str]) -> pa.Array:
    """Return strings without those that hold half of a surrogate pair, which no key does."""
    return pa.array([text for text in strings if not re.search("[\ud800-\udfff]", text)], pa.large_string())


# --- as text ----------------------------------------------------------------------------------------------------------


def to_text(found: Report) -> str:
    """Return the states, up to MAX_SHOWN keys, and the places with the commands."""
    states = {state: number for state, number in found["states"].items() if number}
    numbers = ", ".join(f"{number:,} {state}" for state, number in states.items())
    lines = [f"{found['list']}, {counted(len(found['keys']), 'key')}: {numbers or 'none'}"]
    if "folder" in found:
        return "\n".join([*lines, *_lines_of_folder(found, states)])
    lines += [f"{state}: {STATES[state]}" for state in states]
    in_order = sorted(found["keys"].items(), key=lambda item: list(STATES).index(item[1]["state"]))
    rows = []
    for key, record in in_order[:MAX_SHOWN]:
        rows.append([one_line(key), record["state"], ", ".join(record["shards"]), ", ".join(record["places"])])
    columns = list(map(table.text_column, ("key", "state", "shards", "files that have it")))
    lines += ["", table.to_text(table.Table(columns, rows))]
    if len(in_order) > MAX_SHOWN:
        lines.append(f"and {len(in_order) - MAX_SHOWN:,} more (--json lists all)")
    if found["places"]:
        rows = [[path, place["keys"], place["command"]] for path, place in found["places"].items()]
        columns = [table.text_column("made from the pool"), table.Column("keys"), table.text_column("written again by")]
        lines += ["", table.to_text(table.Table(columns, rows))]
    if found["pool"]:
        rows = [[path, number] for path, number in found["pool"].items()]
        columns = [table.text_column("the pool's own files"), table.Column("keys")]
        lines += ["", table.to_text(table.Table(columns, rows[:MAX_SHOWN]))]
        lines.append(
            "RUN/pool and RUN/match have every pair of these files; remove rows there, then run the recipe again"
        )
    lines += [f"cannot be read: {path}: {why}" for path, why in found["unread"].items()]
    for other in found["other_runs"]:
        lines.append(f"another run of this pool: worldclip status {other} --keys {found['list']}")
    if found["next"]:
        lines += ["", f"next: {found['next']}"]
    return "\n".join(lines)


def _lines_of_folder(found: Report, states: dict[str, int]) -> list[str]:
    """Return lines on the keys of a folder of embeddings."""
    lines = [f"{state}: {EMBEDDED_STATES[state]}" for state in states]
    in_order = sorted(found["keys"].items(), key=lambda item: list(EMBEDDED_STATES).index(item[1]["state"]))
    rows = [[one_line(key), record["state"], one_line(record["file"] or "")] for key, record in in_order[:MAX_SHOWN]]
    columns = list(map(table.text_column, ("key", "state", "file that is still there")))
    lines += ["", table.to_text(table.Table(columns, rows))]
    if len(in_order) > MAX_SHOWN:
        lines.append(f"and {len(in_order) - MAX_SHOWN:,} more (--json lists all)")
    lines += [f"cannot be read: {path}: {why}" for path, why in found["unread"].items()]
    if found["next"]:
        lines += ["", f"to take them down: {found['remedy']}", f"next: {found['next']}"]
    return lines
