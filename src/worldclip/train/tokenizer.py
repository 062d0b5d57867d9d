"""A run's tokenizer: someone else's, or one trained on its curated texts, balanced by language."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.config import load_recipe
from worldclip.core import artifacts
from worldclip.core.arrow import codes_of
from worldclip.core.coin import ORDER, uniform
from worldclip.core.errors import UserError
from worldclip.curate import read_curated
from worldclip.curate.candidates import matched_shards
from worldclip.model.config import TokenizerConfig
from worldclip.model.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from worldclip.train.config import TrainConfig

MAX_TEXTS = 1_000_000  # texts of a tokenizer's training, chosen by the coin
MAX_REPEATS = 10.0  # of a text: three texts of a rare language, a thousand times each, would teach whole sentences


def run_tokenizer(config: TrainConfig, run_dir: Path, shards: Sequence[str]) -> Tokenizer:
    """RUN/train/tokenizer, made before step 1 and never again.  shards: names of the curated ones."""
    folder = run_dir / "train" / "tokenizer"
    context_length = config.model.architecture().context_length
    if not folder.exists():
        if config.tokenizer.path is not None:
            made = load_tokenizer(config.tokenizer.path, context_length)
        else:
            made = _train(config.tokenizer, run_dir, shards, context_length)
        _save(made, folder)
    return load_tokenizer(folder, context_length)


def train_on_run(run: str | Path, out: str | Path | None = None, **changes: Any) -> dict[str, Any]:
    """Train a tokenizer on a run's curated texts into the folder `out` (unset: RUN/tokenizer).

    changes: keys of train.tokenizer, in place of the recipe's.  Returns {out, model, vocab_size, texts, languages:
    {lang: {texts, repeats}}}.  Raises UserError where the folder is there already or the stage curate is not finished.
    """
    run_dir = Path(run)
    folder = run_dir / "tokenizer" if out is None else Path(out)
    train = load_recipe(run_dir).train
    config = dataclasses.replace(train.tokenizer, **changes)
    problems = config.problems()
    if folder.exists():
        problems.append(f"--out is {str(folder)!r}; it is there already, and no tokenizer is overwritten: name another")
    if problems:
        raise UserError(problems)
    artifacts.require_manifest(run_dir, "curate")
    shards = [name for name, _ in matched_shards(run_dir)]
    counts = count_texts(run_dir, shards)
    made = _train(config, run_dir, shards, train.model.architecture().context_length)
    _save(made, folder)
    repeats = repeats_of(counts, config.lang_exponent)
    return {
        "out": str(folder),
        "model": config.model,
        "vocab_size": made.vocab_size,
        "texts": sum(counts.values()),
        "languages": {lang: {"texts": counts[lang], "repeats": repeats[lang]} for lang in sorted(counts)},
    }


def _train(config: TokenizerConfig, run_dir: Path, shards: Sequence[str], context_length: int) -> Tokenizer:
    return train_tokenizer(
        training_texts(run_dir, sorted(shards), config.lang_exponent),
        vocab_size=config.vocab_size,
        context_length=context_length,
        model=config.model,
    )


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    tokenizer.save(aside)
    os.replace(aside, folder)


def training_texts(
    run_dir: Path, shards: Sequence[str], lang_exponent: float, max_texts: int = MAX_TEXTS
) -> Iterator[str]:
    """Curated texts in shard order: those of rare languages several times, those of frequent ones in part.

    Which texts, and how often, is a function of their keys, so the same in every process.
    """
    counts = count_texts(run_dir, shards)
    repeats = repeats_of(counts, lang_exponent, max_texts)
    for shard in shards:
        table = read_curated(run_dir, shard, ("key", "text_idx", "text", "lang"))
        if not len(table):
            continue
        code, names = codes_of(table["lang"])
        wanted = np.array([repeats[name] for name in names])[code]
        coin = uniform(table["key"], table["text_idx"].to_numpy(), 0, 0, ORDER)
        times = (np.floor(wanted) + (coin < wanted % 1)).astype(np.int64)
        yield from table["text"].take(pa.array(np.repeat(np.arange(len(table)), times))).to_pylist()


def count_texts(run_dir: Path, shards: Sequence[str]) -> Counter[str]:
    """Curated texts by language."""
    counts: Counter[str] = Counter()
    for shard in shards:
        code, names = codes_of(read_curated(run_dir, shard, ("lang",))["lang"])
        counts.update(dict(zip(names, np.bincount(code, minlength=len(names)).tolist(), strict=True)))
    return +counts


def repeats_of(counts: Mapping[str, int], lang_exponent: float, max_texts: int = MAX_TEXTS) -> dict[str, float]:
    """How often a text of each language is used, in the mean: a language's share is its count to lang_exponent.

    In all as many texts as there are, max_texts at most.  arXiv:1911.02116, section 3.1, whose exponent is 0.3.
    """
    total = min(sum(counts.values()), max_texts)
    weights = {lang: count**lang_exponent for lang, count in counts.items()}
    factor = total / max(1, sum(weights.values()))
    return {lang: min(MAX_REPEATS, factor * weights[lang] / count) for lang, count in counts.items()}
