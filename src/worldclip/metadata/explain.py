"""What is in the lists of a finished stage: a table of them, and why an entry is there."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from worldclip.core.artifacts import read_json, require_manifest
from worldclip.core.errors import UserError
from worldclip.language import table as languages
from worldclip.language.profiles import normalise
from worldclip.metadata.stage import MERGED, STAGE, load_matcher, matcher_folder, read_entries

NUM_NEAR = 10  # entries named beside the one looked for
NEAR_AMONG = 200_000  # entries searched for names that are spelled alike
SCORE_MEANS = {
    "unigram": "times it occurs in the Wikipedia",
    "bigram": "pointwise mutual information of its words, log2",
    "title": "views of the page",
    "wordfreq": "share of all words",
    "list": "score in the list",
}
WHY = {  # in the order of the lists
    "number": "every language has the numbers 0 to 99",
    "wordnet": "a lemma of the language's wordnet",
    "unigram": "one of the most frequent words of the Wikipedia",
    "bigram": "two words of the Wikipedia that stand together more often than chance has it",
    "title": "one of the Wikipedia's most viewed pages",
    "wordfreq": "one of the most frequent words of the package wordfreq, as given or in title case",
    "list": "in the list that the recipe names",
}


def is_metadata(path: Path) -> bool:
    """Whether a path is the metadata folder of a run."""
    return path.is_dir() and path.resolve().name == STAGE


def inspect(folder: Path, lang: str | None = None, entry: str | None = None) -> tuple[dict[str, Any], str]:
    """The lists of RUN/metadata, or why an entry is in one of them; as a record and as text."""
    if (lang is None) != (entry is None):
        raise UserError("--find and --lang go together here: worldclip inspect RUN/metadata --lang sw --find simba")
    if lang is None or entry is None:
        found = inspect_lists(folder)
        return found, lists_to_text(found)
    found = find_entry(folder, lang, entry)
    return found, entry_to_text(found)


def inspect_lists(folder: Path) -> dict[str, Any]:
    """Each list of RUN/metadata: {lists: {code: {name, entries, by_source, dead, entries_bytes, matcher_bytes}}}.

    dead: by profile, entries that can never match; entries_bytes: the Parquet file; matcher_bytes: by profile.
    Raises UserError where the stage is not finished.
    """
    require_manifest(folder.parent, STAGE)
    lists = read_json(folder / "report.json")["lists"]
    kept = ("name", "entries", "by_source", "dead", "matcher_bytes")
    return {
        "lists": {
            code: {
                **{key: row[key] for key in kept},
                "entries_bytes": (folder / f"{code}.parquet").stat().st_size,
            }
            for code, row in lists.items()
        }
    }


def find_entry(folder: Path, lang: str, entry: str) -> dict[str, Any]:
    """Why `entry` is in a list of RUN/metadata, or that it is not.

    Returns {lang, entry, is_there, near, holding}; where it is there also {entry_id, source, score, rank, of_source,
    dead}: rank among the of_source entries of its source by falling score, None without scores; dead: by profile
    whether it never matches, with the earlier entry that it equals.  near: entries spelled alike; holding: some
    entries that have it as a part.  Raises UserError for a list that is not there.
    """
    table = read_entries(folder.parent, lang)
    entries = table["entry"]
    entry_id = pc.index(entries, entry).as_py()
    found: dict[str, Any] = {"lang": lang, "entry": entry, "is_there": entry_id >= 0}
    if entry_id >= 0:
        found |= {"entry_id": entry_id, **_rank(table, entry_id), "dead": _dead(folder, lang, entries, entry_id)}
    holding = pc.indices_nonzero(pc.match_substring(entries, entry))
    among = entries.slice(0, NEAR_AMONG).to_pylist()
    near = difflib.get_close_matches(entry, among, n=NUM_NEAR) if entry_id < 0 else []
    others = [name for name in entries.take(holding[: NUM_NEAR + 1]).to_pylist() if name != entry]
    return {**found, "near": near, "holding": others[:NUM_NEAR], "num_holding": len(holding) - found["is_there"]}


def _rank(table: pa.Table, entry_id: int) -> dict[str, Any]:
    source, score = table["source"][entry_id].as_py(), table["score"][entry_id].as_py()
    of_source = table.filter(pc.equal(table["source"].cast(pa.string()), source))
    rank = None
    if score is not None:
        rank = 1 + (pc.sum(pc.greater(of_source["score"], score)).as_py() or 0)
    return {"source": source, "score": score, "rank": rank, "of_source": len(of_source)}


def _dead(folder: Path, lang: str, entries: pa.ChunkedArray, entry_id: int) -> dict[str, str | None]:
    """For each compiled profile under which the entry never matches: the earlier entry that it equals, or None."""
    found = {}
    for path in sorted(matcher_folder(folder, lang, "").glob("*")):
        entry, profile = entries[entry_id].as_py(), path.name
        ids = load_matcher(folder.parent, lang, profile).match(entry)
        if entry_id not in ids:
            wanted = normalise(entry, profile)
            earlier = [entries[int(i)].as_py() for i in ids]
            found[profile] = next((other for other in earlier if normalise(other, profile) == wanted), None)
    return found


# --- for people -------------------------------------------------------------------------------------------------------


def lists_to_text(found: dict[str, Any]) -> str:
    """What inspect_lists found, as a table, the largest list first."""
    lists = dict(sorted(found["lists"].items(), key=lambda item: (-item[1]["entries"], item[0])))
    sources = [source for source in WHY if any(source in row["by_source"] for row in lists.values())]
    profiles = list(dict.fromkeys(profile for row in lists.values() for profile in row["dead"]))
    head = ["list", "", "entries", *sources, *(f"dead, {profile}" for profile in profiles), "bytes", "matcher bytes"]
    table = Table(*head, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    rows = [(code, row["name"], row) for code, row in lists.items()]
    whole = {code: row for code, row in lists.items() if code != MERGED}
    if len(whole) > 1:
        rows.append(("", "all", _total(list(whole.values()))))
    for code, name, row in rows:
        counts = [row["entries"], *(row["by_source"].get(source, 0) for source in sources)]
        counts += [row["dead"].get(profile, 0) for profile in profiles]
        counts += [row["entries_bytes"], sum(row["matcher_bytes"].values())]
        table.add_row(code, name, *(f"{count:,}" for count in counts))
    console = Console(width=200, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **{key: sum(row[key] for row in rows) for key in ("entries", "entries_bytes")},
        **{key: _sums(rows, key) for key in ("by_source", "dead", "matcher_bytes")},
    }


def _sums(rows: list[dict[str, Any]], key: str) -> dict[str, int]:
    names = dict.fromkeys(name for row in rows for name in row[key])
    return {name: sum(row[key].get(name, 0) for row in rows) for name in names}


def entry_to_text(found: dict[str, Any]) -> str:
    """What find_entry found."""
    lang = found["lang"]
    name = f"{lang} ({languages.get(lang).name})" if lang != MERGED else "all lists as one"
    if found["is_there"]:
        lines = [f"{found['entry']!r} is entry {found['entry_id']:,} of {name}, from {found['source']}"]
        lines.append(f"  {WHY[found['source']]}")
        if found["rank"] is not None:
            means = SCORE_MEANS.get(found["source"], "score")
            of_source = f"rank {found['rank']:,} of {found['of_source']:,} from {found['source']}"
            lines.append(f"  {of_source}; {means}: {_number(found['score'])}")
        for profile, equal in found["dead"].items():
            reason = f"equals the earlier entry {equal!r} there" if equal is not None else "is empty there"
            lines.append(f"  never matches under profile {profile}: it {reason}")
    else:
        lines = [f"{found['entry']!r} is no entry of {name}"]
        if found["near"]:
            lines.append(f"  spelled alike: {', '.join(map(repr, found['near']))}")
    if found["holding"]:
        lines.append(f"  part of {found['num_holding']:,} others: {', '.join(map(repr, found['holding']))}")
    return "\n".join(lines)


def _number(score: float) -> str:
    return f"{score:,.0f}" if score.is_integer() else f"{score:.4g}"
