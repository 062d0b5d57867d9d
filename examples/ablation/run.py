"""Runs a part of the ablation: every arm and seed that has no results yet.

    python examples/ablation/run.py --out runs/ablation --part curation

A second call goes on where the first one stopped; several calls at a time share the runs out among them.  What a run
leaves is OUT/results/<run>: run.json (written last), results.jsonl and the rank of each picture's name.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

import arms
import world as the_world
from arms import Arm, Training

from worldclip import curate, pool
from worldclip.config import Recipe
from worldclip.core import artifacts
from worldclip.core.console import say
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.pool.emoji import LANGS
from worldclip.recipe import run_stages, sections_of

WORLD_SEED = 0
NUM_PAIRS, PAIRS_PER_SHARD = 300_000, 30_000
VOCAB_SIZE = 16_000
KEPT = ("samples_seen", "steps", "pairs", "epochs", "seen", "bad", "samples_per_s")  # of training's report


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--part", choices=(*arms.PARTS, "all"), default="all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--widths", type=int, nargs="*", default=list(arms.WIDTHS), help="of the part curse")
    parser.add_argument("--samples", type=int, default=45_000, help="pairs that a run of factor 1 sees")
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS, help="pairs of the world")
    parser.add_argument("--workers", type=int, default=1, help="processes that make and match the world")
    asked = parser.parse_args(arguments)
    out = asked.out.absolute()
    folder = Ablation(out, asked.samples, LocalExecutor(workers=asked.workers))
    with locked(out / "locks" / "world"):
        shard = min(PAIRS_PER_SHARD, asked.pairs)
        the_world.build_world(folder.world, WORLD_SEED, asked.pairs, shard, folder.executor)
        folder.train_tokenizer()
    parts = arms.PARTS if asked.part == "all" else (asked.part,)
    wanted = [training for part in parts for training in arms.trainings(part, asked.seeds, asked.widths)]
    for training in dict.fromkeys(wanted):
        with locked(out / "locks" / training.name, wait=False) as is_mine:
            if is_mine and not (out / "results" / training.name / "run.json").exists():
                folder.run(training)
            elif not is_mine:
                say("ablation", f"{training.name} is running elsewhere")


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """One process at a time; yields whether it is this one, always where it may wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


class Ablation:
    """The folder of all runs.

    OUT/world, OUT/matched/<how> (metadata, match), OUT/curated/<arm>_s<seed> (balance, curate), OUT/results/<run>.
    """

    def __init__(self, out: Path, samples: int, executor: LocalExecutor) -> None:
        self.out, self.samples, self.executor = out, samples, executor
        self.world = out / "world"

    # The world's own

    def train_tokenizer(self) -> None:
        """One for all arms, on the texts of the raw pool."""
        from worldclip.model.tokenizer import train_tokenizer

        folder = self.world / "tokenizer"
        if not folder.exists():
            texts = pq.read_table(self.world / "pairs", columns=["text"])["text"].to_pylist()
            made = train_tokenizer(texts, vocab_size=VOCAB_SIZE, context_length=24)
            made.save(aside := folder.with_name(".tokenizer"))
            os.replace(aside, folder)

    # Curation

    def matched(self, arm: Arm) -> Path:
        """Metadata and match, shared by the arms that match alike."""
        recipe, folder = arms.curation_recipe(arm, 0, self.world), self.out / "matched" / arm.matched
        with locked(self.out / "locks" / f"matched_{arm.matched}"):
            self._stages(("pool", "metadata", "match"), recipe, folder)
        return folder

    def english_threshold(self, arm: Arm) -> int:
        """t_en: what gives English texts, matched against English entries, a tail of the arm's p."""
        by_p = Arm(name=f"threshold_{arm.tail_fraction}", says="", true_lang=arm.true_lang,
                   tail_fraction=arm.tail_fraction)  # fmt: skip
        folder = self.out / "curated" / f"{by_p.name}_{by_p.matched}"
        matched = self.matched(by_p)
        with locked(self.out / "locks" / folder.name):
            link(matched, folder, ("pool", "metadata", "match"))
            self._stages(("balance",), arms.curation_recipe(by_p, 0, self.world), folder)
        return int(artifacts.read_json(folder / "balance" / "thresholds.json")["lists"]["en"]["threshold"])

    def curated(self, arm: Arm, seed: int) -> Path:
        """The list of an arm; what it holds is in its table.json."""
        folder = self.out / "curated" / f"{arm.name}_s{seed}"
        with locked(self.out / "locks" / f"curated_{folder.name}"):
            if not (folder / "table.json").exists():
                link(self.matched(arm), folder, ("pool", "metadata", "match"))
                if arm.is_raw:
                    write_raw_list(arms.curation_recipe(arm, seed, self.world), self.world, folder)
                else:
                    recipe = arms.curation_recipe(arm, seed, self.world, self.english_threshold(arm))
                    self._stages(("balance", "curate"), recipe, folder)
                artifacts.write_json(folder / "table.json", describe_list(folder, self.world))
        return folder

    def _stages(self, names: Sequence[str], recipe: Recipe, folder: Path) -> None:
        run_stages(recipe, folder, names, executor=self.executor)

    # Training

    def run(self, training: Training) -> None:
        """Curate, train, evaluate; the results stay, the run goes."""
        started_at = time.perf_counter()
        say("ablation", training.name)
        folder, results = self.out / "runs" / training.name, self.out / "results" / training.name
        curated = self.curated(training.arm, training.seed)
        link(curated, folder, ("pool", "curate"))
        threshold = None if training.arm.is_raw else self.english_threshold(training.arm)
        share = self.english_share(training.seed) if training.factor == "share" else 1.0
        recipe = arms.training_recipe(training, self.world, self.samples, threshold, share)
        self._stages(("train",), recipe, folder)
        self.evaluate(folder, results, training.name)
        report = artifacts.read_json(folder / "train" / "report.json")
        record = {
            "arm": training.arm.name,
            "seed": training.seed,
            "width": training.width,
            "factor": report["samples_seen"] / self.samples,
            **{
                key: report[key] for key in ("samples_seen", "steps", "pairs", "epochs", "seen", "bad", "samples_per_s")
            },
            "batch": report["schedule"]["global_batch_size"],
            "loss": report["curve"][-1]["loss"],
            "elapsed_s": time.perf_counter() - started_at,
            "english_threshold": threshold,
            "list": artifacts.read_json(curated / "table.json"),
        }
        artifacts.write_json(results / "run.json", record)
        shutil.rmtree(folder)

    def english_share(self, seed: int) -> float:
        """Of the pairs expected in the worldwide arm's list: what train.scale takes by default."""
        rows = artifacts.read_json(self.curated(arms.WORLDWIDE, seed) / "curate" / "report.json")["languages"]
        expected = {lang: row["expected_pairs"] for lang, row in rows.items()}
        return float(expected["en"] / sum(expected.values()))

    def evaluate(self, run_dir: Path, results: Path, name: str) -> None:
        """results.jsonl and ranks/ of the last checkpoint on the test, in every language."""
        from worldclip.evaluate import engine
        from worldclip.evaluate.stage import checkpoint_folder, model_digest
        from worldclip.model.load import load

        checkpoint = checkpoint_folder(run_dir)
        model_id = {"model": name, "model_digest": model_digest(checkpoint)}
        engine.evaluate(load(checkpoint, device="cpu"), model_id, [test_set(self.world)], LANGS,
                        results / "results.jsonl")  # fmt: skip


def test_set(world_dir: Path) -> Any:
    """Which of the 600 names is in the picture, in each language; by thirds of the language's own, and for flags."""
    from worldclip.evaluate.datasets.common.images import read_samples, reader
    from worldclip.evaluate.tasks import Classification, Dataset

    world, tar = the_world.read_world(world_dir), world_dir / "test.tar"
    samples = read_samples([tar])
    target = np.array([int(sample.key.split("_")[0]) for sample in samples])

    def tasks(lang: str) -> list[Classification]:
        third = world.third(lang)[target]
        slices = {name: third == i for i, name in enumerate(("head", "middle", "tail"))}
        slices |= {"flags": world.is_flag[target], "objects": ~world.is_flag[target]}
        names = [[name] for name in world.names(lang)]
        return [Classification(class_names=names, target=target, image_idx=np.arange(len(target)), slices=slices)]

    return Dataset(
        name="world",
        digest=artifacts.digest(artifacts.fingerprint(tar, world_dir)),
        image_keys=[sample.key for sample in samples],
        read_images=reader(samples),
        languages=LANGS,
        tasks=tasks,
    )


def link(source: Path, folder: Path, stages: Sequence[str]) -> None:
    """Finished stages of one run in another, as hard links: files of ours are never changed in place."""
    for stage in stages:
        if not (folder / stage / artifacts.MANIFEST).exists():
            shutil.rmtree(folder / stage, ignore_errors=True)
            shutil.copytree(source / stage, folder / stage, copy_function=os.link)


def write_raw_list(recipe: Recipe, world_dir: Path, run_dir: Path) -> None:
    """RUN/curate of every pair in the pool, also of those that match nothing: the stage lists only what matched."""
    shards = pool.shards(Run(dir=run_dir, sections=sections_of(recipe)))
    for shard in shards:
        pairs = pq.read_table(world_dir / "pairs" / shard.name)
        table = pa.table(
            {
                "key": pairs["key"],
                "text_idx": np.zeros(len(pairs), np.int32),
                "text": pairs["text"],
                "lang": pairs["lang_truth"],
                "keep_prob": np.ones(len(pairs)),
            }
        )
        artifacts.write_table(run_dir / "curate" / f"{shard.name}.parquet", table, artifacts.CURATED)
    inputs = {"shards": {shard.name: shard.fingerprint for shard in shards}}
    artifacts.write_manifest(run_dir / "curate", config={"curate": "every pair"}, inputs=inputs, counts={})


def describe_list(run_dir: Path, world_dir: Path) -> dict[str, Any]:
    """What explains the result before training: pairs, shares of English and of noise, effective concepts."""
    truth = the_world.read_truth(world_dir)
    paths = sorted((run_dir / "curate").glob("*.parquet"))
    kept = pa.concat_tables([curate.read_curated(run_dir, path.stem, ["key", "lang"]) for path in paths])
    rows = truth.take(pc.index_in(kept["key"].combine_chunks(), value_set=truth["key"].combine_chunks()))
    lang, kind = rows["lang_truth"].to_numpy(zero_copy_only=False), rows["kind"].to_numpy(zero_copy_only=False)
    concept = rows["concept"].to_numpy()
    is_true, is_english = kind == the_world.TRUE, lang == "en"
    by_label = np.asarray(kept["lang"].cast(pa.string()).to_pylist())
    return {
        "pairs": len(kept),
        "english_share": float(is_english.mean()),
        "noise_share": float((~is_true).mean()),
        "boilerplate_share": float((kind == the_world.BOILERPLATE).mean()),
        "label_wrong_share": float((by_label != lang)[is_true].mean()),
        "flags_share": float((concept >= the_world.NUM_OBJECTS)[is_true].mean()),
        "effective_concepts": effective(concept[is_true]),
        "effective_concepts_english": effective(concept[is_true & is_english]),
        "effective_concepts_others": effective(concept[is_true & ~is_english]),
    }


def effective(concepts: np.ndarray) -> float:
    """exp(entropy): as many concepts spoken of equally often would be as varied."""
    share = np.bincount(concepts, minlength=the_world.NUM_CONCEPTS) / max(1, len(concepts))
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


if __name__ == "__main__":
    main()
