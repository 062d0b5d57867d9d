"""Measure how similar each text is to its image, and set a threshold for each language.

similarity/<shard>.parquet has a row per usable text: its language, and the cosine of both embeddings in four decimals.
Thresholds come from exact counts of these values, so a changed threshold embeds nothing again.

Legend: T usable texts of a shard, N images, D features, V possible values.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.context import CheckContext
from worldclip.check.text_rules import languages_of
from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import SIMILARITIES
from worldclip.core.artifacts import read_table, write_table
from worldclip.core.errors import BadShard
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, reads_input
from worldclip.model import decode
from worldclip.model.inference import Clip
from worldclip.model.worker import load_here, num_processes, one_thread

LOW_SIMILARITY = "low_similarity"
DECIMALS = 4
VALUES_V = np.round(np.arange(-(10**DECIMALS), 10**DECIMALS + 1) / 10**DECIMALS, DECIMALS)
AT_ONCE = 1024  # images or texts embedded together: bounds the memory


class LanguageSimilarity(TypedDict):
    """Similarities of a language's texts to their images."""

    texts: int
    below: int
    """Texts below the threshold; those that an earlier rule rejects are among them."""
    threshold: float
    deciles: list[float]
    """The similarity at 10%, 20%, ... 90% of the texts."""


class Similarities(TypedDict):
    """The similarities by the model of [similarity], by language."""

    unmeasured: int
    """Texts without an image that the model can use, which are not rejected."""
    pool_wide: list[str]
    """Languages with fewer than similarity.min_texts texts: their threshold is that of the whole pool."""
    by_language: dict[str, LanguageSimilarity]


def require_model(context: CheckContext, executor: Executor) -> None:
    """Raise UserError if the model cannot be loaded; called before any shard."""
    if context.similarity_model is None:
        return
    load_here(context.similarity_model)
    if not isinstance(executor, LocalExecutor) or executor.workers > 1:
        load_here.cache_clear()  # frees this process's copy; the workers load their own


def measure(context: CheckContext, shards: Sequence[Shard], executor: Executor) -> None:
    """Write similarity/<shard>.parquet for each shard."""
    assert context.similarity_model is not None
    source = context.similarity_model.source
    if isinstance(executor, LocalExecutor):
        executor = dataclasses.replace(executor, workers=min(executor.workers, num_processes("auto", source)))
    key = {
        "model": [source.layout, source.digest()],
        **({"lang": context.pool.lang} if context.pool.lang else {"lid_model": context.lid_model}),
        "pool": context.pool.identity_of_texts,
        "decoder": decode.VERSION,
    }
    run = functools.partial(_measure_shard, context=context)
    try:
        executor.map(run, shards, label="similarity", done_dir=layout.done_dir(context.folder, "similarity"), key=key)
    finally:
        load_here.cache_clear()


@reads_input
def _measure_shard(shard: Shard, *, context: CheckContext) -> Report:
    assert context.similarity_model is not None
    clip = load_here(context.similarity_model)
    pool_texts = pools.read_texts(shard, context.pool)
    kept = pa.array(np.flatnonzero(pool_texts.reason == Reason.KEPT))
    key, text_idx, texts = (column.take(kept) for column in (pool_texts.key, pool_texts.text_idx, pool_texts.text))
    stated = None if pool_texts.lang is None else pool_texts.lang.take(kept)
    index, images = pools.read_images(shard, context.pool)
    image_of_text = pc.index_in(key, index["key"].cast(key.type).combine_chunks()).fill_null(-1).to_numpy()
    with one_thread(context.similarity_model):
        similarity = cosines(clip, images, texts, image_of_text)
    columns = {
        "key": key,
        "text_idx": text_idx,
        "lang": pa.array(languages_of(texts, stated, context.lid_model, context.languages), pa.string()),
        "similarity": pa.array(similarity, pa.float32(), mask=np.isnan(similarity)),
    }
    write_table(context.table_path("similarity", shard), pa.table(columns), SIMILARITIES)
    return {"pairs": len(index)}


def cosines(clip: Clip, images: Iterator[bytes], texts: pa.Array, image_of_text: np.ndarray) -> np.ndarray:
    """Return the similarity of each text to its image, (T,) float64 in DECIMALS, NaN without a usable image.

    image_of_text: (T,) position of the text's image, -1 for none.
    """
    blocks = iter(lambda: list(itertools.islice(images, AT_ONCE)), [])
    nothing_D = np.full((1, clip.embed_dim), np.nan, np.float32)  # last, so that position -1 finds it
    images_ND = np.concatenate([*(clip.encode_each(block)[0] for block in blocks), nothing_D])
    cosine_T = np.full(len(texts), np.nan)
    for start in range(0, len(texts), AT_ONCE):
        texts_ND = clip.encode_text(texts.slice(start, AT_ONCE).to_pylist())
        own_images_ND = images_ND[image_of_text[start : start + AT_ONCE]]
        cosine_T[start : start + AT_ONCE] = np.einsum("nd,nd->n", own_images_ND, texts_ND, dtype=np.float64)
    rounded: np.ndarray = np.round(np.clip(cosine_T, -1, 1), DECIMALS)
    return rounded


# --- thresholds -------------------------------------------------------------------------------------------------------


def read_similarities(context: CheckContext, shard: Shard, num_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (languages (T,) object, similarities (T,) float64, NaN where unmeasured) of a shard's usable texts.

    Raises BadShard if the shard has not these `num_texts` texts.
    """
    table = read_table(context.table_path("similarity", shard), SIMILARITIES, ["lang", "similarity"])
    if len(table) != num_texts:
        raise BadShard(f"{shard.path}: it changed while it was checked; run the check again")
    langs = np.array(table["lang"].to_pylist(), object)
    return langs, np.round(table["similarity"].to_numpy().astype(np.float64), DECIMALS)


def find_low(
    langs: np.ndarray, similarities: np.ndarray, min_similarity: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which texts are below their language's threshold, (T,) bool, and the details, (T,) object."""
    minimum = np.array([min_similarity.get(lang, -1.0) for lang in langs])  # a language is unknown if all are NaN
    is_low = similarities < minimum
    details = np.full(len(langs), None, object)
    for row in np.flatnonzero(is_low):
        details[row] = f"{similarities[row]:.4f}, below {minimum[row]:.4f} ({langs[row]})"
    return is_low, details


def summarise(context: CheckContext, shards: Sequence[Shard]) -> Similarities:
    """Return the distribution and the threshold of each language, over all measured texts of the pool."""
    rule = context.config.similarity
    counts_by_language: dict[str, np.ndarray] = {}
    num_unmeasured = 0
    for shard in shards:
        table = read_table(context.table_path("similarity", shard), SIMILARITIES, ["lang", "similarity"])
        num_unmeasured += table["similarity"].null_count
        measured = table.filter(pc.is_valid(table["similarity"]))
        values = np.searchsorted(VALUES_V, np.round(measured["similarity"].to_numpy().astype(np.float64), DECIMALS))
        langs = np.array(measured["lang"].to_pylist(), object)
        for lang in sorted(set(langs)):
            counts_V = np.bincount(values[langs == lang], minlength=len(VALUES_V))
            counts_by_language[lang] = counts_by_language.get(lang, 0) + counts_V
    pool_counts_V = sum(counts_by_language.values(), np.zeros(len(VALUES_V), np.int64))
    by_language: dict[str, LanguageSimilarity] = {}
    pool_wide = []
    for lang, counts_V in sorted(counts_by_language.items()):
        threshold = rule.threshold
        if rule.percentile is not None:
            is_small = counts_V.sum() < rule.min_texts
            pool_wide += [lang] if is_small else []
            threshold = value_at(pool_counts_V if is_small else counts_V, rule.percentile)
        assert threshold is not None
        by_language[lang] = {
            "texts": int(counts_V.sum()),
            "below": int(counts_V[: np.searchsorted(VALUES_V, threshold)].sum()),
            "threshold": threshold,
            "deciles": [value_at(counts_V, percent) for percent in range(10, 100, 10)],
        }
    return {"unmeasured": num_unmeasured, "pool_wide": pool_wide, "by_language": by_language}


def value_at(counts_V: np.ndarray, percent: float) -> float:
    """Return the largest value that at most `percent` of the texts are below; counts_V: texts by value."""
    total = int(counts_V.sum())
    rank = min(int(percent * total / 100), total - 1)  # rank of the text that has the value, from 0 on
    return float(VALUES_V[np.searchsorted(np.cumsum(counts_V), rank, side="right")])
