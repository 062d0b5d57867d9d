"""Match rates under each profile, on a sample of the pool, for the report (match.compare_profiles)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.coin import sample_rows
from worldclip.core.execute import Shard
from worldclip.language.profiles import PROFILES
from worldclip.match.matcher.matcher import Matcher
from worldclip.match.texts import MatchWork


def compare_profiles(work: MatchWork, shards: Sequence[Shard], num_texts: int) -> dict[str, dict[str, int]]:
    """Return {language: {texts, reference, unicode, unicode_fold}}: sampled texts, and how many match per profile.

    The sample is whole shards, in the order of their hashes, until they hold `num_texts` texts with a language.  A
    profile that the run has not compiled is compiled here, one list at a time.
    """
    texts_by_lang: dict[str, list[pa.Array]] = {}
    for lang, texts in _sample(work, shards, num_texts):
        texts_by_lang.setdefault(lang, []).append(texts)
    rates = {}
    for lang, parts in sorted(texts_by_lang.items()):
        texts = pa.chunked_array(parts)
        row = {"texts": len(texts)}
        for profile in PROFILES:
            list_name = work.match.entry_lists.list_of(lang)
            folder = layout.matcher(work.run_dir, list_name, profile)
            if folder.is_dir():
                matcher = Matcher.load(folder, dict(work.list_digests)[list_name])
            else:
                table = artifacts.read_table(layout.entries(work.run_dir, list_name), schemas.METADATA, ["entry"])
                matcher = Matcher.build(table.column("entry"), profile)
            _, offsets = matcher.match_batch(texts)
            row[profile] = int(np.count_nonzero(np.diff(offsets)))
        rates[lang] = row
    return rates


def _sample(work: MatchWork, shards: Sequence[Shard], num_texts: int) -> Iterator[tuple[str, pa.Array]]:
    order, _ = sample_rows([shard.name for shard in shards], 0, len(shards))
    remaining = num_texts
    for position in order:
        if remaining <= 0:
            return
        pool_texts = pool.read_texts(shards[position], work.pool)
        lang, _, _ = work.rules.find(pool_texts.text, pool_texts.lang)
        lang[pool_texts.text.is_null().to_numpy(zero_copy_only=False)] = -1
        for code, name in enumerate(work.rules.languages):
            rows = np.flatnonzero(lang == code)
            if len(rows):
                remaining -= len(rows)
                yield name, pool_texts.text.take(pa.array(rows))
