"""N-grams, segmentation and the wikitext stripper beside their peers: same text, one core, same run.

    python benchmarks/ngrams.py [--write] [--memory-mb 300] [--large-mb 1500 5000]

--write renews benchmarks/results/ngrams.md; --large-mb counts corpora of these sizes with the default limits alone.

Texts are the real pieces of Wikipedia and the Declaration of Human Rights in the folder of real data
(WORLDCLIP_SHARED, or `shared` beside the repository).  Memory is measured on a generated corpus of --memory-mb (300; a
whole Wikipedia is like 5000) with Zipf's frequencies over a vocabulary of millions, counted in a process of its own.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import html
import json
import os
import platform
import re
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from worldclip.metadata import ngrams, wikitext
from worldclip.metadata.tokens import SPACES, Scheme, scheme_of, segment
from worldclip.metadata.wikipedia import iter_articles, unwanted_prefixes
from worldclip.unicode_table import SIMILAR_TO_CJK_MARKS

ROUNDS = 5
RESULTS = Path(__file__).parent / "results" / "ngrams.md"
SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"
MARKS = ("{{", "}}", "[[", "]]", "<ref", "</", "'''", "&nbsp;", "{|", "|-", "thumb|", "http://", "&lt;")


# --- peers ------------------------------------------------------------------------------------------------------------


def plain_counts(texts: Iterable[str]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """The plain way: character by character, a blank on both sides of what stands alone, then split."""
    unigrams: Counter[str] = Counter()
    bigrams: Counter[tuple[str, str]] = Counter()
    for text in texts:
        spaced = []
        for x in text:
            if is_alone(x):
                spaced += [" ", x, " "]
            else:
                spaced.append(x)
        last = ""
        for token in "".join(spaced).split():
            if not any(map(str.isalnum, token)):
                last = ""
                continue
            unigrams[token] += 1
            if last:
                bigrams[last, token] += 1
            last = token
    return unigrams, bigrams


def is_alone(x: str) -> bool:
    """CJK or similar, or a mark: the ranges of the rule one after the other."""
    c = ord(x)
    return (
        0x4E00 <= c <= 0x9FFF
        or 0x3400 <= c <= 0x4DBF
        or 0x20000 <= c <= 0x2A6DF
        or 0x2A700 <= c <= 0x2B73F
        or 0x2B740 <= c <= 0x2B81F
        or 0x2B820 <= c <= 0x2CEAF
        or 0x2CEB0 <= c <= 0x2EBEF
        or 0xF900 <= c <= 0xFAFF
        or 0x2E80 <= c <= 0x2FDF
        or 0x2FF0 <= c <= 0x2FFF
        or 0x0E00 <= c <= 0x0E7F
        or 0x0E80 <= c <= 0x0EFF
        or 0x1000 <= c <= 0x109F
        or 0x1780 <= c <= 0x17FF
        or 0x0F00 <= c <= 0x0FFF
        or x in string.punctuation
        or x in SIMILAR_TO_CJK_MARKS
    )


def count_words(sentences: Iterable[list[str]]) -> int:
    """Unigrams and bigrams of segmented sentences, as a script around a segmenter does it."""
    unigrams: Counter[str] = Counter()
    bigrams: Counter[tuple[str, str]] = Counter()
    for words in sentences:
        unigrams.update(words)
        bigrams.update(pairwise(words))
    return len(unigrams) + len(bigrams)


def our_counts(texts: pa.Array, scheme: Scheme) -> ngrams.Counts:
    with tempfile.TemporaryDirectory() as folder:
        counter = ngrams.Counter(Path(folder) / "runs", scheme)
        counter.add(segment(texts, scheme))
        return ngrams.merge(counter.finish(), Path(folder))


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median CPU time; the first call, which compiles or loads, does not count where there are several."""
    if rounds > 1:
        work()
    spans = []
    for _ in range(rounds):
        started_at = time.process_time()
        work()
        spans.append(time.process_time() - started_at)
    return statistics.median(spans)


# --- what is measured -------------------------------------------------------------------------------------------------


def measure_english() -> list[str]:
    (piece,) = (SHARED / "wiki").glob("enwiki*")
    return [
        *compare_counting("the real piece's prose", [text for _, text in iter_articles(piece)]),
        *compare_counting("words drawn by the frequencies of subtitles", draw_words(4_000_000)),
    ]


def draw_words(num_words: int) -> list[str]:
    """English-like texts of 200 lines of 12 words."""
    lines = gzip.decompress((SHARED / "freq" / "en_50k.txt.gz").read_bytes()).decode().splitlines()
    words, counts = zip(*(line.split(" ") for line in lines), strict=True)
    weights = np.array(counts, np.float64)
    drawn = [words[k] for k in np.random.default_rng(0).choice(len(words), num_words, p=weights / weights.sum())]
    sentences = [" ".join(drawn[k : k + 12]) + "." for k in range(0, len(drawn), 12)]
    return ["\n".join(sentences[k : k + 200]) for k in range(0, len(sentences), 200)]


def compare_counting(what: str, texts: list[str]) -> list[str]:
    array = pa.array(texts, pa.large_string())
    num_mb = sum(len(text.encode()) for text in texts) / 1e6
    counts = our_counts(array, SPACES)
    unigrams, bigrams = plain_counts(texts)
    rounds = ROUNDS if num_mb < 10 else 1
    both = (lambda: plain_counts(texts), lambda: our_counts(array, SPACES))
    spans = [[seconds(work, 1) for work in both] for _ in range(rounds)]
    plain, ours = (statistics.median(column) for column in zip(*spans, strict=True))
    found = {counts.words.word(rank): int(n) for rank, n in enumerate(counts.words.counts)}
    same = sum(found.get(word) == n for word, n in unigrams.items()) / len(unigrams)
    assert same > 0.99, same
    return [
        f"English, {num_mb:.1f} MB of {what}: {len(unigrams):,} words, {len(bigrams):,} bigrams;"
        f" {same:.2%} of words have the same count both ways.",
        "",
        *table("unigrams and bigrams counted", {"plain Python": num_mb / plain, "worldclip": num_mb / ours}, "MB/s"),
    ]


def measure_segmented() -> list[str]:
    import jieba
    from pythainlp.tokenize import word_tokenize

    jieba.initialize()
    rows = pq.read_table(SHARED / "udhr" / "udhr.parquet", columns=["code", "text"]).to_pylist()
    lines = []
    peers: dict[str, tuple[str, str, Callable[[str], list[str]]]] = {
        "zh": ("cmn_hans", "jieba", jieba.lcut),
        "th": ("tha", "pythainlp newmm", lambda text: word_tokenize(text, engine="newmm")),
    }
    for wiki, (code, name, cut) in peers.items():
        texts = [row["text"] for row in rows if row["code"] == code] * 40
        num_mb = sum(len(text.encode()) for text in texts) / 1e6
        articles = pa.array(["\n".join(texts[k : k + 90]) for k in range(0, len(texts), 90)], pa.large_string())
        ours = seconds(lambda articles=articles, wiki=wiki: our_counts(articles, scheme_of(wiki)))
        peer = seconds(lambda texts=texts, cut=cut: count_words(cut(text) for text in texts), rounds=1)
        lines += table(
            f"{wiki}: segmented and counted", {name: num_mb / peer, "worldclip (ICU)": num_mb / ours}, "MB/s"
        )
    return lines


def measure_stripper() -> list[str]:
    import mwparserfromhell
    from wikiextractor.extract import Extractor

    (piece,) = (SHARED / "wiki").glob("enwiki*")
    xml = bz2.decompress(piece.read_bytes()).decode()
    sources = [html.unescape(text) for text in re.findall(r"<ns>0</ns>.*?<text[^>]*>(.*?)</text>", xml, re.DOTALL)]
    sources = [source for source in sources if not source.startswith("#")]
    array, unwanted = pa.array(sources, pa.large_string()), wikitext.prefix_hashes(unwanted_prefixes({}))
    num_mb = sum(len(source.encode()) for source in sources) / 1e6

    def extract(source: str) -> str:
        extractor = Extractor("1", "1", "", "Title", source)
        return "\n".join(extractor.clean_text(source, expand_templates=False, html_safe=False))

    few = sources[:12]
    few_mb = sum(len(source.encode()) for source in few) / 1e6
    theirs = [extract(source) for source in sources]
    ours = wikitext.strip(array, unwanted).to_pylist()
    parsed = [mwparserfromhell.parse(source, skip_style_tags=True).strip_code() for source in few]
    speeds = {
        "mwparserfromhell strip_code": few_mb
        / seconds(lambda: [mwparserfromhell.parse(s, skip_style_tags=True).strip_code() for s in few], rounds=1),
        "wikiextractor": num_mb / seconds(lambda: [extract(source) for source in sources], rounds=1),
        "worldclip": num_mb / seconds(lambda: wikitext.strip(array, unwanted)),
    }
    lines = table(f"wikitext to prose, {num_mb:.1f} MB, {len(sources)} articles", speeds, "MB/s")
    lines += [
        "",
        "Marks left in the prose, a million characters:",
        "",
        "| | " + " | ".join(f"`{m}`" for m in MARKS) + " |",
    ]
    lines = [
        line.replace("`|-`", "`\\|-`").replace("`{|`", "`{\\|`").replace("`thumb|`", "`thumb\\|`") for line in lines
    ]
    lines.append("|---" * (len(MARKS) + 1) + "|")
    for name, texts in (("mwparserfromhell, 12 articles", parsed), ("wikiextractor", theirs), ("worldclip", ours)):
        whole = "\n".join(texts)
        lines.append(f"| {name} | " + " | ".join(f"{whole.count(m) / len(whole) * 1e6:.1f}" for m in MARKS) + " |")
    return lines


def table(what: str, speeds: dict[str, float], unit: str) -> list[str]:
    *_, ours = speeds.values()
    lines = [f"| {what} | {unit} | worldclip is faster |", "|---|---|---|"]
    return [*lines, *(f"| {name} | {speed:.2f} | {ours / speed:.1f} x |" for name, speed in speeds.items()), ""]


# --- memory -----------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _spell(ids, out):
    """Words of ids, in letters, a blank behind each and a line end behind every 20th; returns the bytes used."""
    n = 0
    for k in range(ids.size):
        c = ids[k]
        while True:
            out[n] = 97 + c % 26
            n += 1
            c //= 26
            if c == 0:
                break
        out[n] = 10 if k % 20 == 19 else 32
        n += 1
    return n


def write_corpus(path: Path, num_mb: int) -> None:
    """Parquet of generated articles of 20 kB."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("text", pa.large_string())])
    with pq.ParquetWriter(path, schema) as writer:
        size = 0
        while size < num_mb * 1e6:
            ids = rng.zipf(1.15, 1_000_000) % 5_000_000
            out = np.empty(8 * ids.size, np.uint8)
            text = out[: _spell(ids.astype(np.int64), out)].tobytes().decode()
            size += len(text)
            articles = [text[k : k + 20_000] for k in range(0, len(text), 20_000)]
            writer.write_table(pa.table({"text": pa.array(articles, pa.large_string())}, schema=schema))


def count_corpus(path: Path, max_slots: int) -> dict[str, Any]:
    """Count, merge and choose, as the stage does, in this process; its peak memory."""
    from worldclip.metadata.wikipedia import read_articles

    started_at = time.process_time()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        counter = ngrams.Counter(Path(folder) / "runs", SPACES, max_bigram_slots=max_slots)
        for batch in read_articles(path):
            counter.add(batch.column("text"))
        runs = counter.finish()
        counted_s = time.process_time() - started_at
        counts = ngrams.merge(runs, Path(folder) / "merged")
        num_bigrams = sum(len(keys) for keys, _ in counts.iter_bigrams())
        best = ngrams.best_bigrams(counts, " ", limit=200_000, min_count=5)
        return {
            "runs": len(runs),
            "tokens": counts.num_tokens,
            "words": len(counts.words),
            "bigrams": num_bigrams,
            "best": [best[0], best[-1]],
            "counted_s": round(counted_s, 1),
            "total_s": round(time.process_time() - started_at, 1),
            "disk_mb": sum(file.stat().st_size for run in runs for file in run.iterdir()) // 10**6,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


def measure_memory(num_mb: int, large_mb: Sequence[int]) -> list[str]:
    lines = [
        "Generated corpora, Zipf's frequencies; count, merge, choose in one process:", "",
        "| MB | slots of the table | runs | words | bigrams | counted, CPU s | all, CPU s | disk, MB | peak RSS, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    found = count_apart(num_mb, (2**20, ngrams.MAX_BIGRAM_SLOTS))
    for size in large_mb:
        found += count_apart(size, (ngrams.MAX_BIGRAM_SLOTS,))
    for answer in found:
        keys = ("mb", "slots", "runs", "words", "bigrams", "counted_s", "total_s", "disk_mb", "peak_mib")
        lines.append("| " + " | ".join(f"{answer[key]:,}" for key in keys) + " |")
    same = [[answer[key] for key in ("tokens", "words", "bigrams", "best")] for answer in found[:2]]
    assert same[0] == same[1], "counts hang on the limit"
    return [*lines, "", f"Tokens, words, bigrams and the chosen bigrams of {num_mb} MB are the same with both limits."]


def count_apart(num_mb: int, limits: Sequence[int]) -> list[dict[str, Any]]:
    """A corpus counted with each limit, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.parquet"
        write_corpus(path, num_mb)
        answers = []
        for max_slots in limits:
            command = [sys.executable, __file__, "--count", str(path), "--slots", str(max_slots)]
            answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            answers.append({"mb": num_mb, "slots": max_slots, **answer})
    return answers


def processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--memory-mb", type=int, default=300)
    parser.add_argument("--large-mb", type=int, nargs="*", default=[])
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slots", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        print(json.dumps(count_corpus(arguments.count, arguments.slots)))
        return
    packages = ("numba", "pyarrow", "icu4py", "jieba", "pythainlp", "mwparserfromhell", "wikiextractor")
    lines = [
        "# N-grams and wikitext, speed and memory",
        "",
        f"`python benchmarks/ngrams.py --write`, {date.today()}, {processor()}, {os.cpu_count()} cores shared"
        f" with other work, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + ".  CPU seconds of one core (the median of 5; the slow peers once), peers in the same run.",
        "",
    ]
    for measure in (measure_english, measure_segmented, measure_stripper):
        lines += [*measure(), ""]
    lines += measure_memory(arguments.memory_mb, arguments.large_mb)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
