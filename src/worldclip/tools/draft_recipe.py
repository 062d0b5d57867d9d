"""Look at a pool and draft a recipe for it: `worldclip init`."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from worldclip import pool
from worldclip.core.artifacts import write_text
from worldclip.core.command import Command, OutFile
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.core.job import Report
from worldclip.core.marks import Commas
from worldclip.core.printable import counted, printable
from worldclip.language import table as languages
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import ROW, missing_column
from worldclip.pool.listing import require_place
from worldclip.tools.known_pools import FILTERS, TAR_KEYS, KnownPool, describe, field_names, text_columns
from worldclip.tools.pool_sample import MAX_SHARDS, PoolSample, count_languages, read_sample
from worldclip.tools.sampled_columns import (
    columns_for_where,
    columns_of_texts,
    columns_of_written_numbers,
    condition_of,
    fits,
    values_by_column,
)

LARGE_FILE = 1 << 30  # bytes of CSV or TSV
WITHOUT_TYPES = ("csv", "tsv")  # formats that hold only texts
MIN_SHARE = 0.01  # of a language in the recipe
MIN_TEXTS = 5  # fewer texts are mostly errors of identification
# IMG_1465, 20190506_123456.jpg: to language identification these are Hebrew, Russian or Swedish
_FILE_NAME = re.compile(r"[!-~]*\d[!-~]*|\S+\.(jpe?g|png|gif|webp|bmp|tiff?|avif)", re.ASCII | re.IGNORECASE)

RECIPE = """\
# Drafted from {texts} of {shards}.
#   worldclip run THIS_FILE --until curate   builds the lists, matches, balances and keeps pairs

[pool]
{pool}
# valid_keys = "checked/valid_keys.parquet" # of: worldclip pool check THIS_FILE --out checked

[languages]
{comment}
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
{model} # docs/5_train.md; `worldclip train THIS_FILE --dry-run` says what it needs, and how long it takes
"""
SMALL_SIDE = 64  # pixels: a patch of vit_b32 has 32
SMALL_PATCHES = 8  # along a side, of images that small (docs/photographs.md)


def init(
    source: str,
    *,
    out: OutFile = None,
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
    tars), image_side (median shorter side of a few images in pixels; None where they are not on this machine or Pillow
    is not installed), other_texts (further columns of texts), where_columns ({column worth a condition: its values,
    in words}) and written_numbers (columns of numbers that CSV or TSV hold as texts), all of the first rows of a table
    on this machine; num_texts (that were identified), languages (number of these texts by language, most frequent
    first), without_words (languages of the recipe for which the package
    wordfreq has no list).

    Raises UserError for a pool that cannot be read.
    """
    require_place(source)
    path = source if is_remote(source) else str(Path(source).absolute())
    shards = pool.list_shards(PoolConfig(path=path))
    say_large_files("init", shards)
    config = PoolConfig(path=path, columns=tuple(columns))
    names, usual = _describe_first(shards, config)
    problems = []
    for flag, name in (("--key", key), ("--lang", lang)):
        if name not in (None, "member", ROW) and bare(name) not in names:
            problems.append(missing_column(flag, bare(name), names))
    if problems:
        raise UserError(problems)
    config = dataclasses.replace(config, key=key or usual.key, texts=tuple(texts) or usual.texts)
    config = dataclasses.replace(config, lang=lang or usual.lang, image_field=usual.image_field)
    sample = read_sample(shards, config)
    fields = text_columns(names)
    if fields and not sample.texts and not config.texts:  # tars with texts in another field
        config = dataclasses.replace(config, texts=tuple(f"json:{name}" for name in fields))
        sample = read_sample(shards, config)
    if not sample.texts:
        raise _without_texts(source, sample, len(shards))
    for problem in sample.unread:
        say("init", f"warning: {problem}")
    with_words = [(text, label) for text, label in sample.texts if label or not _FILE_NAME.fullmatch(text.strip())]
    sampled_texts = with_words or sample.texts
    by_language = count_languages(sampled_texts)
    least = max(MIN_SHARE * len(sampled_texts), min(MIN_TEXTS, len(sampled_texts) / 20))  # of 20 texts one is enough
    codes = [code for code, number in by_language.items() if number >= least and code != languages.OTHER]
    used = [bare(name) for name in (config.key, *config.texts, config.lang, config.image_field) if name]
    values = values_by_column(sample.rows)
    other_texts = [name for name in columns_of_texts(values) if name not in used]
    where_columns = columns_for_where(values, [*used, *other_texts])
    format_name = format_of(shards[0].name).name
    written_numbers = []
    if format_name in WITHOUT_TYPES:
        written_numbers = [name for name in columns_of_written_numbers(values) if name not in used]
    drafted: Report = {
        "format": format_name,
        "shards": len(shards),
        "has_images": sample.has_images,
        "image_side": sample.image_side,
        "key": config.key,
        "texts": list(config.texts),
        "lang": config.lang,
        "columns": names,
        "other_texts": other_texts,
        "where_columns": where_columns,
        "written_numbers": written_numbers,
        "num_texts": len(sampled_texts),
        "languages": by_language,
        "without_words": [code for code in codes if languages.get(code).wordfreq is None],
    }
    return {"recipe": printable(_to_toml(drafted, config, codes, sample.rows)), **drafted}


def _without_texts(source: str, sample: PoolSample, num_shards: int) -> UserError:
    """Return the error of a pool in whose first shards no text was found."""
    remedy = "give --texts, where the texts of a pair are"
    problems = dict.fromkeys([*sample.unread, *sample.problems])
    if problems:
        return UserError(f"{source}: {'; '.join(problems)}; or {remedy}")
    return UserError(f"{source}: the first {min(num_shards, MAX_SHARDS)} shards hold no text; {remedy}")


def say_large_files(command: str, shards: Sequence[Shard]) -> None:
    """Say before anything is read that a large file of CSV or TSV takes long, each time."""
    large = [shard for shard in shards if shard.fingerprint.get("size", 0) >= LARGE_FILE]
    if large and format_of(large[0].name).name in WITHOUT_TYPES:
        say(
            command,
            f"{large[0].name}: CSV and TSV are read whole into memory, by one core per file; split it into "
            "files of some 500,000 lines, or write Parquet (docs/pool.md, Numbers in CSV)",
        )


def _describe_first(shards: Sequence[Shard], config: PoolConfig) -> tuple[list[str], KnownPool]:
    """Return the columns or fields of the first shard that is not damaged, and where its key and texts usually are.

    Raises UserError that names MAX_SHARDS shards if all are damaged.
    """
    problems = []
    for shard in shards[:MAX_SHARDS]:
        try:
            names = field_names(shard, config)
            return names, describe(shard, names, config)
        except BadShard as error:
            problems.append(f"{shard.path}: {error}")
    raise UserError(problems)


def _to_toml(drafted: Report, config: PoolConfig, codes: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return the recipe with a comment wherever a person has to decide."""
    shares = [f"{code} {drafted['languages'][code] / drafted['num_texts']:.0%}" for code in codes]
    comment = f"found: {', '.join(shares)}"
    rare = [code for code in drafted["languages"] if code not in (*codes, languages.OTHER)]
    if rare:
        comment += f"; left out, with less than {MIN_SHARE:.0%} of the texts or {MIN_TEXTS}: {', '.join(rare)}"
    lists = ""
    if drafted["without_words"]:
        names = ", ".join(drafted["without_words"])
        lists = f"# wordfreq has no words of these languages, CLDR at most names: set a file of each ({names})\n"
        for code in drafted["without_words"]:
            lists += f'# lists.{code} = "{code}.txt"\n'
    recipe = RECIPE.format(
        texts=counted(drafted["num_texts"], "text"),
        shards=counted(drafted["shards"], f"{drafted['format']} shard"),
        pool="\n".join(_pool_lines(drafted, config, rows)),
        comment=_comment(f"{comment}. Without this key all languages are used."),
        codes=_toml(codes),
        lists=lists,
    )
    if not drafted["has_images"]:
        return recipe
    model = 'preset = "vit_b32"'
    side = drafted["image_side"]
    if side is not None and side <= SMALL_SIDE:
        patch_size = max(1, side // SMALL_PATCHES)
        image_size = side // patch_size * patch_size
        model = f'image_size = {image_size}\npatch_size = {patch_size}\npreset = "tiny"'
    return recipe + TRAINING.format(model=model)


def _pool_lines(drafted: Report, config: PoolConfig, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of [pool]; commented ones suggest another key, all columns of texts, and conditions on rows."""
    columns = drafted["columns"]
    lines = [f"path = {_toml(config.path or '')}"]
    if config.columns:
        lines.append(f"columns = {_toml(config.columns)}")
    if config.key != "member":
        named = ", ".join(map(_toml, columns))
        lines += [_comment(f"key identifies a pair; the columns are {named}"), f"key = {_toml(config.key)}"]
    if config.texts:
        lines.append(f"texts = {_toml(config.texts)}")
    if drafted["other_texts"]:
        all_texts = [*config.texts, *drafted["other_texts"]]
        lines.append(f"# texts = {_toml(all_texts)} # all columns of texts; each is then a text of the pair")
    if config.lang:
        lines.append(f"lang = {_toml(config.lang)}")
    if config.image_field:
        lines.append(f"image_field = {_toml(config.image_field)} # paths of image files, relative to the table")
    if drafted["format"] == "tar":
        names = [name for name in TAR_KEYS if name in columns]
        if names:
            lines.append(f'# key = "json:{names[0]}" # the same pair after another download; numbers of members change')
        return lines
    described = drafted["where_columns"]
    values_of = values_by_column(rows)
    conditions: list[tuple[str, str, Any]] = []
    for name, comparison, value in FILTERS:
        if name in columns and fits(value, values_of.get(name, ())):
            conditions.append((name, comparison, value))
    if described and not conditions:
        first = next(iter(described))
        conditions.append(condition_of(first, values_of[first]))
    if conditions:
        where = _toml(conditions)
        lines.append(f"# where = {where} # only these rows are pairs; a missing value fulfils no condition")
    if described:
        values = "; ".join(f"{_toml(name)} ({text})" for name, text in described.items())
        lines.append(_comment(f"columns for where, with values of the first {len(rows):,} rows: {values}"))
    return lines


def _comment(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def written_numbers_text(names: Sequence[str]) -> str:
    """Return what it means that columns of CSV or TSV hold numbers as texts."""
    return (
        f"numbers as texts: {', '.join(names)}; pool.where, embed and search compare them by their characters. "
        "To filter by them, write Parquet first (docs/pool.md, Numbers in CSV)"
    )


def to_text(drafted: Report, path: Path) -> str:
    """Return what was found and what is missing."""
    counts = ", ".join(f"{code} {count:,}" for code, count in list(drafted["languages"].items())[:12])
    images = "with images" if drafted["has_images"] else "without images: it can be curated, not trained on"
    lines = [
        f"{counted(drafted['shards'], drafted['format'] + ' shard')}, {images}",
        f"languages of {counted(drafted['num_texts'], 'text')}: {counts}",
    ]
    if drafted["written_numbers"]:
        lines.append(written_numbers_text(drafted["written_numbers"]))
    if drafted["without_words"]:
        lines.append(
            f"missing: lists of words of {', '.join(drafted['without_words'])}; set metadata.lists in {path}, or "
            "remove these languages from languages.codes"
        )
    return "\n".join(lines)


INIT = Command(init, lambda drafted, flags: to_text(drafted, flags.out or default_path(flags.source)))
"""Look at a pool and write a commented recipe for it."""
