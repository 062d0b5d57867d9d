r"""Train open_clip on the pairs of a run: the same sizes, samples, batches, learning rate and tokenizer.

    worldclip export runs/photographs --formats open_clip
    python examples/photographs/open_clip_peer.py runs/photographs runs/open_clip
    worldclip evaluate runs/open_clip/model --out runs/open_clip_evaluated --datasets photos \
        --folders.photos names:data/photographs/test

It is open_clip's own training (packages open_clip_torch and open_clip_train) with its own loader, on the CPU.  OUT gets

    images/             the photographs of the pool
    pairs.csv           as many of the run's kept pairs, drawn by the recipe's seed, as the run saw samples
    model/              the model in open_clip's format, as RUN/export/open_clip
    train.json          samples and CPU seconds
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import torch
from open_clip_train.main import main as train
from safetensors.torch import save_file

from worldclip import curate
from worldclip.config import Recipe, load_recipe
from worldclip.core import artifacts

NAME = "peer"


def write_pairs(run_dir: Path, recipe: Recipe, out: Path) -> int:
    """Write images and pairs.csv, and return the number of pairs: whole batches."""
    shards = sorted((run_dir / "curate").glob("*.parquet"))
    tables = [curate.read_curated(run_dir, path.stem, ["key", "text"]) for path in shards]
    pairs = pa.concat_tables(tables)
    config = recipe.train
    num_pairs = round(config.samples_seen / config.global_batch_size) * config.global_batch_size
    if num_pairs > len(pairs):
        raise SystemExit(f"{run_dir} keeps {len(pairs):,} pairs, and saw {num_pairs:,} samples: more than one epoch")
    rows = np.random.default_rng(config.seed).permutation(len(pairs))[:num_pairs]
    images = out / "images"
    images.mkdir(parents=True)
    place = {}
    for path in sorted(Path(recipe.pool.path).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = Path(member.name).name.partition(".")
                if suffix != "json":
                    place[key] = images / f"{key}.{suffix}"
                    place[key].write_bytes(tar.extractfile(member).read())
    with open(out / "pairs.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "text"))
        for pair in pairs.take(pa.array(rows)).to_pylist():
            writer.writerow((place[pair["key"]], pair["text"]))
    return num_pairs


def train_open_clip(recipe: Recipe, exported: Path, out: Path, num_pairs: int) -> Path:
    """Return the checkpoint of one epoch of pairs.csv."""
    sizes = json.loads((exported / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    sizes["text_cfg"]["hf_tokenizer_name"] = str(exported.resolve())
    (out / f"{NAME}.json").write_text(json.dumps(sizes), encoding="utf-8")
    open_clip.add_model_config(out / f"{NAME}.json")
    config = recipe.train
    values = {
        "model": NAME,
        "train-data": out / "pairs.csv",
        "dataset-type": "csv",
        "csv-separator": ",",
        "csv-img-key": "image",
        "csv-caption-key": "text",
        "train-num-samples": num_pairs,
        "batch-size": config.global_batch_size,
        "epochs": 1,
        "lr": config.lr,
        "beta1": 0.9,
        "beta2": config.beta2,
        "eps": 1e-6,
        "wd": config.weight_decay,
        "warmup": round(config.warmup_samples / config.global_batch_size),
        "workers": 0,
        "precision": "fp32",
        "seed": config.seed,
        "device": "cpu",
        "logs": out,
        "name": "training",
    }
    arguments = []
    for name, value in values.items():
        arguments += [f"--{name}", str(value)]
    train(arguments)
    return out / "training" / "checkpoints" / "epoch_1.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    exported = options.run / "export" / "open_clip"
    recipe = load_recipe(options.run / "recipe.toml")
    num_pairs = write_pairs(options.run, recipe, options.out)
    started_at = time.process_time()
    checkpoint = train_open_clip(recipe, exported, options.out, num_pairs)
    cpu_s = round(time.process_time() - started_at)
    shutil.copytree(exported, options.out / "model")
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    save_file(weights, options.out / "model" / "open_clip_model.safetensors")
    artifacts.write_json(options.out / "train.json", {"samples": num_pairs, "cpu_s": cpu_s})


if __name__ == "__main__":
    main()
