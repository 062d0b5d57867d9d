"""What profiles and wordfreq change: matches of real captions under both profiles, and the tail of an English list.

    python benchmarks/lists.py [--write]

--write renews benchmarks/results/lists.md.

Captions (Multi30K, XTD10), WordNets and a piece of the English Wikipedia come from the folder of real data
(WORLDCLIP_SHARED, or `shared` beside the repository).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip import balance, curate
from worldclip.core.execute import Shard
from worldclip.match.matcher.matcher import Matcher
from worldclip.metadata import counting, ngrams
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, build_entries

RESULTS = Path(__file__).parent / "results" / "lists.md"
SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"
WORDNETS = {
    "en": "rebuilt/wn-data-eng",
    "es": "wikt/wn-wikt-spa",
    "fi": "wikt/wn-wikt-fin",
    "fr": "wn-data-fra",
    "it": "wn-data-ita",
    "zh": "wn-data-cmn",
}
LANGS = ("cs", "de", "en", "es", "fr", "it", "ko", "ru", "zh")
TAIL_FRACTION = 0.06


def read_captions(lang: str) -> pa.ChunkedArray:
    """Return all captions of a language."""
    tables = [pq.read_table(SHARED / f"captions/{name}.parquet") for name in ("xtd10", "multi30k_train")]
    captions = [table.filter(pc.equal(table["lang"], lang))["caption"].cast(pa.string()) for table in tables]
    return pa.chunked_array([chunk for column in captions for chunk in column.chunks])


def wordnet_of(lang: str) -> dict[str, str]:
    return {lang: str(SHARED / f"omw/{WORDNETS[lang]}.tab.gz")} if lang in WORDNETS else {}


def match(entries: EntryList, profile: str, texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matched entries of all texts and their offsets."""
    return Matcher.build(entries.table()["entry"], profile).match_batch(texts)


def profile_rows() -> list[str]:
    """Return a row per language: match rate and matches per text under both profiles."""
    rows = []
    for lang in LANGS:
        texts, wordnets = read_captions(lang), wordnet_of(lang)
        sources = ("number", "wordnet", "wordfreq") if wordnets else ("number", "wordfreq")
        entries = build_entries(Inputs(lang=lang, config=MetadataConfig(sources=sources, wordnets=wordnets)))
        cells = []
        for profile in ("reference", "unicode"):
            _, offsets = match(entries, profile, texts)
            num_matches = np.diff(offsets)
            cells.append((f"{(num_matches > 0).mean():.2%}", f"{num_matches.mean():.2f}", num_matches.mean()))
        (rate, per_text, before), (unicode_rate, unicode_per_text, after) = cells
        rows.append(
            f"| {lang} | {len(texts):,} | {len(entries.entries):,} | {rate} | {unicode_rate} | {per_text} |"
            f" {unicode_per_text} | {after / before - 1:+.1%} |"
        )
    return rows


def wordfreq_rows() -> list[str]:
    """Return a row per English list, without wordfreq and with it, at the t of the list without."""
    texts, rows, threshold = read_captions("en"), [], 0
    (piece,) = (SHARED / "wiki").glob("enwiki*")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        counting.count_text(Shard(name="en/piece", path=str(piece), fingerprint={}), folder=folder)
        counts = ngrams.merge(counting.read_runs(folder, "en/piece"), folder / "merged")
        for more in ((), ("wordfreq",)):
            config = MetadataConfig(
                sources=("number", "wordnet", "unigram", "bigram", *more),
                wordnets=wordnet_of("en"),
                overrides={"english_rule": "as_others"},
            )
            counted = counting.WikipediaCounts(
                wiki="en", rules=config.wikipedia_rules, counts=counts, joiner=" ", views=(), namespaces=None
            )
            entries = build_entries(Inputs(lang="en", config=config, counts=[counted]))
            ids, offsets = match(entries, "reference", texts)
            matches = np.bincount(ids, minlength=len(entries.entries))
            threshold = threshold or balance.threshold_for(matches, TAIL_FRACTION)
            kept = curate.keep_prob(ids, offsets, balance.entry_probs(matches, threshold)).mean()
            rows.append(
                f"| {' and '.join(more) or 'none'} | {len(entries.entries):,} | {len(ids) / len(texts):.2f} |"
                f" {threshold} | {balance.tail_fraction(matches, threshold):.2%} | {kept:.1%} |"
                f" {balance.threshold_for(matches, TAIL_FRACTION)} |"
            )
    return rows


def finnish() -> str:
    sizes = []
    for more in ((), ("wordfreq",)):
        config = MetadataConfig(sources=("number", "wordnet", *more), wordnets=wordnet_of("fi"))
        sizes.append(len(build_entries(Inputs(lang="fi", config=config)).entries))
    return f"A Finnish list of numbers and a small WordNet has {sizes[0]:,} entries; with wordfreq {sizes[1]:,}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if not SHARED.is_dir():
        raise SystemExit(f"no folder of real data at {SHARED}; set WORLDCLIP_SHARED")
    is_written = parser.parse_args().write
    lines = [
        "# Lists: both profiles, with and without wordfreq",
        "",
        f"`python benchmarks/lists.py --write`, {date.today()}, wordfreq {version('wordfreq')}. Captions of Multi30K"
        " and XTD10; nothing here is timed.",
        "",
        "Lists of numbers, WordNet (en es fr it zh) and wordfreq:",
        "",
        "| language | captions | entries | match rate, reference | unicode | matches, reference | unicode | change |",
        "|---|---|---|---|---|---|---|---|",
        *profile_rows(),
        "",
        "An English list of numbers, WordNet, unigrams and bigrams of a piece of Wikipedia (106 articles), and what is"
        " added; profile reference, t at which 6% of the matches of the list without wordfreq are tail:",
        "",
        "| added | entries | matches each | t | tail at this t | expected share of captions kept | t of its own 6% |",
        "|---|---|---|---|---|---|---|",
        *wordfreq_rows(),
        "",
        finnish(),
    ]
    print("\n".join(lines))
    if is_written:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
