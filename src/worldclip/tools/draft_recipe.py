"""Look at a pool and draft a recipe for it: `worldclip init`."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.contracts.reasons import Reason
from worldclip.contracts.summary import REMEDIES
from worldclip.core.artifacts import write_text
from worldclip.core.command import Command
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.core.job import Report
from worldclip.core.marks import Commas
from worldclip.core.printable import counted
from worldclip.kernels.llvm import is_compiled
from worldclip.language import table as languages
from worldclip.language.fasttext import kernels
from worldclip.language.identify import Identifier
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import ROW, missing_column
from worldclip.pool.pairs import read_shard
from worldclip.tools.known_pools import (
    FILTERS,
    TAR_KEYS,
    KnownPool,
    describe_table,
    field_names,
    text_columns,
    with_pictures,
)

NUM_TEXTS = 1000  # identified, to list the pool's languages
MAX_SHARDS = 8  # opened for them
MIN_SHARE, MIN_TEXTS = 0.01, 5  # of a language in the recipe; fewer texts are mostly errors of identification
# IMG_1465, 20190506_123456.jpg: to language identification these are Hebrew, Russian or Swedish
_FILE_NAME = re.compile(r"[!-~]*\d[!-~]*|\S+\.(jpe?g|png|gif|webp|bmp|tiff?|avif)", re.ASCII | re.IGNORECASE)


_Read = TypeVar("_Read")


RECIPE = """\
# Drafted from {texts} of {shards}.
#   worldclip run THIS_FILE --until curate   builds the lists, matches, balances and keeps pairs

[pool]
{pool}
# valid_keys = "checked/valid_keys.parquet" # of: worldclip pool check THIS_FILE --out checked

[languages]
{found}
codes = {codes}

[metadata]
# a start, from packages; WordNets and Wikipedia give better lists (docs/1_metadata.md)
sources = ["number", "wordfreq", "cldr", "emoji"]
{lists}
[match]
profile = "unicode"

[balance]
tail_fraction = 0.06 # the paper's; `worldclip estimate RUN` shows what other values keep
"""
TRAINING = """
[curate]
# write = "tars" # also copy the kept samples

[train]
samples_seen = 1_000_000
global_batch_size = 256

[train.model]
preset = "vit_b32" # docs/5_train.md; `worldclip train THIS_FILE --dry-run` says what it needs
"""


def init(
    source: str,
    *,
    out: Path | None = None,
    key: str | None = None,
    texts: Annotated[Sequence[str], Commas()] = (),
    columns: Annotated[Sequence[str], Commas()] = (),
    lang: str | None = None,
) -> Report:
    """Look at a pool, write a commented recipe for it, and say what is missing.

    source: folder, file or URL of the pool: tars, Parquet, JSONL, CSV or TSV.
    out: file to write (default: NAME.toml in the working directory, named after the pool).
    key: column or json:FIELD that identifies a pair (default: as the columns suggest).
    texts: columns or json:FIELDs with the texts (default: as the columns suggest).
    columns: names of the columns of CSV and TSV files without a header.
    lang: column or json:FIELD with the language of the texts (default: as the columns suggest, else identified).

    Raises UserError for a pool that cannot be read and for a file that exists.

    Examples:
        worldclip init photos
        worldclip init https://host/pool.parquet --out my.toml
    """
    path = default_path(source) if out is None else out
    if path.exists():
        raise UserError(f"{path} exists; choose another file with --out")
    drafted = draft(source, key=key, texts=texts, columns=columns, lang=lang)
    write_text(path, drafted["recipe"])
    return drafted


def default_path(source: str) -> Path:
    """Return the file that `init` writes without --out."""
    return Path(f"{Path(source.rstrip('/')).name.partition('.')[0] or 'pool'}.toml")


def draft(
    source: str,
    *,
    key: str | None = None,
    texts: Sequence[str] = (),
    columns: Sequence[str] = (),
    lang: str | None = None,
) -> Report:
    """Return a recipe for a pool, from a thousand of its texts; arguments are those of `init`.

    Keys: recipe (TOML), format, shards, has_images, key, texts, lang, columns (of a table, or fields of the .json of
    tars), num_texts (that were identified), languages (number of these texts by language, most frequent first),
    without_words (languages of the recipe for which the package wordfreq has no list).

    Raises UserError for a pool that cannot be read.
    """
    path = source if is_remote(source) else str(Path(source).absolute())
    shards = pool.list_shards(PoolConfig(path=path))
    pool_format = format_of(shards[0].name)
    config = PoolConfig(path=path, columns=tuple(columns))
    names = _read_first(shards, lambda shard: field_names(shard, config))
    _check_names(names, key, lang)
    usual = KnownPool((), "member", ())  # a tar's; the pool's default finds its texts
    if pool_format.is_table:
        usual = describe_table(names)
        if not _holds_images(shards[0], config):
            usual = with_pictures(usual, shards[0], config, names)
    config = dataclasses.replace(config, key=key or usual.key, texts=tuple(texts) or usual.texts)
    config = dataclasses.replace(config, lang=lang or usual.lang, image_field=usual.image_field)
    sample, problems = _sample_texts(shards, config)
    if not sample and not config.texts and (fields := text_columns(names)):  # tars with texts in another field
        config = dataclasses.replace(config, texts=tuple(f"json:{name}" for name in fields))
        sample, problems = _sample_texts(shards, config)
    if not sample:
        where = "; ".join(dict.fromkeys(problems)) or f"the first {min(len(shards), MAX_SHARDS)} shards hold no text"
        raise UserError(f"{source}: {where}; {'or ' * bool(problems)}give --texts, where the texts of a pair are")
    with_words = [(text, label) for text, label in sample if label or not _FILE_NAME.fullmatch(text.strip())]
    sample = with_words or sample
    by_language = _count_languages(sample)
    least = max(MIN_SHARE * len(sample), min(MIN_TEXTS, len(sample) / 20))  # of 20 texts one is enough
    codes = [code for code, count in by_language.items() if count >= least and code != languages.OTHER]
    drafted: Report = {
        "format": pool_format.name,
        "shards": len(shards),
        "has_images": _read_first(shards, lambda shard: len(read_shard(shard, config).images) > 0),
        "key": config.key,
        "texts": list(config.texts),
        "lang": config.lang,
        "columns": names,
        "num_texts": len(sample),
        "languages": by_language,
        "without_words": [code for code in codes if languages.get(code).wordfreq is None],
    }
    return {"recipe": _to_toml(drafted, config, codes), **drafted}


def _check_names(names: Sequence[str], key: str | None, lang: str | None) -> None:
    """Raise UserError for a --key or --lang that the pool has not, and for one column that is several."""
    named = [("--key", key if key not in ("member", ROW) else None), ("--lang", lang)]
    problems = [
        missing_column(flag, bare(name), names) for flag, name in named if name is not None and bare(name) not in names
    ]
    if problems:
        raise UserError(problems)


def _read_first(shards: Sequence[Shard], read: Callable[[Shard], _Read]) -> _Read:
    """Read the first shard that is not damaged.  Raises UserError that names MAX_SHARDS of them if all are."""
    problems = []
    for shard in shards[:MAX_SHARDS]:
        try:
            return read(shard)
        except BadShard as error:
            problems.append(f"{shard.path}: {error}")
    raise UserError(problems)


def _holds_images(shard: Shard, config: PoolConfig) -> bool:
    """Return whether a shard holds images itself; one that cannot be read holds none."""
    try:
        return read_shard(shard, dataclasses.replace(config, key=ROW), needs_texts=False).holds_images
    except BadShard:
        return False


def _sample_texts(shards: Sequence[Shard], config: PoolConfig) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (text, language that the pool states or "") of shards spread over it, and why some were not read."""
    sample: list[tuple[str, str]] = []
    problems: list[str] = []
    step = max(1, len(shards) // MAX_SHARDS)
    sampled = shards[::step][:MAX_SHARDS]
    for shard in sampled:
        try:
            read = read_shard(shard, config).texts
        except BadShard as error:
            problems.append(f"{shard.name}: {error}")
            continue
        for bad in read.bad[:1]:
            problems += [f"{shard.name}, {bad['key']}: {bad['reason']}", REMEDIES[Reason.BAD_PAIR]]
        rows = np.flatnonzero(read.reason == Reason.KEPT)[: -(-NUM_TEXTS // len(sampled))]
        texts = read.text.take(pa.array(rows)).to_pylist()
        stated = [""] * len(rows) if read.lang is None else read.lang.take(pa.array(rows)).to_pylist()
        sample += zip(texts, stated, strict=True)
    return sample[:NUM_TEXTS], problems


def _count_languages(sample: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the number of texts by language, most frequent first: as the pool states it, else identified."""
    known = languages.by_code()
    codes = [languages.code_of_stated(label, known, languages.INSTALLED) for _, label in sample if label]
    if without_label := [text for text, label in sample if not label]:
        if not is_compiled(kernels.predict):
            say("init", "compiles language identification for this processor, once per installation (10 to 20 s)")
        codes += [languages.from_lid(str(label)) for label in Identifier().predict(without_label)[0]]
    return dict(Counter(codes).most_common())


def _to_toml(drafted: Report, config: PoolConfig, codes: Sequence[str]) -> str:
    """Return the recipe with a comment wherever a person has to decide."""
    shares = [f"{code} {drafted['languages'][code] / drafted['num_texts']:.0%}" for code in codes]
    others = ", ".join(code for code in drafted["languages"] if code not in (*codes, languages.OTHER))
    rare = f"; left out, with less than {MIN_SHARE:.0%} of the texts or {MIN_TEXTS}: {others}" if others else ""
    lists = [f'# lists.{code} = "{code}.txt"\n' for code in drafted["without_words"]]
    if lists:
        names = ", ".join(drafted["without_words"])
        lists.insert(
            0, f"# wordfreq has no words of these languages, CLDR at most names: set a file of each ({names})\n"
        )
    recipe = RECIPE.format(
        texts=counted(drafted["num_texts"], "text"),
        shards=counted(drafted["shards"], f"{drafted['format']} shard"),
        pool="\n".join(_pool_lines(drafted, config)),
        found=_comment(f"found: {', '.join(shares)}{rare}. Without this key all languages are used."),
        codes=_toml(codes),
        lists="".join(lists),
    )
    return recipe + TRAINING if drafted["has_images"] else recipe


def _pool_lines(drafted: Report, config: PoolConfig) -> list[str]:
    lines = [f"path = {_toml(config.path or '')}"]
    if config.columns:
        lines.append(f"columns = {_toml(config.columns)}")
    if config.key != "member":
        columns = ", ".join(map(_toml, drafted["columns"]))
        lines += [_comment(f"key identifies a pair; the columns are {columns}"), f"key = {_toml(config.key)}"]
    if config.texts:
        lines.append(f"texts = {_toml(config.texts)}")
    if config.lang:
        lines.append(f"lang = {_toml(config.lang)}")
    if config.image_field:
        lines.append(f"image_field = {_toml(config.image_field)} # paths of image files, relative to the table")
    lines += _filters(drafted)
    if drafted["format"] == "tar" and (name := next((name for name in TAR_KEYS if name in drafted["columns"]), None)):
        lines.append(f'# key = "json:{name}" # the same pair after another download; numbers of members change')
    return lines


def _filters(drafted: Report) -> list[str]:
    """Return a line, commented, that leaves out rows of a table by columns that usually say which."""
    found = [condition for condition in FILTERS if condition[0] in drafted["columns"]]
    if not found or drafted["format"] == "tar":
        return []
    return [f"# where = {json.dumps(found)} # only these rows are pairs; a missing value fulfils no condition"]


def _comment(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: str | Sequence[str]) -> str:
    return json.dumps(value, ensure_ascii=False)


def to_text(drafted: Report, path: Path) -> str:
    """Return what was found and what is missing."""
    counts = ", ".join(f"{code} {count:,}" for code, count in list(drafted["languages"].items())[:12])
    images = "with images" if drafted["has_images"] else "without images: it can be curated, not trained on"
    lines = [
        f"{counted(drafted['shards'], drafted['format'] + ' shard')}, {images}",
        f"languages of {counted(drafted['num_texts'], 'text')}: {counts}",
    ]
    if drafted["without_words"]:
        lines.append(
            f"missing: lists of words of {', '.join(drafted['without_words'])}; set metadata.lists in {path}, or "
            "remove these languages from languages.codes"
        )
    return "\n".join(lines)


INIT = Command(init, lambda drafted, flags: to_text(drafted, flags.out or default_path(flags.source)))
"""Look at a pool and write a commented recipe for it."""
