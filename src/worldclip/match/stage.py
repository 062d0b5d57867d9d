"""The stage: texts of the pool -> language -> entry ids -> how often each entry matched.

One shard is one piece of work.  Its texts move as columns: no Python object per text between the tar and Parquet.
Valid and deny lists decide what is counted, never what is matched: another list recounts, it does not match again.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip import pool
from worldclip.core import artifacts, keys
from worldclip.core.arrow import names_of
from worldclip.core.errors import UserError
from worldclip.core.execute import Report, Shard, repeatable
from worldclip.core.job import Job, Result, Run
from worldclip.language import identify as lid
from worldclip.language import table as languages
from worldclip.language.config import LanguagesConfig
from worldclip.language.entry_lists import MERGED
from worldclip.match.accounting import (
    MATCHED,
    NO_LANGUAGE,
    NO_MATCH,
    NUM_SAMPLES,
    REASONS,
    confusion,
    count_reasons,
    sample_texts,
    sum_reports,
)
from worldclip.match.config import MatchConfig
from worldclip.match.counts import count_shard, table_path
from worldclip.match.matcher.matcher import Matcher
from worldclip.match.profile_rates import compare_profiles
from worldclip.pool.config import PoolConfig

if TYPE_CHECKING:
    from worldclip.pool import PoolTexts


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchWork:
    """All that a worker must know to match a shard."""

    run_dir: Path
    pool: PoolConfig
    match: MatchConfig
    lid_model: str
    languages: tuple[str, ...]
    """Languages with metadata in this run, sorted."""
    list_digests: tuple[tuple[str, str], ...]
    """(list, digest of its entries) of every list that texts are matched against."""
    lid_digest: str


def match(run: Run) -> None:
    """Find the language and the entries of every text, and count each entry: RUN/match/texts, RUN/match/counts."""
    run.stage("match", inputs=_inputs, work=_match, work_on_part=_match_part)


def _inputs(run: Run) -> dict[str, Any]:
    return {
        "pool": artifacts.require_manifest(run.dir, "pool")["digest"],
        "metadata": artifacts.require_manifest(run.dir, "metadata")["digest"],
        "lid_model": _lid_digest(run.section(LanguagesConfig).lid_model),
        "key_lists": [_known_list(each) for each in pool.key_lists(run)],
    }


def _match(run: Run, job: Job) -> Result:
    shards, work = pool.shards(run), match_work(run)
    reports = _match_and_count(run, shards, work)
    report = sum_reports(reports)
    if work.match.compare_profiles:
        report["profiles"] = compare_profiles(work, shards, work.match.compare_profiles)
    return Result(
        report=report,
        counts={key: report[key] for key in ("pairs", "num_keys", "num_matched_texts")} | {"shards": len(shards)},
        outputs=_outputs(job.folder, shards),
        manifest={  # what balance and curate must know of the metadata
            "lists": {name: _num_entries(run.dir, name) for name, _ in work.list_digests},
            "languages": list(work.languages),
        },
    )


def _match_part(run: Run, part: slice) -> Sequence[Report]:
    """Match and count some of the pool's shards alone; safe beside calls for other shards."""
    artifacts.require_manifest(run.dir, "pool")
    return _match_and_count(run, pool.shards(run, part), match_work(run))


def _match_and_count(run: Run, shards: Sequence[Shard], work: MatchWork) -> Sequence[Report]:
    """Write texts and counts of each shard; return the reports of the texts."""
    folder = run.dir / "match"
    _check_merges(work)
    matched_by = _config_of_texts(run, work)
    reports = run.executor.map(
        functools.partial(match_shard, work=work), shards, label="match", done_dir=folder / "done/texts", key=matched_by
    )
    key_lists = pool.key_lists(run)
    run.executor.map(
        functools.partial(count_shard, run_dir=run.dir, key_lists=key_lists),
        shards,
        label="count",
        done_dir=folder / "done/counts",
        key={"texts": matched_by, "key_lists": [_known_list(each) for each in key_lists]},
    )
    return reports


def _known_list(key_list: keys.KeyList) -> dict[str, str]:
    return {"setting": key_list.setting, "digest": key_list.digest}


def match_work(run: Run) -> MatchWork:
    """Return all that a worker must know.  Raises UserError if every text needs the English list and there is none."""
    digests = artifacts.require_manifest(run.dir, "metadata")["digests"]
    langs = tuple(sorted(name for name in digests if name != MERGED))
    config, lid_model = run.section(MatchConfig), run.section(LanguagesConfig).lid_model
    if "en" not in langs and config.isolate == "english":
        raise UserError("match.isolate is 'english', and this run has no English entries; add en to languages.codes")
    return MatchWork(
        run_dir=run.dir,
        pool=run.section(PoolConfig),
        match=config,
        lid_model=lid_model,
        languages=langs,
        list_digests=tuple((name, digests[name]) for name in config.entry_lists.names(langs)),
        lid_digest=_lid_digest(lid_model),
    )


def _check_merges(work: MatchWork) -> None:
    labels = lid.read_labels(work.lid_model)
    problems = []
    for label, lang in work.match.merge_labels.items():
        if label not in labels and work.pool.lang is None:  # a pool may state any label
            problems.append(
                f"match.merge_labels.{label}: {label!r} is no label of the LID model (they look like {labels[0]!r})"
            )
        if lang not in work.languages:
            problems.append(
                f"match.merge_labels.{label} is {lang!r}, which is not a language of this run; they are "
                f"{', '.join(work.languages)}"
            )
    if problems:
        raise UserError(problems)


def _lid_digest(lid_model: str) -> str:
    path = lid.model_path(lid_model)
    if not path.is_file():
        raise UserError(
            f"languages.lid_model is {lid_model!r}, which is not a file; give `lid176` or the path of a fastText model "
            "(.bin or .ftz)"
        )
    return artifacts.digest(artifacts.fingerprint(path, path.parent))


def _config_of_texts(run: Run, work: MatchWork) -> dict[str, Any]:
    """Return what decides a shard's matches and its report: neither the key lists nor what only the sum needs."""
    config = run.deciding("match")
    of_pool = {key: value for key, value in config["pool"].items() if key in ("key", "texts", "lang")}
    of_match = {key: value for key, value in config["match"].items() if key != "compare_profiles"}
    upstream = {"entries": dict(work.list_digests), "lid_model": work.lid_digest, "languages": list(work.languages)}
    return {"config": {**config, "pool": of_pool, "match": of_match}, "upstream": upstream, "samples": NUM_SAMPLES}


def _outputs(folder: Path, shards: Sequence[Shard]) -> list[Path]:
    parts = [(part, shard) for part in ("texts", "counts") for shard in shards]
    tables = [table_path(folder, part, shard) for part, shard in parts]
    return [*tables, *(folder / "done" / part / f"{shard.name}.json" for part, shard in parts)]


def _num_entries(run_dir: Path, list_name: str) -> int:
    return pq.read_metadata(run_dir / "metadata" / f"{list_name}.parquet").num_rows


# one shard: match


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """What the stage found of each text of a shard, one row a text of the pool."""

    reason: np.ndarray
    """(rows,) int8 codes into REASONS."""
    lang: np.ndarray
    """(rows,) int32 position in the run's languages, -1 for none."""
    lang_prob: np.ndarray
    """(rows,) float32."""
    labels: np.ndarray
    """(rows,) str, as LID names them."""
    entry_ids: np.ndarray
    """(matches,) int32, all rows' end to end."""
    offsets: np.ndarray
    """(rows + 1,) int64: row i has entry_ids[offsets[i] : offsets[i + 1]]."""


@repeatable
def match_shard(shard: Shard, *, work: MatchWork) -> Report:
    """Write RUN/match/texts/<shard>.parquet, the texts with a match in the pool's order; report every text's reason."""
    pool_texts = pool.read_texts(shard, work.pool)
    matched = match_pool_texts(pool_texts, work)
    table = matched_table(pool_texts, matched, work)
    artifacts.write_table(table_path(work.run_dir / "match", "texts", shard), table, artifacts.MATCH_TEXTS)
    report = count_reasons(matched.reason, matched.lang, pool_texts.text_idx.to_numpy(), work.languages)
    report["bad"] = pool_texts.bad
    report["samples"] = {
        REASONS[reason]: sample_texts(shard, pool_texts, matched, reason, work.languages)
        for reason in (NO_LANGUAGE, NO_MATCH)
    }
    report["labels_without_language"] = dict(Counter(matched.labels[matched.reason == NO_LANGUAGE].tolist()))
    if pool_texts.truth is not None:
        readable = np.flatnonzero(matched.reason >= NO_LANGUAGE)
        truth = pool_texts.truth.take(pa.array(readable))
        report["truth"] = confusion(truth, matched.lang[readable], work.languages)
    return report


def match_pool_texts(pool_texts: PoolTexts, work: MatchWork) -> Matched:
    """Language and entries of each text; what the pool could not read (null) has neither."""
    reason = _reason_codes(pool_texts)
    lang, prob, labels = find_languages(pool_texts, work)
    lang[reason != MATCHED] = -1
    entry_ids, offsets = match_texts(pool_texts.text, lang, work)
    reason[(reason == MATCHED) & (lang < 0)] = NO_LANGUAGE
    reason[(reason == MATCHED) & (np.diff(offsets) == 0)] = NO_MATCH
    return Matched(reason=reason, lang=lang, lang_prob=prob, labels=labels, entry_ids=entry_ids, offsets=offsets)


def _reason_codes(pool_texts: PoolTexts) -> np.ndarray:
    """(rows,) int8 codes into REASONS, `matched` for what may still match."""
    of_pool = np.array([MATCHED if name == "ok" else REASONS.index(name) for name in pool.REASONS], np.int8)
    return of_pool[pool_texts.reason]


def find_languages(pool_texts: PoolTexts, work: MatchWork) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As identify_languages; where the pool says its languages (`pool.lang`), its labels, probability 1."""
    if pool_texts.lang is None:
        return identify_languages(pool_texts.text, work)
    position = {lang: i for i, lang in enumerate(work.languages)}
    coded = pool_texts.lang.dictionary_encode()
    names = coded.dictionary.to_pylist()
    lang_of_name = np.array([*(position.get(_code_of(name, work), -1) for name in names), -1], np.int32)
    codes = pc.fill_null(coded.indices, len(names)).to_numpy(zero_copy_only=False)
    labels = np.array([*names, lid.NO_LABEL], dtype=object)[codes]
    return lang_of_name[codes], np.ones(len(codes), np.float32), labels.astype(str)


def _code_of(label: str, work: MatchWork) -> str:
    """Our code of a label that the pool gives: merged as the recipe says, our own, or that of a LID label."""
    if label in work.match.merge_labels:
        return work.match.merge_labels[label]
    return label if label in work.languages else languages.from_lid(label, scheme=languages.scheme_of(label))


def identify_languages(texts: pa.Array, work: MatchWork) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lang (n,) int32 position in work.languages or -1 for no_language, prob (n,) float32, LID labels (n,) str)."""
    identifier, lang_of_label = _identifier(work)
    label_ids, prob = identifier.predict_ids(texts)
    lang = lang_of_label[label_ids]
    lang[prob < work.match.min_lang_prob] = -1
    return lang, prob, np.array([*identifier.labels, lid.NO_LABEL])[label_ids]


@functools.cache
def _identifier_for(
    lid_model: str, fingerprint: str, langs: tuple[str, ...], merges: tuple[tuple[str, str], ...], is_restricted: bool
) -> tuple[lid.Identifier, np.ndarray]:
    """LID of this process, loaded once, and each label's position in `langs`, with -1 at the end for no label."""
    identifier = lid.Identifier(lid_model)
    merged, position = dict(merges), {lang: i for i, lang in enumerate(langs)}
    names = [merged.get(label) or languages.from_lid(label, scheme=identifier.scheme) for label in identifier.labels]
    lang_of_label = np.array([*(position.get(name, -1) for name in names), -1], np.int32)
    if is_restricted:
        allowed = [label for label, lang in zip(identifier.labels, lang_of_label[:-1], strict=True) if lang >= 0]
        identifier = lid.Identifier(lid_model, allowed)
    return identifier, lang_of_label


def _identifier(work: MatchWork) -> tuple[lid.Identifier, np.ndarray]:
    """Under restrict_to_recipe_languages LID chooses among the labels of the run's languages alone."""
    return _identifier_for(
        work.lid_model,
        work.lid_digest,
        work.languages,
        tuple(sorted(work.match.merge_labels.items())),
        work.match.restrict_to_recipe_languages,
    )


@functools.cache
def _matcher(run_dir: Path, list_name: str, matcher_name: str, digest: str) -> Matcher:
    return Matcher.load(run_dir / "metadata" / f"{list_name}.matcher" / matcher_name, digest)


def match_texts(texts: pa.Array, lang: np.ndarray, work: MatchWork) -> tuple[np.ndarray, np.ndarray]:
    """(entry_ids int32, offsets (n + 1,) int64) of texts (n,), each against the list of its language; none for -1."""
    list_names = [name for name, _ in work.list_digests]
    list_of_lang = np.array([list_names.index(work.match.entry_lists.list_of(name)) for name in work.languages] + [-1])
    list_of_text = list_of_lang[lang]  # lang -1 takes the last, -1
    order = np.argsort(list_of_text, kind="stable")  # texts of one list together, those of none first
    bounds = np.searchsorted(list_of_text[order], np.arange(len(list_names) + 1))
    lengths = np.zeros(len(texts), np.int64)
    found = []
    for (name, digest), start, stop in zip(work.list_digests, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            continue
        matcher = _matcher(work.run_dir, name, work.match.matcher_name, digest)
        ids, offsets = matcher.match_batch(texts.take(pa.array(order[start:stop])))
        lengths[start:stop] = np.diff(offsets)
        found.append(ids)
    all_ids = np.concatenate([np.zeros(0, np.int32), *found])
    grouped = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]), pa.array(all_ids))
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    in_order = grouped.take(pa.array(back))
    return in_order.flatten().to_numpy(), in_order.offsets.to_numpy()


def matched_table(pool_texts: PoolTexts, matched: Matched, work: MatchWork) -> pa.Table:
    """The rows of RUN/match/texts: texts that matched, in the pool's order."""
    rows = np.flatnonzero(matched.reason == MATCHED)
    in_pool = pa.array(rows)
    lengths = np.diff(matched.offsets)[rows]  # other texts have no ids, so there is nothing to cut out between
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return pa.table(
        {
            "key": pool_texts.key.take(in_pool),
            "text_idx": pool_texts.text_idx.take(in_pool),
            "text": pool_texts.text.take(in_pool),
            "lang": names_of(matched.lang[rows], work.languages),
            "lang_prob": matched.lang_prob[rows],
            "entries_lang": names_of(
                matched.lang[rows], [work.match.entry_lists.list_of(name) for name in work.languages]
            ),
            "entry_ids": pa.LargeListArray.from_arrays(bounds, pa.array(matched.entry_ids)),
        }
    )
