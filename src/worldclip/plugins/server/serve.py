"""Load a model once, and answer requests until the process is told to stop."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from worldclip.core import job_files
from worldclip.core.command import Command
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute.shards import raise_file_limit
from worldclip.core.preflight import require_packages
from worldclip.core.settings import read_toml
from worldclip.export.embedded import open_embedded
from worldclip.language.identify import identify_codes
from worldclip.model import load as model_load
from worldclip.plugins.server.collections import Collections
from worldclip.pool.config import POOL_BUILDERS, builder_module

KEY_VARIABLE = "WORLDCLIP_API_KEY"
KEY_FILE_VARIABLE = "WORLDCLIP_API_KEY_FILE"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def serve(
    model: str,
    embedded: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    access_log: bool = False,
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
    api_key: key that clients must send as a bearer token (default: the environment's WORLDCLIP_API_KEY, or the content
        of the file that WORLDCLIP_API_KEY_FILE names, else none).
    access_log: write one line of JSON per request to standard output, without texts and keys.
    pool: where the embedded pool is now, if it moved.
    pictures_from: folders and URLs whose pictures the page shows (default: the local folders of the embedded pool).

    Raises UserError where the model did not embed the folder, the port is taken, or no request can match the key.

    Examples:
        worldclip serve runs/emoji embedded
        worldclip serve runs/emoji embedded --port 8080
    """
    require_packages("serve", extra="serve")
    from worldclip.plugins.server.app import create_app
    from worldclip.plugins.server.connections import Server, listen, server_config
    from worldclip.plugins.server.metrics import Metrics
    from worldclip.plugins.server.read_request import Limits
    from worldclip.plugins.server.service import Service

    raise_file_limit()
    key = read_key(api_key)
    with listen(host, port) as listener:
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
        limits = Limits()
        metrics = Metrics()
        name = Path(model).resolve().name if Path(model).exists() else model  # a folder's or file's, or a hub id
        service = Service(clip, name, collections, limits, metrics)
        service.knows = knows(Path(model))
        shown_host = f"[{host}]" if ":" in host else host
        hosts = LOCAL_NAMES | {shown_host} if _is_local(host) else None
        log = sys.stdout if access_log else None
        server = Server(server_config(create_app(service, limits, metrics, api_key=key, hosts=hosts, access_log=log)))
        say("serve", f"http://{shown_host}:{listener.getsockname()[1]}  (stop with Ctrl-C)")
        if key is None and hosts is None:
            say("serve", f"{host}: anybody who reaches this machine may use it; a key restricts that (--api-key KEY)")
        server.run(sockets=[listener])
    # not by the interpreter's own end: it took 6 s under a load of 15, and aborts a batch that runs in C++ (SIGABRT)
    os._exit(1 if server.num_unanswered else 0)


def read_key(flag: str | None) -> str | None:
    """Return the key that clients must send: of --api-key, otherwise of the environment or of the file that it names.

    Raises UserError where the environment names two, and for a key that no request can match.
    """
    variables = [name for name in (KEY_VARIABLE, KEY_FILE_VARIABLE) if name in os.environ]
    if flag is not None:
        return _checked_key("--api-key", flag)
    if len(variables) == 2:
        raise UserError(f"{KEY_VARIABLE} and {KEY_FILE_VARIABLE} are both set; unset one")
    if not variables:
        return None
    name = variables[0]
    value = os.environ[name]
    if name == KEY_VARIABLE:
        return _checked_key(name, value)
    try:
        content = Path(value).read_bytes()
    except OSError as error:
        raise UserError(f"{name} = {value!r}: cannot be read ({error.strerror}); give a file with the key") from error
    return _checked_key(f"{name} = {value!r}", content.decode(errors="replace").rstrip("\r\n"))


def _checked_key(source: str, key: str) -> str:
    """Return a key.  Raises UserError, which does not repeat it, for one that no header of a request can hold."""
    problems = []
    if not key:
        problems.append("the key is empty, which would let everybody in")
    elif key != key.strip():
        problems.append("the key begins or ends with a blank or a line break, which HTTP removes")
    if not key.isascii():
        problems.append("the key has characters that are not ASCII, which clients encode in different ways")
    elif not key.strip().isprintable():
        problems.append("the key has a line break or a control character, which no header can hold")
    if problems:
        raise UserError([f"{source}: {problem}; use letters and digits" for problem in problems])
    return key


def knows(model: Path) -> str:
    """Return the only pictures that the model of a drawn pool knows, "" for another model."""
    if not model.exists():
        return ""
    for folder in (model, *model.resolve().parents[:2]):
        recipe = job_files.recipe(folder)
        if recipe.is_file():
            pool = read_toml(recipe).get("pool")
            build = pool.get("build") if isinstance(pool, dict) else None
            if build in POOL_BUILDERS:
                return str(getattr(builder_module(build), "KNOWS", ""))
            return ""
    return ""


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SERVE = Command(serve, lambda nothing, flags: "", positional=("embedded",))
"""Serve a search page and an API in OpenAI's shape; the model stays loaded."""
