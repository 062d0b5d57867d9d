"""Load a model once, and answer requests until the process is told to stop."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from socket import socket

from worldclip.core import job_files
from worldclip.core.command import Command
from worldclip.core.console import say
from worldclip.core.execute.shards import raise_file_limit
from worldclip.core.preflight import require_packages
from worldclip.core.toml_files import read_toml
from worldclip.export.embedded import open_embedded
from worldclip.language.identify import identify_codes
from worldclip.model import load as model_load
from worldclip.model.inference import Clip
from worldclip.plugins.server.collections import Collections
from worldclip.pool.config import POOL_BUILDERS

KEY_VARIABLE = "WORLDCLIP_API_KEY"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def serve(
    model: str,
    embedded: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    pool: Sequence[str] = (),
    pictures_from: Sequence[str] = (),
    arch: str | None = None,
    tokenizer: str | None = None,
    precision: str | None = "auto",
    device: str = "auto",
) -> None:
    """Serve a search page and an API in OpenAI's shape; Ctrl-C or SIGTERM stops after the requests under way,
    at the latest after 10 s.

    embedded: folder that `worldclip embed MODEL POOL --out DIR` wrote, to search in.
    host: address to listen on; 0.0.0.0 is every network of this machine.
    port: port to listen on; 0 takes a free one.
    api_key: key that clients must send as a bearer token (default: the environment's WORLDCLIP_API_KEY, else none).
    pool: where the embedded pool is now, if it moved.
    pictures_from: folders and URLs whose pictures the page shows (default: the local folders of the embedded pool).

    Raises UserError where the model did not embed the folder, or the port is taken.

    Examples:
        worldclip serve runs/emoji embedded
        worldclip serve runs/emoji embedded --port 8080
    """
    require_packages("serve", extra="serve")
    from worldclip.plugins.server.connections import listen

    raise_file_limit()
    listener = listen(host, port)
    with listener:
        if embedded is not None:
            # refuses a folder without embeddings before the model is loaded
            open_embedded(embedded, pictures_from=pictures_from, pool=pool)
        say("serve", f"loads {model}")
        clip = model_load.load(model, device, arch=arch, tokenizer=tokenizer, precision=precision)
        collections = None
        if embedded is not None:
            collections = Collections(embedded, clip, model, pictures_from=pictures_from, pool=pool)
            images = collections.current().kinds.get("images")
            if images:
                say("serve", images.remark or images.places_text)
        identify_codes(["loads the model that tells the language of captions"])
        num_unanswered = _answer(clip, model, collections, listener, host, api_key)
    # not by the interpreter's own end: it took 6 s under a load of 15, and aborts a batch that runs in C++ (SIGABRT)
    os._exit(1 if num_unanswered else 0)


def _answer(
    clip: Clip, model: str, collections: Collections | None, listener: socket, host: str, api_key: str | None
) -> int:
    """Answer requests until a signal stops the server; return the number of those without an answer."""
    from worldclip.plugins.server.app import create_app
    from worldclip.plugins.server.connections import Server, server_config
    from worldclip.plugins.server.metrics import Metrics
    from worldclip.plugins.server.read_request import Limits
    from worldclip.plugins.server.service import Service

    limits = Limits()
    metrics = Metrics()
    name = Path(model).resolve().name if Path(model).exists() else model  # a folder's or file's, or a hub id
    service = Service(clip, name, collections, limits, metrics)
    service.knows = knows(Path(model))
    key = api_key or os.environ.get(KEY_VARIABLE) or None
    shown_host = f"[{host}]" if ":" in host else host
    hosts = LOCAL_NAMES | {shown_host} if _is_local(host) else None
    app = create_app(service, limits, metrics, api_key=key, hosts=hosts)
    say("serve", f"http://{shown_host}:{listener.getsockname()[1]}  (stop with Ctrl-C)")
    if key is None and hosts is None:
        say("serve", f"{host}: anybody who reaches this machine may use it; --api-key KEY restricts that")
    server = Server(server_config(app))
    server.run(sockets=[listener])
    return server.num_unanswered


def knows(model: Path) -> str:
    """Return the only pictures that the model of a drawn pool knows, "" for another model."""
    if not model.exists():
        return ""
    for folder in (model, *model.resolve().parents[:2]):
        recipe = job_files.recipe(folder)
        if recipe.is_file():
            pool = read_toml(recipe).get("pool")
            build = pool.get("build") if isinstance(pool, dict) else None
            if build in POOL_BUILDERS.names():
                return str(getattr(POOL_BUILDERS.load(build), "KNOWS", ""))
            return ""
    return ""


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SERVE = Command(serve, lambda nothing, flags: "", positional=("embedded",))
"""Serve a search page and an API in OpenAI's shape; the model stays loaded."""
