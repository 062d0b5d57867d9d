"""Look at a pool and draft a recipe for it: `worldclip init`."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar

import pyarrow as pa

from worldclip import pool
from worldclip.contracts.reasons import Reason
from worldclip.core.artifacts import write_text
from worldclip.core.command import Command
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.language import table as languages
from worldclip.language.identify import Identifier
from worldclip.pool.columns import COMMON_KEYS, ROW
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import TableFormat
from worldclip.pool.formats.columns_format import ColumnsFormat
from worldclip.pool.read import holds_images, index_of, read_texts
from worldclip.pool.records import DEFAULT_FIELDS

NUM_TEXTS = 1000  # identified, to list the pool's languages
MAX_SHARDS = 8  # opened for them
MIN_SHARE = 0.005  # of the texts, for a language to stand in the recipe: below it are mostly errors of identification
TEXT_NAMES = (*DEFAULT_FIELDS, "alt", "alt_text", "description", "title")  # columns that usually hold texts


_Read = TypeVar("_Read")


class Draft(TypedDict):
    """A drafted recipe and what it was drafted from."""

    recipe: str
    """TOML."""
    format: str
    shards: int
    has_images: bool
    key: str
    texts: list[str]
    columns: list[str]
    num_texts: int
    """Texts that were identified."""
    languages: dict[str, int]
    """Number of these texts by language, most frequent first."""
    without_words: list[str]
    """Languages of the recipe for which the package wordfreq has no list; CLDR may have names in them."""


def init(source: str, *, out: Path | None = None) -> Draft:
    """Look at a pool, write a commented recipe for it, and say what is missing.

    source: folder, file or URL of the pool: tars, Parquet or JSONL.
    out: file to write (default: NAME.toml in the working directory, named after the pool).

    Raises UserError for a pool that cannot be read and for a file that exists.
    """
    path = default_path(source) if out is None else out
    if path.exists():
        raise UserError(f"{path} exists; choose another file with --out")
    drafted = draft(source)
    write_text(path, drafted["recipe"])
    return drafted


def default_path(source: str) -> Path:
    """Return the file that `init` writes without --out."""
    return Path(f"{Path(source.rstrip('/')).name.partition('.')[0] or 'pool'}.toml")


def draft(source: str) -> Draft:
    """Return a recipe for a pool, from a thousand of its texts.  Raises UserError for a pool that cannot be read."""
    config = PoolConfig(path=source if is_remote(source) else str(Path(source).absolute()))
    shards = pool.list_shards(config)
    columns: list[str] = []
    pool_format = format_of(shards[0].name)
    if isinstance(pool_format, TableFormat):
        columns = _read_first(shards, lambda shard: pool_format.field_names(shard, config))
        key = _key_column(columns, isinstance(pool_format, ColumnsFormat))
        config = dataclasses.replace(config, key=key, texts=_text_columns(columns))
    texts, problems = _sample_texts(shards, config)
    if not texts:
        where = "; ".join(problems) or f"the first {min(len(shards), MAX_SHARDS)} shards hold no text"
        raise UserError(f"{source}: {where}; pool.texts names where the texts of a pair are")
    by_language = _count_languages(texts)
    codes = [code for code, count in by_language.items() if count >= MIN_SHARE * len(texts) and code != languages.OTHER]
    drafted: Draft = {
        "recipe": "",
        "format": pool_format.name,
        "shards": len(shards),
        "has_images": holds_images(shards, config)
        and _read_first(shards, lambda shard: index_of(shard, config)[1]["images"] > 0),
        "key": config.key,
        "texts": list(config.texts),
        "columns": columns,
        "num_texts": len(texts),
        "languages": by_language,
        "without_words": [code for code in codes if languages.get(code).wordfreq is None],
    }
    drafted["recipe"] = _to_toml(drafted, config.path or "", codes)
    return drafted


def _read_first(shards: Sequence[Shard], read: Callable[[Shard], _Read]) -> _Read:
    """Read the first shard that is not damaged.  Raises UserError that names MAX_SHARDS of them if all are."""
    problems = []
    for shard in shards[:MAX_SHARDS]:
        try:
            return read(shard)
        except BadShard as error:
            problems.append(f"{shard.path}: {error}")
    raise UserError(problems)


def _key_column(columns: Sequence[str], has_rows: bool) -> str:
    """Return the column that most likely identifies a pair: a usual name, else the row's number or the first column."""
    otherwise = ROW if has_rows else next(iter(columns), "key")
    return next((name for name in COMMON_KEYS if name in columns), otherwise)


def _text_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the first column with a usual name, in any case; empty if there is none."""
    by_lower = {name.lower(): name for name in reversed(columns)}
    return next(((by_lower[name.lower()],) for name in TEXT_NAMES if name.lower() in by_lower), ())


def _sample_texts(shards: Sequence[Shard], config: PoolConfig) -> tuple[list[str], list[str]]:
    """Return the first texts of shards spread over the pool, and why shards could not be read."""
    texts: list[str] = []
    problems: list[str] = []
    step = max(1, len(shards) // MAX_SHARDS)
    sampled = shards[::step][:MAX_SHARDS]
    for shard in sampled:
        try:
            read = read_texts(shard, config)
        except BadShard as error:
            problems.append(f"{shard.name}: {error}")
            continue
        problems += [f"{shard.name}, {sample['key']}: {sample['reason']}" for sample in read.bad[:1]]
        kept = read.text.filter(pa.array(read.reason == Reason.KEPT))
        texts += kept[: -(-NUM_TEXTS // len(sampled))].to_pylist()
    return texts[:NUM_TEXTS], problems


def _count_languages(texts: Sequence[str]) -> dict[str, int]:
    labels, _ = Identifier().predict(texts)
    return dict(Counter(languages.from_lid(str(label)) for label in labels).most_common())


def _to_toml(drafted: Draft, path: str, codes: Sequence[str]) -> str:
    """Return the recipe with a comment wherever a person has to decide."""
    shares = [f"{code} {drafted['languages'][code] / drafted['num_texts']:.0%}" for code in codes]
    columns = ", ".join(map(_string, drafted["columns"]))
    lines = [
        f"# Drafted from {drafted['num_texts']:,} texts of {drafted['shards']:,} {drafted['format']} shards.",
        "#   worldclip run THIS_FILE --until curate   builds the lists, matches, balances and keeps pairs",
        "",
        "[pool]",
        f"path = {_string(path)}",
    ]
    if drafted["key"] != "member":
        lines += [*_comment(f"key identifies a pair; the columns are {columns}"), f"key = {_string(drafted['key'])}"]
    if drafted["texts"]:
        lines.append(f"texts = {json.dumps(drafted['texts'], ensure_ascii=False)}")
    lines += ["", "[languages]"]
    lines += _comment(f"found: {', '.join(shares)}. Without this key all languages are used.")
    lines += [
        f"codes = {json.dumps(list(codes))}",
        "",
        "[metadata]",
        "# a start, from packages; WordNets and Wikipedia give better lists (docs/1_metadata.md)",
        'sources = ["number", "wordfreq", "cldr", "emoji"]',
    ]
    if absent := drafted["without_words"]:
        names = ", ".join(absent)
        lines += _comment(
            f'wordfreq has no words of {names}, CLDR at most names: add "list" to sources and set a file of each.'
        )
        lines += [f'# lists.{code} = "{code}.txt"' for code in absent]
    lines += [
        "",
        "[match]",
        'profile = "unicode"',
        "",
        "[balance]",
        "tail_fraction = 0.06 # the paper's; `worldclip estimate RUN` shows what other values keep",
    ]
    if drafted["has_images"]:
        lines += [
            "",
            "[curate]",
            '# write = "tars" # also copy the kept samples',
            "",
            "[train]",
            "samples_seen = 1_000_000",
            "global_batch_size = 256",
            "",
            "[train.model]",
            'preset = "vit_b32" # docs/5_train.md; `worldclip train THIS_FILE --dry-run` says what it needs',
        ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def to_text(drafted: Draft, path: Path) -> str:
    """Return what was found, what is missing, and the next command."""
    counts = ", ".join(f"{code} {count:,}" for code, count in list(drafted["languages"].items())[:12])
    images = "with images" if drafted["has_images"] else "without images: it can be curated, not trained on"
    lines = [
        f"{drafted['shards']:,} {drafted['format']} shards, {images}",
        f"languages of {drafted['num_texts']:,} texts: {counts}",
    ]
    if drafted["without_words"]:
        lines.append(
            f"missing: lists of words of {', '.join(drafted['without_words'])}; set metadata.lists in {path}, or "
            "remove these languages from languages.codes"
        )
    lines += [f"wrote {path}", f"next: worldclip run {path} --until curate"]
    return "\n".join(lines)


INIT = Command(init, lambda drafted, flags: to_text(drafted, flags.out or default_path(flags.source)))
"""Look at a pool and write a commented recipe for it."""
