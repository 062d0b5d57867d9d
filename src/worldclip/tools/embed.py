"""Embed the images or texts of a pool with a model, into a folder that `worldclip search` reads.

    DIR/images/<shard>.<digest>.npy       (N, D) float32 of unit length, one row per image that decodes
    DIR/images/<shard>.<digest>.parquet   what each image is and where it lies, EMBEDDED_IMAGES
    DIR/texts/<shard>.<digest>.npy        (N, D) float32 of unit length, one row per text
    DIR/texts/<shard>.<digest>.parquet    key, text_idx, text, EMBEDDED_TEXTS
    both .parquet also have vector, the row of .npy, under --vectors-in-table
    DIR/probe.<digest>.npy                embeddings of a fixed image and fixed texts, which identify the model
    DIR/manifest.json                     the model, the pool, and which segments hold its shards now; written last

A shard is a unit of work, and its files a segment: an interrupted call resumes with the missing ones.  A segment never
changes, so the folder of before can be searched until the new manifest is there.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.images import source_units
from worldclip.contracts.schemas import EMBEDDED_IMAGES, EMBEDDED_TEXTS
from worldclip.core.artifacts import digest, read_manifest, remove
from worldclip.core.command import Command, Flags
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, Report, Shard
from worldclip.core.image_names import SUFFIXES
from worldclip.core.inputs import is_remote
from worldclip.core.job import Run, lock_folder
from worldclip.core.keys import read_list
from worldclip.core.marks import Folder
from worldclip.core.preflight import problems_of
from worldclip.core.printable import counted
from worldclip.curate.stage import refuse_outdated
from worldclip.export.embedded import open_embedded
from worldclip.export.segments import Of, is_group
from worldclip.model import load as model_load
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.worker import WorkerModel, load_here
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.files import check_own
from worldclip.pool.formats import format_of, pool_suffixes
from worldclip.pool.listing import COMPRESSED
from worldclip.pool.picture_folder import Listing, list_folder
from worldclip.tools.draft_recipe import WITHOUT_TYPES, say_large_files, written_numbers_text
from worldclip.tools.embed_job import CHANGES, Embedding, Units, earlier_groups, with_retries
from worldclip.tools.embed_shard import VECTOR
from worldclip.tools.known_pools import with_usual_columns
from worldclip.tools.sampled_columns import columns_of_written_numbers

NUM_ROWS = 1000  # of a table, that tell which of its texts are numbers


def embed(
    model: str | Path,
    pool: str | Path,
    out: Annotated[str | Path, Folder()],
    *,
    of: Sequence[Of] = (),
    key: str | None = None,
    arch: str | None = None,
    tokenizer: str | Path | None = None,
    precision: str | None = "auto",
    device: str = "auto",
    columns: Sequence[str] = (),
    vectors_in_table: bool = False,
    executor: Executor | None = None,
) -> Report:
    """Embed the images and texts of a pool into the folder `out`; return the report.

    arch, tokenizer, precision (auto by default) and device are as in worldclip.load, key replaces
    pool.key.  The executor is by default one of processes on this machine, as many as num_processes returns.

    pool: folder of tars, tables or image files, a run, or a .toml file with a [pool] section.  All pairs are embedded;
    for those that a run kept, set its curate.write to tars or parquet, and give RUN/curate/tars (with --key json:key)
    or RUN/curate/parquet.
    out: folder to write: embeddings as .npy and the places of their images or texts as .parquet, one of each per shard.
    of: what to embed (default: images of tars and of folders of image files, texts of tables).
    columns: columns or fields of the pool that searches show and filter by, such as category price (default: those that
    the folder has).
    vectors_in_table: write the embeddings into the .parquet files too, as the column `vector`.

    Raises UserError for the user's mistakes, StageFailed where shards failed.

    Examples:
        worldclip embed facebook/metaclip-2-worldwide-b32 photos --out embedded
        worldclip embed runs/emoji pool --out embedded --of images texts
    """
    folder = Path(out)
    run = pools.open_pool(pool, key)
    refuse_outdated(run)
    pictures = None if pools.is_run(run) else _list_pictures(run, of)
    if key is None and pictures is None:
        usual_run = with_usual_columns(run)
        if usual_run is not run:
            run = usual_run
            say("embed", f"{run.section(PoolConfig).key!r} identifies a pair; --key names another column")
    _check_out(folder, run.section(PoolConfig))
    _check_columns(columns)
    columns = list(map(bare, columns)) or _columns_of_before(folder)
    if pictures is None and not pools.is_run(run):
        pictures = _pictures_without_shards(run, of)
    source = model_load.find(model, precision)
    precision = model_load.choose_precision(precision, source, device)  # chosen once, for all workers
    loading: dict[str, Any] = {"arch": arch, "tokenizer": tokenizer and str(tokenizer), "precision": precision}
    options = LoadOptions(device=device, **loading)
    problems = model_load.missing_of(source, options)
    if problems:
        raise UserError(problems)
    with lock_folder(folder):
        run_dir, units = _find_units(run, folder, of, executor, pictures)
        run = dataclasses.replace(run, dir=run_dir or folder)
        if run_dir is None and columns:
            raise UserError(
                f"--columns: {run.section(PoolConfig).location} is a folder of image files, without columns; give a "
                "table whose pool.image_field names the files"
            )
        model_id = {**_identity(model, source), **loading, **model_load.digests_of_files(arch, tokenizer)}
        embedding = Embedding(
            folder=folder,
            pool=run.section(PoolConfig),
            run_dir=run_dir,
            key_lists=pools.key_lists(run),
            units=units,
            model=WorkerModel(source, options, digest(model_id)),
            model_id=model_id,
            columns=tuple(columns),
            has_vectors=vectors_in_table,
        )
        try:
            report = embedding.run(executor, Path(pool))
        finally:
            load_here.cache_clear()
    _say_written_numbers(embedding)
    return report


def _say_written_numbers(embedding: Embedding) -> None:
    """Say which columns of the first table of CSV or TSV are numbers that the folder holds as texts."""
    kind, shards = next(iter(embedding.units.items()))
    if not embedding.columns or is_group(shards[0].name) or format_of(shards[0].name).name not in WITHOUT_TYPES:
        return
    names = list(map(bare, embedding.columns))
    rows = open_embedded(embedding.folder, kind).read_columns(0, names).slice(0, NUM_ROWS)
    values = {name: rows[name].drop_null().to_pylist() for name in names}
    numbers = columns_of_written_numbers(values)
    if numbers:
        say("embed", written_numbers_text(numbers))


def _folder_of_files(run: Run, of: Sequence[Of]) -> Path | None:
    """Return the folder whose image files may be embedded, the only place of the pool; None where texts are, too."""
    paths = run.section(PoolConfig).paths
    if "texts" in of or len(paths) != 1 or not os.path.isdir(paths[0]):
        return None
    return Path(paths[0])


def _list_pictures(run: Run, of: Sequence[Of]) -> Listing | None:
    """Return what a folder holds that has pictures and no shard of any format; None for any other pool."""
    folder = _folder_of_files(run, of)
    if folder is None:
        return None
    listing = list_folder(folder)
    shards = (*pool_suffixes(), *COMPRESSED)
    has_pictures = bool(listing.pictures) or any(name.lower().endswith(SUFFIXES) for name in listing.others)
    return listing if has_pictures and not any(name.endswith(shards) for name in listing.others) else None


def _pictures_without_shards(run: Run, of: Sequence[Of]) -> Listing | None:
    """List a pool of shards, say which files are large, and return None; of a folder without a shard what it holds."""
    listed: list[Shard] = []
    no_shards = problems_of(lambda: listed.extend(pools.list_pool(run)))
    say_large_files("embed", listed)
    if not no_shards:
        return None
    if _folder_of_files(run, of) is None:
        raise UserError(no_shards)
    return list_folder(Path(run.section(PoolConfig).paths[0]))


def _find_units(
    run: Run, folder: Path, of: Sequence[Of], executor: Executor | None, pictures: Listing | None
) -> tuple[Path | None, Units]:
    """Read the pool if that is not done; return where pool/ is, and the shards of the images and of the texts to embed.

    Of a local folder without a pool (pictures), or whose pool has no images, these are groups of image files, and pool/
    is None.  Raises UserError where there is nothing of what is asked for.
    """
    if pictures is None:
        run, shards = pools.read_pool(run, folder, needs_texts="texts" in of, executor=executor)
        if run.dir != folder:
            remove(folder / "pool")  # of an earlier call, whose pool was no run
        has_images = pools.holds_images(run.dir, shards)
        usual_kind: Of = "images" if has_images else "texts"
        kinds = of or (usual_kind,)
        if has_images or "images" not in kinds:
            return run.dir, dict.fromkeys(kinds, shards)
        files = _folder_of_files(run, of)
        if files is None:
            raise UserError(
                f"of = images: {run.section(PoolConfig).location} holds only texts; give tars, Parquet files of images,"
                " image files, or a recipe whose pool.image_field names a column of paths"
            )
        pictures = list_folder(files)
    manifest = read_manifest(folder)
    if not pictures.pictures and manifest is not None and manifest["source"] == os.path.abspath(pictures.root):
        raise UserError(
            f"{pictures.root} has no picture any more, and {folder} keeps its embeddings; mount its disk or restore it "
            f"(or remove {folder})"
        )
    config = run.section(PoolConfig)
    names = pa.array([name for name, *_ in pictures.pictures], pa.large_string())  # a picture's key is its path
    is_left = np.ones(len(names), bool)
    if config.valid_keys is not None:
        is_left &= np.asarray(pc.is_in(names, read_list(config.valid_keys, "pool.valid_keys")))
    for path in config.deny_keys:
        is_left &= ~np.asarray(pc.is_in(names, read_list(path, "pool.deny_keys")))
    if not is_left.all():
        say("embed", f"leaves out {counted(int((~is_left).sum()), 'file')} by pool.valid_keys and pool.deny_keys")
        left = [pictures.pictures[row] for row in np.flatnonzero(is_left).tolist()]
        pictures = dataclasses.replace(pictures, pictures=left)
    units = source_units(pictures.root, earlier_groups(folder), pictures)
    return None, {"images": with_retries(folder, units)}


def _identity(model: str | Path, source: model_load.Source) -> dict[str, str]:
    """Return what search loads again: the checkpoint's own path or the hub id, the layout and the digest."""
    is_local = Path(str(model).removeprefix("local-dir:")).exists()
    name = str(source.path.resolve()) if is_local else str(model).removeprefix("hf-hub:")
    return {"source": name, "layout": source.layout, "digest": source.digest()}


def _check_out(folder: Path, pool: PoolConfig) -> None:
    """Raise UserError for a folder with other files, and for one in the pool, which would become part of it.

    An unfinished `pool check` has folders of the same names: pool and images.
    """
    check_own(folder, "embed", ("pool", "images", "texts", "probe.*npy"))
    if (folder / "images").exists() and not any(folder.glob("probe.*npy")):  # embed writes the probe first
        raise UserError(f"--out {str(folder)!r} holds the images of an unfinished check; choose an empty directory")
    for root in pool.paths:
        if not is_remote(root) and folder.resolve().is_relative_to(Path(root).resolve()):
            raise UserError(f"--out = {str(folder)!r}: lies in the pool {root!r}; give a folder outside of it")


def _columns_of_before(folder: Path) -> list[str]:
    """Return the columns that a folder of embeddings took along before, and say so."""
    manifest = read_manifest(folder)
    if manifest is None or not manifest["config"].get("columns"):
        return []
    columns: list[str] = manifest["config"]["columns"]
    say("embed", f"keeps the columns {', '.join(columns)}; --columns names others, a new folder has none")
    return columns


def _check_columns(columns: Sequence[str]) -> None:
    """Raise UserError for columns that are named twice or as one of the folder's own."""
    problems = []
    own = {*EMBEDDED_IMAGES.names, *EMBEDDED_TEXTS.names, VECTOR}
    for name in dict.fromkeys(map(bare, columns)):
        if name in own:
            problems.append(f"--columns {name}: the folder has a column of this name of its own; rename the pool's")
        elif [*map(bare, columns)].count(name) > 1:
            problems.append(f"--columns {name}: is named twice")
    if problems:
        raise UserError(problems)


def _embedded_text(report: Mapping[str, Any], flags: Flags) -> str:
    lines = []
    for kind in ("images", "texts"):
        if kind not in report:
            continue
        counts = report[kind]
        line = f"{counts['embedded']:,} {kind} embedded"
        if any(counts.get(name) for name in CHANGES[1:]):
            line = f"{counts['embedded']:,} {kind}"
            for name in CHANGES:
                if counts[name]:
                    line += f", {counts[name]:,} {name.replace('_', ' ')}"
        for name, count in counts.items():
            if name not in ("shards", "pairs", "embedded", "bad", *CHANGES) and count:
                line += f", {count:,} {name.replace('_', ' ')}"
        lines.append(f"{line}: {flags.out}")
        lines += [f"  {sample['key']}: {sample['reason']}" for sample in counts["bad"]]
    return "\n".join(lines)


EMBED = Command(embed, _embedded_text, has_own_workers=True)
"""Embed the images or texts of a pool into a folder to search."""
