"""A dataset that goes away while it is evaluated, and features of another decoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evaluated import caption_files, recipe_to_evaluate, write_checkpoint
from miniature import write_files
from stages import finish
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.evaluate import image_features
from worldclip.evaluate.image_features import cache_folder
from worldclip.model import decode
from worldclip.model import load as model_load
from worlds import WordModel, word_dataset

WORDS = ("cat", "dog", "elk", "owl")
FILES = ("evaluate/results.jsonl", "evaluate/results.csv", "evaluate/table.md", "evaluate/report.json")


class RemovingModel(WordModel):
    """Removes a folder after each batch of images."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def encode_each(self, images):
        features = super().encode_each(images)
        shutil.rmtree(self.folder, ignore_errors=True)
        return features


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Return a function that evaluates a model into the run `name` and returns the files' contents."""
    monkeypatch.setattr(image_features, "CHUNK_IMAGES", 2)
    write_files(tmp_path / "mini", caption_files(WORDS))
    recipe = recipe_to_evaluate({"mini": f"captions:{tmp_path / 'mini'}"}, batch_size=1)

    def call(name: str, model: WordModel) -> list[bytes]:
        run_dir = tmp_path / name / "run"
        write_checkpoint(run_dir)
        monkeypatch.setattr(model_load, "load", lambda source, **options: model)
        finish("evaluate", recipe, run_dir, LocalExecutor(quiet=True))
        return [(run_dir / file).read_bytes() for file in FILES]

    return call


def test_a_dataset_that_goes_away_ends_the_evaluation_in_words_and_nothing_of_it_is_kept(evaluate, tmp_path):
    expected = evaluate("fresh", WordModel())
    with pytest.raises((StageFailed, UserError), match="mini"):
        evaluate("broken", RemovingModel(tmp_path / "mini"))
    write_files(tmp_path / "mini", caption_files(WORDS))
    assert evaluate("broken", WordModel()) == expected


def test_features_and_records_of_another_decoder_are_measured_anew(evaluate, monkeypatch):
    folder = cache_folder(Path(), WordModel(), "model", word_dataset("a", ["cat"]))
    first = WordModel()
    evaluate("run", first)
    again = WordModel()
    evaluate("run", again)
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    assert cache_folder(Path(), WordModel(), "model", word_dataset("a", ["cat"])) != folder
    newer = WordModel()
    evaluate("fresh", newer)
    assert len(newer.images) == len(first.images) > len(again.images)
