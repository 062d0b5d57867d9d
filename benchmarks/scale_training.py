"""What each rank does before the first step, and for a restart and a bad image: counted small, extrapolated to 384.

    python benchmarks/scale_training.py [--write]      --write renews benchmarks/results/scale_training.md

Before: every rank lists the pool and counts the kept pairs of all shards in one thread, a resume opens a checkpoint's
files again for each tensor, a bad image is replaced from the whole epoch.  After: the code as it is.  Both call the
real functions of worldclip.train and worldclip.pool on made-up pools of several sizes; files are opened through a layer
that counts opens, reads and bytes.  The ranks of a small run are threads.  One shard of the plan's size gives its bytes
and seconds.  What is said of the plan is the law that the small runs show, times these: an extrapolation.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import shutil
import statistics
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import torch
from head import make_head

from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts, inputs
from worldclip.core.execute import Shard
from worldclip.core.job import Run
from worldclip.core.settings import to_toml
from worldclip.curate.stage import CurateWork, curate_work
from worldclip.pool.config import PoolConfig
from worldclip.pool.listing import list_shards
from worldclip.recipe import sections_of
from worldclip.train import plan
from worldclip.train.checkpoint import CheckpointReader
from worldclip.train.distributed import World
from worldclip.train.pairs import PAIRS, PairSource

RESULTS = Path(__file__).parent / "results" / "scale_training.md"
PLAN_RANKS, PLAN_SHARDS, PLAN_PAIRS = 384, 400_000, 62_500  # 25 billion matched texts
PLAN_WINDOW = 64  # train.shuffle_shards
PLAN_TENSORS = 3 * 900  # of ViT-H/14: weights and two moments
SIZES = ((48, 2), (48, 8), (96, 8), (96, 24), (192, 24))  # shards, ranks
SMALL_PAIRS = 20
IDS_PER_TEXT = 21  # entries that match a caption (docs/scale.md)
NUM_ENTRIES = 40_000
ENTRY_PROB = 0.0325  # keeps half of the texts, as docs/scale.md plans
WINDOW = 4  # shards, of the small runs
TENSORS, FILES = 24, 6
STATS_PER_SHARD, STATS_OF_LISTING = 3, 2  # stat calls: the run asserts them


_lock = threading.Lock()


@dataclass
class Counts:
    """What was done to files."""

    stats: int = 0
    opens: int = 0
    reads: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    def add(self, **numbers: int) -> None:
        """Add to some of them; ranks are threads."""
        with _lock:
            for name, number in numbers.items():
                setattr(self, name, getattr(self, name) + number)

    def per(self, ranks: int) -> Counts:
        """Return the mean of so many ranks."""
        return Counts(*(value / ranks for value in vars(self).values()))


class CountedFile(io.FileIO):
    """A file whose opening and reads are counted."""

    def __init__(self, path: str | Path, counts: Counts) -> None:
        super().__init__(path, "rb")
        self._counts = counts
        counts.add(opens=1)

    def read(self, size: int | None = -1) -> bytes:
        """Read and count."""
        content = super().read(-1 if size is None else size) or b""
        self._counts.add(reads=1, num_bytes=len(content))
        return content


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what is done to files inside: stat calls, opens, reads and bytes of Parquet, arrays and checkpoints."""
    counts = Counts()
    stat, parquet_file, load, safe_open = os.stat, pq.ParquetFile, np.load, safetensors.safe_open

    def counted_stat(*arguments: Any, **options: Any) -> os.stat_result:
        counts.add(stats=1)
        return stat(*arguments, **options)

    def counted_load(path: Path, **options: Any) -> Any:
        with CountedFile(path, counts) as file:
            return load(io.BytesIO(file.read()), **options)

    def counted_safe_open(*arguments: Any, **options: Any) -> Any:
        counts.add(opens=1)
        return safe_open(*arguments, **options)

    started_at = time.perf_counter()
    with (
        mock.patch.object(os, "stat", counted_stat),
        mock.patch.object(artifacts.pq, "ParquetFile", lambda path: parquet_file(CountedFile(path, counts))),
        mock.patch.object(np, "load", counted_load),
        mock.patch.object(safetensors, "safe_open", counted_safe_open),
        mock.patch.object(artifacts, "HASHED_BELOW_BYTES", 0),  # tars of 62,500 images are never hashed
    ):
        yield counts
    counts.seconds = time.perf_counter() - started_at


# the made-up pool


def make_run(folder: Path, num_shards: int, num_pairs: int) -> tuple[list[Shard], CurateWork]:
    """Write a matched run of empty tars: the pool's index, matched texts, probabilities; return shards and decision."""
    pool_dir, run_dir = folder / "pool", folder / "run"
    pool_dir.mkdir(parents=True)
    recipe = load_recipe({"pool": {"path": str(pool_dir)}, "balance": {"tail_fraction": 0.06}})
    artifacts.write_text(run_dir / "recipe.toml", to_toml(recipe))
    artifacts.write_array(run_dir / "balance" / "en.npy", np.full(NUM_ENTRIES, ENTRY_PROB, np.float32))
    for stage in ("match", "balance"):
        artifacts.write_manifest(run_dir / stage, config={}, inputs={}, counts={})
    for number in range(num_shards):
        name = f"{number:06}.tar"
        (pool_dir / name).touch()
        write_shard(run_dir, name, number, num_pairs)
    work = replace(curate_work(Run(dir=run_dir, sections=sections_of(recipe))), is_mapped=False)  # as training has it
    work.entry_probs("en")  # read once per process, whatever the shards
    with mock.patch.object(artifacts, "HASHED_BELOW_BYTES", 0):
        return list_shards(PoolConfig(path=str(pool_dir))), work


def write_shard(run_dir: Path, name: str, number: int, num_pairs: int) -> None:
    generator = np.random.default_rng(number)
    keys = [f"{number:06}{pair:06}" for pair in range(num_pairs)]
    letters = generator.integers(97, 123, (num_pairs, 62)).astype(np.uint8)
    ids = np.sort(generator.integers(0, NUM_ENTRIES, (num_pairs, IDS_PER_TEXT)).astype(np.int32), axis=1)
    lists = pa.LargeListArray.from_arrays(np.arange(0, ids.size + 1, IDS_PER_TEXT), ids.reshape(-1))
    pairs = {
        "key": keys,
        "row": np.arange(num_pairs),
        "text_idx": np.zeros(num_pairs, np.int32),
        "place": np.zeros(num_pairs, np.int16),
        "text": [row.tobytes().decode() for row in letters],
        "lang": pa.nulls(num_pairs, pa.string()),
        "reason": ["kept"] * num_pairs,
        "detail": pa.nulls(num_pairs, pa.string()),
    }
    artifacts.write_table(run_dir / "pool" / "pairs" / f"{name}.parquet", pa.table(pairs), schemas.POOL_PAIRS)
    texts = {
        "row": np.arange(num_pairs),
        "lang": ["en"] * num_pairs,
        "lang_prob": np.ones(num_pairs, np.float32),
        "entries_lang": ["en"] * num_pairs,
        "entry_ids": lists,
    }
    artifacts.write_table(run_dir / "match" / "texts" / f"{name}.parquet", pa.table(texts), schemas.MATCH_TEXTS)
    places = {"key": keys, "row": np.arange(num_pairs), "member": [f"{key}.jpg" for key in keys]}
    places |= {"offset": np.arange(num_pairs) * 30_000, "size": np.full(num_pairs, 30_000)}
    artifacts.write_table(run_dir / "pool" / "images" / f"{name}.parquet", pa.table(places), schemas.POOL_IMAGES)


def write_checkpoint(folder: Path) -> Path:
    """Write the shards of TENSORS tensors of FILES ranks, and their index."""
    shards = folder / "trainer" / "shards"
    shards.mkdir(parents=True)
    names = [f"weights.t{i}" for i in range(TENSORS)]
    pieces: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for rank in range(FILES):
        file = f"{rank:05}_of_{FILES:05}.safetensors"
        safetensors.torch.save_file({name: torch.full((2, 4), float(rank)) for name in names}, shards / file)
        for name in names:
            pieces[name].append({"file": file, "first_row": 2 * rank, "num_rows": 2})
    index = {name: {"shape": [2 * FILES, 4], "pieces": pieces[name]} for name in names}
    artifacts.write_json(shards / "index.json", index)
    artifacts.write_json(folder / "trainer" / "state.json", {"updates": 0, "step": 1})
    return folder


# before and after, each of the real functions


def list_on_each_rank(shards: Sequence[Shard]) -> Counts:
    """Return what one rank does."""
    pool_dir = str(Path(shards[0].path).parent)
    inputs._fingerprint_local.cache_clear()  # of an earlier listing
    with counting() as counts:
        list_shards(PoolConfig(path=pool_dir))
    return counts


def count_on_each_rank(run_dir: Path, shards: Sequence[Shard], work: CurateWork) -> Counts:
    """Read all shards in one thread, as every rank did for the first epoch and at each restart."""
    source = PairSource(run_dir, shards, None, 2 * WINDOW, work)
    with counting() as counts:
        sizes = [len(source._read(shard, 0)[0]) for shard in range(len(shards))]
    assert sum(sizes) > 0
    return counts


def count_together(run_dir: Path, shards: Sequence[Shard], work: CurateWork, ranks: int, folder: Path) -> Counts:
    """Return what one rank does in the mean, where all count their share: files of the shards, and the numbers."""
    sources = [PairSource(run_dir, shards, None, 2 * WINDOW, work, World(rank, ranks), folder) for rank in range(ranks)]
    with counting() as counts, ThreadPoolExecutor(ranks) as threads:
        totals = set(threads.map(lambda source: int(source.counts(0)[PAIRS].sum()), sources))
    assert len(totals) == 1
    return counts.per(ranks)


def open_checkpoint(folder: Path, keeps_handles: bool) -> Counts:
    """Read all tensors of a sharded checkpoint."""
    reader = CheckpointReader(folder)
    forget = reader._opened.clear
    plain = reader._open

    def open_again(file: str) -> Any:
        forget()
        return plain(file)

    with counting() as counts, mock.patch.object(reader, "_open", plain if keeps_handles else open_again):
        for name in reader.tensors:
            reader.read(name)
    return counts


def replace_one(run_dir: Path, shards: Sequence[Shard], work: CurateWork, is_near: bool) -> int:
    """Return the shards read to replace an image in the first window, whose pairs are read already."""
    source = PairSource(run_dir, shards, None, 0, work)
    order = plan.Windows(source, [shard.name for shard in shards], 0, WINDOW)
    order.pairs_at(0, np.array([0]))
    read: list[int] = []
    plain = source.read_shard

    def noted(shard: int, epoch: int) -> Any:
        read.append(shard)
        return plain(shard, epoch)

    with mock.patch.object(source, "read_shard", noted):
        if is_near:
            near = order.neighbours(0, 0)
            near.take(np.array([plan.replacement(0, 1, len(near), 0, 0)]))
        else:
            order.pairs_at(0, np.array([order.length(0) - 1]))  # of another window, as nearly all draws are
    order._background.shutdown()
    return len(read)


# measured


@dataclass(frozen=True)
class Small:
    """One small run."""

    shards: int
    ranks: int
    listing: Counts
    before: Counts
    after: Counts
    restart: Counts


def measure_small(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Small]:
    rows = []
    for num_shards, ranks in sizes:
        place = folder / f"{num_shards}_{ranks}"
        shards, work = make_run(place, num_shards, SMALL_PAIRS)
        run_dir, epochs = place / "run", place / "epochs"
        before = count_on_each_rank(run_dir, shards, work)
        after, restart = (count_together(run_dir, shards, work, ranks, epochs) for _ in range(2))
        rows.append(Small(num_shards, ranks, list_on_each_rank(shards), before, after, restart))
    return rows


@dataclass(frozen=True)
class OneShard:
    """A shard of the plan's size: read whole, and counted; bytes of memory for its name on each rank."""

    whole: Counts
    counted: Counts
    kept: int
    text_bytes: float
    memory: float
    pickled: float


def measure_shard(folder: Path, num_pairs: int, rounds: int) -> OneShard:
    shards, work = make_run(folder, 1, num_pairs)
    source = PairSource(folder / "run", shards, None, 0, work)
    source._all_fit = False  # as in a pool of more shards than are kept in memory
    actions: list[Callable[[], Any]] = [lambda: source._read(0, 0), lambda: source.count_shard(0, 0)]
    measured: list[list[Counts]] = [[], []]
    for _ in range(rounds):
        for action, results in zip(actions, measured, strict=True):
            with counting() as counts:
                action()
            results.append(counts)
    whole, counted = (
        Counts(*(statistics.median(values) for values in zip(*(vars(one).values() for one in results), strict=True)))
        for results in measured
    )
    fingerprints = [{**shards[0].fingerprint, "path": str(n)} for n in range(2000)]
    many = [Shard(name=f"{n:06}.tar", path=f"/pool/{n:06}.tar", fingerprint=fingerprints[n]) for n in range(2000)]
    pickled = pickle.dumps(many)
    tracemalloc.start()
    received = pickle.loads(pickled)
    memory = tracemalloc.get_traced_memory()[0] / len(received)
    tracemalloc.stop()
    text_bytes = layout.match_texts(folder / "run", shards[0].name).stat().st_size / num_pairs
    return OneShard(whole, counted, source.count_shard(0, 0)[0], text_bytes, memory, len(pickled) / len(many))


def check_law(small: Sequence[Small]) -> None:
    """Assert what is extrapolated: opens of a rank are those of a shard times shards, after divided by ranks."""
    for row in small:
        per_shard = row.before.opens / row.shards
        assert per_shard == small[0].before.opens / small[0].shards, "each rank opened each shard"
        # each rank reads the numbers once, the first also the share of each
        assert row.after.opens == per_shard * row.shards / row.ranks + 1 + 1, row
        assert row.restart.opens == 1, row
        assert row.listing.stats == STATS_PER_SHARD * row.shards + STATS_OF_LISTING, row


# the page


def page(small: Sequence[Small], shard: OneShard, opens: tuple[int, int], near: tuple[int, int]) -> str:
    lines = "\n".join(
        f"| {row.shards} | {row.ranks} | {row.listing.stats} | {row.before.opens} | {row.after.opens:.1f} | "
        f"{row.before.num_bytes / 1000:,.0f} kB | {row.after.num_bytes / 1000:,.1f} kB | {row.restart.opens:.0f} |"
        for row in small
    )
    per_shard = small[0].before.opens / small[0].shards
    stats = STATS_PER_SHARD * PLAN_SHARDS + STATS_OF_LISTING
    share = PLAN_SHARDS / PLAN_RANKS
    numbers_bytes = 16 * PLAN_SHARDS  # of an epoch, int64 of two rows
    cores = 12  # of a rank: 96 cores shared by 8
    before_s, after_s = shard.whole.seconds * PLAN_SHARDS, shard.counted.seconds * share / cores
    rows = (
        ("stat calls to list the pool, first rank", stats, stats, ",.0f", ""),
        ("stat calls to list the pool, all ranks", stats * PLAN_RANKS, stats, ",.0f", ""),
        ("list received from the first rank, per rank", 0, shard.pickled * PLAN_SHARDS / 1e6, ",.0f", " MB"),
        ("memory for the list, per rank", *(shard.memory * PLAN_SHARDS / 1e9,) * 2, ",.2f", " GB"),
        ("memory for an epoch's numbers, per rank", numbers_bytes / 1e6, numbers_bytes / 1e6, ",.1f", " MB"),
        ("opens to count an epoch, per rank", per_shard * PLAN_SHARDS, per_shard * share + 1, ",.0f", ""),
        ("bytes to count an epoch, per rank", shard.whole.num_bytes * PLAN_SHARDS / 1e9,
         (shard.counted.num_bytes * share + numbers_bytes) / 1e9, ",.1f", " GB"),
        ("bytes to count an epoch, all ranks", shard.whole.num_bytes * PLAN_SHARDS * PLAN_RANKS / 1e12,
         (shard.counted.num_bytes * PLAN_SHARDS + numbers_bytes * PLAN_RANKS) / 1e12, ",.2f", " TB"),
        ("time to count an epoch (one thread; 12)", before_s / 60, after_s / 60, ",.1f", " min"),
        ("opens of a restart to know its epoch, per rank", per_shard * PLAN_SHARDS, 1, ",.0f", ""),
        ("opens of a resume, 384 files and 2,700 tensors, whole tensors", PLAN_TENSORS * PLAN_RANKS, PLAN_RANKS, ",.0f",
         ""),
        ("shards read for one bad image", PLAN_WINDOW, 0, ",.0f", ""),
    )  # fmt: skip
    table = "\n".join(f"| {name} | {a:{form}}{unit} | {b:{form}}{unit} |" for name, a, b, form, unit in rows)
    paths = [f"src/worldclip/train/{name}.py" for name in ("pairs", "plan", "checkpoint")]
    window_mb = shard.whole.num_bytes * PLAN_WINDOW / 1e6
    return f"""# What each rank does before the first step, before and after

{make_head(paths, ("numpy", "pyarrow", "torch"))}

Measured on made-up pools, with ranks as threads: the real functions, with each open, read and byte counted. Before:
each rank alone. After: ranks count together and meet in `RUN/train/epochs`; the mean of the ranks.

| shards | ranks | stat calls to list | opens of a rank: before | after | bytes: before | after | opens of a restart |
|---:|---:|---:|---:|---:|---:|---:|---:|
{lines}

The law: {STATS_PER_SHARD} stat calls per shard to list, and {STATS_OF_LISTING}; before, {per_shard:.0f} opens per \
shard on every rank; after, as many per
shard of a rank's share, one of the numbers, and on the first rank one of each rank's share. The run asserts it.

A resume of {FILES} files with {TENSORS} tensors opens {opens[0]} files before, {opens[1]} after. A bad image reads
{near[0]} shards of a window of {WINDOW} before, {near[1]} after.

One shard of {PLAN_PAIRS:,} texts ({IDS_PER_TEXT} matched entries each, {shard.text_bytes:.0f} bytes in `match/texts`; \
[scale.md](../../docs/scale.md) has 84),
of which {shard.kept:,} are kept, median of rounds in turns: read whole in
{shard.whole.seconds:.2f} s and {shard.whole.num_bytes / 1e6:.1f} MB, counted in {shard.counted.seconds:.2f} s and \
{shard.counted.num_bytes / 1e6:.1f} MB.

**Extrapolated** to {PLAN_RANKS} ranks and {PLAN_SHARDS:,} such shards, {PLAN_SHARDS * PLAN_PAIRS / 1e9:.0f} billion \
texts (time: of this machine's cores, files in its cache, and after as if 12 threads of a rank were 12 times as \
fast; a network file system adds to both; opens and bytes of a rank other than the first, which also opens each share):

| | before | after |
|---|---:|---:|
{table}

What stays: with windows every rank reads the texts of every window, {window_mb:,.0f} MB for
{PLAN_WINDOW * shard.kept / 75_264:.0f} steps of 75,264 pairs. With `train.num_streams` a rank reads its own streams.
"""


def measure(folder: Path, sizes: Sequence[tuple[int, int]], num_pairs: int, rounds: int) -> str:
    small = measure_small(folder / "small", sizes)
    check_law(small)
    shard = measure_shard(folder / "shard", num_pairs, rounds)
    checkpoint = write_checkpoint(folder / "step_000000001")
    opens = (open_checkpoint(checkpoint, False).opens, open_checkpoint(checkpoint, True).opens)
    assert opens == (TENSORS * FILES, FILES)
    shards, work = make_run(folder / "replaced", 4 * WINDOW, SMALL_PAIRS)
    near = [replace_one(folder / "replaced" / "run", shards, work, is_near) for is_near in (False, True)]
    assert near == [WINDOW, 0]
    return page(small, shard, opens, (near[0], near[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    folder = Path(tempfile.mkdtemp())
    try:
        text = measure(folder, SIZES, PLAN_PAIRS, rounds=5)
    finally:
        shutil.rmtree(folder)
    print(text)
    if write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
