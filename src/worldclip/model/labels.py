"""Labels of a zero-shot classifier: the sentences around them, their features, the probabilities of images.

N images, M labels, S sentences, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from worldclip.core.errors import UserError
from worldclip.model.weights import read_json_config

Templates: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
"""Sentences around a label, each with one `{}`; or a mapping from language to the sentences of that language."""


def read_templates(path: Path) -> dict[str, list[str]]:
    """Read templates by language from JSON, {language: [template, ...]}, as Babel-ImageNet's prompts are.

    Languages come out in lower case.  Raises UserError.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a JSON file of {{language: [template, ...]}}")
    record = read_json_config(path)
    if not all(map(_is_list_of_text, record.values())):
        raise UserError(f"{path} must hold {{language: [template, ...]}}")
    return {lang.lower(): templates for lang, templates in record.items()}


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def label_features(features_SD: np.ndarray, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """Return (M, D) of unit length: per label the mean over its sentences, whose features follow each other."""
    starts = np.cumsum([0, *map(len, sentences)])
    label_MD = np.add.reduceat(features_SD, starts[:-1], axis=0)
    unit_MD: np.ndarray = label_MD / np.linalg.norm(label_MD, axis=1, keepdims=True)
    return unit_MD


def probabilities(image_ND: np.ndarray, label_MD: np.ndarray, logit_scale: np.float32) -> np.ndarray:
    """Return (N, M) float32 probabilities of the labels for each image; rows sum to 1."""
    logits_NM = logit_scale * image_ND @ label_MD.T
    odds_NM = np.exp(logits_NM - logits_NM.max(axis=1, keepdims=True))
    prob_NM: np.ndarray = odds_NM / odds_NM.sum(axis=1, keepdims=True)
    return prob_NM


def label_sentences(
    labels: Sequence[str], templates: Templates, langs: str | Sequence[str] | None = None
) -> list[list[str]]:
    """Return the sentences of each label.  Raises UserError that names all problems."""
    if isinstance(templates, str):
        templates = (templates,)
    by_lang = dict(templates) if isinstance(templates, Mapping) else {"": templates}
    label_langs = [langs or ""] * len(labels) if langs is None or isinstance(langs, str) else list(langs)
    problems = list(_template_problems(by_lang))
    if not labels:
        problems.append("labels is empty; give at least one")
    if isinstance(templates, Mapping):
        problems += _language_problems(labels, label_langs, langs, by_lang)
    elif langs is not None:
        problems.append(
            f"langs = {langs!r}: templates are not by language; give {{language: [template, ...]}}, or leave it out"
        )
    if problems:
        raise UserError(problems)
    sentences = []
    for label, lang in zip(labels, label_langs, strict=True):
        sentences.append([template.replace("{}", label) for template in by_lang[lang]])
    return sentences


def _template_problems(by_lang: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for lang, sentences in by_lang.items():
        if not sentences:
            where = f" for {lang}" if lang else ""
            yield f'templates is empty{where}; use ("{{}}",) for the label alone'
        for sentence in sentences:
            if "{}" not in sentence:
                yield f"template {sentence!r} has no {{}} for the label"


def _language_problems(
    labels: Sequence[str],
    label_langs: Sequence[str],
    langs: str | Sequence[str] | None,
    by_lang: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """Yield the first problem of the labels' languages; by_lang: templates by language."""
    known = ", ".join(by_lang)
    if langs is None:
        yield f"templates are by language; give langs, the languages of the labels, out of {known}"
    elif len(label_langs) != len(labels):
        yield f"langs names {len(label_langs)} languages for {len(labels)} labels; give one, or one per label"
    elif missing := sorted(set(label_langs) - set(by_lang)):
        yield f"no templates for the languages {', '.join(missing)}; templates exist for {known}"
