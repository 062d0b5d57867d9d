"""The exported folder: complete, checked with transformers before it takes its name, and refused where it differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import worldclip
from worldclip import export, formats
from worldclip.config import load_recipe
from worldclip.errors import UserError
from worldclip.execute import LocalExecutor
from worldclip.model import create_model, image_processor, model_config
from worldclip.tokenizer import train_tokenizer
from worldclip.train.config import ModelConfig

RECIPE = {"pool": {"path": "pool"}, "languages": {"codes": ["en", "zh"]}, "balance": {"tail_fraction": 0.1}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with one checkpoint of fresh weights and the reports that a model card reads."""
    run_dir = tmp_path_factory.mktemp("trained") / "my_run"
    folder = run_dir / "train" / "step_000000009"
    sizes = ModelConfig(preset="tiny", image_size=32, vision_layers=1, vision_width=64, text_width=64, embed_dim=16)
    tokenizer = train_tokenizer(["a red apple", "红苹果"] * 3, vocab_size=60, context_length=20)
    create_model(model_config(sizes, tokenizer), seed=0).save_pretrained(folder)
    tokenizer.save(folder)
    image_processor(32).save_pretrained(folder)
    formats.write_json(folder / "trainer" / "state.json", {"step": 9})
    formats.write_json(run_dir / "train" / "report.json", {"seen": {"en": 1200, "zh": 34}})
    languages = {"en": {"pairs_in": 100, "pairs_out": 80}, "zh": {"pairs_in": 50, "pairs_out": 40}}
    formats.write_json(run_dir / "curate" / "report.json", {"languages": languages})
    formats.write_text(run_dir / "evaluate" / "table.md", "| data set | acc1 |\n|---|---|\n| tone | 17.0 |\n")
    formats.write_text(run_dir / "pool" / "README.md", "OpenMoji, CC BY-SA 4.0\n")
    return run_dir


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "my_run"))


def test_the_exported_folder_embeds_as_the_checkpoint_and_holds_no_trainer(run_dir):
    report = export.run(load_recipe(RECIPE), run_dir, LocalExecutor())
    folder = run_dir / "export" / "huggingface"
    assert report["formats"]["huggingface"]["max_difference"] <= export.TOLERANCE
    assert not (folder / "trainer").exists()
    texts = ["a red apple", "红苹果"]
    found = worldclip.load(folder, device="cpu").encode_text(texts)
    np.testing.assert_array_equal(found, worldclip.load(run_dir, device="cpu").encode_text(texts))
    manifest = json.loads((run_dir / "export" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"] == export.inputs(load_recipe(RECIPE), run_dir)


def test_the_model_card_names_languages_pairs_results_and_sources(run_dir):
    card = export.model_card(load_recipe(RECIPE), run_dir, run_dir / "train" / "step_000000009")
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "- zh" in front.splitlines()
    assert "# my_run: a CLIP for 2 languages" in body
    for line in ("| en | 100 | 80 | 1,200 |", "| tone | 17.0 |", "OpenMoji, CC BY-SA 4.0", "step_000000009"):
        assert line in body


def test_a_model_that_differs_when_loaded_again_is_refused_and_the_old_export_stays(run_dir, monkeypatch):
    export.run(load_recipe(RECIPE), run_dir, LocalExecutor())
    before = (run_dir / "export" / "huggingface" / "README.md").read_bytes()

    def spoil(source, target, **options):
        import torch
        from safetensors.torch import load_file, save_file

        shutil.copy(source, target)
        if Path(target).name == "model.safetensors":
            weights = load_file(target)
            weights["text_projection.weight"] += 1e-2 * torch.randn_like(weights["text_projection.weight"])
            save_file(weights, target, {"format": "pt"})

    plain = shutil.copytree
    monkeypatch.setattr(export.shutil, "copytree", lambda *args, **kw: plain(*args, **kw, copy_function=spoil))
    with pytest.raises(UserError, match=r"differ by .* nothing was exported"):
        export.run(load_recipe(RECIPE), run_dir, LocalExecutor())
    assert (run_dir / "export" / "huggingface" / "README.md").read_bytes() == before
    assert [path.name for path in (run_dir / "export").iterdir() if path.is_dir()] == ["huggingface"]


def test_a_run_without_a_checkpoint_is_told_to_train(tmp_path):
    with pytest.raises(UserError, match="run first: worldclip train"):
        export.run(load_recipe(RECIPE), tmp_path, LocalExecutor())
