"""Fewer tokens: the rows of the token table that a corpus uses, the tokenizer renumbered, equal embeddings proven.

The token table is most of a small model: 346M of ViT-S/16's 390M parameters.  A Unigram tokenizer that loses pieces
cuts a text that used none of them as before; other texts fall into smaller pieces that are left, or become unknown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.model.backend import TorchTowers
from worldclip.model.formats.open_clip_folder import build
from worldclip.model.tokenizer import Tokenizer, require_transformers

if TYPE_CHECKING:
    from worldclip.model.inference import Clip

BATCH_SIZE = 4096  # texts tokenised at a time
NUM_EMBEDDED = 512  # texts whose embeddings are compared; the token ids of all are
TOLERANCE = 1e-6  # the rows are copies and the arithmetic is the same
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def prune(clip: Clip, texts: Iterable[str]) -> tuple[Clip, dict[str, Any]]:
    """`clip` with the token rows that `texts` use, and a report.

    Kept beside the used pieces: special tokens, and the piece of the lowest score, from which Unigram derives the
    penalty of an unknown character.  Raises UserError where the tokenizer is no fast Unigram one, or where one of the
    texts would embed otherwise.
    """
    tokenizer = clip.tokenizer
    assert tokenizer is not None
    spec = _unigram(tokenizer)
    corpus = sorted(set(texts))
    if not corpus:
        raise UserError("the corpus holds no text in these languages; name other languages, or give export.corpus")
    used = np.zeros(tokenizer.vocab_size, bool)
    for batch in _batches(corpus):
        used[tokenizer.encode(batch).ids] = True
    used[_always_kept(tokenizer, spec)] = True
    kept = np.flatnonzero(used)
    pruned = dataclasses.replace(
        clip,
        towers=TorchTowers(_prune_model(clip.model, kept, tokenizer)),
        tokenizer=_prune_tokenizer(tokenizer, spec, kept),
    )
    _prove(clip, pruned, kept, corpus)
    width = clip.model.config.text_config.hidden_size
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (clip.model, pruned.model)]
    report = {
        "rows_before": clip.model.config.text_config.vocab_size,
        "rows_after": len(kept),
        "width": width,
        "parameters_before": sizes[0],
        "parameters_after": sizes[1],
        "texts_proven": len(corpus),
    }
    return pruned, report


def outside(clip: Clip, pruned: Clip, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What happens to texts that may not be in the corpus: tokens before and after, unknown ones, cosine."""
    before, after = clip.tokenizer, pruned.tokenizer
    assert before is not None
    assert after is not None
    cosines = (clip.encode_text(texts) * pruned.encode_text(texts)).sum(axis=1)
    found = []
    for text, cosine in zip(texts, cosines, strict=True):
        ids = after.encode([text]).ids
        found.append(
            {
                "text": text[:40],
                "tokens_before": len(before.encode([text]).ids),
                "tokens_after": len(ids),
                "unknown": int((ids == after.hf.unk_token_id).sum()),
                "cosine": round(float(cosine), 4),
            }
        )
    return found


def read_corpus(paths: Sequence[Path], languages: Sequence[str]) -> Iterator[str]:
    """Texts of .txt files (one a line) and .parquet files (column text; column lang, where there is one, selects)."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for path in paths:
        if not path.exists():
            raise UserError(f"the corpus {path} does not exist")
        if path.suffix == ".txt":
            with open(path, encoding="utf-8") as file:
                yield from (line for row in file if (line := row.rstrip("\n")))
            continue
        with pq.ParquetFile(path) as file:
            columns = [name for name in ("text", "lang") if name in file.schema_arrow.names]
            if "text" not in columns:
                raise UserError(f"{path} has no column text; its columns are {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(columns=columns):
                texts = batch.column("text")
                if "lang" in columns:
                    langs = pc.cast(batch.column("lang"), "string")
                    texts = texts.filter(pc.is_in(langs, pc.cast(list(languages), "string")))
                yield from (text for text in texts.to_pylist() if text)


def run_corpus(run_dir: Path) -> list[Path]:
    """The matched texts of a run."""
    found = sorted((run_dir / "match" / "texts").rglob("*.parquet"))
    if not found:
        raise UserError(f"{run_dir} holds no matched texts (match/texts); give export.corpus")
    return found


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, BATCH_SIZE)):
        yield batch


def _unigram(tokenizer: Tokenizer) -> dict[str, Any]:
    backend = getattr(tokenizer.hf, "backend_tokenizer", None)
    spec = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "none"}}
    if spec["model"]["type"] != "Unigram":
        raise UserError(
            f"the tokenizer is a {type(tokenizer.hf).__name__}; rows can be left out of Unigram tokenizers in "
            "tokenizer.json alone (XLM-V's, ours): in others a missing piece changes how every text is cut"
        )
    return spec


def _always_kept(tokenizer: Tokenizer, spec: dict[str, Any]) -> list[int]:
    scores = [score for _, score in spec["model"]["vocab"]]
    added = [token["id"] for token in spec["added_tokens"]]
    return [*added, spec["model"]["unk_id"], int(np.argmin(scores)), tokenizer.eos_id, tokenizer.pad_id]


def _prune_tokenizer(tokenizer: Tokenizer, spec: dict[str, Any], kept: np.ndarray) -> Tokenizer:
    """The same pipeline over the pieces `kept`, numbered in their old order."""
    from tokenizers import Tokenizer as Pipeline
    from transformers import PreTrainedTokenizerFast

    new = {int(old): place for place, old in enumerate(kept)}
    spec = json.loads(json.dumps(spec))
    vocab = spec["model"]["vocab"]
    spec["model"]["vocab"] = [vocab[old] for old in new if old < len(vocab)]
    spec["model"]["unk_id"] = new[spec["model"]["unk_id"]]
    spec["padding"] = spec["truncation"] = None
    for token in spec["added_tokens"]:
        token["id"] = new[token["id"]]
    if spec["post_processor"] is not None:
        _renumber(spec["post_processor"], new)
    hf = tokenizer.hf
    specials = {
        f"{name}_token": str(token) for name in _NAMES if (token := getattr(hf, f"{name}_token", None)) is not None
    }
    renumbered = PreTrainedTokenizerFast(
        tokenizer_object=Pipeline.from_str(json.dumps(spec)),
        model_max_length=tokenizer.context_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **specials,
    )
    return Tokenizer(renumbered, tokenizer.context_length)


def _renumber(post_processor: dict[str, Any], new: dict[int, int]) -> None:
    """The ids of special tokens in a post-processor: templates, BERT's and RoBERTa's pairs, sequences of these."""
    for inner in post_processor.get("processors", []):
        _renumber(inner, new)
    for special in post_processor.get("special_tokens", {}).values():
        special["ids"] = [new[old] for old in special["ids"]]
    for name in ("sep", "cls"):
        if name in post_processor:
            text, old = post_processor[name]
            post_processor[name] = [text, new[old]]


def _prune_model(model: Any, kept: np.ndarray, tokenizer: Tokenizer) -> Any:
    import torch

    transformers = require_transformers()
    config = transformers.MetaClip2Config.from_dict(model.config.to_dict())
    text: Any = config.text_config
    place = {int(old): new for new, old in enumerate(kept)}
    text.vocab_size = len(kept)
    text.eos_token_id, text.pad_token_id = place[tokenizer.eos_id], place[tokenizer.pad_id]
    text.bos_token_id = None if tokenizer.bos_id is None else place[tokenizer.bos_id]
    state = dict(model.state_dict())
    table = "text_model.embeddings.token_embedding.weight"
    state[table] = state[table][torch.from_numpy(kept).to(state[table].device)].clone()
    return build(transformers.MetaClip2Model, config, state).to(model.device)


def _prove(clip: Clip, pruned: Clip, kept: np.ndarray, corpus: Sequence[str]) -> None:
    """The ids of every text are the old ones renumbered, and embeddings of a sample are equal."""
    before, after = clip.tokenizer, pruned.tokenizer
    assert before is not None
    assert after is not None
    for batch in _batches(corpus):
        old, new = before.encode(batch), after.encode(batch)
        if np.array_equal(old.offsets, new.offsets) and np.array_equal(kept[new.ids], old.ids):
            continue
        changed = next(
            text for text in batch if not np.array_equal(kept[after.encode([text]).ids], before.encode([text]).ids)
        )
        raise UserError(f"without the unused pieces the text {changed[:60]!r} is cut otherwise; nothing was exported")
    sample = [corpus[i] for i in np.linspace(0, len(corpus) - 1, min(NUM_EMBEDDED, len(corpus))).astype(int)]
    difference = float(np.abs(clip.encode_text(sample) - pruned.encode_text(sample)).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"the pruned model embeds a text of the corpus differently by {difference:.1e}; nothing was exported"
        )


def card_lines(report: dict[str, Any], languages: Sequence[str]) -> list[str]:
    """What a card says of a pruned vocabulary."""
    lines = [
        "",
        "## Vocabulary",
        "",
        f"Reduced to {', '.join(languages)}: {report['rows_after']:,} of {report['rows_before']:,} token rows, "
        f"{report['parameters_after']:,} of {report['parameters_before']:,} parameters. {report['texts_proven']:,} "
        "texts of the corpus have the token ids of the whole model, renumbered. Other texts fall into smaller pieces:",
        "",
        "| text | tokens before | after | unknown | cosine |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in report.get("outside", []):
        cells = (row["text"], row["tokens_before"], row["tokens_after"], row["unknown"], row["cosine"])
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines
