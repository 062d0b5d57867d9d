"""`worldclip search DIR QUERY`: the nearest of what `worldclip embed` left in DIR; exact, or by a faiss index.

    found = worldclip.search.search("embeddings", ["一只猫"], top=20)

Exact search reads the memory-mapped embeddings block by block.  `worldclip index DIR --library faiss` builds a graph
(HNSW, arXiv:1603.09320) for millions; its candidates are scored exactly, so that only who is missed differs.

Q queries, N embedded images or texts, D embed_dim, k results a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from worldclip.core.artifacts import read_json, read_manifest, write_artifact, write_json
from worldclip.core.errors import UserError, require
from worldclip.core.execute import usable_cores
from worldclip.model.inference import Clip
from worldclip.model.load import load
from worldclip.tools.embed import Of, embed_sample_inputs

Library = Literal["exact", "faiss"]
BLOCK_BYTES = 64 * 2**20  # of scores that are held at once
BLOCK_ROWS = 65_536  # at most, of embeddings that are scored at once
FEW_QUERIES = 8  # up to which reading the rows takes longer than multiplying them
# HNSW: links a row, width of the search while building and while searching (at least)
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 200, 128
CANDIDATES = 4  # an index is asked for this many times as many rows, which are then scored exactly
NUM_PROBED = 100  # rows by which an index's recall is measured
MIN_PROBE_COSINE = 0.999  # of the same model on another device

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Embedded:
    """What embed left, memory-mapped: row i of the whole is row i - first[s] of shard s."""

    folder: Path
    of: Of
    manifest: dict[str, Any]
    shards: list[str]
    parts: list[np.ndarray]
    """(rows of the shard, D) float32 each."""
    first: np.ndarray
    """(num_shards + 1,) int64."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def take(self, ids: np.ndarray) -> np.ndarray:
        """(n, D) rows."""
        shard = np.searchsorted(self.first, ids, side="right") - 1
        found = np.empty((len(ids), self.parts[0].shape[1]), np.float32)
        for s in np.unique(shard):
            found[shard == s] = self.parts[s][ids[shard == s] - self.first[s]]
        return found

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """What the rows are: shard, key, and file, offset, size of an image, or text_idx, text."""
        found: dict[int, Row] = {}
        shard = np.searchsorted(self.first, ids, side="right") - 1
        for s in np.unique(shard):
            name = self.shards[s]
            table = pq.read_table(self.folder / self.of / f"{name}.parquet")
            wanted = [i for i, place in zip(ids, shard, strict=True) if place == s]
            of_shard = table.take([int(i - self.first[s]) for i in wanted]).to_pylist()
            found |= {int(i): {"shard": name, **row} for i, row in zip(wanted, of_shard, strict=True)}
        return [found[int(i)] for i in ids]


def open_embedded(folder: str | Path, of: Of | None = None) -> Embedded:
    """The images of a folder that embed wrote, or its texts where it holds no images.  Raises UserError."""
    folder = Path(folder)
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or "of" not in manifest["config"]:
        started = " was not finished: run its command again" if (folder / "done").is_dir() else " is none"
        raise UserError(f"{folder}{started}; give a folder that `worldclip embed MODEL POOL --out DIR` wrote")
    there = manifest["config"]["of"]
    of = of or there[0]
    if of not in there:
        raise UserError(f"{folder} holds no {of}; it holds {' and '.join(there)}: embed the pool with --of {of}")
    shards = sorted(manifest["inputs"][of])
    parts = [np.load(folder / of / f"{name}.npy", mmap_mode="r") for name in shards]
    first = np.cumsum([0, *(len(part) for part in parts)])
    return Embedded(folder, of, manifest, shards, parts, first)


def nearest(parts: Sequence[np.ndarray], query_QD: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The `top` rows of the largest products with each query, best first, equal ones by row; all where there are fewer.

    parts: (n, D) float32 each, memory-mapped or not; together N rows.  Returns (Q, k) int64 rows and float32 products.
    """
    is_few = len(query_QD) <= FEW_QUERIES
    size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * max(1, len(query_QD)))))
    starts = np.cumsum([0, *(len(part) for part in parts)])
    blocks = [
        (int(first) + start, part[start : start + size])
        for first, part in zip(starts, parts, strict=False)
        for start in range(0, len(part), size)
    ]
    best = [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in query_QD]
    with ThreadPoolExecutor(usable_cores() if is_few else 1) as threads:
        products = threads.map(lambda block: _products(query_QD, block[1], is_few), blocks)
        for (first, _), scores_QB in zip(blocks, products, strict=True):
            best = [_merge(found, first, scores, top) for found, scores in zip(best, scores_QB, strict=True)]
    ids, scores = zip(*best, strict=True)
    return np.stack(ids), np.stack(scores)


def _products(query_QD: np.ndarray, rows_BD: np.ndarray, is_few: bool) -> np.ndarray:
    """(Q, B).  A few queries run query by query, each block in a thread of its own: BLAS' threads would wait for each
    other at every block, which takes longer than to read it.
    """
    return np.stack([np.vecdot(rows_BD, query) for query in query_QD]) if is_few else query_QD @ rows_BD.T


def _merge(
    found: tuple[np.ndarray, np.ndarray], first: int, scores_B: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best of those found so far and of a block whose first row is `first`."""
    ids, scores = found
    if len(ids) == top:  # nothing below the worst of them comes in, and an equal one stands behind
        chosen = np.flatnonzero(scores_B > scores[-1])
    else:
        chosen = np.arange(len(scores_B))
    if len(chosen) > top:
        worst = np.partition(scores_B[chosen], -top)[-top]
        chosen = chosen[scores_B[chosen] >= worst]
    ids = np.concatenate([ids, first + chosen])
    scores = np.concatenate([scores, scores_B[chosen]])
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
) -> list[dict[str, Any]]:
    """For each text and then each image {"query", "hits"}: the `top` nearest, best first, each with its `score`
    (cosine), shard, key, and file, offset, size of an image, or text_idx, text.

    folder: what embed wrote.  exact: leave an index aside.  model: where the model is now, if it moved.  Raises
    UserError, also where the model is not the one that embedded the folder.
    """
    texts, images = ([given] if isinstance(given, str | Path) else list(given) for given in (texts, images))
    problems = [] if texts or images else ["there is nothing to search for; give a text or an image"]
    if top < 1:
        problems.append(f"top is {top}; it counts results and must be at least 1")
    if problems:
        raise UserError(problems)
    embedded = open_embedded(folder, of)
    index = None if exact else _open_index(embedded)
    clip = load_model(embedded, model, device)
    query_QD = np.concatenate(
        [clip.encode_text(texts)] * bool(texts) + [clip.encode_image(images, allow_urls=allow_urls)] * bool(images)
    )
    ids, scores = (
        nearest(embedded.parts, query_QD, top) if index is None else _approximate(embedded, index, query_QD, top)
    )
    names = [*texts, *(str(image) if isinstance(image, str | Path) else f"image {i}" for i, image in enumerate(images))]
    return [
        {
            "query": name,
            "hits": [{"score": float(s), **row} for s, row in zip(of_query, embedded.rows(rows), strict=True)],
        }
        for name, rows, of_query in zip(names, ids, scores, strict=True)
    ]


def load_model(embedded: Embedded, model: str | Path | None = None, device: str = "auto") -> Clip:
    """The model that the manifest names.  Raises UserError where it is another one by now."""
    known = embedded.manifest["config"]["model"]
    loading = {name: known.get(name) for name in ("arch", "tokenizer", "precision")}
    try:
        clip = load(model or known["source"], device, layout=known["layout"], **loading)
    except UserError as error:
        is_gone = model is None and not Path(known["source"]).exists()
        hint = [f"{embedded.folder} was made with it; --model says where it is now"] if is_gone else []
        raise UserError([*error.problems, *hint]) from error
    expected, found = np.load(embedded.folder / "probe.npy", allow_pickle=False), embed_sample_inputs(clip)
    if found.shape != expected.shape or (found * expected).sum(axis=1).min() < MIN_PROBE_COSINE:
        raise UserError(
            f"{model or known['source']} is not the model that {embedded.folder} was made with, or changed since; give "
            "that one as --model, or embed the pool again"
        )
    return clip


def build_index(folder: str | Path, library: Library = "exact", of: Of | None = None) -> dict[str, Any]:
    """How DIR is searched from now on; returns a report.  exact: an index is removed.  faiss: DIR/index/<of>.faiss.

    The report of an index says how many of the 10 nearest, exactly found, it gives for some of the folder's own rows.
    """
    embedded = open_embedded(folder, of)
    path = _index_path(embedded)
    report: dict[str, Any] = {"of": embedded.of, "library": library, "rows": len(embedded)}
    if library == "exact":
        for file in (path, path.with_suffix(".json")):
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
    """Mean share of the 10 nearest that the index finds too, of rows spread over the whole."""
    asked = embedded.take(np.unique(np.linspace(0, len(embedded) - 1, NUM_PROBED).astype(np.int64)))
    exact, found = nearest(embedded.parts, asked, 10)[0], _approximate(embedded, index, asked, 10)[0]
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(exact, found, strict=True)]))


def _index_path(embedded: Embedded) -> Path:
    return embedded.folder / "index" / f"{embedded.of}.faiss"


def _open_index(embedded: Embedded) -> Any:
    """None where there is none.  Raises UserError for one of an older embedding."""
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
    """As nearest, among the index's candidates; (Q, k) with k the fewest that it found for a query."""
    num = min(CANDIDATES * top, len(embedded))
    index.hnsw.efSearch = max(SEARCH_WIDTH, num)
    _, candidates = index.search(np.ascontiguousarray(query_QD), num)
    found = []
    for query, ids in zip(query_QD, candidates, strict=True):
        ids = np.sort(ids[ids >= 0])
        place, scores = nearest([embedded.take(ids)], query[None], top)
        found.append((ids[place[0]], scores[0]))
    k = min(len(ids) for ids, _ in found)
    return np.stack([ids[:k] for ids, _ in found]), np.stack([scores[:k] for _, scores in found])
