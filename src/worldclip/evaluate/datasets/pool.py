"""Any tar pool with captions, e.g. held-out shards of a training pool: retrieval among its pairs.

    FOLDER/**/*.tar   images with .txt (one caption) or .json ("texts", "text", "caption" or "TEXT"; their languages in
                      "lang_truth", as many as texts)

A stated language may be our code, a LID model's label or a tag: `de-DE` and `de_AT` are one language.  The language of
a text that states none is identified (lid.176).  Languages that fewer than 20 such texts seem to be in are mostly
mistakes: their texts are evaluated as `und`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.console import say
from worldclip.core.printable import counted
from worldclip.evaluate.datasets.common.build import Caption, retrieval_dataset
from worldclip.evaluate.datasets.common.images import Sample, images_in_tars, read_samples
from worldclip.evaluate.datasets.common.text_files import parse_json
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import INSTALLED, OTHER, Languages, code_of_stated
from worldclip.pool.formats.base import DEFAULT_PLACES
from worldclip.report.results import NO_LANGUAGE

LANG_FIELD = "lang_truth"  # the language of each text, as drawn pools state it
MIN_TEXTS = 20  # texts that an identified language needs

_say_once = functools.cache(say)  # a run loads a dataset for its problems, its digest and its evaluation
Text = tuple[int, str | None, str]
"""Position of the image, stated language, text."""


def load(name: str, folder: Path, languages: Languages = INSTALLED) -> Dataset:
    """Return the pairs below `folder` as a dataset.  languages: say what the labels of language identification mean."""
    tars = sorted(folder.rglob("*.tar"))
    samples = read_samples(tars)
    texts: list[Text] = []
    unstated: list[str] = []
    keys: list[str] = []
    for i, sample in enumerate(samples):
        for lang, text in _texts(sample):
            if text and text.strip():
                texts.append((i, lang, text.strip()))
                if lang is None:
                    unstated.append(text.strip())
        keys.append(f"{sample.tar.relative_to(folder).with_suffix('')}/{sample.key}")
    images = images_in_tars(samples, keys, tars, folder)
    identified = iter(_identify(name, unstated, languages))
    table = languages.by_code()
    codes: dict[str, str] = {}  # of the stated languages
    captions: dict[str, list[Caption]] = {}
    for i, lang, text in texts:
        if lang is None:
            code = next(identified)
        else:
            if lang not in codes:
                codes[lang] = code_of_stated(lang, table, languages)
            code = codes[lang]
            if code == OTHER:  # no language (de-DE is one): a row by itself
                code = str(lang)
        captions.setdefault(code, []).append((i, text))
    by_language = dict(sorted(captions.items()))
    contents: list[Any] = [images.fingerprints]
    if unstated:
        contents += [sorted(by_language), "identified"]
    return retrieval_dataset(name, images, by_language, contents)


def _identify(name: str, texts: Sequence[str], languages: Languages) -> list[str]:
    """Return the language of each text, NO_LANGUAGE where it has no code or fewer than MIN_TEXTS texts are in it.

    name: the dataset, for the message about the latter.
    """
    if not texts:
        return []  # without loading the model
    from worldclip.language.identify import identify

    labels, _ = identify(texts)
    codes = list(map(languages.from_lid, labels.tolist()))
    counts = Counter(codes)
    rare = {code: times for code, times in counts.most_common() if code != OTHER and times < MIN_TEXTS}
    if rare:
        listed = ", ".join(f"{code} {times}" for code, times in rare.items())
        _say_once(
            "evaluate",
            f"dataset {name}: {counted(sum(rare.values()), 'text')} of languages with fewer than {MIN_TEXTS} "
            f"identified texts: results under {NO_LANGUAGE!r} ({listed}); {LANG_FIELD} in the .json states a language",
        )
    return [NO_LANGUAGE if code == OTHER or code in rare else code for code in codes]


def _texts(sample: Sample) -> Iterable[tuple[str | None, str]]:
    """Return the texts of an image, each after its stated language."""
    if "txt" in sample.members:
        return [(None, sample.members["txt"].decode())]
    record = parse_json(sample.members.get("json", b"{}"), f"{sample.where}.json")
    texts: Any = next((record[field] for field in DEFAULT_PLACES if field in record), [])
    if not isinstance(texts, list):
        texts = [texts]
    langs = record.get(LANG_FIELD)
    if not isinstance(langs, list):
        langs = [langs] * len(texts)
    return zip(langs, texts, strict=True)
