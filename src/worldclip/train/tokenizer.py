"""A run's tokenizer: one that the recipe names, or one trained on the curated texts, balanced by language."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout
from worldclip.core.arrow import codes_of
from worldclip.core.coin import ORDER, uniform
from worldclip.core.errors import naming
from worldclip.curate import read_curated
from worldclip.model.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from worldclip.train.config import TrainConfig

MAX_TEXTS = 1_000_000  # texts that a tokenizer is trained on, chosen by hash
MAX_REPEATS = 10.0  # a text repeated a thousand times would teach whole sentences


def run_tokenizer(config: TrainConfig, run_dir: Path, shards: Sequence[str]) -> Tokenizer:
    """Return RUN/train/tokenizer, created before step 1 and never again.  shards: names of the curated shards."""
    folder = layout.tokenizer(run_dir)
    context_length = config.model.architecture().context_length
    if not folder.exists():
        if config.tokenizer.path is not None:
            tokenizer = load_tokenizer(config.tokenizer.path, context_length)
        else:
            tokenizer = train_tokenizer(
                training_texts(run_dir, shards, config.tokenizer.lang_exponent),
                vocab_size=config.tokenizer.vocab_size,
                context_length=context_length,
            )
        partial = folder.with_name(f".{folder.name}.tmp")  # renamed when complete: a kill leaves no part of a tokenizer
        shutil.rmtree(partial, ignore_errors=True)
        with naming(folder):
            tokenizer.save(partial)
        os.replace(partial, folder)
    return load_tokenizer(folder, context_length)


def training_texts(
    run_dir: Path, shards: Sequence[str], lang_exponent: float, max_texts: int = MAX_TEXTS
) -> Iterator[str]:
    """Yield curated texts in shard order: rare languages several times, frequent languages only in part.

    Which texts, and how often, depends on the hash of their keys, so that every process yields the same.
    """
    repeats_of = repeats_by_language(count_texts(run_dir, shards), lang_exponent, max_texts)
    for shard in shards:
        table = read_curated(run_dir, shard, ("key", "text_idx", "text", "lang"))
        if not len(table):
            continue
        code, names = codes_of(table["lang"])
        repeats = np.array([repeats_of.get(name, 0.0) for name in names])[code]  # names may be of texts left out
        # 2.3 repeats: every text twice, and the 30% with the smallest hashes once more
        has_one_more = uniform(table["key"], table["text_idx"].to_numpy(), 0, 0, ORDER) < repeats % 1
        times = (np.floor(repeats) + has_one_more).astype(np.int64)
        yield from table["text"].take(pa.array(np.repeat(np.arange(len(table)), times))).to_pylist()


def count_texts(run_dir: Path, shards: Sequence[str]) -> Counter[str]:
    """Count the curated texts by language."""
    counts: Counter[str] = Counter()
    for shard in shards:
        code, names = codes_of(read_curated(run_dir, shard, ("lang",))["lang"])
        counts.update(dict(zip(names, np.bincount(code, minlength=len(names)).tolist(), strict=True)))
    return +counts


def repeats_by_language(
    counts: Mapping[str, int], lang_exponent: float, max_texts: int = MAX_TEXTS
) -> dict[str, float]:
    """Return how often a text of each language is used on average.

    A language's share is its count to the power of lang_exponent (arXiv:1911.02116, section 3.1, which uses 0.3).  The
    total is the number of texts, at most max_texts.
    """
    total = min(sum(counts.values()), max_texts)
    weights = {lang: count**lang_exponent for lang, count in counts.items()}
    factor = total / max(1, sum(weights.values()))
    return {lang: min(MAX_REPEATS, factor * weights[lang] / count) for lang, count in counts.items()}
