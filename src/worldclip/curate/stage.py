"""The stage: matched texts and entry probabilities -> the kept pairs of epoch 0, and what became of all others."""

from __future__ import annotations

import functools
import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.contracts import layout, schemas
from worldclip.contracts.entry_counts import count_entries, effective_entries, sum_shards
from worldclip.contracts.reasons import Reason
from worldclip.contracts.records import BadText, UnmatchedSample, outdated_stages, read_accounting
from worldclip.contracts.summary import curate_step, dropped_by_curate, refuse_nothing
from worldclip.core import artifacts, keys
from worldclip.core.artifacts import Json
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Report, Shard
from worldclip.core.job import Job, Record, Result, Run, files_per_shard
from worldclip.core.preflight import problems_of
from worldclip.core.printable import command_line, counted
from worldclip.curate.accounting import (
    LanguageCounts,
    account_for_all,
    add_counts,
    count_reasons,
    find_factors,
    read_factors,
)
from worldclip.curate.candidates import CurateWork, decide_on, read_curated
from worldclip.curate.config import CurateConfig
from worldclip.curate.dropped import write_dropped
from worldclip.curate.samples import merge_samples, sample_shard
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import not_of_the_run
from worldclip.pool.config import PoolConfig
from worldclip.pool.listing import check_place

CURVE_POINTS = 60
NO_IMAGES = (
    'curate.write = "tars": the pool consists of tables without images; set "list", or match the tars that were '
    "downloaded from it"
)


def curate(run: Run) -> None:
    """Decide on every matched text: RUN/curate/<shard>.parquet of kept pairs, dropped/, keys.npy, DATA_CARD.md."""
    run.stage(
        run.job("curate", _inputs),
        problems=_problems,
        work=_curate,
        work_on_part=lambda run, part: _curate_shards(run, pool.indexed_shards(run, part))[1],
    )


def require_current(run: Run) -> str:
    """Return the digest of the curated list, for its readers.

    Raises UserError where curate is unfinished or would run again, as after a pair was added to a deny list or after a
    stage above it ran again.
    """
    manifest = artifacts.require_manifest(run.dir, "curate")
    sections = {"pool": run.section(PoolConfig), "curate": run.section(CurateConfig)}  # a run on disk has raw tables
    job = replace(run, sections=sections).job("curate", _inputs)
    reason = job.reason_to_run() or outdated_stages(run.dir, {}).get("curate")
    if reason is None:
        return str(manifest["digest"])
    changed = keys.changed_lists(pool.key_lists(run), manifest["inputs"]["key_lists"])
    if changed:
        reason = f"new or changed: {', '.join(changed)}"
    raise UserError(
        f"{job.folder} is out of date: {reason}; run first: {command_line('run', run.dir, '--until', 'curate')}"
    )


def require_of_recipe(run: Run) -> str:
    """Return the digest of the curated list of a run on disk, for readers that show its recipe too.

    Raises UserError as `require_current`, and where RUN/recipe.toml has other keys than the list was made by.
    """
    digest = require_current(run)
    reason = outdated_stages(run.dir).get("curate")
    if reason is not None:
        folder = layout.stage_dir(run.dir, "curate")
        raise UserError(
            f"{folder} is out of date: {reason}; run first: {command_line('run', run.dir, '--until', 'curate')}"
        )
    return digest


def refuse_outdated(run: Run) -> None:
    """Raise UserError as `require_current` does, but not for a run that has not curated yet."""
    if artifacts.read_manifest(layout.stage_dir(run.dir, "curate")) is not None:
        require_current(run)


def _inputs(run: Run) -> Record:
    artifacts.require_manifest(run.dir, "match")  # named first where both are missing
    return {
        "balance": artifacts.require_manifest(run.dir, "balance")["digest"],
        "key_lists": keys.digests(pool.key_lists(run)),
    }


def _curate(run: Run, job: Job) -> Result:
    from worldclip.curate.data_card import data_card, write_readme

    config = run.section(CurateConfig)
    for line in pool.older_lists(run):
        say("curate", f"warning: {line}")
    accounting = read_accounting(run.dir)
    shards = pool.indexed_shards(run)
    work, reports = _curate_shards(run, shards)
    settled: LanguageCounts = {}
    for shard_report in reports:
        add_counts(settled, shard_report["languages"])
    languages, total = account_for_all(accounting, settled, config)
    if not total["pairs_out"]:  # older files may hold pairs that a new deny list names
        for path in (layout.curated_tars(run.dir), layout.curated_tables(run.dir)):
            artifacts.remove(path)
        layout.kept_keys(run.dir).unlink(missing_ok=True)
    step = curate_step(total, config.text_policy)
    refuse_nothing(step.kept, str(step), dropped_by_curate(total))
    say("curate", f"{step} (why: worldclip inspect RUN --key KEY)")
    num_entries = artifacts.require_manifest(run.dir, "match")["lists"]
    dropped_samples: dict[str, Sequence[UnmatchedSample | BadText]] = {
        Reason.BAD_PAIR.column: accounting["bad"],
        **accounting["samples"],
    }
    report: Report = {
        "text_policy": config.text_policy,
        "languages": languages,
        "total": total,
        "caps": {lang: {"max_pairs": config.cap_of(lang), "factor": factor} for lang, factor in work.factors.items()},
        "num_keys_in_list": _write_keys(run.dir, shards if config.write_keys else []),
        "effect": _sampled_curves(run, num_entries, shards),
        "samples": merge_samples(run.dir, reports, dropped_samples, work.key_lists),
    }
    list_digest = artifacts.digest([run.deciding("curate.list"), job.inputs])
    if config.write == "tars":
        report["tars"] = _write_tars(run, job, shards, list_digest)
    if config.write == "parquet":
        report["parquet"] = _write_tables(run, job, shards, list_digest)
    artifacts.write_text(layout.data_card(run.dir), data_card(run.dir, report))
    lists = []
    for top in sorted({Path(shard.name).parent.parts[:1] for shard in shards}):  # not those of dropped/ and parquet/
        folder = f"{glob.escape(top[0])}/**/" if top else ""
        lists.append(f"{folder}*.parquet")
    write_readme(layout.curate_readme(run.dir), lists, "DATA_CARD.md", job.digest)
    return Result(
        report=report,
        counts={name: total[name] for name in ("pairs_in", "pairs_out", "expected_pairs")},
        outputs=_outputs(run.dir, config, shards),
        manifest={"list": list_digest},  # of the kept pairs, which further files do not change
    )


def _write_tars(run: Run, job: Job, shards: Sequence[Shard], list_digest: str) -> Report:
    """Copy the kept samples into new tars; return their part of the report."""
    from worldclip.curate.data_card import write_readme
    from worldclip.curate.write_tars import write_tars

    tars = write_tars(run, shards, run.section(CurateConfig).samples_per_tar, list_digest)
    say("curate", f"{counted(tars['samples'], 'sample')} in tars: {layout.curated_tars(run.dir)}")
    if tars["no_image"]:
        say("curate", f"warning: kept keys without an image in the pool, which are in no tar: {tars['no_image']:,}")
    if tars["cut_image"]:
        say("curate", f"warning: {tars['cut_image']:,} kept images are damaged, and in no tar")
    write_readme(layout.tars_readme(run.dir), ["*.tar"], "../DATA_CARD.md", job.digest)
    return tars


def _write_tables(run: Run, job: Job, shards: Sequence[Shard], list_digest: str) -> Report:
    """Copy the rows of the kept pairs with all columns; return their part of the report."""
    from worldclip.curate.data_card import write_readme
    from worldclip.curate.write_parquet import write_parquet

    tables = write_parquet(run.dir, shards, run.executor, list_digest)
    write_readme(layout.tables_readme(run.dir), ["**/*.parquet"], "../DATA_CARD.md", job.digest)
    say("curate", f"{tables['rows']:,} rows with all columns: {layout.curated_tables(run.dir)}")
    return tables


def _curate_shards(run: Run, shards: Sequence[Shard]) -> tuple[CurateWork, Sequence[Report]]:
    folder = layout.curate_work(run.dir)
    work = curate_work(run)
    key = {"config": run.deciding("curate.list"), "inputs": _inputs(run)}
    if work.config.max_pairs is not None:
        work = curate_work(run, find_factors(work, folder / "caps", shards, run.executor, key))
    reports = run.executor.map(
        functools.partial(curate_shard, work=work),
        shards,
        label="curate",
        done_dir=layout.done_dir(folder),
        key={**key, "factors": dict(work.factors), "write_dropped": work.config.write_dropped},
    )
    return work, reports


def _outputs(run_dir: Path, config: CurateConfig, shards: Sequence[Shard]) -> list[str | Path]:
    hidden = layout.curate_work(run_dir)
    names = [shard.name for shard in shards]
    outputs: list[str | Path] = [
        layout.kept_keys(run_dir),
        layout.data_card(run_dir),
        layout.curate_readme(run_dir),
        layout.entry_sums(run_dir),
        *files_per_shard(layout.done_dir(hidden), names, ".json"),
        *files_per_shard(layout.stage_dir(run_dir, "curate"), names, ".parquet"),
        *files_per_shard(layout.all_curated_counts(run_dir), names, ".parquet"),
    ]
    if config.write_dropped:
        outputs += files_per_shard(layout.all_dropped(run_dir), names, ".parquet")
    if config.max_pairs is not None:
        outputs += files_per_shard(layout.done_dir(hidden / "caps"), names, ".json")
    if config.write == "tars":
        outputs.append(layout.curated_tars(run_dir))
    if config.write == "parquet":
        outputs += [layout.curated_tables(run_dir), hidden / "parquet"]
    return outputs


def curate_work(run: Run, factors: Mapping[str, float] | None = None) -> CurateWork:
    """Return all that a worker must know; factors: of languages over their cap."""
    return CurateWork(
        run_dir=run.dir,
        config=run.section(CurateConfig),
        key_lists=pool.key_lists(run),
        balance_digest=artifacts.require_manifest(run.dir, "balance")["digest"],
        text_weights=run.section(PoolConfig).text_weights,
        factors=factors or {},
    )


def online_work(run: Run) -> CurateWork:
    """Return what the decision of later epochs needs: `curate_work` with the caps that the stage found."""
    return curate_work(run, read_factors(run.dir, run.section(CurateConfig)))


def _problems(run: Run) -> Iterator[str]:
    """Yield languages without entries in this run, files that the pool does not allow, caps by slices."""
    config = run.section(CurateConfig)
    if not run.above_is_done:
        files = pool.expected_files(run, at_urls=config.write != "list")
        yield from _problems_of_names(run, config, [file.name for file in files])
        if files and config.write == "tars" and not pool.may_hold_images(files, run.section(PoolConfig)):
            yield NO_IMAGES
        return
    table = run.section(LanguagesConfig).table
    if run.part is not None and config.max_pairs is not None:
        yield "--shards with curate.max_pairs: caps are decided over all shards; run curate without --shards"
        return
    languages = artifacts.require_manifest(run.dir, "match")["languages"]
    named = {"include": config.include, "exclude": config.exclude}
    if isinstance(config.max_pairs, dict):
        named["max_pairs"] = tuple(config.max_pairs)
    for setting, langs in named.items():
        for lang in langs:
            if lang not in languages:
                yield f"curate.{setting}: {lang!r} is {not_of_the_run(lang, languages, table)}"
    if all(map(config.is_excluded, languages)):  # before the pairs of an earlier curation are removed
        yield f"curate.exclude: no language of this run remains ({', '.join(languages)}); remove some"
    if config.write_dropped and not layout.all_match_dropped(run.dir).is_dir():
        yield f"{run.dir / 'match'} is of an older worldclip; run: {command_line('run', run.dir, '--from', 'match')}"
    shards = pool.indexed_shards(run)
    yield from _problems_of_names(run, config, shards.names())
    if config.write == "list":
        return
    yield from problems_of(pool.refuse_replaced_files, run)
    if config.write == "tars" and not pool.holds_images(run.dir, shards):
        yield NO_IMAGES


def _problems_of_names(run: Run, config: CurateConfig, names: Sequence[str]) -> Iterator[str]:
    """Yield why further files cannot be written for shards of these names."""
    written: dict[str, str] = {}  # folder below RUN/curate -> how to leave it out
    if config.write_dropped:
        written["dropped"] = "write_dropped = false"
    if config.write != "list":
        written[config.write] = 'write = "list"'
    for name in names:
        folder = Path(name).parts[0]
        remedy = written.pop(folder, None)
        if remedy is not None:
            yield (
                f"RUN/curate/{folder} is written, where the list of the shard {name} stands as well; rename the pool's "
                f"folder {folder}, or set curate.{remedy}"
            )
    if config.write == "tars":
        yield from problems_of(lambda: check_place(run.dir, names, run.section(PoolConfig), has_tars=True))
    other = next((name for name in names if not name.endswith(".parquet")), None)
    if config.write == "parquet" and other is not None:
        yield f'curate.write = "parquet": {other} is no Parquet file; set "list", or "tars" for tars'


def curate_shard(shard: Shard, *, work: CurateWork) -> Report:
    """Write the pairs of a shard that are kept in epoch 0, how often they hold each entry, and why others are not."""
    table, candidates, keep_prob = work.read(shard.name, with_texts=True)
    decision = decide_on(candidates, keep_prob, work.config)
    curated = table.append_column("keep_prob", pa.array(keep_prob)).filter(pa.array(decision.kept_T))
    artifacts.write_table(layout.curated(work.run_dir, shard.name), curated, schemas.CURATED)
    artifacts.write_table(layout.curated_counts(work.run_dir, shard.name), count_entries(curated), schemas.MATCH_COUNTS)
    if work.config.write_dropped:
        write_dropped(shard.name, table, decision, work)
    return {
        "pairs": table.num_rows,
        "languages": count_reasons(decision),
        "samples": sample_shard(table, decision, work),
    }


def _write_keys(run_dir: Path, shards: Sequence[Shard]) -> int | None:
    """Write RUN/curate/keys.npy, DataComp's subset file, if all kept keys are 128-bit hex; return the number of keys.

    None, and no file, where a key is not hex or nothing is kept.  One sort: 64 bytes of memory per kept pair.
    """
    parts = [np.zeros((0, 2), np.uint64)]
    for shard in shards:
        pairs, is_hex = keys.hex_pairs(read_curated(run_dir, shard, ["key"]).column("key"))
        if not is_hex.all():
            parts = parts[:1]
            break
        parts.append(pairs)
    sorted_keys = keys.sort_pairs(np.concatenate(parts))
    if not len(sorted_keys):
        layout.kept_keys(run_dir).unlink(missing_ok=True)
        return None
    artifacts.write_array(layout.kept_keys(run_dir), sorted_keys)
    return len(sorted_keys)


# --- the effect of sampling on entries --------------------------------------------------------------------------------


def _sampled_curves(run: Run, num_entries: Mapping[str, int], shards: Sequence[Shard]) -> dict[str, Json]:
    """Return the curve of each list with a match; num_entries: of each list."""
    names = [shard.name for shard in shards]
    counts = layout.all_curated_counts(run.dir)
    after = sum_shards(num_entries, counts, names, layout.entry_sums(run.dir), run.executor)
    curves = {}
    for name in num_entries:
        before = np.load(layout.entry_counts(run.dir, name), mmap_mode="r", allow_pickle=False)
        if before.any():
            curves[name] = sampled_curve(np.asarray(before), after[name])
    return curves


def sampled_curve(before: np.ndarray, after: np.ndarray) -> Json:
    """Return matches by rank in the pool (1 = the most frequent entry), and of the same entries among the kept texts.

    before, after: (num_entries,) uint64.  The ranks are split into up to CURVE_POINTS geometric bins; `rank` is the
    last rank of each bin, `matches` and `kept` are means over it.
    """
    order = np.argsort(-before.astype(np.int64), kind="stable")[: np.count_nonzero(before)]
    last = np.unique(np.geomspace(1, len(order), CURVE_POINTS).round().astype(np.int64))
    starts = np.concatenate([[0], last[:-1]])

    def bin_means(counts: np.ndarray) -> list[float]:
        sums = np.add.reduceat(counts[order].astype(np.float64), starts)
        means: list[float] = (sums / (last - starts)).round(3).tolist()
        return means

    return {
        "rank": last.tolist(),
        "matches": bin_means(before),
        "kept": bin_means(after),
        "effective_entries": [effective_entries(before), effective_entries(after)],
    }
