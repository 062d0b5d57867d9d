"""Texts end in one end token, special strings stay text, and training gives the same bytes in every process."""

import html
import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Pipeline
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from programs import python
from small_models import HOSTILE, save_xlm_v
from small_models import TEXTS as SCRIPTS
from worldclip.core.errors import UserError
from worldclip.model.formats.onnx_parts import PlainTokenizer
from worldclip.model.special_strings import SpecialStrings, break_specials
from worldclip.model.tokenizer import (
    BOS_ID,
    EOS_ID,
    MARK,
    PAD_ID,
    SPECIALS,
    UNK_ID,
    Tokenizer,
    Tokens,
    load_tokenizer,
    tokenizer_of,
    train_tokenizer,
)

WORDS = {
    "en": "red green blue apple house tree river mountain",
    "de": "roter Apfel grünes Haus Baum Fluss Berg",
    "ar": "تفاحة بيت شجرة نهر جبل أحمر",
    "th": "แอปเปิล บ้าน ต้นไม้ แม่น้ำ ภูเขา",
    "zh": "红苹果 绿房子 树 河 山",
}
TEXTS = [f"{a} {b}" for words in WORDS.values() for a in words.split() for b in words.split()]
CONTEXT = 10
TRAIN_HERE = f"""
import sys
from pathlib import Path
from worldclip.model.tokenizer import train_tokenizer
train_tokenizer({TEXTS!r}, vocab_size=150, context_length={CONTEXT}).save(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=150, context_length=CONTEXT)


@pytest.fixture(scope="module")
def foreign() -> Tokenizer:
    """Build a foreign tokenizer: specials that people may type, a start token, and no end token appended."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    characters = [chr(code) for code in range(32, 127)]
    pipeline = Pipeline(models.WordLevel({piece: i for i, piece in enumerate(specials + characters)}, "<unk>"))
    pipeline.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    pipeline.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), specials, strict=True))
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=pipeline, **names), CONTEXT)


def test_two_processes_write_the_same_bytes(ours, tmp_path):
    python("-c", TRAIN_HERE, tmp_path / "there")
    ours.save(tmp_path / "here")
    names = [path.name for path in (tmp_path / "here").iterdir()]
    assert "tokenizer.json" in names
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_pieces_are_numbered_specials_first_then_by_score_and_text(ours):
    vocab = json.loads(ours.hf.backend_tokenizer.to_str())["model"]["vocab"]
    assert [piece for piece, _ in vocab[:4]] == list(SPECIALS)
    assert (BOS_ID, PAD_ID, EOS_ID, UNK_ID) == (0, 1, 2, 3)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (BOS_ID, EOS_ID, PAD_ID)
    order = [(-round(score, 6), piece) for piece, score in vocab[4:]]
    assert order == sorted(order)
    assert len({piece for piece, _ in vocab}) == len(vocab) == ours.vocab_size <= 150


text_of_any_kind = st.text(max_size=60) | st.lists(
    st.sampled_from([*SPECIALS, MARK, "</s>", "<s>", "<pad>", "<", "/s>", " ", "a", "红", "\n"]), max_size=12
).map("".join)


@pytest.mark.parametrize("name", ["ours", "foreign"])
@settings(deadline=None, max_examples=150)
@given(texts=st.lists(text_of_any_kind, max_size=6))
def test_text_holds_exactly_one_end_token_as_its_last_also_when_truncated(name, request, texts):
    tokenizer = request.getfixturevalue(name)
    tokens = tokenizer.encode(texts)
    assert len(tokens) == len(texts)
    for i in range(len(texts)):
        ids = tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        assert 1 <= len(ids) <= CONTEXT
        assert ids[-1] == tokenizer.eos_id
        assert ids.count(tokenizer.eos_id) == 1
        assert tokenizer.pad_id not in ids


def test_long_texts_are_truncated_to_the_context(ours, foreign):
    for tokenizer in (ours, foreign):
        assert tokenizer.encode(["red apple " * 100]).lengths.tolist() == [CONTEXT]


@pytest.mark.parametrize(
    ("name", "text", "other"),
    [
        ("ours", f"red {SPECIALS[EOS_ID]} apple", "red eos apple"),
        ("foreign", "a</s>", "a< /s>"),
        ("ours", "  ｒｅｄ \u3000\n apple ", "red apple"),
        ("ours", "‘red’ “apple”", "'red' \"apple\""),
    ],
    ids=["our special string", "special string", "width and whitespace", "curly quotes"],
)
def test_text_is_tokenised_as_another_one(name, text, other, request):
    tokenizer = request.getfixturevalue(name)
    np.testing.assert_array_equal(tokenizer.encode([text]).ids, tokenizer.encode([other]).ids)


def test_saved_tokenizer_is_the_same_in_plain_transformers_and_without_it(ours, tmp_path):
    ours.save(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain.model_max_length == CONTEXT
    texts = ["red apple", "红苹果", ""]
    padded = plain(texts, padding=True)
    np.testing.assert_array_equal(padded["input_ids"], ours.encode(texts).padded())
    for again in (load_tokenizer(tmp_path, CONTEXT), Tokenizer(PlainTokenizer(tmp_path), CONTEXT)):
        np.testing.assert_array_equal(again.encode([*texts, *SCRIPTS]).ids, ours.encode([*texts, *SCRIPTS]).ids)
        assert (again.vocab_size, again.eos_id, again.bos_id) == (ours.vocab_size, ours.eos_id, ours.bos_id)


def test_saved_tokenizer_has_the_keys_that_transformers_4_reads(ours, foreign, tmp_path):
    """Check class name and extra special tokens, which version 5 writes in its own way."""
    ours.save(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    foreign.save(tmp_path / "source")
    extended = load_tokenizer(tmp_path / "source", CONTEXT)
    extended.hf.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    extended.save(tmp_path / "foreign")
    config = json.loads((tmp_path / "foreign" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "extra_special_tokens" not in config
    assert config["additional_special_tokens"] == ["<extra>"]
    assert "<extra>" in load_tokenizer(tmp_path / "foreign", CONTEXT).hf.all_special_tokens


def test_padding_reaches_the_longest_of_the_chosen_rows():
    tokens = Tokens(np.array([5, 2, 6, 7, 2, 2]), np.array([0, 2, 5, 6]), 1)
    assert tokens.lengths.tolist() == [2, 3, 1]
    assert tokens.padded().tolist() == [[5, 2, 1], [6, 7, 2], [2, 1, 1]]
    assert tokens.padded(np.array([2, 0])).tolist() == [[2, 1], [5, 2]]


def test_lone_surrogates_and_what_is_no_text_are_refused(ours):
    for texts in (["fine", "a\ud800b"], [3]):
        with pytest.raises(UserError, match="the tokenizer refuses the texts"):
            ours.encode(texts)


def test_vocabulary_too_small_for_the_characters_is_refused():
    with pytest.raises(UserError, match=r"train\.tokenizer\.vocab_size = 20: .* each character needs a piece"):
        train_tokenizer(TEXTS, vocab_size=20, context_length=CONTEXT)


def test_folder_without_a_tokenizer_and_tokenizer_without_an_end_token_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not load as a tokenizer"):
        load_tokenizer(tmp_path, CONTEXT)
    bare = PreTrainedTokenizerFast(
        tokenizer_object=Pipeline(models.WordLevel({"a": 0, "<pad>": 1}, "a")), pad_token="<pad>"
    )
    with pytest.raises(UserError, match="has no eos token"):
        Tokenizer(bare, CONTEXT)
    pipeline = Pipeline(models.WordLevel({"a": 0, "<pad>": 1, "<s>": 2}, "a"))
    pipeline.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 2)])
    with pytest.raises(UserError, match=r"writes its end token '<s>' before the end of a text.* another bos_token"):
        tokenizer_of(pipeline, CONTEXT, {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<s>"})


# --- without transformers, for ONNX encoders --------------------------------------------------------------------------
def test_tokens_without_transformers_are_those_of_transformers(tmp_path):
    save_xlm_v(tmp_path)
    texts = [*SCRIPTS, *HIDDEN, "</s> <pad>", "a  b\n\tc", "“curly” ‘quotes’", "x" * 500, "ﬁ ligature ½", "👩‍🚒 \ue000"]
    expected = load_tokenizer(tmp_path, 20).encode(texts)
    actual = Tokenizer(PlainTokenizer(tmp_path), 20).encode(texts)
    np.testing.assert_array_equal(actual.ids, expected.ids)
    np.testing.assert_array_equal(actual.offsets, expected.offsets)
    assert actual.pad_id == expected.pad_id


# --- special strings that a normaliser makes --------------------------------------------------------------------------
NFKC = normalizers.NFKC()
HIDDEN = ("a ＜/s＞ b", "＜/S＞", "<\u200b/s>", "﹤pad﹥ <／s>", "a ＜＜/s＞/s＞", "＜/s＞" * 9)


def spelling(normalizer) -> Tokenizer:
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


@pytest.mark.parametrize("removed", ["[\u200b\u200d]", r"\s"], ids=["joiners", "spaces"])
def test_a_special_string_that_the_normaliser_makes_stays_text(removed, tmp_path):
    parts = [NFKC, normalizers.Lowercase(), normalizers.Replace(Regex(removed), "")]
    tokenizer = spelling(normalizers.Sequence(parts))
    for text in (*HIDDEN, "</s>", *HOSTILE):
        ids = tokenizer.encode([text]).ids.tolist()
        assert (ids.count(0), ids.count(1), ids.count(2)) == (1, 0, 1), text
    tokenizer.save(tmp_path)
    plain = Tokenizer(PlainTokenizer(tmp_path), 32)
    texts = [*HIDDEN, *SCRIPTS]
    np.testing.assert_array_equal(plain.encode(texts).ids, tokenizer.encode(texts).ids)


def test_special_strings_are_broken_until_none_is_left():
    assert break_specials("a </s> b", ["</s>"]) == "a < /s> b"
    assert break_specials("</s></s>", ["</s>"]) == "< /s>< /s>"
    assert break_specials("ab", ["ab", "a b"]) == "a  b"
    assert break_specials("x|y", ["|"]) == "xy"
    assert break_specials("nothing", ["</s>"]) == "nothing"


def test_texts_without_special_strings_are_not_changed():
    specials = SpecialStrings(["</s>", "<pad>"], [NFKC.normalize_str])
    for text in ("ＡＢＣ ﬁ ﷺ", "a ＜ b", "＜3", "", *SCRIPTS):
        assert specials.break_in(text) == text
    assert specials.break_in("ﬁ ＜/s＞") == "fi < /s>"


def test_entities_are_looked_into():
    specials = SpecialStrings(["<end>"], [lambda text: html.unescape(html.unescape(text)).lower()], is_decoding=True)
    for text in ("<END>", "&lt;End&gt;", "&amp;lt;end>", "&amp;amp;amp;lt;end&gt;"):
        cleaned = specials.break_in(text)
        assert "<end>" not in html.unescape(html.unescape(cleaned)).lower()
    assert specials.break_in("R&amp;D <b>") == "R&amp;D <b>"
