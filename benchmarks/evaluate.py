"""Evaluation: what a sweep over languages costs beside its forward passes, and recall among 100,000 in bounded memory.

    python benchmarks/evaluate.py [--preset vit_b32] [--languages 12] [--write]     --write renews results/evaluate.md

Sweep: Babel-ImageNet, one template a language, over the 300 ImageNet samples of the folder of real data
(WORLDCLIP_SHARED, or `shared` beside the repository), with a random model.  Measured over --languages languages, spread
over the list; the 298 are extrapolated by the number of texts.  The other way, images anew for each language as
CLIP_benchmark runs, is extrapolated by images and texts from the same passes.  Times are processor seconds, since the
machine may be shared.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from worldclip.evaluate import engine
from worldclip.evaluate.datasets import babel_imagenet
from worldclip.evaluate.ranking import ranks
from worldclip.inference import Clip
from worldclip.model import create_model, image_processor, model_config
from worldclip.tokenizer import train_tokenizer
from worldclip.train.config import ModelConfig

REPOSITORY = Path(__file__).parents[1]
NUM_FEATURES, DIM = 100_000, 512
QUERIES = 4_000  # of the 100,000: each costs the same, and memory depends on the candidates alone


class Timed:
    """A model that counts the seconds of its passes."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.image_s, self.text_s, self.num_images, self.num_texts = clip, 0.0, 0.0, 0, 0

    def encode_image(self, images: list[bytes]) -> np.ndarray:
        started = time.process_time()
        found = self.clip.encode_image(images)
        self.image_s += time.process_time() - started
        self.num_images += len(images)
        return found

    def encode_text(self, texts: list[str]) -> np.ndarray:
        started = time.process_time()
        found = self.clip.encode_text(texts)
        self.text_s += time.process_time() - started
        self.num_texts += len(texts)
        return found


def random_clip(preset: str, texts: list[str]) -> Clip:
    config = ModelConfig(preset=preset)
    tokenizer = train_tokenizer(texts, vocab_size=8_000, context_length=config.architecture().context_length)
    model = create_model(model_config(config, tokenizer), seed=0).eval()
    return Clip(model, tokenizer, image_processor(config.architecture().image_size))


def sweep(preset: str, num_languages: int) -> list[str]:
    shared = Path(os.environ.get("WORLDCLIP_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not shared.is_dir():
        return ["The sweep needs the folder of real data, which is not there."]
    tars = sorted((shared / "imagenet_samples").glob("*.tar"))
    dataset = babel_imagenet.load("babel_imagenet", shared / "babel_imagenet", tars=tars)
    texts_of = {lang: [names[0] for names in dataset.tasks(lang)[0].class_names] for lang in dataset.languages}
    every = [text for texts in texts_of.values() for text in texts]
    model = Timed(random_clip(preset, every))
    chosen = list(dataset.languages)[:: max(1, len(dataset.languages) // num_languages)][:num_languages]
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        engine.evaluate(model, {"model": preset}, [dataset], chosen, Path(folder) / "results.jsonl")
    total_s = time.process_time() - started
    scale = len(every) / sum(len(texts_of[lang]) for lang in chosen)
    overhead_s = total_s - model.image_s - model.text_s
    ours_s = model.image_s + scale * (model.text_s + overhead_s)
    anew_s = len(dataset.languages) * model.image_s + scale * model.text_s
    return [
        f"{preset}, random; {model.num_images} images, {model.num_texts:,} texts in {len(chosen)} languages of "
        f"{len(dataset.languages)} ({len(every):,} texts in all).",
        "",
        "| what | processor seconds |",
        "|---|---:|",
        f"| image pass | {model.image_s:.1f} |",
        f"| text passes | {model.text_s:.1f} |",
        f"| all else (class embeddings, ranks, records) | {overhead_s:.1f} |",
        f"| sweep / (image pass + text passes) | {total_s / (model.image_s + model.text_s):.2f} |",
        f"| all languages, extrapolated by texts | {ours_s:.0f} |",
        f"| images anew for each language, extrapolated | {anew_s:.0f} |",
        f"| ratio | {anew_s / ours_s:.1f} |",
    ]


def recall() -> list[str]:
    random = np.random.default_rng(0)
    candidates = random.standard_normal((NUM_FEATURES, DIM), dtype=np.float32)
    queries = random.standard_normal((NUM_FEATURES, DIM), dtype=np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    ranks(queries[:QUERIES], candidates, np.arange(QUERIES), np.arange(QUERIES))
    elapsed_s = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [
        f"{NUM_FEATURES:,} x {NUM_FEATURES:,} features of {DIM} dimensions, float32; {QUERIES:,} queries ranked.",
        "",
        "| what | |",
        "|---|---:|",
        f"| features | {2 * candidates.nbytes / 2**20:.0f} MiB |",
        f"| ranking, on top | {max(0, peak - before) / 2**10:.0f} MiB |",
        f"| peak of the process | {peak / 2**10:.0f} MiB |",
        f"| processor seconds, one way, extrapolated by queries | {elapsed_s * NUM_FEATURES / QUERIES:.0f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vit_b32")
    parser.add_argument("--languages", type=int, default=12)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    recall_lines = recall()  # first: a peak of memory only grows
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "transformers"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, shared with other work"
    lines = ["# Evaluation", "", f"{date.today()}; {machine}; Python {platform.python_version()}, {versions}.", ""]
    lines += ["## A sweep over the languages of Babel-ImageNet", "", *sweep(arguments.preset, arguments.languages), ""]
    lines += ["## Recall among 100,000", "", *recall_lines]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        (REPOSITORY / "benchmarks" / "results" / "evaluate.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
