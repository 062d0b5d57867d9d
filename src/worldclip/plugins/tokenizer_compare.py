"""Compare how tokenizers treat each language: tokens per word (fertility), and captions cut at the context length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.arrow import codes_of
from worldclip.core.coin import uniform
from worldclip.core.command import Command
from worldclip.core.errors import UserError
from worldclip.core.execute import Report
from worldclip.core.marks import Metavar
from worldclip.core.preflight import missing_packages
from worldclip.curate import read_curated
from worldclip.language import table as languages
from worldclip.language.segment import count_words
from worldclip.model.tokenizer import Tokenizer, load_hugging_face

CONTEXT_LENGTH = 77
TEXTS_PER_LANGUAGE = 10_000
TEXT_COLUMNS, LANG_COLUMNS = ("text", "caption"), ("lang", "language")
_NO_LIMIT = 2**20  # a context length that cuts nothing
_CHUNK = 1_000  # texts tokenised at once


def compare_tokenizers(
    tokenizers: Sequence[str],
    *,
    on: Annotated[Path, Metavar("CORPUS")],
    context_length: int = CONTEXT_LENGTH,
    texts: int = TEXTS_PER_LANGUAGE,
) -> Report:
    """Measure each tokenizer (folder or hub id) on a corpus, by language and in the mean over languages.

    tokenizers: folders or hub ids.
    on: a run (its curated texts), Parquet with a column text or caption and optionally lang, or a file of lines.
    context_length: tokens that a model reads of a caption, start and end included.
    texts: maximum number of texts per language, chosen by hash.

    Returns {corpus, context_length, vocab_size: {source: n}, languages: {lang: {texts, words, tokenizers: {source:
    {tokens_per_word, cut_fraction, unknown_fraction}}}}, mean: {source: {...}}}.  Tokens are counted without start and
    end; cut_fraction counts texts that exceed context_length with them.  Raises UserError for invalid arguments.

    Examples:
        worldclip tokenizer compare facebook/xlm-v-base tokenizer --on captions.parquet
        worldclip tokenizer compare tokenizer --on captions.parquet --json
    """
    problems = [] if tokenizers else ["no tokenizer is named; give folders or hub ids, then --on CORPUS"]
    problems += [
        f"--{name} is {value}; it must be at least 1"
        for name, value in (("context-length", context_length), ("texts", texts))
        if value < 1
    ]
    problems += [
        f"TOKENIZER {source!r} is a run; name its tokenizer: {layout.tokenizer(Path(source))}"
        for source in tokenizers
        if layout.is_run(Path(source))
    ]
    problems += missing_packages("tokenizer compare", ("transformers", "tokenizers"), extra="train")
    if problems:
        raise UserError(problems)
    loaded = {source: _load(source) for source in tokenizers}
    rows: Report = {}
    for lang, of_lang in sorted(read_corpus(on, texts).items()):
        words = sum(count_words(text, lang) for text in of_lang)
        measures = {name: _measure(tokenizer, of_lang, words, context_length) for name, tokenizer in loaded.items()}
        rows[lang] = {"texts": len(of_lang), "words": words, "tokenizers": measures}
    return {
        "corpus": str(on),
        "context_length": context_length,
        "vocab_size": {source: tokenizer.vocab_size for source, tokenizer in loaded.items()},
        "languages": rows,
        "mean": {source: _mean([row["tokenizers"][source] for row in rows.values()]) for source in tokenizers},
    }


def _load(source: str) -> Tokenizer:
    """Load a tokenizer to count with: unlike one to train with, it may end or pad a text with its separator."""
    hf = load_hugging_face(source)
    hf.eos_token = hf.eos_token or hf.sep_token
    hf.pad_token = hf.pad_token or hf.eos_token
    return Tokenizer(hf, _NO_LIMIT)


def read_corpus(path: Path, texts_per_language: int) -> dict[str, list[str]]:
    """Return texts by language.

    path: a run (its curated texts); a Parquet file or a folder of them with columns `text` or `caption` and perhaps
    `lang`; or a file of lines.  Languages that are not stated are identified.
    """
    if (path / "curate").is_dir():
        artifacts.require_manifest(path, "curate")
        tables = (read_curated(path, name, ("text", "lang")) for name in layout.matched_shards(path))
        parts = [(table["text"], codes_of(table["lang"])) for table in tables]
    elif path.is_dir() or path.suffix == ".parquet":
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        parts = [_read_parquet(file) for file in files]
    elif path.is_file():
        lines = pa.chunked_array([pa.array([line for line in path.read_text(encoding="utf-8").splitlines() if line])])
        parts = [(lines, _identify(lines))]
    else:
        parts = []
    texts_of = _choose(parts, texts_per_language)
    if not texts_of:
        raise UserError(
            f"--on is {str(path)!r}, which holds no texts; give a run whose stage curate is finished, Parquet with a "
            f"column {' or '.join(TEXT_COLUMNS)}, or a file of lines"
        )
    return texts_of


_Part = tuple[pa.ChunkedArray, tuple[np.ndarray, list[str]]]


def _read_parquet(path: Path) -> _Part:
    schema = pq.read_schema(path)
    text = next((name for name in TEXT_COLUMNS if name in schema.names), None)
    lang = next((name for name in LANG_COLUMNS if name in schema.names), None)
    if text is None:
        raise UserError(
            f"--on: {path} has the columns {', '.join(schema.names)}; the texts must be in {' or '.join(TEXT_COLUMNS)}"
        )
    table = pq.read_table(path, columns=[name for name in (text, lang) if name])
    table = table.filter(table[text].is_valid())
    texts = table[text].cast(pa.large_string())
    if lang is None:
        return texts, _identify(texts)
    return texts, codes_of(table[lang].cast(pa.string()).fill_null("und").dictionary_encode())


def _identify(texts: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    from worldclip.language.identify import identify

    labels, _ = identify(texts)
    names, code = np.unique(labels, return_inverse=True)
    return code, [languages.from_lid(str(name)) for name in names]


def _choose(parts: Sequence[_Part], texts_per_language: int) -> dict[str, list[str]]:
    """Return the texts of each language with the smallest hashes, in their order."""
    texts_of: dict[str, list[tuple[float, str]]] = {}
    for texts, (code, names) in parts:
        coin = uniform(texts, 0, 0, 0)
        for i, name in enumerate(names):
            rows = np.flatnonzero(code == i)
            rows = rows[np.argsort(coin[rows], kind="stable")[:texts_per_language]]
            of_lang = texts_of.setdefault(name, [])
            of_lang += zip(coin[rows].tolist(), texts.take(pa.array(rows)).to_pylist(), strict=True)
    chosen = {lang: sorted(of_lang)[:texts_per_language] for lang, of_lang in texts_of.items() if of_lang}
    return {lang: [text for _, text in of_lang] for lang, of_lang in chosen.items()}


def _measure(tokenizer: Tokenizer, texts: Sequence[str], words: int, context_length: int) -> dict[str, float]:
    num_special = len(tokenizer.encode([""]).ids)
    unknown_id = tokenizer.hf.unk_token_id
    tokens = cut = unknown = 0
    for start in range(0, len(texts), _CHUNK):
        encoded = tokenizer.encode(texts[start : start + _CHUNK])
        tokens += int((encoded.lengths - num_special).sum())
        cut += int((encoded.lengths > context_length).sum())
        unknown += int((encoded.ids == unknown_id).sum()) if unknown_id not in (None, tokenizer.eos_id) else 0
    return {
        "tokens_per_word": tokens / max(1, words),
        "cut_fraction": cut / len(texts),
        "unknown_fraction": unknown / max(1, tokens),
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def to_text(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as a table: one line per language, frequent ones first, three columns per tokenizer."""
    sizes = comparison["vocab_size"]
    sources = list(sizes)
    lines = [f"{chr(65 + i)} = {source}, {sizes[source]:,} tokens" for i, source in enumerate(sources)]
    lines += [f"tokens per word; captions cut at {comparison['context_length']} tokens; unknown tokens", ""]
    head = "".join(f"{chr(65 + i):>9} {'cut':>7} {'unk':>7}" for i in range(len(sources)))
    lines.append(f"{'language':<10}{'texts':>9}{'words':>11}{head}")
    rows = sorted(comparison["languages"].items(), key=lambda item: (-item[1]["texts"], item[0]))
    for lang, row in rows:
        cells = "".join(_cells(row["tokenizers"][source]) for source in sources)
        lines.append(f"{lang:<10}{row['texts']:>9,}{row['words']:>11,}{cells}")
    lines.append(f"{'mean':<30}" + "".join(_cells(comparison["mean"][source]) for source in sources))
    return "\n".join(lines)


def _cells(row: Mapping[str, float]) -> str:
    return f"{row['tokens_per_word']:>9.2f} {row['cut_fraction']:>7.1%} {row['unknown_fraction']:>7.1%}"


COMPARE = Command(compare_tokenizers, lambda report, flags: to_text(report))
"""Compare tokens per word and truncated captions by language."""
