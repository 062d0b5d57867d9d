"""Hashing beside decoding alone, and the exact search of 10 million hashes beside faiss's binary index.

    python benchmarks/dedup.py [--num-hashes 10000000] [--radius 2 4 6 8] [--images TAR]
    python benchmarks/dedup.py --on-disk 100000000 --radius 4 [--rows-at-once 16777216]

Synthetic hashes: 64 random bits each, and 10,000 planted neighbours at each distance 1 to 8.  A search is right when it
finds every planted pair within the radius, and nothing that is not near.  faiss answers a sample of the queries; the
time for all is that times their number: exact is its MultiHash with 4 tables of 16 bits and one flip.  Times are CPU
seconds of all threads, since the machine may do other work, and wall seconds beside them.

--on-disk: the search of `pool check` with more hashes than it holds at a time: shuffled on disk, by as many processes.

Images: the whole look at an image (bytes' SHA-256, decode, hash and mirrored hash, contrast) beside what a loader pays
to decode it: RGB in full.  The check's own decode is grey and scaled.  Rounds are interleaved; the median counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from worldclip.check.duplicates import ROWS_AT_ONCE, search
from worldclip.check.hashing import JPEG_DRAFT_SIDE, scan_image
from worldclip.check.neighbours import all_roots, near_pairs, plan_search, unique, unite
from worldclip.core.execute import LocalExecutor

PLANTED = 10_000
FAISS_QUERIES = 2_000
ROUNDS = 7


def planted(num_hashes: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """(hashes, [(original, neighbour) at distance 1, 2, ... 8])."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, num_hashes, dtype=np.uint64)
    pairs = []
    for distance in range(1, 9):
        original = hashes[(distance - 1) * PLANTED : distance * PLANTED]
        places = rng.permuted(np.tile(np.arange(64, dtype=np.uint64), (PLANTED, 1)), axis=1)[:, :distance]
        pairs.append((original, original ^ np.bitwise_or.reduce(np.uint64(1) << places, axis=1)))
    hashes[-8 * PLANTED :] = np.concatenate([neighbour for _, neighbour in pairs])
    return hashes, pairs


def count_planted(found: tuple[np.ndarray, np.ndarray, np.ndarray], pairs: list, radius: int) -> str:
    first, second, distance = found
    assert (np.bitwise_count(first ^ second) == distance).all()
    assert (distance <= radius).all()
    seen = set(zip(first.tolist(), second.tolist(), strict=True))
    hits = sum(
        (min(a, b), max(a, b)) in seen
        for original, neighbour in pairs[:radius]
        for a, b in zip(original.tolist(), neighbour.tolist(), strict=True)
    )
    return f"{hits:,} of {PLANTED * radius:,} planted pairs, {len(first):,} pairs in all"


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def bench_search(num_hashes: int, threads: int, radii: list[int]) -> None:
    near_pairs(np.arange(100, dtype=np.uint64), 4)  # compile
    hashes, pairs = planted(num_hashes)
    before = peak_gib()
    print(f"\n{num_hashes:,} hashes, {threads} threads; memory before the search {before:.2f} GiB")
    for radius in radii:
        plan = plan_search(num_hashes, radius)
        started_at, cpu_at = time.perf_counter(), time.process_time()
        found = near_pairs(hashes, radius, threads=threads)
        cpu_s, elapsed_s = time.process_time() - cpu_at, time.perf_counter() - started_at
        told = count_planted(found, pairs, radius)
        print(
            f"worldclip, radius {radius}: {cpu_s:.1f} CPU s, {elapsed_s:.1f} s, peak {peak_gib():.2f} GiB, "
            f"{len(plan.choices)} sorted orders of {plan.leading_bits(0)} bits; {told}"
        )
    bench_faiss(hashes, threads)


def bench_on_disk(num_hashes: int, workers: int, radius: int, rows_at_once: int, folder: Path) -> None:
    """What grows with the pool is the time, the disk, and 8 bytes a hash (its value) with this process."""
    hashes, pairs = planted(num_hashes)
    values = unique(hashes)
    del hashes
    watch = _Watch(folder)
    started_at = time.perf_counter()
    with watch:
        edges, histogram = search(values, radius, folder, LocalExecutor(workers=workers), rows_at_once=rows_at_once)
    elapsed_s = time.perf_counter() - started_at
    near = np.concatenate([np.stack(edge, axis=1) for edge in edges])
    parent = np.arange(len(values))
    unite(parent, np.searchsorted(values, near[:, 0]), np.searchsorted(values, near[:, 1]))
    root, hits = all_roots(parent), 0
    for original, neighbour in pairs[:radius]:
        a, b = np.searchsorted(values, original), np.searchsorted(values, neighbour)
        hits += int((root[a] == root[b]).sum())
    plan, children = plan_search(len(values), radius), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"\non disk: {len(values):,} hashes, radius {radius}, {workers} processes, {rows_at_once:,} hashes at a time\n"
        f"{len(plan.choices)} sorted orders of {plan.leading_bits(0)} bits: {elapsed_s:.0f} s, "
        f"{elapsed_s * workers / len(values) * 1e6:.2f} core seconds a million hashes, "
        f"{children.ru_utime + children.ru_stime:.0f} CPU s of the processes\n"
        f"disk at most {watch.disk_bytes / len(values):.0f} bytes a hash; peak memory of a process "
        f"{watch.worker_kib / 2**20:.2f} GiB, of this one {peak_gib():.2f} GiB\n"
        f"{hits:,} of {PLANTED * radius:,} planted pairs; pairs by distance {histogram}"
    )


class _Watch:
    """The most bytes below a folder and the most memory of a worker, looked at twice a second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._done = folder, threading.Event()
        self.disk_bytes = self.worker_kib = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            with contextlib.suppress(OSError):  # what is gone meanwhile
                size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
                self.disk_bytes = max(self.disk_bytes, size)
                for worker in multiprocessing.active_children():  # getrusage begins with the parent's peak
                    status = Path(f"/proc/{worker.pid}/status").read_text()
                    if "VmHWM:" in status:  # else it has just ended
                        self.worker_kib = max(self.worker_kib, int(status.split("VmHWM:")[1].split()[0]))


def bench_faiss(hashes: np.ndarray, threads: int) -> None:
    try:
        import faiss
    except ImportError:
        print("faiss-cpu is not installed: pip install faiss-cpu")
        return
    faiss.omp_set_num_threads(threads)
    codes = hashes.view(np.uint8).reshape(-1, 8)
    started_at = time.process_time()
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.add(codes)
    index.nflip = 1
    build_s = time.process_time() - started_at
    queries = codes[-FAISS_QUERIES:]
    started_at = time.process_time()
    limits, *_ = index.range_search(queries, 5)  # strictly below 5
    search_s = time.process_time() - started_at
    flat = faiss.IndexBinaryFlat(64)
    flat.add(codes)
    started_at = time.process_time()
    flat.range_search(queries[:200], 5)
    flat_s = (time.process_time() - started_at) / 200
    print(
        f"faiss MultiHash(4 x 16, 1 flip), radius 4: build {build_s:.1f} CPU s, {FAISS_QUERIES:,} queries "
        f"{search_s:.1f} s -> {build_s + search_s * len(hashes) / FAISS_QUERIES:,.0f} s for all, {limits[-1]:,} "
        f"answers, peak {peak_gib():.2f} GiB\n"
        f"faiss Flat (compares all), radius 4: {flat_s * len(hashes):,.0f} s for all"
    )


def bench_hashing(source: Path) -> None:
    with tarfile.open(source) as tar:
        images = [tar.extractfile(m).read() for m in tar if m.name.endswith((".jpg", ".jpeg", ".png"))]  # type: ignore[union-attr]

    def decode(data: bytes) -> None:
        Image.open(io.BytesIO(data)).convert("RGB")

    def decode_scaled(data: bytes) -> None:
        image = Image.open(io.BytesIO(data))
        image.draft("L", (JPEG_DRAFT_SIDE, JPEG_DRAFT_SIDE))
        image.load()

    def by_imagehash(data: bytes) -> None:
        imagehash.phash(Image.open(io.BytesIO(data)))

    work: dict[str, Callable[[bytes], object]] = {
        "Pillow: decode to RGB alone": decode,
        "Pillow: decode to grey, scaled": decode_scaled,
        "worldclip scan_image": scan_image,
    }
    try:
        import imagehash

        work["imagehash.phash"] = by_imagehash
    except ImportError:
        print("imagehash is not installed: pip install imagehash")
    print(f"{len(images)} images of {source.name}, one core")
    spans: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, fn in work.items():
            fn(images[0])
            spans[name].append(_seconds(fn, images))
    decoded_s = statistics.median(spans["Pillow: decode to RGB alone"])
    for name, of_name in spans.items():
        median_s = statistics.median(of_name)
        print(f"{name:<30} {len(images) / median_s:7.0f} images/s, {decoded_s / median_s:.2f} x decode to RGB")


def _seconds(fn: Callable[[bytes], object], images: list[bytes]) -> float:
    """CPU time: what else the machine does must not count."""
    started_at = time.process_time()
    for image in images:
        fn(image)
    return time.process_time() - started_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-hashes", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--radius", type=int, nargs="*", default=[2, 4, 6, 8])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--on-disk", type=int, metavar="NUM_HASHES")
    parser.add_argument("--rows-at-once", type=int, default=ROWS_AT_ONCE)
    arguments = parser.parse_args()
    if arguments.images:
        bench_hashing(arguments.images)
    if arguments.on_disk:
        for radius in arguments.radius:
            with tempfile.TemporaryDirectory(dir=".") as folder:
                bench_on_disk(arguments.on_disk, arguments.threads, radius, arguments.rows_at_once, Path(folder))
    elif arguments.radius:
        bench_search(arguments.num_hashes, arguments.threads, arguments.radius)


if __name__ == "__main__":
    main()
