"""A pruned vocabulary is smaller, and equal on its corpus."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import worldclip
from small_models import CORPUS, TEXTS
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model, prune_vocabulary

ENGLISH = ["a red apple", "the quick brown fox", "x x x", "a dog & a cat"]


@pytest.fixture(scope="module")
def source(published_model) -> Path:
    return published_model("metaclip-2-worldwide-s16")


@pytest.fixture(scope="module")
def whole(source) -> worldclip.Clip:
    return worldclip.load(source, device="cpu")


def test_texts_of_the_corpus_embed_alike_with_fewer_rows(source, whole, tmp_path, capsys):
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join([*ENGLISH, TEXTS[2], ""]), encoding="utf-8")
    arguments = ["export", str(source), "--out", str(tmp_path), "--languages", "en,ja", "--corpus", str(corpus)]
    assert main([*arguments, "--json", "--formats", "huggingface", "open_clip"]) == 0
    report = json.loads(capsys.readouterr().out)["vocabulary"]
    assert report["rows_after"] < report["rows_before"]
    assert report["parameters_before"] - report["parameters_after"] == report["width"] * (
        report["rows_before"] - report["rows_after"]
    )
    assert report["texts_proven"] == len(ENGLISH) + 1
    for name in ("huggingface", "open_clip"):
        actual = worldclip.load(tmp_path / name, device="cpu").encode_text([*ENGLISH, TEXTS[2]])
        np.testing.assert_allclose(actual, whole.encode_text([*ENGLISH, TEXTS[2]]), atol=1e-6)
    card = (tmp_path / "huggingface" / "README.md").read_text(encoding="utf-8")
    assert f"{report['rows_after']:,} of {report['rows_before']:,} token rows" in card
    assert "\n- ja\n" in card


def test_special_tokens_keep_their_roles_with_new_ids(whole):
    pruned, _ = prune_vocabulary.prune(whole, ["a red apple"])
    old, new = whole.tokenizer.hf, pruned.tokenizer.hf
    for name in ("bos", "eos", "pad", "unk", "mask"):
        assert getattr(new, f"{name}_token") == getattr(old, f"{name}_token")
    assert new.mask_token_id == len(new) - 1
    tokens = pruned.tokenizer.encode(["a red apple </s>"])
    assert tokens.ids[0] == new.bos_token_id
    assert (tokens.ids == new.eos_token_id).sum() == 1
    assert pruned.model.config.text_config.eos_token_id == new.eos_token_id


def test_unknown_characters_in_the_corpus_are_segmented_as_before(whole):
    """The penalty of an unknown character depends on the lowest score of all pieces, which is therefore kept."""
    texts = ["a ♥ apple", "red ♥♥ fox"]
    pruned, report = prune_vocabulary.prune(whole, texts)
    assert report["texts_proven"] == 2
    np.testing.assert_allclose(pruned.encode_text(texts), whole.encode_text(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "languages", "corpus", "said"),
    [
        ("mt5-worldwide-s16", ["en"], ["texts.txt"], "is a SiglipTokenizer; only Unigram tokenizers in tokenizer.json"),
        ("worldwide-s16", ["en"], [], "only a run has texts of its own"),
        ("worldwide-s16", ["en", "xx"], ["texts.txt"], "export.languages: unknown language code 'xx'"),
        ("worldwide-s16", ["en"], ["no.txt"], r"no\.txt is not a UTF-8 text file .*No such file"),
        ("worldwide-s16", ["en"], ["latin_1.txt"], r"latin_1\.txt is not a UTF-8 text file"),
    ],
)
def test_invalid_corpora_and_tokenizers_are_refused(name, languages, corpus, said, published_model, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    (tmp_path / "latin_1.txt").write_bytes(b"caf\xe9")
    config = ExportConfig(languages=tuple(languages), corpus=tuple(str(tmp_path / file) for file in corpus))
    with pytest.raises(UserError, match=said):
        export_model(published_model(f"metaclip-2-{name}"), tmp_path / "out", config)
