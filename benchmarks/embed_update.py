"""An embedded folder of many photographs after a day's changes: the CPU time of an update, and of a search.

    python benchmarks/embed_update.py MODEL [--files 1000000] [--changes 1000] [--dim 512] [--tars] [--write]

MODEL is any exported model.  Its vectors are replaced by random ones of --dim dimensions, and the files hold a few
bytes each, so what is measured is all but the model: listing the folder, telling what is new, copying, writing.
--tars measures the same number of pictures with captions in tars.  --write renews
benchmarks/results/embed_update.md.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from head import make_head

from worldclip.core.execute import LocalExecutor
from worldclip.export.embedded import open_embedded
from worldclip.model.inference import Clip
from worldclip.tools import embed_job
from worldclip.tools.embed import embed
from worldclip.tools.search import nearest

FOLDERS = 1000  # of the files
FILES_PER_TAR = 10_000
PARTS_BEFORE = 1000  # rows of a segment in the layout of before
QUERIES = 9  # timed; the median counts
RESULTS = Path(__file__).parent / "results" / "embed_update.md"


def write_files(folder: Path, numbers: range) -> None:
    """Write one file per number, whose content no other has."""
    for number in numbers:
        path = folder / f"{number % FOLDERS:03}" / f"{number:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode())


def write_tar(path: Path, numbers: range) -> None:
    """Write a tar of the pictures of write_files, each with a caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for suffix, content in (("png", str(number).encode()), ("txt", b"a picture")):
                member = tarfile.TarInfo(f"{number:07}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def random_vectors(dim: int) -> Callable[..., Any]:
    """Return what takes the place of Clip.encode_each: vectors of unit length, the same for the same content."""

    def encode_each(clip: Clip, images: list[bytes], **options: Any) -> tuple[np.ndarray, dict[int, str]]:
        seed = int.from_bytes(hashlib.sha256(images[0]).digest()[:8], "big")
        rows = np.random.default_rng(seed).standard_normal((len(images), dim), np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), {}

    return encode_each


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of this process that `work` takes, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def search_ms(layouts: list[list[Any]], dim: int) -> list[float]:
    """Return the median time of a search for the 20 nearest rows in each layout, asked by turns."""
    query = np.random.default_rng(0).standard_normal((1, dim)).astype(np.float32)
    times: list[list[float]] = [[] for _ in layouts]
    for _ in range(QUERIES):
        for parts, of_layout in zip(layouts, times, strict=True):
            start = time.perf_counter()
            nearest(parts, query, 20)
            of_layout.append(1000 * (time.perf_counter() - start))
    return [statistics.median(of_layout) for of_layout in times]


def change_files(photos: Path, files: int, changes: int) -> Iterator[str]:
    """Write a folder of files, then change it; yield what was done each time."""
    write_files(photos, range(files))
    yield "first"
    yield "nothing changed"
    write_files(photos, range(files, files + changes))
    yield "new files"
    for path in sorted(photos.rglob("*.png"))[:: files // changes][:changes]:
        path.unlink()
    write_files(photos, range(files + changes, files + 2 * changes))
    yield "as many new, as many removed all over"
    for path in next(folder for folder in sorted(photos.iterdir())).iterdir():
        os.utime(path)
    yield "files of one folder touched"


def change_tars(photos: Path, files: int, changes: int) -> Iterator[str]:
    """Write a folder of tars, then change it; yield what was done each time."""
    for start in range(0, files, FILES_PER_TAR):
        write_tar(photos / f"{start:07}.tar", range(start, min(start + FILES_PER_TAR, files)))
    yield "first"
    yield "nothing changed"
    write_tar(photos / f"{files:07}.tar", range(files, files + changes))
    yield "a new tar"
    write_tar(photos / f"{0:07}.tar", range(changes, min(FILES_PER_TAR, files)))
    yield "a tar without some of its pictures"


def main() -> None:
    """Measure, print a table and, on request, write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--tars", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    Clip.encode_each = random_vectors(arguments.dim)  # type: ignore[method-assign]
    embed_job.embed_sample_inputs = lambda clip: np.eye(1, arguments.dim, dtype=np.float32)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        photos, out = Path(place) / "photos", Path(place) / "embedded"

        def update() -> Any:
            return embed(arguments.model, photos, out, executor=LocalExecutor(quiet=True))["images"]

        def measure(name: str) -> None:
            seconds, report = cpu_seconds(update)
            counts = ", ".join(f"{report[kind]:,} {kind}" for kind in embed_job.CHANGES if kind in report)
            rows.append(f"| {name} | {counts} | {seconds:.1f} s |")
            print(rows[-1], flush=True)

        changes = change_tars if arguments.tars else change_files
        for name in changes(photos, arguments.files, arguments.changes):
            measure(name)
        embedded = open_embedded(out)
        every = np.concatenate([part[:] for part in embedded.parts])
        before = []
        for start in range(0, len(every), PARTS_BEFORE):
            path = Path(place) / f"before/{start:08}.npy"
            path.parent.mkdir(exist_ok=True)
            np.save(path, every[start : start + PARTS_BEFORE])
            before.append(type(embedded.parts[0])(path))
        del every
        now, earlier = search_ms([embedded.parts, before], arguments.dim)
    search_line = f"A search takes {now:.0f} ms; over segments of {PARTS_BEFORE:,} rows, as before, {earlier:.0f} ms."
    print(search_line)
    if arguments.write:
        paths = ["src/worldclip/tools/embed_job.py", "src/worldclip/tools/embed_shard.py"]
        head = make_head(paths, ("numpy", "pyarrow"))
        table = "\n".join(rows)
        RESULTS.write_text(
            f"# An embedded folder from day to day\n\n{head}\n\n{arguments.files:,} files of a few bytes, random "
            f"vectors of {arguments.dim} dimensions in place of a model, one process.\n\n"
            f"| what | rows | CPU time of `embed` |\n|---|---|---:|\n{table}\n\n{search_line}\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
