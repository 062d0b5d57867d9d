"""Embed the images or texts of a pool with a model, into a folder that `worldclip search` reads.

    DIR/images/<shard>.npy       (N, D) float32 of unit length, one row per image that decodes
    DIR/images/<shard>.parquet   key, file, offset, size: where each image is
    DIR/texts/<shard>.npy        (N, D) float32 of unit length, one row per text
    DIR/texts/<shard>.parquet    key, text_idx, text
    both .parquet also have vector, the row of .npy, under --vectors-in-table
    DIR/probe.npy                embeddings of a fixed image and fixed texts, which identify the model
    DIR/manifest.json            the model, the pool and its shards, counts; written last

A shard is a unit of work: an interrupted call resumes with the missing shards.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip import pool as pools
from worldclip.check.images import source_units
from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import EMBEDDED_TEXTS, IMAGE_PLACES
from worldclip.core import keys
from worldclip.core.artifacts import MANIFEST, write_array, write_array_parts, write_table, write_tables
from worldclip.core.coin import sample_records
from worldclip.core.command import Command, Flags
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, usable_cores
from worldclip.core.inputs import is_remote
from worldclip.core.job import Job, Result, Run, RunLock
from worldclip.curate.stage import refuse_outdated
from worldclip.export.embedded import Of, embed_sample_inputs
from worldclip.model import decode
from worldclip.model import load as model_load
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.worker import WorkerModel, load_here, num_processes
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.formats import format_of
from worldclip.pool.formats.base import ROW
from worldclip.pool.listing import split_pattern
from worldclip.tools.known_pools import KnownPool, field_names, key_column, with_pictures

IMAGES_AT_ONCE = 1024  # images read together: bounds the encoded bytes in memory
TEXTS_AT_ONCE = 65_536  # texts converted to Python strings together
VECTOR = "vector"  # column of the embeddings in a .parquet
NUM_BAD_SAMPLES = 20  # unusable pairs named in the report
# Starting a process and loading the model takes as long as embedding about this many bytes on a CPU.  A process with
# less work than that does not pay.
BYTES_PER_PROCESS: dict[Of, int] = {"images": 8 * 2**20, "texts": 256 * 2**10}


def embed(
    model: str | Path,
    pool: str | Path,
    out: str | Path,
    *,
    of: Sequence[Of] = (),
    key: str | None = None,
    arch: str | None = None,
    tokenizer: str | Path | None = None,
    precision: str | None = "auto",
    device: str = "auto",
    vectors_in_table: bool = False,
    executor: Executor | None = None,
) -> Report:
    """Embed the images and texts of a pool into the folder `out`; return the report.

    arch, tokenizer, precision (auto by default) and device are as in worldclip.load, key replaces
    pool.key.  The executor is by default one of processes on this machine, as many as num_processes returns.

    pool: folder of tars, tables or image files, a run, or a .toml file with a [pool] section.
    out: folder to write: embeddings as .npy and the places of their images or texts as .parquet, one of each per shard.
    of: what to embed (default: images of tars and of folders of image files, texts of tables).
    vectors_in_table: write the embeddings into the .parquet files too, as the column `vector`.

    Raises UserError for the user's mistakes, StageFailed where shards failed.

    Examples:
        worldclip embed facebook/metaclip-2-worldwide-b32 photos --out embedded
        worldclip embed runs/emoji pool --out embedded --of images texts
    """
    folder = Path(out)
    run = pools.open_pool(pool, key)
    refuse_outdated(run)
    run = _with_usual_key(run) if key is None else run
    pool_config = run.section(PoolConfig)
    _check_out(folder, pool_config)
    is_pool = _is_pool(run, of)
    source = model_load.find(model, precision)
    precision = model_load.choose_precision(precision, source, device)  # chosen once, for all workers
    loading: dict[str, Any] = {"arch": arch, "tokenizer": tokenizer and str(tokenizer), "precision": precision}
    options = LoadOptions(device=device, **loading)
    if problems := model_load.missing_of(source, options):
        raise UserError(problems)
    loaded = WorkerModel(source, options)
    model_id = _identity(model, source) | loading
    with RunLock(folder):
        run_dir, units = _read_units(run, folder, of, executor) if is_pool else (None, _files_of(run))
        key_lists = () if run_dir is None else pools.key_lists(dataclasses.replace(run, dir=run_dir))
        config: dict[str, Any] = {"model": model_id, "pool": pool_config.identity, "of": list(units)}
        if vectors_in_table:
            config["vectors_in_table"] = True
        if "images" in units:
            config |= {"decoder": decode.VERSION, "source": pool_config.location}
        inputs = {str(kind): {shard.name: shard.fingerprint for shard in shards} for kind, shards in units.items()}
        job = Job("embed", folder, config, lambda: {**inputs, "key_lists": keys.digests(key_lists)})
        check_source(job, pool_config.location)
        _take_back_removed(folder, units)
        if (reason := job.reason_to_run()) is not None:
            say("embed", f"starts ({reason})")

        def work() -> Result:
            workers = executor or LocalExecutor(workers=min(num_processes(device, source), _num_worthwhile(units)))
            threads = loaded.threads
            if isinstance(workers, LocalExecutor):
                threads = max(1, usable_cores() // min(workers.workers, max(map(len, units.values()))))
            embedding = _Embedding(
                model=dataclasses.replace(loaded, threads=threads),
                folder=folder,
                run_dir=run_dir,
                key_lists=key_lists,
                has_vectors=vectors_in_table,
            )
            try:
                result = _embed(embedding, config, units, workers)
                lists = [os.path.abspath(item.path) for item in key_lists]  # in the order of inputs.key_lists
                places = _places(run, pool_config)
                manifest = {"source": pool_config.location, "places": places, "key_lists": lists}
                return dataclasses.replace(result, manifest=manifest)
            finally:
                load_here.cache_clear()

        return job.run_once(work)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Embedding:
    """All that a worker must know to embed a shard."""

    model: WorkerModel
    folder: Path
    run_dir: Path | None
    """Where pool/ is; None for a folder of image files, which is no pool."""
    key_lists: Sequence[keys.KeyList]
    has_vectors: bool


def _places(run: Run, pool: PoolConfig) -> list[str]:
    """Return the folders and URLs below which the pool's files lie: of a single local file its folder."""
    paths = [str(layout.built_pool(run.dir))] if pool.build else [split_pattern(path)[0] for path in pool.paths]
    folders = [os.path.dirname(os.path.abspath(path)) if os.path.isfile(path) else path for path in paths]
    return [folder if is_remote(folder) else os.path.abspath(folder) for folder in folders]


def _take_back_removed(folder: Path, units: Mapping[Of, Sequence[Shard]]) -> None:
    """Take back finished shards of which somebody removed a file: they are embedded again."""
    for kind, shard in ((kind, shard) for kind, shards in units.items() for shard in shards):
        done = layout.marker(folder, shard.name, kind)
        if done.exists() and not all((folder / kind / f"{shard.name}.{end}").exists() for end in ("npy", "parquet")):
            done.unlink()
            (folder / MANIFEST).unlink(missing_ok=True)


def _identity(model: str | Path, source: model_load.Source) -> dict[str, str]:
    """Return what search loads again: the checkpoint's own path or the hub id, the layout and the digest."""
    is_local = Path(str(model).removeprefix("local-dir:")).exists()
    name = str(source.path.resolve()) if is_local else str(model).removeprefix("hf-hub:")
    return {"source": name, "layout": source.layout, "digest": source.digest()}


def _with_usual_key(run: Run) -> Run:
    """Return the run with the columns of a table that usually hold key and images, where no key is set."""
    config = run.section(PoolConfig)
    if config.key != "member":
        return run
    try:
        shard = pools.list_pool(run)[0]
        if not format_of(shard.name).is_table:
            return run
        names = field_names(shard, config)
        usual = KnownPool((), key_column(names), config.texts)
        if not pools.read_shard(shard, dataclasses.replace(config, key=ROW), needs_texts=False).holds_images:
            usual = with_pictures(usual, shard, config, names)
    except (UserError, BadShard):  # image files are no pool; what is wrong with others is said when they are read
        return run
    config = dataclasses.replace(config, key=usual.key, texts=usual.texts, image_field=usual.image_field)
    say("embed", f"{config.key!r} identifies a pair; --key names another column")
    return dataclasses.replace(run, sections={**run.sections, "pool": config})


def _folder_of(run: Run) -> Path | None:
    """Return the local folder of a pool of one place, None for any other."""
    paths = run.section(PoolConfig).paths
    is_folder = len(paths) == 1 and not is_remote(paths[0]) and Path(paths[0]).is_dir()
    return Path(paths[0]) if is_folder else None


def _files_of(run: Run) -> dict[Of, Sequence[Shard]]:
    """Return the image files of a folder, as units of work."""
    folder = _folder_of(run)
    assert folder is not None
    return {"images": source_units(folder)}


def _is_pool(run: Run, of: Sequence[Of]) -> bool:
    """Return whether there are shards; False for a folder of image files.  Raises UserError for anything else."""
    if pools.is_run(run):
        return True
    try:
        pools.list_pool(run)
    except UserError:
        if _folder_of(run) is None or "texts" in of:
            raise
        return False
    return True


def _read_units(
    run: Run, folder: Path, of: Sequence[Of], executor: Executor | None
) -> tuple[Path | None, dict[Of, Sequence[Shard]]]:
    """Read the pool if that is not done; return where pool/ is, and the shards of the images and of the texts to embed.

    Raises UserError where the pool has nothing of what is asked for.
    """
    config = run.section(PoolConfig)
    run, shards = pools.read_pool(run, folder, needs_texts="texts" in of, executor=executor)
    with_images = pools.holds_images(run.dir, shards)
    units: dict[Of, Sequence[Shard]] = {}
    for kind in dict.fromkeys(of or (("images",) if with_images else ("texts",))):
        if kind == "images" and not with_images:
            if _folder_of(run) is not None and "texts" not in of:
                return None, _files_of(run)
            raise UserError(
                f"of = images: {config.location} holds only texts; give tars, Parquet files of images, image files, or "
                "a recipe whose pool.image_field names a column of paths"
            )
        units[kind] = shards
    return run.dir, units


def _check_out(folder: Path, pool: PoolConfig) -> None:
    """Raise UserError for a folder with other files, and for one in the pool, which would become part of it."""
    check_own(folder, "embed", ("pool", "images", "texts", "probe.npy"))
    for root in pool.paths:
        if not is_remote(root) and folder.resolve().is_relative_to(Path(root).resolve()):
            raise UserError(f"--out = {str(folder)!r}: lies in the pool {root!r}; give a folder outside of it")


def _num_worthwhile(units: dict[Of, Sequence[Shard]]) -> int:
    """Return the number of processes that the pool keeps busy."""
    return 1 + max(sum(map(_num_bytes, shards)) // BYTES_PER_PROCESS[kind] for kind, shards in units.items())


def _num_bytes(shard: Shard) -> int:
    """Return the size of a file, or of a group of image files; 0 where a server does not report it."""
    files = shard.fingerprint.get("files", [])
    return int(shard.fingerprint.get("size") or sum(size for _, size, *_ in files))


def _embed(embedding: _Embedding, config: Report, units: dict[Of, Sequence[Shard]], executor: Executor) -> Result:
    report: Report = {}
    model, folder = embedding.model, embedding.folder
    key = {name: config[name] for name in ("model", "pool", "vectors_in_table") if name in config}
    outputs = [folder / "probe.npy", folder / "pool"]
    work = {"images": embed_images, "texts": embed_texts}
    # before any worker starts: a model that does not load fails once, not once per shard
    write_array(folder / "probe.npy", embed_sample_inputs(load_here(model)))
    if not isinstance(executor, LocalExecutor) or executor.workers > 1:
        load_here.cache_clear()  # frees this process's copy; the workers load their own
    for kind, shards in units.items():
        fn = functools.partial(work[kind], embedding=embedding)
        shard_key = key | {name: config[name] for name in ("decoder", "source") if kind == "images"}
        shard_key["key_lists"] = keys.digests(embedding.key_lists)
        reports = executor.map(fn, shards, label=kind, done_dir=layout.done_dir(folder, kind), key=shard_key)
        report[kind] = _sum(reports)
        for shard in shards:
            outputs += [folder / kind / f"{shard.name}.{end}" for end in ("npy", "parquet")]
            outputs.append(layout.marker(folder, shard.name, kind))
    if not any(totals["embedded"] for totals in report.values()):
        bad = [sample for totals in report.values() for sample in totals["bad"]]
        example = f"; {bad[0]['key']}: {bad[0]['reason']}" if bad else ""
        raise UserError(f"the pool holds nothing to embed of {', '.join(units)}{example}")
    counts = {str(kind): report[kind]["embedded"] for kind in units}
    return Result(report={"model": config["model"]["source"], **report}, counts=counts, outputs=outputs)


def _sum(reports: Sequence[Report]) -> Report:
    """Add up counts and sample unusable pairs by hash, in one pass: reports may be read lazily from disk."""
    total: Counter[str] = Counter()
    bad: list[dict[str, str]] = []
    for report in reports:
        total.update({name: count for name, count in report.items() if name != "bad"})
        bad = sample_records([*bad, *report["bad"]], NUM_BAD_SAMPLES)
    return {"shards": len(reports), **total, "bad": bad}


def embed_images(shard: Shard, *, embedding: _Embedding) -> Report:
    """Write the shard's .npy and .parquet; images that do not decode are left out and counted."""
    folder = embedding.folder / "images"
    clip = load_here(embedding.model)
    places, counts = _image_places(shard, embedding)
    features = [np.zeros((0, clip.embed_dim), np.float32)]
    bad: list[dict[str, str]] = []
    is_usable = np.ones(len(places), bool)
    contents = pools.read_contents(places)
    for start in range(0, len(places), IMAGES_AT_ONCE):
        rows = places.slice(start, IMAGES_AT_ONCE).to_pylist()
        embeds, reasons = clip.encode_each(list(itertools.islice(contents, len(rows))))
        features.append(np.delete(embeds, list(reasons), axis=0))
        is_usable[[start + i for i in reasons]] = False
        bad += [{"key": rows[i]["key"], "reason": reason} for i, reason in reasons.items()]
    write_array(folder / f"{shard.name}.npy", np.concatenate(features))
    _write_rows(folder, shard.name, places.filter(pa.array(is_usable)), IMAGE_PLACES, embedding.has_vectors)
    embedded = int(is_usable.sum())
    return {**counts, "embedded": embedded, "undecodable": len(bad), "bad": sample_records(bad, NUM_BAD_SAMPLES)}


def _image_places(shard: Shard, embedding: _Embedding) -> tuple[pa.Table, Report]:
    """Return key, file, offset, size of the images of a shard or of a group of image files, and how many pairs it has.

    Images of keys that the lists exclude are left out.
    """
    if embedding.run_dir is None or "files" in shard.fingerprint:
        names = [name for name, *_ in shard.fingerprint["files"]]
        sizes = np.array([size for _, size, *_ in shard.fingerprint["files"]], np.int64)
        paths = [str((Path(shard.path) / name).resolve()) for name in names]
        columns = {"key": pa.array(names, pa.string()), "file": pa.array(paths, pa.string())}
        places = pa.table({**columns, "offset": np.zeros(len(names), np.int64), "size": sizes})
        return places, {"pairs": len(names), "no_image": 0, "not_valid": 0}
    texts = pools.read_pairs(embedding.run_dir, shard.name, pools.EVERY_KEY)
    num_pairs = int(np.count_nonzero(texts.text_idx.to_numpy() == 0))
    every_image = pools.read_images(embedding.run_dir, shard.name, pools.EVERY_KEY)
    images = pools.read_images(embedding.run_dir, shard.name, embedding.key_lists)
    counts = {
        "pairs": num_pairs,
        "no_image": num_pairs - len(every_image),
        "not_valid": len(every_image) - len(images),
    }
    return pools.image_places(shard, images), counts


def embed_texts(shard: Shard, *, embedding: _Embedding) -> Report:
    """Write the shard's .npy and .parquet; texts that are not kept are left out and counted."""
    folder = embedding.folder / "texts"
    clip = load_here(embedding.model)
    assert embedding.run_dir is not None
    texts = pools.read_pairs(embedding.run_dir, shard.name, embedding.key_lists)
    kept = pa.array(np.flatnonzero(texts.reason == Reason.KEPT))
    columns = {"key": texts.key, "text_idx": texts.text_idx, "text": texts.text}
    rows = pa.table({name: column.take(kept) for name, column in columns.items()})

    # In parts: a shard of a table may have more embeddings than memory holds.
    features = (
        clip.encode_text(rows["text"].slice(start, TEXTS_AT_ONCE).to_pylist())
        for start in range(0, len(rows), TEXTS_AT_ONCE)
    )
    write_array_parts(folder / f"{shard.name}.npy", (len(rows), clip.embed_dim), np.float32, features)
    _write_rows(folder, shard.name, rows, EMBEDDED_TEXTS, embedding.has_vectors)
    unusable = (Reason.BAD_PAIR, Reason.DUPLICATE, Reason.NO_TEXT, Reason.NOT_VALID)
    dropped = {reason.label: int((texts.reason == reason).sum()) for reason in unusable}
    bad = [{"key": sample["key"], "reason": sample["reason"]} for sample in texts.bad]
    return {"pairs": len(texts.reason), "embedded": len(rows), **dropped, "bad": bad}


def _write_rows(folder: Path, name: str, rows: pa.Table, schema: pa.Schema, has_vectors: bool) -> None:
    """Write a shard's .parquet; has_vectors: with its .npy as the column `vector`, a part of the rows at a time."""
    path = folder / f"{name}.parquet"
    if not has_vectors:
        write_table(path, rows, schema)
        return
    vectors_ND = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    dim = vectors_ND.shape[1]

    def part(start: int) -> pa.Table:
        values = pa.array(np.ravel(vectors_ND[start : start + TEXTS_AT_ONCE]))
        column = pa.FixedSizeListArray.from_arrays(values, dim)
        return rows.slice(start, TEXTS_AT_ONCE).append_column(VECTOR, column)

    parts = (part(start) for start in range(0, len(rows), TEXTS_AT_ONCE))
    write_tables(path, parts, schema.append(pa.field(VECTOR, pa.list_(pa.float32(), dim))))


def _embedded_text(report: Mapping[str, Any], flags: Flags) -> str:
    lines = []
    for kind in [kind for kind in ("images", "texts") if kind in report]:
        counts = report[kind]
        shown = ("shards", "pairs", "embedded", "bad")
        others = [
            f", {count:,} {name.replace('_', ' ')}" for name, count in counts.items() if name not in shown and count
        ]
        lines.append(f"{counts['embedded']:,} {kind} embedded{''.join(others)}: {flags.out}")
        lines += [f"  {sample['key']}: {sample['reason']}" for sample in counts["bad"]]
    return "\n".join(lines)


EMBED = Command(embed, _embedded_text, has_own_workers=True)
"""Embed the images or texts of a pool into a folder to search."""
