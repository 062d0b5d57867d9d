"""A CLIP's encoders against transformers' own forward pass: features on a CPU, a training step, ONNX graphs.

    python benchmarks/encoders.py [--threads 2] [--rounds 9] [--write]    --write renews benchmarks/results/encoders.md

transformers: the encoders of MetaClip2Model, called as its get_image_features and get_text_features call them.  towers:
model/towers.py, the last block for the pooled token only, which training and the export to ONNX run.  forward:
model/forward.py, which inference runs.  All have the same weights, random ones, and the same inputs; they take turns.
bfloat16: in the training step transformers' forward pass under torch's autocast, and train/cpu_towers.py; for features
both with weights in bfloat16.  The last lines of the output are the least cosine of its features to those of float32.
Features: ViT-B/32, 64 random images, 256 texts of 4 to 40 tokens, padded by batches of 64 of like length.  Training
step: the emoji demo's model, 128 pairs.  ONNX: ViT-B/32's image encoder in onnxruntime, 8 images.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from worldclip.model import clip, forward, towers
from worldclip.model.config import ModelConfig, PresetName
from worldclip.model.tokenizer import Tokens

RESULTS = Path(__file__).parent / "results" / "encoders.md"
PEER, PEER_BF16 = "transformers", "transformers, bfloat16"
VOCAB = 16_000
Sides = Mapping[str, Callable[[], Any]]


def tokenizer(context_length: int) -> Any:
    return SimpleNamespace(bos_id=0, pad_id=1, eos_id=2, vocab_size=VOCAB, context_length=context_length)


def make_model(preset: PresetName) -> Any:
    config = ModelConfig(preset=preset)
    context_length = config.architecture().context_length
    return clip.create_model(clip.model_config(config, tokenizer(context_length)), seed=0)


def make_tokens(number: int, longest: int) -> Tokens:
    generator = np.random.default_rng(0)
    rows = [[*generator.integers(3, VOCAB, length - 1), 2] for length in generator.integers(4, longest + 1, number)]
    return Tokens(np.concatenate(rows).astype(np.int64), np.cumsum([0, *map(len, rows)]), 1)


def image_of_transformers(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    return tower(pixel_values=pixels).pooler_output


def text_of_transformers(tower: Any, ids: torch.Tensor) -> torch.Tensor:
    return tower(input_ids=ids).pooler_output


def features(images: int = 64, texts: int = 256) -> dict[str, Sides]:
    model = make_model("vit_b32").eval()
    small = make_model("vit_b32").eval().bfloat16()
    pixels, tokens = torch.randn(images, 3, 224, 224), make_tokens(texts, 40)
    small_pixels = pixels.bfloat16()
    num_chunks = texts // 64
    cases: dict[str, Sides] = {
        f"{images} images": {
            PEER: lambda: clip.image_features(model, pixels, image_of_transformers),
            "towers": lambda: clip.image_features(model, pixels),
            "forward": lambda: forward.embed_pixels(model, pixels),
            PEER_BF16: lambda: clip.image_features(small, small_pixels, image_of_transformers),
            "forward, bfloat16": lambda: forward.embed_pixels(small, small_pixels),
        },
        f"{texts} texts": {
            PEER: lambda: clip.text_features(model, tokens, num_chunks, text_of_transformers),
            "towers": lambda: clip.text_features(model, tokens, num_chunks),
            "forward": lambda: forward.embed_tokens(model, tokens, num_chunks),
            PEER_BF16: lambda: clip.text_features(small, tokens, num_chunks, text_of_transformers),
            "forward, bfloat16": lambda: forward.embed_tokens(small, tokens, num_chunks),
        },
    }
    for sides in cases.values():
        expected = sides[PEER]()
        for name, call in sides.items():
            if "bfloat16" not in name:
                torch.testing.assert_close(call(), expected, atol=1e-5, rtol=1e-4)
    return cases


def least_cosines(sides: Sides) -> dict[str, float]:
    """Return of each side in bfloat16 the least cosine of a feature to the same one in float32."""
    expected = sides[PEER]()
    return {
        name: float((call().float() * expected).sum(dim=-1).min()) for name, call in sides.items() if "bfloat16" in name
    }


def training_step(pairs: int = 128) -> dict[str, Sides]:
    from worldclip.core.settings import load_config
    from worldclip.train.config import TrainConfig
    from worldclip.train.distributed import ALONE
    from worldclip.train.loader import Batch
    from worldclip.train.step import train_step
    from worldclip.train.train_state import TrainState, create_train_state

    def create(precision: str) -> TrainState:
        settings = {"model": {"preset": "tiny"}, "global_batch_size": pairs, "precision": precision}
        return create_train_state(load_config(TrainConfig, settings), ids, ALONE, torch.device("cpu"), None)

    sizes = ModelConfig(preset="tiny").architecture()
    ids = tokenizer(sizes.context_length)
    state, state_fp32, state_bf16, state_autocast = (create(name) for name in ("fp32", "fp32", "bf16", "bf16"))
    state.model._towers = None
    state_autocast.model._towers, state_autocast.model.autocasts = None, True
    images = torch.randint(0, 256, (pairs, 3, sizes.image_size, sizes.image_size), dtype=torch.uint8)
    batch: Any = Batch(images, make_tokens(pairs, 16), [], np.zeros(0), {})  # type: ignore[arg-type]

    def step(of: TrainState, vision: Any, text: Any) -> None:
        of.model._run_vision, of.model._run_text = vision, text
        train_step(of, batch, 1e-4)

    sides = {
        PEER: lambda: step(state, image_of_transformers, text_of_transformers),
        "towers": lambda: step(state, towers.pooled_image, towers.pooled_text),
        PEER_BF16: lambda: step(state_autocast, image_of_transformers, text_of_transformers),
        "train/cpu_towers.py": lambda: train_step(state_fp32, batch, 1e-4),
        "train/cpu_towers.py, bfloat16": lambda: train_step(state_bf16, batch, 1e-4),
    }
    return {f"training step, {pairs} pairs": sides}


class ByTransformers(torch.nn.Module):
    """An image encoder as it was exported before: transformers' forward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projection = model.vision_model, model.visual_projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.projection(self.tower(pixel_values=pixel_values).pooler_output)


def onnx_graphs(folder: Path, threads: int, images: int = 8) -> dict[str, Sides]:
    import onnxruntime

    from worldclip.model.formats.onnx_graphs import image_encoder, write_graph

    model = make_model("vit_b32").eval()
    pixels = {"pixel_values": torch.randn(images, 3, 224, 224)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sides: dict[str, Callable[[], Any]] = {}
    for name, encoder in ((PEER, ByTransformers(model)), ("towers", image_encoder(model))):
        path = folder / f"{name}.onnx"
        write_graph(encoder, pixels, "image_embeds", path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = {"pixel_values": pixels["pixel_values"].numpy()}
        sides[name] = lambda session=session, inputs=inputs: session.run(None, inputs)
    return {f"ONNX, {images} images": sides}


def measure(sides: Sides, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, call in sides.items():
            started_at = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started_at)
    return {name: seconds[1:] for name, seconds in times.items()}


def to_rows(what: str, times: Mapping[str, list[float]]) -> list[str]:
    """A row for each side: its median, and the median over rounds of the peer's time divided by its own."""
    rows = []
    for name, seconds in times.items():
        ratio = statistics.median(peer / own for peer, own in zip(times[PEER], seconds, strict=True))
        rows.append(f"| {what} | {name} | {1000 * statistics.median(seconds):,.0f} | {ratio:.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [
        "# Encoders",
        "",
        f"{date.today()}, {platform.machine()}, {arguments.threads} thread(s) of {os.cpu_count()} cores; torch "
        f"{torch.__version__}, transformers {version('transformers')}, onnxruntime {version('onnxruntime')}. Random "
        f"weights, float32 where nothing else is said, {arguments.rounds} rounds in turns. "
        "Written by `benchmarks/encoders.py`.",
        "",
        "| what | by | ms | transformers / it |",
        "|---|---|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        lines += [
            row for what, sides in training_step().items() for row in to_rows(what, measure(sides, arguments.rounds))
        ]
        with torch.inference_mode():
            cases = features()
            for what, sides in cases.items():
                lines += to_rows(what, measure(sides, arguments.rounds))
            cosines = [
                f"{what}, {name}: {cosine:.5f}"
                for what, sides in cases.items()
                for name, cosine in least_cosines(sides).items()
            ]
        for what, sides in onnx_graphs(Path(temporary), arguments.threads).items():
            lines += to_rows(what, measure(sides, arguments.rounds))
    lines += ["", f"Least cosine to the features of {PEER} in float32: {'; '.join(cosines)}."]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
