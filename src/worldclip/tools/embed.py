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
from worldclip.check.images import places_of, source_units
from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import EMBEDDED_TEXTS, IMAGE_PLACES
from worldclip.core import keys
from worldclip.core.artifacts import MANIFEST, digest, write_array, write_array_parts, write_table, write_tables
from worldclip.core.coin import sample_records
from worldclip.core.command import Command, Flags
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, usable_cores
from worldclip.core.inputs import is_remote
from worldclip.core.job import Job, Result, Run, RunLock
from worldclip.core.preflight import problems_of
from worldclip.curate.stage import refuse_outdated
from worldclip.export.embedded import Of, embed_sample_inputs
from worldclip.model import decode
from worldclip.model import load as model_load
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.worker import WorkerModel, load_here, num_processes
from worldclip.pool.config import PoolConfig, split_pattern
from worldclip.pool.files import check_own, check_source
from worldclip.tools.known_pools import with_usual_columns

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
    if key is None:
        usual_run = with_usual_columns(run)
        if usual_run is not run:
            run = usual_run
            say("embed", f"{run.section(PoolConfig).key!r} identifies a pair; --key names another column")
    _check_out(folder, run.section(PoolConfig))
    no_shards = [] if pools.is_run(run) else problems_of(pools.list_pool, run)
    if no_shards and _folder_of_files(run, of) is None:
        raise UserError(no_shards)
    source = model_load.find(model, precision)
    precision = model_load.choose_precision(precision, source, device)  # chosen once, for all workers
    loading: dict[str, Any] = {"arch": arch, "tokenizer": tokenizer and str(tokenizer), "precision": precision}
    options = LoadOptions(device=device, **loading)
    problems = model_load.missing_of(source, options)
    if problems:
        raise UserError(problems)
    with RunLock(folder):
        run_dir, units = _find_units(run, folder, of, executor, has_shards=not no_shards)
        model_id = {**_identity(model, source), **loading, **model_load.digests_of_files(arch, tokenizer)}
        embedding = _Embedding(
            model=WorkerModel(source, options, digest(model_id)),
            folder=folder,
            run_dir=run_dir,
            key_lists=() if run_dir is None else pools.key_lists(dataclasses.replace(run, dir=run_dir)),
            has_vectors=vectors_in_table,
        )
        return _run_job(run, embedding, units, model_id, executor, Path(pool))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Embedding:
    """All that a worker must know to embed a shard."""

    model: WorkerModel
    folder: Path
    run_dir: Path | None
    """The folder that holds pool/; None for a folder of image files, which is no pool."""
    key_lists: Sequence[keys.KeyList]
    has_vectors: bool


def _folder_of_files(run: Run, of: Sequence[Of]) -> Path | None:
    """Return the folder whose image files may be embedded, the only place of the pool; None where texts are, too."""
    paths = run.section(PoolConfig).paths
    if "texts" in of or len(paths) != 1 or not os.path.isdir(paths[0]):
        return None
    return Path(paths[0])


def _find_units(
    run: Run, folder: Path, of: Sequence[Of], executor: Executor | None, *, has_shards: bool
) -> tuple[Path | None, dict[Of, Sequence[Shard]]]:
    """Read the pool if that is not done; return where pool/ is, and the shards of the images and of the texts to embed.

    Of a local folder without a pool, or whose pool has no images, these are groups of image files, and pool/ is None.
    Raises UserError where there is nothing of what is asked for.
    """
    files = _folder_of_files(run, of)
    if has_shards:
        run, shards = pools.read_pool(run, folder, needs_texts="texts" in of, executor=executor)
        has_images = pools.holds_images(run.dir, shards)
        usual_kind: Of = "images" if has_images else "texts"
        kinds = of or (usual_kind,)
        if has_images or "images" not in kinds:
            return run.dir, dict.fromkeys(kinds, shards)
    if files is None:
        raise UserError(
            f"of = images: {run.section(PoolConfig).location} holds only texts; give tars, Parquet files of images, "
            "image files, or a recipe whose pool.image_field names a column of paths"
        )
    return None, {"images": source_units(files)}


def _identity(model: str | Path, source: model_load.Source) -> dict[str, str]:
    """Return what search loads again: the checkpoint's own path or the hub id, the layout and the digest."""
    is_local = Path(str(model).removeprefix("local-dir:")).exists()
    name = str(source.path.resolve()) if is_local else str(model).removeprefix("hf-hub:")
    return {"source": name, "layout": source.layout, "digest": source.digest()}


def _run_job(
    run: Run,
    embedding: _Embedding,
    units: Mapping[Of, Sequence[Shard]],
    model_id: Mapping[str, Any],
    executor: Executor | None,
    opened_from: Path,
) -> Report:
    """Embed the shards unless that is done; return the report."""
    folder = embedding.folder
    pool = run.section(PoolConfig)
    config: dict[str, Any] = {"model": model_id, "pool": pool.identity, "of": list(units)}
    if embedding.has_vectors:
        config["vectors_in_table"] = True
    if "images" in units:
        config |= {"decoder": decode.identity(), "source": pool.location}
    inputs: dict[str, Any] = {"key_lists": keys.digests(embedding.key_lists)}
    for kind, shards in units.items():
        inputs[kind] = {shard.name: shard.fingerprint for shard in shards}
    job = Job("embed", folder, config, lambda: inputs)
    check_source(job, pool.location)
    for kind, shards in units.items():
        for shard in shards:
            done = layout.marker(folder, shard.name, kind)
            if done.exists() and not all(path.exists() for path in _files_of(folder, kind, shard)):
                done.unlink()  # somebody removed a file: the shard is embedded again
                (folder / MANIFEST).unlink(missing_ok=True)
    reason = job.reason_to_run()
    if reason is not None:
        say("embed", f"starts ({reason})")
    lists = [os.path.abspath(item.path) for item in embedding.key_lists]  # in the order of inputs.key_lists
    manifest = {"source": pool.location, "places": _places(pool, embedding.run_dir), "key_lists": lists}
    if opened_from.suffix == ".toml" or layout.is_run(opened_from):
        manifest["recipe"] = os.path.abspath(opened_from)  # whose lists of keys may become more
    try:
        return job.run_once(lambda: _embed(embedding, config, units, executor, manifest))
    finally:
        load_here.cache_clear()


def _places(pool: PoolConfig, run_dir: Path | None) -> list[str]:
    """Return the folders and URLs below which the pool's files lie; a single local file gives its folder."""
    if pool.build and run_dir is not None:
        return [os.path.abspath(layout.built_pool(run_dir))]
    places = []
    for path in pool.paths:
        place = split_pattern(path)[0]
        if os.path.isfile(place):
            place = os.path.dirname(os.path.abspath(place))
        if not is_remote(place):
            place = os.path.abspath(place)
        places.append(place)
    return places


def _files_of(folder: Path, kind: Of, shard: Shard) -> tuple[Path, Path]:
    """Return the .npy and the .parquet of a shard."""
    return folder / kind / f"{shard.name}.npy", folder / kind / f"{shard.name}.parquet"


def _check_out(folder: Path, pool: PoolConfig) -> None:
    """Raise UserError for a folder with other files, and for one in the pool, which would become part of it.

    An unfinished `pool check` has folders of the same names: pool and images.
    """
    check_own(folder, "embed", ("pool", "images", "texts", "probe.npy"))
    if (folder / "images").exists() and not (folder / "probe.npy").exists():  # embed writes the probe first
        raise UserError(f"--out {str(folder)!r} holds the images of an unfinished check; choose an empty directory")
    for root in pool.paths:
        if not is_remote(root) and folder.resolve().is_relative_to(Path(root).resolve()):
            raise UserError(f"--out = {str(folder)!r}: lies in the pool {root!r}; give a folder outside of it")


def _num_bytes(shard: Shard) -> int:
    """Return the size of a file, or of a group of image files; 0 where a server does not report it."""
    files = shard.fingerprint.get("files", [])
    return int(shard.fingerprint.get("size") or sum(size for _, size, *_ in files))


def _embed(
    embedding: _Embedding,
    config: Report,
    units: Mapping[Of, Sequence[Shard]],
    executor: Executor | None,
    manifest: Report,
) -> Result:
    source = embedding.model.source
    device = embedding.model.options.device
    # processes that the pool keeps busy
    num_busy = 1 + max(sum(map(_num_bytes, shards)) // BYTES_PER_PROCESS[kind] for kind, shards in units.items())
    workers = executor or LocalExecutor(workers=min(num_processes(device, source), num_busy))
    if isinstance(workers, LocalExecutor):
        threads = max(1, usable_cores() // min(workers.workers, max(map(len, units.values()))))
        embedding = dataclasses.replace(embedding, model=dataclasses.replace(embedding.model, threads=threads))
    folder = embedding.folder
    key: Report = {name: config[name] for name in ("model", "pool", "vectors_in_table") if name in config}
    key["key_lists"] = keys.digests(embedding.key_lists)
    # before any worker starts: a model that does not load fails once, not once per shard
    write_array(folder / "probe.npy", embed_sample_inputs(load_here(embedding.model)))
    if not isinstance(workers, LocalExecutor) or workers.workers > 1:
        load_here.cache_clear()  # frees this process's copy; the workers load their own
    totals: dict[str, Report] = {}
    outputs = [folder / "probe.npy", folder / "pool"]
    for kind, shards in units.items():
        shard_key = dict(key)
        if kind == "images":
            shard_key |= {"decoder": config["decoder"], "source": config["source"]}
        embed_shard = embed_images if kind == "images" else embed_texts
        fn = functools.partial(embed_shard, embedding=embedding)
        reports = workers.map(fn, shards, label=kind, done_dir=layout.done_dir(folder, kind), key=shard_key)
        totals[kind] = _sum(reports)
        for shard in shards:
            outputs += [*_files_of(folder, kind, shard), layout.marker(folder, shard.name, kind)]
    counts = {kind: total["embedded"] for kind, total in totals.items()}
    if not any(counts.values()):
        problem = f"the pool holds nothing to embed of {', '.join(units)}"
        bad: list[dict[str, str]] = []
        for total in totals.values():
            bad += total["bad"]
        if bad:
            problem += f"; {bad[0]['key']}: {bad[0]['reason']}"
        raise UserError(problem)
    report = {"model": config["model"]["source"], **totals}
    return Result(report=report, counts=counts, outputs=outputs, manifest=manifest)


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
    if embedding.run_dir is None:
        places = places_of(shard)
        return places, {"pairs": len(places), "no_image": 0, "not_valid": 0}
    pair_keys, num_without, num_repeated = pools.read_keys(embedding.run_dir, shard.name)
    num_pairs = len(pair_keys) + num_without + num_repeated
    num_images = len(pools.read_images(embedding.run_dir, shard.name, pools.EVERY_KEY))
    images = pools.read_images(embedding.run_dir, shard.name, embedding.key_lists)
    counts = {"pairs": num_pairs, "no_image": num_pairs - num_images, "not_valid": num_images - len(images)}
    return pools.image_places(shard, images), counts


def embed_texts(shard: Shard, *, embedding: _Embedding) -> Report:
    """Write the shard's .npy and .parquet; texts that are not kept are left out and counted."""
    folder = embedding.folder / "texts"
    clip = load_here(embedding.model)
    assert embedding.run_dir is not None
    texts = pools.read_pairs(embedding.run_dir, shard.name, embedding.key_lists)
    kept_rows = pa.array(np.flatnonzero(texts.reason == Reason.KEPT))
    columns = (texts.key.take(kept_rows), texts.text_idx.take(kept_rows), texts.text.take(kept_rows))
    rows = pa.table(columns, names=["key", "text_idx", "text"])
    starts = range(0, len(rows), TEXTS_AT_ONCE)
    # In parts: a shard of a table may have more embeddings than memory holds.
    features = (clip.encode_text(rows["text"].slice(start, TEXTS_AT_ONCE).to_pylist()) for start in starts)
    write_array_parts(folder / f"{shard.name}.npy", (len(rows), clip.embed_dim), np.float32, features)
    _write_rows(folder, shard.name, rows, EMBEDDED_TEXTS, embedding.has_vectors)
    unusable = (Reason.BAD_PAIR, Reason.DUPLICATE, Reason.NO_TEXT, Reason.NOT_VALID)
    dropped = {reason.label: int((texts.reason == reason).sum()) for reason in unusable}
    bad = [{"key": sample["key"], "reason": sample["reason"]} for sample in texts.bad]
    return {"pairs": len(texts.reason), "embedded": len(rows), **dropped, "bad": bad}


def _write_rows(folder: Path, name: str, rows: pa.Table, schema: pa.Schema, has_vectors: bool) -> None:
    """Write a shard's .parquet.  has_vectors: add its .npy as the column `vector`, a part of the rows at a time."""
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
    for kind in ("images", "texts"):
        if kind not in report:
            continue
        counts = report[kind]
        line = f"{counts['embedded']:,} {kind} embedded"
        for name, count in counts.items():
            if name not in ("shards", "pairs", "embedded", "bad") and count:
                line += f", {count:,} {name.replace('_', ' ')}"
        lines.append(f"{line}: {flags.out}")
        lines += [f"  {sample['key']}: {sample['reason']}" for sample in counts["bad"]]
    return "\n".join(lines)


EMBED = Command(embed, _embedded_text, has_own_workers=True)
"""Embed the images or texts of a pool into a folder to search."""
