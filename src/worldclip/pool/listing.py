"""List the shards of a pool: folders by a walk along links, URLs by fsspec, datasets of the hub at a commit."""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import fsspec

from worldclip.contracts import layout
from worldclip.core import image_names
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.execute.shard_list import InputFile, ShardList
from worldclip.core.hub_errors import explain
from worldclip.core.inputs import is_remote
from worldclip.core.job import ALL_SHARDS, Run
from worldclip.core.local_path import nearest_path
from worldclip.core.printable import counted
from worldclip.core.safe_path import is_safe_name
from worldclip.pool import hub
from worldclip.pool.config import PoolConfig, name_of_place, split_pattern
from worldclip.pool.files import PoolFile
from worldclip.pool.formats import pool_formats, pool_suffixes
from worldclip.pool.formats.parquet import PARQUET

LOOSE_IMAGES = "image files need a table of their paths and texts, or tars: worldclip pool pack FOLDER --out TARS"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def list_shards(pool: PoolConfig, setting: str = "pool", part: slice = ALL_SHARDS) -> ShardList:
    """Return the shards of any pool, sorted by name; setting: the section of the recipe that problems name.

    A shard's name is its path below the root, after the root's own name if there are several.  Raises UserError that
    lists every root that is missing, has no shard, or has compressed tars.
    """
    return ShardList.of_files(list_input_files(pool, setting)[part])


def list_input_files(pool: PoolConfig, setting: str = "pool") -> list[InputFile]:
    """Return the files of the shards of `list_shards` without opening one."""
    problems: list[str] = []
    files: list[InputFile] = []
    names = list(map(name_of_place, pool.paths))
    repeated = sorted(name for name, number in Counter(names).items() if number > 1)
    if repeated:
        raise UserError(f"{setting}.path: several folders are named {', '.join(repeated)}, which begins keys; rename")
    for name, path in zip(names, pool.paths, strict=True):
        prefix = f"{name}/" if len(names) > 1 else ""
        try:
            shards = _shard_files(path, setting)
        except UserError as error:
            problems.append(f"{setting}.path = {error}")
            continue
        files += [InputFile(f"{prefix}{file.name}", file.path, file.name) for file in shards]
    if problems:
        raise UserError(problems)
    return sorted(files)


def options_of(pool: PoolConfig, shard_name: str) -> PoolConfig:
    """Return the options of the place that a shard of `list_shards` lies in."""
    places = pool.places
    if len(places) < 2:
        return places[0] if places else pool
    folder = shard_name.partition("/")[0]
    return next(place for place in places if name_of_place(str(place.path)) == folder)


def shards_by_place(shards: Sequence[Shard], config: PoolConfig) -> Iterator[tuple[PoolConfig, list[Shard]]]:
    """Yield (options, shards) of each place that has shards."""
    for options, of_place in itertools.groupby(shards, lambda shard: options_of(config, shard.name)):
        yield options, list(of_place)


def place_of(run: Run, shard: Shard) -> str:
    """Return the folder, URL or file of the place that a shard lies in."""
    config = run.section(PoolConfig)
    if config.build:
        return str(layout.built_pool(run.dir))
    return split_pattern(str(options_of(config, shard.name).path))[0]


def _shard_files(path: str, setting: str) -> list[PoolFile]:
    """Return the files of the first of pool_formats() that has any."""
    files = [file for file in list_files(path) if is_safe_name(file.name) and "/." not in f"/{file.name}"]
    compressed = sorted(file.name for file in files if file.name.endswith(COMPRESSED))
    if compressed:
        # Images are read from the middle of a tar, which a compressed one does not allow.
        raise UserError(f"{path!r}: {len(compressed)} compressed tar(s) such as {compressed[0]}; unpack them to .tar")
    suffixes = pool_suffixes()
    has_images = any(file.name.lower().endswith(image_names.SUFFIXES) for file in files)
    for pool_format in pool_formats():
        shards = [file for file in files if file.name.endswith(pool_format.suffixes)]
        if not shards:
            continue
        left_out = [file for file in files if not file.name.endswith(pool_format.suffixes)]
        if pool_format.is_table:  # images next to a table may be those that it names
            left_out = [file for file in left_out if not file.name.lower().endswith(image_names.SUFFIXES)]
            has_images = False
        # those named as a shard are img2dataset's tables of its tars
        stems = {PurePosixPath(shard.name).with_suffix("") for shard in shards}
        further = []
        others = []
        for file in left_out:
            if file.name.endswith(suffixes) and PurePosixPath(file.name).with_suffix("") not in stems:
                further.append(file)
            else:
                others.append(file)
        remedy = ""
        if further:
            remedy = (
                f"{counted(len(further), 'file')} such as {further[0].name}, since all shards of a folder have one "
                "format; if they hold further pairs, move them to another folder and name both folders in "
                "[[pool.place]]"
            )
        _say_left_out(setting, path, _kinds(others), remedy, LOOSE_IMAGES if has_images else "")
        return shards
    remedy = "set it to the folder of the shards"
    if has_images:
        remedy = "give its folder" if os.path.isfile(path) else LOOSE_IMAGES
    contents = f"only {_kinds(files)}" if files else "nothing"
    raise UserError(f"{path!r}: no {', '.join(suffixes)} files, {contents} in it; {remedy}")


def _kinds(files: Sequence[PoolFile]) -> str:
    """Return which kinds of files there are, `.json, .txt files`; empty for none."""
    kinds = sorted({PurePosixPath(file.name).suffix or file.name for file in files})
    return f"{', '.join(kinds[:5])} files" if kinds else ""


@functools.cache
def _say_left_out(setting: str, path: str, *reasons: str) -> None:
    """Say once per process what is left out of a pool."""
    if any(reasons):
        say(setting, f"{path}: left out: {'; '.join(filter(None, reasons))}")


def require_place(path: str) -> None:
    """Raise UserError for a folder or file of pairs that a command names and that does not exist on this machine."""
    if is_remote(path):
        return
    root, _ = split_pattern(path)
    if os.path.exists(root):
        return
    kind = "file" if os.path.splitext(root)[1] else "folder"
    remedy = nearest_path(root).strip() or "name the folder of your pictures or pairs"
    raise UserError(f"{path}: no such {kind}; {remedy}")


def list_files(path: str) -> list[PoolFile]:
    """Return every file below a folder or URL; the path of a file gives that file.

    Raises UserError for a path that is neither a folder nor a file, or that cannot be listed.
    """
    if hub.is_dataset(path):
        return hub.list_dataset(path)
    root, pattern = split_pattern(path)
    if pattern:
        wanted = "/".join(pattern)
        if is_remote(path):
            wanted = wanted.replace("?", "[?]")  # "?" begins a query
        matches = hub.matcher([wanted])
        return [file for file in list_files(root) if matches(file.name)]
    if is_remote(path):
        return _list_remote(path)
    if os.path.isfile(path):
        return [PoolFile(os.path.basename(path), path)]
    if not os.path.isdir(path):
        raise UserError(f"{path!r}: no such folder or file; {nearest_path(path)}name the folder of the pairs")
    return _list_local(str(Path(path)))


def check_place(folder: Path, names: Sequence[str], pool: PoolConfig, *, has_tars: bool = False) -> None:
    """Raise UserError if what is written to a folder would become shards of the pool: tables in a place of tables.

    names: of the pool's shards.  has_tars: tars are written as well.
    """
    written = (*PARQUET.suffixes, ".tar") if has_tars else PARQUET.suffixes
    first_names = {options_of(pool, name).path: name for name in reversed(names)}
    place = folder.resolve()
    for path, name in first_names.items():
        if path is None or is_remote(str(path)) or not name.endswith(written):
            continue
        top = Path(split_pattern(str(path))[0]).resolve()
        if top in place.parents and not any(part.startswith(".") for part in place.relative_to(top).parts):
            raise UserError(
                f"{folder} is in the pool's folder {path}, so the {Path(name).suffix} files that are "
                "written there would be shards of the pool; choose a folder outside (--out)"
            )


def _list_local(root: str) -> list[PoolFile]:
    """Follow links; a folder or a shard that several names lead to is listed once, under its own name if that is here.

    Folders that are runs are left out.
    """
    suffixes = pool_suffixes()

    def refuse(error: OSError) -> None:
        if error.filename == root:
            raise UserError(f"{root!r}: cannot be listed ({error.strerror}); check its permissions") from error
        say("pool", f"{error.filename}: left out, cannot be entered ({error.strerror})")

    files: list[PoolFile] = []
    links: list[PoolFile] = []
    real_paths: set[str] = set()
    top = os.path.realpath(root)
    listed: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        is_above = top.startswith(f"{real.rstrip('/')}/")  # a link to a folder that holds the pool
        if real in listed or is_above:
            folders.clear()
            continue
        listed.add(real)
        runs = [name for name in folders if layout.is_run(Path(folder, name))]
        _say_runs(folder, tuple(runs))
        folders[:] = [name for name in folders if not name.startswith(".") and name not in runs]
        folders.sort(key=lambda name, folder=folder: (os.path.islink(os.path.join(folder, name)), name))  # type: ignore[misc]
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else f"{below}/"
        for name in names:
            file = PoolFile(f"{prefix}{name}", os.path.join(folder, name))
            if name.endswith(suffixes) and os.path.islink(file.path):
                links.append(file)
            else:
                files.append(file)
                real_paths.add(os.path.join(real, name))
    for file in sorted(links):  # the same name on every machine, whatever order a folder lists its files in
        real = os.path.realpath(file.path)
        if real not in real_paths:  # else a shard would count twice
            real_paths.add(real)
            files.append(file)
    return files


@functools.cache
def _say_runs(folder: str, names: tuple[str, ...]) -> None:
    """Say once per process which folders of a pool are runs."""
    for name in names:
        say("pool", f"{os.path.join(folder, name)}: left out, it is a run")


def _list_remote(url: str) -> list[PoolFile]:
    try:
        files, root = fsspec.url_to_fs(url)
        files.invalidate_cache()  # else a file that changed since the last listing would look the same
        paths = files.find(root)
    except Exception as error:  # those of a store's HTTP library, without a network for example, have no common class
        raise UserError(
            f"{url!r}: cannot be listed ({explain(error)}); check the URL, access, and fsspec's package"
        ) from error
    if not paths:
        raise UserError(f"{url!r}: no files; set it to the folder of the shards")
    root = root.rstrip("/")
    pool_files = []
    for path in paths:
        name = path.removeprefix(root).lstrip("/") or path.rpartition("/")[2]
        pool_files.append(PoolFile(name, files.unstrip_protocol(path)))
    return pool_files
