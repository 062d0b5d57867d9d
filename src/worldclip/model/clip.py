"""Build transformers' MetaClip2Model from our presets, give it initial weights, and compute its features.

B batch, D embed_dim, S image side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError, require
from worldclip.model import preprocess
from worldclip.model.config import Architecture, Init, ModelConfig
from worldclip.model.published import PublishedTokenizer, activation
from worldclip.model.tokenizer import Tokenizer, Tokens, require_transformers
from worldclip.model.towers import pooled_image, pooled_text

if TYPE_CHECKING:
    import torch
    from transformers import CLIPImageProcessor, MetaClip2Config, MetaClip2Model

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # arXiv:2103.00020, section 2.5
MAX_LOGIT_SCALE = math.log(100)  # the same section: clipped so that logits are not scaled by more than 100
# A token table may be filled up to a round number.  A larger share of unused rows means another model's tokenizer.
MAX_SPARE_ROWS = 0.05
# arXiv:2507.22062 trains with OpenAI's statistics of pixels in [0, 1], red, green, blue
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def model_config(config: ModelConfig, tokenizer: Tokenizer | PublishedTokenizer) -> MetaClip2Config:
    """Return Hugging Face's configuration of `config` with the special ids of `tokenizer`.

    Raises UserError where the tokenizer does not fit.
    """
    sizes = config.architecture()
    hidden_act = config.activation or activation(config.preset, sizes.image_size)
    built = build_config(sizes, hidden_act, tokenizer)
    check_tokenizer(built, tokenizer)
    return built


def build_config(sizes: Architecture, hidden_act: str, tokenizer: Tokenizer | PublishedTokenizer) -> MetaClip2Config:
    """Return Hugging Face's configuration of an architecture.

    The special ids are always passed: the default end token of MetaClip2Config (49407) is OpenAI CLIP's, and pooling
    at an id that no text holds would train, and score badly.
    """
    shared = {"hidden_act": hidden_act, "projection_dim": sizes.embed_dim}
    config: MetaClip2Config = require_transformers().MetaClip2Config(
        projection_dim=sizes.embed_dim,
        logit_scale_init_value=INITIAL_LOGIT_SCALE,
        text_config={
            "vocab_size": tokenizer.vocab_size,
            "hidden_size": sizes.text_width,
            "intermediate_size": 4 * sizes.text_width,
            "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": sizes.text_width // sizes.text_head_width,
            "max_position_embeddings": sizes.context_length,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
            **shared,
        },
        vision_config={
            "hidden_size": sizes.vision_width,
            "intermediate_size": round(sizes.vision_width * sizes.vision_mlp_ratio),
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_width // sizes.vision_head_width,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            **shared,
        },
    )
    return config


def check_tokenizer(config: MetaClip2Config, tokenizer: Tokenizer | PublishedTokenizer) -> None:
    """Raise UserError where the model reads other ids than the tokenizer writes, or fewer of them.

    The padding decides nothing: the tower is causal and pools at the end token.
    """
    text: Any = config.text_config
    problems = []
    if text.eos_token_id != tokenizer.eos_id:
        problems.append(
            f"the model's eos_token_id is {text.eos_token_id}, the tokenizer's is {tokenizer.eos_id}; use the model's "
            "own tokenizer"
        )
    if not 0 <= text.vocab_size - tokenizer.vocab_size <= MAX_SPARE_ROWS * text.vocab_size:
        problems.append(
            f"the model has {text.vocab_size} token rows, the tokenizer {tokenizer.vocab_size} ids; use the model's "
            "own tokenizer"
        )
    if tokenizer.context_length > text.max_position_embeddings:
        problems.append(
            f"texts of {tokenizer.context_length} tokens do not fit into {text.max_position_embeddings} positions"
        )
    if problems:
        raise UserError(problems)


def create_model(config: MetaClip2Config, seed: int, init: Init = "scaled") -> MetaClip2Model:
    """Return a model with initial weights, float32 on the CPU: a pure function of the arguments.

    init: see ModelConfig.init.  Gains are 1 already, and biases 0.

    transformers' own initialisation exchanges the scales of the attention's input and output projections.  Under
    `reference`, blocks are as OpenAI's release leaves them (github.com/openai/CLIP, MIT: `initialize_parameters` of
    model.py draws the text tower's weight matrices and nothing else), and as open_clip and Meta CLIP train.  The order
    of the draws is part of what a seed means.
    """
    torch = require("torch", extra="train")
    transformers = require_transformers()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: MetaClip2Model = transformers.MetaClip2Model(config)
        text = model.text_model
        vision = model.vision_model
        text.embeddings.token_embedding.weight.normal_(std=0.02)
        text.embeddings.position_embedding.weight.normal_(std=0.01)
        vision_width = vision.config.hidden_size
        vision.embeddings.class_embedding.normal_(std=vision_width**-0.5)
        vision.embeddings.position_embedding.weight.normal_(std=vision_width**-0.5)
        vision.embeddings.patch_embedding.reset_parameters()
        for tower in (text, vision):
            for block in tower.encoder.layers:
                if init == "reference":
                    _draw_as_pytorch(block)
                if init == "scaled" or tower is text:
                    _draw_scaled(block, tower.config.hidden_size, tower.config.num_hidden_layers)
        model.text_projection.weight.normal_(std=text.config.hidden_size**-0.5)
        model.visual_projection.weight.normal_(std=vision_width**-0.5)
    return model


def create_empty_model(config: MetaClip2Config, device: str = "cpu") -> MetaClip2Model:
    """Return a model whose weights are read next, in float32: nothing is drawn, memory is not filled.

    device: "meta" for a model without memory; after `to_empty` it needs `fill_position_ids`.
    """
    torch = require("torch", extra="train")
    with torch.device("meta"):
        model: MetaClip2Model = require_transformers().MetaClip2Model(config)
    if device != "meta":
        model.to_empty(device=device)
        fill_position_ids(model)
    return model


def fill_position_ids(model: MetaClip2Model) -> None:
    """Fill the only values of a model that are no weights."""
    import torch

    for name, buffer in model.named_buffers():
        assert name.endswith("position_ids"), name
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))


def _draw_scaled(block: Any, width: int, layers: int) -> None:
    """Draw a block's weight matrices by the scheme of CLIP's text tower: normal, scaled by width and depth."""
    residual_std = width**-0.5 * (2 * layers) ** -0.5  # two residual branches per block
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(block.self_attn, name).weight.normal_(std=width**-0.5)
    block.self_attn.out_proj.weight.normal_(std=residual_std)
    block.mlp.fc1.weight.normal_(std=(2 * width) ** -0.5)
    block.mlp.fc2.weight.normal_(std=residual_std)


def _draw_as_pytorch(block: Any) -> None:
    """Draw a block as PyTorch's `MultiheadAttention` and `Linear` draw themselves: uniform, the MLP's biases too."""
    attention = block.self_attn
    width = attention.q_proj.in_features
    # MultiheadAttention draws query, key and value as one matrix of (3 width, width) by Glorot's rule.
    bound = math.sqrt(6 / (width + 3 * width))
    for name in ("q_proj", "k_proj", "v_proj"):
        getattr(attention, name).weight.uniform_(-bound, bound)
    for linear in (attention.out_proj, block.mlp.fc1, block.mlp.fc2):
        linear.reset_parameters()
    attention.out_proj.bias.zero_()


def image_features(
    model: MetaClip2Model, pixels_B3SS: torch.Tensor, run_tower: Callable[..., torch.Tensor] = pooled_image
) -> torch.Tensor:
    """Map (B, 3, S, S) normalised pixels to (B, D) float32 of unit length.

    run_tower: pooled_image, or what torch.compile made of it.
    """
    import torch

    pooled = run_tower(model.vision_model, pixels_B3SS)
    return torch.nn.functional.normalize(model.visual_projection(pooled).float(), dim=-1)


@dataclass(frozen=True, slots=True)
class TextChunks:
    """B texts as the text tower reads them: in chunks of similar length, each padded to its own longest."""

    ids: list[torch.Tensor]
    """Token ids of each chunk, (texts, longest) int64."""
    position_B: torch.Tensor
    """Position of each text in the concatenated chunks, (B,) int64."""

    @classmethod
    def of(cls, tokens: Tokens, num_chunks: int) -> TextChunks:
        """Sort texts by length into num_chunks chunks (fewer for fewer texts)."""
        import torch

        chunks = tokens.chunks_by_length(num_chunks)
        order = np.concatenate(chunks)
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        return cls([torch.from_numpy(tokens.padded(rows)) for rows in chunks], torch.from_numpy(position))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TextChunks:
        """Return the chunks with each tensor changed, for example copied to a device."""
        return TextChunks([change(ids) for ids in self.ids], change(self.position_B))


def text_features(
    model: MetaClip2Model,
    texts: Tokens | TextChunks,
    num_chunks: int = 1,
    run_tower: Callable[..., torch.Tensor] = pooled_text,
) -> torch.Tensor:
    """Map B texts to (B, D) float32 of unit length.

    Tokens run as `num_chunks` chunks of texts of similar length, each padded to its own longest.  The tower is causal
    and pools at the end token, so padding after it changes nothing but the time.  run_tower: pooled_text, or what
    torch.compile made of it.
    """
    import torch

    device = model.logit_scale.device
    if not isinstance(texts, TextChunks):
        texts = TextChunks.of(texts, num_chunks)
    chunks = texts.map(lambda tensor: tensor.to(device))
    features = [model.text_projection(run_tower(model.text_model, ids)) for ids in chunks.ids]
    gathered_BD = torch.cat(features)[chunks.position_B]
    return torch.nn.functional.normalize(gathered_BD.float(), dim=-1)


def pixel_statistics(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of pixels in [0, 1], (3, 1, 1) float32 each."""
    import torch

    mean = torch.tensor(IMAGE_MEAN, device=device)
    std = torch.tensor(IMAGE_STD, device=device)
    return mean.view(3, 1, 1), std.view(3, 1, 1)


def normalise_pixels(images_B3SS: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Map (B, 3, S, S) uint8 to float32 as the model reads them.

    mean, std: what pixel_statistics returned, on the device already: a copy from pageable memory would wait for it.
    """
    return images_B3SS.float().div_(255).sub_(mean).div_(std)


def image_processor(image_size: int) -> CLIPImageProcessor:
    """Return Hugging Face's preprocessing for evaluation: short side to image_size, bicubic, then a central crop."""
    return preprocess.to_hugging_face(preprocess.Preprocess(image_size, "shortest", IMAGE_MEAN, IMAGE_STD))


def pick_device(name: str) -> torch.device:
    """Return the device: cpu, cuda, cuda:N or mps; `auto` is cuda, else mps, else cpu.

    Raises UserError for a device that is not available.
    """
    require("torch", extra="train")
    import torch

    available = ["cpu"]
    num_gpus = 0
    best = "cpu"
    if torch.backends.mps.is_available():
        available.append("mps")
        best = "mps"
    if torch.cuda.is_available():
        num_gpus = torch.cuda.device_count()
        available += ["cuda", *(f"cuda:{number}" for number in range(num_gpus))]
        best = "cuda"
    if name == "auto":
        return torch.device(best)
    if name not in available:
        machine = "this machine"
        if name.startswith("cuda") and not num_gpus:
            machine = "this machine, which has no CUDA GPU"
        raise UserError(f"device = {name!r}: not available on {machine}; use auto or one of: {', '.join(available)}")
    return torch.device(name)


def device_problems(section: str, name: str) -> list[str]:
    """Return the problem of `section`.device, if the device is not available here.  torch is needed."""
    try:
        pick_device(name)
    except UserError as error:
        return [f"{section}.{problem}" for problem in error.problems]
    return []
