"""Images and texts a second: worldclip.load against transformers' pipeline and open_clip, one model, one machine.

    python benchmarks/inference.py MODELS [--write]      --write renews benchmarks/results/inference.md

MODELS: a folder for the models, made where they are not there: ViT-B/32 with random weights and a tokenizer of 32,000
pieces trained on the captions, as a Hugging Face folder, exported to open_clip and to ONNX (float32, int8).

Data: the 300 photographs of imagenet_samples and captions of XTD-10 in six languages (en, es, it, ko, ru, zh), which
follow each other image by image, from the folder of real data (WORLDCLIP_SHARED, or `shared` beside the repository).
transformers: the pipeline zero-shot-image-classification for images, with one label; for texts its own steps without
the image (tokenizer with padding to the longest of a batch, get_text_features).  open_clip: its transform, tokenizer
and model.  In batches of the same size; they take turns.  In bfloat16 worldclip and transformers' pipeline only.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from head import make_head

import worldclip

SHARED = Path(os.environ.get("WORLDCLIP_SHARED", Path(__file__).parents[2] / "shared"))
RESULTS = Path(__file__).parent / "results" / "inference.md"
BATCH = 64
NUM_TEXTS, NUM_IMAGES = 480, 96


def build_models(place: Path, captions: list[str]) -> None:
    """PLACE/huggingface, PLACE/open_clip, PLACE/onnx."""
    from worldclip.export import ExportConfig, export_model
    from worldclip.model.clip import create_model, image_processor, model_config
    from worldclip.model.config import ModelConfig
    from worldclip.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(captions, vocab_size=32_000, context_length=77)
    folder = place / "huggingface"
    create_model(model_config(ModelConfig(preset="vit_b32"), tokenizer), seed=0).save_pretrained(folder)
    tokenizer.save(folder)
    image_processor(224).save_pretrained(folder)
    export_model(folder, place, ExportConfig(formats=("open_clip", "onnx"), onnx_precisions=("fp32", "int8")))


def read_captions() -> list[str]:
    """Captions of all languages, image by image."""
    table = pq.read_table(SHARED / "data" / "captions" / "xtd10.parquet")
    by_lang: dict[str, list[str]] = {}
    for lang, caption in zip(table["lang"].to_pylist(), table["caption"].to_pylist(), strict=True):
        by_lang.setdefault(lang, []).append(caption)
    return [caption for of_image in zip(*by_lang.values(), strict=True) for caption in of_image]


def unpack_photographs(folder: Path) -> list[str]:
    paths = []
    with tarfile.open(SHARED / "data" / "imagenet_samples" / "samples-000000.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                path = folder / member.name
                path.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
                paths.append(str(path))
    return paths


def ours(folder: Path, **keys: Any) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
    clip = worldclip.load(folder, device="cpu", **keys)
    return clip.encode_image, clip.encode_text


def theirs_transformers(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
    from transformers import pipeline

    pipe = pipeline("zero-shot-image-classification", model=str(folder), device="cpu", dtype=dtype)

    def images(paths: list[str]) -> None:
        pipe(paths, candidate_labels=["a"], hypothesis_template="{}", batch_size=BATCH)

    def texts(sentences: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(sentences), BATCH):
            batch = sentences[start : start + BATCH]
            inputs = pipe.tokenizer(batch, return_tensors="pt", padding=True, truncation=True)
            with torch.inference_mode():
                found.append(pipe.model.get_text_features(**inputs).pooler_output)
        return torch.nn.functional.normalize(torch.cat(found).float(), dim=-1).numpy()

    return images, texts


def theirs_open_clip(folder: Path) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
    import open_clip
    from PIL import Image

    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    def images(paths: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(paths), BATCH):
            pixels = torch.stack([transform(Image.open(path)) for path in paths[start : start + BATCH]])
            with torch.inference_mode():
                found.append(model.encode_image(pixels, normalize=True))
        return torch.cat(found).numpy()

    def texts(sentences: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(sentences), BATCH):
            with torch.inference_mode():
                found.append(model.encode_text(tokenizer(sentences[start : start + BATCH]), normalize=True))
        return torch.cat(found).numpy()

    return images, texts


def rate(call: Callable[[list[str]], Any], items: list[str]) -> float:
    started_at = time.perf_counter()
    call(items)
    return len(items) / (time.perf_counter() - started_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--texts", type=int, default=NUM_TEXTS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    captions = read_captions()
    if not (arguments.models / "onnx" / "README.md").exists():
        build_models(arguments.models, captions)
    with tempfile.TemporaryDirectory() as temporary:
        photographs = unpack_photographs(Path(temporary))[: arguments.images]
        texts = captions[: arguments.texts]
        contenders = {
            "transformers' pipeline": theirs_transformers(arguments.models / "huggingface"),
            "open_clip": theirs_open_clip(arguments.models / "open_clip"),
            "worldclip": ours(arguments.models / "huggingface"),
            "worldclip, open_clip's folder": ours(arguments.models / "open_clip"),
            "worldclip, ONNX float32": ours(arguments.models / "onnx", precision="fp32"),
            "worldclip, ONNX int8": ours(arguments.models / "onnx", precision="int8"),
            "transformers' pipeline, bfloat16": theirs_transformers(arguments.models / "huggingface", torch.bfloat16),
            "worldclip, bfloat16": ours(arguments.models / "huggingface", precision="bf16"),
        }
        check(contenders, photographs[:8], texts[:64])
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            for name, (encode_images, encode_texts) in contenders.items():
                found[name].append((rate(encode_images, photographs), rate(encode_texts, texts)))
                print(name, found[name][-1], flush=True)
    report(found, len(photographs), texts, arguments)


def check(contenders: dict[str, Any], photographs: list[str], texts: list[str]) -> None:
    """All compute the same, which warms them up too."""
    expected = contenders["worldclip"][1](texts)
    for name, (encode_images, encode_texts) in contenders.items():
        encode_images(photographs)
        cosine = (encode_texts(texts) * expected).sum(axis=1).min()
        least = 0.98 if "int8" in name else 0.9995 if "bfloat16" in name else 0.99999
        assert cosine > least, (name, cosine)


def report(
    found: dict[str, list[tuple[float, float]]], num_images: int, texts: list[str], arguments: argparse.Namespace
) -> None:
    """The best round of each, since whatever disturbs a round makes it slower."""
    best = {name: [max(each) for each in zip(*rates, strict=True)] for name, rates in found.items()}
    peers = [best[name] for name in ("transformers' pipeline", "open_clip", "worldclip")]
    lines = []
    for name, rates in best.items():
        cells = [
            f"{rate:,.1f} | {' | '.join(f'{rate / peer[kind]:.2f}' for peer in peers)}"
            for kind, rate in enumerate(rates)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    tokens = worldclip.load(arguments.models / "huggingface", device="cpu").tokenizer.encode(texts).lengths
    columns = "of transformers | of open_clip | of worldclip"
    head = [
        "# Inference",
        "",
        make_head(("src/worldclip/model",), ("torch", "transformers", "open_clip_torch", "onnxruntime")),
        "",
        f"{torch.get_num_threads()} threads. ViT-B/32, random weights, float32 where nothing else is said; "
        f"{num_images} photographs, {len(texts):,} captions in six languages of {tokens.mean():.1f} tokens (longest "
        f"{tokens.max()}, context 77), batches of {BATCH}; the best of {len(found['worldclip'])} rounds, taking turns.",
        "",
        f"| | images / s | {columns} | texts / s | {columns} |",
        f"|---|{'---:|' * 8}",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
