"""Reading the texts of a tar by position, beside the same over a memory map of the whole file.

    python benchmarks/tar_scan.py [--write]        --write renews benchmarks/results/tar_scan.md

10,000 samples of 20 kB images with .json and .txt.  Both run the same compiled scan; over the map its window is the
whole file.  Cold: the system is asked to forget the file before each round.
"""

from __future__ import annotations

import argparse
import io
import mmap
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from match import describe_processor

from worldclip.core.artifacts import versions
from worldclip.kernels import tar_headers
from worldclip.kernels.read_at import Window, window_of_bytes
from worldclip.pool.files import FileBytes, gather

RESULTS = Path(__file__).parent / "results" / "tar_scan.md"
NUM_SAMPLES, IMAGE_BYTES, ROUNDS = 10_000, 20_000, 9


def write_tar(path: Path) -> None:
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(NUM_SAMPLES):
            contents = {
                "jpg": rng.bytes(IMAGE_BYTES),
                "json": b"{" + b" " * 600 + b"}",
                "txt": b"a caption of a picture",
            }
            for suffix, content in contents.items():
                member = tarfile.TarInfo(f"{number:09}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def read_texts(window: Window) -> None:
    members = tar_headers.scan(window)
    starts = members.starts[2::3]
    gather(window, starts, starts + members.sizes[2::3])


def by_position(path: Path) -> None:
    file = FileBytes(str(path))
    read_texts(file.window)


def by_map(path: Path) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = np.frombuffer(mapped, np.uint8)
        read_texts(window_of_bytes(data))
        del data


def forget(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(path: Path) -> list[tuple[str, str, float]]:
    readers: dict[str, Callable[[Path], None]] = {"by position": by_position, "memory map": by_map}
    rows = []
    for state in ("in the page cache", "cold"):
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(ROUNDS + 1):  # the first compiles
            for name, read in readers.items():
                if state == "cold":
                    forget(path)
                started_at = time.perf_counter()
                read(path)
                seconds[name].append(time.perf_counter() - started_at)
        rows += [(state, name, statistics.median(times[1:])) for name, times in seconds.items()]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        write_tar(Path(folder) / "0.tar")
        rows = measure(Path(folder) / "0.tar")
    lines = [
        f"| {state} | {name} | {seconds * 1e3:.0f} | {NUM_SAMPLES / seconds:,.0f} |" for state, name, seconds in rows
    ]
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    text = f"""# Reading a tar by position and over a memory map

{date.today()}, {describe_processor()}, {platform.machine()}, cores shared with other work; {known}. {NUM_SAMPLES:,} \
samples of {IMAGE_BYTES // 1000} kB images with .json and .txt, headers and .txt read; median of {ROUNDS} rounds in \
turns. Written by `benchmarks/tar_scan.py`.

| file | reader | ms | samples per second |
|---|---|---|---|
{chr(10).join(lines)}

A file that is cut while a map of it is read ends the process (SIGBUS); read by position, it fails its shard.
"""
    print(text)
    if write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
