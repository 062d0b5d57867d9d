"""Pools of any size: captions of 22 languages, recombined from the beginnings and ends of texts; each caption differs.

A caption is a beginning and an end.  Both are halves of real captions where the folder of real data has enough of them
(WORLDCLIP_SHARED, or `shared` beside the repository), else words drawn by their frequency (wordfreq).  The number of a
row decides its language, its halves and its key, so that shards are made in any order, by any number of processes.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.core.artifacts import write_text

SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[1].parent / "shared")) / "data"
# fmt: off
LANGS = (
    "en", "zh", "ru", "es", "de", "fr", "ja", "it", "pt", "nl", "pl", "cs", "ko", "tr", "ar", "vi", "id", "sv", "el",
    "he", "fa", "uk",
)
# fmt: on
WEIGHTS = 1 / np.arange(3, 3 + len(LANGS))  # share of a language, before they are scaled to 1: en 14%, uk 2%
UNSPACED = ("zh", "ja")
ROWS_PER_SHARD = 62_500
NUM_HALVES = 20_000  # beginnings, and ends, of a language: 400 million captions of each
MAX_ROWS = NUM_HALVES**2
STRIDE = 236_887_691  # a prime: rows n and n + 1 share neither beginning nor end
NUM_WORDS, NUM_BIGRAMS = 50_000, 50_000  # of an entry list
REPEATED = 100  # one row of so many repeats the key of an earlier row


def write_pool(
    folder: Path,
    num_rows: int,
    shards: Sequence[int] | None = None,
    first_row: int = 0,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> None:
    """Write Parquet shards of columns uid and text on all cores; shards: only these, with the rows from `first_row` on.

    Two calls with `first_row` 0 and `num_rows` write different captions under different keys.
    """
    assert first_row + num_rows <= MAX_ROWS
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(-(-num_rows // rows_per_shard)) if shards is None else shards
    firsts = [shard * rows_per_shard for shard in shards]
    parts = [
        (shard_path(folder, shard), first_row + first, min(rows_per_shard, num_rows - first))
        for shard, first in zip(shards, firsts, strict=True)
    ]
    with multiprocessing.get_context("spawn").Pool() as workers:
        for _ in workers.imap_unordered(write_shard, parts, chunksize=4):
            pass


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05}.parquet"


def write_shard(part: tuple[Path, int, int]) -> None:
    """Write a shard: (its path, its first row, the number of its rows)."""
    path, first_row, num_rows = part
    rows = np.arange(first_row, first_row + num_rows, dtype=np.uint64)
    columns = {"uid": hex_keys(key_numbers(rows)), "text": captions(rows)}
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False)


def write_lists(folder: Path) -> dict[str, str]:
    """Write an entry list per language: words, the same in title case, frequent bigrams; return the paths."""
    paths = {}
    for lang in LANGS:
        gap = "" if lang in UNSPACED else " "
        bigrams: Counter[str] = Counter()
        for text in itertools.chain.from_iterable(half_texts(lang)):
            words = text.split(" ")
            bigrams.update(gap.join(pair) for pair in itertools.pairwise(words))
        frequent = [bigram for bigram, _ in bigrams.most_common(NUM_BIGRAMS)]
        words = words_of(lang)[0]
        entries = dict.fromkeys([*words, *(word.title() for word in words), *frequent])
        path = folder / f"{lang}.txt"
        write_text(path, "".join(f"{entry}\n" for entry in entries))
        paths[lang] = str(path)
    return paths


# --- captions


def captions(rows: np.ndarray, num_new_words: int = 0) -> pa.LargeStringArray:
    """Return the caption of each row; rows: (n,) uint64 below MAX_ROWS.  num_new_words: put words into each that few
    others have, see `new_words`.
    """
    lang_of_row = np.searchsorted(np.cumsum(WEIGHTS) / WEIGHTS.sum(), mixed(rows, 1) / 2**64, side="right")
    pair = rows * np.uint64(STRIDE) % np.uint64(MAX_ROWS)
    order = np.argsort(lang_of_row, kind="stable")
    bounds = np.searchsorted(lang_of_row[order], np.arange(len(LANGS) + 1))
    parts = []
    for lang, start, stop in zip(LANGS, bounds[:-1], bounds[1:], strict=True):
        at = order[start:stop]
        halves = [pa.array(part, pa.large_string()) for part in halves_of(lang)]
        pieces = [halves[0].take(pa.array(pair[at] // np.uint64(NUM_HALVES)))]
        pieces += [new_words(lang, rows[at], turn) for turn in range(num_new_words)]
        pieces.append(halves[1].take(pa.array(pair[at] % np.uint64(NUM_HALVES))))
        gap = "" if lang in UNSPACED else " "
        parts.append(pc.binary_join_element_wise(*pieces, pa.scalar(gap, pa.large_string())))
    position = np.empty(len(rows), np.int64)
    position[order] = np.arange(len(rows))
    return pa.concat_arrays(parts).take(pa.array(position))


def new_words(lang: str, rows: np.ndarray, turn: int) -> pa.LargeStringArray:
    """Return a word per row, the front of one word and the back of another: 2,500 million of a language."""
    words = words_of(lang)[0]
    fronts = pa.array([word[: -(-len(word) // 2)] for word in words], pa.large_string())
    backs = pa.array([word[len(word) // 2 :] for word in words], pa.large_string())
    number = mixed(rows, 10 + turn)
    front = fronts.take(pa.array(number % np.uint64(len(words))))
    back = backs.take(pa.array((number >> np.uint64(32)) % np.uint64(len(words))))
    return pc.binary_join_element_wise(front, back, pa.scalar("", pa.large_string()))


@functools.cache
def halves_of(lang: str) -> tuple[list[str], list[str]]:
    """Return NUM_HALVES beginnings and as many ends of captions, as they are written."""
    if lang not in UNSPACED:
        return half_texts(lang)
    beginnings, ends = ([text.replace(" ", "") for text in side] for side in half_texts(lang))
    return beginnings, ends


@functools.cache
def half_texts(lang: str) -> tuple[list[str], list[str]]:
    """Return NUM_HALVES beginnings and as many ends of captions, with blanks between words."""
    real = [text.split() for text in real_captions(lang)][:NUM_HALVES]
    if len(real) == NUM_HALVES:
        return [" ".join(text[: len(text) // 2]) for text in real], [" ".join(text[len(text) // 2 :]) for text in real]
    random = np.random.default_rng(LANGS.index(lang))
    words, probs = words_of(lang)
    lengths = random.integers(2, 8, 2 * NUM_HALVES)
    drawn = np.array(words, object)[random.choice(len(words), lengths.sum(), p=probs)]
    texts = [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
    return texts[:NUM_HALVES], texts[NUM_HALVES:]


def real_captions(lang: str) -> list[str]:
    path = SHARED / "captions" / "multi30k_train.parquet"
    if not path.is_file():
        return []
    return pq.read_table(path, columns=["caption"], filters=[("lang", "==", lang)])["caption"].to_pylist()


@functools.cache
def words_of(lang: str) -> tuple[list[str], np.ndarray]:
    """Return (the most frequent words, the share of each)."""
    import wordfreq

    frequencies = dict(itertools.islice(wordfreq.get_frequency_dict(lang).items(), NUM_WORDS))
    shares = np.array(list(frequencies.values()))
    return list(frequencies), shares / shares.sum()


# --- keys


def key_numbers(rows: np.ndarray) -> np.ndarray:
    """Return the key of each row as two numbers: (n, 2) uint64; one of REPEATED rows has that of an earlier one."""
    is_repeated = rows % np.uint64(REPEATED) == np.uint64(REPEATED - 1)
    of_row = np.where(is_repeated, rows // np.uint64(2), rows)
    return np.stack([mixed(of_row, 2), mixed(of_row, 3)], axis=1)


def hex_keys(numbers: np.ndarray) -> pa.LargeStringArray:
    digits = numbers.astype(">u8").tobytes().hex().encode()
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * 32
    return pa.LargeStringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(digits))


def write_valid_keys(path: Path, num_rows: int, share: float) -> int:
    """Write the keys of a share of the rows as DataComp's keys.npy, sorted and unique; return how many."""
    rows = np.arange(num_rows, dtype=np.uint64)
    numbers = key_numbers(rows[mixed(rows, 4) < np.uint64(share * 2**64)])
    numbers = numbers[np.argsort(numbers[:, 0], kind="stable")]  # 64 bits differ where keys do, here
    numbers = numbers[np.append(True, numbers[1:, 0] != numbers[:-1, 0])]
    np.save(path, numbers.view("u8,u8").reshape(-1))
    return len(numbers)


def mixed(numbers: np.ndarray, turn: int) -> np.ndarray:
    """Return uint64 hashes of numbers (splitmix64); turn: which of many."""
    x = numbers + np.uint64((turn * 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
