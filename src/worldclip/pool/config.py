"""Where the pairs are and how to read them."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from worldclip.core.registry import ItemOf
from worldclip.core.settings import Config, Decides, Place, Problems, deciding

_Operand = str | bool | int | float
Where = tuple[tuple[_Operand | tuple[_Operand, ...], ...], ...]
POOL_BUILDERS = ("emoji", "world")
ORDERS = ("<", "<=", ">", ">=")
COMPARISONS = ("=", "!=", *ORDERS, "in", "not in")
HUB_DATASET = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(.*))?")
"""A dataset of the Hugging Face hub: OWNER/NAME, its revision, and what is named in it."""


def split_pattern(path: str) -> tuple[str, list[str]]:
    """Return the folder and the names below it of a pattern, `pool/0000[0-5].tar`; (path, []) of any other path."""
    parts = path.rstrip("/").split("/")
    wildcards = "*[" if "://" in path else "*?["  # an address may have a query
    for i, part in enumerate(parts):
        if set(wildcards).isdisjoint(part) or os.path.exists("/".join(parts[: i + 1])):
            continue
        top = "/" if path.startswith("/") else "."
        return "/".join(parts[:i]) or top, parts[i:]
    return path.rstrip("/"), []


def without_revision(url: str) -> str:
    """Return the URL of a dataset of the hub, or of a file in it, without @REVISION; any other URL as it is."""
    match = HUB_DATASET.fullmatch(url)
    if match is None:
        return url
    return "/".join(filter(None, (f"hf://datasets/{match[1]}", match[3])))


def name_of_place(path: str) -> str:
    """Return the name of a place, which begins the names of its shards if there are several."""
    return PurePosixPath(split_pattern(path)[0]).name


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceConfig(Config):
    """A place of a pool whose pairs differ from those of the others; an unset key is that of [pool]."""

    SECTION = "pool.place"

    path: Annotated[str, Place()] = ""
    """Folder, URL, file or pattern, as pool.path."""
    key: str | None = None
    """As pool.key."""
    texts: tuple[str, ...] | None = None
    """As pool.texts."""
    lang: str | None = None
    """As pool.lang."""
    where: Where | None = None
    """As pool.where."""
    image_field: str | None = None
    """As pool.image_field."""

    def own_problems(self) -> Problems:
        """Yield a place without a path, and malformed options."""
        if not self.path:
            yield "path", "must name the folder, URL or file of the place"
        yield from _problems_of_options(self.key, self.lang, self.where)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig(Config):
    """A pool of image-text pairs: WebDataset tars, Parquet or JSONL, or one that the run builds first.

    Examples:
        worldclip pool my.toml
        worldclip pool runs/my_images --shards 1/8
    """

    path: Annotated[str | tuple[str, ...] | None, Decides(), Place()] = None
    """Folder or URL (s3://, https://, hf://datasets/OWNER/NAME, ...) of the pool, or a single file.  Its shards are the
    files of the first format that there is of tar, parquet, jsonl, csv and tsv (the last three also as .gz), or of a
    pattern such as images/0000[0-5].tar (** is any depth of folders).  A list joins several; the name of each folder
    then begins the names of its shards."""
    place: Annotated[tuple[PlaceConfig, ...], Decides("pool", "match")] = ()
    """Places that differ, each a table [[pool.place]] with path and, where they differ from [pool], key, texts, lang,
    where, image_field."""
    build: Annotated[str | None, ItemOf("pool builder", POOL_BUILDERS), Decides("pool.shards")] = None
    """Build the pool in RUN/pool instead: `emoji`, 3,944 drawings with names in 14 languages; `world`, drawings with
    names and keywords in more than 200."""
    parts: Annotated[dict[str, str], Decides(), Place()] = field(default_factory=dict)
    """Folders that a builder draws from, part = folder; of the world pool: cldr, fluent, flags, appstream, stamps,
    gcompris."""
    columns: Annotated[tuple[str, ...], Decides("pool", "match")] = ()
    """Names of the columns of CSV and TSV files without a header.  Unset: their first line has the names."""
    key: Annotated[str, Decides("pool", "match")] = "member"
    """Where the key of a pair is: `member` (folder of the tar and stem of the member), `json:FIELD` of a tar's .json,
    a column, or `row` (file and number of the row)."""
    texts: Annotated[tuple[str, ...], Decides("pool", "match")] = ()
    """Where the texts of a pair are, in this order: `txt` or `json:FIELD` in tars, or columns; each holds a text or a
    list of texts.  Default: the first that exists of txt, texts, text, caption, TEXT."""
    text_weights: Annotated[tuple[float, ...], Decides("curate")] = ()
    """How often each place of `texts` gives the text that is drawn for an image, under curate.text_policy = "one": a
    place is drawn by weight among those with a matched text, then one of its texts.  Unset: every text alike."""
    lang: Annotated[str | None, Decides("pool", "match")] = None
    """Where the pool states the language of a text: `json:FIELD` or a column, with one label for all texts of a pair or
    a list with one per text (our code, Wikipedia's, or a LID label).  Unset: identify the language."""
    image_field: Annotated[str | None, Decides("pool", "match", "curate")] = None
    """Column of a table with the paths of the images, relative to it; or of Parquet with the images themselves (binary
    or a struct with `bytes`), needed if several columns have them."""
    where: Annotated[Where | None, Decides("pool", "match")] = None
    """Which rows or samples are pairs: a list of [column or field, comparison, value]; all must hold, and a missing
    value fulfils none.  Unset: rows that img2dataset's tables call a `success`, and every row of other files."""
    valid_keys: Annotated[str | None, Decides("match.counts", "curate"), Place()] = None
    """File of the only keys to count and curate: a .txt with one per line, Parquet with a column `key`, or keys.npy.
    Unset: all keys."""
    deny_keys: Annotated[tuple[str, ...], Decides("match.counts", "curate"), Place()] = ()
    """Files of keys to leave out of counts and curation, in the same formats."""

    broken_shards: Annotated[Literal["stop", "skip"], Decides("pool.shards")] = "stop"
    """stop: a damaged file ends the stage after all others are read; skip: go on without it and list it."""

    @property
    def places(self) -> tuple[PoolConfig, ...]:
        """The places of the pool, each with one path and all its options."""
        paths = self.path or ()
        if isinstance(paths, str):
            paths = (paths,)
        places = [dataclasses.replace(self, path=path, place=()) for path in paths]
        for place in self.place:
            options = {name: getattr(place, name) for name in ("key", "texts", "lang", "where", "image_field")}
            set_options = {name: value for name, value in options.items() if value is not None}
            places.append(dataclasses.replace(self, path=place.path, place=(), **set_options))
        return tuple(places)

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders and URLs of the pool."""
        return tuple(str(place.path) for place in self.places)

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns or fields that pool.where compares."""
        return tuple(bare(str(name)) for name, *_ in self.where or ())

    @property
    def location(self) -> str:
        """Where the pool lies, or the builder that draws it; of a dataset of the hub, any revision."""
        if self.build:
            return f"pool.build = {self.build!r}"
        return ", ".join(without_revision(path) if "://" in path else os.path.abspath(path) for path in self.paths)

    @property
    def identity(self) -> dict[str, Any]:
        """The options that decide a shard's pairs, their texts and the places of their images, for the keys of jobs."""
        options = {**deciding(self, "pool.pairs"), "texts": list(self.texts)}
        is_single = len(self.places) == 1
        places = []
        for place in options.get("place", []):  # a moved one is the same; of several by its name, which begins shards'
            path = "" if is_single else name_of_place(place["path"])
            places.append({**place, "path": path})
        options["place"] = places
        # empty lists are unset ones; an empty `where` takes all rows
        return {name: value for name, value in options.items() if value != [] or name == "where"}

    def own_problems(self) -> Problems:
        """Yield a pool that is not defined exactly once, and malformed options."""
        if any(len(place.texts) != len(self.text_weights) for place in self.places if self.text_weights):
            yield "text_weights", "must hold one weight for each place of pool.texts"
        if not all(0 < weight < math.inf for weight in self.text_weights):
            yield "text_weights", "must be numbers above 0; leave a place that gives no text out of pool.texts"
        if bool(self.paths) == bool(self.build):
            present = "both" if self.build else "none"
            yield "", f"set exactly one of path and build; now set: {present}"
        if self.parts and self.build is None:
            yield "parts", "needs pool.build, the builder that reads it"
        if self.build in POOL_BUILDERS:
            parts = builder_module(self.build).FOLDER_PARTS
            for name in self.parts:
                if name not in parts:
                    yield f"parts.{name}", f"is no part of the {self.build} pool; parts: {', '.join(parts) or 'none'}"
        yield from _problems_of_options(self.key, self.lang, self.where)


def _problems_of_options(key: str | None, lang: str | None, where: Where | None) -> Problems:
    if key is not None and not bare(key):
        yield "key", 'must be "member", "json:FIELD" or the name of a column'
    for problem in problems_of_conditions(where or ()):
        yield "where", problem
    if lang is not None and not bare(lang):
        yield "lang", 'must be "json:FIELD" or the name of a column'


def problems_of_conditions(conditions: Where) -> Iterator[str]:
    """Yield what is wrong with the form of conditions, whatever the columns hold."""
    for condition in conditions:
        if len(condition) != 3 or not isinstance(condition[0], str) or condition[1] not in COMPARISONS:
            yield f'each condition is ["column", COMPARISON, value]; comparisons: {", ".join(COMPARISONS)}'
        elif isinstance(condition[2], tuple) != condition[1].endswith("in"):
            yield f'"{condition[1]}" of {condition[0]}: only "in" and "not in" take a list'
        elif condition[1] in ORDERS and isinstance(condition[2], str) and _is_number(condition[2]):
            yield (
                f"{condition[0]} {condition[1]} {condition[2]!r} compares texts, by their characters: '100' < '50'; "
                f"write the number {condition[2]} without quotes"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def bare(name: str) -> str:
    """Return the name of a column or field: `json:uid` -> `uid`."""
    return name.removeprefix("json:")


def held_out_names() -> dict[str, str]:
    """Return the held-out sets of all builders: dataset -> the builder's name."""
    builders: dict[str, str] = {}
    for builder in POOL_BUILDERS:
        builders |= dict.fromkeys(builder_module(builder).HELD_OUT, builder)
    return builders


def builder_module(name: str) -> Any:
    """Import a builder of POOL_BUILDERS; pool/builders.py says what it has."""
    return importlib.import_module(f"worldclip.plugins.{name}.builder")
