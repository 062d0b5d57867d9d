"""Commands on metadata: fetch the sources, give lists away and take them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldclip.cli.flags import Work, executor_of
from worldclip.config import load_recipe
from worldclip.core.job import Run


@dataclass(frozen=True, kw_only=True)
class FetchMetadataCommand:
    """Download the dumps and page views that a recipe's metadata need into its metadata.dumps."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe (.toml) or folder of a run."""
    langs: str = ""
    """Languages, by our codes with commas between them; default: the recipe's."""
    date: str = "latest"
    """Day of the dumps, YYYYMMDD, or latest."""
    base_url: str = "https://dumps.wikimedia.org"
    """The server, or a mirror with the same paths."""
    pageview_days: int = 37
    """Days of page views, ten days apart, before the dumps' day; 0: none."""
    pageview_hours: int = 24
    """Hours of each of these days; an hour of all Wikipedias is about 50 MB."""
    connections: int = 2
    """Files at a time; Wikimedia asks for few."""
    contact: str = ""
    """Your address, for the operators of the server; goes into the User-Agent."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was fetched as JSON."""


def _configs(source: str) -> list[Any]:
    recipe = load_recipe(source)
    return [recipe.metadata, recipe.languages]


def _fetch_metadata(command: FetchMetadataCommand) -> int:
    from worldclip.tools.fetch_metadata import FetchConfig, fetch_metadata

    flags = {item.name: getattr(command, item.name) for item in dataclasses.fields(FetchConfig)}
    flags["langs"] = tuple(filter(None, command.langs.split(",")))
    fetched = fetch_metadata(Run.of(Path(), *_configs(command.recipe)), FetchConfig(**flags))
    print(json.dumps(fetched) if command.json else f"{fetched['files']:,} files, {fetched['bytes']:,} bytes")
    return 0


@dataclass(frozen=True, kw_only=True)
class PackCommand:
    """All lists of a run in one file, with sources, licences and digests."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of a run whose stage metadata is finished."""
    out: str
    """File to write (.tar)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was packed as JSON."""


def _pack(command: PackCommand) -> int:
    from worldclip.tools.pack import pack

    packed = pack(Path(command.run), Path(command.out))
    if command.json:
        print(json.dumps(packed, ensure_ascii=False))
        return 0
    print(f"{packed['lists']:,} lists, {packed['entries']:,} entries, {packed['bytes']:,} bytes: {command.out}")
    for licence, lists in packed["licences"].items():
        print(f"  {licence}: {', '.join(lists)}")
    return 0


@dataclass(frozen=True, kw_only=True)
class UnpackCommand(Work):
    """Lists that were packed, as a run whose stage metadata is finished."""

    source: Annotated[str, tyro.conf.Positional]
    """File, or its address (http, s3, ...)."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the run; default: runs/<name of the file>."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the stage's report as JSON."""


def _unpack(command: UnpackCommand) -> int:
    from worldclip.tools.pack import unpack

    out = Path("runs") / Path(command.source).stem if command.out is None else Path(command.out)
    report = unpack(command.source, out, executor_of(command))
    entries = sum(found["entries"] for found in report["lists"].values())
    print(
        json.dumps(report, ensure_ascii=False)
        if command.json
        else f"{len(report['lists']):,} lists, {entries:,} entries: {out}"
    )
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {
    "fetch metadata": _fetch_metadata,
    "pack": _pack,
    "unpack": _unpack,
}
