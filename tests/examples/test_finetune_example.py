"""examples/finetune at toy size: its recipe with a smaller model and fewer samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from toy import draw_shape, write_tar
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.model.clip import create_model, image_processor, model_config
from worldclip.model.config import ModelConfig
from worldclip.model.tokenizer import load_tokenizer, train_tokenizer
from worldclip.train.train_state import load_initial_weights

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune"
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "black": (15, 15, 15)}
SHAPES = ("circle", "house", "tree", "star", "cross")
MODEL = {"preset": "tiny", "image_size": 32, "vision_layers": 1, "text_layers": 1, "context_length": 16}


def write_pool(folder: Path, first: int, count: int) -> None:
    members = []
    for n in range(first, first + count):
        colour, shape = list(COLOURS)[n % 4], n // 4 % 5
        text = f"the {colour} {SHAPES[shape]} by the house" if n % 2 else f"der Hund und das Haus, {SHAPES[shape]}"
        members.append((f"{n:05}.png", draw_shape(shape, COLOURS[colour], n % 7 - 3)))
        members.append((f"{n:05}.json", json.dumps({"text": text, "lang_truth": ["en" if n % 2 else "de"]}).encode()))
    write_tar(folder / "00000.tar", members)


def save_model(folder: Path):
    """Write a Hugging Face folder of random weights and return its model."""
    texts = ["the red house by the tree", "der Hund und das Haus"] * 20
    tokenizer = train_tokenizer(texts, vocab_size=80, context_length=16)
    model = create_model(model_config(ModelConfig(**MODEL), tokenizer), seed=7)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    image_processor(32).save_pretrained(folder)
    return model


@pytest.mark.slow
def test_training_continues_from_a_hugging_face_folder(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wordfreq")
    monkeypatch.chdir(tmp_path)
    write_pool(tmp_path / "my_images", 0, 80)
    write_pool(tmp_path / "my_test", 80, 16)
    before = save_model(tmp_path / "weights").state_dict()
    recipe = (EXAMPLE / "finetune.toml").read_text(encoding="utf-8")
    recipe = recipe.replace("facebook/metaclip-2-worldwide-s16", "weights")
    recipe = recipe.replace(
        'preset = "vit_s16"', "\n".join(f"{key} = {json.dumps(value)}" for key, value in MODEL.items())
    )
    (tmp_path / "finetune.toml").write_text(recipe, encoding="utf-8")
    smaller = {
        "languages.codes": '["en", "de"]',
        "train.samples_seen": 256,
        "train.global_batch_size": 32,
        "train.warmup_samples": 32,
        "train.evaluate_every_samples": 128,
        "train.lr": 1e-3,
        "train.device": "cpu",
    }
    flags = [flag for key, value in smaller.items() for flag in ("--set", f"{key}={value}")]
    assert main(["run", "finetune.toml", "--out", "run", "--until", "evaluate", *flags]) == 0
    capsys.readouterr()
    report = json.loads((tmp_path / "run/train/report.json").read_text())
    assert report["steps"] == 8
    assert (tmp_path / "run/train/best.json").exists()
    results = [json.loads(line) for line in (tmp_path / "run/evaluate/results.jsonl").read_text().splitlines()]
    assert {record["dataset"] for record in results} == {"mine"}

    from safetensors.torch import load_file

    newest = sorted((tmp_path / "run/train").glob("step_*"))[-1]
    after = load_file(newest / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("vision_model."))
    assert not torch.equal(after["visual_projection.weight"], before["visual_projection.weight"])
    table = "text_model.embeddings.token_embedding.weight"
    is_trained = ~torch.isclose(after[table], before[table], rtol=1e-3, atol=0).all(1)
    assert 0 < int(is_trained.sum()) < len(is_trained)  # weight decay alone moves rows of tokens that no text contains
    decay = (after[table] / before[table])[~is_trained]
    assert decay.max() < 1
    torch.testing.assert_close(decay, decay[0, 0].expand_as(decay), rtol=1e-6, atol=0)


def test_initial_weights_with_other_heads_or_activation_are_an_error(tmp_path):
    save_model(tmp_path / "weights")
    path = tmp_path / "weights" / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    config["text_config"]["num_attention_heads"] = 2
    path.write_text(json.dumps(config))
    own = save_model(tmp_path / "other")
    with pytest.raises(UserError, match=r"hidden_act is quick_gelu there, gelu here; .*num_attention_heads is 2 there"):
        load_initial_weights(own, str(tmp_path / "weights"), load_tokenizer(tmp_path / "weights", 16))


def test_initial_weights_with_another_tokenizer_are_an_error(tmp_path):
    own = save_model(tmp_path / "weights")
    other = train_tokenizer(["another text of other words"] * 20, vocab_size=80, context_length=16)
    with pytest.raises(UserError, match=r"of another tokenizer; set train\.tokenizer\.path = '.*weights'"):
        load_initial_weights(own, str(tmp_path / "weights"), other)
