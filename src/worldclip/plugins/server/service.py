"""The server's work without HTTP: embed, classify, search and show pairs, over one loaded model.

D embed_dim, Q queries, N images, M labels.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from worldclip.core.errors import UserError
from worldclip.core.job import Record, Report
from worldclip.export.embedded import Embedded
from worldclip.language import table as languages
from worldclip.language.identify import identify_codes
from worldclip.model.inference import Clip, label_features, probabilities
from worldclip.plugins.server.batches import Answer, Busy, Item, SharedBatches
from worldclip.plugins.server.collections import Collections, Version
from worldclip.plugins.server.errors import ApiError, too_busy
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import Limits, Picture
from worldclip.pool.config import Where
from worldclip.tools.search import FEW_QUERIES, nearest

MAX_BATCH = 64  # texts and pictures per batch: as many as one forward pass takes
PIXELS_AT_ONCE = 100_000_000  # decoded together: 300 MB as 24-bit RGB
START_PICTURES = 10
MAX_CAPTION_CHARS = 1000  # characters of a hit's text; /v1/pairs has all of it
UNREADABLE = "is not a picture that can be read"


@dataclass(frozen=True, slots=True)
class Query:
    """A search for the `top` rows nearest to a (D,) vector."""

    embedded: Embedded
    vector: np.ndarray
    top: int
    is_chosen: np.ndarray | None
    """(N,) bool: the rows that are searched; None for all."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows a request searches, by default all: the arguments of Embedded.select."""

    where: Where = ()
    keys: tuple[str, ...] | None = None
    path_prefix: str = ""


EVERY_ROW = Selection()
Hits = tuple[np.ndarray, np.ndarray]
"""The numbers and scores of the nearest rows of one query, best first."""
Result = TypeVar("Result")


class Service:
    """One model, and the folder that it embedded."""

    knows = ""  # the only pictures that a demo's model knows

    def __init__(
        self, clip: Clip, name: str, collections: Collections | None, limits: Limits, metrics: Metrics
    ) -> None:
        self.clip = clip
        self.name = name
        self.collections = collections
        self._encoding: SharedBatches[str | Picture, np.ndarray | str] = SharedBatches(
            functools.partial(encode, clip),
            max_batch=MAX_BATCH,
            max_waiting=limits.waiting,
            on_batch=metrics.batch_items.observe,
        )
        self._searching: SharedBatches[Query, Hits] = SharedBatches(
            _search, max_batch=FEW_QUERIES, max_waiting=limits.waiting, divides=False
        )
        if collections is not None:
            metrics.watch(collections.folder, lambda: self.sizes)
        metrics.waiting.set_function(lambda: self._encoding.num_waiting)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of rows of each kind that can be searched."""
        return {} if self.collections is None else dict(self.collections.current().sizes)

    @property
    def columns(self) -> dict[str, list[Record]]:
        """Return the columns that searches filter by, of each kind, as Version.describe_columns."""
        if self.collections is None:
            return {}
        version = self.collections.current()
        return {of: version.describe_columns(of) for of in version.kinds}

    @property
    def has_columns(self) -> bool:
        """Whether searches filter by columns of the pool."""
        return self.collections is not None and any(
            embedded.columns for embedded in self.collections.current().kinds.values()
        )

    def start_ids(self) -> list[str]:
        """Return the ids of a few pictures from all over the folder, which the page shows before the first search.

        Empty where the folder is gone: the page opens, and says so at the first search.
        """
        if not self.sizes.get("images") or self.problems():
            return []

        def spread(version: Version, embedded: Embedded) -> list[str]:
            rows = np.unique(np.linspace(0, len(embedded) - 1, START_PICTURES).astype(np.int64))
            return [row["id"] for row in embedded.rows(rows)]

        return self._with_version("images", spread)

    def problems(self) -> list[str]:
        """Return what keeps the server from searching."""
        if self.collections is None:
            return []
        self.collections.current()
        folder = self.collections.folder
        if not folder.is_dir():
            return [f"the folder {folder.name!r} is gone; restore it or embed again"]
        return [self.collections.problem] if self.collections.problem else []

    def remarks(self) -> list[str]:
        """Return why no pictures are shown; the server searches nevertheless."""
        if self.collections is None:
            return []
        kinds = self.collections.current().kinds.values()
        return [embedded.remark for embedded in kinds if embedded.remark]

    def _with_version(self, of: str, work: Callable[[Version, Embedded], Result]) -> Result:
        """Return what `work` makes of one version of the folder, of the next one if files of it went meanwhile.

        Raises ApiError where there is no such folder any more.
        """
        assert self.collections is not None
        version = self.collections.current()
        while True:
            try:
                return work(version, _kind(version, of))
            except (OSError, ValueError, RuntimeError) as error:  # UserError and BadShard are among them
                version = self._next_version(version, error)

    def _next_version(self, version: Version, error: Exception) -> Version:
        """Return a newer version, which may explain an error.  Raises ApiError or the error where there is none."""
        assert self.collections is not None
        newer = self.collections.current(at_once=True)
        if newer is version:
            problems = self.problems()
            if problems:
                raise ApiError(503, problems) from error
            raise error
        return newer

    async def embed(self, items: Sequence[str | Picture]) -> np.ndarray:
        """Return (len(items), D) float32 embeddings of unit length.  Raises ApiError that names unusable pictures."""
        rows = await _answers(self._encoding, items)
        problems = [f"input[{i}]: {row}" for i, row in enumerate(rows) if isinstance(row, str)]
        if problems:
            raise ApiError(400, problems, param="input")
        return np.stack([row for row in rows if isinstance(row, np.ndarray)])

    async def classify(
        self, pictures: Sequence[str | Picture], labels: Sequence[str], sentences: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Return (N, M) float32 probabilities of the labels, each described by its sentences, for each picture."""
        items = list(pictures)
        for group in sentences:
            items += group
        features = await self.embed(items)
        label_MD = label_features(features[len(pictures) :], sentences)
        return probabilities(features[: len(pictures)], label_MD, self.clip.logit_scale)

    async def search(
        self, of: str, query_QD: np.ndarray, top: int, selection: Selection = EVERY_ROW
    ) -> list[list[Record]]:
        """Return the hits of each query, best first, all of one version of the folder.

        Raises ApiError for conditions that cannot be asked.
        """
        assert self.collections is not None
        version = await asyncio.to_thread(self.collections.current)
        while True:
            try:
                embedded = _kind(version, of)
                is_chosen = None
                if selection != EVERY_ROW:
                    is_chosen = await asyncio.to_thread(_select, embedded, selection)
                queries = [Query(embedded, vector, top, is_chosen) for vector in query_QD]
                all_hits: list[Hits] = await _answers(self._searching, queries)
                return await asyncio.to_thread(self._describe, embedded, all_hits)
            except (OSError, ValueError, RuntimeError) as error:  # UserError and BadShard are among them
                version = await asyncio.to_thread(self._next_version, version, error)

    def _describe(self, embedded: Embedded, all_hits: Sequence[Hits]) -> list[list[Record]]:
        """Return what the rows of hits are, with a caption where the folder holds texts, and its language."""
        rows = embedded.rows(np.concatenate([ids for ids, _ in all_hits]))
        captions = embedded.captions(rows)
        texts = []
        for row in rows:
            text = row["text"] if "text" in row else captions.get((row["shard"], row["key"]), [""])[0]
            if len(text) > MAX_CAPTION_CHARS:
                text = f"{text[:MAX_CAPTION_CHARS]}\N{HORIZONTAL ELLIPSIS}"
            texts.append(text)
        described = []
        for row, caption in zip(rows, self.with_language(texts), strict=True):
            described.append({**_names(row), **caption})
        answers: list[list[Record]] = []
        start = 0
        for ids, scores in all_hits:
            end = start + len(ids)
            hits: list[Record] = []
            for score, pair in zip(scores.tolist(), described[start:end], strict=True):
                hits.append({"id": pair["id"], "score": score, **pair})
            answers.append(hits)
            start = end
        return answers

    def with_language(self, texts: Sequence[str]) -> list[Record]:
        """Return {"text", "lang", "lang_name"} of each text, by language identification; lang is "" for no text."""
        by_code = languages.by_code()
        captions: list[Record] = []
        for text, code in zip(texts, identify_codes(list(texts)), strict=True):
            name = by_code[code].name if code in by_code else ""
            captions.append({"text": text, "lang": code, "lang_name": name})
        return captions

    def pair(self, of: str, row_id: str) -> Record:
        """Return one row with its texts, of an image also its size.  Raises ApiError for an unknown id."""
        return self._with_row(of, row_id, self._pair)

    def _pair(self, embedded: Embedded, row: Report) -> Record:
        if embedded.of == "texts":
            return {**_names(row), "texts": self.with_language([row["text"]])}
        texts = embedded.captions([row]).get((row["shard"], row["key"]), [])
        num_bytes = row["size"] if row["size"] >= 0 else None  # a table does not say how large its images are
        return {**_names(row), "bytes": num_bytes, "texts": self.with_language(texts)}

    def picture(self, row_id: str) -> bytes:
        """Return the image file of one row.  Raises ApiError where it cannot be read."""
        return self._with_row("images", row_id, self._picture)

    def _picture(self, embedded: Embedded, row: Report) -> bytes:
        try:
            return embedded.read_picture(row)
        except (OSError, ValueError, RuntimeError) as error:  # UserError and BadShard are among them
            if embedded.remark:
                raise ApiError(503, embedded.remark) from error
            reason = "it changed or went since it was embedded; embed the pool again"
            if not embedded.may_read(row):
                reason = "its file lies outside of the folders that the server reads; start it with --pictures-from"
            raise ApiError(404, f"the picture {row['path']} cannot be read: {reason}") from error

    def _with_row(self, of: str, row_id: str, work: Callable[[Embedded, Report], Result]) -> Result:
        if self.collections is None:
            raise ApiError(404, f"no {of} here: start the server with an embedded folder")
        folder = self.collections.folder.name

        def answer(version: Version, embedded: Embedded) -> Result:
            row = version.find(embedded.of, row_id)
            if row is None:
                problem = f"the folder {folder!r} has no {of.removesuffix('s')} with the id {row_id}"
                raise ApiError(404, f"{problem}: it left the pool, or the id is of another folder; search again")
            return work(embedded, embedded.rows(np.array([row]))[0])

        return self._with_version(of, answer)


def _names(row: Report) -> Record:
    """Return what a client learns of a row: nothing of the server's folders."""
    names: dict[str, Any] = {"id": row["id"], "shard": row["shard"], "key": row["key"], "path": row["path"]}
    if "columns" in row:
        names["columns"] = row["columns"]
    return names


def _kind(version: Version, of: str) -> Embedded:
    """Return the images or the texts of a version.  Raises ApiError where it has none."""
    for kind, embedded in version.kinds.items():
        if kind == of:
            return embedded
    raise ApiError(404, f"no {of} here: the folder holds {' and '.join(version.kinds)}")


async def _answers(batches: SharedBatches[Item, Answer], items: Sequence[Item]) -> list[Answer]:
    """Return the answers to one request.  Raises ApiError where the server has enough to do."""
    try:
        future: Future[list[Answer]] = batches.submit(items)
    except Busy as error:
        raise too_busy(error.retry_after) from error
    return await asyncio.wrap_future(future)


def encode(clip: Clip, items: Sequence[str | Picture]) -> list[np.ndarray | str]:
    """Return the (D,) embedding of each text and picture, or the reason why a picture cannot be used.

    Equal texts run once.  Pictures are decoded PIXELS_AT_ONCE pixels at a time.
    """
    answers: list[np.ndarray | str] = [UNREADABLE] * len(items)
    texts = list(dict.fromkeys(item for item in items if isinstance(item, str)))
    by_text = dict(zip(texts, clip.encode_text(texts), strict=True)) if texts else {}
    for i, item in enumerate(items):
        if isinstance(item, str):
            answers[i] = by_text[item]
    pictures = [(i, item) for i, item in enumerate(items) if isinstance(item, Picture)]
    for group in _groups(pictures):
        features, reasons = clip.encode_each([picture.content for _, picture in group])
        for row, (i, _) in enumerate(group):
            answers[i] = reasons.get(row, features[row])
    return answers


def _groups(pictures: Sequence[tuple[int, Picture]]) -> Iterator[list[tuple[int, Picture]]]:
    """Yield pictures in groups of at most MAX_BATCH pictures and PIXELS_AT_ONCE pixels, or of a single larger one."""
    group: list[tuple[int, Picture]] = []
    pixels = 0
    for i, picture in pictures:
        if group and (len(group) == MAX_BATCH or pixels + picture.num_pixels > PIXELS_AT_ONCE):
            yield group
            group = []
            pixels = 0
        group.append((i, picture))
        pixels += picture.num_pixels
    if group:
        yield group


def _select(embedded: Embedded, selection: Selection) -> np.ndarray:
    """Return which rows are searched: (N,) bool.  Raises ApiError for conditions that cannot be asked."""
    try:
        return embedded.select(selection.where, selection.keys, selection.path_prefix)
    except UserError as error:
        for param in ("filter", "path_prefix"):
            if error.problems[0].startswith(param):
                raise ApiError(400, list(error.problems), param=param) from error
        raise


def _search(queries: Sequence[Query]) -> list[Hits]:
    """Search for all queries of one selection in one pass over its rows; each gets as many results as it asked for."""
    hits: list[Hits] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(queries)
    passes: dict[tuple[int, int], list[int]] = {}
    for i, query in enumerate(queries):
        passes.setdefault((id(query.embedded), id(query.is_chosen)), []).append(i)
    for chosen in passes.values():
        first = queries[chosen[0]]
        vectors = np.stack([queries[i].vector for i in chosen])
        most = max(queries[i].top for i in chosen)
        ids, scores = nearest(first.embedded.parts, vectors, most, first.is_chosen)
        for position, i in enumerate(chosen):
            top = queries[i].top
            hits[i] = (ids[position, :top], scores[position, :top])
    return hits
