"""Embed what a folder does not hold yet, and write the manifest that names the segments of each shard.

The rows of a shard are made by the model where the folder knows no vector of their content; see embed_shard.py.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.contracts import layout
from worldclip.core import keys
from worldclip.core.artifacts import MANIFEST, digest, folder_aside, read_json, read_manifest, write_array
from worldclip.core.changes import Change, changed_inputs
from worldclip.core.coin import sample_records
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, usable_cores
from worldclip.core.inputs import is_remote
from worldclip.core.job import Job, Result
from worldclip.export.embedded import as_json, embed_sample_inputs
from worldclip.export.segments import Of, is_group, row_names, segments_of
from worldclip.model import decode
from worldclip.model.worker import WorkerModel, load_here, num_processes
from worldclip.pool.config import PoolConfig, bare, split_pattern
from worldclip.pool.files import check_source
from worldclip.pool.picture_folder import names_of_group, size_of_group
from worldclip.tools.embed_shard import NUM_BAD_SAMPLES, EmbedWork, embed_images, embed_texts
from worldclip.tools.known_vectors import index_vectors

# Starting a process and loading the model takes as long as embedding about this many bytes on a CPU.  A process with
# less work than that does not pay.
BYTES_PER_PROCESS: dict[Of, int] = {"images": 8 * 2**20, "texts": 256 * 2**10}
Units = Mapping[Of, Sequence[Shard]]
# Counts of rows since the call before; all but the removed ones add up to those that are embedded
CHANGES = ("new", "renamed", "removed", "changed", "changed_only_in_columns", "unchanged")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """What is embedded, by which model, into which folder."""

    folder: Path
    pool: PoolConfig
    run_dir: Path | None
    """The folder that holds pool/; None for a folder of image files, which is no pool."""
    key_lists: Sequence[keys.KeyList]
    units: Units
    model: WorkerModel
    model_id: Mapping[str, Any]
    columns: Sequence[str]
    has_vectors: bool

    @property
    def config(self) -> Report:
        """Return what the manifest says of the model and the pool."""
        config: Report = {"model": self.model_id, "pool": self.pool.identity, "of": list(self.units)}
        if self.has_vectors:
            config["vectors_in_table"] = True
        if self.columns:
            config["columns"] = list(map(bare, self.columns))
        if "images" in self.units:
            config |= {"decoder": decode.identity(), "source": self.pool.location}
        return config

    @property
    def inputs(self) -> Report:
        """Return the fingerprints of all that is read; of a group of files a digest."""
        inputs: Report = {"key_lists": keys.digests(self.key_lists)}
        for kind, shards in self.units.items():
            inputs[kind] = {}
            for shard in shards:
                fingerprint = shard.fingerprint
                if is_group(shard.name):
                    fingerprint = {"files": digest(fingerprint)}
                inputs[kind][shard.name] = fingerprint
        return inputs

    def made_by(self, of: Of) -> str:
        """Return the digest of what makes a vector: the model wherever it lies, and the decoder of images."""
        record = {name: value for name, value in self.model_id.items() if name != "source"}
        if of == "images":
            record["decoder"] = decode.identity()
        return digest(record)

    def key(self, of: Of) -> Report:
        """Return what decides the rows of a segment besides its shard."""
        return {
            "made_by": self.made_by(of),
            "pool": self.pool.identity,
            "columns": self.columns,
            "vectors_in_table": self.has_vectors,
            "key_lists": keys.digests(self.key_lists),
        }

    def run(self, executor: Executor | None, opened_from: Path) -> Report:
        """Embed what is not embedded yet; return the report."""
        job = Job("embed", self.folder, self.config, lambda: self.inputs, _changed_inputs, keeps_result=True)
        before = read_manifest(self.folder)
        is_elsewhere = before is not None and before.get("source") != self.pool.location
        if is_elsewhere and not self._holds_earlier_files():
            check_source(job, self.pool.location)
        self._forget_segments_without_files()
        reason = job.reason_to_run()
        if reason is None:
            say("embed", "is finished and unchanged")
            report: Report = read_json(layout.report_json(self.folder))
            for kind in self.units:
                report[kind] |= dict.fromkeys(CHANGES, 0) | {"unchanged": report[kind]["embedded"]}
            return report
        say("embed", f"starts ({reason})")
        lists = [os.path.abspath(item.path) for item in self.key_lists]  # in the order of inputs.key_lists
        manifest = {"source": self.pool.location, "places": _places(self.pool, self.run_dir), "key_lists": lists}
        if opened_from.suffix == ".toml" or layout.is_run(opened_from):
            manifest["recipe"] = os.path.abspath(opened_from)  # whose lists of keys may become more
        changes: dict[str, Report] = {}  # since the manifest of before; report.json tells what the folder holds
        report = job.run(lambda: self._embed(executor, manifest, changes))
        return report | {kind: {**report[kind], **changes[kind]} for kind in self.units}

    def _holds_earlier_files(self) -> bool:
        """Return whether one of the image files has the name of one of before: the folder was moved."""
        earlier = set()
        for names in earlier_groups(self.folder).values():
            earlier |= set(names)
        for shard in self.units.get("images", ()):
            if is_group(shard.name) and not earlier.isdisjoint(names_of_group(shard.fingerprint)):
                return True
        return False

    def _forget_segments_without_files(self) -> None:
        """Remove the markers of segments that lack a file, which somebody removed, and the manifest with them."""
        segments = read_manifest(self.folder) or {}
        for kind, shards in self.units.items():
            stems = segments_of(segments, kind) if segments else {}
            for shard in shards:
                done = layout.marker(self.folder, shard.name, kind)
                stem = stems.get(shard.name)
                if (
                    done.exists()
                    and stem is not None
                    and not all(path.exists() for path in _files_of(self.folder, kind, stem))
                ):
                    done.unlink()
                    (self.folder / MANIFEST).unlink(missing_ok=True)

    def _embed(self, executor: Executor | None, manifest: Report, changes: dict[str, Report]) -> Result:
        folder = self.folder
        workers, threads = self._workers(executor)
        model = dataclasses.replace(self.model, threads=threads)
        probe = folder / f"probe.{self.made_by('images')[:8]}.npy"
        if not probe.exists():
            # before any worker starts: a model that does not load fails once, not once per shard
            write_array(probe, embed_sample_inputs(load_here(model)))
        if not isinstance(workers, LocalExecutor) or workers.workers > 1:
            load_here.cache_clear()  # frees this process's copy; the workers load their own
        totals: dict[str, Report] = {}
        segments: dict[str, dict[str, str]] = {}
        retries: dict[str, int] = {}
        outputs: list[str | Path] = [probe, folder / "pool"]
        before = read_manifest(folder)
        for kind, shards in self.units.items():
            key = self.key(kind)
            with folder_aside(folder / f"known_{secrets.token_hex(4)}") as index:
                work = EmbedWork(
                    model=model,
                    embed_dim=np.load(probe, allow_pickle=False).shape[1],
                    folder=folder,
                    run_dir=self.run_dir,
                    key_lists=self.key_lists,
                    places=manifest["places"],
                    pool=self.pool,
                    columns=self.columns,
                    has_vectors=self.has_vectors,
                    made_by=key["made_by"],
                    key=digest(key),
                    known=index_vectors(folder / kind, key["made_by"], index),
                )
                fn = functools.partial(embed_images if kind == "images" else embed_texts, work=work)
                reports = workers.map(fn, shards, label=kind, done_dir=layout.done_dir(folder, kind), key=key)
            segments[kind] = {shard.name: work.stem(shard) for shard in shards}
            totals[kind] = _sum(reports)
            if kind == "images":
                retries = _count_retries(shards, reports, totals[kind])
            counts = _compare(folder, kind, before, segments[kind], self.config.get("columns", ()))
            counts["unchanged"] = totals[kind]["embedded"] - (sum(counts.values()) - counts["removed"])
            changes[kind] = counts
            for shard in shards:
                outputs += [*_files_of(folder, kind, work.stem(shard)), layout.marker(folder, shard.name, kind)]
        num_rows = {kind: total["embedded"] for kind, total in totals.items()}
        if not any(num_rows.values()):
            raise UserError(_nothing_to_embed(totals))
        report = {"model": self.model_id["source"], **totals}
        manifest = {**manifest, "probe": probe.name, "segments": segments, "retries": retries}
        return Result(report=report, counts=num_rows, outputs=outputs, manifest=manifest)

    def _workers(self, executor: Executor | None) -> tuple[Executor, int]:
        """Return the executor, and the threads of each of its processes."""
        if executor is None:
            num_busy = 1  # processes that the pool keeps busy
            for kind, shards in self.units.items():
                num_bytes = 0
                for shard in shards:
                    if is_group(shard.name):
                        num_bytes += size_of_group(shard.fingerprint)
                    else:
                        num_bytes += int(shard.fingerprint.get("size") or 0)  # 0 where a server does not report it
                num_busy = max(num_busy, 1 + num_bytes // BYTES_PER_PROCESS[kind])
            device = self.model.options.device
            executor = LocalExecutor(workers=min(num_processes(device, self.model.source), num_busy))
        threads = self.model.threads
        if isinstance(executor, LocalExecutor):
            threads = max(1, usable_cores() // min(executor.workers, max(map(len, self.units.values()))))
        return executor, threads


def _changed_inputs(old: Any, new: Any) -> list[Change]:
    """Return each changed input; groups of image files, whose names say nothing to a person, are one."""
    changes = changed_inputs(old, new)
    others = [change for change in changes if change.name != "files"]
    if len(others) < len(changes):
        others.append(Change("image files", is_value=False, old="", new=""))
    return others


def _nothing_to_embed(totals: Mapping[str, Report]) -> str:
    problem = f"the pool holds nothing to embed of {', '.join(totals)}"
    for total in totals.values():
        for sample in total["bad"][:1]:
            return f"{problem}; {sample['key']}: {sample['reason']}"
    return problem


def _files_of(folder: Path, kind: str, stem: str) -> tuple[Path, Path]:
    """Return the .npy and the .parquet of a segment."""
    return folder / kind / f"{stem}.npy", folder / kind / f"{stem}.parquet"


def _compare(folder: Path, kind: Of, before: Report | None, after: Mapping[str, str], columns: Sequence[str]) -> Report:
    """Return the counts of CHANGES but `unchanged`, since the manifest of before; after: {shard: segment}.

    A row is told by its key, of texts also by its position, and has changed where its content has.  A renamed row has
    the content of one that went.
    """
    earlier = {} if before is None else segments_of(before, kind)
    if before is not None and "segments" not in before:
        earlier = {}  # of release 0.1: its tables do not tell contents
    common_columns: list[str] = []
    if before is not None:
        common_columns = [name for name in columns if name in before["config"].get("columns", ())]
    old = _rows_of(folder, kind, {name: stem for name, stem in earlier.items() if after.get(name) != stem})
    new = _rows_of(folder, kind, {name: stem for name, stem in after.items() if earlier.get(name) != stem})
    old_row = pc.index_in(new["row"], value_set=old["row"].combine_chunks())
    is_same = pc.equal(new["sha256"], old["sha256"].combine_chunks().take(old_row.combine_chunks()))
    is_same = pc.fill_null(is_same, False)
    arrived = new.filter(pc.is_null(old_row))
    went = old.filter(pc.invert(pc.is_in(old["row"], value_set=new["row"].combine_chunks())))
    renamed = (Counter(arrived["sha256"].to_pylist()) & Counter(went["sha256"].to_pylist())).total()
    changed_columns = 0
    for shard in earlier.keys() & after.keys():
        if common_columns and earlier[shard] != after[shard]:
            path_before = _files_of(folder, kind, earlier[shard])[1]
            path_after = _files_of(folder, kind, after[shard])[1]
            changed_columns += _count_changed_columns(kind, shard, path_before, path_after, common_columns)
    return {
        "new": len(arrived) - renamed,
        "renamed": renamed,
        "removed": len(went) - renamed,
        "changed": len(new) - len(arrived) - (pc.sum(is_same).as_py() or 0),
        "changed_only_in_columns": changed_columns,
    }


def _count_changed_columns(kind: Of, shard: str, before: Path, after: Path, columns: Sequence[str]) -> int:
    """Return how many rows of a shard have the content of before and other values in columns, as searches show them."""
    names = [*(["key"] if kind == "images" else ["key", "text_idx"]), "sha256", *columns]
    old = pq.read_table(before, columns=names)
    new = pq.read_table(after, columns=names)
    old_row = pc.index_in(row_names(kind, shard, new), value_set=row_names(kind, shard, old).combine_chunks())
    new = new.filter(pc.is_valid(old_row))
    old = old.take(old_row.drop_null())
    is_same = np.asarray(pc.equal(new["sha256"], old["sha256"]))
    is_other = np.zeros(len(new), bool)
    for name in columns:
        pairs = zip(old[name].to_pylist(), new[name].to_pylist(), strict=True)
        is_other |= np.fromiter((as_json(was) != as_json(value) for was, value in pairs), bool, len(new))
    return int((is_same & is_other).sum())


def _rows_of(folder: Path, kind: Of, segments: Mapping[str, str]) -> pa.Table:
    """Return `row`, which names a row of a pool, and sha256 of the rows of segments."""
    names = ["key", "sha256"] if kind == "images" else ["key", "text_idx", "sha256"]
    schema = pa.schema({"row": pa.string(), "sha256": pa.binary(16)})
    tables = [schema.empty_table()]
    for shard, stem in segments.items():
        table = pq.read_table(_files_of(folder, kind, stem)[1], columns=names)
        tables.append(pa.table([row_names(kind, shard, table), table["sha256"]], schema=schema))
    return pa.concat_tables(tables)


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


def earlier_groups(folder: Path) -> dict[str, list[str]]:
    """Return the names of the image files in each group that is embedded; release 0.1 grouped them by name alone."""
    groups = {}
    for path in sorted(layout.done_dir(folder, "images").glob("*.json")):
        fingerprint = read_json(path)["fingerprint"]
        if is_group(path.stem) and isinstance(fingerprint["files"], str):
            groups[path.stem] = names_of_group(fingerprint)
    return groups


def with_retries(folder: Path, units: Sequence[Shard]) -> list[Shard]:
    """Return units of which those with files that could not be read have another fingerprint than the time before.

    A file that went for a moment, or that nobody may read until its rights change, has the same size and time again.
    """
    retries = (read_manifest(folder) or {}).get("retries", {})
    after = []
    for unit in units:
        if unit.name in retries:
            unit = dataclasses.replace(unit, fingerprint={**unit.fingerprint, "retry": retries[unit.name]})
        after.append(unit)
    return after


def _count_retries(shards: Sequence[Shard], reports: Sequence[Report], total: Report) -> dict[str, int]:
    """Return {group of image files: how many times it had files that could not be read}."""
    retries = {shard.name: int(shard.fingerprint["retry"]) for shard in shards if "retry" in shard.fingerprint}
    if total.get("unreadable"):
        for shard, report in zip(shards, reports, strict=True):
            if report.get("unreadable"):
                retries[shard.name] = retries.get(shard.name, 0) + 1
    return retries


def _sum(reports: Sequence[Report]) -> Report:
    """Add up counts and sample unusable pairs by hash, in one pass: reports may be read lazily from disk."""
    total: Counter[str] = Counter()
    bad: list[dict[str, str]] = []
    for report in reports:
        total.update({name: count for name, count in report.items() if name != "bad"})
        bad = sample_records([*bad, *report["bad"]], NUM_BAD_SAMPLES)
    return {"shards": len(reports), **total, "bad": bad}
