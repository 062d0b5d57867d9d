"""Tokenizers beside ONNX encoders give the ids of transformers, which is not imported."""

from __future__ import annotations

import numpy as np
import pytest

from model_folders import edit
from small_models import TEXTS, save_mt5, save_xlm_v
from worldclip.core.errors import UserError
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.formats.onnx_parts import PlainTokenizer, are_plain
from worldclip.model.tokenizer import Tokenizer, load_tokenizer, train_tokenizer


def test_tokens_without_transformers_are_those_of_transformers(tmp_path):
    save_xlm_v(tmp_path)
    texts = [*TEXTS, "</s> <pad>", "a  b\n\tc", "“curly” ‘quotes’", "x" * 500, "ﬁ ligature ½", "👩‍🚒 \ue000"]
    expected = load_tokenizer(tmp_path, 20).encode(texts)
    actual = Tokenizer(PlainTokenizer(tmp_path), 20).encode(texts)
    np.testing.assert_array_equal(actual.ids, expected.ids)
    np.testing.assert_array_equal(actual.offsets, expected.offsets)
    assert actual.pad_id == expected.pad_id


def test_folder_with_a_sentencepiece_file_alone_needs_transformers(tmp_path):
    save_mt5(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    assert not are_plain(tmp_path, LoadOptions())


def test_tokens_of_our_tokenizers_need_no_transformers(tmp_path):
    trained = train_tokenizer([text for text in TEXTS if text] * 5, vocab_size=60, context_length=12)
    trained.save(tmp_path)
    plain = Tokenizer(PlainTokenizer(tmp_path), 12)
    np.testing.assert_array_equal(plain.encode(TEXTS).ids, trained.encode(TEXTS).ids)
    assert (plain.vocab_size, plain.eos_id, plain.bos_id) == (trained.vocab_size, trained.eos_id, trained.bos_id)


def test_special_token_that_is_no_string_counts_as_none(tmp_path):
    save_xlm_v(tmp_path)
    edit(tmp_path / "tokenizer_config.json", eos_token=5)
    with pytest.raises(UserError, match="has no eos token"):
        Tokenizer(PlainTokenizer(tmp_path), 20)
