"""The memory and time of the process that maps the stages over a very large number of shards: no texts, no models.

    python benchmarks/many_shards.py --shards 1600000 [--folder EMPTY_FOLDER] [--write]

Every file of the pool is there, and so is every output and marker of every shard.  The work on a shard is replaced: it
links the outputs of one real shard and returns its report.  All else is the stages' own code: listing, fingerprints,
manifests, markers, reports, sums, sorted keys.  Each call runs in a process of its own.  Nothing waits for the disk (no
fsync).  Needs 24 kB of disk per shard.  --write renews benchmarks/results/many_shards.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.execute import LocalExecutor, Report, Shard, mark_done
from worldclip.core.execute.shards import ShardWork
from worldclip.core.job import Run
from worldclip.core.settings import to_toml
from worldclip.recipe import sections_of

RESULTS = Path(__file__).parent / "results" / "many_shards.md"
PER_FOLDER = 1000  # files
LINKS = 50_000  # of one file; ext4 allows 65,000
PARTS = 800  # of --shards I/N
ENTRIES = ("red", "house", "old", "tree", "on the mountain")
TEXTS = ("the old red house", "a green tree", "a red tree by the sea", "on the mountain")
CALLS = ("index", "index again", "match 1/800", "match", "balance", "curate 1/800", "curate", "curate again")


def write_pool_file(path: Path) -> None:
    """Write four pairs, whose keys are 128-bit hex."""
    keys = [hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for text in TEXTS]
    pq.write_table(pa.table({"uid": keys, "text": list(TEXTS), "lang": ["en"] * len(TEXTS)}), path)


def write_lists(run: Path) -> None:
    """Write RUN/metadata as its stage leaves it."""
    from worldclip.match.matcher.matcher import Matcher

    count = len(ENTRIES)
    columns = {"entry_id": range(count), "entry": list(ENTRIES), "source": ["list"] * count, "score": [1.0] * count}
    artifacts.write_table(layout.entries(run, "en"), pa.table(columns), schemas.METADATA)
    matcher = Matcher(list(ENTRIES), "unicode")
    matcher.save(layout.matcher(run, "en", "unicode"))
    digests = {"en": matcher.digest}
    artifacts.write_manifest(run / "metadata", config={}, inputs={}, counts={}, digests=digests, sources={})


def context_of(folder: Path, pool: Path, part: slice | None = None) -> Run:
    """Return the context of FOLDER/run over a pool."""
    recipe = load_recipe(
        {
            "pool": {"path": str(pool), "key": "uid", "texts": ["text"], "lang": "lang"},
            "languages": {"codes": ["en"]},
            "balance": {"tail_fraction": 0.06},
        }
    )
    run = folder / "run"
    artifacts.write_text(run / "recipe.toml", to_toml(recipe))
    return Run(dir=run, sections=sections_of(recipe), executor=LocalExecutor(quiet=True), part=part)


def run_stage(context: Run, name: str) -> None:
    from worldclip import balance, curate, match, pool

    stages = {"index": pool.index, "match": match.match, "balance": balance.balance, "curate": curate.curate}
    stages[name](context)


class Linked:
    """Outputs of the one real shard, under the names of any shard."""

    def __init__(self, model: Path) -> None:
        """model: folder whose `run` has the shard 000/000000.parquet."""
        self.run = model / "run"
        self.name = next((model / "pool").rglob("*.parquet")).relative_to(model / "pool").as_posix()
        self._copies: dict[Path, tuple[Path, int]] = {}

    def link(self, path_of: Callable[[Path, str], Path], run: Path, shard: Shard) -> None:
        """Link an output of a shard; every LINKS-th is a copy."""
        source, path = path_of(self.run, self.name), path_of(run, shard.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        copy, number = self._copies.get(source, (source, LINKS))
        if number < LINKS:
            os.link(copy, path)
        else:
            shutil.copyfile(source, path)
            copy, number = path, 0
        self._copies[source] = copy, number + 1

    def report(self, done_dir: Path) -> Report:
        report: Report = artifacts.read_json(layout.marker_in(done_dir, self.name))["report"]
        return report


def replace_work(linked: Linked, run: Path) -> list[float]:
    """Replace the work on a shard by links; return a list whose only item grows with the seconds of this work."""
    import worldclip.curate.stage as curate_stage
    import worldclip.match.stage as match_stage
    import worldclip.pool.stage as pool_stage

    seconds = [0.0]
    reports = {
        "index": linked.report(layout.done_dir(linked.run / "pool", "index")),
        "match": linked.report(layout.done_dir(linked.run / "match", "texts")),
        "count": linked.report(layout.done_dir(linked.run / "match", "counts")),
        "curate": linked.report(layout.done_dir(layout.curate_work(linked.run))),
    }

    def index_shard(config: object, folder: Path, shard: Shard) -> Report:
        linked.link(layout.pool_index, run, shard)
        return reports["index"]

    def match_shard(shard: Shard, *, work: object, counted_by: object) -> Report:
        linked.link(layout.match_texts, run, shard)
        linked.link(layout.match_counts, run, shard)
        mark_done(shard, reports["count"], layout.done_dir(run / "match", "counts"), counted_by)
        return reports["match"]

    def curate_shard(shard: Shard, *, work: object) -> Report:
        linked.link(layout.curated, run, shard)
        linked.link(layout.curated_counts, run, shard)
        return reports["curate"]

    pool_stage.index_shard = index_shard
    match_stage.match_shard = match_shard
    match_stage.is_compiled = lambda kernel: True
    curate_stage.curate_shard = curate_shard
    os.fsync = lambda file: None
    work_on = ShardWork.run

    def timed(work: ShardWork, shard: Shard) -> object:
        started_at = time.perf_counter()
        outcome = work_on(work, shard)
        seconds[0] += time.perf_counter() - started_at
        return outcome

    ShardWork.run = timed
    return seconds


def call(folder: Path, name: str) -> None:
    """Run one of CALLS in this process and print what it took as JSON."""
    stage, _, how = name.partition(" ")
    part = slice(0, None, PARTS) if how.startswith("1/") else None
    context = context_of(folder, folder / "pool", part)
    seconds = replace_work(Linked(folder / "model"), context.dir)
    before_mb = peak_mb()
    started_at = time.perf_counter()
    run_stage(context, stage)
    wall_s = time.perf_counter() - started_at
    row = {"own_s": wall_s - seconds[0], "work_s": seconds[0], "peak_mb": peak_mb(), "before_mb": before_mb}
    print(json.dumps(row))


def peak_mb() -> float:
    """Return the peak memory of this process; getrusage would count that of its parent too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def make(folder: Path, num_shards: int) -> None:
    """Write the pool, and the real run of one shard."""
    model = folder / "model"
    (model / "pool" / "000000").mkdir(parents=True)
    write_pool_file(model / "pool" / "000000" / "00000000.parquet")
    for run in (model / "run", folder / "run"):
        write_lists(run)
    context = context_of(model, model / "pool")
    for stage in ("index", "match", "balance", "curate"):
        run_stage(context, stage)
    content = (model / "pool" / "000000" / "00000000.parquet").read_bytes()
    for i in range(num_shards):
        path = folder / "pool" / f"{i // PER_FOLDER:06}" / f"{i:08}.parquet"
        if i % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(content)


def page(num_shards: int, rows: Sequence[dict]) -> str:
    lines = "\n".join(
        f"| {row['call']} | {row['own_s']:,.0f} s | {row['own_s'] / num_shards * 1e6:,.0f} us "
        f"| {row['peak_mb']:,.0f} MB | {(row['peak_mb'] - row['before_mb']) / num_shards * 1e6:,.0f} |"
        for row in rows
    )
    known = ", ".join(f"{name} {version}" for name, version in artifacts.versions(("numpy", "pyarrow")).items())
    return f"""# The process that maps, over {num_shards:,} shards

{date.today()}, {platform.machine()}, {os.cpu_count()} cores; {known}. Names, manifests, markers and reports of \
{num_shards:,} shards; the work on a shard is replaced by links to the outputs of one, and is not in these times. \
Local files without flushes, one process per call. Written by `benchmarks/many_shards.py`.

| call | time | per shard | peak memory | bytes per shard beyond the modules |
|---|---:|---:|---:|---:|
{lines}

`1/{PARTS}` is `--shards 1/{PARTS}`, before the whole stage; `again` is a call of a finished stage. The sums of counts \
and the sort of the keys are maps: their work on groups and ranges is left out, too.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="an empty or new folder, which is left (default: a temporary one)")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--call", choices=CALLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        call(options.folder, options.call)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        started_at = time.perf_counter()
        make(folder, options.shards)
        print(f"pool of {options.shards:,} files written in {time.perf_counter() - started_at:,.0f} s", flush=True)
        rows = []
        for name in CALLS:
            command = [sys.executable, __file__, "--folder", str(folder), "--call", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append({"call": name, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    text = page(options.shards, rows)
    print(text)
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
