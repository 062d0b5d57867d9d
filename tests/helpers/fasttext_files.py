"""Writes fastText models of every kind with random weights, for the tests of inference."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HS, NS, SOFTMAX = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Kind:
    loss: int = SOFTMAX
    dim: int = 6
    bucket: int = 500
    minn: int = 2
    maxn: int = 4
    word_ngrams: int = 1
    version: int = 12
    quantized: bool = False
    has_norms: bool = True
    quantized_output: bool = False
    pruned: int = -1
    sub_dim: int = 4
    has_eos: bool = True
    deviation: float = 1.5  # of the rows


WORDS = ["the", "cat", "и", "est", "猫", "ein", "__label__x", "a"]
LABELS = {"en": 900, "de": 500, "ja": 400, "fr": 399, "ru": 20, "sw": 7, "tr": 3}
TEXTS = [
    "the cat",
    "a cat est ein Haus",
    "猫がいます",
    "кот и пёс",
    "x",
    "",
    " \t ",
    "line\nbreak\rand\ttab\vand\fmore\0zero",
    "the </s> rest is not read",
    "</s>",
    "__label__en __label__x __label__zz the",
    "ünï cödé 🐈‍⬛ " * 5,
    "w" * 300,
]

KINDS = {
    "softmax": Kind(),
    "hierarchical": Kind(loss=HS),
    "without character n-grams": Kind(minn=0, maxn=0),
    "single characters": Kind(minn=1, maxn=3),
    "quantized": Kind(quantized=True),
    "quantized without norms": Kind(quantized=True, has_norms=False),
    "quantized, last part shorter": Kind(quantized=True, dim=7, sub_dim=2, loss=HS),
    "quantized and pruned": Kind(quantized=True, pruned=120),
    "quantized and pruned to words": Kind(quantized=True, pruned=0),
    "quantized output": Kind(quantized=True, quantized_output=True),
    "no end of sentence": Kind(has_eos=False),
    "as wide as the kernels' sums": Kind(dim=16, loss=HS),
    "wider, no multiple of them": Kind(dim=33),
    "scores whose exponential overflows": Kind(deviation=30.0),
    "scores of a tree that overflow": Kind(loss=HS, deviation=30.0),
}


def write_model(path: Path, kind: Kind, words: list[str], labels: dict[str, int], seed: int = 0) -> None:
    """words: the dictionary, falling in frequency; labels: name -> count, falling."""
    rng = np.random.default_rng(seed)
    entries = ["</s>", *words] if kind.has_eos else list(words)
    num_words, num_labels = len(entries), len(labels)
    out = bytearray(struct.pack("<2i", 793712314, kind.version))
    out += struct.pack(
        "<12i", kind.dim, 5, 5, 1, 5, kind.word_ngrams, kind.loss, 3, kind.bucket, kind.minn, kind.maxn, 100
    )
    out += struct.pack("<d", 1e-4)
    out += struct.pack("<3i2q", num_words + num_labels, num_words, num_labels, 12345, kind.pruned)
    for rank, word in enumerate(entries):
        out += word.encode() + b"\0" + struct.pack("<qb", 10_000 - rank, 0)
    for label, count in labels.items():
        out += b"__label__" + label.encode() + b"\0" + struct.pack("<qb", count, 1)
    if kind.pruned > 0:
        kept = rng.permutation(kind.bucket)[: kind.pruned]
        for row, bucket in enumerate(kept):
            out += struct.pack("<2i", bucket, row)
    num_rows = num_words + (kind.bucket if kind.pruned < 0 else kind.pruned)
    out += struct.pack("<?", kind.quantized)
    out += _quantized(rng, num_rows, kind) if kind.quantized else _dense(rng, num_rows, kind)
    out += struct.pack("<?", kind.quantized_output)
    out += _quantized(rng, num_labels, kind) if kind.quantized_output else _dense(rng, num_labels, kind)
    path.write_bytes(bytes(out))


def _dense(rng: np.random.Generator, num_rows: int, kind: Kind) -> bytes:
    rows = rng.normal(0, kind.deviation, (num_rows, kind.dim)).astype("<f4")
    return struct.pack("<2q", num_rows, kind.dim) + rows.tobytes()


def _quantized(rng: np.random.Generator, num_rows: int, kind: Kind) -> bytes:
    num_subvectors = -(-kind.dim // kind.sub_dim)
    codes = rng.integers(0, 256, (num_rows, num_subvectors), np.uint8)
    out = struct.pack("<?2qi", kind.has_norms, num_rows, kind.dim, codes.size) + codes.tobytes()
    out += _centroids(rng, kind.dim, kind.sub_dim)
    if kind.has_norms:
        out += rng.integers(0, 256, num_rows, np.uint8).tobytes() + _centroids(rng, 1, 1)
    return out


def _centroids(rng: np.random.Generator, dim: int, sub_dim: int) -> bytes:
    num_subvectors = -(-dim // sub_dim)
    last = dim - sub_dim * (num_subvectors - 1)
    header = struct.pack("<4i", dim, num_subvectors, sub_dim, last)
    return header + rng.normal(0, 1.5, dim * 256).astype("<f4").tobytes()
