"""The model as a step runs it: images and tokens in, features out, in one module that DDP or FSDP can wrap.

B pairs, D embed_dim, S image side, P patches kept of an image, W width of the image encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from worldclip.model.clip import TextChunks, image_features, normalise_pixels, pixel_statistics, text_features
from worldclip.model.tokenizer import Tokens
from worldclip.model.towers import pooled_image, pooled_text, pooling_block
from worldclip.train.cpu_towers import Towers
from worldclip.train.distributed import Gathering, World, start_gathering
from worldclip.train.lora import stored_name

if TYPE_CHECKING:
    from transformers import MetaClip2Model

# Texts of a batch run in length-sorted chunks, each padded to its own longest text.  Captions are short: most of a
# batch's 77 columns would be padding.
TEXT_CHUNKS = 4
# initial values, arXiv:2303.15343, section 3.2
SIGLIP_SCALE = math.log(10)
SIGLIP_BIAS = -10.0


class DualEncoder(torch.nn.Module):
    """Both encoders of a MetaClip2Model, and SigLIP's bias where the loss has one."""

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        clip: MetaClip2Model,
        *,
        precision: str,
        loss: str,
        text_chunks: int = TEXT_CHUNKS,
        world: World | None = None,
    ) -> None:
        """world: the ranks to which image features are sent while the texts are encoded; None: they are not sent."""
        super().__init__()
        self.clip = clip
        self.autocasts = precision == "bf16"
        self.towers: Towers | None = None  # set on a CPU
        self.text_chunks = text_chunks
        self.world = world
        self._all_images: Gathering | None = None
        self.logit_bias: torch.nn.Parameter | None = None
        if loss == "siglip":
            self.logit_bias = torch.nn.Parameter(torch.tensor(SIGLIP_BIAS, device=clip.logit_scale.device))
        mean, std = pixel_statistics(clip.logit_scale.device)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self._run_vision: Callable[..., torch.Tensor] = pooled_image
        self._run_text: Callable[..., torch.Tensor] = pooled_text
        self._kept_BP: torch.Tensor | None = None
        clip.vision_model.embeddings.register_forward_hook(self._drop_patches)

    def forward(
        self, images_B3SS: torch.Tensor, texts: Tokens | TextChunks, kept_BP: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (image features, text features), each (B, D) float32 of unit length.

        images_B3SS: uint8.  texts: tokens of the B texts, or their chunks.  kept_BP: int64 patches to keep; None keeps
        all.
        """
        device = self.clip.logit_scale.device
        images_B3SS = images_B3SS.to(device, non_blocking=True)
        pixels = normalise_pixels(images_B3SS, self.pixel_mean, self.pixel_std)
        self._kept_BP = None if kept_BP is None else kept_BP.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocasts):
            if self.towers is not None:
                image_BD = self.towers.image_features(pixels)
            else:
                image_BD = image_features(self.clip, pixels, self._run_vision)
            if self.world is not None and torch.is_grad_enabled():
                self._all_images = start_gathering(image_BD.detach(), self.world)
            if self.towers is not None:
                assert isinstance(texts, Tokens)  # chunks are made for GPUs
                return image_BD, self.towers.text_features(texts)
            return image_BD, text_features(self.clip, texts, self.text_chunks, self._run_text)

    def take_all_images(self) -> Gathering | None:
        """Return the image features of all ranks, of the latest forward pass, once; None where they were not sent."""
        all_images = self._all_images
        self._all_images = None
        return all_images

    def multiply_by_onednn(self) -> None:
        """Run both towers as train/cpu_towers.py does, from the present weights on."""
        self.towers = Towers(self.clip, torch.bfloat16 if self.autocasts else torch.float32)
        self.autocasts = False

    def compile_towers(self) -> None:
        """Let torch compile the towers.  Texts are trimmed, so that each batch has another length."""
        for tower in (self.clip.vision_model, self.clip.text_model):
            pooling_block(tower.encoder.layers[-1])
        self._run_vision = torch.compile(pooled_image, dynamic=False)
        self._run_text = torch.compile(pooled_text, dynamic=True)

    def _drop_patches(self, module: torch.nn.Module, inputs: Any, embedded_BPW: torch.Tensor) -> torch.Tensor | None:
        """Pass on only the class token and the kept patches of the embedded image (FLIP, arXiv:2212.00794)."""
        if self._kept_BP is None:
            return None
        rows = torch.nn.functional.pad(self._kept_BP + 1, (1, 0))  # the class token is row 0
        self._kept_BP = None
        return embedded_BPW.gather(1, rows[:, :, None].expand(-1, -1, embedded_BPW.shape[2]))

    def scalars(self) -> list[torch.nn.Parameter]:
        """Return the scalar parameters.  Each rank holds them whole; the step averages their gradients."""
        return [parameter for parameter in self.parameters() if parameter.ndim == 0]

    def checkpoint_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return every parameter by its name in the Hugging Face folder; `logit_bias` and adapters by their own."""
        return {stored_name(name.removeprefix("clip.")): parameter for name, parameter in self.named_parameters()}
