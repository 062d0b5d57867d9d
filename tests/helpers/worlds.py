"""A made-up model and datasets for it: an image is a word, and a text that is this word has the same features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from worldclip.core.artifacts import digest
from worldclip.evaluate.tasks import Classification, Dataset, Retrieval

DIM = 32


def vector(word: str) -> np.ndarray:
    """Return (DIM,) float32: the features of a word, a random direction."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    values = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return values / np.linalg.norm(values)


class WordModel:
    """Encode an image (its bytes are a word) and the text of this word equally; b"broken" cannot be decoded.

    batches_left: batches of texts before encode_text raises KeyboardInterrupt.
    """

    def __init__(self, batches_left: int = 10**9) -> None:
        self.preprocess: dict[str, str] = {}
        self.processor = self.tokenizer = None
        self.images: list[bytes] = []
        self.texts: list[str] = []
        self.batches_left = batches_left

    def encode_each(self, images):
        reasons = {row: "not an image" for row, image in enumerate(images) if image == b"broken"}
        self.images += [image for image in images if image != b"broken"]
        features = [
            np.full(DIM, np.nan, np.float32) if row in reasons else self.see(image) for row, image in enumerate(images)
        ]
        return np.stack(features), reasons

    def see(self, image: bytes) -> np.ndarray:
        return vector(image.decode())

    def encode_text(self, texts):
        if self.batches_left == 0:
            raise KeyboardInterrupt
        self.batches_left -= 1
        self.texts += texts
        return np.stack([vector(text.split("/")[-1]) for text in texts])


def word_dataset(name: str, words: list[str], languages: tuple[str, ...] = ("en", "de")) -> Dataset:
    """Return images of `words`; their names in a language are `lang/word`, and 20 more classes have no image."""
    good = [word for word in dict.fromkeys(words) if word != "broken"]
    classes = [*good, *(f"class{i}" for i in range(20))]
    target = np.array([classes.index(word) if word in classes else 0 for word in words])
    every = np.arange(len(words))

    def tasks(lang: str):
        class_names = [[f"{lang}/{word}"] for word in classes]
        texts, pair_text = np.unique(target, return_inverse=True)
        yield Classification(class_names=class_names, target=target, image_idx=every, slices={"first": every < 1})
        yield Retrieval(
            texts=[class_names[i][0] for i in texts], pair_image=every, pair_text=pair_text, image_idx=every
        )

    return Dataset(
        name=name,
        digest=digest([name, words]),
        image_keys=[f"{name}{i}" for i in every],
        read_images=lambda start, stop: [word.encode() for word in words[start:stop]],
        languages=languages,
        tasks=lambda lang: list(tasks(lang)),
    )


def unit(random: np.random.Generator, num: int, dim: int = 24) -> np.ndarray:
    """Return (num, dim) float32 random features of unit length."""
    features = random.standard_normal((num, dim)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def rows_of(features: Mapping[str, Sequence[float]] | np.ndarray) -> Callable[[Sequence[str]], np.ndarray]:
    """Return an encoder of texts: of the names in a mapping, or of row numbers as text."""

    def encode(texts: Sequence[str]) -> np.ndarray:
        rows = [features[text] if isinstance(features, Mapping) else features[int(text)] for text in texts]
        return np.array(rows, np.float32)

    return encode
