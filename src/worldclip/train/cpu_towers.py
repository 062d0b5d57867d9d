"""Both towers on a CPU, trained by the rows of model/rows.py: products by oneDNN, in float32 or bfloat16.

In bfloat16, weights, moments, gradients of weights, norms, softmax and what follows the blocks stay float32.  What
torch.autocast makes of the same model on a CPU takes twice the time (docs/log.md):

- A weight is cast once per step, not once per use: each product has a copy, which is renewed after each step.  Query,
  key and value are one product.
- torch's attention and convolution have a backward pass in bfloat16 that is slower than in float32.  Images of few
  tokens are attended by plain products, others and texts in float32; patches are cut out and multiplied.

R rows, N sequences, W width, H heads: as in model/rows.py.  B pairs, D embed_dim, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from worldclip.model.rows import Block, Chunk, Projection, image_rows, multiply, text_rows, unit

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
        self.dtype = dtype
        self.products: list[Product] = []
        if dtype == torch.bfloat16:
            embedding = self.clip.vision_model.embeddings.patch_embedding
            patches = self._product(embedding)
            embedding.forward = functools.partial(_embed_patches, embedding, patches)
        self.image_blocks = self._create_blocks(self.clip.vision_model)
        self.text_blocks = self._create_blocks(self.clip.text_model)

    def renew(self) -> None:
        """Copy the weights after a change.  Their versions do not show it: fused AdamW leaves them."""
        for product in self.products:
            product.renew()

    def image_features(self, pixels_B3SS: torch.Tensor) -> torch.Tensor:
        """Map normalised pixels to (B, D) float32 of unit length."""
        tower = self.clip.vision_model
        pooled_BW = self._run(self.image_blocks, image_rows(tower, pixels_B3SS))
        return unit(self.clip.visual_projection(tower.post_layernorm(pooled_BW)))

    def text_features(self, tokens: Tokens) -> torch.Tensor:
        """Map texts to (B, D) float32 of unit length."""
        tower = self.clip.text_model
        order = np.argsort(tokens.lengths, kind="stable")
        pooled_BW = self._run(self.text_blocks, text_rows(tower, tokens, order))
        sorted_BD = self.clip.text_projection(tower.final_layer_norm(pooled_BW))
        return unit(sorted_BD[torch.from_numpy(np.argsort(order))])

    def _run(self, blocks: list[Block], chunk: Chunk) -> torch.Tensor:
        """Return (N, W) float32 of the pooled rows."""
        rows_RW, sequences = chunk
        rows_RW = rows_RW.to(self.dtype)
        for block in blocks:
            if block.module.gradient_checkpointing and torch.is_grad_enabled():
                rows_RW = cast(torch.Tensor, checkpoint(block.run, rows_RW, sequences, use_reentrant=False))
            else:
                rows_RW = block.run(rows_RW, sequences)
        return rows_RW.float()

    def _product(self, *layers: Any) -> Product:
        """Return the product of layers of one input, whose copies `renew` keeps equal to their weights."""
        product = Product(layers, self.dtype)
        self.products.append(product)
        return product

    def _create_blocks(self, tower: Any) -> list[Block]:
        """Return the blocks of a tower; queries, keys and values are one product, in the last block two."""
        blocks = []
        for module in tower.encoder.layers:
            attention = module.self_attn
            mlp = module.mlp
            is_last = module is tower.encoder.layers[-1]
            if is_last:
                query = self._product(attention.q_proj)
                key_value = self._product(attention.k_proj, attention.v_proj)
                project: Projection = functools.partial(_project_apart, query, key_value)
            else:
                all_three = self._product(attention.q_proj, attention.k_proj, attention.v_proj)
                project = functools.partial(_project_together, all_three)
            block = Block(
                module=module,
                project=project,
                output=self._product(attention.out_proj).one,
                hidden=self._product(mlp.fc1).one,
                result=self._product(mlp.fc2).one,
                mix=_mix,
                is_last=is_last,
            )
            blocks.append(block)
        return blocks


def _project_apart(
    query: Product, key_value: Product, asking_RW: torch.Tensor, rows_RW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    (queries_RW,) = query(asking_RW)
    keys_RW, values_RW = key_value(rows_RW)
    return queries_RW, keys_RW, values_RW


def _project_together(
    all_three: Product, asking_RW: torch.Tensor, rows_RW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    queries_RW, keys_RW, values_RW = all_three(rows_RW)
    return queries_RW, keys_RW, values_RW


class Product:
    """rows @ weights.T + biases, for layers of one input."""

    def __init__(self, layers: Sequence[Any], dtype: torch.dtype) -> None:
        """dtype: the products' precision; bfloat16 makes a copy of all weights, whose product is one."""
        self.layers = layers
        self.dtype = dtype
        self.sizes = [len(layer.weight) for layer in layers]
        self.is_plain = all(type(layer) in (torch.nn.Linear, torch.nn.Conv2d) for layer in layers)
        self.has_copy = self.is_plain and dtype != torch.float32
        if not self.has_copy:
            return
        num_outputs = sum(self.sizes)
        self._weight_OI = torch.empty(num_outputs, layers[0].weight[0].numel(), dtype=dtype)
        self._bias_O = torch.empty(num_outputs, dtype=dtype) if layers[0].bias is not None else None
        self.renew()

    def __call__(self, rows_RI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (R, I) to (R, O) of each layer, all of self.dtype."""
        if not self.is_plain:  # an adapter's layers cast on their own
            with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                return tuple(layer(rows_RI) for layer in self.layers)
        if not self.has_copy:
            return tuple(_multiply_layer(rows_RI, layer) for layer in self.layers)
        weights = [layer.weight for layer in self.layers]
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        rows_RO = cast(
            torch.Tensor, _Product.apply(rows_RI, self._weight_OI, self._bias_O, self.sizes, *weights, *biases)
        )
        if len(self.sizes) == 1:  # a part that `split` returns cannot be added to
            return (rows_RO,)
        return cast("tuple[torch.Tensor, ...]", rows_RO.split(self.sizes, dim=1))

    def one(self, rows_RI: torch.Tensor) -> torch.Tensor:
        """Map (R, I) to (R, O) of the only layer."""
        (rows_RO,) = self(rows_RI)
        return rows_RO

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


def _multiply_layer(rows_RI: torch.Tensor, layer: Any) -> torch.Tensor:
    """Return layer(rows), by the layer's own weights."""
    parameters = [layer.weight]
    bias_O = None
    if layer.bias is not None:
        parameters.append(layer.bias)
        bias_O = layer.bias.detach()
    rows_RO = _Product.apply(rows_RI, layer.weight.detach(), bias_O, [len(layer.weight)], *parameters)
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
        ctx.sizes = sizes
        ctx.has_bias = bias_O is not None
        ctx.shapes = [parameter.shape for parameter in parameters]
        return multiply(rows_RI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad_RO,) = grads
        rows_RI, weight_OI = ctx.saved_tensors
        num_layers = len(ctx.sizes)
        parameter_grads: list[torch.Tensor | None] = [None] * len(ctx.shapes)
        if any(ctx.needs_input_grad[4 : 4 + num_layers]):
            grad_OI = multiply(grad_RO.t(), rows_RI.t()).float()
            parameter_grads[:num_layers] = grad_OI.split(ctx.sizes)
        if ctx.has_bias and any(ctx.needs_input_grad[4 + num_layers :]):
            parameter_grads[num_layers:] = grad_RO.sum(0).float().split(ctx.sizes)
        for i, grad in enumerate(parameter_grads):
            if grad is not None:
                parameter_grads[i] = grad.view(ctx.shapes[i])
        grad_RI = None
        if ctx.needs_input_grad[0]:
            grad_RI = multiply(grad_RO, weight_OI.t())
        return (grad_RI, None, None, None, *parameter_grads)


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
    side, _ = module.kernel_size
    batch = len(pixels_B3SS)
    grid = pixels_B3SS.shape[-1] // side
    cut = pixels_B3SS[..., : grid * side, : grid * side].reshape(batch, -1, grid, side, grid, side)
    rows = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch * grid * grid, -1)
    return product.one(rows.bfloat16()).view(batch, grid, grid, -1).permute(0, 3, 1, 2)
