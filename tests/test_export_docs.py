"""The lines of the documents run as they stand, on models at reduced size where the documents say theirs stand."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import (
    random_open_clip,
    reduced_open_clip_config,
    save_hugging_face,
    save_xlm_v,
    write_open_clip_config,
)

from worldclip.export import ExportConfig, export_model
from worldclip.interop import published

REPOSITORY = Path(__file__).parents[1]
BLOCKS = [
    (page, number, code)
    for page in ("7_export.md", "inference.md")
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)
    )
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all that the documents name, and a hub of one machine."""
    root = tmp_path_factory.mktemp("documents")
    row = published.find("metaclip-2-worldwide-b32")
    snapshot = root / "hub" / "models--facebook--metaclip-2-worldwide-b32" / "snapshots" / "abc"
    save_hugging_face(row, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    shutil.copytree(snapshot, root / "runs" / "emoji" / "train" / "step_000000009")
    formats = ("huggingface", "open_clip", "timm", "onnx")
    export_model(snapshot, root / "runs/emoji/export", ExportConfig(formats=formats, onnx_precisions=("fp32", "int8")))
    export_model(snapshot, root / "runs/emoji/export", ExportConfig(tower="vision"))
    save_xlm_v(root / "xlm-v-base")
    model_cfg = reduced_open_clip_config("ViT-H-14-worldwide-quickgelu", len(_tokenizer(root / "xlm-v-base")))
    torch.save({"state_dict": random_open_clip(model_cfg).state_dict()}, root / "metaclip2.pt")
    write_open_clip_config(root, model_cfg)
    for name in ("apple.png", "dog.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / name)
    return root


def _tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("page", "number", "code"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_the_documents_lines_run(page, number, code, place, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(place)
    exec(compile(code, f"{page} block {number}", "exec"), {})


def test_the_mllm_example_puts_visual_tokens_among_words(place, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("projector", REPOSITORY / "examples" / "mllm" / "projector.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(str(place / "runs/emoji/export/vision"), str(place / "apple.png"))
    assert capsys.readouterr().out == "4 visual tokens of 64; the prompt has 13\n"
    words, visual = torch.zeros(3, 2), torch.ones(2, 2)
    assert example.insert(words, visual, 1)[:, 0].tolist() == [0, 1, 1, 0]
