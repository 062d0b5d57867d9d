"""Examples for the report, chosen by hash: what was kept, what was dropped, and why.

Of keys that are denied or not in the valid list none is shown: they go no further than match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core import artifacts, coin, keys
from worldclip.core.arrow import codes_of, list_buffers
from worldclip.core.execute import Report
from worldclip.curate.candidates import Candidates, Decision
from worldclip.curate.config import CurateConfig

NUM_SHOWN = 12  # of each reason
MAX_CHARS = 300  # of a text
NUM_ENTRIES = 3  # of a text, those that keep it best


def sample_shard(
    table: pa.Table,
    candidates: Candidates,
    keep_prob: np.ndarray,
    decision: Decision,
    config: CurateConfig,
    entry_probs: Callable[[str], np.ndarray],
) -> dict[str, list[Report]]:
    """{reason: samples} of a shard, table being its RUN/match/texts."""
    drawable = candidates.drawable_T
    asked = drawable.copy()  # what the coin was asked about
    if config.text_policy == "one":
        asked[:] = False
        asked[decision.drawn_K[decision.drawn_K >= 0]] = True
    is_valid = np.repeat(candidates.is_valid_K, np.diff(candidates.starts_K1))
    masks = {
        "pairs_out": decision.kept_T,
        "sampled_out": asked & ~decision.kept_T & ~decision.is_over_T,
        "excluded": (is_valid & candidates.is_excluded_T) | decision.is_over_T,
    }
    coins, keys_T = candidates.coins_T(config), table.column("key").combine_chunks()
    code, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))
    found: dict[str, list[Report]] = {}
    for reason, mask in masks.items():
        found[reason] = []
        rows = np.flatnonzero(mask)
        chosen, numbers = coin.sample_rows(keys_T.take(pa.array(rows)), candidates.text_idx_T[rows], NUM_SHOWN)
        for row, number in zip(rows[chosen], numbers.tolist(), strict=True):
            name, ids = list_names[code[row]], entry_ids[offsets[row] : offsets[row + 1]]
            probs = entry_probs(name)[ids]
            best = np.argsort(-probs, kind="stable")[:NUM_ENTRIES].tolist()
            found[reason].append(
                {
                    "number": number,
                    "key": keys_T[row].as_py(),
                    "text_idx": int(candidates.text_idx_T[row]),
                    "text": table.column("text")[row].as_py()[:MAX_CHARS],
                    "lang": candidates.lang_names[candidates.lang_T[row]],
                    "keep_prob": float(keep_prob[row]),
                    "coin": float(coins[row]),
                    "is_over": bool(decision.is_over_T[row]),
                    "list": name,
                    "entries": [{"entry_id": int(ids[k]), "prob": float(probs[k])} for k in best],
                }
            )
    return found


def merge_samples(
    run_dir: Path, reports: Sequence[Report], of_match: Mapping[str, Sequence[Report]], lists: Sequence[keys.KeyList]
) -> dict[str, list[Report]]:
    """{reason: NUM_SHOWN samples} of all shards, entries by name; of_match: match's, of texts that went no further."""
    merged: dict[str, list[Report]] = {reason: [] for reason in ("pairs_out", "sampled_out", "excluded")}
    for report in reports:
        for reason, of_reason in merged.items():
            of_reason += report["samples"][reason]
            of_reason.sort(key=lambda sample: (sample["number"], sample["key"]))
            del of_reason[NUM_SHOWN:]
    for name in {sample["list"] for samples in merged.values() for sample in samples}:
        _name_entries(run_dir, name, [s for samples in merged.values() for s in samples if s["list"] == name])
    for reason, samples in of_match.items():
        merged[reason] = [s for s in samples if keys.is_valid(pa.array([s["key"]]), lists, s["shard"])[0]]
    return {reason: samples for reason, samples in merged.items() if samples}


def _name_entries(run_dir: Path, list_name: str, samples: Sequence[Report]) -> None:
    """Put each entry's name and matches beside its id."""
    table = artifacts.read_table(run_dir / "metadata" / f"{list_name}.parquet", artifacts.METADATA, ["entry"])
    counts = np.load(run_dir / "balance" / "counts" / f"{list_name}.npy", mmap_mode="r", allow_pickle=False)
    for sample in samples:
        for entry in sample["entries"]:
            entry["entry"] = table["entry"][entry["entry_id"]].as_py()
            entry["matches"] = int(counts[entry["entry_id"]])
