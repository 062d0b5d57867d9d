"""Retrieval from one JSONL file per language: XFlickrCO and WIT as IGLUE has them, and Bloom's captions.

    FOLDER/annotations/<lang>/test.jsonl   XFlickrCO: {"img_path": "1007129816.jpg", "sentences": ["...", ...], ...}
                                           Bloom: {"image_id": "...", "caption": "...", ...}
    FOLDER/annotations/test_<lang>.jsonl   WIT: {"wit_ix": "wit-test_0", "caption_reference_description": "...", ...}
    FOLDER/images/                         1007129816.jpg, ...; the stem is that of img_path, image_id or wit_ix

An image may have several lines.  Protocol all_captions; the images that are ranked in a language are those of its file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.build import retrieval_dataset
from worldclip.evaluate.datasets.common.images import distinct_images, fingerprints
from worldclip.evaluate.datasets.common.text_files import one_per_language, our_codes, read_records
from worldclip.evaluate.tasks import Dataset
from worldclip.language.table import INSTALLED, Languages

KEYS = {"img_path": "sentences", "image_id": "caption", "wit_ix": "caption_reference_description"}
"""Field that names the image: field of its captions."""


def load(name: str, folder: Path, languages: Languages = INSTALLED) -> Dataset:
    """Return the dataset in `folder`."""
    files = _files(folder)
    captions = {lang: _read_captions(path) for lang, path in files.items()}
    stems = [stem for pairs in captions.values() for stem, _ in pairs]
    images, position = distinct_images(folder, stems, folder / "annotations")
    ours = _our_codes(list(files), languages)
    by_language = {}
    for lang, pairs in captions.items():
        placed = [(position[stem], text) for stem, text in pairs]
        # The captions of an image must follow each other; sorting is stable.
        by_language[ours[lang]] = sorted(placed, key=lambda pair: pair[0])
    contents = [images.fingerprints, fingerprints(files.values(), folder), list(files)]
    return retrieval_dataset(name, images, by_language, "all_captions", contents, own_images=True)


def _files(folder: Path) -> dict[str, Path]:
    """Return {language code of the dataset: file}.  Raises UserError if there is none, or two of one language."""
    root = folder / "annotations"
    paths = [(path.name, path / "test.jsonl") for path in sorted(root.glob("*")) if path.is_dir()]
    paths += [(path.stem.removeprefix("test_"), path) for path in sorted(root.glob("test_*.jsonl"))]
    if not paths:
        raise UserError(
            f"{root} holds neither <lang>/test.jsonl nor test_<lang>.jsonl; it must hold a file per language"
        )
    return one_per_language(paths)


def _our_codes(codes: Sequence[str], languages: Languages) -> dict[str, str]:
    """Map each code to ours, Bloom's of three letters too; several of one language of ours stay as they are."""
    short = {code: _two_letters(code, languages) for code in codes}
    times_used = Counter(short.values())
    short = {code: ours if times_used[ours] == 1 else code for code, ours in short.items()}
    ours = our_codes(list(short.values()), languages)
    return {code: ours[of_code] for code, of_code in short.items()}


def _two_letters(code: str, languages: Languages) -> str:
    """Return our code of a three-letter one (Bloom's); any other code as it is."""
    try:
        return languages.from_wordnet(code)
    except KeyError:
        return code


def _read_captions(path: Path) -> list[tuple[str, str]]:
    """Return (stem of the image, caption) of each caption of a file."""
    pairs: list[tuple[str, str]] = []
    for number, record in enumerate(read_records(path, "captions, one image per line", (), ()), 1):
        pairs += _captions(record, f"{path}:{number}")
    return pairs


def _captions(record: Json, where: str) -> list[tuple[str, str]]:
    field = next((name for name in KEYS if name in record), None)
    if field is None:
        raise UserError(f"{where} names no image; it must have one of {', '.join(KEYS)}")
    key = record[field]
    texts = record.get(KEYS[field])
    texts = texts if isinstance(texts, list) else [texts]
    if not isinstance(key, str) or not key or not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: {field} must be the name of an image and {KEYS[field]} its caption or captions")
    stem = Path(key).stem if field == "img_path" else key
    return [(stem, text) for text in texts if text.strip()]
