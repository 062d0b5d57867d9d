"""Serve a small random model and the pool that it embedded, in this process."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

import worldclip
from worldclip.plugins.server import service as of_service
from worldclip.plugins.server.app import create_app
from worldclip.plugins.server.collections import Collections
from worldclip.plugins.server.connections import listen, server_config
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import Limits
from worldclip.plugins.server.service import Service


def service_and_app(
    clip: Any, limits: Limits | None = None, collections: Any = None, **options: Any
) -> tuple[Service, Starlette]:
    """Return a service of a model, without a folder unless collections are given, and its application."""
    limits, metrics = limits or Limits(), Metrics()
    service = Service(clip, "model", collections, limits, metrics)
    return service, create_app(service, limits, metrics, **options)


@contextlib.contextmanager
def serving(
    root: Path, clip: Any = None, limits: Limits | None = None, *, has_folder: bool = True, **options: Any
) -> Iterator[str]:
    """Serve ROOT/model with ROOT/embedded, unless has_folder is False; yields the address."""
    clip = clip or worldclip.load(root / "model", device="cpu")
    collections = Collections(root / "embedded", clip, "model") if has_folder else None
    _, app = service_and_app(clip, limits, collections, **options)
    with serving_app(app) as url:
        yield url


@pytest.fixture(scope="module")
def address(world: Path, clip: Any) -> Iterator[str]:
    """The address of the embedded world behind a server."""
    with serving(world, clip) as url:
        yield url


@contextlib.contextmanager
def serving_app(app: Starlette) -> Iterator[str]:
    """Serve an application on a free port; yields the address."""
    server = uvicorn.Server(server_config(app))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def post(address: str, path: str, body: object) -> httpx.Response:
    """Send a body as JSON, lone surrogates too."""
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{address}/v1/{path}", content=json.dumps(body), headers=headers, timeout=60)


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


HEAD = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def connect(address: str, sent: bytes = b"", received_bytes: int | None = None) -> socket.socket:
    """Return a connection whose kernel takes up to `received_bytes`, None: as many as is usual."""
    host, _, port = address.removeprefix("http://").partition(":")
    client = socket.socket()
    client.settimeout(30)
    if received_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received_bytes)
    client.connect((host, int(port)))
    client.sendall(sent)
    return client


class HeldWork:
    """Work that waits for `release` at each batch; batches: the items of each."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.started.set()
        assert self.release.wait(60)
        return [2 * item for item in items]


def hold_model(monkeypatch: pytest.MonkeyPatch) -> HeldWork:
    """Let models wait from here on; return the work that they do."""
    work, encode = HeldWork(), of_service.encode

    def held(clip: Any, items: list[Any]) -> Any:
        work([0])
        work.batches[-1] = list(items)
        return encode(clip, items)

    monkeypatch.setattr(of_service, "encode", held)
    return work
