"""`worldclip pool wat`: Common Crawl WAT files to Parquet of (uid, url, text, texts).

The result is the input of img2dataset and a pool to match.  uid is the pair's key; img2dataset's own `key` is the
number that it gives a sample.

    OUT/parts/<file>.links       image links of one WAT file that have a text, sorted by key; written once.  It is
                                 Parquet under another suffix, so that it is no shard of the pool
    OUT/00000.parquet ...        the pool: one row per URL, its texts in the order of the files
    OUT/order.json               the files in order: a later call with more files appends texts and renumbers none

Memory is bounded: keys are cut into as many ranges as there are shards, and a worker merges one range at a time, in
steps of about LINKS_PER_SHARD links where later files or num_shards have made it larger.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.contracts import layout
from worldclip.core.artifacts import Json, read_json, whole_file, write_json
from worldclip.core.command import Command, OutFolder
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, add_counts, usable_cores
from worldclip.core.inputs import is_remote
from worldclip.core.job import Job, Result, lock_folder
from worldclip.core.local_path import has_surrogate
from worldclip.core.unpack import check_document
from worldclip.plugins.crawl.urls import key_of_url, resolve
from worldclip.plugins.crawl.warc import iter_records
from worldclip.pool.files import check_own, open_file
from worldclip.pool.texts import BLANKS

TEXT_FIELDS = ("alt", "title", "data-image-title")  # fields of an IMG link, in this order
IMAGE_PATH = "IMG@/src"
LINKS_PER_SHARD = 2_000_000  # links merged at a time: about 1 GiB
ROWS_PER_GROUP = 1 << 16
REASONS = ("pairs", "no_text", "bad_text", "not_http", "bad_url")  # what became of an image link
VERSION = 3  # raised where pages are read in another way: files of an older version are made again
_PART = pa.schema([("key", pa.string()), ("url", pa.string()), ("text", pa.large_string())])
_POOL = pa.schema(
    [("uid", pa.string()), ("url", pa.string()), ("text", pa.large_string()), ("texts", pa.list_(pa.large_string()))]
)


def build_wat(
    files: Sequence[str], out: OutFolder, num_shards: int | None = None, executor: Executor | None = None
) -> Report:
    """Create or extend the pool `out` from WAT files (paths or URLs); finished files are skipped.

    files: WAT files, paths or URLs; new ones extend the pool.
    out: folder of the pool.
    num_shards: number of Parquet files (default: one per 2,000,000 links); fixed once the pool exists.

    Raises UserError for missing files, StageFailed if files are damaged.

    Examples:
        worldclip pool wat warc.wat.gz --out pool
        worldclip pool wat warc.wat.gz --out pool --workers 8
    """
    check_own(out, "wat", ("parts", "order.json", "*.parquet"))
    executor = executor or LocalExecutor(workers=usable_cores())
    old = read_json(out / "order.json") if (out / "order.json").exists() else {"files": [], "num_shards": None}
    shards = _in_order(files, old["files"])
    with lock_folder(out):
        extract = partial(extract_file, out)
        done_dir = layout.done_dir(out, "parts")
        reports = executor.map(extract, shards, label="wat", done_dir=done_dir, key={"version": VERSION})
        totals = add_counts(reports, (*REASONS[1:], "links", "records", "bad_json", "wrong_length", "rows", "pairs"))
        totals["links_with_text"] = totals.pop("pairs")
        if num_shards is not None and num_shards < 1:
            raise UserError(f"num_shards = {num_shards}: must be at least 1 (number of Parquet files of the pool)")
        recorded = old["num_shards"]
        if recorded and num_shards not in (None, recorded):
            raise UserError(f"num_shards = {num_shards}: this pool has {recorded}; omit it, or choose another --out")
        num_ranges: int = recorded or num_shards or max(1, -(-totals["rows"] // LINKS_PER_SHARD))
        sources = [{"name": shard.name, **shard.fingerprint} for shard in shards]
        parts = [out / "parts" / f"{shard.name}.links" for shard in shards]
        pool_names = [f"{number:05}.parquet" for number in range(num_ranges)]
        pool = [Shard(name=name, path=str(out / name)) for name in pool_names]

        def merge() -> Result:
            write_json(out / "order.json", {"files": [shard.name for shard in shards], "num_shards": num_ranges})
            num_steps = max(1, -(-totals["rows"] // (num_ranges * LINKS_PER_SHARD)))  # keys are hashes: spread evenly
            merge_one = partial(merge_range, parts, num_ranges, num_steps)
            key = {"files": sources, "of": num_ranges, "version": VERSION}
            merged = executor.map(merge_one, pool, label="merge", done_dir=layout.done_dir(out, "pool"), key=key)
            outputs = [*parts, out / "order.json"]
            outputs += [layout.marker(out, f"parts/{shard.name}") for shard in shards]
            for name in pool_names:
                outputs += [out / name, layout.marker(out, f"pool/{name}")]
            in_pool = add_counts(merged, ("urls", "pairs"))
            report = {**totals, "urls": in_pool["urls"], "texts": in_pool["pairs"]}
            return Result(report=report, counts=report, outputs=outputs)

        return Job("wat", out, {"num_shards": num_ranges}, lambda: {"files": sources}).run(merge)


def _in_order(files: Sequence[str], known_names: Sequence[str]) -> list[Shard]:
    """Return the files that the pool has, in its order, then the new ones sorted by name.

    So text_idx of a text in the pool never changes, which the keep decision is drawn from.
    """
    names = [file.rstrip("/").rsplit("/", 1)[-1] for file in files]
    by_name = dict(zip(names, files, strict=True))
    missing = [file for file in files if not is_remote(file) and not Path(file).is_file()]
    problems = [f"{file}: no such file; FILES must be WAT files (.warc.wat.gz), as paths or URLs" for file in missing]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    problems += [f"{name} occurs twice in FILES; remove one" for name in repeated]
    removed = [name for name in known_names if name not in by_name]
    if removed:
        problems.append(
            f"{', '.join(removed)}: in the pool but not in FILES, which would renumber texts; add it, or choose another"
            " --out"
        )
    if not files:
        problems.append("FILES is empty; name WAT files (.warc.wat.gz), as paths or URLs")
    if problems:
        raise UserError(problems)
    in_order = [*known_names, *sorted(set(names) - set(known_names))]
    return [Shard.of_file(name, by_name[name]) for name in in_order]


# --- one WAT file -----------------------------------------------------------------------------------------------------


def extract_file(out: Path, shard: Shard) -> Report:
    """Write OUT/parts/<file>.links.  Report: records, bad records, and image links by REASONS."""
    counts: Counter[str] = Counter(dict.fromkeys((*REASONS, "links", "records", "bad_json", "wrong_length", "rows"), 0))
    rows: list[tuple[str, str, str]] = []
    with open_file(shard.path) as file:
        for record in iter_records(file):
            counts["records"] += 1
            counts["wrong_length"] += record.has_wrong_length
            if IMAGE_PATH.encode() not in record.body:
                continue
            check_document(record.body, f"record {counts['records']:,}")
            try:
                page = json.loads(record.body)
            except (ValueError, RecursionError):
                counts["bad_json"] += 1
                continue
            rows += _rows_of_page(page, counts)
    counts["rows"] = len(rows)
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table(dict(zip(_PART.names, columns, strict=True)), schema=_PART)
    order = pc.sort_indices(table["key"]) if len(rows) else pa.array([], pa.int64())  # stable
    with whole_file(out / "parts" / f"{shard.name}.links") as aside:
        pq.write_table(table.take(order), aside, compression="zstd", row_group_size=ROWS_PER_GROUP)
    return dict(counts)


def _rows_of_page(page: Any, counts: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, url, text) of each text of each image link of a page."""
    html = _at(page, "Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata")
    links = _at(html, "Links")
    if not isinstance(links, list):
        return
    base = _at(page, "Envelope", "WARC-Header-Metadata", "WARC-Target-URI")
    if not isinstance(base, str):
        base = ""  # only absolute links have a URL
    in_head = _at(html, "Head", "Base")
    if isinstance(in_head, str) and in_head.strip():
        with contextlib.suppress(ValueError):  # an invalid <base> counts as none, as in browsers
            base = resolve(in_head, base) or base
    for link in links:
        if not isinstance(link, dict) or link.get("path") != IMAGE_PATH:
            continue
        counts["links"] += 1
        texts, has_bad = _texts_of_link(link)
        if not texts:
            counts["bad_text" if has_bad else "no_text"] += 1
            continue
        address = link.get("url")
        try:
            if not isinstance(address, str):
                raise ValueError("no URL")
            url = resolve(address, base)
        except ValueError:  # UnicodeError too
            counts["bad_url"] += 1
            continue
        if url is None:
            counts["not_http"] += 1
            continue
        counts["pairs"] += 1
        key = key_of_url(url)
        for text in texts:
            yield key, url, text


def _texts_of_link(link: Json) -> tuple[list[str], bool]:
    """Return (its texts, each once, without empty ones; whether one was not a text or had a lone surrogate)."""
    texts: list[str] = []
    has_bad = False
    for name in TEXT_FIELDS:
        values = link.get(name)
        if not isinstance(values, list):
            values = [values]
        for text in values:
            if text is None:
                continue
            if not isinstance(text, str) or has_surrogate(text):
                has_bad = True
            elif text.strip(BLANKS) and text not in texts:
                texts.append(text)
    return texts, has_bad


def _at(record: Any, *names: str) -> Any:
    """Return record[a][b]..., None if a step is missing or not an object: records of real crawls have odd shapes."""
    for name in names:
        if not isinstance(record, dict):
            return None
        record = record.get(name)
    return record


# --- one range of keys ------------------------------------------------------------------------------------------------


def merge_range(parts: Sequence[Path], num_shards: int, num_steps: int, shard: Shard) -> Report:
    """Write one shard of the pool: all links of a range of keys, one row per URL, each text once, oldest first.

    num_steps: equal parts of the range, of which one at a time is in memory.
    """
    number = int(shard.name.removesuffix(".parquet"))
    num_ranges = num_shards * num_steps  # equal ones; the links of one are in the order of their files
    counts = Counter[str](urls=0, pairs=0)
    with whole_file(Path(shard.path)) as aside, pq.ParquetWriter(aside, _POOL, compression="zstd") as writer:
        for step in range(number * num_steps, (number + 1) * num_steps):
            in_step = pc.field("key") >= f"{(step << 32) // num_ranges:08x}"
            if step + 1 < num_ranges:
                in_step &= pc.field("key") < f"{((step + 1) << 32) // num_ranges:08x}"
            links = pa.concat_tables([pq.read_table(part, filters=in_step) for part in parts])
            merged = merge_links(links.combine_chunks())
            counts["urls"] += len(merged)
            counts["pairs"] += sum(pc.list_value_length(merged["texts"]).to_pylist())
            if len(merged):  # few readers would take a row group without rows
                writer.write_table(merged, row_group_size=ROWS_PER_GROUP)
    return dict(counts)


def merge_links(links: pa.Table) -> pa.Table:
    """Merge (key, url, text) rows in the order of their files to (uid, url, text, texts), one row per key, sorted.

    (k2, u, "a"), (k1, v, "b"), (k2, u, "c"), (k2, u, "a") -> (k1, v, "b", ["b"]), (k2, u, "a", ["a", "c"])
    """
    if len(links) == 0:
        return _POOL.empty_table()
    key = _codes(links["key"])
    text = _codes(links["text"])
    # One number per (key, text); np.unique returns the first row of each, and sorting restores the order of the files.
    pair = key.astype(np.int64) * (int(text.max()) + 1) + text
    first = np.sort(np.unique(pair, return_index=True)[1])
    # Codes number keys by first appearance; `rank` numbers them in sorted order.
    first_of_key = np.unique(key, return_index=True)[1]
    by_key = pc.sort_indices(links["key"].take(pa.array(first_of_key))).to_numpy()
    rank = np.empty(len(first_of_key), np.int64)
    rank[key[first_of_key[by_key]]] = np.arange(len(rank))
    order = first[np.argsort(rank[key[first]], kind="stable")]
    starts = np.flatnonzero(np.diff(rank[key[order]], prepend=-1))
    texts = links["text"].take(pa.array(order)).combine_chunks()
    first_rows = pa.array(order[starts])
    columns = {
        "uid": links["key"].take(first_rows),
        "url": links["url"].take(first_rows),
        "text": texts.take(pa.array(starts)),
        "texts": pa.ListArray.from_arrays(pa.array(np.append(starts, len(order)), pa.int32()), texts),
    }
    return pa.table(columns, schema=_POOL)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number per value: equal values have equal numbers."""
    whole = column.combine_chunks()
    codes: np.ndarray = whole.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes


POOL_WAT = Command(build_wat, lambda report, flags: json.dumps(report, ensure_ascii=False, indent=1))
"""Extract image links and their texts from Common Crawl WAT files, ready for img2dataset."""
