"""The server's work without HTTP: embed, classify, search and show pairs, over one loaded model.

D embed_dim, Q queries, N images, M labels.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.core.inputs import is_remote
from worldclip.core.job import Record
from worldclip.export.embedded import Embedded, folder_and_file, path_in_pool
from worldclip.language import table as languages
from worldclip.language.identify import identify_codes
from worldclip.model.inference import Clip
from worldclip.model.labels import label_features, label_sentences, probabilities
from worldclip.plugins.server.batches import Answer, Busy, Item, SharedBatches
from worldclip.plugins.server.errors import ApiError, too_busy
from worldclip.plugins.server.metrics import Metrics
from worldclip.plugins.server.read_request import Limits, Picture
from worldclip.tools.search import FEW_QUERIES, nearest

MAX_BATCH = 64  # texts and pictures per batch: as many as one forward pass takes
PIXELS_AT_ONCE = 100_000_000  # decoded together: 300 MB as 24-bit RGB
MAX_CAPTION_CHARS = 1000  # characters of a hit's text; /v1/pairs has all of it
UNREADABLE = "is not a picture that can be read"


Query = tuple[np.ndarray, int]
"""A (D,) vector and the number of rows nearest to it that are searched for."""
Hits = tuple[np.ndarray, np.ndarray]
"""The ids and scores of the nearest rows of one query, best first."""


class Service:
    """One model, and the folders that it embedded, by `images` and `texts`."""

    knows = ""  # the only pictures that a demo's model knows

    def __init__(
        self, clip: Clip, name: str, collections: dict[str, Embedded], limits: Limits, metrics: Metrics
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
        self._searches: dict[str, SharedBatches[Query, Hits]] = {}
        for of, embedded in collections.items():
            search = functools.partial(_search, embedded)
            self._searches[of] = SharedBatches(search, max_batch=FEW_QUERIES, max_waiting=limits.waiting, divides=False)
        self._pools: set[Path] = set()
        images = collections.get("images")
        if images:
            self._pools = {Path(place) for place in images.places if not is_remote(place)}
        if collections:
            folder = next(iter(collections.values())).folder
            metrics.watch(folder, lambda: {of: len(embedded) for of, embedded in collections.items()})
        metrics.waiting.set_function(lambda: self._encoding.num_waiting)

    def problems(self) -> list[str]:
        """Return what keeps the server from searching: folders that are gone."""
        folders = sorted({embedded.folder for embedded in self.collections.values()} | self._pools)
        return [f"the folder {path.name!r} is gone; restore it or embed again" for path in folders if not path.is_dir()]

    def _require_folders(self, error: Exception) -> None:
        """Raise ApiError where a folder that is gone explains an error."""
        problems = self.problems()
        if problems:
            raise ApiError(503, problems) from error

    async def embed(self, items: Sequence[str | Picture], param: str = "input") -> np.ndarray:
        """Return (len(items), D) float32 embeddings of unit length.  Raises ApiError that names unusable pictures."""
        rows = await _answers(self._encoding, items)
        problems = [f"{param}[{i}]: {row}" for i, row in enumerate(rows) if isinstance(row, str)]
        if problems:
            raise ApiError(400, problems, param=param)
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

    async def search(self, of: str, query_QD: np.ndarray, top: int) -> list[list[Record]]:
        """Return the hits of each query, best first."""
        queries: list[Query] = [(vector, top) for vector in query_QD]
        try:
            all_hits: list[Hits] = await _answers(self._searches[of], queries)
            return await asyncio.to_thread(self._describe, self.collections[of], all_hits)
        except (OSError, ValueError, RuntimeError) as error:  # UserError and BadShard are among them
            self._require_folders(error)
            raise

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
            described.append({"shard": row["shard"], "key": row["key"], "path": path_in_pool(row), **caption})
        answers: list[list[Record]] = []
        start = 0
        for ids, scores in all_hits:
            end = start + len(ids)
            facts = zip(ids.tolist(), scores.tolist(), described[start:end], strict=True)
            answers.append([{"id": row_id, "score": score, **pair} for row_id, score, pair in facts])
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

    def pair(self, of: str, row_id: int) -> Record:
        """Return one row with its texts, of an image also where it lies.  Raises ApiError for an unknown row."""
        embedded, row = self._row(of, row_id)
        pair: Record = {"id": row_id, "shard": row["shard"], "key": row["key"], "path": path_in_pool(row)}
        if of == "texts":
            return {**pair, "texts": self.with_language([row["text"]])}
        folder, file = folder_and_file(row)
        texts = embedded.captions([row]).get((row["shard"], row["key"]), [])
        return {**pair, "folder": folder, "file": file, "bytes": row["size"], "texts": self.with_language(texts)}

    def picture(self, row_id: int) -> bytes:
        """Return the image file of one row.  Raises ApiError where it cannot be read."""
        embedded, row = self._row("images", row_id)
        try:
            return embedded.read_picture(row)
        except (OSError, ValueError, RuntimeError) as error:  # UserError and BadShard are among them
            self._require_folders(error)
            message = f"the picture of row {row_id} ({path_in_pool(row)}) cannot be read"
            if isinstance(error, UserError):
                message += f": {error}"
            raise ApiError(404, message) from error

    def _row(self, of: str, row_id: int) -> tuple[Embedded, dict[str, Any]]:
        embedded = self.collections.get(of)
        if embedded is None or not 0 <= row_id < len(embedded):
            raise ApiError(404, f"no row {row_id} of {of} here")
        try:
            return embedded, embedded.rows(np.array([row_id]))[0]
        except (OSError, ValueError, RuntimeError) as error:
            self._require_folders(error)
            raise


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


def _search(embedded: Embedded, queries: Sequence[Query]) -> list[Hits]:
    """Search for all queries in one pass over the rows; each gets as many results as it asked for."""
    vectors, tops = zip(*queries, strict=True)
    ids, scores = nearest(embedded.parts, np.stack(vectors), max(tops))
    return [(ids[i, :top], scores[i, :top]) for i, top in enumerate(tops)]


def mean_vector(query_QD: np.ndarray) -> np.ndarray:
    """Return (1, D) of unit length: the mean of several queries.  Raises ApiError where they cancel out."""
    total = query_QD.sum(axis=0, keepdims=True)
    norm = np.linalg.norm(total)
    if norm < 1e-6:
        raise ApiError(400, "the queries cancel each other out; search for them one by one", param="input")
    mean: np.ndarray = total / norm
    return mean


def sentences_of(labels: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Return the sentences of each label.  Raises ApiError for templates without a place for the label."""
    try:
        return label_sentences(labels, tuple(templates))
    except ValueError as error:
        problems = getattr(error, "problems", [str(error)])
        raise ApiError(400, problems, param="templates") from error
