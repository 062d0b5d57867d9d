"""Requests a second and latency of the server at 1, 8 and 64 clients, beside the same model one request at a time.

    python benchmarks/serve.py [MODEL] [--infinity COMMAND] [--write]      --write renews benchmarks/results/serve.md
    python benchmarks/serve.py [MODEL] --large 400      64 clients of one text, also next to one that sends 400

MODEL: anything worldclip.load takes; by default ViT-B/32 with random weights in OpenAI's layout. --infinity: the
command infinity_emb of another environment, which serves the same folder, if it can. Each request is one text,
different from all others, or one photograph of 320 x 240 pixels. Servers run as processes of their own and take
turns; clients are one process with that many connections, each of which sends its next request when it has the answer
to the last.
"one at a time": our server with batches of one.  "bfloat16": what --precision auto takes where the processor multiplies
it.  infinity-emb 0.0.78 wants its own environment: pip install "infinity-emb[all]" aiohttp "torch==2.13.0"
"torchvision==0.28.0"; it takes transformers 4.47.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gzip
import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from head import make_head
from open_clip.tokenizer import bytes_to_unicode
from PIL import Image

from worldclip.model.precision import pick_precision

RESULTS = Path(__file__).parent / "results" / "serve.md"
CLIENTS = (1, 8, 64)
KINDS = ("text", "picture")
SECONDS = 3.0
WARM_UP_SECONDS = 5.0
OURS = """
import sys
from worldclip.cli import main
from worldclip.plugins.server import service

service.MAX_BATCH = {batch}
sys.exit(main(["serve", {model!r}, "--port", "{port}", "--device", "cpu", "--precision", "{precision}"]))
"""


@contextlib.contextmanager
def running(command: Sequence[str], port: int, health: str) -> Iterator[str]:
    """Start a server; yields its address once it answers."""
    log = Path(tempfile.mkdtemp()) / "log.txt"
    with open(log, "w") as file:
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=os.environ | one_thread)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            if process.poll() is not None:
                raise RuntimeError(log.read_text().strip()[-500:] or "ended")
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
        shutil.rmtree(log.parent)


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


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; path: where it embeds."""

    name: str
    address: str
    path: str


async def measure(
    server: Server, clients: int, source: Iterator[dict[str, Any]], seconds_of_turn: float
) -> tuple[float, list[float]]:
    """Return (seconds in all, seconds of each request)."""
    seconds: list[float] = []
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=server.address, limits=limits, timeout=120) as client:

        async def ask_until(deadline: float) -> None:
            while time.perf_counter() < deadline:
                start = time.perf_counter()
                (await client.post(server.path, json=next(source))).raise_for_status()
                seconds.append(time.perf_counter() - start)

        start = time.perf_counter()
        await asyncio.gather(*(ask_until(start + seconds_of_turn) for _ in range(clients)))
        return time.perf_counter() - start, seconds


async def measure_crowd(server: Server, model: str, large: int, seconds_of_turn: float) -> tuple[float, float]:
    """Return the answers per second to 64 clients of one text each, and the texts per second that the model embeds.

    large: texts per request of one more client; 0 for none.
    """
    num_answers = 0
    source = bodies("text", model, names_modality=False)
    limits = httpx.Limits(max_connections=max(CLIENTS) + 1)
    async with httpx.AsyncClient(base_url=server.address, limits=limits, timeout=600) as client:

        async def num_embedded() -> float:
            lines = (await client.get("/metrics")).text.splitlines()
            return sum(float(line.split()[1]) for line in lines if line.startswith("worldclip_batch_items_sum"))

        async def ask(size: int) -> None:
            nonlocal num_answers
            while True:
                texts = [text for _ in range(size) for text in next(source)["input"]]
                (await client.post(server.path, json=next(source) | {"input": texts})).raise_for_status()
                num_answers += size == 1

        sizes = [1] * max(CLIENTS) + [large] * (large > 0)
        tasks = [asyncio.create_task(ask(size)) for size in sizes]
        await asyncio.sleep(WARM_UP_SECONDS)
        before = (num_answers, await num_embedded(), time.perf_counter())
        await asyncio.sleep(seconds_of_turn)
        seconds = time.perf_counter() - before[2]
        rates = ((num_answers - before[0]) / seconds, (await num_embedded() - before[1]) / seconds)
        if any(task.done() for task in tasks):
            raise RuntimeError("a request failed")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return rates


def compare_crowds(model: str, large: int, seconds_of_turn: float) -> None:
    """Print the rows of the table, without and with the client of large requests, in turns."""
    port = free_port()
    command = our_command(model, port, 64, "fp32")
    with running(command, port, "/healthz") as address:
        server = Server("worldclip", address, "/v1/embeddings")
        for size in (0, large) * 3:
            answers, texts = asyncio.run(measure_crowd(server, Path(model).resolve().name, size, seconds_of_turn))
            print(f"| {size or 'none'} | {answers:.1f} | {texts:.1f} |", flush=True)


def our_command(model: str, port: int, batch: int, precision: str) -> list[str]:
    return [sys.executable, "-c", OURS.format(batch=batch, model=model, port=port, precision=precision)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def all_running(model: str, name: str, infinity: str | None) -> Iterator[tuple[list[Server], list[str]]]:
    """Start all servers; yields those that serve the model, and a line for each that does not."""
    commands: list[tuple[str, Sequence[str], int, str, str]] = []
    ours = [("worldclip", 64, "fp32"), ("worldclip, one request at a time", 1, "fp32")]
    if pick_precision(torch.device("cpu")) == "bf16":
        ours.append(("worldclip, bfloat16", 64, "bf16"))
    for title, batch, precision in ours:
        port = free_port()
        command = our_command(model, port, batch, precision)
        commands.append((title, command, port, "/healthz", "/v1/embeddings"))
    if infinity:
        port = free_port()
        flags = {"model-id": model, "served-model-name": name, "port": str(port), "device": "cpu"}
        command = [infinity, "v2", "--engine", "torch", "--no-bettertransformer"]
        command += [word for flag, value in flags.items() for word in (f"--{flag}", value)]
        commands.append(("infinity-emb", command, port, "/health", "/embeddings"))
    servers, problems = [], []
    with contextlib.ExitStack() as stack:
        for title, command, port, health, path in commands:
            try:
                address = stack.enter_context(running(command, port, health))
                for kind in KINDS:
                    body = next(bodies(kind, name, path == "/embeddings"))
                    httpx.post(f"{address}{path}", json=body, timeout=120).raise_for_status()
                servers.append(Server(title, address, path))
            except (RuntimeError, httpx.HTTPError) as error:
                problems.append(f"{title} does not serve this model: {(str(error).splitlines() or ['?'])[-1][:200]}")
        yield servers, problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--infinity", metavar="COMMAND")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each turn (default: %(default)s)")
    parser.add_argument("--large", type=int, metavar="TEXTS", help="measure what large requests cost small ones")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or str(write_clip(Path(scratch) / "clip"))
        if arguments.large:
            compare_crowds(model, arguments.large, arguments.seconds)
            return
        rows, problems = compare(model, arguments.infinity, arguments.seconds)
    print("\n".join(problems))
    if arguments.write:
        RESULTS.write_text("\n".join([*head(arguments), *rows, *problems, ""]), encoding="utf-8")


def compare(model: str, infinity: str | None, seconds_of_turn: float) -> tuple[list[str], list[str]]:
    """Return the rows of the table, and a line for each server that does not serve the model."""
    folder = Path(model)
    name = folder.resolve().name if folder.exists() else model
    rows = []
    with all_running(model, name, infinity) as (servers, problems):
        for kind, clients in itertools.product(KINDS, CLIENTS):
            totals = {server.name: [0.0, []] for server in servers}
            for server in [*servers, *reversed(servers)]:
                source = bodies(kind, name, server.path == "/embeddings")
                elapsed, seconds = asyncio.run(measure(server, clients, source, seconds_of_turn))
                totals[server.name][0] += elapsed
                totals[server.name][1] += seconds
            first = None
            for title, (elapsed, seconds) in totals.items():
                rate = len(seconds) / elapsed
                first = first or rate
                p50, p99 = np.percentile(seconds, [50, 99]) * 1000
                figures = f"{rate:.1f} | {rate / first:.2f} | {p50:.0f} | {p99:.0f}"
                rows.append(f"| {kind} | {clients} | {title} | {figures} |")
                print(rows[-1], flush=True)
    return rows, problems


def write_clip(folder: Path) -> Path:
    """Write OpenAI's ViT-B/32 with random weights and its tokenizer, as transformers lays them out."""
    import transformers

    torch.manual_seed(0)
    transformers.CLIPModel(transformers.CLIPConfig()).save_pretrained(folder)
    transformers.CLIPImageProcessor().save_pretrained(folder)
    merges = gzip.decompress((resources.files("open_clip") / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    pairs = merges.splitlines()[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in pairs)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]), encoding="utf-8")
    special = {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 77}
    special |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")
    return folder


def head(arguments: argparse.Namespace) -> list[str]:
    paths = ("src/worldclip/plugins/server", "src/worldclip/model/inference.py", "src/worldclip/model/forward.py")
    return [
        "# Server",
        "",
        make_head(paths, ("torch", "starlette", "uvicorn", "httpx")),
        "",
        "The clients use the same cores. ViT-B/32 with random weights (OpenAI's CLIP in transformers' layout), float32 "
        "where nothing else is said, one thread per server. One input per request; all servers are up and take turns "
        f"twice, {arguments.seconds:g} s each.",
        "",
        "| input | clients | server | requests / s | of worldclip | p50, ms | p99, ms |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]


if __name__ == "__main__":
    main()
