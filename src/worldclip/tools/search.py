"""Search the embeddings that `worldclip embed` wrote for the nearest images or texts: exactly, or by a faiss index.

    results = worldclip.search("embeddings", ["一只猫"], top=20)

Exact search reads the memory-mapped embeddings block by block.  `worldclip index DIR --library faiss` builds a graph
(HNSW, arXiv:1603.09320) for millions of rows.  Its candidates are scored exactly, so the index can only miss results,
never misrank them.

Q queries, N embedded images or texts, D embed_dim, k results per query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldclip.core.artifacts import read_json, write_artifact, write_json
from worldclip.core.command import Command, Flags
from worldclip.core.console import say
from worldclip.core.errors import UserError, require
from worldclip.core.execute import usable_cores
from worldclip.core.job import Report
from worldclip.core.printable import one_line
from worldclip.model import load as model_load
from worldclip.model.inference import Clip
from worldclip.pool.embedded import Embedded, Of, ShardRows, check_model, open_embedded

Library = Literal["exact", "faiss"]
BLOCK_BYTES = 64 * 2**20  # scores held at once
BLOCK_ROWS = 65_536  # embeddings scored at once, at most
FEW_QUERIES = 8  # up to here, reading the rows takes longer than multiplying them
# HNSW: links per row, width of the search while building and while searching (at least)
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 200, 128
CANDIDATES = 4  # an index returns this many times `top` rows, which are then scored exactly
NUM_RECALL_QUERIES = 100  # rows by which an index's recall is measured


def nearest(parts: Sequence[np.ndarray | ShardRows], query_QD: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `top` rows with the largest products per query, best first, ties by row: (Q, k) int64 and float32.

    For more than FEW_QUERIES queries the products of equal rows may differ in the last bit, as the BLAS rounds them.
    parts: (n, D) float32 each, memory-mapped or not; together N rows.  k is N where there are fewer than `top`.
    """
    is_few = len(query_QD) <= FEW_QUERIES
    size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * max(1, len(query_QD)))))
    starts = np.cumsum([0, *map(len, parts)])
    blocks = [
        (int(first) + start, part, slice(start, start + size))
        for first, part in zip(starts, parts, strict=False)
        for start in range(0, len(part), size)
    ]
    best = [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in query_QD]
    with ThreadPoolExecutor(usable_cores() if is_few else 1) as threads:
        products = threads.map(lambda block: _products(query_QD, block[1][block[2]], is_few), blocks)
        for (first, *_), scores_QB in zip(blocks, products, strict=True):
            best = [_merge(*pair, first, scores, top) for pair, scores in zip(best, scores_QB, strict=True)]
    ids, scores = zip(*best, strict=True)
    return np.stack(ids), np.stack(scores)


def _products(query_QD: np.ndarray, rows_BD: np.ndarray, is_few: bool) -> np.ndarray:
    """Return (Q, B) products.

    Few queries run one by one, each block in a thread of its own.  BLAS would synchronise its threads at every block,
    which takes longer than reading it.
    """
    return np.stack([np.vecdot(rows_BD, query) for query in query_QD]) if is_few else query_QD @ rows_BD.T


def _merge(
    ids: np.ndarray, scores: np.ndarray, first: int, block_scores: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the best rows so far with a block whose first row is `first`; returns ids and scores."""
    if len(ids) == top:  # only a better score enters: an equal one has a larger row and loses the tie
        chosen = np.flatnonzero(block_scores > scores[-1])
    else:
        chosen = np.arange(len(block_scores))
    if len(chosen) > top:  # a partial sort first: the block is much larger than `top`
        worst = np.partition(block_scores[chosen], -top)[-top]
        chosen = chosen[block_scores[chosen] >= worst]
    ids = np.concatenate([ids, first + chosen])
    scores = np.concatenate([scores, block_scores[chosen]])
    order = np.argsort(-scores, kind="stable")[:top]
    return ids[order], scores[order]


def search(
    folder: str | Path,
    texts: Sequence[str] = (),
    images: Sequence[Any] = (),
    *,
    top: int = 20,
    of: Of | None = None,
    exact: bool = False,
    model: str | Path | None = None,
    device: str = "auto",
    allow_urls: bool = False,
    html: str | Path | None = None,
) -> list[Report]:
    """Return {"query", "hits"} for each text and then each image: the `top` nearest rows, best first.

    A hit has its `score` (cosine), shard, key, and file, offset, size of an image, or text_idx, text.

    folder: folder that `worldclip embed` wrote; its manifest names the model.
    texts: texts to search for.
    images: image files to search for.
    top: number of results per query.
    of: images or texts, in a folder with both.
    exact: ignore an index.
    model: path of the model, if it moved.
    html: also write the results as a contact sheet (.html) with its images inside.

    Raises UserError, also where the model is not the one that embedded the folder.

    Examples:
        worldclip search embedded "two dogs on a beach"
        worldclip search embedded "zwei Hunde" --top 20 --html found.html
    """
    from worldclip.tools.contact_sheet import write_contact_sheet

    texts = [texts] if isinstance(texts, str) else list(texts)
    images = [images] if isinstance(images, str | Path) else list(images)
    problems = [] if texts or images else ["no query; give a text or an image"]
    problems += [f"query {text!r} is blank; give words" for text in texts if not text.strip()]
    if top < 1:
        problems.append(f"top = {top}: the number of results must be at least 1")
    if html is not None and Path(html).suffix not in (".html", ".htm"):
        problems.append(f"html = {str(html)!r}: must name a page to write, ending in .html")
    if problems:
        raise UserError(problems)
    embedded = open_embedded(folder, of)
    rank = open_ranking(embedded, exact=exact)
    clip = load_model(embedded, model, device)
    features = [clip.encode_text(texts)] if texts else []
    if images:
        features.append(clip.encode_image(images, allow_urls=allow_urls))
    ids, scores = rank(np.concatenate(features), top)
    names = [*texts, *(str(image) if isinstance(image, str | Path) else f"image {i}" for i, image in enumerate(images))]
    results = []
    for name, row_ids, row_scores in zip(names, ids, scores, strict=True):
        rows = zip(row_scores.tolist(), embedded.rows(row_ids), strict=True)
        results.append({"query": name, "hits": [{"score": score, **row} for score, row in rows]})
    if html is not None:
        pictures = dict(zip(names[len(texts) :], images, strict=True))
        write_contact_sheet(Path(html), results, embedded, pictures)
        say("search", f"contact sheet: {html}")
    return results


Ranking = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(query_QD, top) -> (ids, scores), as `nearest` returns them."""


def open_ranking(embedded: Embedded, *, exact: bool = False) -> Ranking:
    """Return how a folder is searched: by its index, or exactly.  Raises UserError for an index of older embeddings."""
    index = None if exact else _open_index(embedded)
    return partial(nearest, embedded.parts) if index is None else partial(_approximate, embedded, index)


def open_kinds(folder: str | Path, clip: Clip, name: str, remedy: str) -> dict[str, Embedded]:
    """Return what a folder holds, images first.  Raises UserError with `remedy` where another model embedded it."""
    kinds = open_embedded(folder).manifest["config"]["of"]
    opened = {of: open_embedded(folder, of) for of in ("images", "texts") if of in kinds}
    check_model(next(iter(opened.values())), clip, name, remedy)
    return {str(of): embedded for of, embedded in opened.items()}


def load_model(embedded: Embedded, model: str | Path | None = None, device: str = "auto") -> Clip:
    """Load the model that the manifest names.  Raises UserError where it has become another one."""
    record = embedded.manifest["config"]["model"]
    options = {name: record.get(name) for name in ("arch", "tokenizer", "precision", "language")}
    try:
        clip = model_load.load(model or record["source"], device, **options)
    except UserError as error:
        is_moved = model is None and not Path(record["source"]).exists()
        hint = [f"{embedded.folder} was embedded with it; if it moved, give its path as --model"] if is_moved else []
        raise UserError([*error.problems, *hint]) from error
    check_model(embedded, clip, str(model or record["source"]), "give that one as --model")
    return clip


def build_index(folder: str | Path, library: Library = "exact", of: Of | None = None) -> Report:
    """Choose how a folder is searched from now on; return a report.

    exact removes an index.  faiss builds DIR/index/<of>.faiss; the report has its recall_at_10, the share of the 10
    exactly nearest rows that it returns for a sample of the folder's own rows.

    folder: folder that `worldclip embed` wrote.
    library: exact: compare with every row, and remove an index; faiss: build a graph (HNSW; extra search).
    of: images or texts, in a folder with both.

    Examples:
        worldclip index embedded
        worldclip index embedded --of texts
    """
    embedded = open_embedded(folder, of)
    path = _index_path(embedded)
    report: Report = {"of": embedded.of, "library": library, "rows": len(embedded)}
    if library == "exact":
        for file in (path.with_suffix(".json"), path):  # the record first: it says that the index is there
            file.unlink(missing_ok=True)
        return report
    faiss = require("faiss", extra="search")
    index = faiss.IndexHNSWFlat(embedded.parts[0].shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_WIDTH
    for part in embedded.parts:
        for start in range(0, len(part), BLOCK_ROWS):
            index.add(np.ascontiguousarray(part[start : start + BLOCK_ROWS]))
    write_artifact(path, lambda aside: faiss.write_index(index, str(aside)))
    report["recall_at_10"] = _recall(embedded, index)
    write_json(path.with_suffix(".json"), {**report, "embedded": embedded.manifest["digest"]})
    return report


def _recall(embedded: Embedded, index: Any) -> float:
    """Return the mean share of the 10 nearest that the index returns too, for rows spread over the whole."""
    rows = np.unique(np.linspace(0, len(embedded) - 1, NUM_RECALL_QUERIES).astype(np.int64))
    query_QD = embedded.take(rows)
    exact, _ = nearest(embedded.parts, query_QD, 10)
    approximate, _ = _approximate(embedded, index, query_QD, 10)
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(exact, approximate, strict=True)]))


def _index_path(embedded: Embedded) -> Path:
    return embedded.folder / "index" / f"{embedded.of}.faiss"


def _open_index(embedded: Embedded) -> Any:
    """Return the index, None without one.  Raises UserError for one of an older embedding."""
    path = _index_path(embedded)
    if not path.with_suffix(".json").exists():
        return None
    if read_json(path.with_suffix(".json"))["embedded"] != embedded.manifest["digest"]:
        raise UserError(
            f"{path} is of an older embedding; build it again (worldclip index {embedded.folder} --library faiss), or "
            "search with --exact"
        )
    return require("faiss", extra="search").read_index(str(path))


def _approximate(embedded: Embedded, index: Any, query_QD: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `nearest` among the index's candidates; k is the smallest number of candidates of any query."""
    num_candidates = min(CANDIDATES * top, len(embedded))
    index.hnsw.efSearch = max(SEARCH_WIDTH, num_candidates)
    _, candidates = index.search(np.ascontiguousarray(query_QD), num_candidates)
    results = []
    for query, ids in zip(query_QD, candidates, strict=True):
        ids = np.sort(ids[ids >= 0])  # -1 fills up rows with fewer candidates; ties go by row as in `nearest`
        positions, scores = nearest([embedded.take(ids)], query[None], top)
        results.append((ids[positions[0]], scores[0]))
    k = min(len(ids) for ids, _ in results)
    return np.stack([ids[:k] for ids, _ in results]), np.stack([scores[:k] for _, scores in results])


def _index_text(report: Mapping[str, Any], flags: Flags) -> str:
    rows = f"{report['rows']:,} {report['of']} are searched"
    if flags.library == "exact":
        return f"{rows} exactly; for millions use --library faiss"
    return f"{rows} by faiss, which finds {report['recall_at_10']:.1%} of the 10 nearest for a sample of its own rows"


def _hits_text(results: Sequence[Mapping[str, Any]], flags: Flags) -> str:
    lines = []
    for result in results:
        lines.append(one_line(result["query"]))
        for hit in result["hits"]:
            text = f"  {one_line(hit['text'])}" if "text" in hit else ""
            lines.append(f"  {hit['score']:6.3f}  {one_line(hit['key'])}{text}  ({one_line(hit['shard'])})")
    return "\n".join(lines)


INDEX = Command(build_index, _index_text)
"""Choose how embeddings are searched: exactly, or by an index for millions."""

SEARCH = Command(search, _hits_text, positional=("texts",))
"""Find the nearest images or texts for texts in any language and for images."""
