"""Encoders for the machine-learning service of immich, a photo library: float32, one image or text per call.

FOLDER/config.json                    the service reads text_cfg.context_length; logit_scale is for worldclip
FOLDER/visual/model.onnx              image (1, 3, S, S) float32 -> embedding (1, D), of unit length
FOLDER/visual/preprocess_cfg.json     as in open_clip: size, interpolation, resize_mode, mean, std
FOLDER/textual/model.onnx             text (1, context length) int32, padded -> embedding (1, D), of unit length
FOLDER/textual/tokenizer.json         and tokenizer_config.json, whose pad_token the service reads
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.artifacts import read_json, write_json
from worldclip.core.errors import UserError, require
from worldclip.core.job import Report
from worldclip.model import preprocess, sample_inputs
from worldclip.model.formats import onnx_folder, onnx_graphs
from worldclip.model.formats.huggingface_folder import read_tokenizer
from worldclip.model.formats.interface import CardFacts, LoadOptions, about, largest_difference
from worldclip.model.formats.onnx_backend import open_session
from worldclip.model.formats.open_clip_folder import preprocessing
from worldclip.model.inference import Clip
from worldclip.model.tokenizer import Tokens
from worldclip.model.weights import COUNT, POSITIVE, read_json_config, require_values

VISUAL, TEXTUAL, MODEL = "visual", "textual", "model.onnx"
OUTPUT = "embedding"
LOGIT_SCALE = 100.0  # the largest that training allows, for folders of earlier versions without logit_scale

requires = onnx_folder.requires
OPTIONS: tuple[str, ...] = ()
has_torch_weights, yields_to = False, ""
CARD = CardFacts(
    library="onnxruntime",
    use=(
        "import onnxruntime",
        "",
        'images = onnxruntime.InferenceSession("THIS FOLDER/visual/model.onnx")  # image: (1, 3, S, S) float32',
        'texts = onnxruntime.InferenceSession("THIS FOLDER/textual/model.onnx")  # text: (1, context length) int32',
    ),
    checked=largest_difference("onnxruntime"),
    files=("*.json", "textual/*", "visual/*"),
    about=about("A CLIP for the photo library immich")
    + " Put this folder into the model cache of immich's machine-learning service as `clip/NAME`, where NAME is a "
    "model that immich knows, of as many dimensions.",
)


def write(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> None:
    """Write both encoders.  Raises UserError for a tokenizer without tokenizer.json, the one file that is read."""
    import torch

    for name in (VISUAL, TEXTUAL):
        (folder / name).mkdir()
    clip.require_tokenizer().save(folder / TEXTUAL)
    if not (folder / TEXTUAL / "tokenizer.json").exists():
        raise UserError(
            f"the model's tokenizer ({type(clip.require_tokenizer().hf).__name__}) has no tokenizer.json, which immich "
            "reads; leave immich out of the formats, or export a model with XLM-V's tokenizer or one of worldclip"
        )
    facts = preprocess.facts_of(clip.processor)
    context_length = clip.model.config.text_config.max_position_embeddings
    write_json(folder / VISUAL / "preprocess_cfg.json", {"size": facts.size, **preprocess.to_open_clip(facts)})
    config = {
        "embed_dim": clip.embed_dim,
        "vision_cfg": {"image_size": facts.size},
        "text_cfg": {"context_length": context_length},
        "logit_scale": clip.backend.logit_scale,  # the graphs do not hold it
    }
    write_json(folder / "config.json", config)
    image = torch.zeros(1, 3, facts.size, facts.size)
    text = torch.full((1, context_length), clip.require_tokenizer().eos_id, dtype=torch.int32)
    for name, encoder, argument, example in (
        (VISUAL, onnx_graphs.image_encoder(clip.model), "image", image),
        (TEXTUAL, onnx_graphs.text_encoder(clip.model), "text", text),
    ):
        onnx_graphs.write_graph(_normalised(encoder), {argument: example}, OUTPUT, folder / name / MODEL)


def _normalised(encoder: Any) -> Any:
    """Return an encoder of one argument, pixels or int32 ids, whose embeddings have unit length."""
    import torch

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if inputs.is_floating_point():
                features = self.encoder(inputs)
            else:
                ids = inputs.long()
                # no mask is given: attention is causal, so padding after the end token changes nothing before it
                features = self.encoder(ids, torch.ones_like(ids))
            return torch.nn.functional.normalize(features, dim=-1)

    return Normalised()


def missing(folder: Path) -> str | None:
    absent = [f"{name}/{MODEL}" for name in (VISUAL, TEXTUAL) if not (folder / name / MODEL).is_file()]
    return f"no {' and no '.join(absent)}" if absent else None


def read(path: Path, options: LoadOptions) -> Clip:
    """Load a folder as the service does, to check it before it is copied there."""
    if options.device not in ("auto", "cpu"):
        raise UserError(f"device = {options.device!r}: an immich folder runs on the CPU; use auto or cpu")
    config = {"logit_scale": LOGIT_SCALE} | read_json_config(path / "config.json")
    kinds = dict.fromkeys(("text_cfg.context_length", "vision_cfg.image_size"), COUNT) | {"logit_scale": POSITIVE}
    require_values(config, kinds, path / "config.json")
    settings = read_json_config(path / VISUAL / "preprocess_cfg.json")
    tokenizer = read_tokenizer(str(path / TEXTUAL), config["text_cfg"]["context_length"])
    graphs = [open_session(path / name / MODEL) for name in (VISUAL, TEXTUAL)]
    backend = ImmichBackend(graphs[0], graphs[1], tokenizer.context_length, float(config["logit_scale"]))
    return Clip(backend, tokenizer, preprocessing(settings, config["vision_cfg"]["image_size"]))


@dataclass(frozen=True, slots=True)
class ImmichBackend:
    """Both encoders in onnxruntime, one image or text per call."""

    image: Any
    text: Any
    context_length: int
    logit_scale: float

    @property
    def embed_dim(self) -> int:
        return int(self.image.get_outputs()[0].shape[1])

    def encode_pixels(self, pixels_B3SS: Any) -> np.ndarray:
        return _run(self.image, "image", np.asarray(pixels_B3SS, np.float32))

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        ids_BT = tokens.padded(np.arange(len(tokens)))
        width = self.context_length - ids_BT.shape[1]
        padded_BT = np.pad(ids_BT, ((0, 0), (0, width)), constant_values=tokens.pad_id)
        return _run(self.text, "text", padded_BT.astype(np.int32))


def compare(clip: Clip, folder: Path, precisions: Sequence[str] = ()) -> Report:
    """Compare in onnxruntime, with tokens made of the folder's files as the service makes them."""
    pixels = sample_inputs.pixels(clip)
    texts = [" ".join(text.split()) for text in sample_inputs.TEXTS]
    graphs = {name: folder / name / MODEL for name in (VISUAL, TEXTUAL)}
    for path in graphs.values():
        onnx_graphs.check_file(path)
    images_BD = _run(open_session(graphs[VISUAL]), "image", pixels.numpy())
    texts_BD = _run(open_session(graphs[TEXTUAL]), "text", _token_ids(folder, texts))
    difference = sample_inputs.embedding_difference(clip, pixels, images_BD, texts_BD, texts)
    return {"max_difference": sample_inputs.require_close(difference, "onnxruntime")}


def _run(session: Any, argument: str, inputs: np.ndarray) -> np.ndarray:
    """Return the embeddings of the rows, (B, D); the graph takes one row per call."""
    return np.concatenate([session.run([OUTPUT], {argument: row[None]})[0] for row in inputs])


def _token_ids(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Return (B, context length) int32, made only by tokenizer.json."""
    tokenizers = require("tokenizers", extra="export")
    length = read_json(folder / "config.json")["text_cfg"]["context_length"]
    pad_token = read_json(folder / TEXTUAL / "tokenizer_config.json")["pad_token"]
    pipeline = tokenizers.Tokenizer.from_file(str(folder / TEXTUAL / "tokenizer.json"))
    pipeline.enable_padding(length=length, pad_token=pad_token, pad_id=pipeline.token_to_id(pad_token))
    pipeline.enable_truncation(max_length=length)
    return np.array([encoding.ids for encoding in pipeline.encode_batch(list(texts))], dtype=np.int32)
