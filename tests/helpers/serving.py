"""Serve a small random model and the pool that it embedded, in this process."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

import worldclip
from embedded_world import write_world
from stages import QUIET
from worldclip.plugins.server.app import create_app
from worldclip.plugins.server.connections import listen, server_config
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import Limits
from worldclip.plugins.server.serve import open_collections
from worldclip.plugins.server.service import Service
from worldclip.tools.embed import embed


def write_embedded_world(root: Path) -> None:
    """Write ROOT/model, ROOT/pool and ROOT/embedded with its images and texts."""
    write_world(root)
    embed(root / "model", root / "pool", root / "embedded", of=("images", "texts"), executor=QUIET)


@contextlib.contextmanager
def serving(
    root: Path, clip: Any = None, limits: Limits | None = None, *, has_folder: bool = True, **options: Any
) -> Iterator[str]:
    """Serve ROOT/model with ROOT/embedded, unless has_folder is False; yields the address."""
    clip = clip or worldclip.load(root / "model", device="cpu")
    limits, metrics = limits or Limits(), Metrics()
    collections = open_collections(root / "embedded" if has_folder else None, clip, "model")
    with serving_app(
        create_app(Service(clip, "model", collections, limits, metrics), limits, metrics, **options)
    ) as url:
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


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
