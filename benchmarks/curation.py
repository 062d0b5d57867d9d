"""Stages pool and match, from a Parquet pool to written files, beside the same in single-core Python and its libraries.

    python benchmarks/curation.py [--write]        --write renews benchmarks/results/curation.md

The peer reads with pyarrow, finds the language with fastText's library (fasttext-predict), spaces the text and matches
with pyahocorasick as the reference does, counts in a Counter and writes JSON lines.  Same texts, same entries, same LID
model, profile `reference`; the counts of both must be equal, or the benchmark stops.  Texts are captions in four
languages from the folder of real data (WORLDCLIP_SHARED, or `shared` beside the repository), synthesised without it.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from head import make_head
from match import pad, space, synthesise

from worldclip import pool
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.contracts.entry_counts import count_entries
from worldclip.core import artifacts
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.language import identify as lid
from worldclip.language.table import from_lid
from worldclip.match import accounting, stage
from worldclip.match import texts as match_texts
from worldclip.match.matcher.matcher import Matcher
from worldclip.pool.stage import index_shard
from worldclip.recipe import run_stages, sections_of

ROUNDS = 3
RESULTS = Path(__file__).parent / "results" / "curation.md"
SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"
LANGS = ("en", "de", "fr", "cs")
NUM_SHARDS = 4


def read_world() -> tuple[list[str], dict[str, list[str]]]:
    """(texts, entries of each language): words by frequency, given and in title case, and the captions' bigrams."""
    if not SHARED.is_dir():
        entries, texts = synthesise("abcdefghijklmnoprstuvwy", " ")
        return texts, {"en": entries}
    import wordfreq

    table = pq.read_table(SHARED / "captions" / "multi30k_train.parquet")
    lists = {}
    for lang in LANGS:
        captions = table.filter(pa.compute.equal(table["lang"], lang))["caption"].to_pylist()
        words = wordfreq.top_n_list(lang, 100_000)
        bigrams = (f"{a} {b}" for text in captions for a, b in itertools.pairwise(re.findall(r"\w+", text)))
        lists[lang] = list(dict.fromkeys([*words, *(word.title() for word in words), *bigrams]))
    return table.sort_by("id")["caption"].to_pylist(), lists


def write_world(folder: Path, texts: list[str], lists: dict[str, list[str]]) -> None:
    """A Parquet pool and the run's metadata."""
    for shard, part in enumerate(np.array_split(np.arange(len(texts)), NUM_SHARDS)):
        columns = {"uid": [f"{i:032x}" for i in part], "text": [texts[i] for i in part]}
        path = folder / "pool" / f"{shard:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, compression="zstd")
    digests = {}
    for lang, entries in lists.items():
        n = len(entries)
        columns = {
            "entry_id": pa.array(range(n), pa.int32()),
            "entry": entries,
            "source": ["list"] * n,
            "score": pa.nulls(n),
        }
        artifacts.write_table(folder / "run/metadata" / f"{lang}.parquet", pa.table(columns), schemas.METADATA)
        matcher = Matcher(entries, "reference")
        matcher.save(folder / "run/metadata" / f"{lang}.matcher" / "reference")
        digests[lang] = matcher.digest
    artifacts.write_manifest(folder / "run/metadata", config={}, inputs={}, counts={}, digests=digests)


def run_ours(folder: Path, recipe: Any) -> None:
    """Read, match and count every shard on one core."""
    run = folder / "run"
    context = Run(dir=run, sections=sections_of(recipe))
    work = stage.match_work(context)
    for shard in pool.indexed_shards(context):
        index_shard(shard, config=recipe.pool, run_dir=run, needs_texts=True)
        stage.match_shard(shard, work=work, counted_by={})


def read_counts(run: Path) -> dict[tuple[str, int], int]:
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    for path in (run / "match/counts").rglob("*.parquet"):
        for row in artifacts.read_table(path, schemas.MATCH_COUNTS).to_pylist():
            counts[row["entries_lang"], row["entry_id"]] += row["count"]
    return counts


def build_peer(lists: dict[str, list[str]]) -> Callable[[Path], dict[tuple[str, int], int]]:
    import ahocorasick
    import fasttext

    model = fasttext.load_model(str(lid.model_path()))
    automatons = {}
    for lang, entries in lists.items():
        automatons[lang] = ahocorasick.Automaton()
        for i, entry in enumerate(entries):
            automatons[lang].add_word(pad(entry), i)
        automatons[lang].make_automaton()

    def run(folder: Path) -> dict[tuple[str, int], int]:
        counts: collections.Counter[tuple[str, int]] = collections.Counter()
        for path in sorted((folder / "pool").glob("*.parquet")):
            table = pq.read_table(path)
            with open(folder / f"{path.stem}.jsonl", "w", encoding="utf-8") as out:
                for key, text in zip(table["uid"].to_pylist(), table["text"].to_pylist(), strict=True):
                    labels = model.predict(text.replace("\n", " "))
                    lang = from_lid(labels[0][0].removeprefix("__label__"))
                    if lang not in automatons:
                        continue
                    ids = sorted({i for _, i in automatons[lang].iter(space(text))})
                    if not ids:
                        continue
                    for i in ids:
                        counts[lang, i] += 1
                    out.write(
                        json.dumps({"key": key, "text": text, "lang": lang, "ids": ids}, ensure_ascii=False) + "\n"
                    )
        return counts

    return run


def time_parts(folder: Path, recipe: Any) -> dict[str, float]:
    """CPU seconds of each part of ours over the whole pool."""
    run = folder / "run"
    context = Run(dir=run, sections=sections_of(recipe))
    work = stage.match_work(context)
    spent: collections.Counter[str] = collections.Counter()

    def timed(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        started_at = time.process_time()
        result = call(*arguments, **options)
        spent[name] += time.process_time() - started_at
        return result

    for shard in pool.indexed_shards(context):
        timed("read the pool", index_shard, shard, config=recipe.pool, run_dir=run, needs_texts=True)
        texts = timed("read the pairs", pool.read_pairs, run, shard.name, pool.EVERY_KEY)
        lang, *_ = timed("language", work.rules.find, texts.text, texts.lang)
        timed("entries", match_texts.match_texts, texts.text, lang, work)
        matched = match_texts.match_pool_texts(texts, work)
        table = timed("write", match_texts.matched_table, matched, work)
        path = layout.match_texts(run, shard.name)
        timed("write", artifacts.write_table, path, table, schemas.MATCH_TEXTS)
        table_dropped = timed("write", accounting.dropped_texts, texts, matched, work.rules.languages)
        path = layout.match_dropped(run, shard.name)
        timed("write", artifacts.write_table, path, table_dropped, schemas.MATCH_DROPPED)
        text_idx = texts.text_idx.to_numpy()
        timed("report", accounting.count_reasons, matched.reason, matched.lang, text_idx, work.rules.languages)
        counts = timed("count", count_entries, table)
        timed("count", artifacts.write_table, layout.match_counts(run, shard.name), counts, schemas.MATCH_COUNTS)
    return dict(spent)


def measure(folder: Path) -> tuple[dict[str, float], dict[str, float], int, int]:
    texts, lists = read_world()
    write_world(folder, texts, lists)
    recipe = load_recipe(
        {
            "pool": {"path": str(folder / "pool"), "key": "uid", "texts": ["text"]},
            "languages": {"codes": list(lists)},
            "match": {"profile": "reference"},
            "balance": {"tail_fraction": 0.06},
        }
    )
    run_stages(recipe, folder / "run", ["pool"], executor=LocalExecutor(quiet=True))
    peer = build_peer(lists)
    run_ours(folder, recipe)  # compiles
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(ROUNDS):
        started_at = time.process_time()
        run_ours(folder, recipe)
        seconds["ours"].append(time.process_time() - started_at)
        started_at = time.process_time()
        theirs = peer(folder)
        seconds["peer"].append(time.process_time() - started_at)
        ours = read_counts(folder / "run")
        if ours != theirs:
            raise SystemExit(f"counts differ: {len(ours)} and {len(theirs)} entries, {sum(ours.values())} matches")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    parts = [time_parts(folder, recipe) for _ in range(ROUNDS)]
    medians_of_parts = {name: statistics.median(each[name] for each in parts) for name in parts[0]}
    return medians, medians_of_parts, len(texts), sum(map(len, lists.values()))


def page(medians: dict[str, float], parts: dict[str, float], num_texts: int, num_entries: int) -> str:
    rate = {name: 1e6 * seconds / num_texts for name, seconds in medians.items()}
    whole = sum(parts.values())
    rows = "\n".join(f"| {name} | {1e6 * s / num_texts:.2f} | {s / whole:.0%} |" for name, s in parts.items())
    paths = [f"src/worldclip/{path}" for path in ("match", "language", "pool")]
    return f"""# Pool and match, whole

{make_head(paths, ("numpy", "numba", "pyarrow", "pyahocorasick"))}

{num_texts:,} captions in {NUM_SHARDS} Parquet shards, {num_entries:,} entries; CPU time of one core, median of \
{ROUNDS} rounds, ours and the peer's in turn, counts equal.

| | us a text | |
|---|---|---|
| Python: pyarrow, fasttext-predict, spacing, pyahocorasick, Counter, JSON lines | {rate["peer"]:.1f} | 1 |
| worldclip: stages pool and match, one core | {rate["ours"]:.2f} | {rate["peer"] / rate["ours"]:.1f} times as fast |

Where ours goes:

| part | us a text | share |
|---|---|---|
{rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        text = page(*measure(Path(folder)))
    print(text)
    if write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
