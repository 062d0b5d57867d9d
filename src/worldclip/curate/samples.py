"""Examples for the report, chosen by hash: what was kept, what was dropped, and why.

Keys that are denied or not in the valid list are never shown: they go no further than match.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.contracts.records import BadText, UnmatchedSample
from worldclip.core import artifacts, coin, keys
from worldclip.core.arrow import codes_of, list_buffers, one_array
from worldclip.core.artifacts import Json
from worldclip.core.execute import Report
from worldclip.core.redact import HIDDEN
from worldclip.curate.candidates import CurateWork, Decision

SAMPLED = (Reason.KEPT, Reason.SAMPLED_OUT, Reason.EXCLUDED)
NUM_SHOWN = 12  # samples per reason
MAX_CHARS = 300  # characters per text
NUM_ENTRIES = 3  # entries per text: those with the highest probability


def sample_shard(table: pa.Table, decision: Decision, work: CurateWork) -> dict[str, list[Json]]:
    """Return {column of the reason: up to NUM_SHOWN examples} of a shard.  table: RUN/match/texts of it."""
    candidates = decision.candidates
    coins = decision.coin_T
    keys_T = one_array(table.column("key"))
    code, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))

    def sample(number: float, row: int) -> Json:
        list_name = list_names[code[row]]
        ids = entry_ids[offsets[row] : offsets[row + 1]]
        probs = work.entry_probs(list_name)[ids]
        best = np.argsort(-probs, kind="stable")[:NUM_ENTRIES]
        return {
            "number": number,
            "key": keys_T[row].as_py(),
            "text_idx": int(candidates.text_idx_T[row]),
            "text": table.column("text")[row].as_py()[:MAX_CHARS],
            "lang": candidates.lang_names[candidates.lang_T[row]],
            "keep_prob": float(decision.keep_prob_T[row]),
            "coin": float(coins[row]),
            "list": list_name,
            "entries": [{"entry_id": int(ids[i]), "prob": float(probs[i])} for i in best],
        }

    samples = {}
    for sampled in SAMPLED:
        rows = np.flatnonzero(decision.reason_T == sampled)
        chosen, numbers = coin.sample_rows(keys_T.take(pa.array(rows)), candidates.text_idx_T[rows], NUM_SHOWN)
        samples[sampled.column] = list(map(sample, numbers.tolist(), rows[chosen].tolist()))
    return samples


def merge_samples(
    run_dir: Path,
    reports: Iterable[Report],
    match_samples: Mapping[str, Sequence[UnmatchedSample | BadText]],
    key_lists: Sequence[keys.KeyList],
) -> Json:
    """Return {reason: up to NUM_SHOWN examples} of all shards and of match, entries by name.

    match_samples: examples of texts that match dropped.
    """
    merged: dict[str, list[Json]] = {reason.column: [] for reason in SAMPLED}
    for report in reports:
        for reason in merged:
            candidates = [*merged[reason], *report["samples"].get(reason, [])]  # an earlier release may lack the reason
            merged[reason] = sorted(candidates, key=lambda sample: (sample["number"], sample["key"]))[:NUM_SHOWN]
    kept_and_dropped = list(itertools.chain(*merged.values()))
    for list_name in sorted({sample["list"] for sample in kept_and_dropped}):
        entries = artifacts.read_table(layout.entries(run_dir, list_name), schemas.METADATA, ["entry"])["entry"]
        counts = np.load(layout.entry_counts(run_dir, list_name), mmap_mode="r", allow_pickle=False)
        for sample in kept_and_dropped:
            if sample["list"] != list_name:
                continue
            for entry in sample["entries"]:
                entry["entry"] = entries[entry["entry_id"]].as_py()
                entry["matches"] = int(counts[entry["entry_id"]])
    shown: Json = {**merged}
    for reason, samples in match_samples.items():
        shown[reason] = []
        for example in samples[:NUM_SHOWN]:
            # Match hides credentials in keys: whether a deny list names such a key is not known.
            is_unsure = bool(key_lists) and HIDDEN in example["key"]
            if not is_unsure and keys.is_valid(pa.array([example["key"]]), key_lists, example["shard"])[0]:
                shown[reason].append(example)
    return {reason: samples for reason, samples in shown.items() if samples}
