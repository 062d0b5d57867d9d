"""The stage: draw the pool if the recipe names a builder, list the pool's shards, index their images."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core import artifacts, keys
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Executor, Report, Shard, add_counts, reads_input, repeatable
from worldclip.core.inputs import is_remote, recall_fingerprints, record_fingerprints
from worldclip.core.job import ALL_SHARDS, Job, Record, Result, Run
from worldclip.core.preflight import missing_packages, problems_of
from worldclip.pool import hub
from worldclip.pool.builders import builder_of
from worldclip.pool.columns import WrongColumns
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import PoolFile
from worldclip.pool.formats import format_of, pool_formats
from worldclip.pool.formats.base import INDEX_COUNTS
from worldclip.pool.formats.parquet import PARQUET
from worldclip.pool.formats.tar import IMAGE_SUFFIXES
from worldclip.pool.listing import list_files
from worldclip.pool.read import holds_images, write_index

NUM_SAID = 5  # names of what is left out, in one message; the report has all
LOOSE_IMAGES = "a pool with images is tars; write them: worldclip pool pack FOLDER --out TARS"
_IMAGE_ENDS = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_pool(source: str | Path, key: str | None = None) -> Run:
    """Return the context of any pool: a folder or URL of pairs, a run, or a .toml with [pool].

    key: in place of its pool.key.  Raises UserError for problems with the section, and for unknown sections.
    """
    path = Path(source)
    is_recipe = path.suffix == ".toml" or layout.is_run(path)
    run = Run.open(path) if is_recipe else Run.of(path, PoolConfig(path=str(source)))
    if key is None and is_recipe:
        return run
    config = run.section(PoolConfig)
    config = dataclasses.replace(config, key=config.key if key is None else key)
    if problems := config.problems():
        raise UserError(problems)
    return dataclasses.replace(run, sections={**run.sections, "pool": config})


def root(run: Run) -> str:
    """Return the folder or URL of the pool: the recipe's, or RUN/pool/pairs of a pool that the run builds."""
    config = run.section(PoolConfig)
    return str(layout.built_pairs(run.dir)) if config.build else config.path or ""


def shards(run: Run, part: slice = ALL_SHARDS) -> list[Shard]:
    """Return the pool's files, sorted by name: the path below the root, after the root's name if there are several.

    part: which of the sorted files; the others are not opened.

    Raises UserError that lists every root that is missing, has no shard, or has compressed tars.
    """
    recall_fingerprints(layout.stamps(run.dir, "pool"))
    return list_shards(_located(run), part=part)


def _located(run: Run) -> PoolConfig:
    """Return [pool] with the path of a pool that the run builds."""
    config = run.section(PoolConfig)
    return config if config.roots else dataclasses.replace(config, path=root(run))


def indexed_shards(run: Run, part: slice = ALL_SHARDS) -> list[Shard]:
    """Return `shards` as the pool's index has them: what later stages read.

    Raises UserError that names shards which changed after the index was written, and if there is no index.
    """
    found = shards(run, part)
    indexed = artifacts.require_manifest(run.dir, "pool")["inputs"].get("shards")
    if indexed is None:  # a pool that the run builds has only itself as input
        return found
    changed = [shard.name for shard in found if indexed.get(shard.name) != shard.fingerprint]
    if part == ALL_SHARDS:
        changed += sorted(indexed.keys() - {shard.name for shard in found})
    if changed:
        names = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise UserError(f"pool.path: {names} changed after the pool was indexed; run: worldclip run {run.dir}")
    return found


def key_lists(run: Run) -> tuple[keys.KeyList, ...]:
    """Return the valid list and the deny lists of the recipe.  Raises UserError naming all other files."""
    config = run.section(PoolConfig)
    return keys.key_lists(config.valid_keys, config.deny_keys)


def list_shards(pool: PoolConfig, setting: str = "pool", part: slice = ALL_SHARDS) -> list[Shard]:
    """Return the shards of any pool, as `shards` does; setting: the section of the recipe that problems name.

    What is left out is said, once per process.
    """
    files, skipped = _list_pool(pool, setting)
    if skipped:
        _say_skipped(setting, tuple(skipped.items()))
    return [Shard.of_file(name, files[name].path, files[name].name) for name in sorted(files)[part]]


@functools.cache
def _say_skipped(setting: str, skipped: tuple[tuple[str, str], ...]) -> None:
    first = "; ".join(f"{name} ({reason})" for name, reason in skipped[:NUM_SAID])
    more = f"; and {len(skipped) - NUM_SAID:,} more" if len(skipped) > NUM_SAID else ""
    say(setting, f"{len(skipped):,} left out: {first}{more}")


def _list_pool(pool: PoolConfig, setting: str) -> tuple[dict[str, PoolFile], dict[str, str]]:
    """Return (shards by name, why the rest is left out, by name)."""
    roots = {f"{name}/": path for name, path in pool.roots.items()} or {"": pool.path or ""}
    problems: list[str] = []
    files: dict[str, PoolFile] = {}
    skipped: dict[str, str] = {}
    for prefix, path in roots.items():
        key = f"{setting}.roots.{prefix[:-1]}" if prefix else f"{setting}.path"
        shards, reasons = _shard_files(key, path, pool, problems)
        files |= {f"{prefix}{file.name}": file for file in shards}
        skipped |= {f"{prefix}{name}": reason for name, reason in reasons.items()}
    if problems:
        raise UserError(problems)
    return files, dict(sorted(skipped.items()))


def _shard_files(
    setting: str, path: str, pool: PoolConfig, problems: list[str]
) -> tuple[Sequence[PoolFile], dict[str, str]]:
    """Return (the files of pool.format, what is left out); under "auto", of the first of pool_formats() that has any.

    A link to nothing with the suffix of a shard is a shard, which fails when it is read.
    """
    wanted = pool.format
    candidates = [pool_format for pool_format in pool_formats() if wanted in ("auto", pool_format.name)]
    suffixes = tuple(suffix for pool_format in candidates for suffix in pool_format.suffixes)
    try:
        if hub.is_dataset(path):
            listing = hub.list_dataset(path, suffixes, pool.config, pool.split)
        else:
            listing = list_files(path, suffixes)
    except UserError as error:
        problems.append(f"{setting} = {error}")
        return [], {}
    files = [*listing.files, *(PoolFile(name, f"{path}/{name}") for name in listing.broken_links)]
    compressed = sorted(file.name for file in files if file.name.endswith(COMPRESSED))
    if compressed and wanted in ("auto", "tar"):
        # Images are read from the middle of a tar, which a compressed one does not allow.
        problems.append(
            f"{setting} = {path!r}: {len(compressed)} compressed tar(s) such as {compressed[0]}; unpack them to .tar"
        )
        return [], {}
    images = [file.name for file in files if file.name.lower().endswith(_IMAGE_ENDS)]
    loose = f"{len(images):,} image files such as {images[0]} lie outside of tars; {LOOSE_IMAGES}" if images else ""
    for pool_format in candidates:
        if shards := [file for file in files if file.name.endswith(pool_format.suffixes)]:
            left_out = {name: reason for name, reason in listing.broken_links.items() if not name.endswith(suffixes)}
            left_out |= listing.skipped | _other_shards(files, shards, suffixes)
            return shards, left_out | ({"images": loose} if loose else {})
    kinds = ", ".join(sorted({Path(file.name).suffix or file.name for file in files})[:5])
    contents = f"only {kinds} files" if files else "nothing"
    left_out_names = "".join(
        f"; left out: {name} ({reason})" for name, reason in list(listing.skipped.items())[:NUM_SAID]
    )
    remedy = loose or "set it to the folder of the shards"
    problems.append(f"{setting} = {path!r}: no {', '.join(suffixes)} files, {contents} in it{left_out_names}; {remedy}")
    return [], {}


def _other_shards(files: Sequence[PoolFile], shards: Sequence[PoolFile], suffixes: tuple[str, ...]) -> dict[str, str]:
    """Return the shards of later formats by suffix; one beside a shard of the same stem is its metadata."""
    chosen = {file.name for file in shards}
    stems = {_stem(file.name) for file in shards}
    others = [file.name for file in files if file.name.endswith(suffixes) and file.name not in chosen]
    kinds = Counter(Path(name).suffix for name in others if _stem(name) not in stems)
    taken = Path(shards[0].name).suffix
    return {
        f"*{suffix}": f"{count:,} files: the pool is its {taken} files; set pool.format or remove one kind"
        for suffix, count in kinds.items()
    }


def _stem(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def index(run: Run) -> None:
    """Build the pool that the recipe asks for, if any, then write RUN/pool/index/<shard>.parquet of every shard."""
    run.stage("pool", inputs=_inputs, work=_index_pool, needs=_needs, check=_check, work_on_part=_index_part)


def _needs(run: Run) -> Iterator[str]:
    config = run.section(PoolConfig)
    places = [config.path or "", *config.roots.values()]
    if builder := builder_of(config):
        yield from missing_packages("pool", builder.requires.modules, extra=builder.requires.extra)
        yield from builder.problems(config)
    elif any(map(hub.is_dataset, places)):
        yield from missing_packages("pool", extra="hub")
    elif not any(map(is_remote, places)):  # a listing of a store may take minutes
        yield from problems_of(lambda: check_names(shards(run), config))


def _inputs(run: Run) -> Record:
    config = run.section(PoolConfig)
    if builder := builder_of(config):
        return builder.inputs(config)
    return {"shards": {shard.name: shard.fingerprint for shard in shards(run)}}


def _index_pool(run: Run, job: Job) -> Result:
    config = run.section(PoolConfig)
    report: Report = {}
    builder = builder_of(config)
    if builder:
        report["built"] = builder.build(job.folder, config, run.executor)
    pool_shards = shards(run)
    report["skipped"] = _list_pool(_located(run), "pool")[1]
    has_images = holds_images(pool_shards, config)
    totals = add_counts(_index(pool_shards, config, job.folder, run.executor), INDEX_COUNTS)
    counts = {"shards": len(pool_shards), "samples": totals.pop("pairs"), **totals}
    if counts["samples"] == 0:
        raise UserError(
            f"pool.path: {len(pool_shards)} shards without any pair (tar members like 000000.jpg, 000000.txt; rows)"
        )
    without = counts["samples"] - totals["images"]
    note = f", {without:,} without an image" if has_images and without else ""
    if totals["left_out"]:
        note += f"; {totals['left_out']:,} left out by pool.where"
    say("pool", f"{counts['samples']:,} pairs in {len(pool_shards):,} shards{note}")
    if has_images and not totals["images"]:
        say("pool", "no pair has an image: the pool's samples have no image members, or its image column no bytes")
    indexes = [job.folder / "index" / f"{shard.name}.parquet" for shard in pool_shards]
    markers = [layout.marker(job.folder, shard.name, "index") for shard in pool_shards]
    record_shards(layout.stamps(run.dir, "pool"), pool_shards)
    built = [job.folder / name for name in (*builder.OUTPUTS, "held_out.json")] if builder else []
    return Result(report=report | counts, counts=counts, outputs=[*indexes, *markers, *built])


def record_shards(record: Path, pool_shards: Sequence[Shard]) -> None:
    """Write the hashes of local shards, so that the next listing hashes only what moved."""
    record_fingerprints(record, {shard.path: (shard.stamp, shard.fingerprint) for shard in pool_shards})


def _index_part(run: Run, part: slice) -> Sequence[Report]:
    """Index some shards."""
    config = run.section(PoolConfig)
    return _index(shards(run, part), config, layout.stage_dir(run.dir, "pool"), run.executor)


def _check(run: Run, job: Job) -> None:
    """Raise UserError for a column that no shard has, and for slices of a pool that the run builds."""
    config = run.section(PoolConfig)
    if not config.build:
        check_names(shards(run), config)
    elif run.part is not None:
        raise UserError(f"--shards with pool.build = {config.build!r}; build the pool first, without --shards")


def _index(shards: Sequence[Shard], pool: PoolConfig, folder: Path, executor: Executor) -> Sequence[Report]:
    check_names(shards, pool)
    index = functools.partial(index_shard, pool, folder / "index")
    key = {**pool.identity, "counts": INDEX_COUNTS}
    return executor.map(index, shards, label="index", done_dir=layout.done_dir(folder, "index"), key=key)


def check_names(shards: Sequence[Shard], pool: PoolConfig, *, is_key_only: bool = False) -> None:
    """Raise UserError for a column that no shard has: the recipe is wrong.  If some shards have it, the others are bad.

    is_key_only: check pool.key alone.  Stops at the first shard that has it, so it opens one shard of a right recipe.
    """
    if pool.image_field is not None and not any(shard.name.endswith(PARQUET.suffixes) for shard in shards):
        raise UserError("pool.image_field: only Parquet files have columns of images; remove it")
    first: WrongColumns | None = None
    for shard in shards:
        pool_format = format_of(shard.name)
        check = pool_format.check_key if is_key_only else pool_format.check_columns
        try:
            check(shard, pool)
        except WrongColumns as error:
            first = first or error
        except BadShard:  # reported when the shard is indexed
            continue
        else:
            return
    if first is not None:
        raise UserError(first.problems)


@repeatable
@reads_input
def index_shard(config: PoolConfig, folder: Path, shard: Shard) -> Report:
    return write_index(shard, config, folder / f"{shard.name}.parquet")
