"""Run the two towers of a MetaClip2Model for the one token that is pooled.

The class token of an image, the end token of a text: the last block computes queries, MLP and residuals for this token
only, since nothing reads the others.  Values are those of transformers' own forward pass, up to rounding.  Training
on a CPU runs train/cpu_towers.py instead, on the layers of model/rows.py.

B batch, T tokens, W width of the tower.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def pooled_image(tower: Any, pixels_B3SS: torch.Tensor) -> torch.Tensor:
    """Map normalised pixels to the (B, W) pooled output of a MetaClip2VisionModel."""
    hidden_BTW = tower.pre_layrnorm(tower.embeddings(pixels_B3SS))
    for block in tower.encoder.layers[:-1]:
        hidden_BTW = block(hidden_BTW, None)
    last = pooling_block(tower.encoder.layers[-1])
    pooled_BW: torch.Tensor = tower.post_layernorm(last(hidden_BTW, None, token=(slice(None), 0)))
    return pooled_BW


def pooled_text(tower: Any, ids_BT: torch.Tensor) -> torch.Tensor:
    """Map padded ids to the (B, W) pooled output of a MetaClip2TextModel: at the first end token of each text."""
    import torch
    from transformers.masking_utils import create_causal_mask

    hidden_BTW = tower.embeddings(input_ids=ids_BT)
    # without mask and cache; positions, since releases differ in the cache's name
    mask = create_causal_mask(tower.config, hidden_BTW, None, None)
    for block in tower.encoder.layers[:-1]:
        hidden_BTW = block(hidden_BTW, mask, is_causal=True)
    end_B = (ids_BT == tower.eos_token_id).int().argmax(dim=-1)
    batch, length = ids_BT.shape
    is_seen_BT = torch.arange(length, device=ids_BT.device) <= end_B[:, None]
    token = (torch.arange(batch, device=ids_BT.device), end_B)
    last = pooling_block(tower.encoder.layers[-1])
    pooled_BW: torch.Tensor = tower.final_layer_norm(last(hidden_BTW, is_seen_BT[:, None, None, :], token=token))
    return pooled_BW


def pooling_block(block: Any) -> Any:
    """Let a block compute one token where it is called with `token`, and return the block.

    It is still called as a module, since FSDP and activation checkpointing act on its calls.
    """
    if "forward" not in vars(block):
        block.forward = functools.partial(_forward, block)
    return block


def _forward(
    block: Any, hidden_BTW: torch.Tensor, mask: torch.Tensor | None, *, token: Any = None, **keys: Any
) -> torch.Tensor:
    """Return the block's output: (B, T, W), with `token` the (B, W) rows at this index of the batch and its tokens.

    mask: with `token`, (B, 1, 1, T) bool, True for the tokens that it attends to; None: all.
    """
    if token is None:
        hidden: torch.Tensor = type(block).forward(block, hidden_BTW, mask, **keys)
        return hidden
    import torch

    compute = functools.partial(_forward_token, block, mask=mask, token=token)
    if block.gradient_checkpointing and block.training and torch.is_grad_enabled():
        # transformers wraps the forward of the class, which this one stands before
        pooled_BW: torch.Tensor = block._gradient_checkpointing_func(compute, hidden_BTW)
        return pooled_BW
    return compute(hidden_BTW)


def _forward_token(block: Any, hidden_BTW: torch.Tensor, *, mask: torch.Tensor | None, token: Any) -> torch.Tensor:
    """Return the (B, W) rows of the block's output at an index of the batch and its tokens; mask: as of _forward."""
    import torch

    attention = block.self_attn
    normed_BTW = block.layer_norm1(hidden_BTW)
    batch, _, width = normed_BTW.shape

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(batch, -1, attention.num_heads, attention.head_dim).transpose(1, 2)

    attended = torch.nn.functional.scaled_dot_product_attention(
        heads(attention.q_proj(normed_BTW[token])),
        heads(attention.k_proj(normed_BTW)),
        heads(attention.v_proj(normed_BTW)),
        attn_mask=mask,
        scale=attention.scale,
    )
    pooled_BW = hidden_BTW[token] + attention.out_proj(attended.transpose(1, 2).reshape(batch, width))
    last_BW: torch.Tensor = pooled_BW + block.mlp(block.layer_norm2(pooled_BW))
    return last_BW
