"""Retrieval in many languages from a captions.jsonl and a folder of images: the layout of Crossmodal-3600.

    FOLDER/captions.jsonl   one image per line: {"image/key": "0001", "image/locale": "sw",
                            "<lang>": {"caption": ["...", "..."] or "..."}, ...}
    FOLDER/images/          0001.jpg, ...; the stem is the image/key

The locale says where the photograph was taken (few-shot geo-localisation predicts it); it is optional.
Protocol all_captions: image-to-text counts any caption of the image, and every caption is a query of text-to-image.
"""

from __future__ import annotations

from pathlib import Path

from worldclip.core.artifacts import fingerprint
from worldclip.evaluate.datasets.common.build import Caption, retrieval_dataset
from worldclip.evaluate.datasets.common.images import images_by_stem
from worldclip.evaluate.datasets.common.text_files import our_code, parse_json, read_lines
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import INSTALLED, Languages


def load(name: str, folder: Path, languages: Languages = INSTALLED) -> Dataset:
    path = folder / "captions.jsonl"
    keys: list[str] = []
    countries: list[str] = []
    captions: dict[str, list[Caption]] = {}  # by our language code; blank ones are left out
    for i, line in enumerate(read_lines(path)):
        record = parse_json(line, f"{path}:{i + 1}")
        keys.append(record["image/key"])
        countries.append(record.get("image/locale") or "")
        for code, value in record.items():
            if not isinstance(value, dict):
                continue
            texts = value.get("caption", ())
            if isinstance(texts, str):
                texts = [texts]
            for text in texts:
                if text.strip():
                    captions.setdefault(our_code(code, languages), []).append((i, text))
    images = images_by_stem(folder, keys, path)
    contents = [fingerprint(path, folder), images.fingerprints]
    captions = dict(sorted(captions.items()))
    return retrieval_dataset(name, images, captions, contents, labels={"country": countries})
