"""`worldclip embed`: the images or texts of a pool through a model, into a folder that `worldclip search` reads.

    DIR/images/<shard>.npy       (N, D) float32 of unit length, one row an image that decodes
    DIR/images/<shard>.parquet   key, file, offset, size of each: where the image is
    DIR/texts/<shard>.npy        the same of texts
    DIR/texts/<shard>.parquet    key, text_idx, text
    DIR/probe.npy                embeddings of a fixed picture and fixed texts, by which the model is known again
    DIR/manifest.json            the model, the pool's shards, counts; last

A shard is a unit of work: a call that was cut goes on with the shards that are missing.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from worldclip import pool as pools
from worldclip.check import load_pool
from worldclip.check.images import source_units
from worldclip.config import Recipe
from worldclip.core.artifacts import (
    EMBEDDED_TEXTS,
    IMAGE_PLACES,
    MANIFEST,
    read_json,
    read_manifest,
    write_array,
    write_artifact,
    write_json,
    write_manifest,
    write_table,
)
from worldclip.core.coin import sample_records
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, repeatable, usable_cores
from worldclip.core.job import RunLock, remove_stale
from worldclip.model import load as model_load
from worldclip.model import sample_inputs
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.inference import Clip
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, is_remote
from worldclip.pool.formats import format_of
from worldclip.pool.read import check_columns, check_key, read_member
from worldclip.pool.stage import check_names
from worldclip.pool.texts import REASONS

Of = Literal["images", "texts"]
IMAGES_AT_ONCE = 1024  # images of a shard that are read together
TEXTS_AT_ONCE = 65_536
NUM_BAD_SAMPLES = 20
# A process starts and loads in the time that it needs for about so many bytes on a CPU: smaller pools do with fewer.
BYTES_A_PROCESS: dict[Of, int] = {"images": 8 * 2**20, "texts": 256 * 2**10}


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What each process loads."""

    source: model_load.Source
    options: LoadOptions
    threads: int = 1
    """Threads per process, where there are several."""


def embed(
    model: str | Path,
    pool: str | Path,
    out: str | Path,
    *,
    of: Sequence[Of] = (),
    key: str | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """Embed the images and texts of a pool into the folder `out`; returns the report.

    model, device, and loading (layout, arch, tokenizer, precision) as worldclip.load takes them.  pool: a folder of
    tars, tables or image files, a run, or a .toml with a [pool] section.  of: images, texts; by default the images of
    tars and of folders of image files, the texts of tables.  key: pool.key.  executor: by default processes of this
    machine, one a CUDA device, else one a core as far as half of the memory holds the weights.

    Raises UserError for mistakes, StageFailed where shards failed.
    """
    folder, source = Path(out), model_load.find(model, loading.pop("layout", None), loading.get("precision"))
    recipe = _pool(str(pool), key)
    units = _units(recipe, Path(pool) if (Path(pool) / "recipe.toml").exists() else folder, of)
    loading = {name: None if value is None else str(value) for name, value in loading.items()}
    told = Model(source=source, options=LoadOptions(device=device, **loading))
    known = {"source": _name(model, source), "layout": source.layout, "digest": source.digest(), **loading}
    config = {"model": known, "pool": {"key": recipe.pool.key, "texts": list(recipe.pool.texts)}, "of": list(units)}
    inputs = {kind: {shard.name: shard.fingerprint for shard in shards} for kind, shards in units.items()}
    _check_out(folder, recipe.pool)
    with RunLock(folder):
        manifest = read_manifest(folder)
        if manifest is not None and [manifest["config"], manifest["inputs"]] == [config, inputs]:
            say("embed", "is finished and unchanged")
            return dict(read_json(folder / "report.json"))
        (folder / MANIFEST).unlink(missing_ok=True)
        if executor is None:
            executor = LocalExecutor(workers=min(num_processes(device, source.path), _num_worthwhile(units)))
        if isinstance(executor, LocalExecutor):
            at_a_time = min(executor.workers, max(map(len, units.values())))
            told = dataclasses.replace(told, threads=max(1, usable_cores() // at_a_time))
        try:
            report = {"model": known["source"], **_run(told, config, recipe.pool, folder, units, executor)}
        finally:
            _load.cache_clear()
        write_json(folder / "report.json", report)
        counts = {kind: report[kind]["embedded"] for kind in units}
        write_manifest(folder, config=config, inputs=inputs, counts=counts)
    return report


def _pool(place: str, key: str | None) -> Recipe:
    recipe = load_pool(place)
    if key is not None:
        recipe = dataclasses.replace(recipe, pool=dataclasses.replace(recipe.pool, key=key))
    if problems := recipe.pool.problems():
        raise UserError(problems)
    return recipe


def _units(recipe: Recipe, run_dir: Path, of: Sequence[Of]) -> dict[Of, list[Shard]]:
    """The units of work of what is embedded.  Raises UserError where the pool lacks what is asked for."""
    place = recipe.pool.path or ""
    has_files = bool(place) and not is_remote(place) and Path(place).is_dir()
    try:
        shards = pools.shards(recipe, run_dir)
    except UserError:
        if not has_files or "texts" in of:
            raise
        return {"images": source_units(Path(place))}  # its error says what was looked for
    tars = [shard for shard in shards if format_of(shard.name).has_images]
    asked: Sequence[Of] = of or (("images",) if tars else ("texts",))
    found: dict[Of, list[Shard]] = {}
    for kind in dict.fromkeys(asked):
        if kind == "images" and not tars and not has_files:
            raise UserError(f"of names images, and {place} holds tables of texts; give tars or a folder of images")
        found[kind] = (tars or source_units(Path(place))) if kind == "images" else shards
        if tars or kind == "texts":
            check_names(found[kind], recipe.pool, check=check_columns if kind == "texts" else check_key)
    return found


def _check_out(folder: Path, pool: PoolConfig) -> None:
    """Raises UserError for a folder of someone's files, and for one in the pool, which would become part of it."""
    check_own(folder)
    for place in (pool.path, *pool.roots.values()):
        if place and not is_remote(place) and folder.resolve().is_relative_to(Path(place).resolve()):
            raise UserError(f"--out is {str(folder)!r}, which lies in the pool {place!r}; give a folder outside of it")


def _name(model: str | Path, source: model_load.Source) -> str:
    """What search loads again: the place of the very model, or its hub id."""
    is_here = Path(str(model).removeprefix("local-dir:")).exists()
    return str(source.path.resolve()) if is_here else str(model).removeprefix("hf-hub:")


def num_processes(device: str, model: Path) -> int:
    """One a CUDA device, else one a core as far as half of the memory holds the weights."""
    from worldclip.model.clip import pick_device

    if pick_device(device).type == "cuda":
        import torch

        return torch.cuda.device_count()
    files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
    weights = max(1, sum(file.stat().st_size for file in files if file.suffix not in (".json", ".md")))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(usable_cores(), memory // 2 // weights))


def _num_worthwhile(units: dict[Of, list[Shard]]) -> int:
    """Processes that the pool keeps busy."""
    return 1 + max(sum(map(_num_bytes, shards)) // BYTES_A_PROCESS[kind] for kind, shards in units.items())


def _num_bytes(shard: Shard) -> int:
    """Of a file, or of a group of image files; 0 where a server does not say."""
    files = shard.fingerprint.get("files", [])
    return shard.fingerprint.get("size") or sum(size for _, size, *_ in files)


def _run(
    model: Model, config: Report, pool: PoolConfig, folder: Path, units: dict[Of, list[Shard]], executor: Executor
) -> dict[str, Any]:
    report: dict[str, Any] = {}
    key = {name: config[name] for name in ("model", "pool")}
    keep = [folder / name for name in (".lock", "report.json", "probe.npy")]
    work = {"images": embed_images, "texts": embed_texts}
    write_array(
        folder / "probe.npy", embed_sample_inputs(_load(model))
    )  # first: a model that does not load is told once
    if not isinstance(executor, LocalExecutor) or executor.workers > 1:
        _load.cache_clear()  # the workers have their own
    for kind, shards in units.items():
        fn = functools.partial(work[kind], model=model, pool=pool, folder=folder / kind)
        reports = executor.map(fn, shards, label=kind, done_dir=folder / "done" / kind, key=key)
        report[kind] = _sum(reports)
        for shard in shards:
            keep += [folder / kind / f"{shard.name}.{end}" for end in ("npy", "parquet")]
            keep.append(folder / "done" / kind / f"{shard.name}.json")
    remove_stale(folder, keep)
    if not any(found["embedded"] for found in report.values()):
        bad = [sample for found in report.values() for sample in found["bad"]]
        example = f"; {bad[0]['key']}: {bad[0]['reason']}" if bad else ""
        raise UserError(f"the pool holds nothing to embed of {', '.join(units)}{example}")
    return report


def _sum(reports: Sequence[Report]) -> dict[str, Any]:
    """Counts added up, and at most 20 bad ones, chosen by hash; in one pass, since reports may be read from disk."""
    total: Counter[str] = Counter()
    bad: list[dict[str, str]] = []
    for report in reports:
        total.update({name: count for name, count in report.items() if name != "bad"})
        bad = sample_records([*bad, *report["bad"]], NUM_BAD_SAMPLES)
    return {"shards": len(reports), **total, "bad": bad}


@repeatable
def embed_images(shard: Shard, *, model: Model, pool: PoolConfig, folder: Path) -> Report:
    """Write the shard's .npy and .parquet; an image that does not decode is left out and counted."""
    clip, (places, num_pairs) = _load(model), _places(shard, pool)
    features: list[np.ndarray] = [np.zeros((0, clip.embed_dim), np.float32)]
    reasons: dict[int, str] = {}
    for start in range(0, len(places), IMAGES_AT_ONCE):
        rows = places.slice(start, IMAGES_AT_ONCE).to_pylist()
        embeds, bad = clip.encode_each([read_member(row["file"], row["offset"], row["size"]) for row in rows])
        features.append(np.delete(embeds, list(bad), axis=0))
        reasons |= {start + row: reason for row, reason in bad.items()}
    is_good = np.ones(len(places), bool)
    is_good[list(reasons)] = False
    write_table(folder / f"{shard.name}.parquet", places.filter(pa.array(is_good)), IMAGE_PLACES)
    write_array(folder / f"{shard.name}.npy", np.concatenate(features))
    keys = places["key"]
    samples = [{"key": keys[row].as_py(), "reason": reason} for row, reason in reasons.items()]
    counts = {"pairs": num_pairs, "embedded": int(is_good.sum()), "undecodable": len(reasons)}
    return {**counts, "no_image": num_pairs - len(places), "bad": sample_records(samples, NUM_BAD_SAMPLES)}


def _places(shard: Shard, pool: PoolConfig) -> tuple[pa.Table, int]:
    """(key, file, offset, size of each image of a tar, or of a group of image files; pairs in all)."""
    if "files" in shard.fingerprint:
        names = [name for name, *_ in shard.fingerprint["files"]]
        files = [str((Path(shard.path) / name).resolve()) for name in names]
        sizes = [size for _, size, *_ in shard.fingerprint["files"]]
        columns = {"key": pa.array(names, pa.string()), "file": pa.array(files, pa.string())}
        places = pa.table({**columns, "offset": np.zeros(len(names), np.int64), "size": np.array(sizes, np.int64)})
        return places, len(names)
    index, counts = pools.index_of(shard, pool)
    file = shard.path if is_remote(shard.path) else str(Path(shard.path).resolve())
    columns = {"key": index["key"], "file": pa.array([file] * len(index), pa.string())}
    return pa.table({**columns, "offset": index["offset"], "size": index["size"]}), counts["pairs"]


@repeatable
def embed_texts(shard: Shard, *, model: Model, pool: PoolConfig, folder: Path) -> Report:
    """Write the shard's .npy and .parquet; texts that are bad, repeated or empty are left out and counted."""
    clip, found = _load(model), pools.read_texts(shard, pool)
    kept = pa.array(np.flatnonzero(found.reason == 0))
    columns = {"key": found.key, "text_idx": found.text_idx, "text": found.text}
    rows = pa.table({name: column.take(kept) for name, column in columns.items()})

    def write(aside: Path) -> None:
        """On disk at once: a shard of a table may hold more texts than memory holds embeddings."""
        shape = (len(rows), clip.embed_dim)
        features = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            batch = rows["text"].slice(start, TEXTS_AT_ONCE).to_pylist()
            features[start : start + len(batch)] = clip.encode_text(batch)

    write_table(folder / f"{shard.name}.parquet", rows, EMBEDDED_TEXTS)
    write_artifact(folder / f"{shard.name}.npy", write)
    left_out = {name: int((found.reason == code).sum()) for code, name in enumerate(REASONS) if code}
    bad = [{"key": sample["key"], "reason": sample["reason"]} for sample in found.bad]
    return {"pairs": len(found.reason), "embedded": len(rows), **left_out, "bad": bad}


def embed_sample_inputs(clip: Clip) -> np.ndarray:
    """Return (1 + texts, D) embeddings of a fixed image and, where there is a text tower, fixed texts."""
    texts = [] if clip.tokenizer is None else [clip.encode_text([text for text in sample_inputs.TEXTS if text])]
    return np.concatenate([clip.encode_image(sample_inputs.images()[:1]), *texts])


@functools.lru_cache(maxsize=1)
def _load(model: Model) -> Clip:
    """A process's model: in a worker on its own CUDA device, or with its share of the cores."""
    import torch

    if multiprocessing.parent_process() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(model.threads))  # onnxruntime's sessions read it
        torch.set_num_threads(min(model.threads, torch.get_num_threads()))
        if torch.cuda.is_available():
            torch.cuda.set_device(_worker_number() % torch.cuda.device_count())
    return model_load.read(model.source, model.options)


def _worker_number() -> int:
    """Processes of a pool are numbered one after the other in their names (SpawnProcess-3)."""
    found = re.search(r"\d+$", multiprocessing.current_process().name)
    return int(found[0]) if found else 0
