"""Commands on embeddings: embed a pool, index what came of it, search."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from worldclip.cli.flags import Work, executor_of
from worldclip.cli.models import ModelFlags
from worldclip.core.errors import UserError

Of = Literal["images", "texts"]


@dataclass(frozen=True, kw_only=True)
class EmbedCommand(Work, ModelFlags):
    """Images or texts of a pool through a model, into a folder to search; goes on where it was cut."""

    pool: Annotated[str, tyro.conf.Positional]
    """Folder of tars, tables or image files, a run, or a .toml with a [pool] section."""
    out: str
    """Folder to write: embeddings as .npy and where each is from as .parquet, one of each a shard."""
    of: tuple[Of, ...] = ()
    """What is embedded; default: images of tars and of folders of image files, texts of tables."""
    key: str | None = None
    """Where a pair's identity is: member, json:FIELD or a column; default: as the run or .toml says, else member."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the counts as JSON."""


def _embed(command: EmbedCommand) -> int:
    from worldclip.tools.embed import embed

    is_default = command.executor == "local" and command.workers is None  # as many as the memory holds models
    report = embed(
        command.model,
        command.pool,
        command.out,
        of=command.of,
        key=command.key,
        device=command.device,
        executor=None if is_default else executor_of(command),
        **command.loading(),
    )
    if command.json:
        print(json.dumps(report, ensure_ascii=False))
        return 0
    for kind in ("images", "texts"):
        if (found := report.get(kind)) is not None:
            others = [f"{count:,} {name.replace('_', ' ')}" for name, count in found.items()
                      if name not in ("shards", "pairs", "embedded", "bad") and count]  # fmt: skip
            print(f"{found['embedded']:,} {kind} embedded{''.join(f', {other}' for other in others)}: {command.out}")
            for sample in found["bad"]:
                print(f"  {sample['key']}: {sample['reason']}")
    return 0


@dataclass(frozen=True, kw_only=True)
class IndexCommand:
    """How a folder of embeddings is searched: exactly, or by an index for millions."""

    folder: Annotated[str, tyro.conf.Positional]
    """What `worldclip embed` wrote."""
    library: Literal["exact", "faiss"] = "exact"
    """exact: row by row, and an index is removed; faiss: a graph (HNSW), of the extra search."""
    of: Of | None = None
    """Of a folder with both: images or texts."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def _index(command: IndexCommand) -> int:
    from worldclip.tools.search import build_index

    report = build_index(command.folder, command.library, command.of)
    if command.json:
        print(json.dumps(report))
        return 0
    told = f"{report['rows']:,} {report['of']} are searched "
    if command.library == "exact":
        print(f"{told}exactly; for millions there is --library faiss")
    else:
        print(f"{told}by faiss, which finds {report['recall_at_10']:.1%} of the 10 nearest of some of its own rows")
    return 0


@dataclass(frozen=True, kw_only=True)
class SearchCommand:
    """The nearest images or texts of a folder of embeddings, for texts in any language and for images."""

    folder: Annotated[str, tyro.conf.Positional]
    """What `worldclip embed` wrote; its manifest names the model."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What to search for."""
    images: tuple[str, ...] = ()
    """Image files to search for the like of."""
    top: int = 20
    """Results of each query."""
    of: Of | None = None
    """Of a folder with both: images or texts."""
    html: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the results as a contact sheet (.html), pictures inside."""
    exact: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave an index aside."""
    model: str | None = None
    """Where the model is now, if it moved."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    allow_urls: tyro.conf.FlagCreatePairsOff[bool] = False
    """Images may be addresses (http, https)."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def _search(command: SearchCommand) -> int:
    from worldclip.tools.search import search

    if command.html is not None and not command.html.endswith((".html", ".htm")):
        raise UserError(f"--html is {command.html!r}; it names the page to write (.html)")
    results = search(
        command.folder,
        command.texts,
        command.images,
        top=command.top,
        of=command.of,
        exact=command.exact,
        model=command.model,
        device=command.device,
        allow_urls=command.allow_urls,
    )
    if command.html is not None:
        from worldclip.tools.contact_sheet import write_contact_sheet

        write_contact_sheet(Path(command.html), results, command.folder)
        Console(stderr=True, highlight=False).print(f"contact sheet: {command.html}", soft_wrap=True)
    if command.json:
        print(json.dumps(results, ensure_ascii=False))
        return 0
    for result in results:
        print(result["query"])
        for hit in result["hits"]:
            text = f"  {hit['text']}" if "text" in hit else ""
            print(f"  {hit['score']:6.3f}  {hit['key']}{text}  ({hit['shard']})")
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {"embed": _embed, "index": _index, "search": _search}
