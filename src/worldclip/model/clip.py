"""The model is transformers' MetaClip2Model: its configuration from our presets, its initial weights, its features.

B batch, D embed_dim, S image side.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError, require
from worldclip.model.config import ModelConfig
from worldclip.model.published import activation
from worldclip.model.tokenizer import Tokenizer, Tokens, require_transformers

if TYPE_CHECKING:
    import torch
    from transformers import CLIPImageProcessor, MetaClip2Config, MetaClip2Model

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # arXiv:2103.00020, section 2.5
MAX_LOGIT_SCALE = math.log(100)  # the same
MAX_SPARE_ROWS = 0.05  # share of a token table that was filled up to a round number; more means another tokenizer
# arXiv:2507.22062 trains with OpenAI's statistics of pixels in [0, 1], red, green, blue
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def model_config(config: ModelConfig, tokenizer: Tokenizer) -> MetaClip2Config:
    """Hugging Face's configuration of `config`, its special ids those of `tokenizer`.

    The default end token of MetaClip2Config belongs to another tokenizer: pooling there would train, and score badly.
    """
    transformers = require_transformers()
    sizes = config.architecture()
    shared = {"hidden_act": activation(config.preset, sizes.image_size), "projection_dim": sizes.embed_dim}
    found = transformers.MetaClip2Config(
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
    check_tokenizer(found, tokenizer)
    return found


def check_tokenizer(config: MetaClip2Config, tokenizer: Tokenizer) -> None:
    """Raises UserError where the model would read other ids than the tokenizer writes."""
    text: Any = config.text_config
    problems = [
        f"the model's {name} is {getattr(text, name)}, the tokenizer's {wanted}; they must be the same tokenizer's"
        for name, wanted in (("eos_token_id", tokenizer.eos_id), ("pad_token_id", tokenizer.pad_id))
        if getattr(text, name) != wanted
    ]
    if not 0 <= text.vocab_size - tokenizer.vocab_size <= MAX_SPARE_ROWS * text.vocab_size:
        problems.append(
            f"the model has {text.vocab_size} token rows, the tokenizer {tokenizer.vocab_size} ids; such a "
            "difference means another tokenizer"
        )
    if tokenizer.context_length > text.max_position_embeddings:
        problems.append(
            f"texts of {tokenizer.context_length} tokens do not fit {text.max_position_embeddings} positions"
        )
    if problems:
        raise UserError(problems)


def create_model(config: MetaClip2Config, seed: int) -> MetaClip2Model:
    """A model with fresh weights, in float32 on the CPU: a pure function of the configuration and `seed`."""
    torch = require("torch", extra="train")
    transformers = require_transformers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.MetaClip2Model(config)
        with torch.no_grad():
            _initialise(model)
    return model


def _initialise(model: MetaClip2Model) -> None:
    """CLIP's scheme (arXiv:2103.00020, as released), in both towers; transformers' own swaps the scales of the
    attention's input and output.  Biases are 0 and gains 1 already.
    """
    text, vision = model.text_model, model.vision_model
    text.embeddings.token_embedding.weight.normal_(std=0.02)
    text.embeddings.position_embedding.weight.normal_(std=0.01)
    vision_width = vision.config.hidden_size
    vision.embeddings.class_embedding.normal_(std=vision_width**-0.5)
    vision.embeddings.position_embedding.weight.normal_(std=vision_width**-0.5)
    vision.embeddings.patch_embedding.reset_parameters()
    for tower in (text, vision):
        width, layers = tower.config.hidden_size, tower.config.num_hidden_layers
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        for block in tower.encoder.layers:
            for name in ("q_proj", "k_proj", "v_proj"):
                getattr(block.self_attn, name).weight.normal_(std=width**-0.5)
            block.self_attn.out_proj.weight.normal_(std=residual_std)
            block.mlp.fc1.weight.normal_(std=(2 * width) ** -0.5)
            block.mlp.fc2.weight.normal_(std=residual_std)
    model.text_projection.weight.normal_(std=text.config.hidden_size**-0.5)
    model.visual_projection.weight.normal_(std=vision_width**-0.5)


def image_features(model: MetaClip2Model, pixels_B3SS: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) normalised pixels -> (B, D) float32 of unit length."""
    import torch

    pooled = model.vision_model(pixel_values=pixels_B3SS).pooler_output
    return torch.nn.functional.normalize(model.visual_projection(pooled).float(), dim=-1)


def text_features(model: MetaClip2Model, tokens: Tokens, num_chunks: int = 1) -> torch.Tensor:
    """Tokens of B texts -> (B, D) float32 of unit length.

    The batch runs as `num_chunks` chunks of texts of similar length, each padded to its own longest: the tower is
    causal and reads the end token, so that padding behind it changes nothing but the time.
    """
    import torch

    device = model.logit_scale.device
    order = np.argsort(tokens.lengths, kind="stable")
    features = []
    for rows in np.array_split(order, min(num_chunks, max(1, len(order)))):
        ids = torch.from_numpy(tokens.padded(rows)).to(device)
        features.append(model.text_projection(model.text_model(input_ids=ids).pooler_output))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    gathered_BD = torch.cat(features)[torch.from_numpy(place).to(device)]
    return torch.nn.functional.normalize(gathered_BD.float(), dim=-1)


def normalise_pixels(images_B3SS: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) uint8 -> float32 as the model reads them."""
    import torch

    mean = torch.tensor(IMAGE_MEAN, device=images_B3SS.device).view(3, 1, 1)
    std = torch.tensor(IMAGE_STD, device=images_B3SS.device).view(3, 1, 1)
    return images_B3SS.float().div_(255).sub_(mean).div_(std)


def image_processor(image_size: int) -> CLIPImageProcessor:
    """Hugging Face's preprocessing for evaluation: the short side to image_size, bicubic, the central square."""
    transformers = require_transformers()
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def pick_device(name: str) -> torch.device:
    """`auto`: cuda, else mps, else cpu.  Raises UserError for a device that is not there."""
    torch = require("torch", extra="train")
    is_there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if is_there[device]))
    if not is_there.get(name, False):
        there = ", ".join(device for device, found in is_there.items() if found)
        raise UserError(f"device is {name!r}; here there is {there} (auto picks the best)")
    return torch.device(name)


def count_parameters(model: MetaClip2Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
