"""Titles of a Wikipedia's articles with their views, from hourly page-view files.

A file holds one hour of all Wikimedia sites, `domain title views bytes` per line
(https://dumps.wikimedia.org/other/pageviews/readme.html).  A Wikipedia has a desktop and a mobile domain (`sw`,
`sw.m`); its sister projects have others (`sw.b`, `sw.d`).  Each file is counted on its own into a table of words, one
Wikipedia after the other; counts of files add up in any order.
"""

from __future__ import annotations

import itertools
import json
import urllib.parse
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from worldclip.core.arrow import binary_array, byte_buffers, one_array
from worldclip.core.artifacts import read_json, write_array, write_json
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report
from worldclip.core.unpack import MAX_LINE_BYTES, as_file, check_document
from worldclip.language.characters import casefold
from worldclip.metadata.ngrams.runs import NO_WORDS, Words, merge_words
from worldclip.metadata.sources.dumps import iter_bytes

COLUMNS = ("domain", "title", "views", "bytes")
USED_COLUMNS = COLUMNS[:3]
BLOCK_BYTES = 2**25  # lines parsed at a time
ROWS = "wikipedias.json"  # [first row, row after the last] of each Wikipedia; in the folder of a file's counts
VIEWS_VERSION = 3  # version of the files in such a folder
WORD_COLUMNS = ("data", "offsets", "counts")  # word_<name>.npy in it: the fields of Words
TITLE_VIEWS = pa.schema([("title", pa.large_binary()), ("views", pa.uint64())])

# MediaWiki's own names, which work on every wiki in addition to the local ones:
# https://www.mediawiki.org/wiki/Manual:Namespace.
CANONICAL_NAMESPACES = (
    *("Media", "Special", "Talk", "User", "User talk", "Project", "Project talk", "File", "File talk", "Image"),
    *("Image talk", "MediaWiki", "MediaWiki talk", "Template", "Template talk", "Help", "Help talk", "Category"),
    *("Category talk", "Wikipedia", "Wikipedia talk", "Portal", "Portal talk", "Module", "Module talk"),
)


def count_views(path: Path, folder: Path, wiki_langs: Collection[str], *, min_line_views: Mapping[str, int]) -> Report:
    """Sum the views of each title of each of `wiki_langs` into `folder`; returns what was read and dropped.

    min_line_views: for some Wikipedias, the views below which a line does not count; of these only the desktop domain
    counts, as in version 1 of the recipe.  Raises BadShard if the file is broken or no line has the four fields.
    """
    wiki_of_domain: dict[bytes, str] = {}
    for wiki in wiki_langs:
        desktop = wiki.replace("_", "-").encode()
        wiki_of_domain[desktop] = wiki
        if wiki not in min_line_views:
            wiki_of_domain[desktop + b".m"] = wiki
    dropped: Counter[str] = Counter(fields=0, views=0, title=0)
    tables = []
    num_lines = 0
    file = as_file(iter_bytes(path))
    while block := file.read(BLOCK_BYTES):
        end = file.readline(MAX_LINE_BYTES + 1)
        if len(end) > MAX_LINE_BYTES:
            raise BadShard(f"{path}: a line has more than {MAX_LINE_BYTES:,} bytes; it is no file of page views")
        lines = _parse(block + end, dropped)
        num_lines += len(lines)
        tables.append(_sum_by_wiki(lines, wiki_of_domain, min_line_views, dropped))
    if not num_lines and dropped["fields"]:
        raise BadShard(f"{path}: no line has the four fields `domain title views bytes`; is it a page-view file?")
    counts: dict[str, pa.Table] = {}  # titles of each Wikipedia in byte order, and their views (TITLE_VIEWS)
    if tables:
        views = _sum_by_title(pa.concat_tables(tables))
        for wiki in sorted(set(wiki_of_domain.values())):
            of_wiki = views.filter(pc.equal(views["wiki"], wiki))
            titles = list(map(decode_title, of_wiki["title"].to_pylist()))
            dropped["title"] += titles.count(None)
            decoded = {"title": pa.array(titles, pa.large_binary()), "views": of_wiki["views"]}
            # two spellings may decode to one title
            summed = pa.table(decoded).drop_null().group_by("title").aggregate([("views", "sum")])
            counts[wiki] = summed.sort_by("title").rename_columns(TITLE_VIEWS.names).cast(TITLE_VIEWS)
    # One set of files for all Wikipedias: a folder for each of 330 in each of a year's 888 sampled hours would be a
    # million files.
    whole = pa.concat_tables([TITLE_VIEWS.empty_table(), *counts.values()])
    data, offsets = byte_buffers(one_array(whole["title"]))
    columns = Words(data[: offsets[-1]], offsets, whole["views"].to_numpy())
    for name in WORD_COLUMNS:
        write_array(folder / f"word_{name}.npy", getattr(columns, name))
    ends = itertools.accumulate(map(len, counts.values()), initial=0)
    write_json(folder / ROWS, dict(zip(counts, itertools.pairwise(ends), strict=True)))
    num_titles = {wiki: len(table) for wiki, table in counts.items()}
    return {"lines": num_lines, "dropped": dict(dropped), "titles": num_titles}


def _parse(block: bytes, dropped: Counter[str]) -> pa.Table:
    """Return lines of four fields as a table of binary columns; other lines are counted in `dropped`."""
    lines = [line for line in block.splitlines() if line]  # at \r too, as Arrow does
    whole = [line for line in lines if line.count(b" ") == len(COLUMNS) - 1]
    dropped["fields"] += len(lines) - len(whole)
    if not whole:  # Arrow refuses an empty file
        return pa.table({name: pa.array([], pa.binary()) for name in USED_COLUMNS})
    return pc_csv.read_csv(
        pa.BufferReader(b"\n".join([*whole, b""])),
        read_options=pc_csv.ReadOptions(column_names=list(COLUMNS), use_threads=False, block_size=len(block) + 1),
        parse_options=pc_csv.ParseOptions(delimiter=" ", quote_char=False, double_quote=False),
        convert_options=pc_csv.ConvertOptions(
            column_types={name: pa.binary() for name in COLUMNS}, include_columns=list(USED_COLUMNS),
            strings_can_be_null=False,
        ),
    )  # fmt: skip


def _sum_by_wiki(
    lines: pa.Table, wiki_of_domain: Mapping[bytes, str], min_line_views: Mapping[str, int], dropped: Counter[str]
) -> pa.Table:
    """Return one row (wiki, title, views) per title, of the lines of these domains whose views are a number."""
    domains = pa.array(list(wiki_of_domain), pa.binary())
    lines = lines.filter(pc.is_in(lines["domain"], domains))
    is_number = pc.match_substring_regex(lines["views"], "^[0-9]{1,18}$")
    dropped["views"] += len(lines) - (pc.sum(is_number).as_py() or 0)
    lines = lines.filter(is_number)
    lines = lines.set_column(2, "views", lines["views"].cast(pa.string()).cast(pa.int64()))
    wikis = pc.take(pa.array(list(wiki_of_domain.values())), pc.index_in(lines["domain"], domains))
    lines = lines.set_column(0, "wiki", wikis)
    for wiki, minimum in min_line_views.items():
        lines = lines.filter(pc.or_(pc.not_equal(lines["wiki"], wiki), pc.greater_equal(lines["views"], minimum)))
    return _sum_by_title(lines)


def _sum_by_title(lines: pa.Table) -> pa.Table:
    grouped = lines.group_by(["wiki", "title"]).aggregate([("views", "sum")])
    return grouped.rename_columns({"views_sum": "views"})


def decode_title(raw: bytes) -> bytes | None:
    """Return a title as readers see it: percent-encoding undone, `_` as blank; None if it is empty or not UTF-8."""
    title = urllib.parse.unquote_to_bytes(raw) if b"%" in raw else raw
    title = title.replace(b"_", b" ").strip()
    try:
        title.decode()
    except UnicodeDecodeError:
        return None
    return title or None


# --- choosing ---------------------------------------------------------------------------------------------------------


def merge_views(folders: Sequence[Path], wiki: str) -> Words:
    """Return the sum over the counts of files for one Wikipedia, in byte order of titles."""
    # A stack of sums over 2^k files, k falling, as in a binary counter: each title is copied log2(files) times.
    stack: list[tuple[int, Words]] = []
    for folder in folders:
        first, end = read_json(folder / ROWS).get(wiki, (0, 0))
        data, offsets, counts = (np.load(folder / f"word_{name}.npy", mmap_mode="r") for name in WORD_COLUMNS)
        offsets = np.array(offsets[first : end + 1])
        views = Words(np.array(data[offsets[0] : offsets[-1]]), offsets - offsets[0], np.array(counts[first:end]))
        level = 0
        while stack and stack[-1][0] == level:
            views = merge_words([stack.pop()[1], views])[0]
            level += 1
        stack.append((level, views))
    return merge_words(views for _, views in reversed(stack))[0] if stack else NO_WORDS


def read_namespaces(path: Path) -> set[str]:
    """Return the names of a site's namespaces except that of articles, from its `siteinfo-namespaces.json` (.gz).

    Raises BadShard if it is not such a file.
    """
    data = b""
    for chunk in iter_bytes(path):
        data += chunk
        check_document(data, f"{path}:")
    try:
        query = json.loads(data)["query"]
        names: set[str] = set()
        for key, namespace in query["namespaces"].items():
            if int(key) != 0:
                names |= {namespace.get(form, "") for form in ("*", "name", "canonical")}
        for alias in query.get("namespacealiases", []):
            if alias["id"]:
                names.add(alias.get("*", alias.get("alias", "")))
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a name is not a string")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadShard(f"{path}: not a list of a site's namespaces ({error!r}); download it again") from error
    return names - {""}


def find_articles(views: Words, namespaces: Collection[str] | None) -> np.ndarray:
    """Return the ranks of the articles by falling views, equal ones in byte order: (articles,) int64.

    namespaces: names whose pages are not articles, in addition to MediaWiki's own; None: no title with a `:` is one, as
    in the reference.
    """
    titles = binary_array(views.data, views.offsets)
    has_colon = pc.match_substring(titles, b":").to_numpy(zero_copy_only=False)
    is_article = ~has_colon
    if namespaces is not None:
        all_namespaces = {_fold(name) for name in (*CANONICAL_NAMESPACES, *namespaces)}
        for rank in np.flatnonzero(has_colon).tolist():
            prefix = views.word(rank).partition(":")[0]
            is_article[rank] = bool(prefix.strip()) and _fold(prefix) not in all_namespaces
    ranks: np.ndarray = np.flatnonzero(is_article)
    return ranks[np.argsort(-views.counts[ranks].astype(np.int64), kind="stable")]


def _fold(name: str) -> str:
    return casefold(name.replace("_", " ").strip())
