"""Texts, images and rows of shards spread over a pool, and the languages of the texts: what a draft is made from."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from worldclip.contracts.reasons import Reason
from worldclip.contracts.summary import REMEDIES
from worldclip.core.console import say
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.core.preflight import is_installed
from worldclip.kernels.llvm import is_compiled
from worldclip.language import table as languages
from worldclip.language.fasttext import kernels
from worldclip.language.identify import Identifier
from worldclip.model.decode import BadImage, decode
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import format_of
from worldclip.pool.pairs import read_shard
from worldclip.pool.read import image_places, read_members

NUM_TEXTS = 1000  # identified, to list the pool's languages
NUM_IMAGES = 20  # decoded, for the model's image size
MAX_SHARDS = 8  # opened for them


class PoolSample(NamedTuple):
    """Texts of shards spread over a pool."""

    texts: list[tuple[str, str]]
    """(text, language that the pool states or "")."""
    has_images: bool
    image_side: int | None
    """Median shorter side, in pixels, of the first images of a shard on this machine; None if none of them decodes."""
    unread: list[str]
    """Why shards were not read."""
    problems: list[str]
    """Why texts were not read."""
    rows: list[dict[str, Any]]
    """The first rows of a table, with all fields that JSON can hold; none of tars."""


def read_sample(shards: Sequence[Shard], config: PoolConfig) -> PoolSample:
    sample: list[tuple[str, str]] = []
    unread: list[str] = []
    problems: list[str] = []
    rows: list[dict[str, Any]] = []
    has_images = False
    image_side = None
    step = max(1, len(shards) // MAX_SHARDS)
    sampled = shards[::step][:MAX_SHARDS]
    for shard in sampled:
        try:
            settled = read_shard(shard, config)
        except BadShard as error:
            unread.append(f"{shard.name}: {error}")
            continue
        has_images |= len(settled.images) > 0
        if image_side is None and is_installed("PIL") and not is_remote(shard.path):
            sides = []  # shorter ones
            for image in read_members(image_places(shard, settled.images.slice(0, NUM_IMAGES))):
                if isinstance(image, BadShard):
                    continue
                with contextlib.suppress(BadImage):
                    sides.append(min(decode(image).shape[:2]))
            if sides:
                image_side = int(np.median(sides))
        table = format_of(shard.name)
        if not rows and table.is_table and table.read_rows is not None and not is_remote(shard.path):
            rows = list(table.read_rows(shard, config, np.arange(min(settled.counts["rows"], NUM_TEXTS))))
        read = settled.texts
        for bad in read.bad[:1]:
            problems += [f"{shard.name}, {bad['key']}: {bad['reason']}", REMEDIES[Reason.BAD_PAIR]]
        kept = pa.array(np.flatnonzero(read.reason == Reason.KEPT)[: -(-NUM_TEXTS // len(sampled))])
        stated = [""] * len(kept) if read.lang is None else read.lang.take(kept).to_pylist()
        sample += zip(read.text.take(kept).to_pylist(), stated, strict=True)
    return PoolSample(sample[:NUM_TEXTS], has_images, image_side, unread, problems, rows)


def count_languages(sample: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the number of texts by language, most frequent first: stated by the pool, or identified."""
    by_code = languages.by_code()
    codes = []
    without_label = []
    for text, label in sample:
        if label:
            codes.append(languages.code_of_stated(label, by_code, languages.INSTALLED))
        else:
            without_label.append(text)
    if without_label:
        if not is_compiled(kernels.predict):
            say("init", "compiles language identification for this processor, once per installation (10 to 20 s)")
        codes += [languages.from_lid(str(label)) for label in Identifier().predict(without_label)[0]]
    return dict(Counter(codes).most_common())
