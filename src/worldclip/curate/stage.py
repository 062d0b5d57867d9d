"""The stage: matched texts and entry probabilities -> the kept pairs of epoch 0, and what became of every other."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.core import artifacts, keys
from worldclip.core.errors import UserError
from worldclip.core.execute import Report, Shard, repeatable
from worldclip.core.job import Job, Result, Run
from worldclip.curate import caps
from worldclip.curate.accounting import report_decision, total_report
from worldclip.curate.candidates import (
    Candidates,
    Decision,
    decide_on,
    find_candidates,
    matched_path,
    saved_probs,
    text_probs,
)
from worldclip.curate.config import CurateConfig
from worldclip.curate.entry_counts import counts_path, find_effect, write_counts
from worldclip.curate.samples import merge_samples, sample_shard

COLUMNS_TO_DECIDE = ("key", "text_idx", "lang", "entries_lang", "entry_ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateWork:
    """All that a worker must know to decide on a shard."""

    run_dir: Path
    config: CurateConfig
    key_lists: tuple[keys.KeyList, ...]
    balance_digest: str
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Of languages over their cap, see curate/caps.py."""

    def entry_probs(self, list_name: str) -> np.ndarray:
        """(num_entries,) float32 of a list, memory-mapped once a process."""
        return saved_probs(self.run_dir, list_name, self.balance_digest)


def curate(run: Run) -> None:
    """Decide on every matched text: RUN/curate/<shard>.parquet of kept pairs, keys.npy, DATA_CARD.md."""
    run.stage("curate", inputs=_inputs, work=_curate, work_on_part=_curate_part)


def _inputs(run: Run) -> dict[str, Any]:
    return {
        "balance": artifacts.require_manifest(run.dir, "balance")["digest"],
        "key_lists": [{"setting": each.setting, "digest": each.digest} for each in pool.key_lists(run)],
    }


def _curate(run: Run, job: Job) -> Result:
    from worldclip.curate.data_card import write_card

    config = run.section(CurateConfig)
    match_report = artifacts.read_json(run.dir / "match" / "report.json")
    _check(run)
    shards = pool.shards(run)
    work, reports = _curate_shards(run, shards)
    report = total_report(match_report, reports, config)
    report["caps"] = {lang: {"max_pairs": config.cap_of(lang), "bound": bound} for lang, bound in work.bounds.items()}
    report["num_keys_in_list"] = _write_keys(run.dir, shards)
    lists = artifacts.require_manifest(run.dir, "match")["lists"]
    report["effect"] = find_effect(run.dir, lists, shards, run.executor)
    report["samples"] = merge_samples(run.dir, reports, match_report["samples"], work.key_lists)
    if config.write == "tars":
        from worldclip.curate.write_tars import write_tars

        list_digest = artifacts.digest([_decides_list(run), job.inputs])
        report["tars"] = write_tars(run.dir, shards, run.executor, config.samples_per_tar, list_digest)
    write_card(run.dir, report)
    return Result(
        report=report,
        counts={key: report["total"][key] for key in ("pairs_in", "pairs_out", "expected_pairs")},
        outputs=_outputs(job.folder, config, run.dir, shards),
    )


def _curate_part(run: Run, part: slice) -> Sequence[Report]:
    """Write the kept pairs of some shards.  Raises UserError under caps, which all shards decide together."""
    if run.section(CurateConfig).max_pairs is not None:
        raise UserError("--shards with curate.max_pairs: caps are decided over all shards; run curate without --shards")
    _check(run)
    return _curate_shards(run, pool.shards(run, part))[1]


def _curate_shards(run: Run, shards: Sequence[Shard]) -> tuple[CurateWork, Sequence[Report]]:
    folder, work = run.dir / "curate", curate_work(run)
    key = {"config": _decides_list(run), "inputs": _inputs(run)}
    if work.config.max_pairs is not None:
        decide = functools.partial(decide_shard, work=work)
        bounds = caps.find_bounds(work.config, folder / "caps", shards, run.executor, decide, key)
        work = curate_work(run, bounds)
    reports = run.executor.map(
        functools.partial(curate_shard, work=work),
        shards,
        label="curate",
        done_dir=folder / "done",
        key={**key, "bounds": dict(work.bounds)},
    )
    return work, reports


def _outputs(folder: Path, config: CurateConfig, run_dir: Path, shards: Sequence[Shard]) -> list[Path]:
    outputs = [folder / name for name in ("keys.npy", "DATA_CARD.md", "sums")]
    outputs += [folder / "done" / f"{shard.name}.json" for shard in shards]
    for path_of in (curated_path, counts_path):
        outputs += [path_of(run_dir, shard) for shard in shards]
    if config.max_pairs is not None:
        outputs += [folder / "caps" / "done" / f"{shard.name}.json" for shard in shards]
        outputs += [folder / "caps" / f"{shard.name}.parquet" for shard in shards]
    if config.write == "tars":
        outputs.append(folder / "tars")
    return outputs


def _decides_list(run: Run) -> dict[str, Any]:
    """Return the config without what only says how the list is written."""
    config = run.deciding("curate")
    only_form = ("write", "samples_per_tar")
    return {**config, "curate": {key: value for key, value in config["curate"].items() if key not in only_form}}


def curate_work(run: Run, bounds: Mapping[str, float] | None = None) -> CurateWork:
    """Return all that a worker must know; bounds: of languages over their cap."""
    return CurateWork(
        run_dir=run.dir,
        config=run.section(CurateConfig),
        key_lists=pool.key_lists(run),
        balance_digest=artifacts.require_manifest(run.dir, "balance")["digest"],
        bounds=bounds or {},
    )


def curated_path(run_dir: Path, shard: Shard | str) -> Path:
    return run_dir / "curate" / f"{shard if isinstance(shard, str) else shard.name}.parquet"


def read_curated(run_dir: Path, shard: Shard | str, columns: Sequence[str] | None = None) -> pa.Table:
    """The kept pairs of a shard: key, text_idx, text, lang, keep_prob, in the pool's order."""
    return artifacts.read_table(curated_path(run_dir, shard), artifacts.CURATED, columns)


def _check(run: Run) -> None:
    """A language that this run has no entries for cannot be meant; nor tars of a pool without images."""
    config, known = run.section(CurateConfig), artifacts.require_manifest(run.dir, "match")["languages"]
    named = {setting: list(getattr(config, setting)) for setting in ("include", "exclude")}
    named["max_pairs"] = list(config.max_pairs) if isinstance(config.max_pairs, dict) else []
    problems = [
        f"curate.{setting} names {lang!r}, which is not a language of this run; they are {', '.join(known)}"
        for setting, langs in named.items()
        for lang in langs
        if lang not in known
    ]
    if config.write == "tars" and not any(shard.name.endswith(".tar") for shard in pool.shards(run)):
        problems.append(
            'curate.write is "tars", and the pool is of tables, which hold no images; leave it at "list", or match the '
            "tars that were downloaded from it"
        )
    if problems:
        raise UserError(problems)


# one shard


def decide_shard(shard: Shard, *, work: CurateWork) -> tuple[Candidates, np.ndarray, np.ndarray]:
    """(candidates, keep_prob, kept) of a shard, caps aside."""
    table = artifacts.read_table(matched_path(work.run_dir, shard), artifacts.MATCH_TEXTS, COLUMNS_TO_DECIDE)
    candidates = find_candidates(table, work.config, work.key_lists, shard.name)
    keep_prob = text_probs(table, work.entry_probs)
    return candidates, keep_prob, decide_on(candidates, keep_prob, work.config)[0]


@repeatable
def curate_shard(shard: Shard, *, work: CurateWork) -> Report:
    """Write RUN/curate/<shard>.parquet, the pairs kept in epoch 0; report what became of every text that matched."""
    table = artifacts.read_table(matched_path(work.run_dir, shard), artifacts.MATCH_TEXTS)
    candidates = find_candidates(table, work.config, work.key_lists, shard.name)
    keep_prob = text_probs(table, work.entry_probs)
    kept, drawn = decide_on(candidates, keep_prob, work.config)
    over = caps.is_over(candidates, keep_prob, kept, work.config, work.bounds)
    decision = Decision(kept_T=kept & ~over, drawn_K=drawn, is_over_T=over)
    curated = table.append_column("keep_prob", pa.array(keep_prob)).filter(pa.array(decision.kept_T))
    artifacts.write_table(curated_path(work.run_dir, shard), curated, artifacts.CURATED)
    write_counts(work.run_dir, shard, curated)
    report = report_decision(candidates, keep_prob, decision, work.config.text_policy)
    samples = sample_shard(table, candidates, keep_prob, decision, work.config, work.entry_probs)
    return {"pairs": table.num_rows, "languages": report, "samples": samples}


def _write_keys(run_dir: Path, shards: Sequence[Shard]) -> int | None:
    """RUN/curate/keys.npy: the kept keys as DataComp's sorted u8,u8; only where all are 128-bit hex, else None."""
    path = run_dir / "curate" / "keys.npy"
    path.unlink(missing_ok=True)
    parts = []
    for shard in shards:
        pairs, is_hex = keys.hex_pairs(read_curated(run_dir, shard, ["key"]).column("key"))
        if not is_hex.all():
            return None
        parts.append(pairs)
    if not sum(map(len, parts)):
        return None
    kept = keys.sort_pairs(np.concatenate(parts))
    artifacts.write_array(path, kept)
    return len(kept)
