"""The matcher beside Aho-Corasick libraries used as the reference uses one: same texts, same entries, one core.

    python benchmarks/match.py [--write]        --write renews benchmarks/results/match.md

Entries are word lists (wordfreq, OpenSubtitles, wordnets) and bigrams of the captions, texts are captions and UDHR
paragraphs, from the folder of real data (WORLDCLIP_SHARED, or `shared` beside the repository); without it both are
synthesised.  Every method must give the same ids for profile `reference`, or the benchmark stops.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import itertools
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from head import make_head
from numba import njit

from worldclip.kernels.unicode_table import SIMILAR_TO_CJK, load_table
from worldclip.language.profiles import PROFILES
from worldclip.match.matcher import tokenise, trie
from worldclip.match.matcher.matcher import TABLE, Matcher, _buffers

NUM_ENTRIES = 490_899  # English; the other lists are as long as their sources
ROUNDS = 5
RESULTS = Path(__file__).parent / "results" / "match.md"
SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"

Match = Callable[[list[str]], list[set[int]]]


# --- texts and entries ----------------------------------------------------------------------------


def read_pools() -> dict[str, tuple[list[str], list[str]]]:
    """Language -> entries, texts."""
    if not SHARED.is_dir():
        return {"en": synthesise("abcdefghijklmnoprstuvwy", " "), "zh": synthesise(map(chr, range(0x4E00, 0x5200)), "")}
    import wordfreq

    english = read_column("captions/multi30k_train.parquet", "caption", lang="en")
    words = wordfreq.top_n_list("en", 250_000)
    bigrams = collections.Counter(
        f"{a} {b}" for text in english for a, b in itertools.pairwise(re.findall(r"\w+", text))
    )
    seen = dict.fromkeys([*words, *(pair for pair, _ in bigrams.most_common())])
    others = dict.fromkeys(f"{a} {b}" for a, b in itertools.pairwise(words))
    pools = {"en": (list(dict.fromkeys([*seen, *others]))[:NUM_ENTRIES], english)}
    for lang, words, wordnet, udhr_code in (
        ("zh", wordfreq.top_n_list("zh", 400_000), "wn-data-cmn", "cmn_hans"),
        ("ja", wordfreq.top_n_list("ja", 400_000), "wikt/wn-wikt-jpn", "jpn"),
        ("th", read_frequencies("th_50k"), "wikt/wn-wikt-tha", "tha"),
    ):
        texts = read_column("udhr/udhr.parquet", "text", code=udhr_code)
        texts += read_column("captions/xtd10.parquet", "caption", lang=lang)
        pools[lang] = list(dict.fromkeys([*words, *read_lemmas(wordnet)])), texts
    return pools


def read_column(name: str, column: str, **equal: str) -> list[str]:
    return pq.read_table(SHARED / name, filters=[(key, "=", value) for key, value in equal.items()])[column].to_pylist()


def read_frequencies(name: str) -> list[str]:
    with gzip.open(SHARED / f"freq/{name}.txt.gz", "rt", encoding="utf-8") as lines:
        return [line.split(" ")[0] for line in lines]


def read_lemmas(name: str) -> list[str]:
    with gzip.open(SHARED / f"omw/{name}.tab.gz", "rt", encoding="utf-8") as lines:
        fields = [line.rstrip("\n").split("\t") for line in lines if not line.startswith("#")]
    return [lemma for kind, lemma in (f[1:3] for f in fields if len(f) == 3) if kind.endswith("lemma") and lemma]


def synthesise(alphabet: str | map, joint: str) -> tuple[list[str], list[str]]:
    """Words of random letters, used by Zipf's law; entries are words and neighbours in the texts."""
    rng, letters = random.Random(0), list(alphabet)
    words = list(
        dict.fromkeys("".join(rng.choices(letters, k=rng.randint(1, 4 if joint == "" else 9))) for _ in range(300_000))
    )
    drawn = np.random.default_rng(0).zipf(1.2, 29_000 * 12) % len(words)
    rows = [[words[i] for i in drawn[k : k + 12]] for k in range(0, drawn.size, 12)]
    bigrams = (f"{a}{joint}{b}" for row in rows for a, b in itertools.pairwise(row))
    return list(dict.fromkeys([*words, *bigrams]))[:NUM_ENTRIES], [joint.join(row) for row in rows]


# --- peers, used as the reference uses its automaton ----------------------------------------------


def pad(entry: str) -> str:
    similar = load_table().classes[[ord(entry[0]), ord(entry[-1])]] & SIMILAR_TO_CJK
    return f"{'' if similar[0] else ' '}{entry}{'' if similar[1] else ' '}"


def space(text: str) -> str:
    """Spacing in the fastest plain Python we found."""
    text = f" {text.strip()} "
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")


def build_pyahocorasick(entries: list[str]) -> Match:
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for i, entry in enumerate(entries):
        automaton.add_word(pad(entry), i)
    automaton.make_automaton()
    return lambda texts: [{i for _, i in automaton.iter(space(text))} for text in texts]


def build_ahocorasick_rs(entries: list[str]) -> Match:
    import ahocorasick_rs as rs

    automaton = rs.AhoCorasick([pad(entry) for entry in entries], implementation=rs.Implementation.ContiguousNFA)
    find = automaton.find_matches_as_indexes
    return lambda texts: [{m[0] for m in find(space(text), overlapping=True)} for text in texts]


def build_daachorse(entries: list[str]) -> Match:
    import daachorse

    automaton = daachorse.CharwiseDoubleArrayAhoCorasick([pad(entry) for entry in entries])
    return lambda texts: [{m[2] for m in automaton.find_overlapping(space(text))} for text in texts]


PEERS = {"pyahocorasick": build_pyahocorasick, "ahocorasick-rs": build_ahocorasick_rs, "daachorse": build_daachorse}


# --- measuring ---------------------------------------------------------------------------------


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of this process: other work on the machine may slow it down, but is not counted in."""
    started_at = time.process_time()
    call()
    return time.process_time() - started_at


def open_matcher(entries: list[str], profile: str, folder: str) -> tuple[Matcher, float, float]:
    """A saved and mapped matcher, as the match stage uses it; CPU s to build it, and median ms to open it."""
    started_at = time.process_time()
    built = Matcher.build(entries, profile)
    build_s = time.process_time() - started_at
    built.save(f"{folder}/{profile}")
    open_ms = 1e3 * statistics.median(cpu_s(lambda: Matcher.load(f"{folder}/{profile}")) for _ in range(ROUNDS))
    return Matcher.load(f"{folder}/{profile}"), build_s, open_ms


def measure_language(entries: list[str], texts: list[str], folder: str) -> list[str]:
    """A Markdown table: every method on the same texts, in turns."""
    column = pa.array(texts, pa.large_string())
    times = max(1, 6_000 // len(texts))  # few texts are matched over and over, to take long enough
    tiled = pa.concat_arrays([column] * times)
    Matcher(["warm"]).match("up")
    calls: dict[str, Callable[[], object]] = {}
    lines: list[str] = []
    about: dict[str, str] = {}
    for profile in PROFILES:
        matcher, build_s, open_ms = open_matcher(entries, profile, folder)
        name = f"worldclip, {profile}"
        calls[name] = lambda matcher=matcher: matcher.match_batch(tiled)
        about[name] = f"{build_s:.2f} | {(Path(folder) / profile / TABLE).stat().st_size / 1e6:.1f} | {open_ms:.2f}"
        lines.append(describe_lines(matcher, column, profile))
        if profile == "reference":
            ids, offsets = matcher.match_batch(column)
            ours = [set(ids[a:b].tolist()) for a, b in itertools.pairwise(offsets)]
    for name, build in PEERS.items():
        started_at = time.process_time()
        match = build(entries)
        about[name] = f"{time.process_time() - started_at:.2f} | | "
        if match(texts) != ours:
            raise SystemExit(f"{name} and worldclip disagree")
        calls[name] = lambda match=match: [match(texts) for _ in range(times)]
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            rounds[name].append(cpu_s(call) / len(tiled) * 1e6)
    per_text_us = {name: statistics.median(values) for name, values in rounds.items()}
    return [
        "| method | us per text | pyahocorasick / it | build s | MB | open ms |",
        "|---|---|---|---|---|---|",
        *(
            f"| {n} | {us:.2f} | {per_text_us['pyahocorasick'] / us:.1f} | {about[n]} |"
            for n, us in per_text_us.items()
        ),
        "",
        *lines[:2],
    ]


# --- what bounds it -------------------------------------------------------------------------------


@njit
def count_lines(data, offsets, profile, unicode, table, is_touched):
    """(tokens, searches) of all texts.  A search reads a slot; its cache line is marked in is_touched (lines,)."""
    num_tokens, searches, num_levels = 0, 0, np.int64(table[0])
    tokens = np.empty(2 * tokenise.token_capacity(offsets), np.uint64)
    for i in range(offsets.size - 1):
        start, end = offsets[i], offsets[i + 1]
        count, is_doubtful = tokenise.put_tokens(
            data, start, end, True, profile, unicode.classes, np.uint64(0), tokens, 0
        )
        if is_doubtful:
            count = tokenise.put_normal_tokens(data, start, end, profile, unicode, np.uint64(0), tokens, 0)
        num_tokens += count
        for first in range(count):
            node, a, goes_on = trie.ROOT, first, tokens[2 * first + 1] & trie._MAY_BEGIN != 0
            while goes_on and a < min(count, first + num_levels):
                key = tokens[2 * a] & trie.AS_FIRST if a == first else tokens[2 * a]
                slot = trie.find_slot(table, key, node, *trie.read_level(table, np.int64(a - first)))
                is_touched[slot >> 2] = True
                searches += 1
                word = table[2 * slot + 1]
                is_there = table[2 * slot] == key and word >> trie.PARENT_SHIFT == node
                goes_on = is_there and word & trie.HAS_CHILD != 0
                node, a = np.uint64(slot), a + 1
    return num_tokens, searches


def describe_lines(matcher: Matcher, column: pa.Array, profile: str) -> str:
    """What a text asks of memory under `profile`."""
    data, offsets, *_ = _buffers(column.cast(pa.large_binary()))
    is_touched = np.zeros(matcher._table.size // 8 + 1, bool)
    arguments = data, offsets, PROFILES.index(profile), load_table(), matcher._table, is_touched
    tokens, searches = (count / len(column) for count in count_lines(*arguments))
    return (
        f"Under {profile} a text has {data.size / len(column):.0f} bytes and {tokens:.1f} tokens and reads "
        f"{searches:.1f} cache lines of slots ({64 * searches / 1000:.1f} kB); all texts together read "
        f"{64 * is_touched.sum() / 1e6:.1f} of its {matcher._table.nbytes / 1e6:.1f} MB."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write benchmarks/results/{RESULTS.name}")
    parser.add_argument("--langs", nargs="+", help="only these languages")
    arguments = parser.parse_args()
    lines = [
        "# Matching",
        "",
        make_head(("src/worldclip/match/matcher",), ("numba", "numpy", "pyarrow", *PEERS)),
        "",
        f"CPU time of one core, median of {ROUNDS} rounds in turns.",
        "The peers match as the reference does (spacing and the set of ids included); all gave the same ids.",
    ]
    print("\n".join(lines))
    for lang, (entries, texts) in read_pools().items():
        if arguments.langs and lang not in arguments.langs:
            continue
        characters = sum(map(len, texts)) / len(texts)
        title = f"## {lang}: {len(entries):,} entries, {len(texts):,} texts of {characters:.0f} characters"
        with tempfile.TemporaryDirectory() as folder:
            section = ["", title, "", *measure_language(entries, texts, folder)]
        print("\n".join(section), flush=True)
        lines += section
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
