"""Ask a trained model which of some names is in each picture, in each language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from worldclip.evaluate.engine import TextFeatures
from worldclip.evaluate.image_features import encode_images
from worldclip.evaluate.tasks import Classification, Dataset
from worldclip.model.load import load
from worldclip.plugins.emoji.build import LANGS

BATCH_SIZE = 256
Question = Callable[[str], tuple[Sequence[str], np.ndarray]]
"""Language -> candidate names, and the right one of each picture, (n,)."""


def ask(
    run_dir: Path, keys: Sequence[str], read_images: Callable[[int, int], list[bytes]], question: Question
) -> np.ndarray:
    """Return (languages, n): the number of wrong names before the right one, by the last checkpoint of a run."""
    model = load(run_dir, device="cpu")
    dataset = Dataset(
        name="test", digest="", image_keys=keys, read_images=read_images, languages=LANGS, tasks=lambda lang: []
    )
    image_ND = encode_images(model, dataset, BATCH_SIZE).features_ND
    encode = TextFeatures(model, BATCH_SIZE)
    ranks = []
    for lang in LANGS:
        names, target = question(lang)
        task = Classification(class_names=[[name] for name in names], target=target, image_idx=np.arange(len(target)))
        ranks.append(task.score(image_ND, encode).ranks["acc"])
    return np.stack(ranks)
