"""The commands and code blocks of the pages run as printed, with models at reduced size in place of the real ones."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

import worldclip
from embedded_world import write_pool
from pages import REPOSITORY, blocks, commands
from small_models import random_open_clip, reduced_open_clip_config, save_xlm_v, write_open_clip_config
from worldclip.cli import main
from worldclip.core import artifacts

RECIPE = """
[pool]
path = "pool"
[languages]
codes = ["en"]
[balance]
tail_fraction = 0.1
"""


BLOCKS = [
    pytest.param(page, code, id=f"{page}-{number}")
    for page in ("README.md", "docs/7_export.md", "docs/inference.md")
    for number, code in enumerate(blocks(page, "python"))
]


@pytest.fixture(scope="module")
def hub(published_model, tmp_path_factory) -> Path:
    """Make a local hub cache with the repositories that the pages name."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("metaclip-2-worldwide-b32", "metaclip-2-worldwide-s16"):
        repository = root / f"models--facebook--{name}"
        shutil.copytree(published_model(name), repository / "snapshots" / "abc")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc")
    return root


@pytest.fixture(scope="module")
def place(hub, tmp_path_factory) -> Path:
    """Make a folder with all files that the pages name; the commands of 7_export.md write the exports."""
    root = tmp_path_factory.mktemp("documents")
    shutil.copytree(next(hub.glob("*b32/snapshots/abc")), root / "runs" / "emoji" / "train" / "step_000000009")
    (root / "runs/emoji/recipe.toml").write_text(RECIPE)
    artifacts.write_manifest(root / "runs/emoji/train", config={}, inputs={}, counts={})
    save_xlm_v(root / "xlm-v-base")
    vocab_size = len(AutoTokenizer.from_pretrained(root / "xlm-v-base"))
    model_cfg = reduced_open_clip_config("ViT-H-14-worldwide-quickgelu", vocab_size)
    torch.save({"state_dict": random_open_clip(model_cfg).state_dict()}, root / "metaclip2.pt")
    write_open_clip_config(root, model_cfg)
    write_pool(root / "pool")
    (root / "captions.txt").write_text("a red apple\na dog\n")
    for name in ("1F34E.png", "apple.png", "dog.jpg"):
        save_picture(root / name)
    with pytest.MonkeyPatch.context() as patch:
        go_to(root, hub, patch)
        for command in commands("docs/7_export.md"):
            assert main(command) == 0, command
    return root


@pytest.fixture(scope="module")
def front_place(hub, tmp_path_factory) -> Path:
    """Make the folder of README.md: photographs, and what its command makes of them."""
    root = tmp_path_factory.mktemp("front")
    for name in ("photo.jpg", "photos/dog.jpg", "photos/cat.jpg"):
        save_picture(root / name)
    with pytest.MonkeyPatch.context() as patch:
        go_to(root, hub, patch)
        (embed,) = (command for command in commands("README.md") if command[0] == "embed")
        assert main(embed) == 0
    return root


def save_picture(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)


def go_to(place: Path, hub: Path, patch: pytest.MonkeyPatch) -> None:
    """Change to `place`, offline, with this hub cache."""
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    patch.chdir(place)


@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_code_blocks_of_the_pages_run(page, code, request, hub, monkeypatch):
    go_to(request.getfixturevalue("front_place" if page == "README.md" else "place"), hub, monkeypatch)
    exec(compile(code, page, "exec"), {})


def test_export_commands_write_what_the_page_says(place):
    exports = place / "runs/emoji/export"
    assert sorted(folder.name for folder in exports.iterdir() if (folder / "README.md").exists()) == sorted(
        ["huggingface", "open_clip", "onnx"]
    )
    assert "Reduced to en, sw, hi" in (place / "exports/b32/huggingface/README.md").read_text(encoding="utf-8")
    assert worldclip.load(place / "exports/reference/huggingface").model.config.vision_config.hidden_act == "quick_gelu"


def test_commands_of_the_inference_page_run(place, hub, monkeypatch, capsys):
    go_to(place, hub, monkeypatch)
    said = {}
    for command in commands("docs/inference.md"):
        assert main(command) == 0, command
        said[" ".join(command)] = capsys.readouterr().out
    assert len(said) == 6
    assert "images embedded" in said["embed runs/emoji pool --out embedded"]
    assert said["search embedded red apple 赤いリンゴ --images dog.jpg --top 5"].count("\n") == 3 * 6
    assert len(json.loads(said["search embedded red apple --json"])[0]["hits"]) == 20


def test_mllm_example_inserts_visual_tokens(place, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("projector", REPOSITORY / "examples" / "mllm" / "projector.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(str(place / "runs/emoji/export/huggingface"), str(place / "apple.png"))
    assert capsys.readouterr().out == "4 visual tokens of 64; the prompt has 13\n"
    words, visual = torch.zeros(3, 2), torch.ones(2, 2)
    assert example.insert(words, visual, 1)[:, 0].tolist() == [0, 1, 1, 0]
