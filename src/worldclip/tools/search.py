"""Search the embeddings that `worldclip embed` wrote for the nearest images or texts, exactly.

    results = worldclip.search("embeddings", ["一只猫"], top=20)

The memory-mapped embeddings are read block by block.

Q queries, N embedded images or texts, D embed_dim, k results per query.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from worldclip.core.command import Command, Flags
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import usable_cores
from worldclip.core.image_names import SUFFIXES
from worldclip.core.job import Report
from worldclip.core.marks import Folder
from worldclip.core.printable import one_line
from worldclip.export.embedded import Embedded, check_model, folder_and_file, open_embedded
from worldclip.export.segments import IMAGES_OR_TEXTS, Of, ShardRows
from worldclip.model import load as model_load
from worldclip.model.images import require_files
from worldclip.model.inference import Clip, text_problem
from worldclip.pool.config import Where

BLOCK_BYTES = 64 * 2**20  # scores held at once
BLOCK_ROWS = 65_536  # embeddings scored at once, at most
FEW_QUERIES = 8  # up to here, reading the rows takes longer than multiplying them


def nearest(
    parts: Sequence[np.ndarray | ShardRows], query_QD: np.ndarray, top: int, is_chosen: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `top` rows with the largest products per query, best first, ties by row: (Q, k) int64 and float32.

    For more than FEW_QUERIES queries the products of equal rows may differ in the last bit, as the BLAS rounds them.
    parts: (n, D) float32 each, memory-mapped or not; together N rows.  is_chosen: (N,) bool, the rows that are
    searched; None for all.  k is their number where there are fewer than `top`.
    """
    is_few = len(query_QD) <= FEW_QUERIES
    size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * max(1, len(query_QD)))))
    starts = np.cumsum([0, *map(len, parts)])
    blocks: list[_Block] = []
    for first, part in zip(starts.tolist(), parts, strict=False):
        for start in range(0, len(part), size):
            end = min(start + size, len(part))
            rows = np.arange(start, end)
            if is_chosen is not None:
                rows = rows[is_chosen[first + start : first + end]]
            if len(rows):
                is_whole = len(rows) == end - start
                blocks.append(_Block(part, slice(start, end) if is_whole else rows, first + rows))
    best = [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in query_QD]
    with ThreadPoolExecutor(usable_cores() if is_few else 1) as threads:
        products = threads.map(lambda block: _products(query_QD, block.part[block.rows], is_few), blocks)
        for block, scores_QB in zip(blocks, products, strict=True):
            best = [_merge(*pair, block.ids, scores, top) for pair, scores in zip(best, scores_QB, strict=True)]
    ids, scores = zip(*best, strict=True)
    return np.stack(ids), np.stack(scores)


class _Block(NamedTuple):
    """Rows of a part that are scored at once."""

    part: np.ndarray | ShardRows
    rows: slice | np.ndarray
    ids: np.ndarray
    """(B,) int64 of these rows among all parts."""


def _products(query_QD: np.ndarray, rows_BD: np.ndarray, is_few: bool) -> np.ndarray:
    """Return (Q, B) products.

    Few queries run one by one, each block in a thread of its own.  BLAS would synchronise its threads at every block,
    which takes longer than reading it.
    """
    return np.stack([np.vecdot(rows_BD, query) for query in query_QD]) if is_few else query_QD @ rows_BD.T


def _merge(
    ids: np.ndarray, scores: np.ndarray, block_ids: np.ndarray, block_scores: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the best rows so far with those of a later block; returns ids and scores."""
    if len(ids) == top:  # only a better score enters: an equal one has a larger row and loses the tie
        chosen = np.flatnonzero(block_scores > scores[-1])
    else:
        chosen = np.arange(len(block_scores))
    if len(chosen) > top:  # a partial sort first: the block is much larger than `top`
        worst = np.partition(block_scores[chosen], -top)[-top]
        chosen = chosen[block_scores[chosen] >= worst]
    ids = np.concatenate([ids, block_ids[chosen]])
    scores = np.concatenate([scores, block_scores[chosen]])
    order = np.argsort(-scores, kind="stable")[:top]
    return ids[order], scores[order]


def search(
    folder: Annotated[str | Path, Folder()],
    texts: Sequence[str] = (),
    images: Sequence[Any] = (),
    *,
    top: int = 20,
    of: Of | None = None,
    filter: Where = (),
    keys: Sequence[str] | None = None,
    path_prefix: str = "",
    pool: Sequence[str] = (),
    model: str | Path | None = None,
    precision: str | None = None,
    device: str = "auto",
) -> list[Report]:
    """Return {"query", "hits"} for each text and then each image: the `top` nearest rows, best first.

    A hit has its `score` (cosine), id, shard, key, path in the pool, columns, and file, offset, size of an image, or
    text_idx, text.

    folder: folder that `worldclip embed` wrote; its manifest names the model.
    texts: texts to search for; on the command line the path of a picture is that picture.
    images: image files to search for.
    top: number of results per query.
    of: images or texts, in a folder with both.
    filter: conditions on columns that embed took along, each as in pool.where: price,<,20 or ["price", "<", 20].
    keys: search among these keys only (default: all; an empty list finds nothing).
    path_prefix: search only where the path in the pool begins so: of an image file its own (summer/), else
    SHARD/KEY (00000.tar/a).
    pool: where the pool is now, if it moved.
    model: path of the model, if it moved.
    precision: precision of the queries (default: the one that the folder was embedded in).

    Raises UserError, also where the model is not the one that embedded the folder.

    Examples:
        worldclip search embedded "two dogs on a beach"
        worldclip search embedded "ein roter Schuh" --filter "price,<,50" --top 20
    """
    problems: list[str] = []
    texts = _texts_of("texts", texts, problems)
    images = [images] if isinstance(images, str | Path | bytes) else _as_list("images", images, problems)
    keys = None if keys is None else _texts_of("keys", keys, problems)
    pool = _texts_of("pool", pool, problems)
    where = _conditions(filter, problems)
    problems += [f"query {text!r} is blank; give words" for text in texts if not text.strip()]
    if not problems and not texts and not images:
        problems.append("no query; give a text or an image")
    if not isinstance(top, int | np.integer) or isinstance(top, bool) or top < 1:
        problems.append(f"top = {top!r}: must be a whole number of results, at least 1")
    if of not in (None, *IMAGES_OR_TEXTS):
        problems.append(f"of = {of!r}: must be {' or '.join(IMAGES_OR_TEXTS)}")
    problem = text_problem(path_prefix)
    if problem:
        problems.append(f"path_prefix: {problem}")
    if problems:
        raise UserError(problems)
    require_files(images, decodes=True)
    embedded = open_embedded(folder, of, pool=pool)
    is_chosen = None
    if where or keys is not None or path_prefix:
        is_chosen = embedded.select(where, keys, path_prefix)
    if embedded.remark:
        say("search", embedded.remark)
    clip = load_model(embedded, model, device, precision)
    features = [clip.encode_text(texts)] if texts else []
    if images:
        features.append(clip.encode_image(images))
    ids, scores = nearest(embedded.parts, np.concatenate(features), top, is_chosen)
    names = list(texts)
    for i, image in enumerate(images):
        names.append(str(image) if isinstance(image, str | Path) else f"image {i}")
    results = []
    for name, row_ids, row_scores in zip(names, ids, scores, strict=True):
        rows = zip(row_scores.tolist(), embedded.rows(row_ids), strict=True)
        hits = [{"score": score, **row} for score, row in rows]
        results.append({"query": name, "hits": hits})
    return results


def load_model(embedded: Embedded, model: str | Path | None, device: str, precision: str | None) -> Clip:
    """Load the model that the manifest names.  Raises UserError where it has become another one."""
    record = embedded.manifest["config"]["model"]
    options = {"arch": record.get("arch"), "tokenizer": record.get("tokenizer")}
    options["precision"] = precision or record.get("precision")
    try:
        clip = model_load.load(model or record["source"], device, **options)
    except UserError as error:
        problems = list(error.problems)
        if model is None and not Path(record["source"]).exists():
            problems.append(f"{embedded.folder} was embedded with it; if it moved, give its path as --model")
        raise UserError(problems) from error
    check_model(embedded, clip, str(model or record["source"]), "give that one as --model")
    if model is None and model_load.find(record["source"], options["precision"]).digest() != record["digest"]:
        say("search", f"files of {record['source']} changed since it embedded {embedded.folder}; embed the pool again")
    return clip


def _hits_text(results: Sequence[Mapping[str, Any]], flags: Flags) -> str:
    lines = []
    for result in results:
        lines.append(one_line(result["query"]))
        if not result["hits"]:
            lines.append("  none: no row fulfils all conditions")
        for hit in result["hits"]:
            name = f"({one_line(hit['shard'])}/{one_line(hit['key'])})"
            if "text" in hit:
                shown = f"{one_line(hit['text'])}  {name}"
            else:
                shown = one_line("/".join(folder_and_file(hit)).removeprefix(f"{Path.cwd()}/"))
                if not shown.endswith(one_line(hit["key"])):  # a picture that a table names under another key
                    shown = f"{shown}  {name}"
            columns = []  # `category: shoe`; true and false are as --filter reads them
            for column, value in hit.get("columns", {}).items():
                if value is not None:
                    text = value if isinstance(value, str) else json.dumps(value)
                    columns.append(f"{one_line(column)}: {one_line(text)}")
            if columns:
                shown = f"{shown}  {', '.join(columns)}"
            lines.append(f"  {hit['score']:6.3f}  {shown}")
    return "\n".join(lines)


def _as_list(name: str, values: Any, problems: list[str]) -> list[Any]:
    """Return the values of an argument as a list; [] and a problem for what holds none."""
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
        return list(values)
    problems.append(f"{name} = {values!r:.60}: must be a list")
    return []


def _texts_of(name: str, values: Any, problems: list[str]) -> list[str]:
    """Return an argument, one text or several, as a list; adds a problem for the first value that is no text."""
    items = [values] if isinstance(values, str) else _as_list(name, values, problems)
    for i, item in enumerate(items):
        problem = text_problem(item)
        if problem:
            problems.append(f"{name}[{i}]: {problem}")
            return []
    return items


def _conditions(conditions: Any, problems: list[str]) -> Where:
    """Return conditions with tuples for lists; adds a problem for what is no list of them, as a single one."""
    if not isinstance(conditions, list | tuple) or not all(isinstance(part, list | tuple) for part in conditions):
        problems.append(f'filter = {conditions!r:.60}: must be a list of conditions, as [("price", "<", 20)]')
        return ()
    where = []
    for condition in conditions:
        if None in condition:
            problems.append(f"filter: {condition!r} has no value; a missing value fulfils no condition")
        where.append(tuple(tuple(part) if isinstance(part, list) else part for part in condition))
    return tuple(where)


@functools.wraps(search)
def search_words(folder: str | Path, texts: Sequence[str] = (), images: Sequence[Any] = (), **options: Any) -> Any:
    """Search as `search` does; a text that is the path of a picture here is that picture.

    Raises UserError for one that is named like a picture and is none here.
    """
    words = []
    pictures = []
    missing = []
    for text in texts:
        if not text.lower().endswith(SUFFIXES):
            words.append(text)
        elif Path(text).is_file():
            pictures.append(text)
        else:
            missing.append(f"{text}: no such picture here")
    if missing:
        raise UserError(missing)
    if len(words) > 1 and not any(" " in word for word in words):
        query = shlex.quote(" ".join(words))
        say("search", f"{len(words)} queries: {', '.join(words)}; for one query write {query} in quotes")
    return search(folder, words, [*images, *pictures], **options)


SEARCH = Command(search_words, _hits_text, positional=("texts",))
"""Find the nearest images or texts for texts in any language and for images."""
