"""The routes of the server: a search page, /v1 in OpenAI's shape, pictures, health and metrics.

GET  /                      the search page            GET /static/NAME
POST /v1/embeddings         {"input": ...}             texts and pictures -> embeddings
POST /v1/classify           {"input": pictures, "labels": [...], "templates": [...]}
POST /v1/search             {"input": ..., "top": 20, "of": "images", "combine": false, "filter": [["price", "<", 20]]}
GET  /v1/models[/NAME]      the model's name           GET /v1/pairs/OF/ID   a pair with all its texts
GET  /pictures/ID           a picture; ?px=480 at most that large
GET  /v1/columns            the columns that a search filters by
GET  /healthz /metrics
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import usable_cores
from worldclip.model.decode import BadImage, open_image
from worldclip.model.inference import label_sentences
from worldclip.plugins.server.connections import unless_gone
from worldclip.plugins.server.errors import CLIENT_GONE, ApiError, unanswered
from worldclip.plugins.server.guard import Guard
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import (
    Budget,
    Limits,
    read_inputs,
    read_json,
    read_selection,
    read_text,
    require_known,
)
from worldclip.plugins.server.service import Selection, Service
from worldclip.plugins.style import search_style
from worldclip.report.images import MAX_BYTES, shrink

BYTES_PER_NUMBER = 64  # memory per number of an embedding on its way into JSON: array, list, text, bytes
# Up to here a thread takes longer to start than the work: of a body, and of an answer at BYTES_PER_NUMBER
SMALL_BYTES = 16 * 1024
SMALL_ANSWER_BYTES = 512 * 1024
STATIC = Path(__file__).parent / "static"
MAX_THUMBNAIL_PX = 1024
MAX_DIGITS = 18
MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}

Result = TypeVar("Result")
Work = Callable[[Any, bool], Coroutine[Any, Any, Response]]
"""(the parsed body of a request, whether it is small) -> its answer."""


def create_app(
    service: Service,
    limits: Limits,
    metrics: Metrics,
    *,
    api_key: str | None = None,
    hosts: frozenset[str] | None = None,
    access_log: TextIO | None = None,
) -> Starlette:
    """Return the application.

    api_key: what clients send as a bearer token.  hosts: names under which a browser may ask for it (None: any); a page
    elsewhere whose name resolves to this machine has another.  access_log: takes one line of JSON per request.
    """
    api = _Api(service, limits)
    routes = [
        Route("/", api.page),
        Route("/static/{name}", api.static),
        Route("/healthz", api.health),
        Route("/metrics", lambda request: Response(metrics.text(), media_type="text/plain; version=0.0.4")),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.models),
        Route("/v1/embeddings", api.post(api.embeddings), methods=["POST"]),
        Route("/v1/classify", api.post(api.classify), methods=["POST"]),
        Route("/v1/search", api.post(api.search), methods=["POST"]),
        Route("/v1/pairs/{of}/{id}", api.pair),
        Route("/v1/columns", api.columns),
        Route("/pictures/{id}", api.picture),
    ]
    paths = [route.path for route in routes]
    handlers: dict[Any, Any] = {
        ApiError: lambda request, error: error.response(),
        HTTPException: lambda request, error: unanswered(request, error, paths).response(),
        ClientDisconnect: lambda request, error: Response(status_code=CLIENT_GONE),
        Exception: _unexpected,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # a redirect would name the host that a proxy asked for, without its prefix
    app.add_middleware(Guard, metrics=metrics, api_key=api_key, hosts=hosts, access_log=access_log)
    return app


def _unexpected(request: Request, error: Exception) -> Response:
    say("serve", f"{request.url.path}: {type(error).__name__}: {error}")
    return ApiError(500, "the server failed on this request; its log says why").response()


class _Api:
    """The handlers of all routes."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self._service = service
        self._limits = limits
        self._budget = Budget(limits.bytes_in_flight)
        self._decoding = asyncio.Semaphore(usable_cores())  # bounds the pixels of pictures that are being shrunk

    # --- the API ------------------------------------------------------------------------------------------------------

    def post(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler that reads a JSON body within the limits and answers with `work`."""

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                raise ApiError(415, "send JSON: Content-Type: application/json")
            length = request.headers.get("content-length", "")
            if is_number(length) and int(length) > self._limits.body_bytes:
                raise self._too_large()
            with self._budget.taking() as take:  # as it arrives: a length is a promise, and costs its client nothing
                body, is_small = await self._read_json(request, take)
                answer = await unless_gone(request, work(body, is_small))
            request.state.held.enter_context(self._budget.take(len(answer.body)))
            return answer

        return handle

    async def _read_json(self, request: Request, take: Callable[[int], None]) -> tuple[Any, bool]:
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._limits.body_bytes:
                        raise self._too_large()
                    take(len(chunk))
                    chunks.append(chunk)
        except TimeoutError as error:
            raise ApiError(408, f"the body took longer than {self._limits.body_seconds:g} s to arrive") from error
        content = b"".join(chunks)
        chunks.clear()
        try:
            is_small = size <= SMALL_BYTES
            return await _call(read_json, content, self._limits, is_small=is_small), is_small
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the body is not valid JSON ({error})") from error

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is too large; at most {self._limits.body_bytes:,} bytes are allowed")

    async def embeddings(self, body: Any, is_small: bool) -> Response:
        """Answer POST /v1/embeddings."""
        body = require_known(body, ("input", "model", "encoding_format", "dimensions", "user"))
        self._check_model(body)
        dimensions = body.get("dimensions")
        if dimensions not in (None, self._service.clip.embed_dim):
            message = f"dimensions = {dimensions!r}: this model has {self._service.clip.embed_dim}; leave it out"
            raise ApiError(400, message, param="dimensions")
        form = body.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise ApiError(400, f"encoding_format = {form!r}: must be float or base64", param="encoding_format")
        items = await _call(read_inputs, body.get("input"), self._limits, is_small=is_small)

        def answer(rows: np.ndarray) -> Response:
            texts = [item for item in items if isinstance(item, str)]
            tokens = len(self._service.clip.tokenizer.encode(texts).ids) if texts else 0
            data = []
            for i, row in enumerate(rows):
                embedding: Any = row.tolist()
                if form == "base64":  # float32 little-endian, as OpenAI's clients ask for by default
                    embedding = base64.b64encode(row.astype("<f4").tobytes()).decode()
                data.append({"object": "embedding", "index": i, "embedding": embedding})
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return JSONResponse({"object": "list", "data": data, "model": self._service.name, "usage": usage})

        answer_bytes = len(items) * self._service.clip.embed_dim * BYTES_PER_NUMBER
        with self._budget.take(answer_bytes):
            rows = await self._service.embed(items)
            return await _call(answer, rows, is_small=is_small and answer_bytes <= SMALL_ANSWER_BYTES)

    async def classify(self, body: Any, is_small: bool) -> Response:
        """Answer POST /v1/classify."""
        body = require_known(body, ("input", "labels", "templates", "model"))
        self._check_model(body)
        labels = self._strings(body, "labels", None)
        templates = self._strings(body, "templates", ["{}"])
        try:
            sentences = label_sentences(labels, tuple(templates))
        except UserError as error:
            raise ApiError(400, error.problems, param="templates") from error
        num_sentences = sum(map(len, sentences))
        if num_sentences > self._limits.inputs:
            message = f"labels times templates are {num_sentences:,} sentences; at most {self._limits.inputs:,}"
            raise ApiError(400, message, param="labels")
        pictures = await _call(read_inputs, body.get("input"), self._limits, is_small=is_small)
        if any(isinstance(item, str) for item in pictures):
            raise ApiError(400, "input must be pictures: data URLs", param="input")
        data = []
        for i, row in enumerate(await self._service.classify(pictures, labels, sentences)):
            scores = [{"label": labels[m], "score": float(row[m])} for m in np.argsort(-row, kind="stable")]
            data.append({"object": "classification", "index": i, "scores": scores})
        return JSONResponse({"object": "list", "data": data, "model": self._service.name})

    def _strings(self, body: Any, param: str, default: list[str] | None) -> list[str]:
        values = body.get(param, default)
        if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
            raise ApiError(400, f"{param} must be a list of texts, with at least one", param=param)
        if len(values) > self._limits.inputs:
            raise ApiError(400, f"{param}: at most {self._limits.inputs:,} texts are allowed", param=param)
        try:
            return [read_text(value, self._limits) for value in values]
        except ValueError as error:
            raise ApiError(400, f"{param}: {error}", param=param) from error

    async def search(self, body: Any, is_small: bool) -> Response:
        """Answer POST /v1/search."""
        body = require_known(body, ("input", "top", "of", "combine", "filter", "keys", "path_prefix", "model"))
        self._check_model(body)
        names = list(self._service.sizes)
        if not names:
            raise ApiError(404, "nothing to search: start the server with an embedded folder")
        of = body.get("of")
        if of is None:
            of = names[0]
        if of not in names:
            raise ApiError(400, f"of = {of!r}: must be one of {', '.join(names)}", param="of")
        top = body.get("top", 20)
        combine = body.get("combine", False)
        if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= self._limits.top:
            raise ApiError(400, f"top = {top!r}: must be a whole number between 1 and {self._limits.top}", param="top")
        if not isinstance(combine, bool):
            raise ApiError(400, f"combine = {combine!r}: must be true or false", param="combine")
        selection = Selection(*read_selection(body))
        items = await _call(read_inputs, body.get("input"), self._limits, is_small=is_small)
        problems = [
            f"query {text!r} is blank; give words" for text in items if isinstance(text, str) and not text.strip()
        ]
        if problems:
            raise ApiError(400, problems, param="input")
        if not combine and len(items) * top > self._limits.hits:
            message = f"{len(items):,} inputs with top = {top} give more than {self._limits.hits:,} hits; send fewer"
            raise ApiError(400, message, param="top")
        query_QD = await self._service.embed(items)
        if combine:
            total_1D = query_QD.sum(axis=0, keepdims=True)
            norm = np.linalg.norm(total_1D)
            if norm < 1e-6:
                raise ApiError(400, "the queries cancel each other out; search for them one by one", param="input")
            query_QD = total_1D / norm
        hits = await self._service.search(of, query_QD, top, selection)
        data = [{"object": "search", "index": i, "hits": rows} for i, rows in enumerate(hits)]
        return JSONResponse({"object": "list", "of": of, "data": data, "model": self._service.name})

    def _check_model(self, body: Any) -> None:
        if body.get("model", self._service.name) != self._service.name:
            message = f"model = {body['model']!r} is not served here; this server has {self._service.name!r}"
            raise ApiError(404, message, param="model")

    async def models(self, request: Request) -> Response:
        """Answer GET /v1/models and /v1/models/NAME."""
        model = {"id": self._service.name, "object": "model", "created": 0, "owned_by": "worldclip"}
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [model]})
        self._check_model({"model": request.path_params["name"]})
        return JSONResponse(model)

    async def pair(self, request: Request) -> Response:
        """Answer GET /v1/pairs/OF/ID."""
        return JSONResponse(await run_in_threadpool(self._service.pair, request.path_params["of"], _row_id(request)))

    async def columns(self, request: Request) -> Response:
        """Answer GET /v1/columns: what searches filter by."""
        return JSONResponse(await run_in_threadpool(lambda: self._service.columns))

    # --- the page -----------------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Answer GET /."""
        return Response((STATIC / "index.html").read_bytes(), media_type="text/html")

    async def static(self, request: Request) -> Response:
        """Answer GET /static/NAME."""
        name = request.path_params["name"]
        if name == "page.css":
            return Response(search_style(), media_type="text/css")
        if name == "search.js":
            return Response((STATIC / name).read_bytes(), media_type="text/javascript")
        if name == "facts.json":
            return JSONResponse(await run_in_threadpool(self._facts))
        raise ApiError(404, f"no file {name!r} here")

    def _facts(self) -> dict[str, Any]:
        """Return what the page says of the server; nothing of the pictures themselves."""
        model = self._service.name
        if self._service.knows:
            model += f", which knows only {self._service.knows}"
        return {
            "model": model,
            "counts": self._service.sizes,
            "has_columns": self._service.has_columns,
            "start": self._service.start_ids(),
            "body_bytes": self._limits.body_bytes,
            "remarks": self._service.remarks(),
        }

    async def picture(self, request: Request) -> Response:
        """Answer GET /pictures/ID: the file as it is, or at most ?px= large."""
        px = request.query_params.get("px")
        if px is not None and not (is_number(px) and 1 <= int(px) <= MAX_THUMBNAIL_PX):
            raise ApiError(400, f"px = {px!r}: must be between 1 and {MAX_THUMBNAIL_PX}", param="px")
        row_id = _row_id(request)
        content, media_type = await unless_gone(request, self._decode_picture(row_id, px))
        request.state.held.enter_context(self._budget.take(len(content)))
        # The picture at a path may be replaced by another: browsers ask each time.
        headers = {"Cache-Control": "private, no-cache", "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    async def _decode_picture(self, row_id: str, px: str | None) -> tuple[bytes, str]:
        async with self._decoding:
            return await run_in_threadpool(self._read_picture, row_id, px)

    def _read_picture(self, row_id: str, px: str | None) -> tuple[bytes, str]:
        content = self._service.picture(row_id)
        try:
            media_type = MEDIA_TYPES.get(str(open_image(content).format))  # nothing but an image leaves the server
            if media_type is None or (px is not None and len(content) > MAX_BYTES):
                return shrink(content, int(px or MAX_THUMBNAIL_PX)), "image/jpeg"
        except BadImage as error:
            raise ApiError(404, f"the picture {row_id} cannot be shown ({error.detail})") from error
        return content, media_type

    async def health(self, request: Request) -> Response:
        """Answer GET /healthz: 503 where the server cannot search, and from SIGTERM on.

        `pictures` says why none are shown, where the folder with them is gone.
        """
        problems = await run_in_threadpool(self._service.problems)
        if getattr(request.state, "is_stopping", False):
            problems.append("the server stops")
        if problems:
            return JSONResponse({"status": "unavailable", "model": self._service.name, "problems": problems}, 503)
        remarks = await run_in_threadpool(self._service.remarks)
        health = {"status": "ok", "model": self._service.name, "embedded": self._service.sizes}
        return JSONResponse({**health, "pictures": "; ".join(remarks) or "ok"})


async def _call(function: Callable[..., Result], *arguments: Any, is_small: bool) -> Result:
    """Call a function: here, or in a thread where it would hold up other requests."""
    return function(*arguments) if is_small else await run_in_threadpool(function, *arguments)


def is_number(text: str) -> bool:
    """Return whether a text is a number in ASCII digits that fits 64 bits.

    `isdigit` takes other digits, which `int` does not read, nor more than 4,300 of them.
    """
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def _row_id(request: Request) -> str:
    row_id = request.path_params["id"]
    if not re.fullmatch("[0-9a-f]{16}", row_id):
        raise ApiError(404, f"{row_id[:MAX_DIGITS]!r} is no id: one has 16 hex digits, as in the hits of a search")
    return str(row_id)
