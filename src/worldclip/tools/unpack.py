"""`worldclip unpack`: turn a pack of lists, from a file or a URL, into a run whose metadata stage is finished."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import fsspec

from worldclip import metadata
from worldclip.core.artifacts import describe_run, read_json, versions, write_artifact, write_json, write_text
from worldclip.core.console import say
from worldclip.core.download import Broken, Client, Download
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import Executor, Report
from worldclip.core.job import Run, RunLock
from worldclip.core.settings import read_toml, to_toml
from worldclip.language.config import LanguagesConfig
from worldclip.match.config import MatchConfig
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.sources.pack import LICENCES, Pack, open_pack, read_licences
from worldclip.metadata.stage import STAGE


def unpack(source: str, out: Path, executor: Executor) -> Report:
    """Make `out` a run with the lists of a pack, its matchers compiled for the same profile as in the packer's run.

    source: a file, http(s), or any URL of fsspec; a downloaded pack is kept in `out`, since the run's recipe names it
    (metadata.pack).  Returns the stage's report.  Raises UserError for a file that is not a pack and for a folder of
    another run, StageFailed if a list is damaged (the others are done).
    """
    path = fetch_pack(source, out)
    packed = open_pack(path)
    _refuse_other_run(packed, out)
    run = Run.of(out, *configs_of(packed), executor=executor)
    with RunLock(out):
        write_text(out / "recipe.toml", to_toml(run.sections))
        write_json(out / "run.json", describe_run())
        write_text(out / LICENCES, read_licences(packed))
        metadata.build(run)
    report: Report = read_json(out / STAGE / "report.json")
    return report


def fetch_pack(source: str, out: Path) -> Path:
    """Return the path of a pack: `source` itself if it is a file, else its copy in `out`, downloaded if missing."""
    if "://" not in source:
        if not Path(source).is_file():
            raise UserError(f"{source!r}: no such file; name a file that worldclip pack wrote, or its URL")
        return Path(source)
    path = out / (PurePosixPath(urlsplit(source).path).name or "lists.tar")
    if path.is_file():
        say("unpack", f"{path} exists already")
        return path
    try:
        if source.startswith(("http://", "https://")):
            client = Client(user_agent=f"worldclip/{versions()['worldclip']}")
            client.fetch(Download(url=source, path=path))
        else:
            _copy(source, path)
    except ValueError as error:
        raise UserError(f"{source}: not a URL that can be read ({error})") from error
    except (Broken, OSError) as error:
        raise StageFailed("unpack", {source: str(error)}) from error
    return path


def _copy(url: str, path: Path) -> None:
    def write(aside: Path) -> None:
        with fsspec.open(url, "rb") as file, open(aside, "wb") as copy:
            shutil.copyfileobj(file, copy)

    write_artifact(path, write)


def configs_of(packed: Pack) -> tuple[LanguagesConfig, MetadataConfig, MatchConfig]:
    """Return the sections with the languages, lists and profile of a pack; which pairs to match is for the user."""
    match = packed.record["match"]
    return (
        LanguagesConfig(codes=tuple(packed.lists)),
        MetadataConfig(pack=str(packed.path)),
        MatchConfig(profile=match["profile"], fold_case=match["fold_case"]),
    )


def _refuse_other_run(packed: Pack, out: Path) -> None:
    """Raise UserError if the folder holds a run of other lists."""
    if not (out / "recipe.toml").exists():
        return
    other = read_toml(out).get("metadata", {}).get("pack", "")
    if other != str(packed.path):
        lists = f"metadata.pack = {other!r}" if other else "lists of its own"
        raise UserError(f"{out} holds a run with {lists}; unpack into another folder (--out DIR)")
