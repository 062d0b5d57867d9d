"""The stage: texts of the pool -> language -> entry ids -> how often each entry matched.

One shard is one unit of work.  Valid and deny lists decide what is counted, never what is matched: with another list
the stage counts again and does not match again.  Without such lists a shard is counted as soon as it is matched, while
its matches are in memory.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip import pool
from worldclip.contracts import layout, schemas
from worldclip.contracts.entry_counts import count_entries
from worldclip.contracts.matched import read_matched_texts
from worldclip.contracts.reasons import Reason
from worldclip.contracts.records import skipped_shards
from worldclip.contracts.summary import REMEDIES, dropped_by_match, match_step, refuse_nothing
from worldclip.core import artifacts, keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Report, Shard, mark_done
from worldclip.core.job import Job, Record, Result, Run, files_per_shard, remove_stale
from worldclip.core.preflight import problems_of
from worldclip.core.printable import command_line, counted
from worldclip.kernels.llvm import is_compiled
from worldclip.language import identify as lid
from worldclip.language.assign import LanguageRules
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import Languages, code_of_stated, not_of_the_run
from worldclip.match.accounting import NUM_SAMPLES, dropped_texts, report_texts, sum_reports
from worldclip.match.config import MERGED, MatchConfig
from worldclip.match.matcher.loop import match_texts
from worldclip.match.texts import MatchWork, match_pool_texts, matched_table
from worldclip.match.texts import match_texts as match_entries
from worldclip.pool.config import PoolConfig

NUM_MISSING_NAMED = 8  # languages without a list that a line names
NUM_REASONS_NAMED = 3  # reasons why pairs are unreadable


def match(run: Run) -> None:
    """Find the language and the entries of every text, and count each entry: RUN/match/texts, RUN/match/counts."""
    run.stage(
        run.job("match", _inputs),
        problems=_problems,
        work=_match,
        work_on_part=lambda run, part: _match_and_count(run, pool.indexed_shards(run, part), match_work(run)),
    )


def _problems(run: Run) -> Iterator[str]:
    yield from problems_of(pool.key_lists, run)  # else a misspelt list would stop the run after hours of metadata
    if run.above_is_done:
        yield from problems_of(_check_languages, run)


def _inputs(run: Run) -> Record:
    return {
        "pool": artifacts.require_manifest(run.dir, "pool")["digest"],
        "metadata": artifacts.require_manifest(run.dir, "metadata")["digest"],
        "lid_model": lid.model_digest(run.section(LanguagesConfig).lid_model),
        "key_lists": keys.digests(pool.key_lists(run)),
    }


def _match(run: Run, job: Job) -> Result:
    shards = pool.indexed_shards(run)
    work = match_work(run)
    report = sum_reports(_match_and_count(run, shards, work))
    step = match_step(report)
    summary = str(step)
    for bad in report["bad"][:1]:  # no report, which has more examples, is written if nothing is kept
        summary += f"; {bad['key']}: {bad['reason']}"
    refuse_nothing(step.kept, summary, dropped_by_match(report))
    say("match", str(step))
    reasons = list(dict.fromkeys(bad["reason"] for bad in report["bad"]))
    if reasons:
        named = ", ".join(reasons[:NUM_REASONS_NAMED])
        if len(reasons) > NUM_REASONS_NAMED:
            named += f" and {len(reasons) - NUM_REASONS_NAMED} more reasons"
        say("match", f"unreadable: {named}; {REMEDIES[Reason.BAD_PAIR]}")
    missing = missing_lists(report["labels_of_words"], work.rules.languages, work.rules.table)
    if missing:
        say("match", f"languages of the pool without a list: {missing}; add their codes to languages.codes")
    num_entries = {name: pq.read_metadata(layout.entries(run.dir, name)).num_rows for name, _ in work.list_digests}
    remove_stale(layout.sorted_lists(run.dir), [key_list.sorted_as for key_list in pool.key_lists(run)])
    names = [shard.name for shard in shards]
    outputs = []
    for folder in (layout.matched_texts(run.dir), layout.all_match_dropped(run.dir), layout.all_match_counts(run.dir)):
        outputs += files_per_shard(folder, names, ".parquet")
    for part in ("texts", "counts"):
        outputs += files_per_shard(_done_dir(run.dir, part), names, ".json")
    return Result(
        report=report,
        counts={name: report[name] for name in ("pairs", "num_keys", "num_matched_texts")} | {"shards": len(shards)},
        outputs=outputs,
        # what balance and curate must know of the metadata
        manifest={"lists": num_entries, "languages": work.rules.languages},
    )


def missing_lists(labels: Mapping[str, int], langs: Sequence[str], table: Languages) -> str:
    """Return the languages of labels without a list as text, most texts first, each with where a list is to be had.

    labels: number of texts of each label, of a model or of the pool.  langs: the run's languages, whose labels are
    here if match.min_lang_prob drops texts.
    """
    texts: Counter[str] = Counter()
    for label, number in labels.items():
        code = code_of_stated(label, langs, table)
        if label != lid.NO_LABEL and code not in langs:
            texts[code] += number
    parts = []
    for code, number in texts.most_common(NUM_MISSING_NAMED):
        sources = " and ".join(table.get(code).in_packages)
        remedy = f"metadata.sources: {sources}" if sources else f"metadata.lists.{code} = FILE"
        parts.append(f"{code} {number:,} ({remedy})")
    if len(texts) > NUM_MISSING_NAMED:
        parts.append(f"{len(texts) - NUM_MISSING_NAMED} more")
    return ", ".join(parts)


def _match_and_count(run: Run, shards: Sequence[Shard], work: MatchWork) -> Sequence[Report]:
    """Write texts and counts of each shard; return the reports of the texts.

    Safe in parallel with calls for other shards.
    """
    upstream = {
        "entries": dict(work.list_digests),
        "lid_model": work.rules.lid_digest,
        "languages": list(work.rules.languages),
    }
    # what decides a shard's matches and its report, which the key lists do not
    matched_by = {"config": run.deciding("match.texts"), "upstream": upstream, "samples": NUM_SAMPLES}
    key_lists = pool.key_lists(run)
    for key_list in key_lists:
        keys.sort_list(key_list)  # here, since it takes up to a GiB, and workers map the file
    counted_by = {"texts": matched_by, "key_lists": keys.digests(key_lists)}
    work_on_shard = functools.partial(match_shard, work=work, counted_by=None if key_lists else counted_by)
    if shards and not is_compiled(match_texts):
        say("match", "compiles the matcher for this processor, once per installation (10 to 30 s)")
        with contextlib.suppress(UserError):  # the shards meet the same problem, and name it
            match_entries(pa.array(["a"]), np.zeros(1, np.int32), work)  # workers then load the compiled kernels
            if any(place.lang is None for place in work.pool.places):
                lid.identify(["a"], work.rules.lid_model)
    done_dir = _done_dir(run.dir, "texts")
    reports = run.executor.map(work_on_shard, shards, label="match", done_dir=done_dir, key=matched_by)
    count = functools.partial(count_shard, run_dir=run.dir, key_lists=key_lists)
    counts = run.executor.map(count, shards, label="count", done_dir=_done_dir(run.dir, "counts"), key=counted_by)
    if key_lists and run.part is None:
        _say_listed(run, shards, counts)
    return reports


def match_work(run: Run) -> MatchWork:
    """Return all that a worker must know.  Raises UserError for lists that the run has not, or not compiled so."""
    digests = artifacts.require_manifest(run.dir, "metadata")["digests"]
    langs = tuple(sorted(name for name in digests if name != MERGED))
    config = run.section(MatchConfig)
    section = run.section(LanguagesConfig)
    if "en" not in langs and config.isolate == "english":
        raise UserError("match.isolate = 'english': this run has no English entries; add en to languages.codes")
    rules = LanguageRules(
        languages=langs,
        lid_model=section.lid_model,
        lid_digest=lid.model_digest(section.lid_model),
        merge_labels=tuple(sorted(config.merge_labels.items())),
        min_prob=config.min_lang_prob,
        is_restricted=config.restrict_to_recipe_languages,
        table=section.table,
    )
    lists = config.entry_lists.names(langs)
    folders = {name: layout.matcher(run.dir, name, config.matcher_name) for name in lists}
    lacking = [name for name, folder in folders.items() if name not in digests or not folder.is_dir()]
    if lacking:
        fold_case = "true" if config.fold_case else "false"
        values = {"profile": config.profile, "fold_case": fold_case, "isolate": config.isolate}
        same = "".join(f" --set match.{key}={value}" for key, value in values.items())
        raise UserError(
            f"{folders[lacking[0]]} is missing: the lists are of other settings of match; run first: "
            f"{command_line('metadata', run.dir)}{same}"
        )
    return MatchWork(
        run_dir=run.dir,
        pool=run.section(PoolConfig),
        match=config,
        rules=rules,
        list_digests=tuple((name, digests[name]) for name in lists),
    )


def _check_languages(run: Run) -> None:
    """Raise UserError for a merge from an unknown label or to a language not of the run."""
    pool.refuse_changed_keys(run)
    work = match_work(run)
    labels = lid.read_labels(work.rules.lid_model)
    states_languages = any(place.lang is not None for place in work.pool.places)
    problems = []
    for label, lang in work.match.merge_labels.items():
        if label not in labels and not states_languages:  # a pool may state any label
            problems.append(
                f"match.merge_labels.{label}: unknown label; labels of the LID model look like {labels[0]!r}"
            )
        if lang not in work.rules.languages:
            problems.append(
                f"match.merge_labels.{label} = {lang!r}: {not_of_the_run(lang, work.rules.languages, work.rules.table)}"
            )
    if problems:
        raise UserError(problems)


def _done_dir(run_dir: Path, part: str) -> Path:
    """Return the folder of the markers; part: texts, counts or keys."""
    return layout.done_dir(layout.stage_dir(run_dir, "match"), part)


def match_shard(shard: Shard, *, work: MatchWork, counted_by: Record | None) -> Report:
    """Write RUN/match/texts/<shard>.parquet and match/dropped, the texts with a match and without; return the report.

    counted_by: what decides the counts if all these texts count, which are then written too; None: count_shard does it.
    """
    pool_texts = pool.read_pairs(work.run_dir, shard.name, pool.EVERY_KEY)  # lists never make a shard match again
    matched = match_pool_texts(pool_texts, work)
    table = matched_table(matched, work)
    artifacts.write_table(layout.match_texts(work.run_dir, shard.name), table, schemas.MATCH_TEXTS)
    dropped = dropped_texts(pool_texts, matched, work.rules.languages)
    artifacts.write_table(layout.match_dropped(work.run_dir, shard.name), dropped, schemas.MATCH_DROPPED)
    if counted_by is not None:
        report = _write_counts(shard, table, work.run_dir)
        mark_done(shard, report, _done_dir(work.run_dir, "counts"), counted_by)
    return report_texts(shard, pool_texts, matched, work.rules.languages)


def count_shard(shard: Shard, *, run_dir: Path, key_lists: Sequence[keys.KeyList]) -> Report:
    """Write RUN/match/counts/<shard>.parquet: how many texts of valid keys each entry occurs in, without zeros."""
    columns = ["entries_lang", "entry_ids"]
    if key_lists:
        columns.append("key")
    table = read_matched_texts(run_dir, shard.name, columns)
    if not key_lists:
        return _write_counts(shard, table, run_dir)
    text_keys = table.column("key")
    listed = []
    for key_list in key_lists:
        listed_keys = text_keys.filter(pa.array(keys.is_listed(text_keys, key_list, shard.name)))
        listed.append(pc.count_distinct(listed_keys).as_py())
    report = _write_counts(shard, table.filter(pa.array(keys.is_valid(text_keys, key_lists, shard.name))), run_dir)
    return {**report, "listed": listed}


def _write_counts(shard: Shard, texts: pa.Table, run_dir: Path) -> Report:
    artifacts.write_table(layout.match_counts(run_dir, shard.name), count_entries(texts), schemas.MATCH_COUNTS)
    return {"pairs": texts.num_rows}


# --- keys of valid and deny lists -------------------------------------------------------------------------------------


def _say_listed(run: Run, shards: Sequence[Shard], reports: Iterable[Report]) -> None:
    """Say how many samples with a match each list names.  Raises UserError for lists that name no key of the pool.

    reports: those of count_shard.
    """
    key_lists = pool.key_lists(run)
    names = [f"{item.setting} {item.path!r} ({counted(item.num_keys, 'key')})" for item in key_lists]
    totals = _sum_listed(reports, key_lists)
    for name, total in zip(names, totals, strict=True):
        say("match", f"{name} names {counted(total, 'sample')} with a match")
    is_unused = [total == 0 and item.num_keys > 0 for item, total in zip(key_lists, totals, strict=True)]
    if skipped_shards(run.dir) or not any(is_unused):  # broken shards may hold the keys
        return
    config = run.section(PoolConfig)
    count = functools.partial(count_in_pool, run_dir=run.dir, key_lists=key_lists)
    key = {"pool": config.identity, "key_lists": keys.digests(key_lists)}
    reports = run.executor.map(count, shards, label="keys", done_dir=_done_dir(run.dir, "keys"), key=key)
    example = ""
    for shard in shards:
        pool_keys, _, _ = pool.read_keys(run.dir, shard.name)
        if len(pool_keys):
            example = str(pool_keys[0])
            break
    problems = []
    for name, is_asked, total in zip(names, is_unused, _sum_listed(reports, key_lists), strict=True):
        if is_asked and total == 0:
            problems.append(
                f"{name}: none of its keys is in the pool, whose keys look like {example!r} "
                f"(pool.key = {config.key!r}); write them so, or leave out the list"
            )
    if problems:
        raise UserError(problems)


def _sum_listed(reports: Iterable[Report], key_lists: Sequence[keys.KeyList]) -> list[int]:
    """Return how many keys each list names in all shards."""
    totals = np.zeros(len(key_lists), np.int64)
    for report in reports:
        totals += report["listed"]
    return list(map(int, totals))


def count_in_pool(shard: Shard, *, run_dir: Path, key_lists: Sequence[keys.KeyList]) -> Report:
    """Count the keys of a shard, with and without a match, that each list names."""
    pool_keys, _, _ = pool.read_keys(run_dir, shard.name)
    listed = [int(keys.is_listed(pool_keys, key_list, shard.name).sum()) for key_list in key_lists]
    return {"pairs": len(pool_keys), "listed": listed}
