"""The contrastive loss.  B batch, D embed_dim."""

from __future__ import annotations

import torch


def contrastive_loss(image_BD: torch.Tensor, text_BD: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Mean of the cross-entropies of images against texts and of texts against images; pair i belongs to pair i.

    image_BD, text_BD: float32 of unit length.  logit_scale: the factor itself, not its logarithm.
    arXiv:2103.00020, figure 3.
    """
    logits_BB = logit_scale * image_BD @ text_BD.T
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    images = torch.nn.functional.cross_entropy(logits_BB, target_B)
    texts = torch.nn.functional.cross_entropy(logits_BB.T, target_B)
    return (images + texts) / 2
