"""The stage as the recipe runs it, with a made-up model in a checkpoint's place."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from evaluated import caption_files, recipe_to_evaluate, write_checkpoint
from miniature import write_files
from model_folders import put_any_model_in_hub_cache, put_in_hub_cache
from stages import finish, why_run
from worldclip.config import load_recipe
from worldclip.contracts.records import read_results
from worldclip.core.artifacts import read_json
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.settings import to_dict
from worldclip.evaluate import stage as evaluate
from worldclip.evaluate.config import EvaluateConfig
from worldclip.model import load as model_load
from worlds import WordModel

RETRIEVAL = "image_text_retrieval"


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """RUN with a checkpoint, and `mini`, a dataset in Crossmodal-3600's layout next to it."""
    write_files(tmp_path / "mini", caption_files(("cat", "dog")))
    write_checkpoint(tmp_path / "run")
    monkeypatch.setattr(model_load, "load", lambda source, **options: WordModel())
    return tmp_path / "run"


def recipe_of(run_dir, **evaluate_config):
    return recipe_to_evaluate({"mini": f"captions:{run_dir.parent / 'mini'}"}, **evaluate_config)


def run(recipe, run_dir):
    return finish("evaluate", recipe, run_dir, LocalExecutor())


def languages_of(report, dataset="mini"):
    return list(report["datasets"][dataset]["tasks"][RETRIEVAL]["languages"])


def test_stage_writes_records_table_and_report(run_dir):
    report = run(recipe_of(run_dir), run_dir)
    records = read_results(run_dir / "evaluate" / "results.jsonl")
    assert [(record["model"], record["lang"]) for record in records] == [
        ("train/step_000000010", lang) for lang in ("en", "th")
    ]
    assert "### mini" in (run_dir / "evaluate" / "table.md").read_text()
    assert read_json(run_dir / "evaluate" / "report.json") == json.loads(json.dumps(report))
    mean = report["datasets"]["mini"]["tasks"][RETRIEVAL]["mean"]
    assert mean["languages"] == ["en", "th"]
    assert mean["metrics"]["image_retrieval_recall@1"] == 1.0


def test_the_papers_protocol_is_in_the_records_the_table_and_the_model(run_dir, monkeypatch):
    loaded = []

    def load(source, device, preprocess, tells_language):
        loaded.append(preprocess)
        model = WordModel()
        sizes = {"resize": "shortest edge 8", "crop": "central 8 x 8", "interpolation": "bicubic"}
        exif = "ignored" if preprocess == "reference" else "applied"
        model.preprocess = {**sizes, "implementation": "Pillow", "exif": exif}
        return model

    monkeypatch.setattr(model_load, "load", load)

    def results(**evaluate_config):
        run(recipe_of(run_dir, **evaluate_config), run_dir)
        return read_results(run_dir / "evaluate" / "results.jsonl")

    ours = results()
    assert "evaluate.protocol" in why_run("evaluate", recipe_of(run_dir, protocol="paper"), run_dir)
    papers = results(protocol="paper")
    assert results(protocol="paper", ties="against", preprocess="source") == ours
    assert loaded == ["source", "reference", "source"]
    for record, ties, exif in ((ours[0], "against", "applied"), (papers[0], "first", "ignored")):
        assert (record["protocol"]["ties"], record["protocol"]["preprocess"]["exif"]) == (ties, exif)
    results(protocol="paper")
    table = (run_dir / "evaluate" / "table.md").read_text()
    assert "Images: resize shortest edge 8, crop central 8 x 8, bicubic by Pillow, EXIF ignored." in table
    assert "Ties (`first`): of equal scores the first candidate wins." in table
    assert read_json(run_dir / "evaluate" / "report.json")["protocol"] in table


def test_finished_stage_reruns_only_for_another_checkpoint_config_or_data(run_dir):
    recipe = recipe_of(run_dir)
    run(recipe, run_dir)
    assert why_run("evaluate", recipe, run_dir) is None
    assert why_run("evaluate", recipe_of(run_dir, batch_size=1), run_dir) is None
    assert "evaluate.ties" in why_run("evaluate", recipe_of(run_dir, ties="first"), run_dir)
    write_files(run_dir.parent, {"mini/images/cat.png": "owl"})
    assert "mini" in why_run("evaluate", recipe, run_dir)
    write_checkpoint(run_dir, 20)
    assert run(recipe, run_dir)["model"] == "train/step_000000020"
    models = {record["model"] for record in read_results(run_dir / "evaluate" / "results.jsonl")}
    assert models == {"train/step_000000020"}


def test_languages_default_to_those_of_the_run(run_dir):
    for evaluate_config, codes, expected in (({}, ["th", "sw"], "th"), ({"languages": ["en"]}, ["th"], "en")):
        sections = to_dict(recipe_of(run_dir, **evaluate_config))
        recipe = load_recipe({**sections, "languages": {"codes": codes}})
        assert languages_of(run(recipe, run_dir)) == [expected]
    other = write_files(run_dir.parent / "other", caption_files(["cat"], langs=["sw"]))
    folders = {"mini": f"captions:{run_dir.parent / 'mini'}", "other": f"captions:{other}"}
    found = run(recipe_to_evaluate(folders, languages=["th"]), run_dir)
    assert found["datasets"]["other"]["tasks"] == {}
    assert languages_of(found) == ["th"]


def test_any_model_is_evaluated_into_any_folder_and_resumes(run_dir, tmp_path, monkeypatch):
    put_any_model_in_hub_cache("someone/model", tmp_path, monkeypatch)
    config = recipe_of(run_dir).evaluate
    found = evaluate.evaluate_model("someone/model", config, tmp_path / "out")
    assert found["model"] == "someone/model"
    assert (tmp_path / "out" / "table.md").exists()
    assert evaluate.evaluate_model("someone/model", config, tmp_path / "out") == found
    other = evaluate.evaluate_model(run_dir / "train" / "step_000000010", config, tmp_path / "out")
    assert other["model_digest"] != found["model_digest"]


def test_new_weights_in_a_repository_of_the_hub_are_evaluated_anew(run_dir, hugging_face, tmp_path, monkeypatch):
    class Forgetful(WordModel):
        def see(self, image):
            return super().see(b"owl")

    models = {"1" * 40: WordModel(), "2" * 40: Forgetful()}
    monkeypatch.setattr(model_load, "load", lambda source, **options: models[Path(source).name])
    config = recipe_of(run_dir).evaluate
    found = []
    for commit in models:
        put_in_hub_cache(hugging_face, "someone/model", tmp_path / "hub", monkeypatch, commit)
        found.append(evaluate.evaluate_model("someone/model", config, tmp_path / "out"))
    scores = [report["datasets"]["mini"]["tasks"][RETRIEVAL]["mean"]["metrics"] for report in found]
    assert scores[0]["image_retrieval_recall@1"] > scores[1]["image_retrieval_recall@1"]
    again = evaluate.evaluate_model("someone/model", config, tmp_path / "out")
    assert again["model_digest"] == found[1]["model_digest"] != found[0]["model_digest"]


def test_all_that_decides_the_features_of_another_model_is_in_its_digest(run_dir, tmp_path):
    base = {"config.json": '{"model_type": "metaclip_2"}', "model.safetensors": save({})}
    write_files(tmp_path / "base", base)
    paths = [tmp_path / "base", run_dir, run_dir / "train/step_000000010"]
    before = [evaluate._identify(path)[1] for path in paths]
    assert before[1] == before[2] == evaluate.model_digest(paths[2])
    write_files(tmp_path / "base", {"model.safetensors": save({"a": np.zeros(1)})})
    after = [evaluate._identify(path)[1] for path in paths]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True]


def test_what_is_missing_is_named(run_dir, tmp_path):
    with pytest.raises(UserError, match=r"no dataset to evaluate; set evaluate\.datasets"):
        evaluate.evaluate_model("someone/model", EvaluateConfig(), tmp_path / "out")
    nothing_there = EvaluateConfig(suite="imagenet", data=str(tmp_path), allow_missing=True)
    with pytest.raises(UserError, match="none of suite imagenet is below"):
        evaluate.evaluate_model("someone/model", nothing_there, tmp_path / "out")
    with pytest.raises(UserError, match="run first: worldclip train"):
        evaluate.checkpoint_folder(tmp_path)
    without_datasets = recipe_of(run_dir, datasets=[])
    run(without_datasets, run_dir)
    assert why_run("evaluate", without_datasets, run_dir) is None


def test_all_config_problems_are_reported_at_once():
    folders = {"pets": "wds:/data", "emoji_base": "cvqa:/data"}
    with pytest.raises(UserError) as caught:
        recipe_to_evaluate(folders, datasets=["emoji_ton"], batch_size=0)
    assert len(caught.value.problems) == 4
    assert 'did you mean "emoji_tone"?' in str(caught.value)


def test_problems_of_all_datasets_are_reported_before_any_work(run_dir):
    mini = write_files(run_dir.parent / "mini", {"images/dog.png": None})
    tars = write_files(run_dir.parent / "tars", {"0.tar": b"no tar"})
    recipe = recipe_to_evaluate({"mini": f"captions:{mini}", "tars": f"pool:{tars}", "gone": "cvqa:/nowhere"})
    with pytest.raises(UserError) as caught:
        run(recipe, run_dir)
    for problem, words in zip(
        caught.value.problems, ("mini: .*: dog", r"tars: .*0\.tar", "gone: .*/nowhere"), strict=True
    ):
        assert re.match(f"dataset {words}", problem)
    assert not (run_dir / "evaluate").exists()


class RemovingModel(WordModel):
    """Removes a folder after each batch of images."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def encode_each(self, images):
        features = super().encode_each(images)
        shutil.rmtree(self.folder, ignore_errors=True)
        return features


def test_a_dataset_that_goes_away_ends_the_evaluation_and_nothing_of_it_is_kept(run_dir, monkeypatch):
    names = ("results.jsonl", "results.csv", "table.md", "report.json")
    recipe = recipe_of(run_dir, batch_size=1)
    run(recipe, run_dir)
    whole = [(run_dir / "evaluate" / name).read_bytes() for name in names]
    shutil.rmtree(run_dir / "evaluate")
    with monkeypatch.context() as patch:
        patch.setattr(model_load, "load", lambda source, **options: RemovingModel(run_dir.parent / "mini"))
        with pytest.raises((StageFailed, UserError), match="mini"):
            run(recipe, run_dir)
    write_files(run_dir.parent / "mini", caption_files(("cat", "dog")))
    run(recipe, run_dir)
    assert [(run_dir / "evaluate" / name).read_bytes() for name in names] == whole
