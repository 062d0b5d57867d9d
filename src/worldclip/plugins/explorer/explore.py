"""Write the explorer of a run into a folder that opens from disk and from any web server."""

from __future__ import annotations

import platform
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool
from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts
from worldclip.core.command import Command, OutFolder
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError, naming
from worldclip.core.execute import Shard
from worldclip.core.job import Report, Run, lock_folder
from worldclip.core.keys import KeyTable
from worldclip.core.preflight import require_packages
from worldclip.curate.accounting import read_factors
from worldclip.curate.config import CurateConfig
from worldclip.curate.stage import online_work, require_of_recipe
from worldclip.language.config import LanguagesConfig, open_run
from worldclip.language.table import INSTALLED
from worldclip.match.config import MatchConfig
from worldclip.plugins.explorer.chunks import Chunks
from worldclip.plugins.explorer.examples import MAX_CHARS, PER_REASON, TOP_ENTRIES, choose_examples
from worldclip.plugins.explorer.lists import (
    max_entries_per_list,
    profile_record,
    source_names,
    source_number,
    write_list,
)
from worldclip.plugins.explorer.pairs import dropped_examples, read_pairs, unmatched_examples, write_pairs
from worldclip.plugins.explorer.slider import slider_record
from worldclip.pool.config import PoolConfig
from worldclip.pool.read import EVERY_KEY, image_places, read_images, read_member
from worldclip.report.images import thumbnail
from worldclip.report.page import language_name, style

PAGE = Path(__file__).parent / "page"
TOOL = "explore"  # name in the manifest of a folder that may be replaced
LOCK = ".lock"  # lock_folder's file in the folder that is written aside
MAX_SHOWN_ENTRIES = 60  # entries per text of an example
NO_LANGUAGE = "und"  # name in curate's report
NUM_LABELS = 100  # labels without a list
MAX_PICTURES = 20_000  # about 3 kB each


def explore(run: Path, out: OutFolder) -> Report:
    """Write the explorer of a run.  An older one of another curation or page is replaced; one that is up to date stays.

    run: folder of a run whose stage curate is finished.
    out: folder to write; an older explorer there is replaced.

    Returns out, the numbers of files, bytes, languages, entries, examples and keys, and `unread`: what could not be
    read, in words; the next call then writes the explorer again.  Raises UserError for an unfinished run, and for a
    folder that holds other files.

    Examples:
        worldclip explore runs/my_images --out explorer
        worldclip explore runs/emoji --out runs/emoji_explorer
    """
    context = open_run(run)
    removed = _removed_path(context)
    inputs = {
        "curate": require_of_recipe(context),
        "run": run.resolve().name,
        "page": artifacts.digest([style(), *(path.read_text(encoding="utf-8") for path in sorted(PAGE.iterdir()))]),
        "removed": None if removed is None else artifacts.fingerprint(removed, removed.parent),
    }
    if not out.name:
        raise UserError(f"--out {str(out)!r}: name a folder in the working directory, such as pages")
    older = artifacts.read_manifest(out) if out.is_dir() else None
    if not older or older.get("tool") != TOOL:
        older = None
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise UserError(f"--out {str(out)!r} is not empty and holds no explorer; choose an empty directory")
    artifacts.remove_retired(out)  # left by a call killed after it had replaced the folder
    is_current = older and older["inputs"] == inputs and older["versions"] == artifacts.versions()
    if older and is_current and not older["counts"]["unread"]:
        return {**older["counts"], "out": str(out)}
    pool_manifest = artifacts.read_manifest(layout.stage_dir(context.dir, "pool"))
    if pool_manifest and pool_manifest["counts"].get("images"):  # the pages show them
        require_packages("explore", ("PIL",), extra="pool")
    aside = out.with_name(f".{out.name}.{platform.node()}.tmp")
    with lock_folder(aside), naming(out):  # two explorers that write one folder would remove each other's files
        for left in aside.iterdir():
            if left.name != LOCK:
                artifacts.remove(left)
        try:
            explored = _write(context, Chunks(aside), str(out))
            counts = {**explored, "out": out.name}
            artifacts.write_manifest(aside, config={}, inputs=inputs, counts=counts, tool=TOOL)
            (aside / LOCK).unlink()
            artifacts.replace_folder(aside, out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return explored


def to_text(explored: Report) -> str:
    """Return what was written as lines of text."""
    lines = [
        f"{explored['languages']:,} languages, {explored['entries']:,} entries, {explored['examples']:,} examples, "
        f"{explored['keys']:,} keys: {explored['files']:,} files, {explored['bytes'] / 2**20:,.1f} MiB",
        f"open in a browser: {Path(explored['out']) / 'index.html'}",
    ]
    if explored["unread"]:
        lines.insert(1, f"{explored['unread']}. Run the same command again after what the log says.")
    return "\n".join(lines)


def _write(run: Run, chunks: Chunks, out: str) -> Report:
    """Write all files; return what explore returns."""
    report: artifacts.Json = artifacts.read_json(layout.stage_report(run.dir, "curate"))
    thresholds: artifacts.Json = artifacts.read_json(layout.thresholds(run.dir))
    languages = list(report["languages"])
    lists = list(thresholds["lists"])
    _write_page(chunks)
    match_report: artifacts.Json = artifacts.read_json(layout.stage_report(run.dir, "match"))
    labels = sorted(match_report["labels_without_language"].items(), key=lambda row: -row[1])
    rows = []
    for label, count in labels[:NUM_LABELS]:
        name = language_name(label, INSTALLED)
        rows.append([f"{name} ({label})" if name else label, count])
    chunks.write("labels", {"without": rows})
    checked: dict[str, Any] = {"path": "", "rules": []}  # pairs that the check of pool.valid_keys removed, by rule
    removed = _removed_path(run)
    if removed is not None:
        rules = Counter(artifacts.read_table(removed, schemas.REMOVED, ["rule"])["rule"].to_pylist())
        checked = {"path": f"{removed.parent.name}/{removed.name}", "rules": rules.most_common()}
    chunks.write("checked", checked)
    say(TOOL, "what other thresholds would keep")
    chunks.write("slider", slider_record(run.dir, languages, lists))
    say(TOOL, f"entries of {len(lists):,} lists")
    profile = run.section(MatchConfig).matcher_name
    chunks.write("profile", profile_record(profile))
    max_entries = max_entries_per_list({name: row["num_entries"] for name, row in thresholds["lists"].items()})
    for number, name in enumerate(lists):
        threshold = thresholds["lists"][name]["threshold"]
        write_list(chunks, number, run.dir, name, threshold=threshold, profile=profile, max_entries=max_entries)
    say(TOOL, "examples")
    num_examples, num_keys, unread = _write_texts(run, chunks, languages, lists)
    chunks.write("run", {**_run_record(run, report, thresholds), "unread": unread})
    return {
        "out": out,
        "files": chunks.num_files,
        "bytes": chunks.num_bytes,
        "languages": len(set(languages) - {NO_LANGUAGE}),
        "entries": sum(min(max_entries, row["num_entries"]) for row in thresholds["lists"].values()),
        "examples": num_examples,
        "keys": num_keys,
        "unread": unread,
    }


def _write_page(chunks: Chunks) -> None:
    for path in sorted(PAGE.iterdir()):
        chunks.write_file(path.name, path.read_bytes())
    chunks.write_file("style.css", style().encode())


def _run_record(run: Run, report: artifacts.Json, thresholds: artifacts.Json) -> dict[str, Any]:
    """Return what the first view shows: languages with what became of their pairs, lists, and the recipe's choices."""
    curate = run.section(CurateConfig)
    entry_lists = run.section(MatchConfig).entry_lists
    table = run.section(LanguagesConfig).table
    factors = read_factors(run.dir, curate)
    lists: list[dict[str, Any]] = []
    positions = {}
    for name, row in thresholds["lists"].items():
        positions[name] = len(lists)
        lists.append({"name": name, "title": language_name(name, table) or name, **row})
    languages = []
    for lang, row in report["languages"].items():
        language = {
            "code": lang,
            "name": language_name(lang, table),
            "list": positions.get(entry_lists.list_of(lang), -1),
            "counts": [row.get(reason.column, 0) for reason in Reason],
            "factor": factors.get(lang, 1.0),
            "is_excluded": curate.is_excluded(lang),
        }
        languages.append(language)
    return {
        "name": run.dir.resolve().name,
        "run": run.dir.resolve().name if run.dir.is_absolute() else str(run.dir),  # anyone may read these pages
        "text_policy": curate.text_policy,
        "seed": str(curate.seed),
        "reasons": [[reason.label, reason.colour, reason.meaning] for reason in Reason],
        "sources": source_names(),
        "languages": languages,
        "lists": lists,
    }


def _write_texts(run: Run, chunks: Chunks, languages: list[str], lists: list[str]) -> tuple[int, int, str]:
    """Write examples, pairs by key and their pictures; return the numbers of examples and keys, and what is unread."""
    work = online_work(run)
    top_entries = {}
    for name in lists:
        counts: np.ndarray = np.load(layout.entry_counts(run.dir, name), mmap_mode="r", allow_pickle=False)
        order = np.argsort(-counts.astype(np.int64), kind="stable")[:TOP_ENTRIES]
        top_entries[name] = np.sort(order[counts[order] > 0]).astype(np.int32)
    examples = choose_examples(work, top_entries)
    places = list(zip(examples["shard"].to_pylist(), examples["key"].to_pylist(), strict=True))
    shards: Sequence[Shard] = []
    pairs = None
    unread = ""
    try:
        pool.refuse_replaced_files(run)
        shards = pool.indexed_shards(run)
        pairs = read_pairs(run, work, shards, languages)
        places += [(shard, key) for key, shard in pairs.shard_of_key.items()]
    except (BadShard, UserError) as error:
        unread = "The pool could not be read: there are no pictures, and no keys beyond the examples"
        say(TOOL, f"the pool cannot be read: {error}")
    pictures, reasons = _write_pictures(chunks, run, shards, places)
    if reasons:
        unread = f"{len(reasons):,} pictures could not be read"
        say(TOOL, f"{unread}; the first: {reasons[0]}")  # its path stands on no page
    unmatched = unmatched_examples(pairs, PER_REASON) if pairs else {}
    num_examples = 0
    for number, lang in enumerate(languages):
        of_lang = examples.filter(pc.equal(examples["lang"].cast(pa.string()), lang))
        record = _examples_record(run.dir, of_lang, pictures)
        for key, row in unmatched.get(-1 if lang == NO_LANGUAGE else number, []):
            assert pairs is not None, "texts without a match are read from the pool"
            text_idx, text, _, lang_prob, _, reason, _ = row
            picture = pictures.get((pairs.shard_of_key[key], key))
            record["examples"].append([key, text_idx, text, lang_prob, reason, None, None, [], 0, picture])
        chunks.write(f"examples/{number}", record)
        num_examples += len(record["examples"])
    if pairs is not None:
        write_pairs(chunks, pairs, pictures)
        chunks.write("dropped", dropped_examples(run.dir, pairs))
    return num_examples, 0 if pairs is None else len(pairs.by_key), unread


def _write_pictures(
    chunks: Chunks, run: Run, shards: Sequence[Shard], pairs: Iterable[tuple[str, str]]
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Write a picture for each of the first MAX_PICTURES different (shard, key) that has one.

    Return their files, and why some cannot be read.  One that is read and is no image has no picture, at every call.
    """
    keys_of_shard: dict[str, list[str]] = defaultdict(list)
    for shard_name, key in list(dict.fromkeys(pairs))[:MAX_PICTURES]:
        keys_of_shard[shard_name].append(key)
    files: dict[tuple[str, str], str] = {}
    reasons: list[str] = []
    for shard in shards:
        if shard.name not in keys_of_shard or not layout.pool_images(run.dir, shard.name).exists():
            continue
        index = read_images(run.dir, shard.name, EVERY_KEY)  # of pairs that the lists have let through
        keys = keys_of_shard[shard.name]
        rows = KeyTable(index.column("key")).find(keys)
        for key, row in zip(keys, rows.tolist(), strict=True):
            if row < 0:
                continue
            place = image_places(shard, index.slice(row, 1)).to_pylist()[0]
            try:
                image = read_member(place["file"], place["offset"], place["size"])
            except (BadShard, OSError, ValueError) as error:
                reasons.append(f"{place['file']}: {error}")
                continue
            try:
                content, suffix = thumbnail(image)
            except (OSError, ValueError):  # of Pillow: the bytes are no image
                continue
            file = f"pictures/{len(files) // 1000}/{len(files)}.{suffix}"
            chunks.write_file(file, content)
            files[shard.name, key] = file
    return files, reasons


def _examples_record(run_dir: Path, examples: pa.Table, pictures: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Return the examples of one language; an entry is a position among `entries`."""
    rows = examples.to_pylist()
    if not rows:
        return {"entries": [], "examples": []}
    list_name = rows[0]["entries_lang"]
    ids = np.unique(np.concatenate([row["entry_ids"][:MAX_SHOWN_ENTRIES] for row in rows]))
    names = artifacts.read_table(layout.entries(run_dir, list_name), schemas.METADATA, ["entry", "source"])
    counts = np.load(layout.entry_counts(run_dir, list_name), mmap_mode="r", allow_pickle=False)
    named = names.take(pa.array(ids)).to_pylist()
    entries = []
    for entry, i in zip(named, ids, strict=True):
        entries.append([entry["entry"], source_number(entry["source"]), int(counts[i])])
    shown = []
    for row in rows:
        example = [
            row["key"],
            row["text_idx"],
            row["text"][:MAX_CHARS],
            round(row["lang_prob"], 4),
            row["reason"],
            row["keep_prob"],
            row["coin"],
            np.searchsorted(ids, row["entry_ids"][:MAX_SHOWN_ENTRIES]).tolist(),
            len(row["entry_ids"]),
            pictures.get((row["shard"], row["key"])),
        ]
        shown.append(example)
    return {"entries": entries, "examples": shown}


def _removed_path(run: Run) -> Path | None:
    """Return the list of removed pairs next to pool.valid_keys; None without one."""
    valid_keys = run.section(PoolConfig).valid_keys
    path = Path(valid_keys).with_name("removed.parquet") if valid_keys else None
    return path if path is not None and path.is_file() else None


EXPLORE = Command(explore, lambda explored, flags: to_text(explored))
"""Write pages that show every decision, and what another threshold would keep."""
