"""Labels of a zero-shot classifier: the sentences around them, their features, the probabilities of images.

N images, M labels, S sentences, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldclip.core.errors import UserError


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


def label_sentences(labels: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Return the sentences of each label; a template holds one `{}`.  Raises UserError that names all problems."""
    templates = (templates,) if isinstance(templates, str) else templates
    problems = [f"template {sentence!r} has no {{}} for the label" for sentence in templates if "{}" not in sentence]
    if not templates:
        problems.append('templates is empty; use ("{}",) for only the label')
    if not labels:
        problems.append("labels is empty; give at least one")
    if problems:
        raise UserError(problems)
    return [[template.replace("{}", label) for template in templates] for label in labels]
