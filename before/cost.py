"""CPU time, disk and bytes over HTTP of the stages that read a pool, under the code of two checkouts.

    python before/cost.py OTHER_CHECKOUT/src FOLDER [NUM_PAIRS] [ROUNDS]

The metadata of each is made once and not counted.  Stages run in their own processes with one worker, in turn.
"""

from __future__ import annotations

import http.server
import io
import itertools
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import tomli_w

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from recombine import LANGS, write_lists, write_pool  # noqa: E402

STAGES = ("pool", "match", "balance", "curate")
sent = [0]


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serve a folder with ranges, and count the bytes of bodies."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args, folder: Path):
        self.folder = folder
        super().__init__(*args)

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        path = self.folder / self.path.lstrip("/")
        if path.is_dir():
            content = "".join(f'<a href="{file.name}">{file.name}</a>\n' for file in sorted(path.iterdir())).encode()
        elif path.is_file():
            content = path.read_bytes()
        else:
            return self.send_error(404)
        size, first, end = len(content), 0, len(content)
        found = re.match(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if found:
            first = int(found[1]) if found[1] else size - int(found[2])
            end = min(size, int(found[2]) + 1) if found[1] and found[2] else size
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
        self.send_header("Content-Type", "text/html" if path.is_dir() else "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}"')
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[first:end])
            sent[0] += end - first

    do_HEAD = do_GET


def run(source: str, stage: str, recipe: Path, out: Path) -> float:
    """Run a stage under the code of a checkout; return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "worldclip", stage, recipe, "--out", out, "--workers", "1"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": source}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_tars(tables: Path, folder: Path, num_pairs: int) -> None:
    """Write the first texts of a pool as tars of 10,000 samples, each with an image of 2,000 bytes."""
    folder.mkdir()
    rows = itertools.islice(
        (row for path in sorted(tables.iterdir()) for row in pq.read_table(path).to_pylist()), num_pairs
    )
    for number, chunk in enumerate(itertools.batched(rows, 10_000)):
        with tarfile.open(folder / f"{number:05}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, record in enumerate(chunk):
                for suffix, content in ((".jpg", bytes(2_000)), (".txt", record["text"].encode())):
                    info = tarfile.TarInfo(f"{number:05}{row:04}{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def measure(folder: Path, kind: str, settings: dict, sources: dict[str, str], num_rounds: int) -> None:
    """Print the CPU time of each stage, and the bytes on disk."""
    recipe = folder / f"{kind}.toml"
    recipe.write_text(tomli_w.dumps(settings))
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(num_rounds):
        for name, source in sources.items():
            out, metadata = folder / f"{kind}_{name}", folder / f"metadata_{name}"
            if not metadata.exists():
                run(source, "metadata", recipe, out)
                shutil.copytree(out / "metadata", metadata)
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(metadata, out / "metadata")
            for stage in STAGES:
                seconds[name, stage].append(run(source, stage, recipe, out))
    for name in sources:
        disk = size_of(folder / f"{kind}_{name}") - size_of(folder / f"metadata_{name}")
        medians = {stage: statistics.median(seconds[name, stage]) for stage in STAGES}
        line = ", ".join(f"{stage} {value:.2f}" for stage, value in medians.items())
        print(f"{kind}, {name}: {line}, all {sum(medians.values()):.2f} s of CPU; {disk:,} bytes on disk", flush=True)


def main() -> None:
    folder = Path(sys.argv[2])
    num_pairs, num_rounds = int((sys.argv[3:] or [1_000_000])[0]), int((sys.argv[4:] or [3])[0])
    sources = {"before": sys.argv[1], "after": str(REPOSITORY / "src")}
    folder.mkdir(parents=True)
    lists = write_lists(folder / "lists")
    write_pool(folder / "pool", num_pairs)
    settings = {
        "pool": {"path": str(folder / "pool"), "key": "uid", "texts": ["text"]},
        "languages": {"codes": list(LANGS)},
        "metadata": {"lists": {lang: str(path) for lang, path in lists.items()}},
        "balance": {"tail_fraction": 0.06},
    }
    for kind in ("tables", "tars"):
        if kind == "tars":
            write_tars(folder / "pool", folder / "tars", num_pairs // 5)
            settings["pool"] = {"path": str(folder / "tars")}
        measure(folder, kind, settings, sources, num_rounds)
    settings["pool"] = {"path": "", "key": "uid", "texts": ["text"]}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, folder=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings["pool"]["path"] = f"http://127.0.0.1:{server.server_port}/pool"
    recipe = folder / "http.toml"
    recipe.write_text(tomli_w.dumps(settings))
    for name, source in sources.items():
        out = folder / f"http_{name}"
        shutil.copytree(folder / f"metadata_{name}", out / "metadata")
        counts = {}
        for stage in STAGES:
            sent[0] = 0
            run(source, stage, recipe, out)
            counts[stage] = sent[0]
        whole = sum(counts.values()) / size_of(folder / "pool")
        print(f"{name}: bytes over HTTP {counts}, {whole:.2f} times the pool of {size_of(folder / 'pool'):,}")


if __name__ == "__main__":
    main()
