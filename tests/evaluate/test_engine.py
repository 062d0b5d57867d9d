"""One pass over images and texts: records, resuming, and undecodable images."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from worldclip.contracts.records import read_results
from worldclip.core.errors import UserError
from worldclip.evaluate import engine
from worlds import WordModel, word_dataset

MODEL = {"model": "made up", "model_digest": "0"}
WORDS = ["cat", "dog", "owl", "bee", "cat"]
PAIR = ("zeroshot_classification", "image_text_retrieval")


def test_each_image_is_encoded_once_for_all_languages(tmp_path):
    model = WordModel()
    records, _, _ = engine.evaluate(model, MODEL, [word_dataset("a", WORDS)], [], tmp_path / "r.jsonl", batch_size=2)
    assert sorted(model.images) == sorted(word.encode() for word in WORDS)
    assert len(model.texts) == len(set(model.texts)), "a text of two tasks was encoded twice"
    assert [(r["lang"], r["task"]) for r in records] == [(lang, task) for lang in ("en", "de") for task in PAIR]
    assert {record["dataset"] for record in records} == {"a"}


def test_record_says_what_was_measured_and_how(tmp_path):
    records, _, _ = engine.evaluate(WordModel(), MODEL, [word_dataset("a", WORDS)], ["en"], tmp_path / "r.jsonl")
    first = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])
    assert first == records[0]
    assert first["metrics"] == {"acc1": 1.0, "acc5": 1.0, "mean_per_class_recall": 1.0}
    assert first["chance"] == {"acc1": 1 / 24, "acc5": 5 / 24}
    assert (first["n"], first["num_classes"], first["slices"]["first"]["n"]) == (5, 24, 1)
    assert first["interval_95"]["acc1"] == [pytest.approx(0.5655, abs=1e-4), 1.0]  # 5 of 5
    assert records[1]["metrics"]["text_retrieval_recall@1"] == 1.0


def test_undecodable_images_are_dropped_and_listed(tmp_path):
    words = ["broken", "cat", "broken", "dog"]
    dataset = word_dataset("a", words)
    records, features, _ = engine.evaluate(WordModel(), MODEL, [dataset], ["en"], tmp_path / "r.jsonl", batch_size=1)
    assert [bad["key"] for bad in features["a"].bad] == ["a0", "a2"]
    assert [record["n"] for record in records] == [2, 2]
    assert records[0]["metrics"]["acc1"] == 1.0
    assert records[1]["metrics"]["image_retrieval_recall@1"] == 1.0


def test_language_whose_images_are_all_undecodable_is_named(tmp_path):
    """A language may ask about few images, such as Babel-ImageNet's with a handful of labels."""
    dataset = word_dataset("a", ["broken", "cat"])
    asked = dataclasses.replace(dataset.tasks("en")[0], image_idx=np.array([0]), target=np.array([0]), slices={})
    few = dataclasses.replace(dataset, tasks=lambda lang: [asked])
    with pytest.raises(UserError, match=r"dataset a: zeroshot_classification in en: none of the images .* decoded"):
        engine.evaluate(WordModel(), MODEL, [few], ["en"], tmp_path / "r.jsonl")


def test_interrupted_sweep_resumes_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "GROUP_TEXTS", 1)
    path = tmp_path / "r.jsonl"
    sets = [word_dataset("a", WORDS), word_dataset("b", ["elk", "cat"])]
    whole, _, _ = engine.evaluate(WordModel(), MODEL, sets, [], tmp_path / "whole.jsonl")
    for batches_left in (1, 1, 0):  # each of the four (dataset, language) is one batch of texts here
        with pytest.raises(KeyboardInterrupt):
            engine.evaluate(WordModel(batches_left), MODEL, sets, [], path)
    last = WordModel()
    records, _, _ = engine.evaluate(last, MODEL, sets, [], path)
    assert records == whole
    messages = []
    engine.evaluate(WordModel(0), MODEL, sets, [], path, say=messages.append)  # a text would interrupt it
    assert messages[-1] == "nothing to do: results.jsonl has all 8 records"
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not any(text.startswith("en/") for text in last.texts), "what was done was done again"


def test_invalid_line_of_results_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    engine.evaluate(WordModel(), MODEL, [word_dataset("a", WORDS)], ["en"], path)
    path.write_text(path.read_text() + '{"model": ')
    with pytest.raises(UserError, match=r"r\.jsonl:3 is not a record .* remove the line"):
        engine.evaluate(WordModel(), MODEL, [word_dataset("a", WORDS)], ["en"], path)


def test_another_model_or_other_data_is_evaluated_again(tmp_path):
    path, dataset = tmp_path / "r.jsonl", word_dataset("a", WORDS)
    engine.evaluate(WordModel(), MODEL, [dataset], ["en"], path)
    for model_id, data in ((MODEL | {"model_digest": "1"}, dataset), (MODEL, word_dataset("a", ["owl", "cat"]))):
        model = WordModel()
        records, _, _ = engine.evaluate(model, model_id, [data], ["en"], path)
        assert model.texts
        assert read_results(path) == records
        assert len(records) == 2


def test_language_of_no_dataset_is_an_error_and_of_some_is_absent_elsewhere(tmp_path):
    sets = [word_dataset("a", WORDS), word_dataset("b", WORDS, languages=("en",))]
    model = WordModel()
    with pytest.raises(UserError, match=r"evaluate\.languages: no text in sw in a, b; available: en, de"):
        engine.evaluate(model, MODEL, sets, ["en", "sw"], tmp_path / "r.jsonl")
    assert model.images == [], "a mistake was reported after the images were encoded"
    records, _, _ = engine.evaluate(WordModel(), MODEL, sets, ["de"], tmp_path / "r.jsonl")
    assert {record["dataset"] for record in records} == {"a"}


def test_text_features_are_equal_after_eviction_from_memory(monkeypatch):
    texts = [f"word{i % 7}" for i in range(40)]
    plain = engine.TextFeatures(WordModel(), 4)(texts)
    monkeypatch.setattr(engine, "TEXTS_KEPT", 3)
    small = engine.TextFeatures(WordModel(), 4)
    for start in range(0, 40, 5):
        np.testing.assert_array_equal(small(texts[start : start + 5]), plain[start : start + 5])


def test_a_model_that_is_told_the_language_of_texts_is_told_that_of_each(tmp_path, monkeypatch):
    """NLLB-CLIP: a model for each language."""
    told = []

    class ToldModel(WordModel):
        lang = "default"

        def encode_text(self, texts):
            told.extend((self.lang, text.split("/")[0]) for text in texts)
            return super().encode_text(texts)

    def in_language(model, lang):
        changed = ToldModel()
        changed.lang = lang
        return changed

    monkeypatch.setattr(engine.nllb, "is_told_language", lambda model: isinstance(model, ToldModel))
    monkeypatch.setattr(engine.nllb, "in_language", in_language)
    dataset = word_dataset("a", WORDS, ("en", "de", "sw"))
    records, _, encode = engine.evaluate(ToldModel(), MODEL, [dataset], [], tmp_path / "r.jsonl")
    assert set(told) == {("en", "en"), ("de", "de"), ("sw", "sw")}
    assert all(record["metrics"].get("acc1", 1.0) == 1.0 for record in records)
    encode.in_language("de")(["de/x"])
    assert told[-1] == ("de", "de")
    untold, _, _ = engine.evaluate(WordModel(), MODEL, [dataset], [], tmp_path / "r.jsonl")
    assert {record["digest"] for record in untold}.isdisjoint(record["digest"] for record in records)


def test_texts_of_languages_are_encoded_together_by_length(tmp_path):
    model = WordModel()
    languages = ("en", "de", "sw", "th")
    engine.evaluate(model, MODEL, [word_dataset("a", WORDS, languages)], [], tmp_path / "r.jsonl", batch_size=64)
    assert 10**9 - model.batches_left == 2  # 4 languages of 24 names are 96 texts: two batches rather than four
    assert [len(text) for text in model.texts] == sorted(len(text) for text in model.texts)


def test_slices_measure_each_pair_once_and_the_last_call_joins_them(tmp_path):
    sets = [word_dataset("a", WORDS, ("en", "de", "sw")), word_dataset("b", WORDS, ("en", "de"))]
    whole, _, _ = engine.evaluate(WordModel(), MODEL, sets, [], tmp_path / "whole" / "results.jsonl")
    results = tmp_path / "sliced" / "results.jsonl"
    measured = [engine.evaluate(WordModel(), MODEL, sets, [], results, part=(i, 3))[0] for i in (2, 3, 1)]
    assert sorted(record["digest"] for records in measured for record in records) == sorted(
        record["digest"] for record in whole
    )
    assert all(measured)
    assert not results.exists()
    model = WordModel()
    joined, _, _ = engine.evaluate(model, MODEL, sets, [], results)
    assert model.texts == []
    assert joined == whole
    assert results.read_bytes() == (tmp_path / "whole" / "results.jsonl").read_bytes()
    assert list(results.parent.glob("slice_*")) == []
