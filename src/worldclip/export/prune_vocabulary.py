"""Prune the vocabulary: keep the token rows that a corpus uses, renumber the tokenizer, prove equal embeddings.

The token table is most of a small model: 346M of ViT-S/16's 390M parameters.  A Unigram tokenizer (arXiv:1804.10959)
segments a text into its likeliest pieces, so a text that used none of the removed pieces keeps its pieces.  Other
texts fall into smaller pieces that are left, or become unknown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout
from worldclip.contracts.matched import read_matched_texts
from worldclip.core.errors import UserError
from worldclip.core.job import Report
from worldclip.export.config import ExportConfig
from worldclip.model.formats.huggingface_folder import build
from worldclip.model.inference import Clip, TorchBackend
from worldclip.model.tokenizer import Tokenizer, require_transformers, tokenizer_of

BATCH_SIZE = 4096  # texts tokenised together
NUM_EMBEDDED = 512  # texts whose embeddings are compared; token ids are compared for all texts
TOLERANCE = 1e-6  # largest difference of an element: the rows are copies and the arithmetic is the same
TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def prune(clip: Clip, texts: Iterable[str]) -> tuple[Clip, Report]:
    """Return `clip` with only the token rows that `texts` use, and a report; its `width` is the parameters per row.

    Raises UserError where the tokenizer is not a fast Unigram one, or where one of the texts would embed differently.
    """
    tokenizer = clip.tokenizer
    backend = getattr(tokenizer.hf, "backend_tokenizer", None)
    spec: Report = {} if backend is None else json.loads(backend.to_str())
    if not spec or spec["model"]["type"] != "Unigram":
        raise UserError(
            f"the tokenizer is a {type(tokenizer.hf).__name__}; only Unigram tokenizers in tokenizer.json (XLM-V's, "
            "ours) can be pruned: in others a missing piece changes how every text is segmented"
        )
    corpus = sorted(set(texts))
    if not corpus:
        raise UserError("the corpus holds no text in these languages; name other languages, or give export.corpus")
    is_used = np.zeros(tokenizer.vocab_size, bool)
    for batch in _batches(corpus):
        is_used[tokenizer.encode(batch).ids] = True
    is_used[[token["id"] for token in spec["added_tokens"]]] = True
    # Unigram derives the penalty of unknown characters from the piece of the lowest score
    lowest = int(np.argmin([score for _, score in spec["model"]["vocab"]]))
    is_used[[spec["model"]["unk_id"], lowest, tokenizer.eos_id, tokenizer.pad_id]] = True
    old_ids = np.flatnonzero(is_used)
    new_ids = {int(old): new for new, old in enumerate(old_ids)}
    pruned = dataclasses.replace(
        clip,
        backend=TorchBackend(_prune_model(clip.model, new_ids, tokenizer)),
        tokenizer=_prune_tokenizer(tokenizer, spec, new_ids),
    )
    _prove(clip, pruned, old_ids, corpus)
    text_config = clip.model.config.text_config
    return pruned, {
        "rows_before": text_config.vocab_size,
        "rows_after": len(old_ids),
        "width": text_config.hidden_size,
        "parameters_before": clip.model.num_parameters(),
        "parameters_after": pruned.model.num_parameters(),
        "texts_proven": len(corpus),
    }


def texts_of(config: ExportConfig, run_dir: Path | None, languages: Sequence[str]) -> Iterator[str]:
    """Yield the texts that decide which rows are used: the lines of export.corpus, by default a run's matched texts.

    run_dir: None for other models.  Raises UserError at the end for languages in which the run has no matched text.
    """
    for name in config.corpus:
        try:
            yield from filter(None, Path(name).read_text(encoding="utf-8").split("\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the corpus {name} is not a UTF-8 text file ({error}); write it again") from error
    if config.corpus:
        return
    if run_dir is None or not layout.matched_shards(run_dir):
        raise UserError(f"{run_dir} holds no matched texts (match/texts); give export.corpus")
    missing = set(languages)
    for shard in layout.matched_shards(run_dir):
        table = read_matched_texts(run_dir, shard, ["text", "lang"])
        lang = pc.cast(table["lang"], "string")
        missing -= set(pc.unique(lang).to_pylist())
        is_kept = pc.is_in(lang, pa.array(list(languages)))
        yield from filter(None, table["text"].filter(is_kept).to_pylist())
    if missing:
        raise UserError(
            f"export.languages: the run has no matched text in {', '.join(sorted(missing))}, whose tokens would be "
            "removed; leave these languages out, or set export.corpus to texts in all of them"
        )


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE))


def _prune_tokenizer(tokenizer: Tokenizer, spec: Report, new_ids: dict[int, int]) -> Tokenizer:
    """Return the same pipeline with the pieces of `new_ids`: old id -> new one, in their old order."""
    from tokenizers import Tokenizer as Pipeline

    spec = json.loads(json.dumps(spec))  # a deep copy
    vocab = spec["model"]["vocab"]
    spec["model"]["vocab"] = [vocab[old] for old in new_ids if old < len(vocab)]
    spec["model"]["unk_id"] = new_ids[spec["model"]["unk_id"]]
    spec["padding"] = None
    spec["truncation"] = None
    for token in spec["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    if spec["post_processor"] is not None:
        _renumber(spec["post_processor"], new_ids)
    specials = {}
    for name in _SPECIAL_TOKENS:
        token = getattr(tokenizer.hf, name, None)
        if token is not None:
            specials[name] = str(token)
    return tokenizer_of(Pipeline.from_str(json.dumps(spec)), tokenizer.context_length, specials)


def _renumber(post_processor: Report, new_ids: dict[int, int]) -> None:
    """Renumber special tokens in a post-processor: templates, BERT's and RoBERTa's pairs, sequences of these."""
    for inner in post_processor.get("processors", []):
        _renumber(inner, new_ids)
    for special in post_processor.get("special_tokens", {}).values():
        special["ids"] = [new_ids[old] for old in special["ids"]]
    for name in ("sep", "cls"):
        if name in post_processor:
            text, old = post_processor[name]
            post_processor[name] = [text, new_ids[old]]


def _prune_model(model: Any, new_ids: dict[int, int], tokenizer: Tokenizer) -> Any:
    import torch

    transformers = require_transformers()
    config = transformers.MetaClip2Config.from_dict(model.config.to_dict())
    text_config: Any = config.text_config
    text_config.vocab_size = len(new_ids)
    text_config.eos_token_id = new_ids[tokenizer.eos_id]
    text_config.pad_token_id = new_ids[tokenizer.pad_id]
    text_config.bos_token_id = None if tokenizer.bos_id is None else new_ids[tokenizer.bos_id]
    state = dict(model.state_dict())
    table = state[TOKEN_TABLE]
    state[TOKEN_TABLE] = table[torch.tensor(list(new_ids), device=table.device)].clone()
    return build(config, state).to(model.device)


def _prove(clip: Clip, pruned: Clip, old_ids: np.ndarray, corpus: Sequence[str]) -> None:
    """Raise UserError unless all token ids are the old ones renumbered, and embeddings of a sample are equal."""

    def is_renumbered(texts: Sequence[str]) -> bool:
        before = clip.tokenizer.encode(texts)
        after = pruned.tokenizer.encode(texts)
        return np.array_equal(before.offsets, after.offsets) and np.array_equal(old_ids[after.ids], before.ids)

    for batch in _batches(corpus):
        if not is_renumbered(batch):
            text = next(text for text in batch if not is_renumbered([text]))
            raise UserError(f"without the unused pieces, {text[:60]!r} is segmented differently; nothing was exported")
    num_embedded = min(NUM_EMBEDDED, len(corpus))
    sample = [corpus[i] for i in np.linspace(0, len(corpus) - 1, num_embedded).astype(int)]
    difference = float(np.abs(clip.encode_text(sample) - pruned.encode_text(sample)).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"the pruned model embeds a text of the corpus differently by {difference:.1e}; nothing was exported"
        )


def card_lines(report: Report, languages: Sequence[str]) -> list[str]:
    """Return the section of the model card on the pruned vocabulary."""
    return [
        "",
        "## Vocabulary",
        "",
        f"Reduced to {', '.join(languages)}: {report['rows_after']:,} of {report['rows_before']:,} token rows, "
        f"{report['parameters_after']:,} of {report['parameters_before']:,} parameters. {report['texts_proven']:,} "
        "texts of the corpus have the token ids of the whole model, renumbered. Other texts fall into smaller pieces, "
        "or have unknown ones.",
    ]
