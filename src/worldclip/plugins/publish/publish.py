"""Publish what a run curated as a dataset of the hub: the list of kept pairs or the tars, a card, a Croissant record.

RUN/publish/README.md        the card: languages, licence, sizes, thresholds, what was removed and why
RUN/publish/croissant.json   the same for machines (mlcommons.org/croissant/1.0)
RUN/publish/keys.npy         the kept keys, where all are 128-bit hex
RUN/publish/data/            the lists, or the tars, of RUN/curate as hard links; or Parquet with the images inside
RUN/publish/pairs.parquet    with tars: which image has which text
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.command import Command
from worldclip.core.errors import UserError, naming
from worldclip.core.job import lock_folder
from worldclip.core.marks import Metavar
from worldclip.core.preflight import require_packages
from worldclip.curate.stage import require_of_recipe
from worldclip.language.config import languages_of, open_run
from worldclip.plugins.publish.card import card
from worldclip.plugins.publish.croissant import croissant
from worldclip.plugins.publish.tables import write_images, write_members
from worldclip.plugins.publish.upload import Upload, list_files, upload_to_hub
from worldclip.tools.branch import link_file

Data = Literal["list", "tars", "parquet"]


@Command
def publish(
    run: Path,
    repository: Annotated[str, Metavar("OWNER/NAME")],
    *,
    data: Data = "list",
    license: str | None = None,
    private: bool = False,
    pull_request: bool = False,
    dry_run: bool = False,
) -> tuple[Any, str]:
    """Upload the kept pairs of a run to the hub, with a dataset card and a Croissant record.

    run: a run whose stage curate is finished, or its folder curate.
    repository: dataset on the hub to create, or to bring to what the run keeps now.
    data: list (keys, texts, languages), or with curate.write = "tars" the images too: tars, or parquet, whose pictures
        and captions the hub's viewer shows.
    license: identifier of the hub for the card, for example cc-by-4.0 (default: unknown).
    private: create the dataset as private; refuse one that is public.
    pull_request: propose the upload to a dataset that exists.
    dry_run: write RUN/publish and list its files, and upload nothing.

    Examples:
        worldclip publish runs/my_images owner/name --dry-run
        worldclip publish runs/my_images owner/name --private
    """
    if not dry_run:
        require_packages("publish", extra="hub")
    with prepared(run, repository, data, license) as upload:  # another call would replace the files
        lines = upload.lines()
        record: dict[str, Any] = {"folder": str(upload.folder), "files": dict(upload.files)}
        if dry_run:
            return record | {"addresses": [], "removed": []}, "\n".join([*lines, "dry run: nothing was uploaded"])
        done = upload_to_hub(upload, is_private=private, as_pull_request=pull_request)
    record |= {"addresses": [done.address], "removed": list(done.removed)}
    return record, "\n".join([*lines, *done.lines()])


@contextlib.contextmanager
def prepared(run: Path, repository: str, data: Data = "list", license: str | None = None) -> Iterator[Upload]:
    """Write RUN/publish and yield the upload of it; the run is locked until the block ends.

    The arguments are those of `publish`.  Raises UserError for a run without what `data` names, and where curate would
    run again: a deny list may have grown.
    """
    run_dir = layout.run_of(run, "curate")
    problems = []
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository) or ".." in repository or "--" in repository:
        problems.append(f"OWNER/NAME {repository!r}: a repository of the hub is owner/name")
    if not layout.is_run(run_dir):
        problems.append(f"{run_dir} is not a run; give the folder of one whose stage curate is finished")
    if data not in get_args(Data):
        problems.append(f"--data {data!r}: must be one of {', '.join(get_args(Data))}")
    if data != "list" and not layout.curated_tars(run_dir).is_dir():
        problems.append(
            f'--data {data}: {layout.stage_dir(run_dir, "curate")} has none; run curate with curate.write = "tars"'
        )
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        problems.append(f"--license {license!r}: must be an identifier of the hub such as cc-by-4.0, odc-by or other")
    if problems:
        raise UserError(problems)
    with lock_folder(run_dir):
        yield _write(run_dir, repository, data, license)


def _write(run_dir: Path, repository: str, data: Data, license: str | None) -> Upload:
    """Write RUN/publish, under the run's lock: fill a folder aside, then put it in the place of an older upload."""
    folder = layout.published(run_dir)
    aside = folder.with_name(f".{folder.name}.new")
    artifacts.remove(aside)  # left by a killed call
    digest = require_of_recipe(open_run(run_dir))
    tars = sorted(layout.curated_tars(run_dir).glob("*.tar"))
    keys = layout.kept_keys(run_dir)
    names = {keys: keys.name}  # file of RUN/curate -> its name in the dataset
    if data == "list":
        for shard in layout.matched_shards(run_dir):
            names[layout.curated(run_dir, shard)] = f"data/{shard}.parquet"
    else:
        suffix = ".tar" if data == "tars" else ".parquet"
        for path in tars:
            names[path] = f"data/{path.stem}{suffix}"
    try:
        with naming(folder):
            for source, name in names.items():
                if not source.exists():
                    continue
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                if data == "parquet" and source.suffix == ".tar":
                    write_images(source, aside / name)
                else:
                    link_file(source, aside / name)
            if data == "tars":
                write_members(tars, aside / "pairs.parquet")
            facts = _facts(run_dir, repository, data, license, digest, list_files(aside))
            artifacts.write_text(aside / "README.md", card(run_dir, facts))
            artifacts.write_json(aside / "croissant.json", croissant(facts))
            artifacts.replace_folder(aside, folder)
    finally:
        artifacts.remove(aside)
    return Upload(folder, repository, list_files(folder))


def _facts(
    run_dir: Path, repository: str, data: Data, license: str | None, digest: str, files: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """Return what both the card and the Croissant record say, from curate's digest and (name, bytes) of the files."""
    report = artifacts.read_json(layout.stage_report(run_dir, "curate"))
    total = report["total"]
    languages = languages_of(run_dir)
    langs = [lang for lang, row in report["languages"].items() if row["pairs_out"]]
    num_rows = total["pairs_out"] if data == "list" else report["tars"]["samples"]
    return {
        "repository": repository,
        "name": repository.partition("/")[2],
        "data": data,
        "digest": digest,
        "license": license or "unknown",
        "languages": sorted({*filter(None, map(languages.hub_code, langs))}),
        "num_languages": len(langs),
        "num_rows": num_rows,
        "num_bytes": sum(size for _, size in files),
        "date": datetime.date.today(),
        "total": total,
    }
