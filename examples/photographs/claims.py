"""Run the experiment of docs/photographs/expectations.md: each run leaves its hits; one that left them is skipped.

    OMP_NUM_THREADS=1 python examples/photographs/claims.py PHOTOS NAMES.csv --test TEST --templates TEMPLATES.json \
        --work runs/claims --out docs/photographs/hits

PHOTOS, NAMES.csv, TEST and TEMPLATES.json are those of build.py.  No accuracy is printed: claims_table.py makes the
tables of a complete experiment.  A file of hits, `<arm>_s<seed>.npz`, where L languages are asked about C classes and N
photographs:

    record        JSON: arm, seed, samples, what the list holds, digest of the weights, revision, processor, versions
    langs (L,)    classes (C,)      class_of_image (N,) position of a photograph's class
    hits          (L, ceil(N / 8)) uint8: bits, packed by row: the right name is above all other names
    is_named      (L, C) bool       is_withheld (L, C) bool: no caption of this language says the name
    is_alike      (L, C) bool: another language that may say the name spells it the same, case aside
    number        (C,) photographs of the class in the pool
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import runpy
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip import curate
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.execute import LocalExecutor
from worldclip.evaluate.datasets import names as sets_of_names
from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.image_features import encode_images
from worldclip.evaluate.tasks import Classification
from worldclip.model.load import load
from worldclip.recipe import run_stages

RECIPE = Path(__file__).with_name("claims.toml")
BUILD = Path(__file__).with_name("build.py")
POOLS = {"flat": ("--withhold", "40"), "tail": ("--class-tail", "0.5")}
SEEDS = (1, 2, 3)
STEPS = 1172
BATCH_SIZE = 256
MIN_NAMED = 50
RATES = {64: 1.5e-3, 128: 7.5e-4}
NUM_LANGS = 21  # English and the 20 whose names are withheld, in both pools


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """What one run trains on."""

    pool: Literal["flat", "tail"]
    width: int = 128
    balance: tuple[str, ...] = ("balance.tail_fraction=0.1",)
    curate: tuple[str, ...] = ()
    is_one_threshold: bool = False
    """The threshold of English in own_t for all languages."""
    is_raw: bool = False
    """Every caption of the pool under its label, in place of a curated list."""


TEXTS = ("pool.texts=['json:texts']", "pool.lang='json:langs'")
EVERY_MATCH = ("balance.tail_fraction=1",)
ARMS = {
    "worldwide_w128": Arm(pool="flat"),
    "worldwide_w64": Arm(pool="flat", width=64),
    "english_w128": Arm(pool="flat", curate=("curate.include=['en']",)),
    "english_w64": Arm(pool="flat", width=64, curate=("curate.include=['en']",)),
    "own_t": Arm(pool="tail"),
    "one_t": Arm(pool="tail", is_one_threshold=True),
    "every_match": Arm(pool="tail", balance=EVERY_MATCH),
    "raw": Arm(pool="tail", balance=EVERY_MATCH, is_raw=True),
}
"""The first arm of a pool trains the tokenizer of all of its arms."""
MATCHED = ("pool", "metadata", "match")


class World:
    """The pools of a seed, and the runs on them."""

    def __init__(self, work: Path, seed: int, sources: argparse.Namespace) -> None:
        self.seed = seed
        self.sources = sources
        self.folder = work / f"seed_{seed}"
        self.executor = LocalExecutor(quiet=True)

    def build(self, pool: str) -> Path:
        """Write a pool as build.py does."""
        out = self.folder / pool
        if not (out / "test" / "set.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            paths = [str(self.sources.photos), str(self.sources.names), str(out), "--test", str(self.sources.test)]
            settings = [
                "--templates",
                str(self.sources.templates),
                "--min-named",
                str(MIN_NAMED),
                "--seed",
                str(self.seed),
            ]
            sys.argv = [str(BUILD), *paths, *settings, *POOLS[pool]]
            runpy.run_path(str(BUILD), run_name="__main__")
        return out

    def recipe(self, arm: Arm, values: tuple[str, ...] = ()) -> Recipe:
        """Return claims.toml for the pool of an arm."""
        pool = self.build(arm.pool)
        paths = (f"pool.path='{pool / 'pool'}'", f"metadata.lists='{pool / 'names'}'", *TEXTS)
        balance = arm.balance
        if arm.is_one_threshold:
            lists = artifacts.read_json(self.folder / "own_t" / "balance" / "thresholds.json")["lists"]
            balance = ("balance.rule='same_threshold'", f"balance.english_threshold={lists['en']['threshold']}")
        return load_recipe(RECIPE, [*paths, f"curate.seed={self.seed}", *balance, *arm.curate, *values])

    def train(self, name: str) -> Path:
        """Run an arm up to its last checkpoint; the stages up to match are shared by the arms of a pool."""
        arm = ARMS[name]
        matched = self.folder / f"{arm.pool}_matched"
        run_stages(self.recipe(Arm(pool=arm.pool)), matched, MATCHED, executor=self.executor)
        run_dir = self.folder / name
        for stage in MATCHED:
            if not (run_dir / stage / artifacts.MANIFEST).exists():
                shutil.copytree(matched / stage, run_dir / stage, copy_function=os.link)
        run_stages(self.recipe(arm), run_dir, ("balance", "curate"), executor=self.executor)
        if arm.is_raw:
            self.write_raw(run_dir)
        run_stages(self.recipe(arm, self.training(name, run_dir)), run_dir, ("train",), executor=self.executor)
        return run_dir

    def training(self, name: str, run_dir: Path) -> tuple[str, ...]:
        """Return what the recipe's training does not share: equal steps, and equal English pairs in each of them."""
        arm = ARMS[name]
        batch_size = BATCH_SIZE
        if name.startswith("english"):
            langs = list_langs(self.folder / f"worldwide_w{arm.width}")
            batch_size = round(BATCH_SIZE * langs["en"] / langs.total())
        values = [
            f"train.seed={self.seed}",
            f"train.global_batch_size={batch_size}",
            f"train.samples_seen={STEPS * batch_size}",
            f"train.warmup_samples={STEPS * batch_size // 5}",
            f"train.lr={RATES[arm.width]}",
            f"train.model.vision_width={arm.width}",
            f"train.model.text_width={arm.width}",
        ]
        first = self.folder / next(other for other in ARMS if ARMS[other].pool == arm.pool)
        if run_dir != first:
            values.append(f"train.tokenizer.path='{first / 'train' / 'tokenizer'}'")
        return tuple(values)

    def write_raw(self, run_dir: Path) -> None:
        """Put every caption of the pool in the place of the curated ones."""
        for path in sorted((run_dir / "curate").glob("*.parquet")):
            pairs = pq.read_table(run_dir / "pool" / "pairs" / path.name)
            table = pa.table(
                {
                    "key": pairs["key"],
                    "text_idx": pairs["text_idx"],
                    "text": pairs["text"],
                    "lang": pairs["lang"],
                    "keep_prob": np.ones(len(pairs)),
                }
            )
            artifacts.write_table(path, table, schemas.CURATED)


def list_langs(run_dir: Path) -> Counter[str]:
    """Return the number of pairs by language of a run's list."""
    langs: Counter[str] = Counter()
    for path in sorted((run_dir / "curate").glob("*.parquet")):
        langs.update(curate.read_curated(run_dir, path.stem, ["lang"])["lang"].to_pylist())
    return langs


def noise_share(run_dir: Path, pool: Path) -> float:
    """Return the share of a run's list that says nothing of its photograph, or under another language's label."""
    truth = pq.read_table(pool / "truth.parquet", columns=["key", "text_idx", "kind"])
    lists = [
        curate.read_curated(run_dir, path.stem, ["key", "text_idx"])
        for path in sorted((run_dir / "curate").glob("*.parquet"))
    ]
    pairs = pa.concat_tables(lists).cast(pa.schema([("key", pa.string()), ("text_idx", pa.int64())]))
    joined = pairs.join(truth, keys=["key", "text_idx"])
    return float(pc.mean(pc.not_equal(joined["kind"], "name")).as_py())


def answer(run_dir: Path, pool: Path) -> dict[str, np.ndarray]:
    """Ask the last checkpoint which of a language's names each photograph of the test has."""
    model = load(run_dir, device="cpu")
    dataset = sets_of_names.load("photos", pool / "test")
    subjects = json.loads((pool / "test" / "set.json").read_text(encoding="utf-8"))["subjects"]
    class_of_image = np.array([subjects[key] for key in dataset.image_keys])
    names = json.loads((pool / "test" / "names.json").read_text(encoding="utf-8"))["lang"]
    classes = class_names(pool)
    langs = ["en", *list(names)[1 : 2 * NUM_LANGS - 2 : 2]]
    is_named = np.array([[name is not None for name in names[lang]] for lang in langs])
    withheld = {"classes": [], "langs": []}
    if (pool / "withheld.json").exists():
        withheld = json.loads((pool / "withheld.json").read_text(encoding="utf-8"))
    is_withheld = np.isin(langs, withheld["langs"])[:, None] & np.isin(classes, withheld["classes"]) & is_named
    image_ND = encode_images(model, dataset, BATCH_SIZE).features_ND
    encode = TextFeatures(model, BATCH_SIZE)
    hits = np.zeros((len(langs), len(class_of_image)), bool)
    for row, lang in enumerate(langs):
        asked = dataset.tasks(lang)[0]
        assert isinstance(asked, Classification)
        task = dataclasses.replace(asked, templates=("{}",))
        hits[row, task.image_idx] = task.score(image_ND, encode).ranks["acc"] < 1
    truth = pq.read_table(pool / "truth.parquet", columns=["key", "class"])
    photos_of_class = truth.group_by(["key", "class"]).aggregate([])["class"].value_counts().to_pylist()
    number = {entry["values"]: entry["counts"] for entry in photos_of_class}
    return {
        "langs": np.array(langs),
        "classes": np.array(classes),
        "class_of_image": class_of_image.astype(np.int16),
        "hits": np.packbits(hits, axis=1),
        "is_named": is_named,
        "is_withheld": is_withheld,
        "is_alike": is_spelt_alike(names, langs, classes, withheld),
        "number": np.array([number[name] for name in classes], np.int32),
    }


def is_spelt_alike(
    names: dict[str, list[str | None]], langs: list[str], classes: list[str], withheld: dict[str, list[str]]
) -> np.ndarray:
    """Return (L, C) bool: a language other than the row's, whose captions may say the name, spells it the same."""
    is_alike = np.zeros((len(langs), len(classes)), bool)
    for position, class_name in enumerate(classes):
        silent = set(withheld["langs"]) if class_name in withheld["classes"] else set()
        spellings = {}
        for lang, of_lang in names.items():
            if of_lang[position] is not None:
                spellings[lang] = of_lang[position].casefold()
        for row, lang in enumerate(langs):
            heard = {spelling for code, spelling in spellings.items() if code not in silent and code != lang}
            is_alike[row, position] = spellings.get(lang) in heard
    return is_alike


def class_names(pool: Path) -> list[str]:
    """Return the classes in the order of names.json."""
    return json.loads((pool / "test" / "classes.json").read_text(encoding="utf-8"))


def run(world: World, name: str) -> dict[str, np.ndarray]:
    """Train an arm and return the arrays of its file."""
    started_at = time.process_time()
    run_dir = world.train(name)
    pool = world.folder / ARMS[name].pool
    report = artifacts.read_json(run_dir / "train" / "report.json")
    checkpoint = max((run_dir / "train").glob("step_*"))
    weights = hashlib.sha256()
    for path in sorted(checkpoint.rglob("*.safetensors")):
        weights.update(path.read_bytes())
    langs = list_langs(run_dir)
    record: dict[str, Any] = {
        "arm": name,
        "seed": world.seed,
        **asdict(ARMS[name]),
        "samples": report["samples_seen"],
        "loss": report["curve"][-1]["loss"],
        "pairs": langs.total(),
        "english_share": langs["en"] / langs.total(),
        "noise_share": noise_share(run_dir, pool),
        "weights": weights.hexdigest(),
        "revision": artifacts.describe_run()["git_revision"],
        "versions": artifacts.versions(("worldclip", "torch", "numpy")),
    }
    arrays = answer(run_dir, pool)
    record["cpu_s"] = round(time.process_time() - started_at)
    return {"record": np.array(json.dumps(record, sort_keys=True)), **arrays}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("names", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--templates", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/claims"), help="folder of pools and runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the hits")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        world = World(options.work.resolve(), seed, options)
        for name in ARMS:
            path = options.out.resolve() / f"{name}_s{seed}.npz"
            if path.exists():
                continue
            content = io.BytesIO()
            np.savez_compressed(content, **run(world, name))
            with artifacts.whole_file(path) as aside:
                aside.write_bytes(content.getvalue())
            print(path.name, time.strftime("%H:%M:%S"), flush=True)


if __name__ == "__main__":
    main()
