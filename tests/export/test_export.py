"""The stage writes complete formats, each compared by its own library before it takes its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import MetaClip2VisionModel

import worldclip
from miniature import write_files
from model_folders import save_tiny
from stages import finish, job_of
from worldclip import cli, export
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.core.settings import to_toml
from worldclip.export import ExportConfig
from worldclip.model import sample_inputs
from worldclip.model.formats import huggingface_folder, open_clip_folder

RECIPE = {"pool": {"path": "pool"}, "languages": {"codes": ["en", "zh"]}, "balance": {"tail_fraction": 0.1}}


def run_export(run_dir: Path, **keys):
    """Run the stage with these keys of [export] and return its report."""
    return finish("export", load_recipe({**RECIPE, "export": keys}), run_dir, LocalExecutor())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Write a run with one checkpoint of initial weights."""
    run_dir = tmp_path_factory.mktemp("trained") / "my_run"
    folder = run_dir / "train" / "step_000000009"
    save_tiny(folder, ["a red apple", "红苹果"] * 3)
    artifacts.write_json(folder / "trainer" / "state.json", {"step": 9})
    return run_dir


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "my_run"))


def test_exported_folder_embeds_like_the_checkpoint_without_trainer_state(run_dir):
    report = run_export(run_dir)
    folder = run_dir / "export" / "huggingface"
    assert report["formats"]["huggingface"]["max_difference"] <= sample_inputs.TOLERANCE
    assert not (folder / "trainer").exists()
    texts = ["a red apple", "红苹果"]
    features = worldclip.load(folder, device="cpu").encode_text(texts)
    np.testing.assert_array_equal(features, worldclip.load(run_dir, device="cpu").encode_text(texts))
    manifest = json.loads((run_dir / "export" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"] == job_of("export", load_recipe(RECIPE), run_dir).inputs


@pytest.mark.parametrize("name", ["huggingface", "open_clip"])
def test_export_that_differs_when_loaded_is_refused_and_the_old_one_stays(name, run_dir, monkeypatch):
    run_export(run_dir, formats=[name])
    before = (run_dir / "export" / name / "README.md").read_bytes()
    # an unchanged Hugging Face checkpoint is copied
    module, function = (huggingface_folder, "copy") if name == "huggingface" else (open_clip_folder, "write")
    plain = getattr(module, function)

    def spoil(source, folder, *precisions):
        plain(source, folder, *precisions)
        file = next(folder.glob("*.safetensors"))
        weights = load_file(file)
        key = next(key for key in weights if key.endswith(("visual_projection.weight", "visual.proj")))
        weights[key] = weights[key] + 1e-2 * torch.randn_like(weights[key])
        save_file(weights, file, {"format": "pt"})

    monkeypatch.setattr(module, function, spoil)
    with pytest.raises(UserError, match=r"differ by .* nothing was exported"):
        run_export(run_dir, formats=[name])
    assert (run_dir / "export" / name / "README.md").read_bytes() == before
    assert [path.name for path in (run_dir / "export").iterdir() if path.is_dir()] == [name]


def test_run_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="run first: worldclip train"):
        run_export(tmp_path)


def test_all_problems_of_the_configuration_are_listed(tmp_path):
    config = ExportConfig(formats=(), onnx_precisions=(), corpus=("texts.csv",))
    with pytest.raises(UserError) as caught:
        export.export_model(tmp_path, tmp_path / "out", config)
    assert len(caught.value.problems) == 4


def test_folder_of_others_with_the_name_of_a_format_stays(tmp_path):
    write_files(tmp_path, {"open_clip/README.md": "a clone of its repository"})
    with pytest.raises(UserError, match="holds a folder 'open_clip' of others, which would be replaced"):
        export.export_model("owner/name", tmp_path, ExportConfig(formats=("open_clip",)))
    assert (tmp_path / "open_clip/README.md").read_text() == "a clone of its repository"


def test_vocabulary_is_pruned_by_the_matched_texts_of_the_run(run_dir):
    row = {"place": 0, "lang_prob": 1.0, "entry_ids": [0]}
    texts = [("a", 0, "a red apple", "en"), ("b", 0, "红苹果", "zh")]
    rows = [{"key": k, "text_idx": i, "text": t, "lang": lang, "entries_lang": lang, **row} for k, i, t, lang in texts]
    artifacts.write_table(run_dir / "match/texts/000.tar.parquet", pa.Table.from_pylist(rows), schemas.MATCH_TEXTS)
    report = run_export(run_dir, languages=["en"])
    assert report["vocabulary"]["texts_proven"] == 1
    whole, small = (
        worldclip.load(run_dir / name, device="cpu") for name in ("train/step_000000009", "export/huggingface")
    )
    np.testing.assert_allclose(small.encode_text("a red apple"), whole.encode_text("a red apple"), atol=1e-6)
    assert small.tokenizer.vocab_size == report["vocabulary"]["rows_after"] < whole.tokenizer.vocab_size
    assert (small.tokenizer.encode(["红苹果"]).ids == small.tokenizer.hf.unk_token_id).any()
    config = load_recipe({**RECIPE, "export": {"languages": ["en"]}})
    assert job_of("export", config, run_dir).inputs["corpus"]


def test_plain_transformers_reads_the_image_tower_of_a_whole_folder(run_dir):
    run_export(run_dir)
    tower = MetaClip2VisionModel.from_pretrained(run_dir / "export" / "huggingface").eval()
    pixels = torch.randn(2, 3, 32, 32)
    clip = worldclip.load(run_dir, device="cpu")
    with torch.inference_mode():
        hidden_states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        whole = clip.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert hidden_states[-2][:, 1:].shape == (2, 16, 64)
    torch.testing.assert_close(hidden_states[-2], whole[-2], atol=1e-6, rtol=1e-5)


def test_run_and_exported_model_are_evaluated_and_exported_into_any_folder(run_dir, tmp_path, capsys):
    stored = load_recipe({**RECIPE, "pool": {"path": str(tmp_path / "tars")}, "export": {"formats": ["open_clip"]}})
    artifacts.write_text(run_dir / "recipe.toml", to_toml(stored))
    assert (
        cli.main(["export", str(run_dir), "--out", str(tmp_path / "first"), "--formats", "huggingface", "open_clip"])
        == 0
    )
    exported = tmp_path / "first" / "huggingface"
    assert f"publish a folder of {exported.parent} with: hf upload OWNER/NAME FOLDER" in capsys.readouterr().err
    assert "# my_run: a CLIP for 2 languages" in (exported / "README.md").read_text()
    published = load_recipe(exported / "recipe.toml")
    assert published.pool.path == str(exported / "tars")  # relative in the file
    assert str(tmp_path) not in (exported / "recipe.toml").read_text() + (exported / "README.md").read_text()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["huggingface", "open_clip", "report.json"]

    for _ in range(2):  # an export of ours may be replaced
        assert cli.main(["export", str(exported), "--out", str(tmp_path / "second"), "--formats", "open_clip"]) == 0
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["open_clip", "report.json"]

    for colour in ("red", "blue"):
        (tmp_path / "pictures" / colour).mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / "pictures" / colour / "0.png")
    flags = ["--datasets", "mine", "--folders.mine", f"folders:{tmp_path / 'pictures'}", "--device", "cpu"]
    for source in (run_dir, exported):
        out = tmp_path / f"evaluated_{source.name}"
        assert cli.main(["evaluate", str(source), "--out", str(out), *flags]) == 0
        assert (out / "results.jsonl").exists()
        assert not (out / "recipe.toml").exists()
    assert not (exported / ".lock").exists()


def test_exported_model_is_no_run(run_dir, tmp_path):
    run_export(run_dir, formats=["open_clip"])
    artifacts.write_text(run_dir / "recipe.toml", to_toml(load_recipe(RECIPE)))
    folder = run_dir / "export" / "open_clip"
    shutil.copy(run_dir / "recipe.toml", folder)
    assert (layout.is_run(run_dir), layout.is_run(folder)) == (True, False)
    with pytest.raises(UserError, match=r"is an exported model, not a run; give .*recipe\.toml"):
        load_recipe(folder)
