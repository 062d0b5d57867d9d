"""Commands about tokenizers: tokenizer train, tokenizer compare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainCommand:
    """A tokenizer on a run's curated texts, balanced by language; train.tokenizer.path then names its folder."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of a run whose stage curate is finished."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder to write; default: RUN/tokenizer."""
    model: Literal["unigram", "bpe"] | None = None
    """Unigram (likeliest pieces) or bpe (merged pairs); default of this and the next two: as the run's recipe says."""
    vocab_size: int | None = None
    """Pieces, special tokens included."""
    lang_exponent: float | None = None
    """A language's share of the texts is its curated share to this power, scaled; 1: as curated, 0: all alike."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


@dataclass(frozen=True, kw_only=True)
class TokenizerCompareCommand:
    """Tokens per word and share of captions cut at the context length, by language."""

    tokenizers: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders or hub ids."""
    on: Annotated[str, tyro.conf.arg(metavar="CORPUS")]
    """A run (its curated texts), Parquet with a column text or caption and maybe lang, or a file of lines."""
    context_length: int = 77
    """Tokens that a model reads of a caption, start and end included."""
    texts: int = 10_000
    """Texts of a language at most, chosen by the coin."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON."""


def _train(command: TokenizerTrainCommand) -> int:
    from worldclip.config import load_recipe
    from worldclip.train.tokenizer import train_on_run

    run_dir = Path(command.run)
    train = load_recipe(run_dir).train
    flags = {name: getattr(command, name) for name in ("model", "vocab_size", "lang_exponent")}
    config = dataclasses.replace(train.tokenizer, **{name: value for name, value in flags.items() if value is not None})
    folder = run_dir / "tokenizer" if command.out is None else Path(command.out)
    report = train_on_run(run_dir, folder, config, train.model.architecture().context_length)
    if command.json:
        print(json.dumps(report, ensure_ascii=False))
        return 0
    print(f"{report['out']}: {report['vocab_size']:,} pieces from {report['texts']:,} texts")
    for lang, row in sorted(report["languages"].items(), key=lambda item: -item[1]["texts"]):
        print(f"  {lang:<8}{row['texts']:>12,} texts, each {row['repeats']:.3g} times")
    print(f'to train with it: train.tokenizer.path = "{report["out"]}"')
    return 0


def _compare(command: TokenizerCompareCommand) -> int:
    from worldclip.tools.compare_tokenizers import compare_tokenizers, to_text

    found = compare_tokenizers(command.tokenizers, command.on, command.context_length, command.texts)
    print(json.dumps(found, ensure_ascii=False) if command.json else to_text(found))
    return 0


COMMANDS: dict[str, Callable[[Any], int]] = {"tokenizer train": _train, "tokenizer compare": _compare}
