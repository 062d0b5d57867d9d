"""Count the words and pairs of words of each language in the pool's own texts, shard by shard.

RUN/metadata/pool/<shard>.counts    runs of all languages, one behind the other
RUN/metadata/pool/<shard>.json      where they are: {language: {"texts": number, "runs": [[start, ...], ...]}}
"""

from __future__ import annotations

import functools
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.core.artifacts import digest, read_json, require_manifest, whole_file, write_json
from worldclip.core.execute import Report, Shard
from worldclip.core.job import Run
from worldclip.core.settings import deciding
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import identify as lid
from worldclip.language import segment
from worldclip.language.assign import LanguageRules
from worldclip.language.config import LanguagesConfig
from worldclip.match.config import MatchConfig
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import Record
from worldclip.metadata.ngrams import runs
from worldclip.metadata.ngrams.counter import Counter
from worldclip.pool.config import PoolConfig

POOL = "pool"


def pool_config(run: Run) -> Record:
    """Return what decides, besides the pool, which texts are counted and as which language: as in match."""
    match = run.section(MatchConfig)
    return {
        **deciding(run.section(PoolConfig), "match.texts"),
        "lid_model": run.section(LanguagesConfig).lid_model,
        "merge_labels": match.merge_labels,
        "min_lang_prob": match.min_lang_prob,
        "restrict_to_recipe_languages": match.restrict_to_recipe_languages,
    }


def pool_inputs(run: Run) -> Record:
    """Return what the counts of the pool's texts depend on; nothing if the pool is no source."""
    if POOL not in run.section(MetadataConfig).sources:
        return {}
    lid_model = run.section(LanguagesConfig).lid_model
    return {POOL: require_manifest(run.dir, POOL)["digest"], "lid_model": lid.model_digest(lid_model)}


@dataclass(frozen=True, slots=True)
class CountedPool:
    """The counts of a pool."""

    digest: str
    """Of the pool's texts and their languages."""
    shard_names: tuple[str, ...]


def count_pool(run: Run, folder: Path, codes: Sequence[str], counted_codes: Sequence[str]) -> CountedPool:
    """Count the words of the texts in `counted_codes` into RUN/metadata, each shard once.

    codes: all languages of the run.  Raises StageFailed if a shard fails, after all others are counted.
    """
    key = {**pool_config(run), **pool_inputs(run), "languages": run.deciding("metadata")["languages"]}
    key |= {"codes": list(codes), "built": list(counted_codes)}
    key |= {"icu": segment.icu_version(), "unicode": UNICODE_VERSION, "version": runs.RUNS_VERSION}
    # The digest of the pool stage moves with any shard; here each shard's own fingerprint stands for its file.
    shard_key = {name: value for name, value in key.items() if name != POOL}
    shards = pool.indexed_shards(run)
    match = run.section(MatchConfig)
    section = run.section(LanguagesConfig)
    rules = LanguageRules(
        languages=tuple(codes),
        lid_model=section.lid_model,
        lid_digest=str(key["lid_model"]),
        merge_labels=tuple(sorted(match.merge_labels.items())),
        min_prob=match.min_lang_prob,
        is_restricted=match.restrict_to_recipe_languages,
        table=section.table,
    )
    count = functools.partial(count_shard, folder=folder, run_dir=run.dir, rules=rules, codes=frozenset(counted_codes))
    run.executor.map(count, shards, label="pool texts", done_dir=layout.done_dir(folder, POOL), key=shard_key)
    return CountedPool(digest(key), tuple(shard.name for shard in shards))


def count_shard(shard: Shard, *, folder: Path, run_dir: Path, rules: LanguageRules, codes: Container[str]) -> Report:
    """Count the words and bigrams of the texts of each of `codes`; texts that match would drop are left out.

    One language is counted at a time, so besides the shard's texts the tables of one count are in memory.
    """
    counts_path, places_path = runs.run_files(folder / POOL, shard.name)
    places: Record = {}
    texts = pool.read_pairs(run_dir, shard.name, pool.EVERY_KEY)  # else another list would match every text again
    lang_T = rules.find(texts.text, texts.lang)[0]
    lang_T[texts.reason != Reason.KEPT] = -1
    with whole_file(counts_path) as aside, open(aside, "wb") as file:
        for position in np.unique(lang_T[lang_T >= 0]).tolist():  # languages in sorted order
            lang = rules.languages[position]
            if lang not in codes:
                continue
            of_lang = texts.text.take(pa.array(np.flatnonzero(lang_T == position)))
            scheme = segment.scheme_of(lang, rules.table)
            counter = Counter(counts_path, file, scheme)
            counter.add(segment.segment(of_lang, scheme))
            places[lang] = {"texts": len(of_lang), "runs": [run[1:] for run in counter.finish()]}
    write_json(places_path, places)
    return {"pairs": len(texts.text)}


def merge_pool_counts(lang: str, shard_names: Sequence[str], folder: Path, scratch: Path) -> runs.Counts:
    """Return the counts of a language, summed over the pool's shards; folder, scratch: see `counting.merge_counts`."""
    of_lang: list[runs.Run] = []
    for name in shard_names:
        counts_path, places_path = runs.run_files(folder / POOL, name)
        places = read_json(places_path)
        if lang in places:
            of_lang += [runs.Run(counts_path, *place) for place in places[lang]["runs"]]
    return runs.merge(of_lang, scratch)
