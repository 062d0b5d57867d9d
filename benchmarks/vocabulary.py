"""How much smaller ViT-S/16 becomes when its vocabulary is reduced to some languages, and what texts outside meet.

    python benchmarks/vocabulary.py [shared/data] > benchmarks/results/vocabulary.md

XLM-V's tokenizer cannot be had without a network: the one here has its format and its 901,629 rows, the pieces being
words of 62 languages' frequency lists by their share, and single characters.  Captions of Multi30k and XTD-10 are the
corpus.  The rows are found and proven by `worldclip.export.prune_vocabulary` on a narrow model; parameters are reckoned
for S/16.
"""

from __future__ import annotations

import gzip
import math
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import MetaClip2Model, XLMRobertaTokenizer

from worldclip.export import prune_vocabulary
from worldclip.model.clip import create_model, image_processor, model_config
from worldclip.model.config import ModelConfig
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.published import XLM_V
from worldclip.model.tokenizer import Tokenizer, load_tokenizer

DATA = Path(__file__).parents[2] / "shared/data"
NARROW = ModelConfig(preset="tiny", image_size=32, vision_layers=1, text_width=64, context_length=77)
CORPORA = {
    "en": ("multi30k_train", ["en"]),
    "en, de, fr": ("multi30k_train", ["en", "de", "fr"]),
    "all of XTD-10": ("xtd10", None),
}
OUTSIDE = ["a harbour seal balancing on an iceberg", "ein Steinbock im Morgennebel", "一只猫坐在窗台上", "قطة صغيرة"]


def main(data: Path) -> None:
    tokenizer = build_tokenizer(data)
    clip = Clip(
        TorchBackend(create_model(model_config(NARROW, tokenizer), seed=0).eval()), tokenizer, image_processor(32)
    )
    whole, width = count_parameters(tokenizer)
    print(
        f"# Vocabulary\n\n{date.today()}. ViT-S/16 with {tokenizer.vocab_size:,} token rows: {whole / 1e6:.1f}M "
        "parameters.\n"
    )
    print("| corpus | texts | rows | parameters | float32 | of before | time |\n|---|---:|---:|---:|---:|---:|---:|")
    print(
        f"| whole vocabulary | | {tokenizer.vocab_size:,} | {whole / 1e6:.1f}M | {4 * whole / 1e6:,.0f} MB | 100% | |"
    )
    told = []
    for name, (file, languages) in CORPORA.items():
        table = pq.read_table(data / "captions" / f"{file}.parquet").to_pydict()
        texts = [
            text
            for text, lang in zip(table["caption"], table["lang"], strict=True)
            if not languages or lang in languages
        ]
        started_at = time.process_time()
        pruned, report = prune_vocabulary.prune(clip, texts)
        left = whole - width * (report["rows_before"] - report["rows_after"])
        print(
            f"| {name} | {report['texts_proven']:,} | {report['rows_after']:,} | {left / 1e6:.1f}M | "
            f"{4 * left / 1e6:,.0f} MB | {100 * left / whole:.0f}% | {time.process_time() - started_at:.0f} s |"
        )
        told += [(name, row) for row in prune_vocabulary.outside(clip, pruned, OUTSIDE)]
    print("\nTexts outside the corpus (cosines are of random weights):\n")
    print("| corpus | text | tokens before | after | unknown | cosine |\n|---|---|---:|---:|---:|---:|")
    for name, row in told:
        print(f"| {name} | {' | '.join(str(cell) for cell in row.values())} |")


def count_parameters(tokenizer: Tokenizer) -> tuple[int, int]:
    """Parameters of the whole ViT-S/16, and the width of a token row."""
    config = model_config(ModelConfig(preset="vit_s16"), tokenizer)
    with torch.device("meta"):
        model = MetaClip2Model(config)
    return sum(parameter.numel() for parameter in model.parameters()), config.text_config.hidden_size


def build_tokenizer(data: Path) -> Tokenizer:
    """XLM-V's size and format."""
    shares: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for path in sorted((data / "freq").rglob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [line.rsplit(" ", 1) for line in file.read().splitlines()]
        total = sum(int(count) for _, count in rows)
        for word, count in rows:
            shares[f"▁{word}"] += int(count) / total
            characters.update(word)
    single = ["▁", *sorted(characters)]
    words = [word for word, _ in shares.most_common(XLM_V.vocab_size - 5 - len(single)) if len(word) > 1]
    scale = sum(shares.values())
    lowest = math.log(min(shares[word] for word in words) / scale)
    pieces = [(word, math.log(shares[word] / scale)) for word in words] + [(piece, lowest - 1) for piece in single]
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    filler = [(f"\ue001{i}", lowest - 2) for i in range(XLM_V.vocab_size - 5 - len(pieces))]
    with tempfile.TemporaryDirectory() as folder:
        vocab = [*specials, *pieces, *filler, ("<mask>", 0.0)]
        XLMRobertaTokenizer(vocab=vocab, model_max_length=77).save_pretrained(folder)
        return load_tokenizer(folder, 77)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
