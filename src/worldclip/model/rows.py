"""A transformer block over the rows of many sequences at once, for inference and for training on a CPU.

The tokens of all sequences are rows of one matrix, so that none is padding and every layer is one product.  Sequences
of one length are attended together.  A feature is read from one row of each sequence, an image's class token or the end
token of a text: the last block computes queries, MLP and residuals only for these.

Values are those of transformers' own forward pass up to rounding (tests/model/test_clip.py).  What multiplies decides
whether there are gradients: model/forward.py has none, train/cpu_towers.py has.  On a GPU training runs
model/towers.py, which calls blocks as modules.

On a CPU linear layers run in oneDNN: torch multiplies float32 on x86 in MKL, which takes twice oneDNN's time on an AMD
EPYC (Zen 5) and 1.1 times on another one (Zen 4).  Limited to AVX2, both are as fast, but for the product of a weight's
gradient, where MKL takes 0.75 of oneDNN's time (docs/log.md).  bfloat16 is multiplied in oneDNN anyway.

R rows: the tokens of sequences, one sequence after another.  N sequences, W width, B batch, D embed_dim, H heads, I
inputs and O outputs of a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch

from worldclip.model.tokenizer import Tokens


@dataclass(frozen=True, slots=True)
class Sequences:
    """How R rows are divided into sequences."""

    groups: list[tuple[int, int]]
    """(number of sequences, their length): sequences of one length follow each other."""
    pooled_N: torch.Tensor
    """(N,) int64: the row of each sequence that becomes its feature."""
    is_causal: bool
    """Whether a row sees only itself and the rows before it in its sequence; the pooled row is the last one then."""


Chunk: TypeAlias = tuple[torch.Tensor, Sequences]
"""(R, W) rows that pass a block together, and their sequences."""

Product: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""A linear layer."""

Projection: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""Map (rows that ask, all rows) to their queries, and the keys and values of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A transformer block of transformers, and what multiplies its linear layers."""

    module: Any
    project: Projection
    output: Product
    hidden: Product
    result: Product
    mix: Callable[..., torch.Tensor]
    """Map queries, keys and values, (sequences, H, length, W / H) each, and `is_causal` to the attended values."""
    is_last: bool
    """Whether it is the last of its tower, which computes the pooled rows only."""

    def run(self, rows_RW: torch.Tensor, sequences: Sequences) -> torch.Tensor:
        """Return (R, W) after this block; after the last one, (N, W) of the pooled rows."""
        normed_RW = self.module.layer_norm1(rows_RW)
        asking_RW = normed_RW
        if self.is_last:
            rows_RW = rows_RW[sequences.pooled_N]
            asking_RW = normed_RW[sequences.pooled_N]
        attended_RW = self._attend(*self.project(asking_RW, normed_RW), sequences)
        rows_RW = self.output(attended_RW).add_(rows_RW)
        hidden_R4W = self.module.mlp.activation_fn(self.hidden(self.module.layer_norm2(rows_RW)))
        return self.result(hidden_R4W).add_(rows_RW)

    def _attend(
        self, queries_RW: torch.Tensor, keys_RW: torch.Tensor, values_RW: torch.Tensor, sequences: Sequences
    ) -> torch.Tensor:
        """Return the attended values of each query; in the last block each sequence has one query, which sees all."""
        sizes = [number * length for number, length in sequences.groups]
        query_sizes = [number for number, _ in sequences.groups] if self.is_last else sizes
        # split, since the backward pass of each slice would fill a matrix of all rows with zeros
        parts = zip(queries_RW.split(query_sizes), keys_RW.split(sizes), values_RW.split(sizes), strict=True)
        attended = []
        for (number, _), (queries, keys, values) in zip(sequences.groups, parts, strict=True):
            mixed = self.mix(
                self._by_head(queries, number),
                self._by_head(keys, number),
                self._by_head(values, number),
                is_causal=sequences.is_causal and not self.is_last,
            )
            attended.append(mixed.transpose(1, 2).flatten(0, 1).flatten(1))
        return torch.cat(attended) if len(attended) > 1 else attended[0]

    def _by_head(self, rows_RW: torch.Tensor, number: int) -> torch.Tensor:
        """Return (number, H, length, W / H) of the rows of `number` sequences of one length."""
        attention = self.module.self_attn
        return rows_RW.view(number, -1, attention.num_heads, attention.head_dim).transpose(1, 2)


def image_rows(encoder: Any, pixels_N3SS: torch.Tensor) -> Chunk:
    """Return the embedded class tokens and patches of normalised pixels, (R, W), and how they are divided."""
    embedded_NTW = encoder.pre_layrnorm(encoder.embeddings(pixels_N3SS))
    number, length, width = embedded_NTW.shape
    pooled_N = torch.arange(0, number * length, length, device=embedded_NTW.device)
    return embedded_NTW.reshape(number * length, width), Sequences([(number, length)], pooled_N, is_causal=False)


def text_rows(encoder: Any, tokens: Tokens, texts: np.ndarray) -> Chunk:
    """Return the embedded tokens of texts, (R, W), and how they are divided.

    texts: their rows in tokens, sorted by length.
    """
    lengths = tokens.lengths[texts]
    ends = np.cumsum(lengths)
    position_R = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
    ids_R = tokens.ids[np.repeat(tokens.offsets[texts], lengths) + position_R]
    table = encoder.embeddings.token_embedding
    positions = encoder.embeddings.position_embedding
    device = positions.weight.device
    rows_RW = table(torch.from_numpy(ids_R).to(device)) + positions(torch.from_numpy(position_R).to(device))
    values, counts = np.unique(lengths, return_counts=True)
    groups = list(zip(counts.tolist(), values.tolist(), strict=True))
    return rows_RW, Sequences(groups, torch.from_numpy(ends - 1).to(device), is_causal=True)


def unit(features_BD: torch.Tensor) -> torch.Tensor:
    """Return the features in float32, each of unit length."""
    return torch.nn.functional.normalize(features_BD.float(), dim=-1)


def multiply(rows_RI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """Return rows @ weight.T + bias, (R, O), of equal dtypes, on a CPU.  It has no backward pass."""
    is_float32 = rows_RI.dtype == torch.float32 and has_onednn(torch.float32)
    if is_float32 and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return _by_onednn(rows_RI, weight_OI, bias_O)
    return torch.nn.functional.linear(rows_RI, weight_OI, bias_O)


def prepare(layer: Any, num_rows: int) -> Product:
    """Return what computes layer(rows), with weights in the order that suits chunks of num_rows rows.

    Without it each call reorders the weights.  The layer itself is returned for other layers, devices and precisions.
    """
    weight = layer.weight
    is_plain = type(layer) is torch.nn.Linear and weight.device.type == "cpu"
    if not (is_plain and has_onednn(weight.dtype)):
        return cast(Product, layer)
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    return functools.partial(_by_onednn, weight_OI=reordered, bias_O=layer.bias)


def _by_onednn(rows_RI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows_RI, weight_OI, bias_O, "none", [], "")
    return product


def has_onednn(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies this dtype on this processor, and takes reordered weights of it."""
    onednn = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(onednn, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(onednn._is_mkldnn_bf16_supported()))
