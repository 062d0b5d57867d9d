"""What became of each text of a shard, as the report says it, and the sum over shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from worldclip.core import coin
from worldclip.core.coin import hash_keys
from worldclip.core.execute import Report, Shard

if TYPE_CHECKING:
    from worldclip.match.stage import Matched
    from worldclip.pool import PoolTexts

# Why a text goes no further, in the order in which the reasons apply; `matched` goes on to curate.
REASONS = ("bad_pair", "duplicate", "no_text", "no_language", "no_match", "matched")
NO_LANGUAGE, NO_MATCH, MATCHED = (REASONS.index(name) for name in ("no_language", "no_match", "matched"))
UNDETERMINED = "und"  # the language of what has none (BCP 47)
NUM_BAD_SAMPLES = 20  # in the report
NUM_SAMPLES = 12  # of texts without a match, and without a language
MAX_CHARS = 300  # of a sample


# one shard


def count_reasons(reason: np.ndarray, lang: np.ndarray, text_idx: np.ndarray, names: Sequence[str]) -> Report:
    """How many texts, and how many keys, ended for which reason, per language.

    reason: (rows,) codes into REASONS, in the pool's order; lang: (rows,) position in names, -1 for none; text_idx:
    (rows,), 0 where a sample begins.  A key that has a match is curate's to settle; another counts under the latest
    reason that a text of it reached and the language of the first such text.  A repeated key counts as one more key.
    """
    lang = np.where(reason >= NO_MATCH, lang, -1)
    starts = np.flatnonzero(text_idx == 0)
    latest = np.maximum.reduceat(reason, starts) if len(starts) else reason[:0]
    sample = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(reason))))
    at_latest = np.flatnonzero(reason == latest[sample])
    first = at_latest[np.unique(sample[at_latest], return_index=True)[1]]
    lost = latest != MATCHED
    return {
        "pairs": len(reason),
        "num_keys": len(starts),
        "num_matched_texts": int(np.count_nonzero(reason == MATCHED)),
        "num_matched_keys": int(np.count_nonzero(~lost)),
        "texts": _tally(lang, reason, names),
        "keys": _tally(lang[first][lost], latest[lost], names),
    }


def _tally(lang: np.ndarray, reason: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """{language: {reason: n}}, languages sorted, without zeros."""
    cells = np.bincount((lang + 1) * len(REASONS) + reason, minlength=(len(names) + 1) * len(REASONS))
    table = cells.reshape(len(names) + 1, len(REASONS))
    rows = {
        name: {REASONS[i]: int(row[i]) for i in np.flatnonzero(row)}
        for name, row in zip((UNDETERMINED, *names), table, strict=True)
    }
    return {name: row for name, row in sorted(rows.items()) if row}


def confusion(truth: pa.Array, lang: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """{true language: {where its texts went: n}}, for pools that know; the report alone reads it."""
    found = np.array([*names, "no_language"])[lang]
    pairs = Counter(zip(truth.to_pylist(), found.tolist(), strict=True))
    table: dict[str, dict[str, int]] = {}
    for (true, went), n in sorted((pair, n) for pair, n in pairs.items() if pair[0] is not None):
        table.setdefault(true, {})[went] = n
    return table


def sample_texts(
    shard: Shard, pool_texts: PoolTexts, matched: Matched, reason: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Some texts that went no further for `reason`, chosen by hash."""
    rows = np.flatnonzero(matched.reason == reason)
    text_idx = pool_texts.text_idx.to_numpy()
    chosen, numbers = coin.sample_rows(pool_texts.key.take(pa.array(rows)), text_idx[rows], NUM_SAMPLES)
    return [
        {
            "number": number,
            "shard": shard.name,
            "key": pool_texts.key[row].as_py(),
            "text_idx": int(text_idx[row]),
            "text": pool_texts.text[row].as_py()[:MAX_CHARS],
            "lang": names[matched.lang[row]] if matched.lang[row] >= 0 else UNDETERMINED,
            "label": str(matched.labels[row]),
            "lang_prob": float(matched.lang_prob[row]),
        }
        for row, number in zip(rows[chosen].tolist(), numbers.tolist(), strict=True)
    ]


# the sum over shards


def sum_reports(reports: Iterable[Report]) -> dict[str, Any]:
    """Reports of all shards, in their order, as one, in one pass; samples of bad pairs are chosen by hash."""
    counts = dict.fromkeys(("pairs", "num_keys", "num_matched_texts", "num_matched_keys"), 0)
    tables: dict[str, _Table] = {"texts": {}, "keys": {}, "truth": {}}
    labels: Counter[str] = Counter()
    bad: list[Report] = []
    samples: dict[str, list[Report]] = {"no_language": [], "no_match": []}
    for report in reports:
        for name in counts:
            counts[name] += report[name]
        for name, table in tables.items():
            _add_table(table, report.get(name, {}))
        labels.update(report["labels_without_language"])
        bad += report["bad"]
        bad.sort(key=lambda sample: int(hash_keys([sample["key"]])[0]))
        del bad[NUM_BAD_SAMPLES:]
        for reason, of_reason in samples.items():
            of_reason += report["samples"][reason]
            of_reason.sort(key=lambda sample: (sample["number"], sample["shard"]))
            del of_reason[NUM_SAMPLES:]
    total: dict[str, Any] = {**counts, "texts": _sorted(tables["texts"]), "keys": _sorted(tables["keys"])}
    total["labels_without_language"] = dict(sorted(labels.items(), key=lambda item: (-item[1], item[0])))
    total |= {"bad": bad, "samples": samples}
    if tables["truth"]:
        total["truth"] = _sorted(tables["truth"])
        total["lid_recall"] = {true: row.get(true, 0) / sum(row.values()) for true, row in total["truth"].items()}
    return total


_Table = dict[str, Counter[str]]


def _add_table(total: _Table, table: Mapping[str, Mapping[str, int]]) -> None:
    for name, row in table.items():
        total.setdefault(name, Counter()).update(row)


def _sorted(table: _Table) -> dict[str, dict[str, int]]:
    return {name: dict(sorted(row.items())) for name, row in sorted(table.items())}
