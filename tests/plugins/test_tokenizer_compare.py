"""Tokens per word and cut captions, by language, for tokenizers of anyone."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.model.tokenizer import train_tokenizer
from worldclip.plugins.tokenizer_compare import compare_tokenizers

ENGLISH = ["a red apple", "a green house, a tree", "the big river"]
THAI = ["แอปเปิลบนโต๊ะ", "บ้านสีเขียว"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer that knows whole words, and one that knows characters alone."""
    root = tmp_path_factory.mktemp("tokenizers")
    texts = (ENGLISH + THAI) * 5
    train_tokenizer(texts, vocab_size=120, context_length=20, model="bpe").save(root / "words")
    characters = len({c for text in texts for c in text if c != " "}) + 1
    train_tokenizer(texts, vocab_size=characters + 4, context_length=20, model="bpe").save(root / "characters")
    return root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "captions.parquet"
    texts = {"en": [*ENGLISH, ENGLISH[0]], "th": THAI}
    rows = [{"caption": text, "lang": lang} for lang, of_lang in texts.items() for text in of_lang]
    pq.write_table(pa.Table.from_pylist([*rows, {"caption": None, "lang": "en"}]), path)
    return path


def test_character_tokenizer_needs_a_token_per_character(folders, corpus):
    names = [str(folders / name) for name in ("words", "characters")]
    found = compare_tokenizers(names, on=corpus, context_length=13)
    assert {lang: row["texts"] for lang, row in found["languages"].items()} == {"en": 4, "th": 2}
    english = found["languages"]["en"]
    assert english["words"] == 3 + 5 + 3 + 3
    lengths = [1 + len(text) for text in [*ENGLISH, ENGLISH[0]]]  # a mark for each word's start, in the blanks' place
    assert english["tokenizers"][names[1]]["tokens_per_word"] == pytest.approx(sum(lengths) / english["words"])
    assert english["tokenizers"][names[1]]["cut_fraction"] == sum(length + 1 > 13 for length in lengths) / 4
    assert english["tokenizers"][names[0]]["tokens_per_word"] < english["tokenizers"][names[1]]["tokens_per_word"]
    for name in names:
        both = [row["tokenizers"][name]["cut_fraction"] for row in found["languages"].values()]
        assert found["mean"][name]["cut_fraction"] == pytest.approx(sum(both) / 2)
        assert english["tokenizers"][name]["unknown_fraction"] == 0


def test_tokenizers_unfit_for_clip_can_be_compared(corpus, tmp_path):
    """As BERT's, which ends in a separator, and GPT-2's, which has no padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in ENGLISH for word in text.replace(",", " ").split()})
    vocab = {word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", ",", *words])}
    pipeline = Tokenizer(models.WordLevel(vocab, "[UNK]"))
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=pipeline, eos_token="[SEP]").save_pretrained(tmp_path / "gpt")
    specials = [("[CLS]", 1), ("[SEP]", 2)]
    pipeline.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    bert = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=pipeline, **bert).save_pretrained(tmp_path / "bert")
    found = compare_tokenizers([str(tmp_path / "bert"), str(tmp_path / "gpt")], on=corpus, context_length=6)
    tokens = 3 + 6 + 3 + 3  # a comma is a token and no word
    for name, num_special in (("bert", 2), ("gpt", 1)):
        measured = found["languages"]["en"]["tokenizers"][str(tmp_path / name)]
        assert measured["tokens_per_word"] == pytest.approx(tokens / 14)
        assert measured["cut_fraction"] == sum(length + num_special > 6 for length in (3, 6, 3, 3)) / 4


def test_unknown_characters_are_counted(folders, tmp_path):
    corpus = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"text": ["red ☃ ☃"], "lang": ["en"]}), corpus)
    found = compare_tokenizers([str(folders / "words")], on=corpus)
    measured = next(iter(found["languages"]["en"]["tokenizers"].values()))
    assert measured["unknown_fraction"] > 0.2


def test_languages_of_a_text_file_are_identified(folders, tmp_path):
    corpus = tmp_path / "lines.txt"
    lines = ["The house stands by the river and the trees are green.", "บ้านสีเขียวหลังใหญ่อยู่ริมแม่น้ำ", ""]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    assert set(compare_tokenizers([str(folders / "words")], on=corpus)["languages"]) == {"en", "th"}


def test_texts_per_language_limits_a_deterministic_sample(folders, corpus):
    first, second = (compare_tokenizers([str(folders / "words")], on=corpus, texts=2) for _ in range(2))
    assert first == second
    assert {row["texts"] for row in first["languages"].values()} == {2}


def test_the_command_prints_a_table_and_json(folders, corpus, capsys):
    names = [str(folders / name) for name in ("words", "characters")]
    assert main(["tokenizer", "compare", *names, "--on", str(corpus)]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].startswith("A = ")
    assert any(line.startswith("th ") for line in table.splitlines())
    assert main(["tokenizer", "compare", *names, "--on", str(corpus), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["context_length"] == 77


def test_invalid_corpus_or_tokenizer_is_a_user_error(folders, corpus, tmp_path):
    name = str(folders / "words")
    with pytest.raises(UserError, match="holds no texts; give a run"):
        compare_tokenizers([name], on=tmp_path / "nothing")
    pq.write_table(pa.table({"alt": ["x"]}), tmp_path / "alt.parquet")
    with pytest.raises(UserError, match="the columns alt; the texts must be in text or caption"):
        compare_tokenizers([name], on=tmp_path / "alt.parquet")
    with pytest.raises(UserError, match="does not load as a tokenizer"):
        compare_tokenizers([str(tmp_path)], on=corpus)
    with pytest.raises(UserError, match="no tokenizer is named"):
        compare_tokenizers([], on=corpus)
