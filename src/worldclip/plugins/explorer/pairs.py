"""The decision on each text of a key: of all pairs of a small pool, of some shards of a large one.

Keys that are denied or not in the valid list are left out: nothing of them stands in any file after match.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool
from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts, coin, keys
from worldclip.core.execute import Shard
from worldclip.core.job import Run
from worldclip.curate.candidates import CurateWork
from worldclip.match.stage import match_work
from worldclip.plugins.explorer.chunks import Chunks
from worldclip.plugins.explorer.examples import MAX_CHARS
from worldclip.tools.inspect_run import decide_again

MAX_TEXTS = 100_000
CHUNK_KEYS = 256
NUM_LISTED = 12  # dropped pairs per reason in the list
LANG = 4  # position in a row
REASON = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Pairs:
    """The keys of some shards with their texts."""

    by_key: dict[str, list[list[Any]]]
    """key -> rows of text_idx, text, label, lang_prob, lang (position, -1 for none), reason, keep_prob or None."""
    shard_of_key: dict[str, str]
    num_shards: int
    of_shards: int


def read_pairs(run: Run, work: CurateWork, shards: Sequence[Shard], languages: list[str]) -> Pairs:
    """Match shards again, in the order of a hash, until they hold MAX_TEXTS texts.

    Of several shards with a key the first one by name that keeps it counts, else the first one, as in `inspect`.
    """
    order, _ = coin.sample_rows([shard.name for shard in shards], 0, len(shards))
    matching = match_work(run)
    place_of_lang = {lang: i for i, lang in enumerate(languages)}  # languages without a pair have no row
    position = np.array([*(place_of_lang.get(lang, -1) for lang in matching.rules.languages), -1])
    by_key: dict[str, list[list[Any]]] = {}
    places: dict[str, tuple[bool, str]] = {}  # (whether it is dropped there, shard)
    num_texts = num_shards = 0
    for i in order.tolist():
        if num_texts >= MAX_TEXTS:
            break
        shard = shards[i]
        pool_texts = pool.read_pairs(matching.run_dir, shard.name, work.key_lists)
        matched, _, reason, keep_prob = decide_again(shard, pool_texts, matching, work)
        shown = np.flatnonzero(pc.is_valid(pool_texts.key).to_numpy(zero_copy_only=False))
        shown = shown[keys.is_valid(pool_texts.key.take(pa.array(shown)), work.key_lists, shard.name)]
        num_texts += len(shown)
        rows_of_key: dict[str, list[list[Any]]] = defaultdict(list)
        for j in shown.tolist():
            text = pool_texts.text[j].as_py()
            row = [
                pool_texts.text_idx[j].as_py(),
                None if text is None else text[:MAX_CHARS],
                str(matched.labels[j]),
                round(float(matched.lang_prob[j]), 4),
                int(position[matched.lang[j]]),
                int(reason[j]),
                None if np.isnan(keep_prob[j]) else float(keep_prob[j]),
            ]
            rows_of_key[pool_texts.key[j].as_py()].append(row)
        for key, rows in rows_of_key.items():
            is_dropped = all(row[REASON] != Reason.KEPT for row in rows)
            place = (is_dropped, shard.name)
            if key not in places or place < places[key]:
                by_key[key] = rows
                places[key] = place
        num_shards += 1
    shard_of_key = {key: shard for key, (_, shard) in places.items()}
    return Pairs(by_key, shard_of_key, num_shards, len(shards))


def unmatched_examples(pairs: Pairs, num_each: int) -> dict[int, list[tuple[str, list[Any]]]]:
    """Return (key, row) of texts without a match by language position, up to `num_each` of each reason, by hash."""
    chosen: dict[tuple[int, int], list[tuple[str, list[Any]]]] = defaultdict(list)
    for key, rows in pairs.by_key.items():
        for row in rows:
            if 0 <= row[REASON] <= Reason.NO_MATCH:
                chosen[row[LANG], row[REASON]].append((key, row))
    by_lang: dict[int, list[tuple[str, list[Any]]]] = defaultdict(list)
    for (lang, _), examples in chosen.items():
        order, _ = coin.sample_rows([key for key, _ in examples], [row[0] for _, row in examples], num_each)
        by_lang[lang] += [examples[i] for i in order]
    return by_lang


def dropped_examples(run_dir: Path, pairs: Pairs) -> list[list[list[str | None]]]:
    """Return [key, detail] of up to NUM_LISTED rows of RUN/curate/dropped, if it is there, by code of the reason.

    They are chosen by hash among those that the folder can explain.
    """
    tables = [schemas.DROPPED.empty_table()]
    for shard in sorted(set(pairs.shard_of_key.values())):
        path = layout.dropped(run_dir, shard)
        if path.exists():
            tables.append(artifacts.read_table(path, schemas.DROPPED))
    dropped = pa.concat_tables(tables).unify_dictionaries()
    listed = []
    for reason in Reason:
        is_listed = pc.and_(pc.equal(dropped["reason"].cast(pa.string()), reason.label), dropped["key"].is_valid())
        rows = dropped.filter(is_listed)
        chosen, _ = coin.sample_rows(rows["key"], rows["text_idx"].to_numpy(), NUM_LISTED)
        listed.append([[row["key"], row["detail"]] for row in rows.take(pa.array(chosen)).to_pylist()])
    return listed


def write_pairs(chunks: Chunks, pairs: Pairs, pictures: dict[tuple[str, str], str]) -> None:
    """Write pairs.js, with the first key of each chunk, and pairs/<chunk>.js."""
    in_order = sorted(pairs.by_key, key=lambda key: key.encode("utf-8", "surrogatepass"))
    firsts: list[str] = []
    for start in range(0, len(in_order), CHUNK_KEYS):
        part = in_order[start : start + CHUNK_KEYS]
        rows = [[key, pictures.get((pairs.shard_of_key[key], key)), pairs.by_key[key]] for key in part]
        chunks.write(f"pairs/{len(firsts)}", rows)
        firsts.append(part[0])
    chunks.write(
        "pairs", {"firsts": firsts, "keys": len(in_order), "shards": pairs.num_shards, "of_shards": pairs.of_shards}
    )
