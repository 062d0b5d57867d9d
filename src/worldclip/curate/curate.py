"""The stage: matched texts and entry probabilities -> the kept pairs of epoch 0, and what became of every other.

Per language, counted in texts under text_policy all and in keys under one:
pairs_in = bad_pair + duplicate + no_text + no_language + no_match + not_valid + excluded + sampled_out + pairs_out
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import formats, keys, pool
from worldclip.coin import hash_keys
from worldclip.columns import codes_of, list_buffers, one_array
from worldclip.curate.config import CurateConfig
from worldclip.curate.decide import decide, keep_prob_of_rows
from worldclip.errors import UserError
from worldclip.execute import Executor, Report, Shard, remove_stale

if TYPE_CHECKING:
    from worldclip.config import Recipe

REASONS = (
    *("bad_pair", "duplicate", "no_text", "no_language", "no_match"),  # settled by match
    *("not_valid", "excluded", "sampled_out"),  # settled here
)
COLUMNS = ("pairs_in", *REASONS, "pairs_out", "expected_pairs")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateWork:
    """All that a worker must know to decide on a shard."""

    run_dir: Path
    config: CurateConfig
    key_lists: tuple[keys.KeyList, ...]
    balance_digest: str

    def entry_probs(self, list_name: str) -> np.ndarray:
        """(num_entries,) float32 of a list, memory-mapped once a process."""
        return _entry_probs(self.run_dir, list_name, self.balance_digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The texts of a shard that match, grouped by key, with all that the decision reads besides probabilities.

    Legend: curate/decide.py.
    """

    keys_K: pa.Array
    hashes_K: np.ndarray
    starts_K1: np.ndarray
    is_valid_K: np.ndarray
    text_idx_T: np.ndarray
    lang_T: np.ndarray
    """Positions in lang_names."""
    lang_names: list[str]
    is_excluded_T: np.ndarray

    @property
    def drawable_T(self) -> np.ndarray:
        """Texts that may be kept: of a valid key, in a language that is not excluded."""
        return np.repeat(self.is_valid_K, np.diff(self.starts_K1)) & ~self.is_excluded_T


def relevant_config(recipe: Recipe) -> dict[str, Any]:
    from worldclip.config import to_dict

    of_pool = to_dict(recipe.pool)
    lists = {key: of_pool[key] for key in ("valid_keys", "deny_keys") if key in of_pool}
    return {"curate": to_dict(recipe.curate), "pool": lists}


def inputs(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    return {
        "balance": formats.require_manifest(run_dir, "balance")["digest"],
        "key_lists": [{"setting": each.setting, "digest": each.digest} for each in keys.key_lists(recipe.pool)],
    }


def run(recipe: Recipe, run_dir: Path, executor: Executor) -> dict[str, Any]:
    """Matches and probabilities -> RUN/curate/<shard>.parquet, keys.npy, report.json, manifest.json."""
    folder = run_dir / "curate"
    stage_inputs = inputs(recipe, run_dir)
    match_report = formats.read_json(run_dir / "match" / "report.json")
    _check_languages(recipe.curate, run_dir)
    shards = pool.shards(recipe, run_dir)
    work = curate_work(recipe, run_dir)
    markers = [folder / "done" / f"{shard.name}.json" for shard in shards]
    tars = [path for path in (folder / "tars").rglob("*") if path.is_file()] if recipe.curate.write == "tars" else []
    remove_stale(folder, [*(curated_path(run_dir, shard) for shard in shards), *markers, folder / "keys.npy", *tars])
    reports = executor.map(
        functools.partial(curate_shard, work=work),
        shards,
        label="curate",
        done_dir=folder / "done",
        key={"config": _decides_list(recipe), "inputs": stage_inputs},
    )
    report = total_report(match_report, reports, recipe.curate.text_policy)
    report["num_keys_in_list"] = _write_keys(run_dir, shards)
    if recipe.curate.write == "tars":
        from worldclip.curate.tars import write_tars

        list_digest = formats.digest([_decides_list(recipe), stage_inputs])
        report["tars"] = write_tars(run_dir, shards, executor, recipe.curate.samples_per_tar, list_digest)
    formats.write_json(folder / "report.json", report)
    from worldclip.curate.card import write_card

    write_card(run_dir, report)
    counts = {key: report["total"][key] for key in ("pairs_in", "pairs_out", "expected_pairs")}
    formats.write_manifest(folder, config=relevant_config(recipe), inputs=stage_inputs, counts=counts)
    return report


def _decides_list(recipe: Recipe) -> dict[str, Any]:
    """The config without what only says how the list is written."""
    config = relevant_config(recipe)
    only_form = ("write", "samples_per_tar")
    return {**config, "curate": {key: value for key, value in config["curate"].items() if key not in only_form}}


def curate_work(recipe: Recipe, run_dir: Path) -> CurateWork:
    return CurateWork(
        run_dir=run_dir,
        config=recipe.curate,
        key_lists=keys.key_lists(recipe.pool),
        balance_digest=formats.require_manifest(run_dir, "balance")["digest"],
    )


def matched_shards(run_dir: Path) -> list[tuple[str, Path]]:
    """(shard's name, file of its matched texts) in the pool's order, which is that of the names."""
    folder = run_dir / "match" / "texts"
    names = (path.relative_to(folder).as_posix().removesuffix(".parquet") for path in folder.rglob("*.parquet"))
    return [(name, matched_path(run_dir, name)) for name in sorted(names)]


def matched_path(run_dir: Path, shard: Shard | str) -> Path:
    return run_dir / "match" / "texts" / f"{shard if isinstance(shard, str) else shard.name}.parquet"


def curated_path(run_dir: Path, shard: Shard | str) -> Path:
    return run_dir / "curate" / f"{shard if isinstance(shard, str) else shard.name}.parquet"


def read_curated(run_dir: Path, shard: Shard | str, columns: Sequence[str] | None = None) -> pa.Table:
    """The kept pairs of a shard: key, text_idx, text, lang, keep_prob, in the pool's order."""
    return formats.read_table(curated_path(run_dir, shard), formats.CURATED, columns)


def _check_languages(config: CurateConfig, run_dir: Path) -> None:
    """A language that this run has no entries for cannot be meant."""
    known = formats.require_manifest(run_dir, "match")["languages"]
    problems = [
        f"curate.{setting} names {lang!r}, which is not a language of this run; they are {', '.join(known)}"
        for setting in ("include", "exclude")
        for lang in getattr(config, setting)
        if lang not in known
    ]
    if problems:
        raise UserError(problems)


# one shard


def curate_shard(shard: Shard, *, work: CurateWork) -> Report:
    """Write RUN/curate/<shard>.parquet, the pairs kept in epoch 0; report what became of every text that matched."""
    table = formats.read_table(matched_path(work.run_dir, shard), formats.MATCH_TEXTS)
    candidates = find_candidates(table, work.config, work.key_lists, shard.name)
    keep_prob = text_probs(table, work.entry_probs)
    kept, drawn = decide_on(candidates, keep_prob, work.config)
    curated = table.append_column("keep_prob", pa.array(keep_prob)).filter(pa.array(kept))
    formats.write_table(curated_path(work.run_dir, shard), curated, formats.CURATED)
    report = report_decision(candidates, keep_prob, kept, drawn, work.config.text_policy)
    return {"pairs": table.num_rows, "languages": report}


def find_candidates(table: pa.Table, config: CurateConfig, key_lists: Sequence[keys.KeyList], shard: str) -> Candidates:
    """Rows (key, text_idx, lang) of RUN/match/texts/<shard> as the decision reads them."""
    key_column = one_array(table.column("key"))
    starts = key_starts(key_column)
    first_keys = key_column.take(pa.array(starts[:-1]))
    lang, lang_names = codes_of(table.column("lang"))
    excluded = np.array([config.is_excluded(name) for name in lang_names], np.bool_)
    return Candidates(
        keys_K=first_keys,
        hashes_K=hash_keys(first_keys),
        starts_K1=starts,
        is_valid_K=keys.is_valid(first_keys, key_lists, shard),
        text_idx_T=table.column("text_idx").to_numpy(),
        lang_T=lang,
        lang_names=lang_names,
        is_excluded_T=excluded[lang],
    )


def decide_on(
    candidates: Candidates, keep_prob: np.ndarray, config: CurateConfig, epoch: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`decide` of a shard's candidates under the recipe's policy and seed."""
    return decide(
        config.text_policy,
        candidates.hashes_K,
        candidates.starts_K1,
        candidates.text_idx_T,
        candidates.drawable_T,
        keep_prob,
        seed=config.seed,
        epoch=epoch,
    )


def key_starts(key_column: pa.Array) -> np.ndarray:
    """(K + 1,) int64: where each key's run of rows begins, and the number of rows at the end."""
    if len(key_column) == 0:
        return np.zeros(1, np.int64)
    is_new = pc.not_equal(key_column[1:], key_column[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(key_column)]]).astype(np.int64)


def text_probs(table: pa.Table, entry_probs: Callable[[str], np.ndarray]) -> np.ndarray:
    """(T,) float64: each text's probability to be kept, from the probabilities of its list's entries."""
    code, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))
    out = np.empty(table.num_rows, np.float64)
    for i, name in enumerate(list_names):
        keep_prob_of_rows(entry_ids, offsets, np.flatnonzero(code == i), entry_probs(name), out)
    return out


@functools.cache
def _entry_probs(run_dir: Path, list_name: str, balance_digest: str) -> np.ndarray:
    path = run_dir / "balance" / f"{list_name}.npy"
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


# the report


def report_shard(candidates: Candidates, keep_prob: np.ndarray, config: CurateConfig) -> Report:
    """The report of a shard under other probabilities than the run's."""
    return report_decision(candidates, keep_prob, *decide_on(candidates, keep_prob, config), config.text_policy)


def report_decision(
    candidates: Candidates, keep_prob: np.ndarray, kept: np.ndarray, drawn: np.ndarray, text_policy: str
) -> Report:
    """{language: {not_valid, excluded, sampled_out, pairs_out, expected_pairs}}, in the unit of the policy."""
    if text_policy == "one":
        return report_keys(candidates, keep_prob, kept, drawn)
    return report_texts(candidates, keep_prob, kept)


def report_texts(candidates: Candidates, keep_prob: np.ndarray, kept: np.ndarray) -> Report:
    """Per language, of its matched texts: how many ended for which reason, and how many are expected to be kept."""
    valid = np.repeat(candidates.is_valid_K, np.diff(candidates.starts_K1))
    masks = {
        "not_valid": ~valid,
        "excluded": valid & candidates.is_excluded_T,
        "sampled_out": candidates.drawable_T & ~kept,
        "pairs_out": kept,
    }
    expected = np.where(candidates.drawable_T, keep_prob, 0.0)
    return _tally(candidates.lang_T, masks, expected, candidates.lang_names)


def report_keys(candidates: Candidates, keep_prob: np.ndarray, kept: np.ndarray, drawn: np.ndarray) -> Report:
    """As report_texts, in keys: a key counts under the language of its drawn text, else of its first matched text."""
    has_draw = drawn >= 0
    row = np.where(has_draw, drawn, candidates.starts_K1[:-1])
    is_kept = has_draw & kept[row]
    masks = {
        "not_valid": ~candidates.is_valid_K,
        "excluded": candidates.is_valid_K & ~has_draw,
        "sampled_out": has_draw & ~is_kept,
        "pairs_out": is_kept,
    }
    drawable, num_keys = candidates.drawable_T, len(drawn)
    key_of_text = np.repeat(np.arange(num_keys), np.diff(candidates.starts_K1))
    sums = np.bincount(key_of_text, np.where(drawable, keep_prob, 0.0), num_keys)
    expected = sums / np.maximum(np.bincount(key_of_text, drawable, num_keys), 1)
    return _tally(candidates.lang_T[row], masks, expected, candidates.lang_names)


def _tally(lang: np.ndarray, masks: dict[str, np.ndarray], expected: np.ndarray, lang_names: list[str]) -> Report:
    """{language: {reason: n, ..., expected_pairs: sum}}; the floats are added in the order of the rows."""
    size = len(lang_names)
    counts = {name: np.bincount(lang[mask], minlength=size) for name, mask in masks.items()}
    sums = np.bincount(lang, expected, size)
    return {
        lang_name: {**{name: int(counts[name][i]) for name in masks}, "expected_pairs": float(sums[i])}
        for i, lang_name in enumerate(lang_names)
    }


def total_report(match_report: Report, reports: Sequence[Report], text_policy: str) -> Report:
    """The shards' reports and the match's as one table: {languages: {language: COLUMNS}, total: COLUMNS}."""
    lost = match_report["keys" if text_policy == "one" else "texts"]
    rows: dict[str, dict[str, Any]] = {}
    for lang, reasons in lost.items():
        rows.setdefault(lang, dict.fromkeys(COLUMNS, 0)).update(
            {reason: n for reason, n in reasons.items() if reason != "matched"}
        )
    for report in reports:
        for lang, columns in report["languages"].items():
            row = rows.setdefault(lang, dict.fromkeys(COLUMNS, 0))
            for name, value in columns.items():
                row[name] += value
    for row in rows.values():
        row["pairs_in"] = sum(row[reason] for reason in REASONS) + row["pairs_out"]
        row["expected_pairs"] = float(row["expected_pairs"])
    languages = {lang: row for lang, row in sorted(rows.items()) if row["pairs_in"]}
    total = {name: sum(row[name] for row in languages.values()) for name in COLUMNS}
    whole = match_report["num_keys" if text_policy == "one" else "pairs"]
    assert total["pairs_in"] == whole, f"{whole} pairs went in, {total['pairs_in']} are accounted for"
    return {"text_policy": text_policy, "languages": languages, "total": total}


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
    formats.write_array(path, kept)
    return len(kept)
