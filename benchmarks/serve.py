"""Requests a second and latency of the server at 1, 8 and 64 clients, beside the same model one request at a time.

    python benchmarks/serve.py MODEL [--infinity COMMAND] [--write]      --write renews benchmarks/results/serve.md

MODEL: anything worldclip.load takes.  --infinity: the command infinity_emb of another environment, which serves the
same folder, if it can.  Each request is one text, different from all others, or one photograph of 320 x 240 pixels.
Servers run as processes of their own, one after the other; clients are one process with that many connections, each of
which sends its next request when it has the answer to the last.  "one at a time": our server with batches of one.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

RESULTS = Path(__file__).parent / "results" / "serve.md"
CLIENTS = (1, 8, 64)
SECONDS, WARM_UP = 5.0, 8
OURS = """
import sys
from worldclip.cli import main
from worldclip.web.server import service

service.MAX_BATCH = {batch}
sys.exit(main(["serve", {model!r}, "--port", "{port}", "--device", "cpu"]))
"""


@contextlib.contextmanager
def running(command: Sequence[str], port: int, health: str) -> Iterator[str]:
    """Start a server; yields its address once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            if process.poll() is not None:
                raise RuntimeError((process.stderr.read() if process.stderr else "").strip()[-500:] or "ended")
            if time.monotonic() > deadline:
                raise RuntimeError("no answer within 180 s")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{address}{health}").status_code == 200:
                    break
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def bodies(kind: str, model: str, names_modality: bool) -> Iterator[dict[str, Any]]:
    """Yield the bodies of requests without end; infinity's say `modality`."""
    rng = np.random.default_rng(0)
    words = ["red", "apple", "кошка", "赤い", "リンゴ", "تفاحة", "garden", "Hund", "แมว", "bicycle"]
    photographs = []
    for _ in range(16 if kind == "picture" else 0):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG")
        photographs.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
    number = 0
    while True:
        text = f"{number} {' '.join(rng.choice(words, 6))}"
        body: dict[str, Any] = {"model": model, "encoding_format": "base64"}
        if names_modality:
            body["modality"] = "image" if kind == "picture" else "text"
        yield body | {"input": [photographs[number % 16] if kind == "picture" else text]}
        number += 1


async def measure(address: str, path: str, clients: int, source: Iterator[dict[str, Any]]) -> tuple[float, list[float]]:
    """Return (requests a second, seconds of each request)."""
    seconds: list[float] = []
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as client:

        async def ask_until(deadline: float) -> None:
            while time.perf_counter() < deadline:
                start = time.perf_counter()
                (await client.post(path, json=next(source))).raise_for_status()
                seconds.append(time.perf_counter() - start)

        for _ in range(WARM_UP):
            (await client.post(path, json=next(source))).raise_for_status()
        start = time.perf_counter()
        await asyncio.gather(*(ask_until(start + SECONDS) for _ in range(clients)))
        return len(seconds) / (time.perf_counter() - start), seconds


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def rows_of(name: str, command: Sequence[str], port: int, health: str, path: str, model: str) -> list[str]:
    """Return the table's rows of one server; a server that does not start is a row that says so."""
    rows = []
    try:
        with running(command, port, health) as address:
            for kind in ("text", "picture"):
                for clients in CLIENTS:
                    rate, seconds = asyncio.run(
                        measure(address, path, clients, bodies(kind, model, path == "/embeddings"))
                    )
                    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
                    rows.append(f"| {name} | {kind} | {clients} | {rate:.1f} | {p50:.0f} | {p99:.0f} |")
                    print(rows[-1], flush=True)
    except (RuntimeError, httpx.HTTPError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        rows.append(f"| {name} | does not serve this model: {lines[-1][:160]} | | | | |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--infinity", metavar="COMMAND")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    folder = Path(arguments.model)
    name = folder.resolve().name if folder.exists() else arguments.model
    rows = []
    for title, batch in (("worldclip", 64), ("worldclip, one request at a time", 1)):
        port = free_port()
        command = [sys.executable, "-c", OURS.format(batch=batch, model=arguments.model, port=port)]
        rows += rows_of(title, command, port, "/healthz", "/v1/embeddings", name)
    if arguments.infinity:
        port = free_port()
        flags = {"model-id": arguments.model, "served-model-name": name, "port": str(port), "device": "cpu"}
        command = [arguments.infinity, "v2", "--engine", "torch", "--no-bettertransformer"]
        command += [word for flag, value in flags.items() for word in (f"--{flag}", value)]
        rows += rows_of("infinity-emb", command, port, "/health", "/embeddings", name)
    if arguments.write:
        RESULTS.write_text("\n".join([*head(arguments.model), *rows, ""]), encoding="utf-8")


def head(model: str) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "starlette", "uvicorn", "httpx"))
    return [
        "# Server",
        "",
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores that the clients use too; {versions}. "
        f"`worldclip serve` of {Path(model).name}; one input per request, {SECONDS:g} s each. Written by "
        "`benchmarks/serve.py`.",
        "",
        "| server | input | clients | requests / s | p50, ms | p99, ms |",
        "|---|---|---:|---:|---:|---:|",
    ]


if __name__ == "__main__":
    main()
