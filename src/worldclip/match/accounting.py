"""The outcome of each text of a shard, and the sum over shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.reasons import MATCHED, REASONS, Reason
from worldclip.contracts.records import BadText, MatchReport, ReasonCounts, UnmatchedSample
from worldclip.core import coin
from worldclip.core.arrow import names_of
from worldclip.core.coin import hash_keys
from worldclip.core.execute import Report, Shard
from worldclip.core.redact import redact
from worldclip.language import identify
from worldclip.match.texts import Matched
from worldclip.pool import PoolTexts
from worldclip.pool.texts import replace_where

SAMPLED = (Reason.NO_LANGUAGE, Reason.NO_MATCH)  # reasons with examples in the report
UNDETERMINED = "und"  # the language of a text without one (BCP 47)
NUM_BAD_SAMPLES = 20  # bad texts shown in the report
NUM_SAMPLES = 12  # samples per reason of SAMPLED
MAX_CHARS = 300  # characters per sample


# one shard


def report_texts(shard: Shard, pool_texts: PoolTexts, matched: Matched, languages: Sequence[str]) -> Report:
    """Return the report of a shard; languages: those of the run, which matched.lang refers to."""
    text_idx = pool_texts.text_idx.to_numpy()
    report = count_reasons(matched.reason, matched.lang, text_idx, languages)
    report["bad"] = [{**bad, "shard": shard.name} for bad in pool_texts.bad]
    report["samples"] = {}
    for reason in SAMPLED:  # texts that are dropped for it, chosen by hash
        rows = np.flatnonzero(matched.reason == reason)
        chosen, numbers = coin.sample_rows(pool_texts.key.take(pa.array(rows)), text_idx[rows], NUM_SAMPLES)
        samples: list[UnmatchedSample] = []
        for row, number in zip(rows[chosen].tolist(), numbers.tolist(), strict=True):
            samples.append(
                {
                    "number": number,
                    "shard": shard.name,
                    "key": pool_texts.key[row].as_py(),
                    "text_idx": int(text_idx[row]),
                    "text": pool_texts.text[row].as_py()[:MAX_CHARS],
                    "lang": (UNDETERMINED, *languages)[matched.lang[row] + 1],
                    "label": str(matched.labels[row]),
                    "lang_prob": float(matched.lang_prob[row]),
                }
            )
        report["samples"][reason.label] = samples
    rows = np.flatnonzero(matched.reason == Reason.NO_LANGUAGE)
    labels = matched.labels[rows]
    report["labels_without_language"] = dict(Counter(labels.tolist()))
    if pool_texts.lang is None:  # else they are words, as the pool states
        texts = pool_texts.text.take(pa.array(rows))
        labels = labels[identify.are_words(texts, labels, matched.lang_prob[rows])]
    report["labels_of_words"] = dict(Counter(labels.tolist()))
    return report


def count_reasons(reason: np.ndarray, lang: np.ndarray, text_idx: np.ndarray, languages: Sequence[str]) -> Report:
    """Count texts and keys by reason and language.

    reason: (T,) int8 codes of contracts.reasons, in the pool's order.  lang: (T,) position in languages, -1 for none.
    text_idx: (T,) int32, 0 where a key's texts begin.  A key with a match is left to curate.  Any other key counts
    under the latest reason that one of its texts reached, and under the language of the first such text.  A repeated
    key counts as one more key.
    """
    lang = np.where(reason >= Reason.NO_MATCH, lang, -1)
    rows = rows_of_keys(reason, text_idx)
    without_match = rows[reason[rows] != Reason.KEPT]
    return {
        "pairs": len(reason),
        "num_keys": len(rows),
        "num_matched_texts": int(np.count_nonzero(reason == Reason.KEPT)),
        "num_matched_keys": len(rows) - len(without_match),
        "texts": _count_by_language(lang, reason, languages),
        "keys": _count_by_language(lang[without_match], reason[without_match], languages),
    }


def rows_of_keys(reason: np.ndarray, text_idx: np.ndarray) -> np.ndarray:
    """Return (num_keys,) int64: the row of each key's first text with the latest reason that a text of it reached."""
    starts = np.flatnonzero(text_idx == 0)
    latest = np.maximum.reduceat(reason, starts) if len(starts) else reason[:0]
    key_of_text = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(reason))))
    at_latest = np.flatnonzero(reason == latest[key_of_text])
    first_of_keys: np.ndarray = at_latest[np.diff(key_of_text[at_latest], prepend=-1) != 0]
    return first_of_keys


def dropped_texts(pool_texts: PoolTexts, matched: Matched, languages: Sequence[str]) -> pa.Table:
    """Return the rows of RUN/match/dropped: the texts without a match, in the pool's order."""
    rows = np.flatnonzero(matched.reason != Reason.KEPT)
    reason = matched.reason[rows]
    has_label = reason >= Reason.NO_LANGUAGE
    labelled = rows[has_label]
    prob = pa.array(matched.lang_prob[labelled].round(2)).cast(pa.string())
    labels = pc.binary_join_element_wise(pa.array(matched.labels[labelled], pa.string()), prob, " ")
    problems = [redact(pool_texts.details[row]) for row in rows[reason == Reason.BAD_PAIR].tolist()]
    detail = pc.replace_with_mask(pa.nulls(len(rows), pa.string()), pa.array(has_label), labels)
    is_of_key = np.zeros(len(matched.reason), np.bool_)
    is_of_key[rows_of_keys(matched.reason, pool_texts.text_idx.to_numpy())] = True
    in_pool = pa.array(rows)
    return pa.table(
        {
            "key": pool_texts.key.take(in_pool),
            "text_idx": pool_texts.text_idx.take(in_pool),
            "lang": names_of(matched.lang[rows] + 1, (UNDETERMINED, *languages)),
            "reason": names_of(reason, [reason.label for reason in REASONS]),
            "detail": replace_where(detail, reason == Reason.BAD_PAIR, problems),
            "is_of_key": is_of_key[rows],
        }
    )


def _count_by_language(lang: np.ndarray, reason: np.ndarray, languages: Sequence[str]) -> ReasonCounts:
    """Return {language: {reason: number}}, languages sorted, without zeros."""
    shape = (len(languages) + 1, len(Reason))
    cell = (lang + 1) * len(Reason) + reason  # row 0 is for texts without a language
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    names = [reason.label for reason in REASONS]
    names[Reason.KEPT] = MATCHED
    by_language = {}
    for name, row in sorted(zip((UNDETERMINED, *languages), counts.tolist(), strict=True)):
        reasons = {names[code]: number for code, number in enumerate(row) if number}
        if reasons:
            by_language[name] = reasons
    return by_language


# the sum over shards


def sum_reports(reports: Iterable[Report]) -> MatchReport:
    """Sum the reports of all shards in one pass, in their order; examples are chosen by hash.

    Reports of very many shards do not fit in memory, so each is read once and only the best examples are kept.
    """
    totals = dict.fromkeys(("pairs", "num_keys", "num_matched_texts", "num_matched_keys"), 0)
    tables: dict[str, dict[str, Counter[str]]] = {"texts": {}, "keys": {}}
    labels: dict[str, Counter[str]] = {"labels_without_language": Counter(), "labels_of_words": Counter()}
    bad: list[BadText] = []
    samples: dict[str, list[UnmatchedSample]] = {reason.label: [] for reason in SAMPLED}
    for report in reports:
        for name in totals:
            totals[name] += report[name]
        for name, table in tables.items():
            for lang, row in report[name].items():
                table.setdefault(lang, Counter()).update(row)
        for name, counts in labels.items():
            counts.update(report[name])
        bad = sorted([*bad, *report["bad"]], key=lambda sample: int(hash_keys([sample["key"]])[0]))[:NUM_BAD_SAMPLES]
        for reason in samples:
            candidates = [*samples[reason], *report["samples"][reason]]
            samples[reason] = sorted(candidates, key=itemgetter("number", "shard"))[:NUM_SAMPLES]
    summed: Report = dict(totals)
    for name, table in tables.items():
        summed[name] = {lang: dict(sorted(row.items())) for lang, row in sorted(table.items())}
    for name, counts in labels.items():
        summed[name] = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))  # most first
    return cast(MatchReport, {**summed, "bad": bad, "samples": samples})
