"""The token by which NLLB's tokenizer tells the language of a text, as NLLB-CLIP reads it (arXiv:2309.01859).

The tokenizer writes one language's token for all texts, English by default.  Its place (first, or last in older
tokenizers) stays; only its id changes, so that one model serves texts of many languages in turns.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.language.table import INSTALLED

_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
# Several of NLLB's languages have one list of ours; elsewhere the script and the order of the table decide.
_STANDARD = {"ar": "arb_Arab"}


@dataclass(frozen=True, slots=True)
class LanguageTokens:
    """The languages of a tokenizer, and the one that texts are in."""

    ids: Mapping[str, int]
    """FLORES code (`deu_Latn`) -> id of its token."""
    written: int
    """The id that the tokenizer writes."""
    language: str
    """FLORES code of the texts' language."""

    @classmethod
    def of(cls, hf: Any) -> LanguageTokens | None:
        """Return those of a Hugging Face tokenizer, None where its texts have none."""
        if not hasattr(hf, "set_src_lang_special_tokens"):
            return None
        # versions of transformers list languages under different names
        added = map(str, hf.added_tokens_decoder.values())
        special = dict.fromkeys([*map(str, hf.all_special_tokens), *added])
        ids = {name: hf.convert_tokens_to_ids(name) for name in special if _CODE.fullmatch(name)}
        written = [(name, i) for name, i in ids.items() if i in hf("a")["input_ids"]]
        if len(written) != 1:
            return None
        language, token = written[0]
        return cls(ids, token, language)

    def in_language(self, lang: str) -> LanguageTokens:
        """Return these tokens for texts of a language: a FLORES code, or one of worldclip's.

        Raises UserError for a language that the tokenizer does not know.
        """
        code = lang if lang in self.ids else self._code_of(lang)
        if code is None:
            raise UserError(
                f"language = {lang!r}: the model's tokenizer has no token of this language; give one of its codes, "
                f"such as {self.language}, or worldclip's code of one of its {len(self.ids)} languages"
            )
        return dataclasses.replace(self, language=code)

    def _code_of(self, lang: str) -> str | None:
        if lang not in INSTALLED.by_code():
            return None
        row = INSTALLED.get(lang)
        codes = [code for code in self.ids if INSTALLED.from_lid(code, scheme="glotlid") == lang]
        if _STANDARD.get(lang) in codes:
            return _STANDARD[lang]

        def preference(code: str) -> tuple[bool, int]:
            iso, _, script = code.partition("_")
            return script != row.script, row.iso639_3.index(iso) if iso in row.iso639_3 else len(row.iso639_3)

        return min(codes, key=preference, default=None)

    def put(self, ids: np.ndarray) -> np.ndarray:
        """Return token ids with the language's token in place of the one that the tokenizer wrote."""
        return np.where(ids == self.written, self.ids[self.language], ids)
