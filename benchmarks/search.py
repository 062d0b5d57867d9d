"""Search in embeddings: exact, against faiss' own exact index; the graph for millions: time, and what it misses.

    python benchmarks/search.py [--rows 500000] [--write]      --write renews benchmarks/results/search.md

Rows are made: points near a random surface of 24 dimensions in 512, of unit length, in shards as `worldclip embed`
writes them.  Queries are other points near it.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from worldclip.core.artifacts import write_manifest
from worldclip.tools.search import _approximate, _open_index, build_index, nearest, open_embedded

WIDTH, SURFACE, NOISE = 512, 24, 0.02
SHARD_ROWS = 10_000
RESULTS = Path(__file__).parent / "results" / "search.md"


def make_rows(random: np.random.Generator, directions: np.ndarray, num: int) -> np.ndarray:
    rows = np.tanh(random.standard_normal((num, SURFACE), np.float32) @ directions)
    rows += NOISE * random.standard_normal((num, WIDTH), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_folder(folder: Path, random: np.random.Generator, directions: np.ndarray, num_rows: int) -> None:
    names = [f"{number:05}.tar" for number in range(-(-num_rows // SHARD_ROWS))]
    (folder / "images").mkdir()
    for number, name in enumerate(names):
        num = min(SHARD_ROWS, num_rows - number * SHARD_ROWS)
        np.save(folder / "images" / f"{name}.npy", make_rows(random, directions, num))
    inputs = {"images": {name: {} for name in names}}
    write_manifest(folder, config={"of": ["images"]}, inputs=inputs, counts={"images": num_rows})


def best_s(call: Callable[[], Any], times: int = 7) -> float:
    """Whatever disturbs a call makes it slower."""
    taken = []
    for _ in range(times):
        started_at = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started_at)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--graph-rows", type=int, default=50_000)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    directions = random.standard_normal((SURFACE, WIDTH), np.float32) / SURFACE**0.5
    queries = make_rows(random, directions, 100)
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as part:
        make_folder(Path(whole), random, directions, arguments.rows)
        make_folder(Path(part), random, directions, arguments.graph_rows)
        exact = measure_exact(Path(whole), queries, arguments.rows)
        graph = measure_graph(Path(part), queries, arguments.graph_rows)
    report(exact, graph, arguments)


def measure_exact(folder: Path, queries: np.ndarray, num_rows: int) -> list[str]:
    embedded = open_embedded(folder)
    nearest(embedded.parts, queries[:1], 20)  # the files are in memory now
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = {num: best_s(lambda num=num: nearest(embedded.parts, queries[:num], 20)) for num in (1, 4, 16)}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    flat = faiss.IndexFlatIP(WIDTH)
    for one in embedded.parts:
        flat.add(np.ascontiguousarray(one))
    theirs = {num: best_s(lambda num=num: flat.search(queries[:num], 20)) for num in (1, 4, 16)}
    same = np.mean([np.isin(a, b).mean() for a, b in zip(nearest(embedded.parts, queries[:16], 20)[0],
                                                         flat.search(queries[:16], 20)[1], strict=True)])  # fmt: skip
    return [
        f"| {num_rows:,}, exact | {num} | {1000 * ours[num]:,.0f} ms | {1000 * theirs[num]:,.0f} ms | "
        f"{theirs[num] / ours[num]:.2f} | {same:.1%} | {grown:.0f} MiB |"
        for num in (1, 4, 16)
    ]


def measure_graph(folder: Path, queries: np.ndarray, num_rows: int) -> list[str]:
    embedded = open_embedded(folder)
    exact_s = best_s(lambda: nearest(embedded.parts, queries[:1], 20))
    started_at = time.perf_counter()
    found = build_index(folder, "faiss")
    built_s = time.perf_counter() - started_at
    index = _open_index(embedded)
    graph_s = best_s(lambda: _approximate(embedded, index, queries[:1], 20))
    ids, exact = _approximate(embedded, index, queries, 20)[0], nearest(embedded.parts, queries, 20)[0]
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact, ids, strict=True)])
    size = (folder / "index" / "images.faiss").stat().st_size / 2**20
    return [
        "| rows | built in | size | one query | exactly | of the 20 nearest found | told when built |",
        "|---:|---:|---:|---:|---:|---:|---:|",
        f"| {num_rows:,} | {built_s:.0f} s | {size:.0f} MiB | {1000 * graph_s:.1f} ms | {1000 * exact_s:.0f} ms | "
        f"{recall:.1%} | {found['recall_at_10']:.1%} |",
    ]


def report(exact: list[str], graph: list[str], arguments: argparse.Namespace) -> None:
    lines = [
        "# Search",
        "",
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores; numpy {np.__version__}, faiss "
        f"{faiss.__version__}. Made rows of {WIDTH} dimensions, in shards of {SHARD_ROWS:,}; 20 results a query; "
        "the best of 7 calls. Written by `benchmarks/search.py`.",
        "",
        "## Exact, from memory-mapped shards, against faiss.IndexFlatIP in memory",
        "",
        "| rows | queries at a time | worldclip | faiss | ratio | same results | memory beside the rows |",
        "|---:|---:|---:|---:|---:|---:|---:|",
        *exact,
        "",
        "## The graph (HNSW)",
        "",
        *graph,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
