"""Small model folders, changes of their files, and the message with which a folder is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from safetensors.numpy import save_file

import worldclip
from worldclip.core.errors import UserError
from worldclip.model.clip import create_model, image_processor, model_config
from worldclip.model.config import ModelConfig
from worldclip.model.tokenizer import train_tokenizer

TINY = ModelConfig(preset="tiny", image_size=32, vision_layers=1, vision_width=64, text_width=64, embed_dim=16)


def save_tiny(folder: Path, texts: Sequence[str], *, vocab_size: int = 60, context_length: int = 32) -> None:
    """Write a checkpoint of initial weights, with a tokenizer that is trained on the texts."""
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, context_length=context_length)
    create_model(model_config(TINY, tokenizer), seed=0).save_pretrained(folder)
    tokenizer.save(folder)
    image_processor(32).save_pretrained(folder)


@pytest.fixture
def folder(hugging_face: Path, tmp_path: Path) -> Path:
    """A copy of a Hugging Face folder, to be changed."""
    return Path(shutil.copytree(hugging_face, tmp_path / "model"))


def edit(file: Path, section: str = "", **values: object) -> None:
    """Set keys of a JSON file, which may be missing, or of a section such as model_cfg.text_cfg."""
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    part = record
    for name in section.split(".") if section else ():
        part = part[name]
    part.update(values)
    file.write_text(json.dumps(record), encoding="utf-8")


def put_in_hub_cache(folder: Path, name: str, cache: Path, patch: pytest.MonkeyPatch, commit: str = "abc") -> None:
    """Let the hub's client find a folder as the main commit of a repository, without a network."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def put_any_model_in_hub_cache(name: str, place: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the hub's client find what is recognised as a model, for tests in which another one stands for it."""
    (place / "any").mkdir()
    edit(place / "any" / "config.json", model_type="metaclip_2")
    save_file({}, place / "any" / "model.safetensors")
    put_in_hub_cache(place / "any", name, place / "hub", patch)


def load_error(source: Any, **options: Any) -> str:
    """Return the message with which worldclip.load refuses a source."""
    with pytest.raises(UserError) as caught:
        worldclip.load(source, device="cpu", **options)
    return str(caught.value)
