"""Image-text retrieval in both directions from features.

N images, M texts, D embed_dim.  Protocols, whose numbers do not compare: `all_captions` (the paper's: any caption of
the image counts, and every caption is a query) and `first_caption` (CLIP_benchmark's: the others are left out).
"""

from __future__ import annotations

import numpy as np

from worldclip.evaluate.ranking import ranks, share_within

RECALL_AT = (1, 5, 10)


def retrieval_ranks(
    image_ND: np.ndarray, text_MD: np.ndarray, pair_image: np.ndarray, pair_text: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ranks of text -> image (M,) and image -> text (N,), see ranking.ranks.

    pair_image, pair_text: (num_pairs,) which text belongs to which image; a text may belong to several images.
    """
    text_to_image = ranks(text_MD, image_ND, pair_text, pair_image)
    image_to_text = ranks(image_ND, text_MD, pair_image, pair_text)
    return text_to_image, image_to_text


def recalls(text_to_image: np.ndarray, image_to_text: np.ndarray) -> dict[str, float]:
    """Return `image_retrieval_recall@k` (a text finds its image) and `text_retrieval_recall@k`, k = 1, 5, 10."""
    of_images = {f"image_retrieval_recall@{k}": share_within(text_to_image, k) for k in RECALL_AT}
    of_texts = {f"text_retrieval_recall@{k}": share_within(image_to_text, k) for k in RECALL_AT}
    return of_images | of_texts


def chance(num_images: int, num_texts: int) -> dict[str, float]:
    """Return the recall of a random order if each text has one image and each image one text."""
    of_images = {f"image_retrieval_recall@{k}": min(1.0, k / num_images) for k in RECALL_AT}
    of_texts = {f"text_retrieval_recall@{k}": min(1.0, k / num_texts) for k in RECALL_AT}
    return of_images | of_texts


def first_captions(pair_image: np.ndarray) -> np.ndarray:
    """Return the positions of the first pair of each image, in order: what `first_caption` keeps."""
    return np.sort(np.unique(pair_image, return_index=True)[1])
