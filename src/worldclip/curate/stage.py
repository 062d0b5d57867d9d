"""The stage: matched texts and entry probabilities -> the kept pairs of epoch 0, and what became of every other."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.core import artifacts, keys
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, Report, Shard, repeatable
from worldclip.core.job import remove_stale
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

if TYPE_CHECKING:
    from worldclip.config import Recipe

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


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    from worldclip.core.settings import to_dict

    of_pool = to_dict(recipe.pool)
    lists = {key: of_pool[key] for key in ("valid_keys", "deny_keys") if key in of_pool}
    return {"curate": to_dict(recipe.curate), "pool": lists}


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    return {
        "balance": artifacts.require_manifest(run_dir, "balance")["digest"],
        "key_lists": [
            {"setting": each.setting, "digest": each.digest}
            for each in keys.key_lists(recipe.pool.valid_keys, recipe.pool.deny_keys)
        ],
    }


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> dict[str, Any]:
    """Matches and probabilities -> RUN/curate/<shard>.parquet, keys.npy, report.json, manifest.json."""
    folder = run_dir / "curate"
    match_report = artifacts.read_json(run_dir / "match" / "report.json")
    _check(recipe, run_dir)
    shards = pool.shards(recipe, run_dir)
    work, reports = _curate_shards(recipe, run_dir, shards, executor)
    _remove_stale(folder, recipe.curate, run_dir, shards)
    report = total_report(match_report, reports, recipe.curate)
    report["caps"] = {
        lang: {"max_pairs": recipe.curate.cap_of(lang), "bound": bound} for lang, bound in work.bounds.items()
    }
    report["num_keys_in_list"] = _write_keys(run_dir, shards)
    report["effect"] = find_effect(run_dir, artifacts.require_manifest(run_dir, "match")["lists"], shards, executor)
    report["samples"] = merge_samples(run_dir, reports, match_report["samples"], work.key_lists)
    if recipe.curate.write == "tars":
        from worldclip.curate.write_tars import write_tars

        list_digest = artifacts.digest([_decides_list(recipe), inputs(recipe, run_dir)])
        report["tars"] = write_tars(run_dir, shards, executor, recipe.curate.samples_per_tar, list_digest)
    artifacts.write_json(folder / "report.json", report)
    from worldclip.curate.data_card import write_card

    write_card(run_dir, report)
    counts = {key: report["total"][key] for key in ("pairs_in", "pairs_out", "expected_pairs")}
    artifacts.write_manifest(folder, config=relevant_config(recipe), inputs=inputs(recipe, run_dir), counts=counts)
    return report


def run_shards(recipe: Recipe, run_dir: Path, executor: Executor, part: slice) -> Sequence[Report]:
    """The kept pairs of some shards alone.  Raises UserError under caps, which all shards decide together."""
    if recipe.curate.max_pairs is not None:
        raise UserError("--shards with curate.max_pairs: caps are decided over all shards; run curate without --shards")
    _check(recipe, run_dir)
    return _curate_shards(recipe, run_dir, pool.shards(recipe, run_dir, part), executor)[1]


def _curate_shards(
    recipe: Recipe, run_dir: Path, shards: Sequence[Shard], executor: Executor
) -> tuple[CurateWork, Sequence[Report]]:
    folder, work = run_dir / "curate", curate_work(recipe, run_dir)
    key = {"config": _decides_list(recipe), "inputs": inputs(recipe, run_dir)}
    if recipe.curate.max_pairs is not None:
        decide = functools.partial(decide_shard, work=work)
        bounds = caps.find_bounds(recipe.curate, folder / "caps", shards, executor, decide, key)
        work = curate_work(recipe, run_dir, bounds)
    reports = executor.map(
        functools.partial(curate_shard, work=work),
        shards,
        label="curate",
        done_dir=folder / "done",
        key={**key, "bounds": dict(work.bounds)},
    )
    return work, reports


def _remove_stale(folder: Path, config: CurateConfig, run_dir: Path, shards: Sequence[Shard]) -> None:
    keep = [folder / "keys.npy", *(folder / "done" / f"{shard.name}.json" for shard in shards)]
    for path_of in (curated_path, counts_path):
        keep += [path_of(run_dir, shard) for shard in shards]
    if config.max_pairs is not None:
        keep += [folder / "caps" / "done" / f"{shard.name}.json" for shard in shards]
        keep += [folder / "caps" / f"{shard.name}.parquet" for shard in shards]
    kept_whole = ["sums", *(["tars"] if config.write == "tars" else [])]
    keep += [path for part in kept_whole for path in (folder / part).rglob("*") if path.is_file()]
    remove_stale(folder, keep)


def _decides_list(recipe: Recipe) -> dict[str, Any]:
    """The config without what only says how the list is written."""
    config = relevant_config(recipe)
    only_form = ("write", "samples_per_tar")
    return {**config, "curate": {key: value for key, value in config["curate"].items() if key not in only_form}}


def curate_work(recipe: Recipe, run_dir: Path, bounds: Mapping[str, float] | None = None) -> CurateWork:
    return CurateWork(
        run_dir=run_dir,
        config=recipe.curate,
        key_lists=keys.key_lists(recipe.pool.valid_keys, recipe.pool.deny_keys),
        balance_digest=artifacts.require_manifest(run_dir, "balance")["digest"],
        bounds=bounds or {},
    )


def curated_path(run_dir: Path, shard: Shard | str) -> Path:
    return run_dir / "curate" / f"{shard if isinstance(shard, str) else shard.name}.parquet"


def read_curated(run_dir: Path, shard: Shard | str, columns: Sequence[str] | None = None) -> pa.Table:
    """The kept pairs of a shard: key, text_idx, text, lang, keep_prob, in the pool's order."""
    return artifacts.read_table(curated_path(run_dir, shard), artifacts.CURATED, columns)


def _check(recipe: Recipe, run_dir: Path) -> None:
    """A language that this run has no entries for cannot be meant; nor tars of a pool without images."""
    config, known = recipe.curate, artifacts.require_manifest(run_dir, "match")["languages"]
    named = {setting: list(getattr(config, setting)) for setting in ("include", "exclude")}
    named["max_pairs"] = list(config.max_pairs) if isinstance(config.max_pairs, dict) else []
    problems = [
        f"curate.{setting} names {lang!r}, which is not a language of this run; they are {', '.join(known)}"
        for setting, langs in named.items()
        for lang in langs
        if lang not in known
    ]
    if config.write == "tars" and not any(shard.name.endswith(".tar") for shard in pool.shards(recipe, run_dir)):
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
