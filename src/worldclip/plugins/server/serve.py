"""Load a model once, and answer requests until the process is told to stop."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute.shards import raise_file_limit
from worldclip.language.identify import identify_codes
from worldclip.model import load as model_load
from worldclip.model.inference import Clip
from worldclip.plugins.server.app import create_app
from worldclip.plugins.server.connections import BoundedProtocol
from worldclip.plugins.server.fetch_picture import fetch_picture
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import Limits
from worldclip.plugins.server.service import Collection, Service
from worldclip.pool.embedded import check_model, open_embedded
from worldclip.tools.search import open_ranking

KEY_VARIABLE = "WORLDCLIP_API_KEY"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS = 20  # for the requests under way; what still runs then is cancelled
BACKLOG = 128  # connections accepted in one go; asyncio accepts as many before it looks at the first


def serve(
    model: str,
    embedded: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    allow_urls: bool = False,
    layout: str | None = None,
    arch: str | None = None,
    tokenizer: str | None = None,
    precision: str | None = None,
    device: str = "auto",
) -> None:
    """Serve a search page and an API in OpenAI's shape; Ctrl-C or SIGTERM stops after the requests under way,
    at the latest after half a minute.

    embedded: folder that `worldclip embed MODEL POOL --out DIR` wrote, to search in.
    host: address to listen on; 0.0.0.0 is every network of this machine.
    port: port to listen on; 0 takes a free one.
    api_key: key that clients must send as a bearer token (default: the environment's WORLDCLIP_API_KEY, else none).
    allow_urls: fetch pictures from public addresses that clients name.

    Raises UserError where the model did not embed the folder, or the port is taken.
    """
    raise_file_limit()
    listener = _listen(host, port)
    with listener:
        clip = model_load.load(model, device, layout=layout, arch=arch, tokenizer=tokenizer, precision=precision)
        clip.require_tokenizer()
        collections = open_collections(embedded, clip, model)
        identify_codes(["loads the model that tells the language of captions"])
        limits, metrics = Limits(), Metrics()
        key = api_key or os.environ.get(KEY_VARIABLE) or None
        is_local = _is_local(host)
        shown_host = f"[{host}]" if ":" in host else host
        app = create_app(
            Service(clip, _name(model), collections, limits, metrics),
            limits,
            metrics,
            api_key=key,
            fetch=fetch_picture if allow_urls else None,
            hosts=LOCAL_NAMES | {shown_host} if is_local else None,
        )
        say("serve", f"http://{shown_host}:{listener.getsockname()[1]}  (stop with Ctrl-C)")
        if key is None and not is_local:
            say("serve", f"{host}: anybody who reaches this machine may use it; --api-key KEY restricts that")
        _Server(server_config(app)).run(sockets=[listener])
    say("serve", "stopped; the requests under way were answered")


def server_config(app: Starlette) -> uvicorn.Config:
    """Return the settings of the HTTP server: its bounds on connections, and on the time that stopping takes."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=BoundedProtocol,
        ws="none",
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


class _Server(uvicorn.Server):
    """A server that ends as any command does: uvicorn's own raises the signal again, which kills the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before: dict[signal.Signals, Any] = {number: signal.signal(number, self.handle_exit) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that holds the address, before the model is loaded.  Raises UserError where that fails."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from error
    # Accepted sockets inherit the option.  asyncio sets it only where the protocol number is IPPROTO_TCP, and that of
    # create_server is 0.  Without it an answer's body waits 40 ms for the client to acknowledge the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def open_collections(folder: Path | None, clip: Clip, model: str) -> dict[str, Collection]:
    """Return what a folder holds, images first.  Raises UserError where another model embedded it."""
    if folder is None:
        return {}
    kinds = open_embedded(folder).manifest["config"]["of"]
    opened = {of: open_embedded(folder, of) for of in ("images", "texts") if of in kinds}
    check_model(next(iter(opened.values())), clip, model, "serve that one")
    return {str(of): Collection(embedded, open_ranking(embedded)) for of, embedded in opened.items()}


def _name(model: str) -> str:
    """Return the model's name in the API: a folder's or file's own, or a hub id."""
    path = Path(model)
    return path.resolve().name if path.exists() else model


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
