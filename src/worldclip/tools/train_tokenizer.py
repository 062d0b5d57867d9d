"""The command `tokenizer train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from worldclip.core.command import Command
from worldclip.core.job import Run
from worldclip.train.config import TrainConfig


@Command
def train_tokenizer(
    run: Path,
    out: Path | None = None,
    *,
    model: Literal["unigram", "bpe"] | None = None,
    vocab_size: int | None = None,
    lang_exponent: float | None = None,
) -> tuple[Any, str]:
    """Train a tokenizer on the curated texts of a run, balanced by language.

    run: folder of a run whose stage curate is finished.
    out: folder to write (default: RUN/tokenizer); set train.tokenizer.path to it afterwards.
    model: unigram (likeliest pieces) or bpe (merged pairs) (default of this and the next two: the run's recipe).
    vocab_size: number of pieces, special tokens included.
    lang_exponent: exponent of a language's curated share of the texts; 1: as curated, 0: all languages alike.
    """
    from worldclip.train.tokenizer import train_on_run

    train = Run.open(run).section(TrainConfig)
    flags: dict[str, Any] = {"model": model, "vocab_size": vocab_size, "lang_exponent": lang_exponent}
    config = dataclasses.replace(train.tokenizer, **{name: flag for name, flag in flags.items() if flag is not None})
    report = train_on_run(run, out or run / "tokenizer", config, train.model.architecture().context_length)
    lines = [f"{report['out']}: {report['vocab_size']:,} pieces from {report['texts']:,} texts"]
    for lang, row in sorted(report["languages"].items(), key=lambda item: -item[1]["texts"]):
        lines.append(f"  {lang:<8}{row['texts']:>12,} texts, each {row['repeats']:.3g} times")
    return report, "\n".join([*lines, f'to train with it: train.tokenizer.path = "{report["out"]}"'])
