"""The stage as the recipe runs it, with a made-up model in a checkpoint's place."""

from __future__ import annotations

import json

import pytest

from stages import finish, why_run
from worldclip.config import load_recipe
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.records import read_results
from worldclip.evaluate import stage as evaluate
from worldclip.evaluate.config import EvaluateConfig
from worldclip.model import load as model_load
from worlds import WordModel


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """RUN with a checkpoint, and `mini`, a dataset in Crossmodal-3600's layout beside it."""
    folder = tmp_path / "mini"
    (folder / "images").mkdir(parents=True)
    for key in ("cat", "dog"):
        (folder / "images" / f"{key}.png").write_bytes(key.encode())
    lines = [{"image/key": key, "en": {"caption": [key]}, "th": {"caption": [f"x/{key}"]}} for key in ("cat", "dog")]
    (folder / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_checkpoint(tmp_path / "run", 10)
    monkeypatch.setattr(model_load, "load", lambda source, device, preprocess: WordModel())
    return tmp_path / "run"


def write_checkpoint(run_dir, step):
    checkpoint = run_dir / "train" / f"step_{step:09}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(str(step).encode())


def recipe_of(run_dir, **evaluate_config):
    folders = {"mini": f"captions:{run_dir.parent / 'mini'}"}
    sections = {"datasets": ["mini"], "folders": folders} | evaluate_config
    pool = {"path": str(run_dir.parent)}
    return load_recipe({"pool": pool, "balance": {"tail_fraction": 0.1}, "evaluate": sections})


def run(recipe, run_dir):
    return finish("evaluate", recipe, run_dir, LocalExecutor())


def test_stage_writes_records_table_and_report(run_dir):
    report = run(recipe_of(run_dir), run_dir)
    records = [json.loads(line) for line in (run_dir / "evaluate" / "results.jsonl").read_text().splitlines()]
    assert [(record["model"], record["lang"]) for record in records] == [
        ("train/step_000000010", "en"),
        ("train/step_000000010", "th"),
    ]
    assert "### mini" in (run_dir / "evaluate" / "table.md").read_text()
    assert read_json(run_dir / "evaluate" / "report.json") == json.loads(json.dumps(report))
    mean = report["datasets"]["mini"]["tasks"]["image_text_retrieval"]["mean"]
    assert mean["languages"] == ["en", "th"]
    assert mean["metrics"]["image_retrieval_recall@1"] == 1.0


def test_the_papers_protocol_is_in_the_records_the_table_and_the_model(run_dir, monkeypatch):
    loaded = []

    class Described(WordModel):
        def __init__(self, rule):
            super().__init__()
            sizes = {"resize": "shortest edge 8", "crop": "central 8 x 8", "interpolation": "bicubic"}
            self.preprocess = sizes | {
                "implementation": "Pillow",
                "exif": {"reference": "ignored"}.get(rule, "applied"),
            }
            loaded.append(rule)

    monkeypatch.setattr(model_load, "load", lambda source, device, preprocess: Described(preprocess))
    run(recipe_of(run_dir), run_dir)
    ours = read_results(run_dir / "evaluate" / "results.jsonl")
    assert "evaluate.protocol" in why_run("evaluate", recipe_of(run_dir, protocol="paper"), run_dir)
    run(recipe_of(run_dir, protocol="paper"), run_dir)
    papers = read_results(run_dir / "evaluate" / "results.jsonl")
    run(recipe_of(run_dir, protocol="paper", ties="against", preprocess="source"), run_dir)
    assert read_results(run_dir / "evaluate" / "results.jsonl") == ours
    assert loaded == ["source", "reference", "source"]
    for record, ties, exif in ((ours[0], "against", "applied"), (papers[0], "first", "ignored")):
        assert (record["protocol"]["ties"], record["protocol"]["preprocess"]["exif"]) == (ties, exif)
    run(recipe_of(run_dir, protocol="paper"), run_dir)
    table = (run_dir / "evaluate" / "table.md").read_text()
    assert "Images: resize shortest edge 8, crop central 8 x 8, bicubic by Pillow, EXIF ignored." in table
    assert "Ties (`first`): of equal scores the first candidate wins." in table
    assert read_json(run_dir / "evaluate" / "report.json")["protocol"] in table


def test_suite_paper_uses_the_papers_protocol():
    rules = {suite: EvaluateConfig(suite=suite) for suite in ("", "multilingual", "paper")}
    assert {suite: (config.tie_rule, config.preprocess_rule) for suite, config in rules.items()} == {
        "": ("against", "source"),
        "multilingual": ("against", "source"),
        "paper": ("first", "reference"),
    }
    own = EvaluateConfig(suite="paper", protocol="own", preprocess="reference")
    assert (own.tie_rule, own.preprocess_rule) == ("against", "reference")


def test_finished_stage_reruns_only_for_another_checkpoint_config_or_data(run_dir):
    recipe = recipe_of(run_dir)
    run(recipe, run_dir)
    assert why_run("evaluate", recipe, run_dir) is None
    assert why_run("evaluate", recipe_of(run_dir, batch_size=1), run_dir) is None
    assert "evaluate.captions" in why_run("evaluate", recipe_of(run_dir, captions="first_caption"), run_dir)
    (run_dir.parent / "mini" / "images" / "cat.png").write_bytes(b"owl")
    assert "mini" in why_run("evaluate", recipe, run_dir)
    write_checkpoint(run_dir, 20)
    run(recipe, run_dir)
    assert "step_000000020" in (run_dir / "evaluate" / "results.jsonl").read_text()
    assert "step_000000010" not in (run_dir / "evaluate" / "results.jsonl").read_text()


def test_languages_default_to_those_of_the_run(run_dir):
    recipe = recipe_of(run_dir)
    of_run = load_recipe({**_sections(recipe), "languages": {"codes": ["th", "sw"]}})
    assert list(run(of_run, run_dir)["datasets"]["mini"]["tasks"]["image_text_retrieval"]["languages"]) == ["th"]
    named = load_recipe({**_sections(recipe_of(run_dir, languages=["en"])), "languages": {"codes": ["th"]}})
    assert list(run(named, run_dir)["datasets"]["mini"]["tasks"]["image_text_retrieval"]["languages"]) == ["en"]


def _sections(recipe):
    from worldclip.core.settings import to_dict

    return to_dict(recipe)


def test_run_without_checkpoint_is_an_error_that_names_train(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint; run first: worldclip train"):
        evaluate.checkpoint_folder(tmp_path)


def test_stage_without_datasets_finishes(run_dir):
    recipe = recipe_of(run_dir, datasets=[])
    run(recipe, run_dir)
    assert why_run("evaluate", recipe, run_dir) is None


def test_any_model_is_evaluated_into_any_folder_and_resumes(run_dir, tmp_path):
    config = recipe_of(run_dir).evaluate
    found = evaluate.evaluate_model("someone/model", config, tmp_path / "out")
    assert found["model"] == "someone/model"
    assert (tmp_path / "out" / "table.md").exists()
    again = evaluate.evaluate_model("someone/model", config, tmp_path / "out")
    assert again == found
    other = evaluate.evaluate_model(run_dir / "train" / "step_000000010", config, tmp_path / "out")
    assert other["model_digest"] != found["model_digest"]


def test_evaluating_a_model_without_datasets_is_an_error(run_dir, tmp_path):
    with pytest.raises(UserError, match=r"no dataset to evaluate; set evaluate\.datasets"):
        evaluate.evaluate_model("someone/model", EvaluateConfig(), tmp_path / "out")
    nothing_there = EvaluateConfig(suite="imagenet", data=str(tmp_path), allow_missing=True)
    with pytest.raises(UserError, match="none of suite imagenet is below"):
        evaluate.evaluate_model("someone/model", nothing_there, tmp_path / "out")


def test_all_config_problems_are_reported_at_once(tmp_path):
    wrong = {
        "datasets": ["emoji_ton"],
        "folders": {"pets": "wds:/data", "emoji_base": "cvqa:/data"},
        "batch_size": 0,
        "gallery_size": -1,
    }
    with pytest.raises(UserError) as caught:
        load_recipe({"pool": {"path": "."}, "balance": {"tail_fraction": 0.1}, "evaluate": wrong})
    assert len(caught.value.problems) == 5
    assert 'did you mean "emoji_tone"?' in str(caught.value)


def test_missing_folder_is_named(run_dir):
    recipe = recipe_of(run_dir, folders={"mini": "captions:/nowhere"})
    with pytest.raises(UserError, match=r"evaluate\.folders\.mini is 'captions:/nowhere'"):
        run(recipe, run_dir)


def test_dataset_without_any_requested_language_has_no_records(run_dir):
    other = run_dir.parent / "other"
    (other / "images").mkdir(parents=True)
    (other / "images" / "cat.png").write_bytes(b"cat")
    (other / "captions.jsonl").write_text(json.dumps({"image/key": "cat", "sw": {"caption": ["cat"]}}))
    folders = {"mini": f"captions:{run_dir.parent / 'mini'}", "other": f"captions:{other}"}
    found = run(recipe_of(run_dir, datasets=["mini", "other"], folders=folders, languages=["th"]), run_dir)
    assert found["datasets"]["other"]["tasks"] == {}
    assert list(found["datasets"]["mini"]["tasks"]["image_text_retrieval"]["languages"]) == ["th"]


def test_problems_of_all_datasets_are_reported_before_any_work(run_dir):
    mini = run_dir.parent / "mini"
    (run_dir.parent / "tars").mkdir()
    (run_dir.parent / "tars/0.tar").write_bytes(b"no tar")
    (mini / "images/dog.png").unlink()
    folders = {"mini": f"captions:{mini}", "tars": f"pool:{run_dir.parent / 'tars'}", "gone": "cvqa:/nowhere"}
    with pytest.raises(UserError) as caught:
        run(recipe_of(run_dir, datasets=list(folders), folders=folders), run_dir)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "dataset mini: " in problems
    assert "images: dog" in problems
    assert "dataset tars: " in problems
    assert "0.tar: not a readable tar" in problems
    assert "dataset gone: evaluate.folders.gone is 'cvqa:/nowhere'" in problems
    assert not (run_dir / "evaluate").exists()


def test_class_names_for_a_layout_without_classes_are_an_error(run_dir):
    names = run_dir.parent / "names.json"
    names.write_text("{}")
    with pytest.raises(UserError, match=r"class_names\.mini: layout captions takes no class names"):
        run(recipe_of(run_dir, class_names={"mini": str(names)}), run_dir)
