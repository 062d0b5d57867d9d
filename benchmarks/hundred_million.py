"""A hundred million pairs on this machine: time, CPU, memory, disk and open files of the stages that curate.

    python benchmarks/hundred_million.py [--pairs N] [--only stages|limits|dedup|dropped|novelty] [--write]
        --write renews benchmarks/results/hundred_million.md; --pairs: 100,000,000 without it

Captions of 22 languages, all different (benchmarks/recombine.py), in Parquet shards of 62,500.  Each stage is a command
of worldclip with its own processes, one worker per core.  The folder for temporary files (TMPDIR) needs 400 bytes per
pair.

stages: a tenth of the pairs; all of them; again after one shard of a hundred was replaced; again from nothing, with
SIGKILL to all processes half-way through match and through curate.  The last two must leave the same bytes.
limits: `pool dedup`, then all stages with its list as pool.deny_keys, with nine tenths of the keys in pool.valid_keys,
and with curate.max_pairs for every language.
dedup: `pool dedup`, and nothing else.
dropped: curate with and without the list of why, in turns, at two tail fractions; a fifth of the pairs.
novelty: match on captions with words that no other caption has.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from head import make_head
from processes import Cost, run
from recombine import (
    LANGS,
    ROWS_PER_SHARD,
    WEIGHTS,
    captions,
    real_captions,
    shard_path,
    write_lists,
    write_pool,
    write_valid_keys,
)

from worldclip.config import load_recipe
from worldclip.core.artifacts import read_json, write_text
from worldclip.core.job import Run
from worldclip.core.settings import to_toml
from worldclip.match.stage import match_work
from worldclip.match.texts import match_texts
from worldclip.recipe import sections_of

RESULTS = Path(__file__).parent / "results" / "hundred_million.md"
NUM_PAIRS = 100_000_000
STAGES = ("pool", "match", "balance", "curate")
KILLED = {"match": "match/texts", "curate": "curate"}  # stage: folder of a file per shard
REPLACED = 100  # one shard of so many
VALID_SHARE = 0.9  # of the keys, in pool.valid_keys
CAP_SHARE = 0.1  # of a language's pairs, in curate.max_pairs
PARTS_OF_STAGES = {"pool": ("pairs", "images"), "match": ("texts", "dropped", "counts")}  # folders of a file per shard
CONTRACTS = ("pool/pairs", "match/texts", "match/counts", "curate, lists", "curate, keys")  # files that others read
NEW_WORDS = (0, 1, 2, 4)  # of a caption
NOVELTY_TEXTS, ROUNDS = 500_000, 3
DROPPED_TAILS = (0.06, 0.001)  # tail fractions


class World:
    """The folder of a benchmark: pool, entry lists, runs, and the log of all commands."""

    def __init__(self, folder: Path, num_pairs: int) -> None:
        self.folder, self.num_pairs = folder, num_pairs
        self.pool, self.log = folder / "pool", folder / "log.txt"
        self.num_shards = -(-num_pairs // ROWS_PER_SHARD)
        self.lists = write_lists(folder / "lists")

    def recipe(self, name: str, pool: Path, *, of_pool: Mapping | None = None, curate: Mapping | None = None) -> Path:
        """Write a recipe; return its path."""
        recipe = {
            "pool": {"path": str(pool), "key": "uid", "texts": ["text"], **(of_pool or {})},
            "languages": {"codes": list(LANGS)},
            "metadata": {"lists": self.lists},
            "balance": {"tail_fraction": 0.06},
            "curate": dict(curate or {}),
        }
        path = self.folder / f"{name}.toml"
        write_text(path, to_toml(sections_of(load_recipe(recipe))))
        return path

    def command(self, *words: str | Path, kill_when: Callable[[], bool] | None = None) -> Cost:
        """Run a command of worldclip; return its cost."""
        say(f"worldclip {' '.join(map(str, words))}" + (", killed half-way" if kill_when else ""))
        cost = run([sys.executable, "-m", "worldclip", *map(str, words)], self.log, kill_when)
        say(f"{cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s, MiB {cost.driver_bytes >> 20}, {cost.worker_bytes >> 20}")
        return cost

    def new_run(self, name: str) -> Path:
        """Return a new folder of a run with finished metadata, which are compiled once for all runs."""
        first, out = self.folder / "metadata_only", self.folder / name
        if not first.exists():
            self.command("metadata", self.recipe("metadata_only", self.folder), "--out", first)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(first / "metadata", out / "metadata")
        return out

    def run_stages(self, recipe: Path, out: Path, *flags: str) -> dict[str, Cost]:
        return {stage: self.command(stage, recipe, "--out", out, *flags) for stage in STAGES}

    def run_killed(self, recipe: Path, out: Path) -> dict[str, Cost]:
        """Run the stages; end those of KILLED when half of their files are there, and run them again."""
        costs = {}
        for stage in STAGES:
            words = (stage, recipe, "--out", out)
            folder = out / KILLED.get(stage, "")
            is_half = functools.partial(has_files, folder, self.num_shards // 2)
            killed = [self.command(*words, kill_when=is_half)] if stage in KILLED else []
            costs[stage] = sum(killed, self.command(*words))
        return costs


def has_files(folder: Path, number: int) -> bool:
    """Return whether a folder holds so many files and folders."""
    return folder.is_dir() and len(os.listdir(folder)) >= number


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


# --- stages


def measure_stages(world: World) -> str:
    write_pool(world.pool, world.num_pairs)
    small, num_small = world.folder / "small", -(-world.num_shards // 10)
    small.mkdir()
    for shard in range(num_small):
        os.link(shard_path(world.pool, shard), shard_path(small, shard))
    costs: dict[str, dict[str, Cost]] = {}
    for name, pool in (("a tenth", small), ("all", world.pool)):
        recipe, out = world.recipe(name.replace(" ", "_"), pool), world.new_run("run")
        costs[name] = world.run_stages(recipe, out)
    disk, kept, digest = bytes_on_disk(out), num_kept(out), digest_of(out)
    replaced = range(0, world.num_shards, REPLACED)
    write_pool(world.pool, world.num_pairs, replaced, first_row=world.num_pairs)
    costs["1% of the shards replaced"] = world.run_stages(recipe, out)
    changed = digest_of(out)
    costs["killed in match and curate"] = world.run_killed(recipe, world.new_run("run"))
    if digest_of(out) != changed:
        raise SystemExit("the killed run left other bytes than the one that was not killed")
    shutil.rmtree(out)
    num_rows = dict.fromkeys(costs, world.num_pairs) | {"a tenth": min(num_small * ROWS_PER_SHARD, world.num_pairs)}
    sizes = "\n".join(f"| {name} | {size / world.num_pairs:.1f} |" for name, size in disk.items())
    return f"""{about(world)}

{cost_table(costs, num_rows)}

Memory with all pairs, by that with a tenth of them: driver {growth(costs, "driver_bytes")}, largest worker \
{growth(costs, "worker_bytes")}. {kept:,} pairs are kept. The last two runs left the same bytes; SHA-256 of \
the pool's pairs, matched texts, counts, probabilities, kept pairs and keys of the second: `{digest}`.

| on disk | bytes per pair of the pool |
|---|---:|
{sizes}
| all | {sum(disk.values()) / world.num_pairs:.1f} |

`curate` takes {sum(size for name, size in disk.items() if name.startswith("curate")) / kept:.0f} bytes per kept pair.
"""


def growth(costs: Mapping[str, Mapping[str, Cost]], name: str) -> str:
    """Return the largest of a kind of memory with all pairs, divided by that with a tenth of them."""
    all_pairs, tenth = (max(getattr(cost, name) for cost in costs[run].values()) for run in ("all", "a tenth"))
    return f"{all_pairs / tenth:.2f}" if tenth else "unknown (one shard needs no worker)"


def num_kept(run_dir: Path) -> int:
    return int(read_json(run_dir / "curate" / "report.json")["total"]["pairs_out"])


def bytes_on_disk(run_dir: Path) -> dict[str, int]:
    """Return the bytes in files by part of the run."""
    sizes: Counter[str] = Counter()
    for stage in STAGES:
        for path in (run_dir / stage).rglob("*"):
            if path.is_file():
                sizes[part_of(path.relative_to(run_dir))] += path.stat().st_size
    return dict(sorted(sizes.items()))


def part_of(path: Path) -> str:
    """Return which part of a run a file belongs to; path: in the run."""
    stage, part, *_ = path.parts
    if stage == "curate":
        is_list = path.suffix == ".parquet" and not part.startswith(".")
        if part == "dropped":
            return "curate, dropped"
        return "curate, lists" if is_list else "curate, keys" if part.startswith("keys") else "curate, the rest"
    return f"{stage}/{part}" if part in PARTS_OF_STAGES.get(stage, ()) else f"{stage}, the rest"


def digest_of(run_dir: Path) -> str:
    """Return the SHA-256 of pairs, matched texts, counts, probabilities, kept pairs and kept keys, with their names."""
    total = hashlib.sha256()
    for path in sorted(path for stage in STAGES for path in (run_dir / stage).rglob("*")):
        name = path.relative_to(run_dir)
        is_array = name.parent.as_posix() in ("balance", "balance/counts") and path.suffix == ".npy"
        if path.is_file() and (is_array or part_of(name) in CONTRACTS):
            with open(path, "rb") as file:
                contents = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name} {contents}\n".encode())
    return total.hexdigest()


# --- limits


def measure_limits(world: World) -> str:
    if not world.pool.exists():
        write_pool(world.pool, world.num_pairs)
    valid, copies, out = world.folder / "keys.npy", world.folder / "dedup", world.new_run("limited")
    num_valid = write_valid_keys(valid, world.num_pairs, VALID_SHARE)
    caps = {
        lang: max(1, int(CAP_SHARE * world.num_pairs * share))
        for lang, share in zip(LANGS, WEIGHTS / WEIGHTS.sum(), strict=True)
    }
    plain = world.recipe("dedup", world.pool)
    costs = {"dedup": world.command("pool", "dedup", plain, "--out", copies)}
    lists = {"valid_keys": str(valid), "deny_keys": [str(copies / "duplicates.parquet")]}
    recipe = world.recipe("limited", world.pool, of_pool=lists, curate={"max_pairs": caps})
    costs |= world.run_stages(recipe, out)
    report = read_json(out / "curate" / "report.json")
    num_copies = read_json(copies / "report.json")["copies"]
    text = f"""## With lists of keys and caps

{about(world)} `pool.valid_keys` has {num_valid:,} keys; `pool dedup` lists {num_copies:,} copies, which are \
`pool.deny_keys`; {len(report["caps"])} of {len(LANGS)} languages are over their `curate.max_pairs`. \
{report["total"]["pairs_out"]:,} pairs are kept; SHA-256 of what the stages left, as above: `{digest_of(out)}`.

{cost_table({"with limits": costs}, {"with limits": world.num_pairs})}
"""
    shutil.rmtree(out)
    shutil.rmtree(copies)
    return text


# --- dedup


def measure_dedup(world: World) -> str:
    if not world.pool.exists():
        write_pool(world.pool, world.num_pairs)
    copies = world.folder / "dedup_only"
    cost = world.command("pool", "dedup", world.recipe("dedup", world.pool), "--out", copies)
    report = read_json(copies / "report.json")
    shutil.rmtree(copies)
    return f"""## Keys of several shards

{about(world)} {report["keys"]:,} keys, {report["copies"]:,} copies.

{cost_table({"pool dedup": {"dedup": cost}}, {"pool dedup": world.num_pairs})}
"""


# --- dropped


def measure_dropped(world: World) -> str:
    """Return what RUN/curate/dropped costs: curate with and without it, in turns, from nothing each time."""
    some = World(world.folder, world.num_pairs // 5)
    some.pool = world.folder / "some"
    write_pool(some.pool, some.num_pairs)
    recipe, out = some.recipe("dropped", some.pool), some.new_run("dropped")
    for stage in ("pool", "match"):
        some.command(stage, recipe, "--out", out)
    lines = []
    for tail in DROPPED_TAILS:
        some.command("balance", recipe, "--out", out, "--tail-fraction", str(tail))
        seconds: dict[str, list[float]] = {"true": [], "false": []}
        for _ in range(ROUNDS):
            for write in seconds:
                shutil.rmtree(out / "curate", ignore_errors=True)
                flags = ("--set", f"balance.tail_fraction={tail}", "--set", f"curate.write_dropped={write}")
                seconds[write].append(some.command("curate", recipe, "--out", out, *flags).wall_s)
                if write == "true":
                    size = bytes_on_disk(out)["curate, dropped"]
        num_dropped = some.num_pairs - num_kept(out)
        with_list, without = (statistics.median(seconds[write]) for write in ("true", "false"))
        lines.append(
            f"| {tail} | {num_dropped / some.num_pairs:.1%} | {without:.1f} | {with_list:.1f} | "
            f"{with_list / without:.2f} | {size / some.num_pairs:.1f} | {size / num_dropped:.1f} |"
        )
    shutil.rmtree(out)
    table = "\n".join(lines)
    return f"""## The list of why

{about(some)} The whole stage curate, median of {ROUNDS} rounds in turns; `curate.write_dropped` false and true.

| tail_fraction | dropped | without, s | with, s | ratio | bytes per pair | per dropped pair |
|---:|---:|---:|---:|---:|---:|---:|
{table}
"""


# --- novelty


def measure_novelty(world: World) -> str:
    """Return the CPU time of match's two kernels in this process."""
    out = world.new_run("novelty")
    world.recipe("novelty", world.folder).rename(out / "recipe.toml")
    work = match_work(Run.open(out))
    rows = np.arange(min(NOVELTY_TEXTS, world.num_pairs), dtype=np.uint64)
    lines = []
    for num_words in NEW_WORDS:
        parts = [captions(part, num_words) for part in np.array_split(rows, -(-len(rows) // ROWS_PER_SHARD))]
        language, entries, num_matches = np.inf, np.inf, 0
        for _ in range(ROUNDS):
            started_at = time.process_time()
            langs = [work.rules.find(part, None)[0] for part in parts]
            found_at = time.process_time()
            num_matches = sum(match_texts(part, lang, work)[0].size for part, lang in zip(parts, langs, strict=True))
            language = min(language, found_at - started_at)
            entries = min(entries, time.process_time() - found_at)
        size = sum(part.nbytes - 8 * len(part) for part in parts) / len(rows)
        cells = [f"{seconds / len(rows) * 1e6:.2f}" for seconds in (language, entries)]
        lines.append(f"| {num_words} | {size:.0f} | {num_matches / len(rows):.1f} | {' | '.join(cells)} |")
    shutil.rmtree(out)
    return (
        f"""## New words

{about(world, len(rows))} CPU time of the two kernels of match in one process, shards of {ROWS_PER_SHARD:,}; least of \
{ROUNDS} rounds. The language model keeps what it computed of a word, within a shard; a caption of \
words that others have costs it less. A new word is the front of one word and the back of another.

| new words per caption | bytes | matches | language, us per text | entries, us per text |
|---:|---:|---:|---:|---:|
"""
        + "\n".join(lines)
        + "\n"
    )


# --- the page


def about(world: World, num_texts: int | None = None) -> str:
    paths = [f"src/worldclip/{folder}" for folder in ("pool", "match", "balance", "curate", "core/execute")]
    real = [lang for lang in LANGS if real_captions(lang)]
    num_entries = sum(Path(path).read_bytes().count(b"\n") for path in world.lists.values())
    halves = f"halves of real captions in {', '.join(real)}, of drawn words in the others" if real else "drawn words"
    pool = ""
    if num_texts is None:
        size = sum(path.stat().st_size for path in world.pool.iterdir())
        pool = f" in {world.num_shards:,} Parquet shards, {size / 1e9:.2f} GB"
    return (
        f"{make_head(paths, ('numpy', 'numba', 'pyarrow'))}\n\n"
        f"{num_texts or world.num_pairs:,} captions of {len(LANGS)} languages{pool} "
        f"({halves}); {num_entries:,} entries."
    )


def cost_table(costs: Mapping[str, Mapping[str, Cost]], num_rows: Mapping[str, int]) -> str:
    """Return a row per run and stage, and one for all stages of a run."""
    lines = [
        "| run | stage | wall, s | CPU, us per pair | driver's CPU, s | driver, MiB | worker, MiB | open files |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, stages in costs.items():
        first, *others = stages.values()
        for stage, cost in {**stages, "**all**": sum(others, first)}.items():
            rate = "" if name.startswith("killed") else f"{cost.cpu_s / num_rows[name] * 1e6:.2f}"
            cells = [f"{cost.wall_s:,.1f}", rate, f"{cost.driver_cpu_s:.1f}"]
            cells += [
                memory(cost.driver_bytes, cost.driver_own_bytes),
                memory(cost.worker_bytes, cost.worker_own_bytes),
            ]
            lines.append(f"| {name} | {stage} | {' | '.join([*cells, str(cost.open_files)])} |")
    return "\n".join(lines)


def memory(resident: int, own: int) -> str:
    return f"{resident / 2**20:,.0f} ({own / 2**20:,.0f})" if resident else ""


INTRODUCTION = """# A hundred million pairs

Each stage is a command of worldclip with its own processes, one worker per core. The driver is the process that starts
the workers. Memory is the peak of the resident memory of one process; in brackets what of it is no mapped file. CPU
time is that of all processes; it lacks for runs that were killed.
"""
PARTS: dict[str, Callable[[World], str]] = {
    "stages": measure_stages,
    "limits": measure_limits,
    "dedup": measure_dedup,
    "dropped": measure_dropped,
    "novelty": measure_novelty,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS)
    parser.add_argument("--only", choices=list(PARTS), help="measure only this part, and keep the others of the page")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("reads /proc")
    parts = read_parts()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), arguments.pairs)
        for name, measure in PARTS.items():
            if arguments.only in (None, name):
                parts[name] = measure(world)
                print(parts[name], flush=True)
                if arguments.write:
                    write_page(parts)


def read_parts() -> dict[str, str]:
    """Return the parts of the page as it is."""
    if not RESULTS.is_file():
        return dict.fromkeys(PARTS, "")
    texts = RESULTS.read_text(encoding="utf-8").split("\n## ")
    stages = texts[0].removeprefix(INTRODUCTION)
    name_of = {"With": "limits", "Keys": "dedup", "The": "dropped", "New": "novelty"}  # by first word
    others = {name_of[text.split(maxsplit=1)[0]]: f"## {text}" for text in texts[1:]}
    return {**dict.fromkeys(PARTS, ""), "stages": stages, **others}


def write_page(parts: Mapping[str, str]) -> None:
    body = "\n\n".join(parts[name].strip() for name in PARTS if parts[name].strip())
    write_text(RESULTS, f"{INTRODUCTION}\n{body}\n")


if __name__ == "__main__":
    main()
