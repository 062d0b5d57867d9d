"""N-grams, segmentation and the wikitext stripper beside their peers: same text, one core, same run.

    python benchmarks/ngrams.py [--write]        --write renews benchmarks/results/ngrams.md

Texts are the real pieces of Wikipedia and the Declaration of Human Rights in the folder of real data
(WORLDCLIP_SHARED, or `shared` beside the repository).  Memory: benchmarks/ngrams_memory.py.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import html
import os
import platform
import re
import statistics
import string
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.language.segment import SPACES, Scheme, scheme_of, segment
from worldclip.metadata import ngrams
from worldclip.metadata.sources import wikitext
from worldclip.metadata.sources.dumps import iter_articles, unwanted_prefixes

ROUNDS = 5
RESULTS = Path(__file__).parent / "results" / "ngrams.md"
SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"
MARKS = ("{{", "}}", "[[", "]]", "<ref", "</", "'''", "&nbsp;", "{|", "|-", "thumb|", "http://", "&lt;")
MARKS_AMONG_CJK = "，。、；：？！“”‘’（）【】《》〈〉「」『』～—"  # which stand alone, as ideographs do


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
        or x in MARKS_AMONG_CJK
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
        runs = ngrams.count_to_file(Path(folder) / "runs", [segment(texts, scheme)], scheme)
        return ngrams.merge(runs, Path(folder))


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
        cut(texts[0])  # loads its dictionary
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


def processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    packages = ("numba", "pyarrow", "icu4py", "jieba", "pythainlp", "mwparserfromhell", "wikiextractor")
    lines = [
        "# N-grams and wikitext, speed",
        "",
        f"`python benchmarks/ngrams.py --write`, {date.today()}, {processor()}, {os.cpu_count()} cores"
        f" ({os.getloadavg()[0]:.1f} processes running), Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + ".  CPU seconds of one core (the median of 5; the slow peers once), peers in the same run.",
        "",
    ]
    for measure in (measure_english, measure_segmented, measure_stripper):
        lines += [*measure(), ""]
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if arguments.write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
