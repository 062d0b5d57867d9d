"""Run the encoders of a MetaClip2Model for inference, without the work that no feature depends on.

- Texts of one length are attended together, so no token is padding.
- A feature is read from one token: an image's class token, a text's end token.  The last block's query and MLP run
  only for that token, which saves 7% of the operations of an encoder of 12 blocks.
- On CPUs, images run in chunks whose activations stay in the processor's cache.  All chunks pass a block before the
  next block begins, so that oneDNN reorders each weight once for all of them.

Features equal those of transformers' forward pass up to float32 rounding (tests/model/test_clip.py).  Training and
the export to ONNX run model/towers.py instead: it calls blocks as modules, which FSDP, recomputation, adapters,
compilers and gradients need.  This takes 0.8 of its time for images, 0.7 for texts (benchmarks/results/encoders.md).

R rows: the tokens of a chunk's sequences, one sequence after another.  N sequences, W width, B batch, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from worldclip.model.onednn import Product, prepare
from worldclip.model.tokenizer import Tokens

FLOAT_BYTES = 4
# Tokens of images in a chunk on a CPU, in float32.  The widest activations of ViT-B/32 then take 12 MB: below glibc's
# threshold, above which each tensor is memory fresh from the kernel, and within a level-3 cache.
CPU_TOKENS = 1024
# From this many rows on, oneDNN's gain outweighs its reordering of the weights (by their times, from about 400 on).
ONEDNN_ROWS = 1024
# Tokens of texts that pass a block together: 64 MB of ViT-H/14's activations between two blocks.
TEXT_TOKENS = 16_384


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


@dataclass(frozen=True, slots=True)
class Block:
    """A transformer block of transformers, with its linear layers made ready for many chunks."""

    module: Any
    query: Product
    key: Product
    value: Product
    output: Product
    hidden: Product
    result: Product

    @classmethod
    def of(cls, module: Any, num_rows: list[int]) -> Block:
        """num_rows: of each chunk that will pass the block."""
        attention, mlp = module.self_attn, module.mlp
        layers = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, mlp.fc1, mlp.fc2]
        if sum(num_rows) >= ONEDNN_ROWS:
            layers = [prepare(layer, num_rows[0]) for layer in layers]
        return cls(module, *layers)

    def run(self, rows_RW: torch.Tensor, sequences: Sequences, *, is_last: bool) -> torch.Tensor:
        """Return (R, W) after this block; after the last one, (N, W) of the pooled rows."""
        normed_RW = self.module.layer_norm1(rows_RW)
        keys_RW, values_RW = self.key(normed_RW), self.value(normed_RW)
        if is_last:
            rows_RW, normed_RW = rows_RW[sequences.pooled_N], normed_RW[sequences.pooled_N]
        queries_RW = self.query(normed_RW)
        attended_RW = _attend(self.module.self_attn, queries_RW, keys_RW, values_RW, sequences, is_last=is_last)
        rows_RW = self.output(attended_RW).add_(rows_RW)
        hidden_R4W = self.module.mlp.activation_fn(self.hidden(self.module.layer_norm2(rows_RW)))
        return self.result(hidden_R4W).add_(rows_RW)


@torch.inference_mode()
def embed_pixels(model: Any, pixels_B3SS: torch.Tensor) -> torch.Tensor:
    """Map (B, 3, S, S) normalised pixels to (B, D) float32 of unit length."""
    encoder = model.vision_model
    at_once = max(1, len(pixels_B3SS))
    if pixels_B3SS.device.type == "cpu":
        fitting = CPU_TOKENS * FLOAT_BYTES // pixels_B3SS.element_size()
        at_once = max(1, fitting // encoder.embeddings.num_positions)
    parts = pixels_B3SS.tensor_split(max(1, -(-len(pixels_B3SS) // at_once)))
    pooled_BW = _run_blocks(encoder, [_image_chunk(encoder, part) for part in parts])
    return _unit(model.visual_projection(encoder.post_layernorm(pooled_BW)))


@torch.inference_mode()
def embed_tokens(model: Any, tokens: Tokens, num_chunks: int) -> torch.Tensor:
    """Map B texts, in num_chunks chunks of similar length, to (B, D) float32 of unit length."""
    encoder = model.text_model
    chunks = tokens.chunks_by_length(num_chunks)
    parts = []
    for together in _limit_tokens(chunks, tokens):
        text_chunks = [text_rows(encoder, tokens, texts) for texts in together]
        parts.append(_run_blocks(encoder, text_chunks))
    sorted_BD = _unit(model.text_projection(encoder.final_layer_norm(torch.cat(parts))))
    features_BD = torch.empty_like(sorted_BD)
    features_BD[torch.from_numpy(np.concatenate(chunks)).to(sorted_BD.device)] = sorted_BD
    return features_BD


def _limit_tokens(chunks: list[np.ndarray], tokens: Tokens) -> Iterator[list[np.ndarray]]:
    """Yield consecutive chunks of at most TEXT_TOKENS tokens together, or a single longer one."""
    together: list[np.ndarray] = []
    total = 0
    for chunk in chunks:
        size = int(tokens.lengths[chunk].sum())
        if together and total + size > TEXT_TOKENS:
            yield together
            together, total = [], 0
        together.append(chunk)
        total += size
    yield together


def _unit(features_BD: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features_BD.float(), dim=-1)


def _image_chunk(encoder: Any, pixels_N3SS: torch.Tensor) -> Chunk:
    embedded = encoder.pre_layrnorm(encoder.embeddings(pixels_N3SS))
    number, length, width = embedded.shape
    pooled_N = torch.arange(0, number * length, length, device=embedded.device)
    return embedded.reshape(number * length, width), Sequences([(number, length)], pooled_N, is_causal=False)


def text_rows(encoder: Any, tokens: Tokens, texts: np.ndarray) -> Chunk:
    """Return the embedded tokens of texts, (R, W), and how they are divided.

    texts: their rows in tokens, sorted by length.
    """
    lengths = tokens.lengths[texts]
    ends = np.cumsum(lengths)
    position_R = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
    ids_R = tokens.ids[np.repeat(tokens.offsets[texts], lengths) + position_R]
    table, positions = encoder.embeddings.token_embedding, encoder.embeddings.position_embedding
    device = positions.weight.device
    rows_RW = table(torch.from_numpy(ids_R).to(device)) + positions(torch.from_numpy(position_R).to(device))
    values, counts = np.unique(lengths, return_counts=True)
    groups = list(zip(counts.tolist(), values.tolist(), strict=True))
    return rows_RW, Sequences(groups, torch.from_numpy(ends - 1).to(device), is_causal=True)


def _run_blocks(encoder: Any, chunks: Sequence[Chunk]) -> torch.Tensor:
    """Return (N, W): the pooled rows of all chunks after the last block."""
    *modules, last = encoder.encoder.layers
    num_rows = [len(rows_RW) for rows_RW, _ in chunks]
    for module in modules:
        block = Block.of(module, num_rows)
        chunks = [(block.run(rows_RW, sequences, is_last=False), sequences) for rows_RW, sequences in chunks]
    block = Block.of(last, num_rows)
    return torch.cat([block.run(rows_RW, sequences, is_last=True) for rows_RW, sequences in chunks])


def _attend(
    attention: Any,
    queries_RW: torch.Tensor,
    keys_RW: torch.Tensor,
    values_RW: torch.Tensor,
    sequences: Sequences,
    *,
    is_last: bool,
) -> torch.Tensor:
    """Return the attended values of each query; in the last block each sequence has one query, which sees all of it."""
    attended, first, first_query = [], 0, 0
    for number, length in sequences.groups:
        num_queries = 1 if is_last else length
        query_rows = slice(first_query, first_query + number * num_queries)
        key_rows = slice(first, first + number * length)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            _by_head(attention, queries_RW[query_rows], number),
            _by_head(attention, keys_RW[key_rows], number),
            _by_head(attention, values_RW[key_rows], number),
            is_causal=sequences.is_causal and not is_last,
            scale=attention.scale,
        )
        attended.append(mixed.transpose(1, 2).reshape(number * num_queries, -1))
        first, first_query = key_rows.stop, query_rows.stop
    return torch.cat(attended) if len(attended) > 1 else attended[0]


def _by_head(attention: Any, rows_RW: torch.Tensor, number: int) -> torch.Tensor:
    """Return (number, heads, length, W / heads) of the rows of `number` sequences of one length."""
    return rows_RW.view(number, -1, attention.num_heads, attention.head_dim).transpose(1, 2)
