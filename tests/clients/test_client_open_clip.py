"""open_clip tokenises and embeds with exported folders as worldclip does, curly quotes too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import worldclip
from client_tools import installed
from small_models import HOSTILE, SPECIAL, TEXTS
from worldclip.export import ExportConfig, export_model
from worldclip.model.sample_inputs import images
from worldclip.model.tokenizer import train_tokenizer

QUOTES = ["flag: Côte d’Ivoire", "“red” ‘apple’", 'it\'s a "dog"', "“", "红苹果", ""]


def test_curly_quotes_have_the_same_ids(tmp_path):
    installed("open_clip_torch")
    open_clip = pytest.importorskip("open_clip")
    tokenizer = train_tokenizer([*QUOTES, "it's", '"dog"'] * 3, vocab_size=60, context_length=16)
    tokenizer.save(tmp_path)
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=16)(QUOTES).numpy()
    ours = tokenizer.encode(QUOTES).padded()
    np.testing.assert_array_equal(theirs[:, : ours.shape[1]], ours)
    assert (theirs[:, ours.shape[1] :] == tokenizer.pad_id).all()


@pytest.mark.slow
def test_texts_and_pictures_of_an_export_are_ours(hugging_face, tmp_path):
    """open_clip repairs texts (ftfy, entities, white space), so hostile ones have another embedding, and no failure."""
    installed("open_clip_torch")
    open_clip = pytest.importorskip("open_clip")
    export_model(hugging_face, tmp_path, ExportConfig(formats=("open_clip",)))
    name = f"local-dir:{tmp_path / 'open_clip'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    clip = worldclip.load(tmp_path / "open_clip", device="cpu")
    with torch.no_grad():
        for num_texts in (1, 2, len(TEXTS)):
            rows = model.eval().encode_text(tokenizer(TEXTS[:num_texts]), normalize=True).numpy()
            np.testing.assert_allclose(rows, clip.encode_text(TEXTS[:num_texts]), atol=1e-5)
        assert model.encode_text(tokenizer([*HOSTILE, *SPECIAL]), normalize=True).isfinite().all()
        pixels = torch.stack([transform(image) for image in images()])
        np.testing.assert_allclose(
            model.encode_image(pixels, normalize=True).numpy(), clip.encode_image(images()), atol=1e-5
        )
