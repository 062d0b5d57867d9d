"""Damage inputs of every reader for some minutes each, under a limit of memory: how many, how fast, what was found.

    python benchmarks/fuzz.py [--only NAME,...] [--seconds 240] [--first-seed 0] [--write]

The inputs and what must hold are those of the tests: each input is read right, or refused in words.  A reader runs in
a process of its own until its CPU time is spent; an error there ends the benchmark with the seeds that it was at.
--write renews the rows of these readers in benchmarks/results/fuzz.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

from match import describe_processor

from worldclip.core.artifacts import versions

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "fuzz.md"
MEMORY_BYTES = 8 << 30  # of address space, of which libraries take half
Fuzz = Callable[[Path, range], None]
WHAT_HOLDS = {
    "tar": "damaged headers of ustar, GNU and pax tars, read as a pool",
    "tar_headers": "made-up tars; equal to Python's tarfile, or refused",
    "jsonl": "lines; equal to json, line by line",
    "json": "records of tars; equal to json",
    "tsv": "rows; equal to a plain split",
    "csv": "files of three rows",
    "parquet": "files, packed and not",
    "wat": "pages; each link is counted once",
    "wat_file": "WARC files, packed and not",
    "fasttext": "models of every kind, in use",
    "recipe": "TOML",
    "weights": "safetensors",
    "pickle": "PyTorch files, of which nothing is unpickled but tensors",
    "index": "index of split safetensors",
    "onnx": "models, by onnxruntime",
    "images": "every suffix that pools may have; pixels or a reason",
    "wikitext": "pages in 13 scripts; UTF-8, and equal alone and in a batch",
}


def fuzz_of(name: str) -> tuple[Fuzz, int]:
    """Return the function that reads the inputs of some seeds, and the number of seeds of one call."""
    for folder in ("", "helpers", "pool", "kernels", "language", "model", "metadata"):
        sys.path.insert(0, str(ROOT / "tests" / folder))
    if name == "tar_headers":
        from test_kernels import check, make_tar

        return lambda _, seeds: [check(make_tar(random.Random(seed))) for seed in seeds], 1000
    if name == "fasttext":
        import test_identify

        return lambda _, seeds: test_identify.use_damaged_models(len(seeds), seeds.start), 20_000
    if name == "images":
        return _fuzz_images, 200
    if name == "wikitext":
        import test_wikipedia

        return lambda _, seeds: test_wikipedia.strip_random_pages(len(seeds), seeds.start), 13_000
    if name in ("recipe", "weights", "pickle", "index", "onnx"):
        return _fuzz_files(name), 1000
    import test_fuzz

    return lambda folder, seeds: test_fuzz.READERS[name][0](folder, list(seeds)), 1000


def _fuzz_images(folder: Path, seeds: range) -> None:
    import test_decode

    for seed in seeds:
        draw = random.Random(seed)
        test_decode.check_damaged(test_decode.damage(draw.choice(list(test_decode.PICTURES.values())), draw))


def _fuzz_files(name: str) -> Fuzz:
    import test_fuzz_readers

    if name == "onnx":
        return test_fuzz_readers.run_onnx
    file, make, read = test_fuzz_readers.READERS[name]
    wholes: list[bytes] = []

    def fuzz(folder: Path, seeds: range) -> None:
        if not wholes:
            wholes.append(make(folder))
        test_fuzz_readers.read_many(folder, file, wholes[0], read, seeds)

    return fuzz


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_reader(name: str, seconds: float, first_seed: int) -> None:
    """Run a reader in this process; print its number of inputs, CPU seconds and peak of resident memory in MiB."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    fuzz, step = fuzz_of(name)
    seed, start = first_seed, cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        while cpu_seconds() - start < seconds:
            seeds = range(seed, seed + step)
            print(f"{name}: {seeds}", file=sys.stderr)
            fuzz(Path(folder), seeds)
            seed += step
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps([seed - first_seed, cpu_seconds() - start, peak / 1024]))


def measure(name: str, seconds: float, first_seed: int) -> str:
    """Return a reader's row of the table.  Raises SystemExit with the last output of a reader that failed."""
    command = [sys.executable, "-X", "faulthandler", __file__, "--reader", name]
    command += ["--seconds", str(seconds), "--first-seed", str(first_seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    number, cpu_s, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {number:,} inputs in {cpu_s:.0f} s of CPU time, {peak:.0f} MiB")
    return f"| {name} | {WHAT_HOLDS[name]} | {number:,} | {cpu_s:.0f} | {peak:,.0f} |"


def write_page(rows: list[str]) -> None:
    """Write rows in the order of WHAT_HOLDS, beside those of other readers that the page has."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    row_of = {line.split(" | ")[0].removeprefix("| "): line for line in (*lines, *rows) if line.startswith("| ")}
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = f"{date.today()}, {describe_processor()}, {platform.machine()}, one core shared with other work"
    body = "\n".join(row_of[name] for name in WHAT_HOLDS if name in row_of)
    text = f"""# Damaged inputs

{machine}; {known}. Each reader in a
process of {MEMORY_BYTES >> 30} GiB of address space. No reader crashed, hung, raised an error of another kind, or gave
a pair that its plain counterpart does not. Written by `benchmarks/fuzz.py`.

| reader | inputs | number | CPU s | MiB |
|---|---|---|---|---|
{body}
"""
    RESULTS.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(WHAT_HOLDS), help="readers, separated by commas")
    parser.add_argument("--seconds", type=float, default=240.0, help="CPU time of each reader")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        run_reader(arguments.reader, arguments.seconds, arguments.first_seed)
        return
    for name in arguments.only.split(","):
        row = measure(name, arguments.seconds, arguments.first_seed)
        if arguments.write:
            write_page([row])


if __name__ == "__main__":
    main()
