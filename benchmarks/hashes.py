"""Time and memory of `pool hash` against the number of images: 62,500 to half a million, one process per size.

    python benchmarks/hashes.py [--write]        --write renews benchmarks/results/hashes.md

Images of 16 x 16 pixels in tars of 62,500, which are one file under many names, on one core.  Linear: the time per
image stays the same.  Flat: the peak of resident memory does not grow with the images.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from match import describe_processor
from PIL import Image

from worldclip.check import hash_images
from worldclip.core.artifacts import versions
from worldclip.core.execute import LocalExecutor

RESULTS = Path(__file__).parent / "results" / "hashes.md"
IMAGES_PER_TAR = 62_500
SIZES = (62_500, 125_000, 250_000, 500_000)


def write_tars(folder: Path, num_images: int) -> None:
    """Write a tar of IMAGES_PER_TAR small images, and link it under as many names as `num_images` needs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    first = folder / "00000.tar"
    with tarfile.open(first, "w", format=tarfile.USTAR_FORMAT) as tar:
        contents = []
        for _ in range(64):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).resize((16, 16)).save(file, "PNG")
            contents.append(file.getvalue())
        for row in range(IMAGES_PER_TAR):
            content = contents[row % len(contents)]
            member = tarfile.TarInfo(f"{row:06}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for number in range(1, num_images // IMAGES_PER_TAR):
        os.link(first, folder / f"{number:05}.tar")


def hash_here(folder: Path) -> None:
    """Hash the tars in this process; print its CPU seconds and the peak of resident memory in bytes."""
    started_at = time.process_time()
    hash_images(folder / "tars", folder / "hashes.parquet", LocalExecutor(quiet=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([time.process_time() - started_at, peak]))


def measure(folder: Path) -> list[str]:
    """Return a row of the table for each size."""
    rows = []
    for size in SIZES:
        write_tars(folder / str(size) / "tars", size)
        command = [sys.executable, __file__, "--folder", str(folder / str(size))]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, peak = json.loads(output.splitlines()[-1])
        rows.append(f"| {size:,} | {seconds / size * 1e6:.1f} | {peak / 2**20:.0f} |")
    return rows


def page(rows: list[str]) -> str:
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    table = "\n".join(["| images | us of CPU per image | peak MiB |", "|---:|---:|---:|", *rows])
    return f"""# Hashes of images against their number

{date.today()}, {describe_processor()}, {platform.machine()}, one core shared with other work; {known}. \
`worldclip pool hash` over images of 16 x 16 pixels in tars of {IMAGES_PER_TAR:,}: what grows with their number; \
decoding a photograph takes longer ([dedup.md](dedup.md)). One process per size, loading of compiled code included. \
Written by `benchmarks/hashes.py`.

{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        hash_here(arguments.folder)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        text = page(measure(Path(folder)))
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
