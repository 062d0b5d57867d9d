"""`worldclip inspect RUN/metadata`: a table of the lists of a finished stage, and why an entry is in a list."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, require_manifest
from worldclip.core.errors import UserError
from worldclip.core.execute import Report
from worldclip.language.config import languages_of
from worldclip.language.profiles import normalise
from worldclip.language.table import INSTALLED, Languages
from worldclip.match.config import MERGED
from worldclip.metadata.config import METADATA_SOURCES
from worldclip.metadata.matchers import STAGE, load_matcher
from worldclip.metadata.stage import read_entries

NUM_NEAR = 10  # entries shown around the one looked for
NEAR_AMONG = 200_000  # entries searched for similar spellings


def is_metadata(path: Path) -> bool:
    """Return whether a path is the metadata folder of a run."""
    return path.is_dir() and path.resolve().name == STAGE


def inspect(folder: Path, lang: str | None = None, entry: str | None = None) -> tuple[Any, str]:
    """Return the lists of RUN/metadata, or why `entry` is in the list of `lang`, as a record and as text."""
    if (lang is None) != (entry is None):
        raise UserError("--find and --lang go together here: worldclip inspect RUN/metadata --lang sw --find simba")
    if lang is None or entry is None:
        lists = inspect_lists(folder)
        return {"lists": lists}, lists_to_text(lists)
    record = find_entry(folder, lang, entry)
    return record, entry_to_text(record, languages_of(folder.parent))


def inspect_lists(folder: Path) -> dict[str, Report]:
    """Return a record per list of RUN/metadata, by its code.  Raises UserError if the stage is not finished.

    Keys: name, entries, by_source, by profile the number of dead entries (which never match) and matcher_bytes, and
    entries_bytes, the size of the Parquet file.
    """
    require_manifest(folder.parent, STAGE)
    return {
        code: {key: row[key] for key in ("name", "entries", "by_source", "dead", "matcher_bytes")}
        | {"entries_bytes": layout.entries(folder.parent, code).stat().st_size}
        for code, row in read_json(folder / "report.json")["lists"].items()
    }


def find_entry(folder: Path, lang: str, entry: str) -> Report:
    """Return why `entry` is in a list of RUN/metadata, or that it is not.  Raises UserError for an unknown list.

    Keys: lang, entry, is_there; near: entries with a similar spelling; holding, num_holding: some entries that contain
    it, and their number.  If it is in the list also entry_id, source, score, rank (among the of_source entries of its
    source by falling score; None without scores) and dead: the profiles under which it never matches, each with the
    earlier entry that it equals.
    """
    table = read_entries(folder.parent, lang)
    entries = table["entry"]
    entry_id = pc.index(entries, entry).as_py()
    record: Report = {"lang": lang, "entry": entry, "is_there": entry_id >= 0}
    near: list[str] = []
    if entry_id >= 0:
        source, score = table["source"][entry_id].as_py(), table["score"][entry_id].as_py()
        scores = table.filter(pc.equal(table["source"].cast(pa.string()), source))["score"]
        rank = None if score is None else 1 + (pc.sum(pc.greater(scores, score)).as_py() or 0)
        record |= {"entry_id": entry_id, "source": source, "score": score, "rank": rank, "of_source": len(scores)}
        record["dead"] = _dead_profiles(folder, lang, entries, entry_id)
    else:
        near = difflib.get_close_matches(entry, entries.slice(0, NEAR_AMONG).to_pylist(), n=NUM_NEAR)
    holding = pc.indices_nonzero(pc.match_substring(entries, entry))
    others = [other for other in entries.take(holding[: NUM_NEAR + 1]).to_pylist() if other != entry]
    num_holding = len(holding) - record["is_there"]
    return record | {"near": near, "holding": others[:NUM_NEAR], "num_holding": num_holding}


def _dead_profiles(folder: Path, lang: str, entries: pa.ChunkedArray, entry_id: int) -> dict[str, str | None]:
    """Return the compiled profiles under which the entry never matches, with the earlier entry that it equals."""
    entry = entries[entry_id].as_py()
    dead: dict[str, str | None] = {}
    for path in sorted(layout.matcher(folder.parent, lang, "").glob("*")):
        profile = path.name
        ids = load_matcher(folder.parent, lang, profile).match(entry)
        if entry_id not in ids:
            normalised = normalise(entry, profile)
            earlier = [entries[int(i)].as_py() for i in ids]
            dead[profile] = next((other for other in earlier if normalise(other, profile) == normalised), None)
    return dead


# --- as text ----------------------------------------------------------------------------------------------------------


def lists_to_text(lists: dict[str, Report]) -> str:
    """Return a table of the lists, the largest first, and of their sum."""
    codes = sorted(lists, key=lambda code: (-lists[code]["entries"], code))
    sources = METADATA_SOURCES.in_order({source for row in lists.values() for source in row["by_source"]})
    profiles = list(dict.fromkeys(profile for code in codes for profile in lists[code]["dead"]))
    head = ["list", "", "entries", *sources, *(f"dead, {profile}" for profile in profiles), "bytes", "matcher bytes"]
    rows = [[code, lists[code]["name"], *_counts(lists[code], sources, profiles)] for code in codes]
    summed = [_counts(lists[code], sources, profiles) for code in codes if code != MERGED]
    if len(summed) > 1:
        rows.append(["", "all", *(sum(column) for column in zip(*summed, strict=True))])
    table = Table(*head, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for code, name, *counts in rows:
        table.add_row(str(code), str(name), *(f"{count:,}" for count in counts))
    console = Console(width=200, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _counts(row: Report, sources: Sequence[str], profiles: Sequence[str]) -> list[int]:
    return [
        row["entries"],
        *(row["by_source"].get(source, 0) for source in sources),
        *(row["dead"].get(profile, 0) for profile in profiles),
        row["entries_bytes"],
        sum(row["matcher_bytes"].values()),
    ]


def entry_to_text(record: Report, languages: Languages = INSTALLED) -> str:
    """Return what `find_entry` returned in words."""
    lang, entry = record["lang"], record["entry"]
    name = f"{lang} ({languages.get(lang).name})" if lang != MERGED else "all lists as one"
    if record["is_there"]:
        source = record["source"]
        lines = [f"{entry!r} is entry {record['entry_id']:,} of {name}, from {source}"]
        if record["rank"] is not None and record["score"] is not None:
            rank = f"rank {record['rank']:,} of {record['of_source']:,} from {source}"
            score = f"{record['score']:,.0f}" if record["score"].is_integer() else f"{record['score']:.4g}"
            lines.append(f"  {rank}; score: {score}")
        for profile, equal in record["dead"].items():
            reason = f"equals the earlier entry {equal!r} there" if equal is not None else "is empty there"
            lines.append(f"  never matches under profile {profile}: it {reason}")
    else:
        lines = [f"{entry!r} is not an entry of {name}"]
        if record["near"]:
            lines.append(f"  similar entries: {', '.join(map(repr, record['near']))}")
    if record["holding"]:
        lines.append(f"  part of {record['num_holding']:,} other entries: {', '.join(map(repr, record['holding']))}")
    return "\n".join(lines)
