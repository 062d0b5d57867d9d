"""Any tar pool with captions, e.g. held-out shards of a training pool: retrieval among its pairs.

    FOLDER/**/*.tar   images with .txt (one caption) or .json ("texts", "text", "caption" or "TEXT"; their languages in
                      "lang_truth", as many as texts)

Texts without a stated language are evaluated as `und`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import Caption, retrieval_dataset
from worldclip.evaluate.datasets.common.images import Sample, images_in_tars, read_samples
from worldclip.evaluate.datasets.common.text_files import decode, parse_record
from worldclip.evaluate.tasks import Dataset
from worldclip.pool.records import DEFAULT_FIELDS, TRUTH_FIELD
from worldclip.report.results import NO_LANGUAGE


def load(name: str, folder: Path, captions: str = "all_captions") -> Dataset:
    """Return the pairs below `folder` as a dataset."""
    tars = sorted(folder.rglob("*.tar"))
    if not tars:
        raise UserError(f"{folder} holds no tars; layout pool needs tars with images and captions")
    samples = read_samples(tars)
    if not samples:
        raise UserError(f"{folder}: its tars hold no image")
    by_language: dict[str, list[Caption]] = {}
    for i, sample in enumerate(samples):
        for lang, text in _texts(sample):
            by_language.setdefault(lang, []).append((i, text))
    if not by_language:
        raise UserError(f"{folder}: its tars hold no caption; put them into a .txt or .json beside each image")
    keys = (f"{sample.tar.relative_to(folder).with_suffix('')}/{sample.key}" for sample in samples)
    images = images_in_tars(samples, keys, tars, folder)
    by_language = dict(sorted(by_language.items()))
    return retrieval_dataset(name, images, by_language, captions, [images.fingerprints, captions])


def _texts(sample: Sample) -> list[tuple[str, str]]:
    """Return (language, text) of each text that is not blank."""
    texts: Sequence[str] = []
    langs: Sequence[str] = []
    if "txt" in sample.others:
        texts = [decode(sample.others["txt"], f"{sample.where}.txt")]
        langs = [NO_LANGUAGE]
    elif "json" in sample.others:
        record = parse_record(sample.others["json"], (), (), f"{sample.where}.json")
        value: Any = next((record[field] for field in DEFAULT_FIELDS if field in record), [])
        texts = [value] if isinstance(value, str) else list(value)
        codes = record.get(TRUTH_FIELD, NO_LANGUAGE)
        langs = [codes] * len(texts) if isinstance(codes, str) else codes
        if len(langs) != len(texts):
            raise UserError(f"{sample.where}.json has {len(texts)} texts and {len(langs)} of {TRUTH_FIELD}; "
                            "it must have one per text")  # fmt: skip
    return [(lang, text.strip()) for lang, text in zip(langs, texts, strict=True) if text.strip()]
