"""Evaluation: what a sweep over 298 languages costs beside its passes, and recall among 100,000 in bounded memory.

    python benchmarks/evaluate.py [--preset vit_b32] [--languages 0] [--write]     --write renews results/evaluate.md

Sweep: Babel-ImageNet, one template a language, over the 300 ImageNet samples of the folder of real data
(WORLDCLIP_SHARED, or `shared` beside the repository), with a random model; --languages takes only so many, spread over
the list.  CLIP_benchmark's way is run by its own functions (a classifier a language, then all images anew) in three of
the languages and extrapolated by images and by texts.  Times are processor seconds, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from head import make_head

from worldclip.evaluate import engine
from worldclip.evaluate.datasets import babel_imagenet
from worldclip.evaluate.ranking import ranks
from worldclip.evaluate.tasks import Classification, Dataset
from worldclip.model.clip import create_model, image_processor, model_config
from worldclip.model.config import ModelConfig
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.tokenizer import train_tokenizer

REPOSITORY = Path(__file__).parents[1]
NUM_FEATURES, DIM = 100_000, 512
PEER_LANGUAGES = 3
PEER_BATCH = 64  # CLIP_benchmark's default


class Timed:
    """A model that counts the seconds of its passes."""

    def __init__(self, clip: Clip) -> None:
        self.preprocess = clip.preprocess
        self.processor = clip.processor
        self.tokenizer = clip.tokenizer
        self.clip, self.image_s, self.text_s, self.num_images, self.num_texts = clip, 0.0, 0.0, 0, 0

    def encode_each(self, images: list[bytes]) -> tuple[np.ndarray, dict[int, str]]:
        started = time.process_time()
        found = self.clip.encode_each(images)
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
    return Clip(TorchBackend(model), tokenizer, image_processor(config.architecture().image_size))


class MadeUp:
    """Features of no model, at once: what is left of a sweep's time is its own."""

    def __init__(self) -> None:
        self.random, self.elapsed_s = np.random.default_rng(0), 0.0
        self.preprocess: dict[str, Any] = {}
        self.processor = self.tokenizer = None

    def encode_each(self, images: list[bytes]) -> tuple[np.ndarray, dict[int, str]]:
        return self._features(len(images)), {}

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return self._features(len(texts))

    def _features(self, num: int) -> np.ndarray:
        started = time.process_time()
        found = self.random.standard_normal((num, DIM), dtype=np.float32)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        self.elapsed_s += time.process_time() - started
        return found


def run_sweep(model: Any, dataset: Dataset, languages: list[str]) -> float:
    """Processor seconds of a whole sweep."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        return measured(
            lambda: engine.evaluate(model, {"model": "random", "model_digest": "random"}, [dataset], languages, path)
        )


class Peer:
    """The same model as CLIP_benchmark asks for it; its texts are padded no further than ours."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def encode_image(self, pixels: Any) -> Any:
        import torch

        return torch.from_numpy(self.clip.backend.encode_pixels(pixels))

    def encode_text(self, texts: Texts) -> Any:
        import torch

        return torch.from_numpy(self.clip.encode_text(texts))


class Texts(list):
    """What a tokenizer gives to CLIP_benchmark: it goes to a device."""

    def to(self, device: str) -> Texts:
        return self


class Batches:
    """Images of the data set, decoded anew for each pass, as a loader gives them."""

    def __init__(self, clip: Clip, dataset: Dataset) -> None:
        self.clip, self.dataset = clip, dataset

    def __len__(self) -> int:
        return -(-len(self.dataset.image_keys) // PEER_BATCH)

    def __iter__(self) -> Iterator[Any]:
        import torch
        from PIL import Image

        for start in range(0, len(self.dataset.image_keys), PEER_BATCH):
            files = self.dataset.read_images(start, min(start + PEER_BATCH, len(self.dataset.image_keys)))
            images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
            pixels = self.clip.processor(images=images, return_tensors="pt")["pixel_values"]
            yield pixels, torch.zeros(len(images), dtype=torch.long)


def names_of_classes(dataset: Dataset, lang: str) -> list[str]:
    task = dataset.tasks(lang)[0]
    assert isinstance(task, Classification)
    return [synonyms[0] for synonyms in task.class_names]


def peer_seconds(clip: Clip, dataset: Dataset, lang: str) -> tuple[float, float, int]:
    """(seconds of its texts, seconds of its images, texts) of a language by CLIP_benchmark's functions."""
    import torch
    from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier

    names = names_of_classes(dataset, lang)
    text_s = measured(lambda: zero_shot_classifier(Peer(clip), Texts, names, ["{c}"], "cpu", amp=False))
    classifier = torch.zeros((clip.embed_dim, len(names)))
    image_s = measured(lambda: run_classification(Peer(clip), classifier, Batches(clip, dataset), "cpu", amp=False))
    return text_s, image_s, len(names)


def measured(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def sweep(preset: str, num_languages: int) -> list[str]:
    shared = Path(os.environ.get("WORLDCLIP_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not shared.is_dir():
        return ["The sweep needs the folder of real data, which is not there."]
    tars = sorted((shared / "imagenet_samples").glob("*.tar"))
    dataset = babel_imagenet.load("babel_imagenet", shared / "babel_imagenet", tars=tars)
    texts_of = {lang: names_of_classes(dataset, lang) for lang in dataset.languages}
    num_texts = sum(len(texts) for texts in texts_of.values())
    clip = random_clip(preset, [text for texts in texts_of.values() for text in texts])
    chosen = list(dataset.languages)[:: max(1, len(dataset.languages) // (num_languages or len(dataset.languages)))]
    by_size = sorted(chosen, key=lambda lang: len(texts_of[lang]))
    of_peer = [by_size[len(by_size) * place // 4] for place in range(1, PEER_LANGUAGES + 1)]  # quarters of the sizes
    model = Timed(clip)
    total_s = run_sweep(model, dataset, chosen)
    made_up = MadeUp()
    own_s = run_sweep(made_up, dataset, list(dataset.languages)) - made_up.elapsed_s
    peer = [peer_seconds(clip, dataset, lang) for lang in of_peer]
    return _sweep_lines(preset, dataset, model, total_s, own_s, len(chosen), num_texts, of_peer, peer)


def _sweep_lines(
    preset: str,
    dataset: Dataset,
    model: Timed,
    total_s: float,
    own_s: float,
    num_chosen: int,
    num_texts: int,
    of_peer: list[str],
    peer: list[tuple[float, float, int]],
) -> list[str]:
    num_languages = len(dataset.languages)
    scale = 1.0 if num_chosen == num_languages else num_texts / model.num_texts
    passes_s = model.image_s + model.text_s
    ours_s = model.image_s + scale * (total_s - model.image_s)
    text_s, image_s, texts = (sum(column) for column in zip(*peer, strict=True))
    anew_s = image_s / len(peer) * num_languages + text_s / texts * num_texts
    measured_over = "" if scale == 1.0 else f"; extrapolated by texts from {num_chosen} languages"
    return [
        f"{preset}, random; {model.num_images} images; {num_chosen} languages, {model.num_texts:,} distinct texts. One "
        "of the 298 languages names none of the images' classes.",
        "",
        "| what | processor seconds |",
        "|---|---:|",
        f"| image pass | {model.image_s:.1f} |",
        f"| text passes | {model.text_s:.1f} |",
        f"| all else (class embeddings, ranks, intervals, records) | {total_s - passes_s:.1f} |",
        f"| **sweep / (image pass + text passes)** | **{total_s / passes_s:.2f}** |",
        f"| all else over all {num_languages} languages, features of {DIM} dimensions made up | {own_s:.1f} |",
        f"| sweep of {num_languages} languages{measured_over} | {ours_s:.0f} |",
        f"| CLIP_benchmark's way, measured in {', '.join(of_peer)}: images, a language | {image_s / len(peer):.1f} |",
        f"| the same: texts, a thousand | {1000 * text_s / texts:.1f} |",
        f"| CLIP_benchmark's way, extrapolated to {num_languages} languages and {num_texts:,} texts | {anew_s:.0f} |",
        f"| **ratio** | **{anew_s / ours_s:.1f}** |",
    ]


def recall() -> list[str]:
    random = np.random.default_rng(0)
    images = random.standard_normal((NUM_FEATURES, DIM), dtype=np.float32)
    texts = random.standard_normal((NUM_FEATURES, DIM), dtype=np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs = np.arange(NUM_FEATURES)

    def rank_both_ways() -> None:
        ranks(texts, images, pairs, pairs)
        ranks(images, texts, pairs, pairs)

    started = time.perf_counter()
    elapsed_s = measured(rank_both_ways)
    wall_s = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [
        f"{NUM_FEATURES:,} images and {NUM_FEATURES:,} texts, features of {DIM} dimensions, float32; all queries "
        "ranked both ways, as recall@k needs.",
        "",
        "| what | |",
        "|---|---:|",
        f"| features | {2 * images.nbytes / 2**20:.0f} MiB |",
        f"| ranking, on top | {max(0, peak - before) / 2**10:.0f} MiB |",
        f"| **peak of the process** | **{peak / 2**10:.0f} MiB** |",
        f"| seconds, both ways | {wall_s:.0f} ({elapsed_s:.0f} of processors) |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="vit_b32")
    parser.add_argument("--languages", type=int, default=0, help="so many of the languages; 0: all")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    recall_lines = recall()  # first: a peak of memory only grows
    paths = [f"src/worldclip/evaluate/{name}.py" for name in ("engine", "tasks", "ranking")]
    lines = ["# Evaluation", "", make_head(paths, ("numpy", "torch", "transformers", "clip-benchmark")), ""]
    lines += ["## A sweep over the languages of Babel-ImageNet", "", *sweep(arguments.preset, arguments.languages), ""]
    lines += ["## Recall among 100,000", "", *recall_lines]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        (REPOSITORY / "benchmarks" / "results" / "evaluate.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
