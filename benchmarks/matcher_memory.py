"""Memory of match workers with the lists of all languages: 27 million synthetic entries in 330 lists.

    python benchmarks/matcher_memory.py [--workers 2] [--write]     --write renews benchmarks/results/matcher_memory.md

Each worker opens every list's matcher as the stage does (memory-mapped) and matches texts of every list, made of its
entries, until nearly every page of the maps was touched.  What /proc says then: pages of files are shared by all
workers, anonymous ones are the worker's own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from balance import list_sizes

from worldclip import match
from worldclip.config import load_recipe
from worldclip.core.artifacts import versions
from worldclip.language.assign import LanguageRules
from worldclip.match.matcher.matcher import Matcher
from worldclip.match.texts import MatchWork, match_texts

RESULTS = Path(__file__).parent / "results" / "matcher_memory.md"
PROFILE = "unicode"
TEXTS_A_LIST, ENTRIES_A_TEXT = 250, 6
ALPHABETS = {  # of the lists in turn: seven in ten Latin, two Cyrillic, one Han
    "Latn": "abcdefghijklmnopqrstuvwxyz",
    "Cyrl": "абвгдежзийклмнопрстуфхцчшщ",
    "Hans": "".join(chr(0x4E00 + 37 * i) for i in range(400)),
}
SCRIPTS = ("Latn", "Latn", "Cyrl", "Latn", "Latn", "Hans", "Latn", "Cyrl", "Latn", "Latn")
MIB = 2**20


def make_words(codes: np.ndarray, lengths: np.ndarray, alphabet: str) -> pa.Array:
    """Strings of the letters alphabet[codes], word after word."""
    letters = np.array([list(letter.encode()) for letter in alphabet], np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths * letters.shape[1])]).astype(np.int64)
    return pa.LargeStringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(letters[codes].tobytes()))


def make_entries(size: int, script: str, rng: np.random.Generator) -> pa.Array:
    """`size` different entries: a random word and one that counts, every other time with a blank between them."""
    alphabet = ALPHABETS[script]
    short = script == "Hans"
    lengths = rng.integers(1, 3, size) if short else rng.integers(2, 9, size)
    first = make_words(rng.integers(0, len(alphabet), lengths.sum()), lengths, alphabet)
    width = 3 if short else 5
    numbers = np.arange(size)[:, None] // len(alphabet) ** np.arange(width) % len(alphabet)
    second = make_words(numbers.ravel(), np.full(size, width), alphabet)
    joints = pa.array(np.where(np.arange(size) % 2 == 0, "", "" if short else " "), pa.large_string())
    return pc.binary_join_element_wise(first, second, joints)


@dataclass(frozen=True)
class World:
    """Compiled lists in a folder, and texts of each."""

    run: Path
    digests: tuple[tuple[str, str], ...]
    texts: pa.Array
    lang: np.ndarray
    map_bytes: int
    num_entries: int


def build_world(run: Path) -> World:
    rng = np.random.default_rng(0)
    digests, texts, map_bytes, num_entries = [], [], 0, 0
    for number, (name, size) in enumerate(list_sizes().items()):
        entries = make_entries(size, SCRIPTS[number % len(SCRIPTS)], rng)
        matcher = Matcher.build(entries, PROFILE)
        matcher.save(run / "metadata" / f"{name}.matcher" / PROFILE)
        chosen = entries.take(pa.array(rng.integers(0, size, TEXTS_A_LIST * ENTRIES_A_TEXT)))
        columns = [chosen.slice(i * TEXTS_A_LIST, TEXTS_A_LIST) for i in range(ENTRIES_A_TEXT)]
        texts.append(pc.binary_join_element_wise(*columns, pa.scalar(" ", pa.large_string())))
        digests.append((name, matcher.digest))
        map_bytes += sum(path.stat().st_size for path in (run / "metadata" / f"{name}.matcher" / PROFILE).iterdir())
        num_entries += size
    lang = np.repeat(np.arange(len(digests), dtype=np.int32), TEXTS_A_LIST)
    return World(run, tuple(digests), pa.concat_arrays(texts), lang, map_bytes, num_entries)


def memory() -> dict[str, float]:
    """MiB of this process: anonymous and file pages now, the most it ever had, and its share of all pages (Pss)."""
    status = Path("/proc/self/status").read_text() + Path("/proc/self/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    wanted = {"anonymous": "RssAnon", "files": "RssFile", "peak": "VmHWM", "share": "Pss"}
    return {name: int(fields[field].split()[0]) / 1024 for name, field in wanted.items()}


def work(world: World, barrier: Barrier, found: multiprocessing.Queue) -> None:
    names = tuple(name for name, _ in world.digests)
    recipe = load_recipe({"pool": {"path": "."}, "balance": {"tail_fraction": 0.06}, "match": {"profile": PROFILE}})
    stage = MatchWork(
        run_dir=world.run,
        pool=recipe.pool,
        match=recipe.match,
        rules=LanguageRules(
            languages=names, lid_model="lid176", lid_digest="", merge_labels=(), min_prob=0.0, is_restricted=False
        ),
        list_digests=world.digests,
    )
    match.identify(world.texts.slice(0, 1000))  # the language model is part of a worker
    warm = Matcher(["a b", "c"], PROFILE)
    warm.match_batch(world.texts.slice(0, 10))
    before = memory()
    started_at = time.perf_counter()
    for name, digest in world.digests:
        Matcher.load(world.run / "metadata" / f"{name}.matcher" / PROFILE, digest)
    open_s, opened = time.perf_counter() - started_at, memory()
    ids, _ = match_texts(world.texts, world.lang, stage)
    barrier.wait()  # all workers hold all maps
    after = memory()
    told = {
        "before": before,
        "opened": opened,
        "after": after,
        "open_s": open_s,
        "matches": len(ids) / len(world.texts),
    }
    found.put(told)
    barrier.wait()


def measure(folder: Path, num_workers: int) -> str:
    started_at = time.process_time()
    world = build_world(folder)
    build_s = time.process_time() - started_at
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(num_workers), context.Queue()
    workers = [context.Process(target=work, args=(world, barrier, found)) for _ in range(num_workers)]
    for worker in workers:
        worker.start()
    rows = [found.get() for _ in workers]
    for worker in workers:
        worker.join()
    lines = "\n".join(
        f"| {i} | {row['before']['anonymous']:.0f} | {row['open_s']:.2f} | "
        f"{row['opened']['anonymous'] - row['before']['anonymous']:.1f} | {row['after']['files']:.0f} | "
        f"{row['after']['anonymous']:.0f} | {row['after']['peak'] - row['after']['files']:.0f} | "
        f"{row['after']['share']:.0f} |"
        for i, row in enumerate(rows, 1)
    )
    found_versions = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "worldclip")
    return f"""# Memory of match workers with all languages

{date.today()}, {platform.machine()}, 2 cores shared with other work; {found_versions}. {world.num_entries:,} \
synthetic entries in {len(world.digests)} lists, compiled for profile {PROFILE} in {build_s:.0f} s of CPU time: \
{world.map_bytes / MIB:,.0f} MiB of maps. {num_workers} workers at a time, {len(world.texts):,} texts over all lists, \
{rows[0]["matches"]:.1f} matches a text. Written by `benchmarks/matcher_memory.py`.

MiB. Anonymous pages are the worker's own; file pages are the maps (and libraries), one copy for all workers; the \
share (Pss) divides each shared page by its users.

| worker | anonymous before | opening all, s | anonymous added by opening | file pages after matching | \
anonymous after matching | peak beyond the file pages | share |
|---|---|---|---|---|---|---|---|
{lines}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    flags = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("reads /proc")
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder), flags.workers)
    print(text)
    if flags.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
