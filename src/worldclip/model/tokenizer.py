"""Turn texts into token ids that end in exactly one end token, with tokenizers that we train and with any other.

Special tokens stay text.  The specials of our tokenizers begin with U+E000, a private-use character that is deleted
from texts.  The special strings of other tokenizers are broken before tokenising (`</s>` -> `< /s>`).
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.artifacts import write_json
from worldclip.core.errors import UserError, is_no_memory, require
from worldclip.model.special_strings import SpecialStrings, stages_of
from worldclip.model.weights import library_faults, read_optional_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MARK = "\ue000"
SPECIALS = tuple(MARK + name for name in ("bos", "pad", "eos", "unk"))  # ids 0 to 3
BOS_ID, PAD_ID, EOS_ID, UNK_ID = range(4)
MAX_TRAINING_CHARS = 1_000  # longer alt-texts are page dumps
CHARACTER_COVERAGE = 0.9998  # share of characters that get a piece; rarer ones become unknown
WORD_START = "\u2581"  # sentencepiece's mark for the space before a word
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
SCORE_DIGITS = 6  # scores are rounded so that equal pieces compare equal and are ordered by their text


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ragged token ids: text i is ids[offsets[i]:offsets[i + 1]], its last id is the end token."""

    ids: np.ndarray
    """(num_tokens,) int64."""
    offsets: np.ndarray
    """(num_texts + 1,) int64."""
    pad_id: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], pad_id: int) -> Tokens:
        """Return the tokens of texts; rows: the ids of each."""
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        ids = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(offsets[-1]))
        return cls(ids, offsets, pad_id)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return (num_rows, length of the longest) int64, padded on the right."""
        if rows is None:
            rows = np.arange(len(self))
        lengths = self.lengths[rows]
        columns = np.arange(lengths.max(initial=0))
        is_real = columns < lengths[:, None]
        positions = np.where(is_real, self.offsets[rows][:, None] + columns, 0)
        return np.where(is_real, self.ids[positions], self.pad_id)

    def chunks_by_length(self, num_chunks: int) -> list[np.ndarray]:
        """Split the rows, sorted by length, into num_chunks arrays (fewer for fewer texts): little padding in each."""
        order = np.argsort(self.lengths, kind="stable")
        return np.array_split(order, min(num_chunks, max(1, len(order))))


def require_transformers() -> ModuleType:
    """Import transformers, without its progress bars for each file that it reads or writes."""
    transformers = require("transformers", extra="train")
    transformers.utils.logging.disable_progress_bar()
    return transformers


class Tokenizer:
    """A Hugging Face tokenizer with the guarantees above; `context_length` counts the end token."""

    def __init__(self, hf: PreTrainedTokenizerFast, context_length: int) -> None:
        missing = [name for name in ("eos", "pad") if getattr(hf, f"{name}_token_id") is None]
        if missing:
            raise UserError(
                f"train.tokenizer.path: the tokenizer has no {' and no '.join(missing)} token; choose one that has both"
            )
        self.hf = hf
        self.context_length = context_length
        self.bos_id: int | None = hf.bos_token_id
        self.eos_id: int = hf.eos_token_id
        self.pad_id: int = hf.pad_token_id
        self.vocab_size = len(hf)
        self._is_ours = hf.eos_token == SPECIALS[EOS_ID]
        added = {str(token) for token in hf.added_tokens_decoder.values() if token.special}
        self._specials = SpecialStrings({*added, *map(str, hf.all_special_tokens)}, stages_of(hf))
        ids = hf("a", add_special_tokens=True)["input_ids"]
        if self.eos_id in ids[:-1]:
            raise UserError(
                f"train.tokenizer.path: the tokenizer writes its end token {hf.eos_token!r} before the end of a text, "
                "where its start token stands; state another bos_token and use it in the post_processor of "
                "tokenizer.json, or choose another tokenizer"
            )
        self._adds_eos = ids[-1:] == [self.eos_id]

    @property
    def special_strings(self) -> list[str]:
        """The strings that `clean` takes out of texts, longest first: our mark is deleted, others are broken."""
        return [MARK] if self._is_ours else self._specials.strings

    def clean(self, text: str) -> str:
        """Return `text` without anything that would become a special token."""
        if self._is_ours:
            return text.replace(MARK, "")
        return self._specials.break_in(text)

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Tokenise texts to at most context_length ids each; truncated texts end in the end token too.

        Raises UserError for a text that is not valid Unicode (a lone surrogate).
        """
        if not len(texts):
            return Tokens.of([], self.pad_id)
        max_length = self.context_length if self._adds_eos else self.context_length - 1
        with library_faults("the tokenizer refuses the texts", "give others"):
            cleaned = [self.clean(text) for text in texts]
            batch = self.hf(cleaned, truncation=True, max_length=max_length, return_attention_mask=False)
        rows = batch["input_ids"]
        if not self._adds_eos:
            rows = [[*row, self.eos_id] for row in rows]
        tokens = Tokens.of(rows, self.pad_id)
        is_eos = tokens.ids == self.eos_id
        assert is_eos[tokens.offsets[1:] - 1].all(), "a text does not end in the end token"
        assert int(is_eos.sum()) == len(rows), "a text holds more than one end token"
        return tokens

    def save(self, folder: Path) -> None:
        """Write the tokenizer's Hugging Face files, with context_length as its maximum length."""
        self.hf.save_pretrained(folder)
        adapt_tokenizer_config(folder, self.context_length)


def adapt_tokenizer_config(folder: Path, context_length: int) -> None:
    """State context_length in tokenizer_config.json, and write its other keys as transformers 4 reads them too.

    Version 5 names a class that version 4 lacks, and lists extra special tokens where version 4 reads a mapping.
    """
    path = folder / "tokenizer_config.json"
    config = read_optional_config(path)
    config["model_max_length"] = context_length
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        tokens = config.pop("extra_special_tokens")
        if tokens:
            config["additional_special_tokens"] = tokens
    write_json(path, config)


def load_tokenizer(source: str | Path, context_length: int) -> Tokenizer:
    """Load a tokenizer by folder or hub id.  Raises UserError where there is none, or it lacks an end or pad token."""
    return Tokenizer(load_hugging_face(source), context_length)


def load_hugging_face(source: str | Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer as transformers has it, by folder or hub id.  Raises UserError where there is none."""
    if not Path(source).exists() and not _HUB_ID.fullmatch(str(source)):
        raise UserError(f"tokenizer {str(source)!r}: no such folder; give a folder or a hub id (owner/name)")
    load = require_transformers().AutoTokenizer.from_pretrained
    problem = f"{str(source)!r} does not load as a tokenizer"
    with library_faults(problem, "train.tokenizer.path takes a folder or a hub id"):
        tokenizer: PreTrainedTokenizerFast = load(str(source), trust_remote_code=False)
    tokenizer.init_kwargs.pop("auto_map", None)  # names code of its own, and would be saved with the tokenizer
    return tokenizer


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, context_length: int) -> Tokenizer:
    """Train a Unigram tokenizer (arXiv:1804.10959) of `vocab_size` pieces; fewer where the texts do not hold so many.

    Specials come first, then pieces by descending rounded score and by text.  Equal texts in equal order give equal
    bytes in every process: sentencepiece trains on one thread and we number the pieces, since the trainer of
    `tokenizers` numbers equally likely pieces differently in each process.

    Raises UserError where vocab_size is too small for the characters.
    """
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import decoders, models, pre_tokenizers, processors

    normalizer = _normalizer()
    normalised = (normalizer.normalize_str(text[:MAX_TRAINING_CHARS]) for text in texts)
    trained = _train_sentencepiece(filter(None, normalised), vocab_size - len(SPECIALS) + 1)  # +1: sentencepiece's unk
    pieces = [(piece, round(score, SCORE_DIGITS)) for piece, score in trained]
    pieces.sort(key=lambda item: (-item[1], item[0]))
    vocabulary = [*((special, 0.0) for special in SPECIALS), *pieces]
    pipeline = Pipeline(models.Unigram(vocabulary, unk_id=UNK_ID))
    pipeline.normalizer = normalizer
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START)
    pipeline.decoder = decoders.Metaspace()
    eos = SPECIALS[EOS_ID]
    pipeline.post_processor = processors.TemplateProcessing(single=f"$A {eos}", special_tokens=[(eos, EOS_ID)])
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    return tokenizer_of(pipeline, context_length, dict(zip(names, SPECIALS, strict=True)))


def _normalizer() -> Any:
    """Return what a tokenizer of ours does to a text first.

    It deletes the mark of specials, applies NFKC, reads curly quotes as straight ones, and makes each run of
    whitespace one space.  open_clip's tokenizers straighten the same quotes (ftfy's uncurl_quotes).
    """
    from tokenizers import Regex, normalizers

    return normalizers.Sequence(
        [
            normalizers.Replace(MARK, ""),
            normalizers.NFKC(),
            normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
            normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )


def tokenizer_of(pipeline: Any, context_length: int, specials: Mapping[str, str]) -> Tokenizer:
    """Return a pipeline of the library `tokenizers` as our Tokenizer; specials: by transformers' names, `eos_token`."""
    from transformers import PreTrainedTokenizerFast

    hf = PreTrainedTokenizerFast(
        tokenizer_object=pipeline,
        model_max_length=context_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **specials,
    )
    return Tokenizer(hf, context_length)


def _train_sentencepiece(texts: Iterable[str], vocab_size: int) -> list[tuple[str, float]]:
    """Return (piece, log probability) from sentencepiece's Unigram trainer, without its own special pieces."""
    sentencepiece = require("sentencepiece", extra="train")
    model_file = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model_file,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=CHARACTER_COVERAGE,
            normalization_rule_name="identity",  # the texts are normalised already, by the tokenizer's own rule
            max_sentence_length=4 * MAX_TRAINING_CHARS + 1,  # bytes: UTF-8 takes up to 4 per character
            num_threads=1,
            unk_id=0,  # required by sentencepiece; -1 turns the other specials off
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,  # only errors
        )
    except RuntimeError as error:
        if is_no_memory(error):
            raise
        raise UserError(
            f"train.tokenizer.vocab_size = {vocab_size + len(SPECIALS) - 1}: too small for the curated texts "
            f"({error}); each character needs a piece, so choose a larger vocabulary"
        ) from error
    model = sentencepiece.SentencePieceProcessor(model_proto=model_file.getvalue())
    return [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model)) if not model.is_unknown(i)]
