"""A dataset that changes while it is evaluated: the results are of the new files, and nothing is kept of a mixture."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from evaluated import caption_files, recipe_to_evaluate, webdataset_files, write_checkpoint
from miniature import write_files
from model_folders import put_any_model_in_hub_cache
from stages import finish
from worldclip.config import load_recipe
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.evaluate import image_features
from worldclip.evaluate import stage as evaluate
from worldclip.evaluate.image_features import cache_folder
from worldclip.model import decode
from worldclip.model import load as model_load
from worlds import WordModel, word_dataset

WORDS = ("cat", "dog", "elk", "owl")
FILES = ("evaluate/results.jsonl", "evaluate/results.csv", "evaluate/table.md", "evaluate/report.json")


class MeddlingModel(WordModel):
    """Calls `meddle` after its first batch of images."""

    def __init__(self, meddle=lambda: None):
        super().__init__()
        self.meddle = meddle

    def encode_each(self, images):
        features = super().encode_each(images)
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return features


LAYOUTS = {"captions": caption_files, "webdataset": webdataset_files}


@pytest.fixture(params=LAYOUTS)
def world(request, tmp_path, monkeypatch):
    """(function that writes the dataset with these words, function that evaluates into a run with a model)."""
    monkeypatch.setattr(image_features, "CHUNK_IMAGES", 2)

    def write(words=()):
        aside = write_files(tmp_path / "aside", LAYOUTS[request.param](WORDS, words))
        for path in sorted(path for path in aside.rglob("*") if path.is_file()):
            place = tmp_path / "mini" / path.relative_to(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)

    write()
    recipe = recipe_to_evaluate({"mini": f"{request.param}:{tmp_path / 'mini'}"}, batch_size=1)

    def call(name: str, model: WordModel) -> list[bytes]:
        run_dir = tmp_path / name / "run"
        write_checkpoint(run_dir)
        monkeypatch.setattr(model_load, "load", lambda source, **options: model)
        finish("evaluate", recipe, run_dir, LocalExecutor(quiet=True))
        return [(run_dir / name).read_bytes() for name in FILES]

    return write, call


def test_a_dataset_that_is_replaced_meanwhile_is_evaluated_again(world, capfd):
    write, call = world
    before = call("before", WordModel())
    found = call("out", MeddlingModel(lambda: write(WORDS[::-1])))
    assert "its inputs changed while it ran: mini" in capfd.readouterr().err
    assert found == call("fresh", WordModel()) != before
    write()
    assert call("out", WordModel()) == before, "no feature of the new images is cached under the old ones"


def test_a_dataset_that_goes_away_or_a_tar_that_is_cut_ends_the_evaluation_in_words(world, tmp_path):
    write, call = world
    with pytest.raises((StageFailed, UserError), match="mini"):
        call("broken", MeddlingModel(lambda: shutil.rmtree(tmp_path / "mini")))
    write()
    expected = call("fresh", WordModel())
    assert call("broken", WordModel()) == expected
    for tar in (tmp_path / "mini").rglob("*.tar"):
        with pytest.raises(UserError, match=r"dataset mini: .*not a readable tar"):
            call("cut", MeddlingModel(lambda tar=tar: os.truncate(tar, 600)))
        write()
        assert call("cut", WordModel()) == expected


def test_a_model_of_the_hub_fails_on_a_dataset_that_changes_and_caches_nothing_of_it(world, tmp_path, monkeypatch):
    write, call = world
    put_any_model_in_hub_cache("someone/model", tmp_path, monkeypatch)
    expected = call("fresh", WordModel())
    config = load_recipe(tmp_path / "fresh" / "run" / "recipe.toml").evaluate
    model = MeddlingModel(lambda: write(WORDS[::-1]))
    monkeypatch.setattr(model_load, "load", lambda source, **options: model)
    with pytest.raises(StageFailed, match="changed while its images were read"):
        evaluate.evaluate_model("someone/model", config, tmp_path / "hub")
    write()
    monkeypatch.setattr(model_load, "load", lambda source, **options: WordModel())
    evaluate.evaluate_model("someone/model", config, tmp_path / "hub")
    accuracy = [record["metrics"] for record in map(json.loads, expected[0].splitlines())]
    found = (tmp_path / "hub" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["metrics"] for line in found] == accuracy


def test_features_and_records_of_another_decoder_are_measured_anew(world, monkeypatch):
    _, call = world
    folder = cache_folder(Path(), WordModel(), "model", word_dataset("a", ["cat"]))
    first = WordModel()
    call("run", first)
    again = WordModel()
    call("run", again)
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    assert cache_folder(Path(), WordModel(), "model", word_dataset("a", ["cat"])) != folder
    newer = WordModel()
    call("fresh", newer)
    assert len(newer.images) == len(first.images) > len(again.images)
