"""bfloat16 on a CPU: the blocks' products in bfloat16, from copies of the weights that are renewed once per step.

Weights, moments, gradients of weights, norms, softmax and what follows the blocks stay float32.  Two things are
faster here than what torch.autocast makes of the same model on a CPU (docs/log.md):

- Query, key and value are one product, of one cast of its input; a weight is cast once per step, not once per use.
- torch's attention and convolution have a backward pass in bfloat16 that is slower than in float32.  Short sequences
  are attended by plain products, long ones in float32; patches are cut out and multiplied.

B batch, T tokens, W width, R rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from transformers import MetaClip2Model

# Up to this many tokens, attention by plain products is faster than torch's in float32, forward and backward together.
SHORT = 64


def use_bfloat16(clip: MetaClip2Model) -> list[Product]:
    """Let the towers' blocks and the patch embedding of a float32 model on a CPU multiply in bfloat16.

    Return the products, which copy the present weights here, and must copy them again after each change.
    """
    patches: Any = clip.vision_model.embeddings.patch_embedding
    embed = Product([patches])
    patches.forward = functools.partial(_embed_patches, patches, embed)
    products = [embed]
    for tower in (clip.vision_model, clip.text_model):
        *others, last = cast(Any, tower.encoder.layers)
        for module in (*others, last):
            block = Block(module, is_last=module is last)
            module.forward = block.forward
            products += block.products
    return products


class Product:
    """rows @ weights.T + biases, for layers of one input whose outputs stand next to each other."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self.sizes = [len(layer.weight) for layer in layers]
        self.is_plain = all(type(layer) in (torch.nn.Linear, torch.nn.Conv2d) for layer in layers)
        if not self.is_plain:
            return
        num_inputs, num_outputs = layers[0].weight[0].numel(), sum(self.sizes)
        self._weight_OI = torch.empty(num_outputs, num_inputs, dtype=torch.bfloat16)
        self._bias_O = torch.empty(num_outputs, dtype=torch.bfloat16) if layers[0].bias is not None else None
        self.renew()

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (..., I) bfloat16 to (..., O) bfloat16."""
        if not self.is_plain:  # an adapter's layers cast on their own
            with torch.autocast("cpu", torch.bfloat16):
                return torch.cat([layer(inputs) for layer in self.layers], dim=-1)
        weights = [layer.weight for layer in self.layers]
        biases = [layer.bias for layer in self.layers if layer.bias is not None]
        rows_RI = inputs.reshape(-1, inputs.shape[-1])
        rows_RO = _Product.apply(rows_RI, self._weight_OI, self._bias_O, self.sizes, *weights, *biases)
        return cast(torch.Tensor, rows_RO).view(*inputs.shape[:-1], -1)

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the present weights.  Tensors' versions do not show the change: fused AdamW leaves them."""
        if not self.is_plain:
            return
        for part_OI, layer in zip(self._weight_OI.split(self.sizes), self.layers, strict=True):
            part_OI.copy_(layer.weight.reshape(part_OI.shape))
        if self._bias_O is not None:
            for part_O, layer in zip(self._bias_O.split(self.sizes), self.layers, strict=True):
                part_O.copy_(layer.bias)


class _Product(torch.autograd.Function):
    """Multiply by the copies; the gradients go to the float32 parameters."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_RI: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        sizes: list[int],
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """parameters: the layers' weights, then their biases, which the copies were made of."""
        ctx.save_for_backward(rows_RI, weight_OI)
        ctx.sizes, ctx.has_bias = sizes, bias_O is not None
        ctx.shapes = [parameter.shape for parameter in parameters]
        return torch.nn.functional.linear(rows_RI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad_RO,) = grads
        rows_RI, weight_OI = ctx.saved_tensors
        num_layers = len(ctx.sizes)
        needs_rows, needs_weight = ctx.needs_input_grad[0], any(ctx.needs_input_grad[4 : 4 + num_layers])
        found: list[torch.Tensor | None] = [None] * len(ctx.shapes)
        if needs_weight:
            grad_OI = (grad_RO.t() @ rows_RI).float()
            found[:num_layers] = grad_OI.split(ctx.sizes)
        if ctx.has_bias and any(ctx.needs_input_grad[4 + num_layers :]):
            found[num_layers:] = grad_RO.sum(0).float().split(ctx.sizes)
        shaped = [None if grad is None else grad.view(shape) for grad, shape in zip(found, ctx.shapes, strict=True)]
        return (grad_RO @ weight_OI if needs_rows else None, None, None, None, *shaped)


class Block:
    """A transformer block of transformers as a step on a CPU runs it, in bfloat16 from norm to norm."""

    def __init__(self, module: Any, *, is_last: bool) -> None:
        """is_last: of its tower; it computes one token, whose query is a product of its own."""
        attention, mlp = module.self_attn, module.mlp
        self.module = module
        inputs = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.inputs = [Product(inputs[:1]), Product(inputs[1:])] if is_last else [Product(inputs)]
        self.output = Product([attention.out_proj])
        self.hidden, self.result = Product([mlp.fc1]), Product([mlp.fc2])
        self.products = [*self.inputs, self.output, self.hidden, self.result]

    def forward(
        self,
        hidden_BTW: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        token: Any = None,
        is_causal: bool = False,
        **keys: Any,
    ) -> torch.Tensor:
        """Return what model/towers.py asks of a block: (B, T, W), with `token` the (B, W) rows at this index.

        mask: with `token`, (B, 1, 1, T) bool, True for the tokens that it attends to.
        """
        run = functools.partial(self._run, mask=mask, token=token, is_causal=is_causal)
        module = self.module
        if module.gradient_checkpointing and module.training and torch.is_grad_enabled():
            return cast(torch.Tensor, module._gradient_checkpointing_func(run, hidden_BTW))
        return run(hidden_BTW)

    def _run(self, hidden_BTW: torch.Tensor, *, mask: Any, token: Any, is_causal: bool) -> torch.Tensor:
        hidden_BTW = hidden_BTW.bfloat16()  # of the first block; the others get it so
        normed_BTW = self.module.layer_norm1(hidden_BTW)  # computed in float32, as its weights are
        if token is None:
            query, key, value = self._by_head(self.inputs[0](normed_BTW), 3)
            attended_BTW = _attend(query, key, value, None, is_causal=is_causal)
        else:
            (query,) = self._by_head(self.inputs[0](normed_BTW[token][:, None]), 1)
            key, value = self._by_head(self.inputs[1](normed_BTW), 2)
            hidden_BTW = hidden_BTW[token]
            attended_BTW = _attend(query, key, value, mask, is_causal=False)[:, 0]
        hidden_BTW = hidden_BTW + self.output(attended_BTW)
        wide_BT4W = self.module.mlp.activation_fn(self.hidden(self.module.layer_norm2(hidden_BTW)))
        result_BTW = hidden_BTW + self.result(wide_BT4W)
        return result_BTW if token is None else result_BTW.float()  # what follows the last block is float32

    def _by_head(self, products: torch.Tensor, number: int) -> tuple[torch.Tensor, ...]:
        """Return `number` tensors of (B, heads, T, W / heads) of one product's outputs."""
        attention = self.module.self_attn
        batch, length, _ = products.shape
        return (
            products.view(batch, length, number, attention.num_heads, attention.head_dim)
            .permute(2, 0, 3, 1, 4)
            .unbind()
        )


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, is_causal: bool
) -> torch.Tensor:
    """Return (B, T, W) bfloat16: the attended values, heads next to each other."""
    batch, _, length, head_dim = query.shape
    if mask is None and not is_causal and key.shape[2] <= SHORT:
        scores = (query * head_dim**-0.5) @ key.transpose(-1, -2)
        mixed = torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32).bfloat16() @ value
    else:
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=mask, is_causal=is_causal
        ).bfloat16()
    return mixed.transpose(1, 2).reshape(batch, length, -1)


def _embed_patches(module: Any, product: Product, pixels_B3SS: torch.Tensor) -> torch.Tensor:
    """Return (B, W, grid, grid) as the convolution does, whose patches do not overlap."""
    (side, _), batch = module.kernel_size, len(pixels_B3SS)
    grid = pixels_B3SS.shape[-1] // side
    cut = pixels_B3SS[..., : grid * side, : grid * side].view(batch, -1, grid, side, grid, side)
    rows = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid, grid, -1)
    return product(rows.bfloat16()).permute(0, 3, 1, 2)
