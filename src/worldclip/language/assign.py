"""Give each text a language of the run: by the pool's own label, or by the language-identification model.

Legend: T texts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.errors import UserError
from worldclip.language import identify as lid
from worldclip.language.table import INSTALLED, Languages, code_of_stated


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageRules:
    """All that decides a text's language besides the text."""

    languages: tuple[str, ...]  # languages of the run, sorted
    lid_model: str
    lid_digest: str  # digest of the model's file: a changed file is loaded again
    merge_labels: tuple[tuple[str, str], ...]  # (label, language it is sent to), sorted
    min_prob: float
    is_restricted: bool  # choose only among labels of the run's languages
    table: Languages = INSTALLED
    """Says what labels mean."""

    def find(self, texts: pa.Array, stated: pa.Array | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each text's (position in `languages` (T,) int32, probability (T,) float32, label (T,) str).

        The position is -1 for a text without a language of the run.  stated: labels of the pool (pool.lang), which
        decide with probability 1; None: the language-identification model decides.
        """
        if stated is not None:
            encoded = stated.dictionary_encode()
            names = encoded.dictionary.to_pylist()
            merged = dict(self.merge_labels)
            codes = [merged.get(name) or code_of_stated(name, self.languages, self.table) for name in names]
            position = pc.fill_null(encoded.indices, len(names)).to_numpy(zero_copy_only=False)
            labels = np.array([*names, lid.NO_LABEL], dtype=object)[position]
            return self._positions(codes)[position], np.ones(len(position), np.float32), labels.astype(str)
        identifier, lang_of_label = _load_identifier(self)
        label_ids, prob = identifier.predict_ids(texts)
        lang = lang_of_label[label_ids]
        lang[prob < self.min_prob] = -1
        return lang, prob, np.array([*identifier.labels, lid.NO_LABEL])[label_ids]

    def _positions(self, codes: Sequence[str]) -> np.ndarray:
        """Return the position of each code in `languages` (-1 for others), and a last -1 for a text without a label."""
        position = {lang: i for i, lang in enumerate(self.languages)}
        return np.array([*(position.get(code, -1) for code in codes), -1], np.int32)


@functools.cache
def _load_identifier(rules: LanguageRules) -> tuple[lid.Identifier, np.ndarray]:
    """Load the identifier once per process, with each label's position in `languages`: (labels + 1,) int32."""
    identifier = lid.Identifier(rules.lid_model)
    merged = dict(rules.merge_labels)
    codes = [merged.get(label) or rules.table.from_lid(label, identifier.scheme) for label in identifier.labels]
    lang_of_label = rules._positions(codes)
    if rules.is_restricted:
        allowed = np.array(identifier.labels)[lang_of_label[:-1] >= 0].tolist()
        if not allowed:
            raise UserError(
                "match.restrict_to_recipe_languages: no label of languages.lid_model means a language of the run"
                f" ({', '.join(rules.languages)}); set match.merge_labels, or remove the setting"
            )
        identifier = lid.Identifier(rules.lid_model, allowed)
    return identifier, lang_of_label
