"""Small pools that are odd as files: headers, types of columns, damage, listings, and commands that read a pool.

Each text is such that it matches, so that a run is refused only for what it measures.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import rows
import small_data
from contents import Part, Refused, table, worldclip
from reading import add_run, keys_of_pool, recipe, run_on_words

Files = Mapping[str, bytes]
KEY = {"key": "id"}
COLOURS = ("red", "green", "blue", "yellow", "black")
CAPTIONS = tuple(f"a {colour} circle in front of the house" for colour in COLOURS)


def parquet(columns: Mapping[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), file, **options)
    return file.getvalue()


def lines(*values: str) -> bytes:
    return "".join(f"{value}\n" for value in values).encode()


def json_rows(*records: Any) -> bytes:
    return lines(*(json.dumps(record) for record in records))


def tar(*members: tuple[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def sample(number: int, prefix: str = "") -> list[tuple[str, bytes]]:
    stem = f"{prefix}{number:03}"
    return [(f"{stem}.png", rows.png(number)), (f"{stem}.txt", CAPTIONS[number % 5].encode())]


IDS = ["a", "b", "c", "d", "e"]
TABLE = {"id": IDS, "caption": list(CAPTIONS)}
LISTS = {"id": IDS, "caption": [[text] for text in CAPTIONS]}
STRUCTS = [{"bytes": rows.png(number), "path": None} for number in range(4)] + [None]
PNGS = [rows.png(number) for number in range(4)] + [None]
STATUS = {**TABLE, "status": ["success", "failed_to_download", None, "success", ""], "error_message": [None] * 5}
FEATURES = {
    b"huggingface": json.dumps(
        {"info": {"features": {"picture": {"_type": "Image"}, "sound": {"_type": "Audio"}}}}
    ).encode()
}


def csv_of(columns: Mapping[str, Any], delimiter: str = ",") -> bytes:
    fields = zip(*columns.values(), strict=True)
    return lines(delimiter.join(columns), *(delimiter.join("" if x is None else x for x in row) for row in fields))


def json_of(columns: Mapping[str, Any]) -> bytes:
    return json_rows(*(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)))


def with_features() -> bytes:
    whole = pa.table({**TABLE, "picture": STRUCTS, "sound": STRUCTS}).replace_schema_metadata(FEATURES)
    file = io.BytesIO()
    pq.write_table(whole, file)
    return file.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


TAR = tar(*(member for number in range(5) for member in sample(number)))
BIG = parquet({"id": IDS, "caption": [f"{text} {'house ' * 200}" for text in CAPTIONS]}, compression="none")
TXT_COLUMNS = {"id": IDS, "caption": list(CAPTIONS), "txt": [f"the {text}" for text in CAPTIONS]}
OPEN_QUOTE = ["id,caption", f"a,{CAPTIONS[0]}", f'b,"{CAPTIONS[1]}', *(f"{i},{CAPTIONS[i % 5]}" for i in range(20))]
TWO = {f"{name}.csv": csv_of({"id": [f"{name}{i}" for i in IDS], "caption": CAPTIONS}) for name in ("x", "y")}

# name -> files of the pool, keys of [pool]
POOLS: dict[str, tuple[Files, dict[str, Any]]] = {
    # which column the texts are from
    "txt before caption, parquet": ({"0.parquet": parquet(TXT_COLUMNS)}, KEY),
    "txt before caption, csv": ({"0.csv": csv_of(TXT_COLUMNS)}, KEY),
    "txt before caption, jsonl": ({"0.jsonl": json_of(TXT_COLUMNS)}, KEY),
    "place txt of parquet": ({"0.parquet": parquet(TXT_COLUMNS)}, {**KEY, "texts": ["txt"]}),
    "place txt of jsonl": ({"0.jsonl": json_of(TXT_COLUMNS)}, {**KEY, "texts": ["txt"]}),
    "place json:caption of parquet": ({"0.parquet": parquet(TABLE)}, {"key": "json:id", "texts": ["json:caption"]}),
    "fields differ by record, jsonl": (
        {"0.jsonl": json_rows({"id": 1, "text": CAPTIONS[0]}, {"id": 2, "caption": CAPTIONS[1], "text": None})},
        KEY,
    ),
    "texts and text, parquet": ({"0.parquet": parquet({**TABLE, "text": CAPTIONS, "texts": LISTS["caption"]})}, KEY),
    # rows that img2dataset's tables call failed
    "status, parquet": ({"0.parquet": parquet(STATUS)}, KEY),
    "status, csv": ({"0.csv": csv_of(STATUS)}, KEY),
    "status, jsonl": ({"0.jsonl": json_of(STATUS)}, KEY),
    "status, parquet, where = []": ({"0.parquet": parquet(STATUS)}, {**KEY, "where": []}),
    "status, csv, where = []": ({"0.csv": csv_of(STATUS)}, {**KEY, "where": []}),
    "status, parquet, where": (
        {"0.parquet": parquet(STATUS)},
        {**KEY, "where": [["status", "not in", ["failed_to_download"]]]},
    ),
    # CSV and TSV
    "csv with an open quote": ({"0.csv": lines(*OPEN_QUOTE)}, KEY),
    "csv with an open quote, not UTF-8": ({"0.csv": lines(*OPEN_QUOTE) + b"z,a red \xff circle\n"}, KEY),
    "csv with text after a quote": ({"0.csv": lines("id,caption", f'a,"{CAPTIONS[0]}" x', f"b,{CAPTIONS[1]}")}, KEY),
    "csv with a bad row first": ({"0.csv": lines("id,caption", "x", *(f"{i},{CAPTIONS[0]}" for i in IDS))}, KEY),
    "csv with a bad row first, key row": (
        {"0.csv": lines("id,caption", "x", *(f"{i},{CAPTIONS[0]}" for i in IDS))},
        {"key": "row"},
    ),
    "csv with blank lines, key row": (
        {"0.csv": lines("id,caption", "", f"a,{CAPTIONS[0]}", "", f"b,{CAPTIONS[1]}")},
        {"key": "row"},
    ),
    "csv with semicolons": ({"0.csv": csv_of(TABLE, ";")}, KEY),
    "csv with bars": ({"0.csv": csv_of(TABLE, "|")}, KEY),
    "csv with tabs": ({"0.csv": csv_of(TABLE, "\t")}, KEY),
    "csv with a byte order mark": ({"0.csv": b"\xef\xbb\xbf" + csv_of(TABLE)}, KEY),
    "csv with carriage returns": ({"0.csv": csv_of(TABLE).replace(b"\n", b"\r\n")}, KEY),
    "csv without a last line end": ({"0.csv": csv_of(TABLE).rstrip()}, KEY),
    "csv of addresses and captions": (
        {"0.csv": lines(*(f"https://example.org/{i},{text}" for i, text in enumerate(CAPTIONS)))},
        {"key": "url"},
    ),
    "tsv of captions and addresses": (
        {"0.tsv": lines(*(f"{text}\thttps://example.org/{i}" for i, text in enumerate(CAPTIONS)))},
        {"key": "url"},
    ),
    "csv without a header": ({"0.csv": csv_of(TABLE).partition(b"\n")[2]}, {**KEY, "columns": ["id", "caption"]}),
    "csv with columns and a header": ({"0.csv": csv_of(TABLE)}, {**KEY, "columns": ["id", "caption"]}),
    "csv with a column named twice": ({"0.csv": lines("id,caption,id", f"a,{CAPTIONS[0]},b")}, KEY),
    "csv with a column row": ({"0.csv": csv_of({"row": IDS, "caption": CAPTIONS})}, {"key": "row"}),
    "csv.gz": ({"0.csv.gz": gzip.compress(csv_of(TABLE), mtime=0)}, KEY),
    "tsv.gz": ({"0.tsv.gz": gzip.compress(csv_of(TABLE, "\t"), mtime=0)}, KEY),
    "tsv with quotes": ({"0.tsv": lines("id\tcaption", f'a\t"{CAPTIONS[0]}', f'"b"\t{CAPTIONS[1]}')}, KEY),
    "csv that is empty": ({"0.csv": b"", **TWO}, KEY),
    "csv of a header only": ({"0.csv": b"id,caption\n", **TWO}, KEY),
    # JSONL
    "jsonl with a byte order mark": ({"0.jsonl": b"\xef\xbb\xbf" + json_of(TABLE)}, KEY),
    "jsonl with carriage returns": ({"0.jsonl": json_of(TABLE).replace(b"\n", b"\r\n")}, KEY),
    "jsonl with a field twice": ({"0.jsonl": lines(f'{{"id": "a", "id": "b", "caption": "{CAPTIONS[0]}"}}')}, KEY),
    "jsonl, where of several types": (
        {"0.jsonl": json_rows({"id": 1, "caption": CAPTIONS[0], "w": 3}, {"id": 2, "caption": CAPTIONS[1], "w": "x"})},
        {**KEY, "where": [["w", ">", 2]]},
    ),
    "jsonl, where, pairs without keys": (
        {"0.jsonl": json_rows({"w": 1}, {"id": 1, "w": 1, "caption": CAPTIONS[0]}, {"w": 2}, {"w": 2})},
        {**KEY, "where": [["w", "=", 2]]},
    ),
    "jsonl, nan and large numbers": (
        {"0.jsonl": lines(f'{{"id": 123456789012345678901234567890, "caption": "{CAPTIONS[0]}", "x": NaN}}')},
        KEY,
    ),
    # types of Parquet
    "parquet of dictionaries": (
        {"0.parquet": parquet({"id": IDS, "caption": pa.array(CAPTIONS).dictionary_encode()})},
        KEY,
    ),
    "parquet of large texts": (
        {"0.parquet": parquet({"id": IDS, "caption": pa.array(CAPTIONS, pa.large_string())})},
        KEY,
    ),
    "parquet of text views": (
        {"0.parquet": parquet({"id": IDS, "caption": pa.array(CAPTIONS, pa.string_view())})},
        KEY,
    ),
    "parquet of bytes": (
        {"0.parquet": parquet({"id": IDS, "caption": pa.array([text.encode() for text in CAPTIONS])})},
        KEY,
    ),
    "parquet of fixed lists": (
        {"0.parquet": parquet({"id": IDS, "caption": pa.array(LISTS["caption"], pa.list_(pa.string(), 1))})},
        KEY,
    ),
    "parquet of lists of lists": ({"0.parquet": parquet({"id": IDS, "caption": [[[x]] for x in CAPTIONS]})}, KEY),
    "parquet of numbers as texts": ({"0.parquet": parquet({"id": IDS, "caption": [1, 2, 3, 4, 5]})}, KEY),
    "parquet of structs as texts": ({"0.parquet": parquet({"id": IDS, "caption": [{"a": x} for x in CAPTIONS]})}, KEY),
    "parquet of nulls": ({"0.parquet": parquet({"id": IDS, "caption": pa.nulls(5)}), "1.parquet": parquet(TABLE)}, KEY),
    "parquet, keys uint64": (
        {"0.parquet": parquet({**TABLE, "id": pa.array([2**64 - 1, 0, 1, 2, None], pa.uint64())})},
        KEY,
    ),
    "parquet, keys float": ({"0.parquet": parquet({**TABLE, "id": [1.0, 2.0, 3.0, 4.0, 5.0]})}, KEY),
    "parquet, keys bytes": ({"0.parquet": parquet({**TABLE, "id": [b"a", b"\xff", b"", b"a", b"e"]})}, KEY),
    "parquet, keys of dictionaries": ({"0.parquet": parquet({**TABLE, "id": pa.array(IDS).dictionary_encode()})}, KEY),
    "parquet, labels of dictionaries": (
        {"0.parquet": parquet({**TABLE, "l": pa.array(["en", "en", None, "de", ""]).dictionary_encode()})},
        {**KEY, "lang": "l"},
    ),
    "parquet, labels of numbers": ({"0.parquet": parquet({**TABLE, "l": [1, 2, 3, 4, 5]})}, {**KEY, "lang": "l"}),
    "parquet, labels of lists for texts": ({"0.parquet": parquet({**TABLE, "l": LISTS["id"]})}, {**KEY, "lang": "l"}),
    "parquet without rows": (
        {
            "0.parquet": parquet({"id": pa.array([], pa.string()), "caption": pa.array([], pa.string())}),
            "1.parquet": parquet(TABLE),
        },
        KEY,
    ),
    # columns of images
    "images as bytes": ({"0.parquet": parquet({**TABLE, "jpg": PNGS})}, KEY),
    "images of two columns": ({"0.parquet": parquet({**TABLE, "jpg": PNGS, "png": PNGS})}, KEY),
    "images of two columns, one named": (
        {"0.parquet": parquet({**TABLE, "jpg": PNGS, "png": PNGS[::-1]})},
        {**KEY, "image_field": "png"},
    ),
    "images by their features": ({"0.parquet": with_features()}, KEY),
    "images without a path": (
        {"0.parquet": parquet({**TABLE, "image": pa.array(PNGS), "x": [{"bytes": x} for x in PNGS]})},
        {**KEY, "image_field": "x"},
    ),
    "images in row groups": ({"0.parquet": parquet({**TABLE, "image": STRUCTS}, row_group_size=2)}, KEY),
    "images, shards differ": (
        {"0.parquet": parquet({**TABLE, "image": STRUCTS}), "1.parquet": parquet({**TABLE, "id": list("vwxyz")})},
        KEY,
    ),
    # shards of one pool that differ
    "a shard without the column of texts": (
        {"0.parquet": parquet(TABLE), "1.parquet": parquet({"id": IDS, "title": CAPTIONS})},
        {**KEY, "texts": ["caption"]},
    ),
    "a shard without the column of texts, skip": (
        {"0.parquet": parquet(TABLE), "1.parquet": parquet({"id": IDS, "title": CAPTIONS})},
        {**KEY, "texts": ["caption"], "broken_shards": "skip"},
    ),
    "a csv shard without the column of texts": (
        {"0.csv": csv_of(TABLE), "1.csv": csv_of({"id": IDS, "title": CAPTIONS})},
        {**KEY, "texts": ["caption"]},
    ),
    "a jsonl shard without the field of texts": (
        {"0.jsonl": json_of(TABLE), "1.jsonl": json_of({"id": IDS, "title": CAPTIONS})},
        {**KEY, "texts": ["caption"]},
    ),
    "a shard without the column of where": (
        {"0.parquet": parquet({**TABLE, "w": [1, 2, 3, 4, 5]}), "1.parquet": parquet(TABLE)},
        {**KEY, "where": [["w", "<", 4]]},
    ),
    "one place in one shard, one in the other": (
        {"0.jsonl": json_of({"id": IDS, "a": CAPTIONS}), "1.jsonl": json_of({"id": list("vwxyz"), "b": CAPTIONS})},
        {**KEY, "texts": ["a", "b"]},
    ),
    # tars
    "tar in v7": ({"0.tar": tar(*sample(0), *sample(1), kind=tarfile.USTAR_FORMAT)}, {}),
    "tar with long names": ({"0.tar": tar(*sample(0, "x" * 120 + "/"), *sample(1, "y" * 90))}, {}),
    "tar with long names, GNU": ({"0.tar": tar(*sample(0, "x" * 120 + "/"), kind=tarfile.GNU_FORMAT)}, {}),
    "tar without an end mark": ({"0.tar": TAR[: 512 * (len(TAR) // 512)].rstrip(b"\0") + b"\0" * 100}, {}),
    "tar that is cut": ({"0.tar": TAR[:5000], "1.tar": tar(*sample(7), *sample(8))}, {}),
    "tar that is cut, skip": (
        {"0.tar": TAR[:5000], "1.tar": tar(*sample(7), *sample(8))},
        {"broken_shards": "skip"},
    ),
    "tar with a bad header": ({"0.tar": flipped(TAR, 100), "1.tar": tar(*sample(7))}, {}),
    "tar that is empty": ({"0.tar": tar(), "1.tar": tar(*sample(7), *sample(8))}, {}),
    "tar of images only": ({"0.tar": tar(*(sample(number)[0] for number in range(3)))}, {}),
    "tar of texts only": ({"0.tar": tar(*(sample(number)[1] for number in range(3)))}, {}),
    "tar.gz": ({"0.tar.gz": gzip.compress(TAR, mtime=0)}, {}),
    # damage
    "parquet that is cut": ({"0.parquet": BIG[:-50], "1.parquet": parquet(TABLE)}, KEY),
    "parquet that is cut, skip": (
        {"0.parquet": BIG[:-50], "1.parquet": parquet(TABLE)},
        {**KEY, "broken_shards": "skip"},
    ),
    "parquet with a bad footer": ({"0.parquet": flipped(BIG, len(BIG) - 60), "1.parquet": parquet(TABLE)}, KEY),
    "jsonl.gz that is cut": (
        {"0.jsonl.gz": gzip.compress(json_of(TABLE), mtime=0)[:60], "1.jsonl": json_of(TABLE)},
        KEY,
    ),
    "jsonl.gz that is cut, skip": (
        {"0.jsonl.gz": gzip.compress(json_of(TABLE), mtime=0)[:60], "1.jsonl": json_of(TABLE)},
        {**KEY, "broken_shards": "skip"},
    ),
    "all shards broken, skip": ({"0.jsonl.gz": b"x", "1.jsonl.gz": b"y"}, {**KEY, "broken_shards": "skip"}),
}


def odd_pools(part: Part) -> None:
    """Small pools that are odd as files."""
    for name, (files, keys) in POOLS.items():
        folder = part.folder / "odd" / name.replace(" ", "_")
        for path, data in files.items():
            small_data.write_bytes(folder / path, data)
        add_run(part, name, {"path": str(folder), **keys})


# --- listings


def listings(part: Part) -> None:
    """Which files of a folder are the pool's shards: patterns, several folders, links, other formats, stores."""
    root = part.folder / "listed"
    for place in ("a/0.csv", "a/1.csv", "a/deep/er/2.csv", "a/.hidden/3.csv", "a/.4.csv", "b/0.csv", "c/a/5.csv"):
        table_of = {"id": [f"{place}{number}" for number in range(5)], "caption": CAPTIONS}
        small_data.write_bytes(root / place, csv_of(table_of))
    small_data.write_bytes(root / "mixed/0.jsonl", json_of(TABLE))
    small_data.write_bytes(root / "mixed/1.csv", csv_of(TABLE))
    small_data.write_bytes(root / "mixed/2.parquet", parquet(TABLE))
    small_data.write_bytes(root / "mixed/x/2.parquet", parquet(TABLE))
    small_data.write_bytes(root / "mixed/photo.png", rows.png(0))
    small_data.write_bytes(root / "links/own.csv", csv_of(TABLE))
    small_data.write_bytes(part.folder / "lost/own.csv", csv_of(TABLE))
    small_data.write_bytes(part.folder / "with_run/own.csv", csv_of(TABLE))
    (root / "empty").mkdir()
    run_of_a = run_on_words(part.folder, "listed_run", {"path": str(root / "a"), **KEY})
    links = {"0.csv": "a/0.csv", "again.csv": "a/0.csv", "deep": "a/deep", "deep_again": "a/deep"}
    for name, target in links.items():
        os.symlink(root / target, root / "links" / name)
    os.symlink(root / "nowhere.csv", part.folder / "lost/broken.csv")
    os.symlink(run_of_a, part.folder / "with_run/run")
    paths = {
        "folder": "a", "file": "a/0.csv", "pattern": "a/[01].csv", "star": "a/*.csv", "two stars": "a/**/*.csv",
        "two stars at the root": "**/*.csv", "star of folders": "*/0.csv", "question mark": "a/?.csv",
        "pattern of nothing": "a/9*.csv", "links": "links", "lost link": "../lost", "empty": "empty",
        "run inside": "../with_run", "mixed": "mixed",
        "mixed, two stars": "mixed/**/*.parquet", "missing": "nowhere", "hidden": "a/.hidden", "slash": "a/",
    }  # fmt: skip
    for name, path in paths.items():
        add_run(part, name, {"path": str(root / path), **KEY}, until="pool")
    several = {"two folders": ["a", "b"], "two of one name": ["a", "c/a"], "folder and file": ["b", "a/1.csv"]}
    for name, folders in several.items():
        add_run(part, name, {"path": [f"{root}/{folder}" for folder in folders], **KEY}, until="pool")
    add_run(part, "two folders, curated", {"path": [f"{root}/a", f"{root}/b"], **KEY})


def stores(part: Part) -> None:
    """The rows in four formats in a store: fsspec's in memory, which has no network."""
    memory = fsspec.filesystem("memory")
    for kind in ("tar of .json", "parquet with images", "jsonl.gz", "csv"):
        name = kind.replace(" ", "_")
        local = rows.write_rows(part.folder / "sound_rows" / name, kind, is_sound=True)
        for path in local.rglob("*.*"):
            if path.is_file():
                memory.pipe(f"/{name}/{path.relative_to(local).as_posix()}", path.read_bytes())
        keys = {**keys_of_pool(part.folder, kind, {}), "path": f"memory://{name}"}
        add_run(part, kind, keys)
        add_run(part, f"{kind}, deny_keys", {**keys, **lists_of(part, kind)})
        if kind in rows.WITH_IMAGES:
            add_run(part, f"{kind}, write tars", {**keys, "curate.write": "tars"})
        if kind.startswith("parquet"):
            add_run(part, f"{kind}, write parquet", {**keys, "curate.write": "parquet"})


def lists_of(part: Part, kind: str) -> dict[str, Any]:
    return {"deny_keys": keys_of_pool(part.folder, kind, {"deny_keys": ["deny.txt"]})["deny_keys"]}


# --- commands that read a pool


def tools(part: Part) -> None:
    """`pool check`, `pool dedup`, `init` and `inspect` of the rows in each format."""
    for kind in rows.FORMATS:
        name = kind.replace(" ", "_")
        for keys_name, keys in TOOL_KEYS.items():
            words = recipe(part.folder, f"tools_{name}_{keys_name}", keys_of_pool(part.folder, kind, keys))
            of = f"{kind}, {keys_name}"
            out = part.folder / "tools" / name / keys_name
            add_tool(part, f"dedup {of}", out / "dedup", ("pool", "dedup", words), read_dedup)
            if kind in rows.WITH_IMAGES:
                add_tool(part, f"check {of}", out / "check", ("pool", "check", words), read_check)
        add_init(part, kind)
        add_inspect(part, kind)


TOOL_KEYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "where": {"where": [["source", "in", ["web", "book"]]]},
    "deny_keys": {"deny_keys": ["deny.txt"]},
}


def add_tool(part: Part, name: str, out: Path, words: tuple[object, ...], read: Callable[[Path], list[Any]]) -> None:
    try:
        worldclip(*words, "--out", out, "--workers", 1)
    except Refused as error:
        part.says(name, error.message)
        return
    part.rows(name, read(out))


def read_dedup(out: Path) -> list[Any]:
    return table(out, ("shard", "key", "first_shard"), "duplicates.parquet")


def read_check(out: Path) -> list[Any]:
    removed = table(out, ("key", "shard", "rule", "other_key", "distance"), "removed.parquet")
    return [*removed, *sorted(table(out, ("key",), "valid_keys.parquet"))]


def add_init(part: Part, kind: str) -> None:
    """Record the recipe that `init` drafts."""
    path = rows.write_rows(part.folder / "rows" / kind.replace(" ", "_"), kind)
    out = part.folder / "drafts" / f"{kind.replace(' ', '_')}.toml"
    out.parent.mkdir(exist_ok=True)
    try:
        worldclip("init", path, "--out", out)
    except Refused as error:
        part.says(f"init {kind}", error.message)
        return
    part.same(f"init {kind}", out.read_text(encoding="utf-8").replace(str(part.folder), ""))


def add_inspect(part: Part, kind: str) -> None:
    """Record why pairs were kept or dropped: every seventh key, and one of no pair."""
    keys = keys_of_pool(part.folder, kind, {})
    out = run_on_words(part.folder, f"inspected_{kind.replace(' ', '_')}", keys)
    said = []
    for key in [*(str(row["uid"]) for row in rows.rows()[::7]), "00014", "no key"]:
        try:
            said.append(worldclip("inspect", out, "--key", key, "--json"))
        except Refused as error:
            said.append(error.message)
    part.rows(f"inspect {kind}", [text.replace(str(part.folder), "") for text in said])


PARTS = (odd_pools, listings, stores, tools)
