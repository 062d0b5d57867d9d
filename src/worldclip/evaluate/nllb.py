"""Tell NLLB-CLIP (arXiv:2309.01859) the language of each text: its tokenizer writes one language's token for all."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from worldclip.language.table import INSTALLED

_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")  # FLORES: deu_Latn
_STANDARD = {"ar": "arb_Arab"}  # of several codes of one list; elsewhere the script and the order of the table decide


def is_told_language(model: Any) -> bool:
    """Return whether the features of a text depend on the language that the model is told."""
    return getattr(model.tokenizer, "nllb", None) is not None


def in_language(model: Any, lang: str) -> Any:
    """Return such a model for texts of a language; itself if its tokenizer has no token of it."""
    if lang not in INSTALLED.by_code():
        return model
    tokenizer = model.tokenizer
    hf = tokenizer.nllb
    ids = {}
    # versions of transformers list languages under different names
    for name in map(str, (*hf.all_special_tokens, *hf.added_tokens_decoder.values())):
        if _CODE.fullmatch(name):
            ids[name] = hf.convert_tokens_to_ids(name)
    codes_of_lang = [code for code in ids if INSTALLED.from_lid(code, scheme="glotlid") == lang]
    if not codes_of_lang:
        return model
    language = INSTALLED.get(lang)

    def preference(code: str) -> tuple[bool, bool, int]:
        iso, _, script = code.partition("_")
        return code != _STANDARD.get(lang), script != language.script, [*language.iso639_3, iso].index(iso)

    code = min(codes_of_lang, key=preference)
    default_tokens = set(hf("a")["input_ids"]) & set(ids.values())

    def to_ids(texts: list[str]) -> list[list[int]]:
        rows = []
        for row in tokenizer.to_ids(texts):
            told = [ids[code] if token in default_tokens else token for token in row]
            rows.append(told)
        return rows

    return dataclasses.replace(model, tokenizer=dataclasses.replace(tokenizer, to_ids=to_ids))


def untold(model: Any, languages: Iterable[str]) -> list[str]:
    """Return the languages that such a model has no token of: their texts keep the token of its default language."""
    if not is_told_language(model):
        return []
    return [lang for lang in languages if in_language(model, lang) is model]
