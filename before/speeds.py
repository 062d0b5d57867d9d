"""Run benchmarks of two checkouts in turns, A B A B, and print medians and the ratio B / A: above 1, B is slower.

    python before/speeds.py --a CHECKOUT_A --b CHECKOUT_B [--only NAME ...] [--rounds 3] [--records FILE.jsonl]
    python before/speeds.py --rounds 0 --records FILE.jsonl            # print what was measured so far

Each checkout runs its own benchmarks/ with its own src/, under the Python that runs this file.  Real data: the folder
at WORLDCLIP_SHARED, or `shared` beside a checkout.  --small tries everything in minutes; its numbers say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Measures = dict[str, float]  # what was measured -> time or CPU time, in any unit


def rows(output: str) -> Iterator[list[str]]:
    """Yield the cells of each row of Markdown tables, and of rows without outer bars."""
    for line in output.splitlines():
        if "|" in line:
            yield [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def to_number(cell: str) -> float:
    """Return the first number of a cell.  Raises ValueError if there is none."""
    found = re.match(r"[\d,]+(\.\d+)?", cell)
    if found is None:
        raise ValueError(cell)
    return float(found[0].replace(",", ""))


def read_match(output: str) -> Measures:
    """Microseconds per text and seconds to build, by language and profile."""
    found, lang = {}, ""
    for line in output.splitlines():
        lang = line[3:].partition(":")[0] if line.startswith("## ") else lang
        for name, *cells in rows(line):
            if name.startswith("worldclip, ") and len(cells) == 5:
                profile = name.removeprefix("worldclip, ")
                found |= {f"{lang}, {profile}": to_number(cells[0]), f"{lang}, {profile}, build": to_number(cells[2])}
    return found


def read_lid(output: str) -> Measures:
    """Microseconds per text, by set of texts; the benchmark prints each row twice."""
    return {cells[0]: to_number(cells[4]) for cells in rows(output) if len(cells) == 8 and cells[7][:1].isdigit()}


def read_curation(output: str) -> Measures:
    """Microseconds per text: all, and by part."""
    found = {}
    for cells in rows(output):
        if len(cells) == 3 and cells[0].startswith("worldclip"):
            found["all"] = to_number(cells[1])
        elif len(cells) == 3 and cells[2].endswith("%"):
            found[cells[0]] = to_number(cells[1])
    return found


def read_loader(output: str) -> Measures:
    """Milliseconds of CPU time per image."""
    return {cells[0]: 1e3 / to_number(cells[1]) for cells in rows(output) if cells[0].startswith("ours")}


def read_train_step(output: str) -> Measures:
    """Milliseconds of CPU time per pair."""
    return {f"{cells[1]} rows": 1e3 / to_number(cells[5]) for cells in rows(output) if cells[0] == "ours"}


def read_inference(output: str) -> Measures:
    """Milliseconds per image and per text."""
    found = {}
    for cells in rows(output):
        if len(cells) == 9 and cells[0].startswith("worldclip"):
            found |= {f"{cells[0]}, images": 1e3 / to_number(cells[1]), f"{cells[0]}, texts": 1e3 / to_number(cells[5])}
    return found


def read_evaluate(output: str) -> Measures:
    """Seconds of CPU time of a sweep's passes and of all else, and of ranking."""
    names = ("image pass", "text passes", "all else")
    found = {cells[0]: to_number(cells[1]) for cells in rows(output) if cells[0].startswith(names)}
    ranking = re.search(r"seconds, both ways \| \d+ \((\d+) of processors\)", output)
    return found | ({"ranking": float(ranking[1])} if ranking else {})


def read_hundred_million(output: str) -> Measures:
    """Seconds and CPU microseconds per pair, by run and stage."""
    found = {}
    for cells in rows(output):
        if len(cells) == 8 and cells[2][:1].isdigit():
            found[f"{cells[0]}: {cells[1]}, wall"] = to_number(cells[2])
            if cells[3]:
                found[f"{cells[0]}: {cells[1]}, CPU"] = to_number(cells[3])
    return found


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A program of benchmarks/: its arguments ({shared}, {scratch} are folders), and how its output is read."""

    program: str
    read: Callable[[str], Measures]
    arguments: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    needs_shared: bool = True


def hundred_million(part: str) -> Benchmark:
    arguments = ["--only", part, "--pairs"]
    return Benchmark(
        program="hundred_million",
        read=read_hundred_million,
        arguments=[*arguments, "20000000"],
        small=[*arguments, "130000"],
        needs_shared=False,
    )


def train_step(*flags: str, small: tuple[str, ...]) -> Benchmark:
    fixed = ["{shared}/data/captions/multi30k_train.parquet", "--only", "ours", "--rounds", "1", "--threads", "1"]
    return Benchmark(program="train_step", read=read_train_step, arguments=[*fixed, *flags], small=[*fixed, *small])


TAR = "{shared}/data/imagenet_samples/samples-000000.tar"
DEMO = ("--arch", "demo", "--batch", "128", "--precision")
BENCHMARKS = {
    "match": Benchmark(program="match", read=read_match, small=["--langs", "th"]),
    "lid": Benchmark(program="lid", read=read_lid),
    "curation": Benchmark(program="curation", read=read_curation),
    "loader": Benchmark(
        program="loader",
        read=read_loader,
        arguments=[TAR, "--seconds", "60"],
        small=[TAR, "--seconds", "3", "--rounds", "1"],
    ),
    "train_step fp32": train_step(*DEMO, "fp32", "--steps", "40", small=(*DEMO, "fp32", "--steps", "2")),
    "train_step bf16": train_step(*DEMO, "bf16", "--steps", "40", small=(*DEMO, "bf16", "--steps", "2")),
    "train_step ViT-B/32": train_step(
        *("--vocab", "49408", "--batch", "64", "--steps", "5"), small=("--vocab", "49408", "--batch", "4")
    ),
    "inference": Benchmark(
        program="inference",
        read=read_inference,
        arguments=["{scratch}/models"],
        small=["{scratch}/models", "--rounds", "1", "--images", "8", "--texts", "64"],
    ),
    "evaluate": Benchmark(
        program="evaluate",
        read=read_evaluate,
        arguments=["--languages", "20"],
        small=["--languages", "3", "--preset", "tiny"],
    ),
    "hundred_million stages": hundred_million("stages"),
    "hundred_million limits": hundred_million("limits"),
    "hundred_million dedup": hundred_million("dedup"),
}


def run(benchmark: Benchmark, checkout: Path, scratch: Path, *, is_small: bool) -> Measures:
    """Run a benchmark of a checkout; return what it measured.  Raises RuntimeError with its output if it fails."""
    shared = find_shared(checkout)
    if benchmark.needs_shared and shared is None:
        raise RuntimeError(f"no folder of real data beside {checkout}; set WORLDCLIP_SHARED")
    scratch.mkdir(parents=True, exist_ok=True)
    arguments = benchmark.small if is_small else benchmark.arguments
    filled = [argument.format(shared=shared, scratch=scratch) for argument in arguments]
    command = [sys.executable, str(checkout / "benchmarks" / f"{benchmark.program}.py"), *filled]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "TMPDIR": str(scratch)}
    environment |= {"WORLDCLIP_SHARED": str(shared)} if shared else {}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    measures = benchmark.read(done.stdout) if done.returncode == 0 else {}
    if not measures:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return measures


def find_shared(checkout: Path) -> Path | None:
    named = os.environ.get("WORLDCLIP_SHARED")
    places = [Path(named)] if named else [parent / "shared" for parent in checkout.resolve().parents]
    return next((place for place in places if (place / "data").is_dir()), None)


def report(records: list[dict]) -> str:
    """Return a table: of each measure both medians, their ratio, and how far the rounds of A are apart."""
    lines = ["| benchmark | measure | rounds | A | B | B / A | A: most / least |", "|---|---|---:|---:|---:|---:|---:|"]
    for name in dict.fromkeys(record["benchmark"] for record in records):
        of_side = {
            side: [r["measures"] for r in records if (r["benchmark"], r["side"]) == (name, side)] for side in "AB"
        }
        ratios = []
        for measure in dict.fromkeys(measure for measures in of_side["A"] for measure in measures):
            a, b = ([each[measure] for each in of_side[side] if measure in each] for side in "AB")
            if not b:
                lines.append(f"| {name} | {measure} | {len(a)}, 0 | {statistics.median(a):.4g} | | gone in B | |")
                continue
            medians, least = (statistics.median(a), statistics.median(b)), max(min(a), 1e-9)
            ratios.append(medians[1] / max(medians[0], 1e-9))
            cells = f"{medians[0]:.4g} | {medians[1]:.4g} | {ratios[-1]:.3f} | {max(a) / least:.2f}"
            lines.append(f"| {name} | {measure} | {len(a)}, {len(b)} | {cells} |")
        if ratios:
            lines.append(f"| {name} | **median of its ratios** | | | | **{statistics.median(ratios):.3f}** | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", type=Path, help="checkout before")
    parser.add_argument("--b", type=Path, help="checkout after")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=Path, help="file that each measurement is added to")
    parser.add_argument("--small", action="store_true", help="small settings, to try it")
    arguments = parser.parse_args()
    if arguments.rounds and not (arguments.a and arguments.b):
        parser.error("--a and --b name the two checkouts")
    records = []
    if arguments.records and arguments.records.exists():
        records = [json.loads(line) for line in arguments.records.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.rounds):
            for name in arguments.only:
                for side, checkout in (("A", arguments.a), ("B", arguments.b)):
                    started_at = time.perf_counter()
                    scratch = Path(temporary) / side
                    measures = run(BENCHMARKS[name], checkout.resolve(), scratch, is_small=arguments.small)
                    records.append({"benchmark": name, "side": side, "measures": measures})
                    seconds = time.perf_counter() - started_at
                    print(f"round {number + 1}, {name}, {side}: {len(measures)} measures, {seconds:.0f} s", flush=True)
                    if arguments.records:
                        with open(arguments.records, "a", encoding="utf-8") as file:
                            file.write(f"{json.dumps(records[-1])}\n")
    print(report(records))


if __name__ == "__main__":
    main()
