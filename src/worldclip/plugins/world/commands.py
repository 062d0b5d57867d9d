"""The command `pool world`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldclip.core.command import Command, OutFolder
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor
from worldclip.core.job import lock_folder
from worldclip.core.preflight import missing_packages
from worldclip.plugins.drawings import size_problems
from worldclip.plugins.world import builder
from worldclip.plugins.world.build import build_world
from worldclip.plugins.world.sets import REQUIRES, check_folders
from worldclip.pool.files import check_own


@Command
def pool_world(
    out: OutFolder,
    *,
    cldr: Path | None = None,
    fluent: Path | None = None,
    flags: Path | None = None,
    stamps: Path | None = None,
    appstream: Path | None = None,
    gcompris: Path | None = None,
    train_on_stamps: bool = False,
    image_px: int = 64,
    samples_per_shard: int = 500,
    executor: Executor,
) -> tuple[Any, str]:
    """Draw the world pool: pictures with texts in more than 200 languages, and held-out sets.

    out: folder to write.
    cldr: folder with CLDR's annotations, as XML or JSON: names and keywords of the emoji in some 140 languages.
    fluent: folder of the npm package @iconify-json/fluent-emoji-flat: second drawings.
    flags: folder of npm packages with flags by other artists.
    stamps: folder of Tux Paint's stamps (GPL-2), held out.
    appstream: folder of an AppStream catalogue: icons of programs, with noisy texts in 160 languages.
    gcompris: folder of GCompris' data (GPL-3): photographs, held out.
    train_on_stamps: put stamps and photographs into the pool instead of holding them out.
    image_px: side of a picture in pixels.
    samples_per_shard: samples per tar.

    Raises UserError for invalid sizes and folders, for an `out` with other files, and without the extra `world`.

    Examples:
        worldclip pool world --out world
        worldclip pool world --out world --workers 4
    """
    parts = {"cldr": cldr, "fluent": fluent, "flags": flags, "stamps": stamps}
    parts |= {"appstream": appstream, "gcompris": gcompris}
    folders = {name: folder for name, folder in parts.items() if folder is not None}
    problems = list(size_problems(image_px, samples_per_shard, "picture"))
    problems += check_folders(folders)
    problems += missing_packages("pool world", REQUIRES.modules, extra=REQUIRES.extra)
    if problems:
        raise UserError(problems)
    check_own(out, "pool world", (*builder.OUTPUTS, "held_out.json"))
    with lock_folder(out):
        sizes = {"image_px": image_px, "samples_per_shard": samples_per_shard}
        report = build_world(out, folders, train_on_stamps=train_on_stamps, **sizes, executor=executor)
    languages = report["languages"]
    many = sum(count >= 1000 for count in languages.values())
    drawn = report["train"]
    return report, (
        f"{drawn['samples']:,} pictures, {drawn['texts']:,} texts in {len(languages):,} languages, "
        f"{many:,} of them with at least 1,000: {out}"
    )
