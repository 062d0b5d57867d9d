"""open_clip tokenises with the exported tokenizer as worldclip does, curly quotes too."""

from __future__ import annotations

import numpy as np
import pytest

from client_tools import installed
from worldclip.model.tokenizer import train_tokenizer

TEXTS = ["flag: Côte d’Ivoire", "“red” ‘apple’", 'it\'s a "dog"', "“", "红苹果", ""]


def test_curly_quotes_have_the_same_ids(tmp_path):
    installed("open_clip_torch")
    open_clip = pytest.importorskip("open_clip")
    tokenizer = train_tokenizer([*TEXTS, "it's", '"dog"'] * 3, vocab_size=60, context_length=16)
    tokenizer.save(tmp_path)
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=16)(TEXTS).numpy()
    ours = tokenizer.encode(TEXTS).padded()
    np.testing.assert_array_equal(theirs[:, : ours.shape[1]], ours)
    assert (theirs[:, ours.shape[1] :] == tokenizer.pad_id).all()
