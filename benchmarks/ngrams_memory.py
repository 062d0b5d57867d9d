"""Memory of counting n-grams: generated corpora with Zipf's frequencies, each counted in a process of its own.

    python benchmarks/ngrams_memory.py [--mb 200] [--large-mb 1500 5000] [--write]

--mb: a corpus counted with a small and with the default limit, which must agree; --large-mb: with the default alone.  A
whole Wikipedia is like 5000.  --write renews benchmarks/results/ngrams_memory.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from worldclip.language.segment import SPACES
from worldclip.metadata import ngrams

RESULTS = Path(__file__).parent / "results" / "ngrams_memory.md"


@njit(cache=True)
def _spell(ids, out):
    """Words of ids, in letters, a blank behind each and a line end behind every 20th; returns the bytes used."""
    n = 0
    for k in range(ids.size):
        c = ids[k]
        while True:
            out[n] = 97 + c % 26
            n += 1
            c //= 26
            if c == 0:
                break
        out[n] = 10 if k % 20 == 19 else 32
        n += 1
    return n


def write_corpus(path: Path, num_mb: int) -> None:
    """Parquet of generated articles of 20 kB."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("text", pa.large_string())])
    with pq.ParquetWriter(path, schema) as writer:
        size = 0
        while size < num_mb * 1e6:
            ids = rng.zipf(1.15, 1_000_000) % 5_000_000
            out = np.empty(8 * ids.size, np.uint8)
            text = out[: _spell(ids.astype(np.int64), out)].tobytes().decode()
            size += len(text)
            articles = [text[k : k + 20_000] for k in range(0, len(text), 20_000)]
            writer.write_table(pa.table({"text": pa.array(articles, pa.large_string())}, schema=schema))


def count_corpus(path: Path, max_slots: int) -> dict[str, Any]:
    """Count, merge and choose, as the stage does, in this process; its peak memory."""
    from worldclip.metadata.sources.dumps import read_articles

    started_at = time.process_time()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        batches = (batch.column("text") for batch in read_articles(path))
        runs = ngrams.count_to_file(Path(folder) / "runs", batches, SPACES, max_bigram_slots=max_slots)
        counted_s = time.process_time() - started_at
        counts = ngrams.merge(runs, Path(folder) / "merged")
        num_bigrams = sum(len(keys) for keys, _ in counts.iter_bigrams())
        best = ngrams.best_bigrams(counts, " ", limit=200_000, min_count=5)
        return {
            "runs": len(runs),
            "tokens": counts.num_tokens,
            "words": len(counts.words),
            "bigrams": num_bigrams,
            "best": [best[0], best[-1]],
            "counted_s": round(counted_s, 1),
            "total_s": round(time.process_time() - started_at, 1),
            "disk_mb": (Path(folder) / "runs").stat().st_size // 10**6,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


def measure_memory(num_mb: int, large_mb: Sequence[int]) -> list[str]:
    lines = [
        "| MB | slots of the table | runs | words | bigrams | counted, CPU s | all, CPU s | disk, MB | peak RSS, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    found = count_apart(num_mb, (2**20, ngrams.MAX_BIGRAM_SLOTS))
    for size in large_mb:
        found += count_apart(size, (ngrams.MAX_BIGRAM_SLOTS,))
    for answer in found:
        keys = ("mb", "slots", "runs", "words", "bigrams", "counted_s", "total_s", "disk_mb", "peak_mib")
        lines.append("| " + " | ".join(f"{answer[key]:,}" for key in keys) + " |")
    same = [[answer[key] for key in ("tokens", "words", "bigrams", "best")] for answer in found[:2]]
    assert same[0] == same[1], "counts hang on the limit"
    return [*lines, "", f"Tokens, words, bigrams and the chosen bigrams of {num_mb} MB are the same with both limits."]


def count_apart(num_mb: int, limits: Sequence[int]) -> list[dict[str, Any]]:
    """A corpus counted with each limit, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.parquet"
        write_corpus(path, num_mb)
        answers = []
        for max_slots in limits:
            command = [sys.executable, __file__, "--count", str(path), "--slots", str(max_slots)]
            answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            answers.append({"mb": num_mb, "slots": max_slots, **answer})
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--large-mb", type=int, nargs="*", default=[])
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slots", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        print(json.dumps(count_corpus(arguments.count, arguments.slots)))
        return
    lines = [
        "# N-grams, memory",
        "",
        f"`python benchmarks/ngrams_memory.py --write`, {date.today()}, {platform.machine()}, one of {os.cpu_count()}"
        f" cores, Python {platform.python_version()}, numba {version('numba')}, pyarrow {version('pyarrow')}."
        " Generated corpora, Zipf's frequencies; count, merge and choose in one process each.",
        "",
        *measure_memory(arguments.mb, arguments.large_mb),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
