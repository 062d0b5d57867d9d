"""How many texts match under each profile, on a sample of the pool: for the report, where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.core import artifacts
from worldclip.core.coin import sample_rows
from worldclip.core.execute import Shard
from worldclip.match.matcher.matcher import Matcher

if TYPE_CHECKING:
    from worldclip.match.stage import MatchWork

PROFILES = ("reference", "unicode", "unicode_fold")


def compare_profiles(work: MatchWork, shards: Sequence[Shard], num_texts: int) -> dict[str, dict[str, int]]:
    """{language: {texts, reference, unicode, unicode_fold}}: texts of the sample, and those of them that match.

    The sample: shards in the order of their coins, whole, until they hold `num_texts` texts with a language.  A profile
    that the run has not compiled is compiled here, one list at a time.
    """
    by_lang: dict[str, list[pa.Array]] = {}
    for lang, texts in _sample(work, shards, num_texts):
        by_lang.setdefault(lang, []).append(texts)
    found = {}
    for lang, parts in sorted(by_lang.items()):
        texts = pa.chunked_array(parts)
        row = {"texts": len(texts)}
        for profile in PROFILES:
            _, offsets = _matcher(work, work.match.entry_lists.list_of(lang), profile).match_batch(texts)
            row[profile] = int(np.count_nonzero(np.diff(offsets)))
        found[lang] = row
    return found


def _sample(work: MatchWork, shards: Sequence[Shard], num_texts: int) -> Iterator[tuple[str, pa.Array]]:
    from worldclip.match.stage import find_languages

    positions, _ = sample_rows([shard.name for shard in shards], 0, len(shards))
    left = num_texts
    for position in positions:
        if left <= 0:
            return
        found = pool.read_texts(shards[position], work.pool)
        texts = found.text
        lang, _, _ = find_languages(found, work)
        lang[texts.is_null().to_numpy(zero_copy_only=False)] = -1
        for code, name in enumerate(work.languages):
            rows = np.flatnonzero(lang == code)
            if len(rows):
                left -= len(rows)
                yield name, texts.take(pa.array(rows))


def _matcher(work: MatchWork, list_name: str, profile: str) -> Matcher:
    folder = work.run_dir / "metadata" / f"{list_name}.matcher" / profile
    if folder.is_dir():
        return Matcher.load(folder, dict(work.list_digests)[list_name])
    table = artifacts.read_table(work.run_dir / "metadata" / f"{list_name}.parquet", artifacts.METADATA, ["entry"])
    return Matcher.build(table.column("entry"), profile.removesuffix("_fold"), fold_case=profile.endswith("_fold"))
