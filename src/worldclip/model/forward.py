"""Run the encoders of a MetaClip2Model for inference, without the work that no feature depends on.

- Texts of one length are attended together, so no token is padding; the last block computes only the pooled rows, which
  saves 7% of the operations of an encoder of 12 blocks (model/rows.py).
- On CPUs, images run in chunks whose activations stay in the processor's cache.  All chunks pass a block before the
  next block begins, so that oneDNN reorders each weight once for all of them.

The export to ONNX, and training on GPUs or in shards, run model/towers.py instead: it calls blocks as modules, which
FSDP, recomputation, adapters and compilers need.  This takes 0.8 of its time for images, 0.7 for texts
(benchmarks/results/encoders.md).

R rows, N sequences, W width, B batch, D embed_dim: as in model/rows.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from worldclip.model.rows import Block, Chunk, image_rows, prepare, text_rows, unit
from worldclip.model.tokenizer import Tokens

FLOAT_BYTES = 4
# Tokens of images in a chunk on a CPU, in float32.  The widest activations of ViT-B/32 then take 12 MB: below glibc's
# threshold, above which each tensor is memory fresh from the kernel, and within a level-3 cache.
CPU_TOKENS = 1024
# From this many rows on, oneDNN's gain outweighs its reordering of the weights (by their times, from about 400 on).
ONEDNN_ROWS = 1024
# Tokens of texts that pass a block together: 64 MB of ViT-H/14's activations between two blocks.
TEXT_TOKENS = 16_384


@torch.inference_mode()
def embed_pixels(model: Any, pixels_B3SS: torch.Tensor) -> torch.Tensor:
    """Map (B, 3, S, S) normalised pixels to (B, D) float32 of unit length."""
    encoder = model.vision_model
    at_once = max(1, len(pixels_B3SS))
    if pixels_B3SS.device.type == "cpu":
        fitting = CPU_TOKENS * FLOAT_BYTES // pixels_B3SS.element_size()
        at_once = max(1, fitting // encoder.embeddings.num_positions)
    parts = pixels_B3SS.tensor_split(max(1, -(-len(pixels_B3SS) // at_once)))
    pooled_BW = _run_blocks(encoder, [image_rows(encoder, part) for part in parts])
    return unit(model.visual_projection(encoder.post_layernorm(pooled_BW)))


@torch.inference_mode()
def embed_tokens(model: Any, tokens: Tokens, num_chunks: int) -> torch.Tensor:
    """Map B texts, in num_chunks chunks of similar length, to (B, D) float32 of unit length."""
    encoder = model.text_model
    chunks = tokens.chunks_by_length(num_chunks)
    parts = []
    for together in limit_tokens(chunks, tokens):
        text_chunks = [text_rows(encoder, tokens, texts) for texts in together]
        parts.append(_run_blocks(encoder, text_chunks))
    sorted_BD = unit(model.text_projection(encoder.final_layer_norm(torch.cat(parts))))
    features_BD = torch.empty_like(sorted_BD)
    features_BD[torch.from_numpy(np.concatenate(chunks)).to(sorted_BD.device)] = sorted_BD
    return features_BD


def limit_tokens(chunks: list[np.ndarray], tokens: Tokens) -> Iterator[list[np.ndarray]]:
    """Yield consecutive chunks of at most TEXT_TOKENS tokens together, or a single longer one."""
    together: list[np.ndarray] = []
    total = 0
    for chunk in chunks:
        size = int(tokens.lengths[chunk].sum())
        if together and total + size > TEXT_TOKENS:
            yield together
            together = []
            total = 0
        together.append(chunk)
        total += size
    yield together


def _run_blocks(encoder: Any, chunks: Sequence[Chunk]) -> torch.Tensor:
    """Return (N, W): the pooled rows of all chunks after the last block."""
    num_rows = [len(rows_RW) for rows_RW, _ in chunks]
    modules = encoder.encoder.layers
    for module in modules:
        block = _create_block(module, num_rows, is_last=module is modules[-1])
        chunks = [(block.run(rows_RW, sequences), sequences) for rows_RW, sequences in chunks]
    return torch.cat([pooled_NW for pooled_NW, _ in chunks])


def _create_block(module: Any, num_rows: Sequence[int], *, is_last: bool) -> Block:
    """Return the block with its linear layers made ready for chunks of these numbers of rows."""
    attention = module.self_attn
    mlp = module.mlp
    layers = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, mlp.fc1, mlp.fc2]
    if sum(num_rows) >= ONEDNN_ROWS:
        layers = [prepare(layer, num_rows[0]) for layer in layers]
    query, key, value, output, hidden, result = layers
    return Block(
        module=module,
        project=lambda asking_RW, rows_RW: (query(asking_RW), key(rows_RW), value(rows_RW)),
        output=output,
        hidden=hidden,
        result=result,
        mix=functools.partial(torch.nn.functional.scaled_dot_product_attention, scale=attention.scale),
        is_last=is_last,
    )
