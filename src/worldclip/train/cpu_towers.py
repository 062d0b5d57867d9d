"""Both towers on a CPU: products by oneDNN, in float32 or bfloat16, and texts without padding.

- The tokens of all texts are rows of one matrix, so that none is padding and every layer is one product.  Texts of one
  length are attended together.
- Products are oneDNN's, forward and backward (model/onednn.py).

In bfloat16, weights, moments, gradients of weights, norms, softmax and what follows the blocks stay float32.  What
torch.autocast makes of the same model on a CPU takes twice the time (docs/log.md):

- A weight is cast once per step, not once per use: each product has a copy, which is renewed after each step.  Query,
  key and value are one product.
- torch's attention and convolution have a backward pass in bfloat16 that is slower than in float32.  Images of few
  tokens are attended by plain products, others and texts in float32; patches are cut out and multiplied.

R rows: the tokens of sequences, one sequence after another.  N sequences, B pairs, D embed_dim, W width, I inputs,
O outputs, H heads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from worldclip.model.forward import Sequences, text_rows
from worldclip.model.onednn import multiply

if TYPE_CHECKING:
    from transformers import MetaClip2Model

    from worldclip.model.tokenizer import Tokens

# Up to this many tokens, attention by plain bfloat16 products is faster than by torch in float32, forward and backward
# together.
SHORT = 64


class Towers:
    """The towers of a float32 model on a CPU, multiplied in float32 or bfloat16."""

    def __init__(self, clip: MetaClip2Model, dtype: torch.dtype) -> None:
        """Copy the present weights if dtype is bfloat16; `renew` must follow each change of them."""
        self.clip: Any = clip
        self.patches: Product | None = None
        if dtype == torch.bfloat16:
            embedding = self.clip.vision_model.embeddings.patch_embedding
            self.patches = Product([embedding], dtype)
            embedding.forward = functools.partial(_embed_patches, embedding, self.patches)
        self.image_blocks, self.text_blocks = (
            [Block(module, dtype, is_last=module is tower.encoder.layers[-1]) for module in tower.encoder.layers]
            for tower in (self.clip.vision_model, self.clip.text_model)
        )

    def renew(self) -> None:
        """Copy the weights after a change.  Their versions do not show it: fused AdamW leaves them."""
        if self.patches is not None:
            self.patches.renew()
        for block in (*self.image_blocks, *self.text_blocks):
            for product in block.products:
                product.renew()

    def image_features(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        """Map normalised pixels to (B, D) float32 of unit length."""
        tower = self.clip.vision_model
        embedded_BTW = tower.pre_layrnorm(tower.embeddings(pixels_B3SS))
        batch, length, width = embedded_BTW.shape
        sequences = Sequences([(batch, length)], torch.arange(0, batch * length, length), is_causal=False)
        pooled_BW = _run(self.image_blocks, embedded_BTW.reshape(-1, width), sequences)
        return _unit(self.clip.visual_projection(tower.post_layernorm(pooled_BW)))

    def text_features(self, tokens: Tokens) -> torch.Tensor:
        """Map texts to (B, D) float32 of unit length."""
        tower = self.clip.text_model
        order = np.argsort(tokens.lengths, kind="stable")
        rows_RW, sequences = text_rows(tower, tokens, order)
        pooled_BW = _run(self.text_blocks, rows_RW, sequences)
        sorted_BD = self.clip.text_projection(tower.final_layer_norm(pooled_BW))
        return _unit(sorted_BD[torch.from_numpy(np.argsort(order))])


def _run(blocks: list[Block], rows_RW: torch.Tensor, sequences: Sequences) -> torch.Tensor:
    """Return (N, W) float32 of the pooled rows."""
    for block in blocks:
        if block.module.gradient_checkpointing and torch.is_grad_enabled():
            rows_RW = cast(torch.Tensor, checkpoint(block.run, rows_RW, sequences, use_reentrant=False))
        else:
            rows_RW = block.run(rows_RW, sequences)
    return rows_RW.float()


def _unit(features_BD: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features_BD.float(), dim=-1)


class Product:
    """rows @ weights.T + biases, for layers of one input."""

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype) -> None:
        """dtype: of the products; bfloat16 makes a copy of all weights, whose product is one."""
        self.layers, self.dtype = layers, dtype
        self.sizes = [len(layer.weight) for layer in layers]
        self.is_plain = all(type(layer) in (torch.nn.Linear, torch.nn.Conv2d) for layer in layers)
        self.has_copy = self.is_plain and dtype != torch.float32
        if not self.has_copy:
            return
        num_inputs, num_outputs = layers[0].weight[0].numel(), sum(self.sizes)
        self._weight_OI = torch.empty(num_outputs, num_inputs, dtype=dtype)
        self._bias_O = torch.empty(num_outputs, dtype=dtype) if layers[0].bias is not None else None
        self.renew()

    def __call__(self, rows_RI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (R, I) to (R, O) of each layer, all of self.dtype."""
        if not self.is_plain:  # an adapter's layers cast on their own
            with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                return tuple(layer(rows_RI) for layer in self.layers)
        if not self.has_copy:
            return tuple(_multiply_own(rows_RI, layer) for layer in self.layers)
        weights = [layer.weight for layer in self.layers]
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        rows_RO = _Product.apply(rows_RI, self._weight_OI, self._bias_O, self.sizes, *weights, *biases)
        return cast("tuple[torch.Tensor, ...]", rows_RO.split(self.sizes, dim=1))

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the present weights."""
        if not self.has_copy:
            return
        for part_OI, layer in zip(self._weight_OI.split(self.sizes), self.layers, strict=True):
            part_OI.copy_(layer.weight.reshape(part_OI.shape))
        if self._bias_O is not None:
            for part_O, layer in zip(self._bias_O.split(self.sizes), self.layers, strict=True):
                part_O.copy_(layer.bias)


def _multiply_own(rows_RI: torch.Tensor, layer: Any) -> torch.Tensor:
    """Return layer(rows), by the layer's own weights."""
    parameters = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    weight_OI, *bias = (parameter.detach() for parameter in parameters)
    rows_RO = _Product.apply(rows_RI, weight_OI, bias[0] if bias else None, [len(weight_OI)], *parameters)
    return cast(torch.Tensor, rows_RO)


class _Product(torch.autograd.Function):
    """Multiply by weights or copies of them; the gradients go to the float32 parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_RI: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        sizes: list[int],
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """parameters: the layers' weights, then their biases, which weight_OI and bias_O hold."""
        ctx.save_for_backward(rows_RI, weight_OI)
        ctx.sizes, ctx.has_bias = sizes, bias_O is not None
        ctx.shapes = [parameter.shape for parameter in parameters]
        return multiply(rows_RI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad_RO,) = grads
        rows_RI, weight_OI = ctx.saved_tensors
        num_layers = len(ctx.sizes)
        needs_rows, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[4 : 4 + num_layers])
        found: list[torch.Tensor | None] = [None] * len(ctx.shapes)
        if needs_weight:
            grad_OI = multiply(grad_RO.t(), rows_RI.t()).float()
            found[:num_layers] = grad_OI.split(ctx.sizes)
        if ctx.has_bias and any(ctx.needs_input_grad[4 + num_layers :]):
            found[num_layers:] = grad_RO.sum(0).float().split(ctx.sizes)
        shaped = [None if grad is None else grad.view(shape) for grad, shape in zip(found, ctx.shapes, strict=True)]
        grad_RI = multiply(grad_RO, weight_OI.t()) if needs_rows else None
        return (grad_RI, None, None, None, *shaped)


class Block:
    """A transformer block of transformers."""

    def __init__(self, module: Any, dtype: torch.dtype, *, is_last: bool) -> None:
        """is_last: of its tower; it computes the pooled rows only, whose query is a product of its own."""
        attention, mlp = module.self_attn, module.mlp
        self.module, self.dtype, self.is_last = module, dtype, is_last
        inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
        groups = [inputs[:1], inputs[1:]] if is_last else [inputs]
        self.inputs = [Product(group, dtype) for group in groups]
        self.output = Product([attention.out_proj], dtype)
        self.hidden, self.result = Product([mlp.fc1], dtype), Product([mlp.fc2], dtype)
        self.products = [*self.inputs, self.output, self.hidden, self.result]

    def run(self, rows_RW: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """Return (R, W) of self.dtype after this block; after the last one, (N, W) of the pooled rows."""
        rows_RW = rows_RW.to(self.dtype)  # only the first block needs it; the others get this dtype
        normed_RW = self.module.layer_norm1(rows_RW)  # computed in float32, as its weights are
        if self.is_last:
            rows_RW = rows_RW[sequences.pooled_N]
            of_query, of_others = self.inputs
            (queries,) = of_query(normed_RW[sequences.pooled_N])
            keys_RW, values_RW = of_others(normed_RW)
        else:
            (of_all,) = self.inputs
            queries, keys_RW, values_RW = of_all(normed_RW)
        (attended,) = self.output(self._attend(queries, keys_RW, values_RW, sequences))
        rows_RW = rows_RW + attended
        (hidden_R4W,) = self.hidden(self.module.layer_norm2(rows_RW))
        (result_RW,) = self.result(self.module.mlp.activation_fn(hidden_R4W))
        return rows_RW + result_RW

    def _attend(
        self, queries: torch.Tensor, keys_RW: torch.Tensor, values_RW: torch.Tensor, sequences: Sequences
    ) -> torch.Tensor:
        """Return the attended values of each query; in the last block each sequence has one query, which sees all."""
        key_rows = [number * length for number, length in sequences.groups]
        query_rows = [number for number, _ in sequences.groups] if self.is_last else key_rows
        # split, since the backward pass of each slice would fill a matrix of all rows with zeros
        parts = zip(queries.split(query_rows), keys_RW.split(key_rows), values_RW.split(key_rows), strict=True)
        attended = []
        for (number, _), rows in zip(sequences.groups, parts, strict=True):
            mixed = _mix(
                *(self._by_head(part, number) for part in rows), is_causal=sequences.is_causal and not self.is_last
            )
            attended.append(mixed.transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat(attended) if len(attended) > 1 else attended[0]

    def _by_head(self, rows_RW: torch.Tensor, number: int) -> torch.Tensor:
        """Return (number, H, length, W / H) of the rows of `number` sequences of one length."""
        attention = self.module.self_attn
        return rows_RW.view(number, -1, attention.num_heads, attention.head_dim).transpose(1, 2)


def _mix(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, is_causal: bool) -> torch.Tensor:
    """Return the values mixed by each query's softmax over keys, (N, H, queries, W / H)."""
    dtype = value.dtype
    if dtype == torch.bfloat16 and not is_causal and key.shape[2] <= SHORT:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(dtype) @ value
    return torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=is_causal
    ).to(dtype)


def _embed_patches(module: Any, product: Product, pixels_B3SS: torch.Tensor) -> torch.Tensor:
    """Return (B, W, grid, grid) as the convolution does, whose patches do not overlap."""
    (side, _), batch = module.kernel_size, len(pixels_B3SS)
    grid = pixels_B3SS.shape[-1] // side
    cut = pixels_B3SS[..., : grid * side, : grid * side].reshape(batch, -1, grid, side, grid, side)
    rows = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch * grid * grid, -1)
    (embedded,) = product(rows.bfloat16())
    return embedded.view(batch, grid, grid, -1).permute(0, 3, 1, 2)
