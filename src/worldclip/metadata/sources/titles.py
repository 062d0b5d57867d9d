"""Page-view files -> the titles of a Wikipedia by their views.

A file holds an hour of all of Wikimedia, `domain title views bytes` a line.  A Wikipedia's own domains are its
desktop and mobile ones (`sw`, `sw.m`); its sister projects (`sw.b`, `sw.d`) are others.  Each file is tallied on its
own, in the form of the words of an n-gram run, one Wikipedia behind the other; tallies add up in any order.
"""

from __future__ import annotations

import gzip
import json
import urllib.parse
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from worldclip.core.arrow import binary_array
from worldclip.core.artifacts import read_json, write_json
from worldclip.core.errors import BadShard
from worldclip.metadata.ngrams import Words, merge_words, write_words
from worldclip.metadata.sources.wikipedia import iter_bytes

COLUMNS = ("domain", "title", "views", "bytes")
BLOCK_BYTES = 2**25  # of lines parsed at once
ROWS = "wikipedias.json"  # of a tally: the first row of each Wikipedia, and the one behind its last
TALLY_VERSION = 2  # of the files of a tally

Tally = tuple[pa.LargeBinaryArray, np.ndarray]
_NO_COUNTS = np.zeros(0, np.uint64)

# MediaWiki's own names, which work on every wiki beside the local ones.
CANONICAL_NAMESPACES = (
    *("Media", "Special", "Talk", "User", "User talk", "Project", "Project talk", "File", "File talk", "Image"),
    *("Image talk", "MediaWiki", "MediaWiki talk", "Template", "Template talk", "Help", "Help talk", "Category"),
    *("Category talk", "Wikipedia", "Wikipedia talk", "Portal", "Portal talk", "Module", "Module talk"),
)


def domains_of(wiki_lang: str) -> tuple[bytes, bytes]:
    """The desktop and mobile domain of a Wikipedia, as page-view files write them."""
    host = wiki_lang.replace("_", "-").encode()
    return host, host + b".m"


def tally_views(
    path: Path, folder: Path, wiki_langs: Collection[str], *, min_line_views: Mapping[str, int]
) -> dict[str, Any]:
    """Sum the views of each title of each of `wiki_langs` into a tally at `folder`; returns what was read and dropped.

    min_line_views: for some Wikipedias, the views below which a line does not count; of these only the desktop domain
    counts, as in version 1 of the recipe.  Raises BadShard where the file is broken, or no line has its four fields.
    """
    wiki_of = {
        domain: wiki
        for wiki in wiki_langs
        for domain in (domains_of(wiki)[:1] if wiki in min_line_views else domains_of(wiki))
    }
    dropped: Counter[str] = Counter(fields=0, views=0, title=0)
    tables, num_lines = [], 0
    for block in _iter_blocks(path):
        lines = _parse(block, dropped)
        num_lines += len(lines)
        tables.append(_sum_views(_of_domains(lines, list(wiki_of), dropped), wiki_of, min_line_views))
    if not num_lines and dropped["fields"]:
        raise BadShard(f"{path}: no line has the four fields `domain title views bytes`; is it a page-view file?")
    views = _group(pa.concat_tables(tables)) if tables else None
    tallies = {
        wiki: _tally_of(views.filter(pc.equal(views["wiki"], wiki)), dropped)
        for wiki in sorted(set(wiki_of.values()))
        if views is not None
    }
    _write_tally(folder, tallies)
    titles = {wiki: len(words) for wiki, (words, _) in tallies.items()}
    return {"lines": num_lines, "dropped": dict(dropped), "titles": titles}


def _iter_blocks(path: Path) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES at once."""
    parts: list[bytes] = []
    size = 0
    for chunk in iter_bytes(path):
        parts.append(chunk)
        size += len(chunk)
        if size >= BLOCK_BYTES:
            block = b"".join(parts)
            end = block.rfind(b"\n") + 1
            if end:
                yield block[:end]
            parts = [block[end:]]
            size = len(parts[0])
    if size:
        yield b"".join(parts)


def _parse(block: bytes, dropped: Counter[str]) -> pa.Table:
    """Lines of four fields as a table of binary columns; others are counted."""
    try:
        block.decode()
    except UnicodeDecodeError:  # Arrow wants to show what it skips as text
        block = _of_four_fields(block, dropped)

    def skip(row: pc_csv.InvalidRow) -> str:
        dropped["fields"] += 1
        return "skip"

    return pc_csv.read_csv(
        pa.BufferReader(block),
        read_options=pc_csv.ReadOptions(column_names=list(COLUMNS), use_threads=False, block_size=len(block) + 1),
        parse_options=pc_csv.ParseOptions(
            delimiter=" ", quote_char=False, double_quote=False, invalid_row_handler=skip
        ),
        convert_options=pc_csv.ConvertOptions(
            column_types={name: pa.binary() for name in COLUMNS}, include_columns=["domain", "title", "views"],
            strings_can_be_null=False,
        ),
    )  # fmt: skip


def _of_four_fields(block: bytes, dropped: Counter[str]) -> bytes:
    lines = [line for line in block.split(b"\n") if line]
    whole = [line for line in lines if line.count(b" ") == len(COLUMNS) - 1]
    dropped["fields"] += len(lines) - len(whole)
    return b"\n".join([*whole, b""])


def _of_domains(lines: pa.Table, domains: Sequence[bytes], dropped: Counter[str]) -> pa.Table:
    """The lines of some domains whose views are a number."""
    ours = lines.filter(pc.is_in(lines["domain"], pa.array(domains, pa.binary())))
    is_number = pc.match_substring_regex(ours["views"], "^[0-9]{1,18}$")
    dropped["views"] += len(ours) - (pc.sum(is_number).as_py() or 0)
    ours = ours.filter(is_number)
    return ours.set_column(2, "views", ours["views"].cast(pa.string()).cast(pa.int64()))


def _sum_views(lines: pa.Table, wiki_of: Mapping[bytes, str], min_line_views: Mapping[str, int]) -> pa.Table:
    """(wiki, title, views), a row a title."""
    wikis = pa.array([wiki_of[domain] for domain in wiki_of])
    places = pc.index_in(lines["domain"], pa.array(list(wiki_of), pa.binary()))
    lines = lines.set_column(0, "wiki", pc.take(wikis, places))
    for wiki, least in min_line_views.items():
        lines = lines.filter(pc.or_(pc.not_equal(lines["wiki"], wiki), pc.greater_equal(lines["views"], least)))
    return _group(lines)


def _group(lines: pa.Table) -> pa.Table:
    grouped = lines.group_by(["wiki", "title"]).aggregate([("views", "sum")])
    return grouped.rename_columns({"views_sum": "views"})


def _tally_of(views: pa.Table, dropped: Counter[str]) -> Tally:
    """Decoded titles in byte order, and the views of each."""
    titles = [decode_title(title) for title in views["title"].to_pylist()]
    dropped["title"] += titles.count(None)
    decoded = pa.table({"title": pa.array(titles, pa.large_binary()), "views": views["views"]}).drop_null()
    summed = decoded.group_by("title").aggregate([("views", "sum")])
    summed = summed.take(pc.sort_indices(summed["title"]))
    return _one_array(summed["title"].chunks), summed["views_sum"].to_numpy().astype(np.uint64)


def _one_array(chunks: Sequence[pa.Array]) -> pa.LargeBinaryArray:
    return pa.concat_arrays([pa.array([], pa.large_binary()), *chunks])


def _write_tally(folder: Path, tallies: Mapping[str, Tally]) -> None:
    """All Wikipedias in one set of files, and which of its rows are whose: 888 hours of 330 in files of their own would
    be a million files.
    """
    counts = [counts for _, counts in tallies.values()]
    write_words(folder, _one_array([words for words, _ in tallies.values()]), np.concatenate([_NO_COUNTS, *counts]))
    ends = np.cumsum([len(words) for words, _ in tallies.values()]).tolist()
    rows = {wiki: [end - len(words), end] for (wiki, (words, _)), end in zip(tallies.items(), ends, strict=True)}
    write_json(folder / ROWS, rows)


def read_tally(folder: Path, wiki: str) -> Words:
    """The titles of one Wikipedia in the tally of a file."""
    first, end = read_json(folder / ROWS).get(wiki, (0, 0))
    data, offsets, counts = (
        np.load(folder / f"word_{name}.npy", mmap_mode="r") for name in ("bytes", "offsets", "counts")
    )
    offsets = np.array(offsets[first : end + 1])
    return Words(np.array(data[offsets[0] : offsets[-1]]), offsets - offsets[0], np.array(counts[first:end]))


def decode_title(raw: bytes) -> bytes | None:
    """A title as a reader sees it: percent-encoding undone, `_` to blank; None for what is no UTF-8 or empty."""
    title = urllib.parse.unquote_to_bytes(raw) if b"%" in raw else raw
    title = title.replace(b"_", b" ").strip()
    try:
        title.decode()
    except UnicodeDecodeError:
        return None
    return title or None


# --- choosing ---------------------------------------------------------------------------------------------------------


def merge_tallies(folders: Sequence[Path], wiki: str) -> Words:
    """The sum over the tallies of files for one Wikipedia, in byte order of titles."""
    merged: list[tuple[int, Words]] = []  # tallies of 2^k files, k falling: each title is copied log2 times
    for folder in folders:
        level, tally = 0, read_tally(folder, wiki)
        while merged and merged[-1][0] == level:
            level, tally = level + 1, merge_words([merged.pop()[1], tally])[0]
        merged.append((level, tally))
    if not merged:
        return Words(np.zeros(0, np.uint8), np.zeros(1, np.int64), _NO_COUNTS)
    return merge_words(tally for _, tally in reversed(merged))[0]


def read_namespaces(path: Path) -> set[str]:
    """Names of a site's namespaces other than that of articles, from its `siteinfo-namespaces.json` (.gz).

    Raises BadShard where it is not one.
    """
    data = b"".join(iter_bytes(path))
    try:
        query = json.loads(data)["query"]
        spaces = [space for key, space in query["namespaces"].items() if int(key) != 0]
        names = {space.get(form, "") for space in spaces for form in ("*", "name", "canonical")}
        names |= {alias.get("*", alias.get("alias", "")) for alias in query.get("namespacealiases", []) if alias["id"]}
    except (ValueError, KeyError, TypeError, AttributeError, gzip.BadGzipFile) as error:
        raise BadShard(f"{path}: is no list of a site's namespaces ({error!r}); fetch it again") from error
    return names - {""}


def iter_titles(
    views: Words, *, namespaces: Collection[str] | None, top_fraction: float = 1.0, min_views: int = 1
) -> Iterator[tuple[str, float]]:
    """(title, views) by falling views, equal ones in byte order: the top share (rounded up) of the site's articles.

    namespaces: names whose pages are no articles, beside MediaWiki's own; None: every title with a `:` is dropped, the
    rule of the reference.
    """
    titles = binary_array(views.data, views.offsets)
    is_article = np.ones(len(views), bool)
    known = None if namespaces is None else {_folded(name) for name in (*CANONICAL_NAMESPACES, *namespaces)}
    for rank in np.flatnonzero(pc.match_substring(titles, b":").to_numpy(zero_copy_only=False)).tolist():
        prefix = views.word(rank).partition(":")[0]
        is_article[rank] = known is not None and bool(prefix.strip()) and _folded(prefix) not in known
    ranks = np.flatnonzero(is_article)
    order = ranks[np.argsort(-views.counts[ranks].astype(np.int64), kind="stable")]
    for rank in order[: int(np.ceil(top_fraction * len(order)))].tolist():
        if views.counts[rank] < min_views:
            return
        yield views.word(rank), float(views.counts[rank])


def _folded(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
