"""The parts that measure how a pool is read: one set of rows in every format, under each key of [pool] in turn.

A run that is refused is recorded too: its exit code and its message, to read.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rows
import small_data
from contents import (
    Part,
    Refused,
    arrays,
    images_of,
    kept,
    read_json,
    run,
    shards_of,
    table,
    tars,
    texts_of,
    toml,
)

PATH_VARIANTS = {
    "without image_field": {"image_field": None},
    "image_field that is missing": {"image_field": "picture"},
    "key of paths": {"key": "image"},
    "key row with images": {"key": "row"},
    "texts as paths": {"image_field": "alt"},
}
TEXTS = {"key": "uid", "texts": ["alt", "caption"]}
DROPPED = ("key", "text_idx", "lang", "reason", "detail")
# Keys of [pool], or of other sections as SECTION.KEY, in place of those of TEXTS.  Written pairs are sound rows unless
# `is_bad` is set.
KEYS: dict[str, dict[str, Any]] = {
    "defaults": {"key": None, "texts": None},
    "texts unset": {"texts": None},
    "two places": {},
    "one place of lists": {"texts": ["caption"]},
    "the same place twice": {"texts": ["alt", "alt"]},
    "a place that is missing": {"texts": ["alt", "captoin"]},
    "text_weights": {"text_weights": [0.2, 0.8]},
    "lang": {"lang": "lang"},
    "lang of one place": {"texts": ["alt"], "lang": "lang"},
    "lang as lists": {"texts": ["caption"], "lang": "langs"},
    "lang as shorter lists": {"texts": ["caption"], "lang": "labels"},
    "lang as lists, two places": {"lang": "langs"},
    "lang that is missing": {"lang": "language"},
    "where =": {"where": [["source", "=", "web"]]},
    "where !=": {"where": [["source", "!=", "web"]]},
    "where in": {"where": [["source", "in", ["web", "book"]]]},
    "where not in": {"where": [["source", "not in", ["web"]]]},
    "where <": {"where": [["width", "<", 200]]},
    "where, three conditions": {
        "where": [["similarity", ">=", 0.5], ["is_safe", "=", True], ["source", "not in", ["news"]]]
    },
    "where of texts": {"where": [["width", "in", ["100", "150"]]]},
    "where that is missing": {"where": [["with", "<", 200]]},
    "where with lang": {"where": [["source", "in", ["web", "book"]]], "lang": "lang"},
    "key of numbers": {"key": "number"},
    "key of addresses": {"key": "url"},
    "key row": {"key": "row"},
    "key member": {"key": "member"},
    "key that is missing": {"key": "uidd"},
    "valid_keys .txt": {"valid_keys": "valid.txt"},
    "valid_keys .npy": {"valid_keys": "valid.npy"},
    "deny_keys": {"deny_keys": ["deny.parquet", "deny.txt"]},
    "deny_keys .csv": {"deny_keys": ["deny.csv"]},
    "deny_keys of one shard": {"deny_keys": ["deny_of_shard.parquet"]},
    "both lists": {"valid_keys": "valid.parquet", "deny_keys": ["deny.txt"]},
    "lists of no key": {"deny_keys": ["foreign.txt"]},
    "all texts": {"curate.text_policy": "all"},
    "all texts, lang, deny_keys": {"curate.text_policy": "all", "lang": "lang", "deny_keys": ["deny.parquet"]},
    "max_pairs": {"curate.max_pairs": 3},
    "write tars": {"curate.write": "tars", "curate.samples_per_tar": 12},
    "write tars, where, all texts": {
        "curate.write": "tars",
        "curate.text_policy": "all",
        "where": [["source", "in", ["web", "book"]]],
    },
    "write tars, deny_keys": {"curate.write": "tars", "deny_keys": ["deny.txt"]},
    "write tars, not UTF-8": {"curate.write": "tars", "is_bad": True},
    "write parquet": {"curate.write": "parquet"},
    "write parquet, where, all texts": {
        "curate.write": "parquet",
        "curate.text_policy": "all",
        "where": [["source", "in", ["web", "book"]]],
    },
    "write parquet, not UTF-8": {"curate.write": "parquet", "is_bad": True},
    "write parquet, key row": {"curate.write": "parquet", "key": "row"},
}
# What only some formats have.
MORE_KEYS: dict[str, dict[str, dict[str, Any]]] = {
    "tar of .txt": {
        "txt": {"key": "member", "texts": ["txt"]},
        "txt and a field": {"key": "member", "texts": ["txt", "caption"], "text_weights": [1, 3]},
        "a field and txt, lang": {"key": "member", "texts": ["caption", "txt"], "lang": "lang"},
        "member, deny_keys": {"key": "member", "texts": None, "deny_keys": ["deny.txt"]},
        "member, write tars": {"key": "member", "texts": None, "curate.write": "tars"},
    },
    "tar of .json": {"member": {"key": "member"}, "member, deny_keys": {"key": "member", "deny_keys": ["deny.txt"]}},
    "parquet with images": {
        "image_field": {"image_field": "image"},
        "image_field of numbers": {"image_field": "width"},
        "key row, image_field, write tars": {"key": "row", "image_field": "image", "curate.write": "tars"},
    },
    **dict.fromkeys(rows.WITH_PATHS, PATH_VARIANTS),
}


@functools.cache
def lists_of_words(folder: Path) -> dict[str, str]:
    return small_data.write_entry_lists(folder / "lists")


def recipe(folder: Path, name: str, keys: Mapping[str, Any]) -> Path:
    """Write a recipe; keys: of [pool], or of other sections as SECTION.KEY; None leaves one out."""
    whole: dict[str, Any] = {
        "languages.codes": list(small_data.LANGS),
        "metadata.lists": lists_of_words(folder),
        "balance.tail_fraction": 0.1,
    }
    whole |= {key if "." in key else f"pool.{key}": value for key, value in keys.items()}
    lines = [f"{key} = {toml(value)}" for key, value in whole.items() if value is not None]
    return small_data.write_lines(folder / "recipes" / f"{name}.toml", lines)


@functools.cache
def metadata_of(folder: Path) -> Path:
    """Return a run with the entry lists, which all runs share."""
    path = small_data.write_lines(folder / "words/0.csv", ["id,text", "1,a red circle"])
    words = recipe(folder, "words", {"path": str(path.parent), "key": "id"})
    return run(words, folder / "words_run", "metadata")


def run_on_words(folder: Path, name: str, keys: Mapping[str, Any], until: str = "curate") -> Path:
    """Run until a stage with the shared entry lists; return the folder of the run.  Raises Refused."""
    out = folder / "runs" / name
    shutil.copytree(metadata_of(folder) / "metadata", out / "metadata")
    return run(recipe(folder, name, keys), out, until)


def add_run(part: Part, name: str, keys: Mapping[str, Any], until: str = "curate") -> None:
    """Run, and record everything that the redesign must keep, or the refusal."""
    try:
        out = run_on_words(part.folder, f"{part.name} {name}".replace(" ", "_"), keys, until)
    except Refused as error:
        part.says(name, error.message)
        return
    if until == "pool":
        part.says(name, f"shards: {', '.join(shards_of(out))}")
        return
    part.rows(f"{name}: images", images_of(out))
    part.rows(f"{name}: texts", texts_of(out))
    part.same(f"{name}: counts, thresholds, probabilities", numbers_of(out))
    part.rows(f"{name}: curated", kept(out))
    if (out / "curate/dropped").exists():
        part.rows(f"{name}: dropped", table(out / "curate/dropped", DROPPED))
    part.same(f"{name}: reports", reports_of(out))
    if keys.get("curate.write") == "tars":
        part.rows(f"{name}: tars", tars(out / "curate/tars"))
    if keys.get("curate.write") == "parquet":
        written = sorted((out / "curate/parquet").rglob("*.parquet"))
        part.rows(f"{name}: tables", [row for path in written for row in rows_of(path)])


def rows_of(path: Path) -> list[list[Any]]:
    """Return the rows of a written table, as bytes where texts are not UTF-8."""
    read = pq.read_table(path)
    columns = [[path.name] * read.num_rows]
    for name in read.column_names:
        columns.append([name] * read.num_rows)
        column = read[name].combine_chunks()
        try:
            columns.append(column.to_pylist())
        except UnicodeDecodeError:
            columns.append([bytes_of(value) for value in column])
    return list(map(list, zip(*columns, strict=True)))


def bytes_of(value: pa.Scalar) -> Any:
    if isinstance(value, pa.ListScalar):
        return None if value.values is None else [bytes_of(item) for item in value.values]
    buffer = value.as_buffer() if value.is_valid else None
    return None if buffer is None else buffer.to_pybytes()


def numbers_of(out: Path) -> list[Any]:
    return [arrays(out / "balance/counts"), read_json(out / "balance/thresholds.json"), arrays(out / "balance")]


def reports_of(out: Path) -> dict[str, Any]:
    """Return the counts of the reports, by language and reason, and the examples."""
    match, curate = read_json(out / "match/report.json"), read_json(out / "curate/report.json")
    return {
        "pool": read_json(out / "pool/report.json"),
        "match": {name: value for name, value in match.items() if name != "samples"},
        "curate": {name: curate.get(name) for name in ("languages", "total", "caps", "num_keys_in_list")},
        "examples": [match["samples"], curate["samples"]],
    }


# --- the rows in every format


@functools.cache
def write_lists(folder: Path) -> Path:
    """Write lists of keys: of texts, of members and of rows, so that each names some pairs under any key."""
    folder = folder / "key_lists"
    all_rows = rows.rows()
    uids = [row["uid"] for row in all_rows if isinstance(row["uid"], str) and row["uid"].isalnum()]
    others = [f"{'sub/' if number >= 30 else ''}{number:05}" for number in range(rows.NUM_ROWS)]
    valid = [*uids[::2], "7", *others[::2], "a key of no pair"]
    denied = [*uids[::5], "7", *others[::5]]
    small_data.write_lines(folder / "valid.txt", valid)
    small_data.write_keys(folder / "valid.parquet", valid)
    hexadecimal = [uid for uid in uids if len(uid) == 32]
    pairs = sorted({(int(uid[:16], 16), int(uid[16:], 16)) for uid in hexadecimal[::2]})
    np.save(folder / "valid.npy", np.array(pairs, "u8,u8"))
    small_data.write_keys(folder / "deny.parquet", denied)
    small_data.write_lines(folder / "deny.txt", [*denied[::2], *others[3:40:7]])
    small_data.write_lines(folder / "deny.csv", ["key,why", *(f'{key},"a, b"' for key in denied)])
    small_data.write_lines(folder / "foreign.txt", ["a key of no pair"])
    suffixes = [suffix for suffix, _ in rows.FORMATS.values()]
    of_shard = [(key, f"000{suffix}") for key in denied for suffix in dict.fromkeys(suffixes)]
    keys, shards = zip(*of_shard, strict=True)
    pq.write_table(pa.table({"key": list(keys), "shard": list(shards)}), folder / "deny_of_shard.parquet")
    return folder


def keys_of_pool(folder: Path, kind: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a recipe for the rows in a format: fields of a .json have a prefix, lists a folder."""
    is_sound = "curate.write" in keys and "is_bad" not in keys
    name = kind.replace(" ", "_")
    path = rows.write_rows(folder / ("sound_rows" if is_sound else "rows") / name, kind, is_sound=is_sound)
    whole = {"path": str(path), **TEXTS, **({"image_field": "image"} if kind in rows.WITH_PATHS else {}), **keys}
    if kind.startswith("tar"):
        if kind == "tar of .txt" and "texts" not in keys:
            whole["texts"] = ["txt", "caption"]
        for name in ("key", "texts", "lang"):
            whole[name] = with_prefix(whole.get(name))
    whole.pop("is_bad", None)
    lists = write_lists(folder)
    if "valid_keys" in keys:
        whole["valid_keys"] = str(lists / keys["valid_keys"])
    if "deny_keys" in keys:
        whole["deny_keys"] = [str(lists / name) for name in keys["deny_keys"]]
    return whole


def with_prefix(place: Any) -> Any:
    if isinstance(place, list):
        return [with_prefix(item) for item in place]
    return place if place in (None, "member", "row", "txt") else f"json:{place}"


def part_of_format(kind: str) -> Callable[[Part], None]:
    """Return the part that reads the rows in a format."""

    def measure(part: Part) -> None:
        for name, keys in {**KEYS, **MORE_KEYS.get(kind, {})}.items():
            add_run(part, name, keys_of_pool(part.folder, kind, keys))

    return measure
