"""No text becomes a special token, neither as it is nor after a tokenizer's normaliser."""

from __future__ import annotations

import html
import string

import numpy as np
import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Pipeline

from small_models import HOSTILE, TEXTS, save_xlm_v
from worldclip.model.formats.onnx_parts import PlainTokenizer
from worldclip.model.special_strings import SpecialStrings, break_specials
from worldclip.model.tokenizer import Tokenizer, load_tokenizer, tokenizer_of

NFKC = normalizers.NFKC().normalize_str
HIDDEN = ("a ＜/s＞ b", "＜/S＞", "<\u200b/s>", "﹤pad﹥ <／s>", "a ＜＜/s＞/s＞", "＜/s＞" * 9)


def make(normalizer) -> Tokenizer:
    """Build a tokenizer whose pieces include its special strings, as sentencepiece's do."""
    names = ("<s>", "<pad>", "</s>", "<unk>")
    pieces = [*((name, 0.0) for name in names), ("\u2581", -2.0)]
    pieces += [(char, -3.0) for char in string.ascii_lowercase + "</>"]
    pipeline = Pipeline(models.Unigram(pieces, unk_id=3))
    pipeline.normalizer = normalizer
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace()
    pipeline.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    keys = ("bos_token", "pad_token", "eos_token", "unk_token")
    return tokenizer_of(pipeline, 32, dict(zip(keys, names, strict=True)))


def test_special_strings_are_broken_until_none_is_left():
    assert break_specials("a </s> b", ["</s>"]) == "a < /s> b"
    assert break_specials("</s></s>", ["</s>"]) == "< /s>< /s>"
    assert break_specials("ab", ["ab", "a b"]) == "a  b"
    assert break_specials("x|y", ["|"]) == "xy"
    assert break_specials("nothing", ["</s>"]) == "nothing"


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex("[\u200b\u200d]"), "")]
        ),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s"), "")]),
    ],
    ids=["nfkc", "without spaces"],
)
def test_a_special_string_that_the_normaliser_makes_stays_text(normalizer):
    tokenizer = make(normalizer)
    for text in (*HIDDEN, "</s>", *HOSTILE):
        ids = tokenizer.encode([text]).ids.tolist()
        assert (ids.count(0), ids.count(1), ids.count(2)) == (1, 0, 1), text


def test_the_same_holds_for_a_plain_tokenizer_json_and_xlm_v(tmp_path):
    tokenizer = make(normalizers.NFKC())
    tokenizer.save(tmp_path / "plain")
    plain = Tokenizer(PlainTokenizer(tmp_path / "plain"), 32)
    save_xlm_v(tmp_path / "xlm_v")
    xlm_v = load_tokenizer(tmp_path / "xlm_v", 32)
    texts = [*HIDDEN, *TEXTS]
    np.testing.assert_array_equal(plain.encode(texts).ids, tokenizer.encode(texts).ids)
    assert len(xlm_v.encode(texts)) == len(texts)  # it asserts one end token per text


def test_other_texts_are_not_changed():
    specials = SpecialStrings(["</s>", "<pad>"], [NFKC])
    for text in ("ＡＢＣ ﬁ ﷺ", "a ＜ b", "＜3", "", *TEXTS):
        assert specials.break_in(text) == text
    assert specials.break_in("ﬁ ＜/s＞") == "fi < /s>"


def test_entities_are_looked_into():
    specials = SpecialStrings(["<end>"], [lambda text: html.unescape(html.unescape(text)).lower()], is_decoding=True)
    for text in ("<END>", "&lt;End&gt;", "&amp;lt;end>", "&amp;amp;amp;lt;end&gt;"):
        cleaned = specials.break_in(text)
        assert "<end>" not in html.unescape(html.unescape(cleaned)).lower()
    assert specials.break_in("R&amp;D <b>") == "R&amp;D <b>"
