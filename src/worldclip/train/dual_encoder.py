"""The model as a step runs it: images and tokens in, features out, in one module that DDP or FSDP can wrap.

B pairs, D embed_dim, S image side, P patches that are kept of an image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from worldclip.model.clip import image_features, normalise_pixels, text_features
from worldclip.model.tokenizer import Tokens

if TYPE_CHECKING:
    from transformers import MetaClip2Model

TEXT_CHUNKS = 4  # length-sorted chunks that the texts of a batch run in
SIGLIP_SCALE, SIGLIP_BIAS = math.log(10), -10.0  # initial values, arXiv:2303.15343, section 3.2


class TwoTowers(torch.nn.Module):
    """Both towers of a MetaClip2Model; SigLIP's bias beside them where the loss has one."""

    def __init__(self, clip: MetaClip2Model, *, precision: str, loss: str, text_chunks: int = TEXT_CHUNKS) -> None:
        super().__init__()
        self.clip = clip
        self.precision, self.text_chunks = precision, text_chunks
        self.logit_bias: torch.nn.Parameter | None = None
        if loss == "siglip":
            self.logit_bias = torch.nn.Parameter(torch.tensor(SIGLIP_BIAS, device=clip.logit_scale.device))
        self._kept_BP: torch.Tensor | None = None
        clip.vision_model.embeddings.register_forward_hook(self._drop_patches)

    def forward(
        self, images_B3SS: torch.Tensor, tokens: Tokens, kept_BP: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, S, S) uint8, texts, and the patches to keep (all where None) -> features, (B, D) float32 each."""
        device = self.clip.logit_scale.device
        pixels = normalise_pixels(images_B3SS.to(device, non_blocking=True))
        self._kept_BP = None if kept_BP is None else kept_BP.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return image_features(self.clip, pixels), text_features(self.clip, tokens, self.text_chunks)

    def _drop_patches(self, module: torch.nn.Module, inputs: Any, embedded_BPW: torch.Tensor) -> torch.Tensor | None:
        """Patch dropout, arXiv:2212.00794: of the embedded image only the class token and the kept patches go on."""
        if self._kept_BP is None:
            return None
        rows = torch.nn.functional.pad(self._kept_BP + 1, (1, 0))  # the class token stands first
        self._kept_BP = None
        return embedded_BPW.gather(1, rows[:, :, None].expand(-1, -1, embedded_BPW.shape[2]))

    def replicated(self) -> dict[str, torch.nn.Parameter]:
        """The scalars, which each rank holds whole and whose gradients the step averages itself."""
        found: dict[str, Any] = {"clip.logit_scale": self.clip.logit_scale}
        return found if self.logit_bias is None else found | {"logit_bias": self.logit_bias}

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Every parameter by its name in the Hugging Face folder (and `logit_bias`)."""
        return {name.removeprefix("clip."): parameter for name, parameter in self.named_parameters()}
