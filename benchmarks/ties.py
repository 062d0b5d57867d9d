"""Evaluation: what it costs to score equal candidates once, beside scoring and comparing every candidate.

    python benchmarks/ties.py [--write]     --write renews benchmarks/results/ties.md

Both ways run in turns in one process on made-up features: `ranks` of `worldclip.evaluate.ranking`, and the plain way
that scores each candidate and compares whole blocks of scores (plain_ranks).  The second table shows why equal
candidates are scored once: how many queries with a duplicate of their right candidate do not tie when every candidate
is scored, under each kernel of OpenBLAS.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np

from worldclip.evaluate import ranking

ROUNDS = 5
CASES = (  # title, queries, candidates, share of candidates that repeat another one, dimensions
    ("zero-shot: 5,000 images, 1,000 classes", 5_000, 1_000, 0.0, 512),
    ("a small language: 300 images, 100 classes", 300, 100, 0.0, 512),
    ("equal labels: 5,000 images, 1,000 classes, 10% of them repeated", 5_000, 1_000, 0.1, 512),
    ("retrieval: 5,000 images, 25,000 captions", 5_000, 25_000, 0.0, 1_024),
    ("retrieval: 5,000 images, 25,000 captions, half of them repeated", 5_000, 25_000, 0.5, 1_024),
)
UNTIED = """
import sys, numpy as np
from unittest import mock
from worldclip.evaluate import ranking
from ties import every_row, features
untied = total = 0
for num_candidates in range(60, 200, 7):
    random = np.random.default_rng(num_candidates)
    candidates = features(num_candidates, 768)
    source, copy = random.permutation(num_candidates)[: num_candidates // 2 * 2].reshape(2, -1)
    candidates[copy] = candidates[source]
    queries = candidates[source] + 0.1 * features(len(source), 768)
    with mock.patch.object(ranking, "distinct_rows", every_row):
        ranks = ranking.ranks(queries, candidates, np.arange(len(source)), source)
    untied += int((ranks == 0).sum())
    total += len(source)
print(untied, total)
"""


def features(num: int, dim: int) -> np.ndarray:
    """Return (num, dim) float32 random features of unit length."""
    rows = np.random.default_rng(num).standard_normal((num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def every_row(features_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take each row as distinct."""
    return np.arange(len(features_CD)), np.arange(len(features_CD))


def plain_ranks(queries: np.ndarray, candidates: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the ranks of one right candidate per query, in blocks of ranking.BLOCK_BYTES."""
    num_rows = max(1, ranking.BLOCK_BYTES // (4 * len(candidates)))
    found = []
    for start in range(0, len(queries), num_rows):
        scores = queries[start : start + num_rows] @ candidates.T
        is_right = np.zeros(scores.shape, bool)
        is_right[np.arange(len(scores)), right[start : start + num_rows]] = True
        best = np.where(is_right & ~np.isnan(scores), scores, -np.inf).max(axis=1, initial=-np.inf)
        is_after = (scores < best[:, None]) | is_right
        found.append((~is_after).sum(axis=1))
    return np.concatenate(found)


def seconds(queries: np.ndarray, candidates: np.ndarray) -> tuple[float, float]:
    """Return the least processor seconds of `ranks` and of the plain way."""
    query = np.arange(len(queries))
    right = query % len(candidates)
    ways = (lambda: ranking.ranks(queries, candidates, query, right), lambda: plain_ranks(queries, candidates, right))
    best = [np.inf, np.inf]
    for _ in range(ROUNDS):
        for i, way in enumerate(ways):
            started = time.process_time()
            way()
            best[i] = min(best[i], time.process_time() - started)
    return best[0], best[1]


def cost_lines() -> list[str]:
    lines = ["| task | ranks, s | the plain way, s | ratio |", "|---|---:|---:|---:|"]
    for title, num_queries, num_candidates, share, dim in CASES:
        candidates = features(num_candidates, dim)
        num_repeated = int(share * num_candidates)
        candidates[num_candidates - num_repeated :] = candidates[:num_repeated]
        distinct_s, every_s = seconds(features(num_queries, dim), candidates)
        lines.append(f"| {title} | {distinct_s:.3f} | {every_s:.3f} | {distinct_s / every_s:.2f} |")
    return lines


def untied_lines() -> list[str]:
    lines = ["| OPENBLAS_CORETYPE | queries that do not tie | of |", "|---|---:|---:|"]
    for core in ("Prescott", "Haswell", "SkylakeX"):
        env = os.environ | {"OPENBLAS_CORETYPE": core}
        folder = Path(__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", UNTIED], env=env, cwd=folder, capture_output=True, text=True, check=True
        )
        untied, total = done.stdout.split()
        lines.append(f"| {core} | {int(untied):,} | {int(total):,} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), "?")
    machine = f"{cpu} ({platform.machine()}), {os.cpu_count()} cores, shared with other work"
    lines = ["# Equal candidates are scored once", ""]
    lines += [f"{date.today()}; {machine}; Python {platform.python_version()}, numpy {np.__version__}.", ""]
    lines += [f"Processor seconds, the least of {ROUNDS} in turns; float32 features.", "", *cost_lines(), ""]
    lines += ["Queries with a duplicate of their right candidate, each candidate scored on its own:", ""]
    lines += untied_lines()
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        (Path(__file__).parent / "results" / "ties.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
