"""Language identification against the fastText library: the shipped model, and models of every kind.

Damaged models: tests/test_hostile.py.
"""

import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttext_files import KINDS, LABELS, NS, TEXTS, WORDS, Kind, write_model
from worldclip.core.errors import UserError
from worldclip.language.assign import LanguageRules
from worldclip.language.identify import Identifier, are_words, identify_codes, model_path
from worldclip.language.table import from_lid
from worldclip.match import identify

ONE_LINE = str.maketrans("\n\r\t\v\f\0", "      ")


def library_says(model: Any, text: str) -> dict[str, float]:
    """Every label's probability, the best first; empty for a text without a word."""
    line = text.translate(ONE_LINE)
    if not line.strip(" "):
        return {}
    labels, probs = model.predict(line, k=-1, threshold=-1.0)
    return {label.removeprefix("__label__"): min(prob, 1.0) for label, prob in zip(labels, probs, strict=True)}


def agree(path: Path, texts: list[str], allowed: set[str] | None = None) -> None:
    """Same label and probability; labels that tie in the library (to 1e-5) may change places."""
    import fasttext

    identifier, library = Identifier(path, allowed), fasttext.load_model(str(path))
    labels, probs = identifier.predict(texts)
    for text, label, prob in zip(texts, labels, probs, strict=True):
        expected = {name: p for name, p in library_says(library, text).items() if allowed is None or name in allowed}
        assert abs(prob - max(expected.values(), default=0.0)) < 1e-4, text
        assert label in expected or not expected, text
        assert expected.get(label, 0.0) >= max(expected.values(), default=0.0) - 1e-5, text


@pytest.mark.parametrize("name", KINDS)
def test_all_kinds_of_models_agree_with_the_library(name: str, tmp_path: Path) -> None:
    for seed, num_words in ((0, 8), (1, 7), (2, 5), (3, 6)):  # file offsets of several alignments
        path = tmp_path / f"{seed}.bin"
        write_model(path, KINDS[name], WORDS[:num_words], LABELS, seed)
        agree(path, TEXTS)
        agree(path, TEXTS, {"sw", "tr", "ru"})


def test_tokens_of_any_length_and_repetition_agree_with_the_library() -> None:
    """Of long tokens the rows are added in pieces; in a text of more tokens than are read ahead some occur again."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdeéжзअเก語", k=rng.randrange(1, 12))) for _ in range(200)]
    texts = [" ".join(rng.choices(words, k=300)), "".join(words) * 3, " ".join(["".join(words), *words] * 2)]
    agree(model_path(), texts)


@pytest.fixture(scope="module")
def library() -> Any:
    import fasttext

    return fasttext.load_model(str(model_path()))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=4))
def test_shipped_model_agrees_with_the_library_on_any_text(library: Any, texts: list[str]) -> None:
    labels, probs = Identifier().predict(texts)
    for text, label, prob in zip(texts, labels, probs, strict=True):
        expected = library_says(library, text) or {"und": 0.0}
        best = max(expected, key=lambda name: expected[name])
        assert abs(prob - expected[best]) < 1e-4
        assert label == best or prob < 0.2  # nearly tied labels may change places


def test_every_input_type_gives_the_same_labels() -> None:
    texts = ["ein Haus", None, "une maison", "", "a house by the sea", "家"]
    expected = identify(texts)
    assert list(expected[0])[:5] == ["de", "und", "fr", "und", "en"]
    assert expected[1].dtype == np.float32
    assert expected[1][1] == expected[1][3] == 0
    forms = [
        pa.array(texts),
        pa.array(texts, pa.large_string()),
        pa.chunked_array([texts[:2], texts[2:]], pa.string()),
        pa.array(["x", *texts, "y"]).slice(1, len(texts)),
        pa.array(texts).dictionary_encode(),
    ]
    assert [len(part) for part in identify(pa.chunked_array([], pa.string()))] == [0, 0]
    with pytest.raises(TypeError, match="many texts, got one"):
        identify("ein Haus")
    for form in forms:
        labels, probs = identify(form)
        assert (list(labels), list(probs)) == (list(expected[0]), list(expected[1]))


def test_a_language_is_shown_only_where_it_is_likely_and_of_the_texts_script() -> None:
    texts = ["a photograph of a red apple on the table", "красное яблоко на столе", "血液", "鹰", "", "12", "qq"]
    codes = identify_codes(texts)
    assert codes[:2] == ["en", "ru"]
    assert not {"en", "fy"} & set(codes[2:4])
    assert codes[4:6] == ["", ""]


@pytest.mark.parametrize(("hebrew", "english"), [("he", "en"), ("heb_Hebr", "eng_Latn")])
def test_a_text_of_another_script_than_its_label_says_is_no_words(hebrew: str, english: str) -> None:
    labels = np.array([hebrew, hebrew, english, hebrew, english, hebrew])
    texts = ["IMG_1465", "תפוח אדום", "a red apple", "2 תפוחים", '"a red apple"', "12"]
    shown = are_words(pa.array(texts, pa.large_string()), labels, np.full(6, 0.9, np.float32))
    assert shown.tolist() == [False, True, True, True, True, False]


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_only_labels_that_mean_a_language_of_the_run_are_chosen_merged_ones_too(data: st.DataObject) -> None:
    languages = data.draw(st.sets(st.sampled_from(["de", "en", "fr", "sw"]), min_size=1))
    merged = st.sampled_from(["de", "en", "fr", "nl", "sw", "uk"])
    merges = data.draw(st.dictionaries(merged, st.sampled_from(sorted(languages)), max_size=4))
    texts = ["ein rotes Haus am See", "a red house", "une maison rouge", "nyumba nyekundu", "een rood huis", "червоний"]
    codes = {label: merges.get(label) or from_lid(label) for label in Identifier().labels}
    allowed = [label for label, code in codes.items() if code in languages]
    labels, probs = Identifier(labels_allowed=allowed).predict(texts)
    rules = LanguageRules(
        languages=tuple(sorted(languages)),
        lid_model="lid176",
        lid_digest="",
        merge_labels=tuple(sorted(merges.items())),
        min_prob=0.0,
        is_restricted=True,
    )
    found_langs, found_probs, found_labels = rules.find(pa.array(texts), None)
    assert found_labels.tolist() == labels.tolist()
    assert found_probs.tolist() == probs.tolist()
    assert [rules.languages[lang] for lang in found_langs] == [codes[label] for label in labels]


def test_a_run_whose_languages_no_label_means_cannot_be_restricted_to_them() -> None:
    rules = LanguageRules(
        languages=("zu",), lid_model="lid176", lid_digest="", merge_labels=(), min_prob=0.0, is_restricted=True
    )
    with pytest.raises(UserError, match=r"means a language of the run \(zu\); set match.merge_labels"):
        rules.find(pa.array(["isilwane"]), None)


def test_a_replaced_model_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    found = []
    for seed, labels in ((0, LABELS), (1, LABELS), (1, {"en": 9, "de": 5})):
        write_model(path, Kind(), WORDS, labels, seed)
        os.utime(path, ns=(10**18, 10**18 + seed))
        identifier = Identifier(path)
        found.append((identifier.labels, identifier.predict(TEXTS)[1].tolist()))
    assert found[0][0] == found[1][0] != found[2][0]
    assert found[0][1] != found[1][1]


# --- models that are refused ------------------------------------------------------------------------------------------

OTHER_KINDS = {"version 11: must be 12": Kind(version=11), "loss = 2: must be": Kind(loss=NS),
               "wordNgrams = 2: must be 1": Kind(word_ngrams=2)}  # fmt: skip


def test_models_of_other_kinds_and_cut_ones_are_refused(tmp_path: Path) -> None:
    for message, kind in OTHER_KINDS.items():
        write_model(tmp_path / "m.bin", kind, WORDS, LABELS)
        with pytest.raises(UserError, match=message):
            Identifier(tmp_path / "m.bin")
    path = tmp_path / "whole.ftz"
    write_model(path, Kind(quantized=True, pruned=50, quantized_output=True), WORDS, LABELS)
    whole = path.read_bytes()
    for share in (0.01, 0.1, 0.3, 0.6, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match=r"whole\.ftz, which is cut short; download it again"):
            Identifier(path)
    num_rows, num_parts = 50 + len(WORDS) + 1, 8
    write_model(path, Kind(quantized=True, dim=16, sub_dim=2, pruned=50), WORDS, LABELS)
    head = struct.pack("<2qi", num_rows, 16, num_rows * num_parts)
    before, found, after = path.read_bytes().partition(head)
    assert found
    path.write_bytes(before + struct.pack("<2qi", num_rows, 16, num_rows * num_parts + 1) + b"\0" + after)
    with pytest.raises(UserError, match=rf"{num_rows * num_parts + 1} codes for {num_rows} rows of 8 parts"):
        Identifier(path)
    path.write_bytes(b"not a model at all")
    with pytest.raises(UserError, match=r"whole\.ftz, which is not a fastText model"):
        Identifier(path)
    with pytest.raises(UserError, match="cannot be read"):
        Identifier(tmp_path / "absent.bin")
