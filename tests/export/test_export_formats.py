"""Embeddings survive the way to each library and back at any size; the code blocks of the pages run as printed."""

import functools
import importlib.util
import json
import shlex
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoTokenizer

import worldclip
from embedded_world import write_pool
from miniature import write_files
from model_folders import edit, put_in_hub_cache
from pages import REPOSITORY, blocks, commands
from pools import encode
from programs import python
from small_models import (
    TEXTS,
    random_open_clip,
    random_pixels,
    reduced_open_clip_config,
    save_xlm_v,
    unit,
    write_open_clip_config,
)
from worldclip.cli import main
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.stage import evaluate_model
from worldclip.export import ExportConfig, export_model
from worldclip.model import published

B32, MT5 = "metaclip-2-worldwide-b32", "metaclip-2-mt5-worldwide-s16"
HUGE_QUICK = "metaclip-2-worldwide-huge-quickgelu"


@pytest.fixture(scope="module")
def exported(published_model, tmp_path_factory):
    """Export a published model at reduced size, once per name: exported(name) -> its exports."""

    @functools.cache
    def export(name: str) -> Path:
        out = tmp_path_factory.mktemp(name)
        export_model(published_model(name), out, ExportConfig(formats=("open_clip",)))
        return out

    return export


@pytest.fixture
def source(published_model, tmp_path) -> Path:
    """A published model at reduced size, to be changed."""
    return Path(shutil.copytree(published_model(B32), tmp_path / "source"))


@pytest.mark.parametrize("model_name", [B32, HUGE_QUICK])
def test_timm_reads_the_image_tower_of_an_open_clip_folder(model_name, published_model, exported):
    """docs/7_export.md has these lines for the whole size."""
    folder = exported(model_name) / "open_clip"
    model_cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    vision, dim = model_cfg["vision_cfg"], model_cfg["embed_dim"]
    tower = timm.create_model(
        f"vit_base_patch32_clip{'_quickgelu' if 'quick_gelu' in model_cfg else ''}_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(folder / "open_clip_model.safetensors"), "num_classes": dim},
        num_classes=dim,
        img_size=vision["image_size"],
        patch_size=vision["patch_size"],
        embed_dim=vision["width"],
        depth=vision["layers"],
        num_heads=vision["width"] // vision["head_width"],
    ).eval()
    pixels = random_pixels(vision["image_size"])
    with torch.inference_mode():
        actual = unit(tower(pixels))
    expected = worldclip.load(published_model(model_name), device="cpu").backend.encode_pixels(pixels)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("name", [row.name for row in published.FAMILY])
def test_exports_load_again_with_the_same_embeddings(name, published_model, exported):
    out = exported(name)
    clip = worldclip.load(published_model(name), device="cpu")
    pixels = random_pixels(clip.model.config.vision_config.image_size)
    expected = clip.backend.encode_pixels(pixels)
    again = worldclip.load(f"local-dir:{out / 'open_clip'}", device="cpu")
    np.testing.assert_allclose(again.backend.encode_pixels(pixels), expected, atol=1e-5)
    np.testing.assert_allclose(again.encode_text(TEXTS), clip.encode_text(TEXTS), atol=1e-5)
    assert again.logit_scale == clip.logit_scale
    export_model(out / "open_clip", out / "back")
    back = worldclip.load(out / "back" / "huggingface", device="cpu").model.state_dict()
    for key, tensor in clip.model.state_dict().items():
        assert torch.equal(tensor, back[key]), key


@pytest.mark.parametrize("model_max_length", [int(1e30), 64])
def test_published_folder_is_exported_with_the_context_of_the_model(model_max_length, published_model, tmp_path):
    source = shutil.copytree(published_model(MT5 if model_max_length == 64 else B32), tmp_path / "source")
    edit(source / "tokenizer_config.json", model_max_length=model_max_length)
    report = export_model(source, tmp_path / "out")
    assert report["formats"]["huggingface"]["max_difference"] <= 1e-5
    folder = tmp_path / "out" / "huggingface"
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 77
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["CLIPModel", "Normalize"]


def test_activations_that_open_clip_cannot_express_are_refused(source, tmp_path):
    edit(source / "config.json", "text_config", hidden_act="quick_gelu")
    with pytest.raises(UserError, match=r"image tower has gelu, the text tower quick_gelu"):
        export_model(source, tmp_path / "out", ExportConfig(formats=("open_clip",)))
    assert not (tmp_path / "out" / "open_clip").exists()


# CLIP_benchmark 1.6.2 calls float() on arrays of one element, which NumPy 2.4 refuses
AS_BEFORE_NUMPY_24 = """
import builtins, sys
import numpy
from clip_benchmark.cli import main
from clip_benchmark.metrics import zeroshot_classification
zeroshot_classification.float = lambda value: builtins.float(numpy.asarray(value).item())
sys.exit(main())
"""
CLASSES = ("red apple", "blue house", "green cat", "black dog", "white fox", "lazy bird")


def write_pictures(data: Path) -> None:
    """Write 30 pictures in CLIP_benchmark's layout."""
    random = np.random.default_rng(0)
    members = {}
    for i in range(30):
        low = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        image = encode(low.resize(tuple(random.integers(30, 90, 2).tolist())))
        members |= {f"{i:03}.png": image, f"{i:03}.cls": str(i % len(CLASSES)).encode()}
    templates = {"zeroshot_classification_templates.txt": "a photo of a {c}\na {c}"}
    write_files(
        data, {"classnames.txt": "\n".join(CLASSES), "test/nshards.txt": "1", "test/0.tar": members} | templates
    )


def test_clip_benchmark_measures_our_numbers(hugging_face, tmp_path):
    pytest.importorskip("clip_benchmark")
    pytest.importorskip("webdataset")
    write_pictures(tmp_path / "mini")
    export_model(hugging_face, tmp_path / "exported", ExportConfig(formats=("open_clip",)))
    model = tmp_path / "exported" / "open_clip"
    (command,) = (block for block in blocks("docs/7_export.md") if block.startswith("clip_benchmark "))
    line = command.replace("\\\n", " ")
    for documented, here in (
        ("runs/emoji/export/open_clip", str(model)),
        ("data/cifar10", str(tmp_path / "mini")),
        ("wds/cifar10", "wds/mini"),
        ("cifar10.json", str(tmp_path / "theirs.json")),
    ):
        assert documented in line
        line = line.replace(documented, here)
    program, *words = shlex.split(line)
    assert program == "clip_benchmark"
    more = ("--no_amp", "--num_workers", "0", "--quiet", "--task", "zeroshot_classification")
    python("-c", AS_BEFORE_NUMPY_24, *words, *more, cwd=tmp_path, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    theirs = json.loads((tmp_path / "theirs.json").read_text())["metrics"]

    config = EvaluateConfig(datasets=("mini",), folders={"mini": f"webdataset:{tmp_path / 'mini'}"}, device="cpu")
    evaluate_model(model, config, tmp_path / "ours")
    (record,) = [json.loads(line) for line in (tmp_path / "ours" / "results.jsonl").read_text().splitlines()]
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert record["metrics"][name] == pytest.approx(theirs[name], abs=1e-6), name
    assert 0 < theirs["acc1"] < theirs["acc5"] < 1  # not a constant answer


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
    with pytest.MonkeyPatch.context() as patch:
        for name in (B32, "metaclip-2-worldwide-s16"):
            put_in_hub_cache(published_model(name), f"facebook/{name}", root, patch)
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
    assert "33 images" in said["embed runs/emoji pool --out embedded"]
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
