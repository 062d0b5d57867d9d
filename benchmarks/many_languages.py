"""Hundreds of languages in one run: lists, matchers, thresholds, report and evaluation.

    python benchmarks/many_languages.py [--write]     --write renews benchmarks/results/many_languages.md

A synthetic pool that states its languages, in every language of the table; each has words of its own in letters of its
own, and a list of them.  The stages up to curate run in a process each: time, peak of resident memory, open files and
mapped matchers, what they leave on disk, size of the report.  Then an evaluation with made-up features: texts of 200
languages among 4,000 names each, three data sets over the same names, names that languages share.
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
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from match import describe_processor

from worldclip import balance, curate, match, metadata, pool
from worldclip.config import load_recipe
from worldclip.core.artifacts import digest, versions, write_text
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.core.settings import to_toml
from worldclip.evaluate import engine
from worldclip.evaluate.tasks import Classification, Dataset
from worldclip.language import table as languages
from worldclip.recipe import sections_of
from worldclip.report import write_report

RESULTS = Path(__file__).parent / "results" / "many_languages.md"
STAGES = {
    "pool": pool.index,
    "metadata": metadata.build,
    "match": match.match,
    "balance": balance.balance,
    "curate": curate.curate,
}
TEXTS, ENTRIES, SHARDS = 300, 3_000, 20  # per language, per list, of the pool
WORDS_PER_TEXT = 6
NUM_LANGUAGES, NAMES, SHARED, DIM = 200, 4_000, 400, 128  # of the evaluation; names that all languages share
IMAGES = {"a": 250, "b": 1_800, "c": 250}


def write_world(folder: Path, codes: Sequence[str]) -> None:
    """Write lists, Parquet shards and recipe.toml of a run."""
    random = np.random.default_rng(0)
    columns: dict[str, list[str]] = {"text": [], "lang": []}
    lists = {}
    for code in codes:
        words = [f"{code.replace('_', '')}{n:x}" for n in range(ENTRIES)]
        path = folder / "lists" / f"{code}.txt"
        write_text(path, "".join(f"{word}\n" for word in words))
        lists[code] = str(path)
        ranks = np.minimum(random.zipf(1.2, (TEXTS, WORDS_PER_TEXT)), ENTRIES) - 1
        columns["text"] += [" ".join(words[rank] for rank in row) for row in ranks]
        columns["lang"] += [code] * TEXTS
    table = pa.table({"uid": [f"{n:032x}" for n in range(len(codes) * TEXTS)], **columns})
    table = table.take(random.permutation(len(table)))
    (folder / "pool").mkdir(parents=True)
    for shard in range(SHARDS):
        rows = table.slice(shard * len(table) // SHARDS, len(table) // SHARDS)
        pq.write_table(rows, folder / "pool" / f"{shard:05}.parquet", compression="zstd")
    recipe = {
        "pool": {"path": str(folder / "pool"), "key": "uid", "texts": ["text"], "lang": "lang"},
        "languages": {"codes": list(codes)},
        "metadata": {"sources": ["number", "list", "pool"], "lists": lists, "pool_min_count": 2},
        "balance": {"tail_fraction": 0.1},
    }
    write_text(folder / "run" / "recipe.toml", to_toml(sections_of(load_recipe(recipe))))


class Watch(threading.Thread):
    """Counts this process's open files and mapped matchers, ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = [0, 0]
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.1):
            num_open = len(os.listdir("/proc/self/fd"))
            num_mapped = Path("/proc/self/maps").read_text().count(".matcher/")
            self.most = [max(self.most[0], num_open), max(self.most[1], num_mapped)]


def run_stage(name: str, run_dir: Path) -> None:
    """Run a stage in this process; print wall and CPU seconds, peak bytes, open files, mapped matchers."""
    sections = sections_of(load_recipe(run_dir))
    context = Run(dir=run_dir, sections=sections, executor=LocalExecutor(workers=1, quiet=True))
    watch = Watch()
    watch.start()
    started_at, cpu_at = time.perf_counter(), time.process_time()
    STAGES[name](context)
    seconds = [time.perf_counter() - started_at, time.process_time() - cpu_at]
    watch.is_over.set()
    watch.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([*seconds, peak, *watch.most]))


def measure_stages(folder: Path, num_languages: int) -> tuple[list[list[object]], int, float]:
    """Return (rows of the table, bytes of the report, seconds to write it)."""
    codes = sorted(languages.by_code())[:num_languages]
    write_world(folder, codes)
    run_dir, rows = folder / "run", []
    for name in STAGES:
        command = [sys.executable, __file__, "--stage", name, "--run", str(run_dir)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        wall, cpu, peak, num_open, num_mapped = json.loads(output.splitlines()[-1])
        files = [path for path in (run_dir / name).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        row = [f"{wall:.1f}", f"{cpu:.1f}", f"{peak / 2**20:.0f}", num_open, num_mapped, f"{len(files):,}"]
        rows.append([name, *row, f"{size / 2**20:.1f}"])
    started_at = time.perf_counter()
    page = write_report(run_dir)
    return rows, page.stat().st_size, time.perf_counter() - started_at


class MadeUpModel:
    """Random features, and a count of texts."""

    def __init__(self) -> None:
        self.num_texts = 0

    def encode_each(self, images: Sequence[bytes]) -> tuple[np.ndarray, dict[int, str]]:
        return np.random.default_rng(len(images)).standard_normal((len(images), DIM)).astype(np.float32), {}

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        self.num_texts += len(texts)
        return np.random.default_rng(len(texts[0])).standard_normal((len(texts), DIM)).astype(np.float32)


def made_up_set(name: str, num_images: int, codes: Sequence[str]) -> Dataset:
    random = np.random.default_rng(num_images)
    target = random.integers(0, NAMES, num_images)

    def tasks(lang: str) -> list[Classification]:
        names = [[f"shared {n}" if n < SHARED else f"{lang} {n}"] for n in range(NAMES)]
        return [Classification(class_names=names, target=target, image_idx=np.arange(num_images))]

    return Dataset(
        name=name,
        digest=digest([name, num_images, list(codes)]),
        image_keys=[f"{name}{n}" for n in range(num_images)],
        read_images=lambda start, stop: [b"x"] * (stop - start),
        languages=tuple(codes),
        tasks=tasks,
    )


def run_evaluation(folder: Path) -> None:
    """Evaluate in this process; print seconds, texts encoded, distinct texts, peak bytes."""
    codes = sorted(languages.by_code())[:NUM_LANGUAGES]
    sets = [made_up_set(name, number, codes) for name, number in IMAGES.items()]
    model = MadeUpModel()
    started_at, cpu_at = time.perf_counter(), time.process_time()
    engine.evaluate(model, {"model": "made up", "model_digest": "0"}, sets, [], folder / "results.jsonl")
    seconds = [time.perf_counter() - started_at, time.process_time() - cpu_at]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([*seconds, model.num_texts, NUM_LANGUAGES * (NAMES - SHARED) + SHARED, peak]))


def measure_evaluation(folder: Path) -> list[str]:
    command = [sys.executable, __file__, "--stage", "evaluate", "--run", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wall, cpu, num_texts, num_distinct, peak = json.loads(output.splitlines()[-1])
    num_records = NUM_LANGUAGES * len(IMAGES)
    return [f"{wall:.1f}", f"{cpu:.1f}", f"{num_texts:,}", f"{num_distinct:,}", f"{1e3 * cpu / num_records:.0f}",
            f"{peak / 2**20:.0f}"]  # fmt: skip


def table_of(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def page(stages: Sequence[Sequence[object]], report: tuple[int, float], evaluation: Sequence[str], num: int) -> str:
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    head = ["stage", "wall, s", "CPU, s", "peak MiB", "open files", "mapped matchers", "files", "MiB on disk"]
    columns = ["wall, s", "CPU, s", "texts encoded", "distinct texts", "ms per record", "peak MiB"]
    return f"""# Hundreds of languages in one run

{date.today()}, {describe_processor()}, {platform.machine()}, one worker on a core shared with other work; {known}. \
Written by `benchmarks/many_languages.py`.

{num} languages with {TEXTS:,} texts and a list of {ENTRIES:,} entries each, beside entries of the source `pool`; \
{num * TEXTS:,} texts in {SHARDS} Parquet shards. One process per stage; loading of compiled code included.

{table_of(head, stages)}

`report.html` of the run: {report[0] / 2**20:.1f} MiB, written in {report[1]:.1f} s.

Evaluation of {len(IMAGES)} data sets ({", ".join(f"{number:,}" for number in IMAGES.values())} images) in \
{NUM_LANGUAGES} languages with {NAMES:,} names each, {SHARED} of them in all languages; made-up features of {DIM} \
dimensions, so the time is the engine's own: tasks, scores, ranks, records.

{table_of(columns, [evaluation])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--languages", type=int, default=len(languages.by_code()))
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage == "evaluate":
        run_evaluation(arguments.run)
        return
    if arguments.stage:
        run_stage(arguments.stage, arguments.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        evaluation = measure_evaluation(Path(folder) / "evaluate")
        stages, num_bytes, seconds = measure_stages(Path(folder), arguments.languages)
    text = page(stages, (num_bytes, seconds), evaluation, arguments.languages)
    if arguments.write:
        write_text(RESULTS, text)
    print(text)


if __name__ == "__main__":
    main()
