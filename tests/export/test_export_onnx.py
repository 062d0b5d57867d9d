"""ONNX encoders embed like the model in onnxruntime: float32 equal, float16 and int8 near, any batch and length."""

import fnmatch
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import onnx
import onnxruntime
import pytest

import worldclip
from embedded_world import segment_of
from model_folders import edit, load_error
from programs import python
from small_models import TEXTS, random_pixels
from without_extras import environment_without
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model
from worldclip.model import published, sample_inputs
from worldclip.model.clip import IMAGE_STD
from worldclip.model.formats import onnx_folder, onnx_graphs, onnx_joint


@pytest.fixture(scope="module")
def source(published_model) -> Path:
    return published_model("metaclip-2-worldwide-huge-378")


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory) -> Path:
    """The source's export."""
    return export_onnx(source, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def clip(source):
    return worldclip.load(source, device="cpu")


@pytest.fixture(scope="module")
def encoders(folder):
    """The float32 encoders."""
    return worldclip.load(folder)


@pytest.fixture
def other(folder, tmp_path) -> Path:
    """A copy of the exported folder, to be changed."""
    return Path(shutil.copytree(folder, tmp_path / "other"))


def export_onnx(source: Path, out: Path) -> Path:
    checked = export_model(source, out, ExportConfig(formats=("onnx",)))["formats"]["onnx"]["checked"]
    print(source.name, checked)
    assert checked["fp32"] <= 1e-5
    assert min(checked["fp16"], checked["int8"]) >= 0.999
    return out / "onnx"


def session_of(folder: Path, name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx")


def test_graphs_are_those_of_the_onnx_community_valid_and_name_no_file_of_this_machine(source, folder):
    files = sorted((folder / "onnx").glob("*.onnx"))
    ends = ("model.onnx", "model_fp16.onnx", "model_quantized.onnx")
    assert {path.name for path in files} == {tower + end for tower in ("vision_", "text_", "") for end in ends}
    for file in files:
        onnx.checker.check_model(str(file))
        content = file.read_bytes()
        for place in (Path(worldclip.__file__).parent, Path(onnx.__file__).parents[1], source, folder.parent):
            assert str(place).encode() not in content, file.name
        assert b".py" not in content, file.name
    for tower, inputs, output in (
        ("vision", {"pixel_values": ["batch_size", 3, 28, 28]}, "image_embeds"),
        ("text", {key: ["batch_size", "sequence_length"] for key in ("input_ids", "attention_mask")}, "text_embeds"),
    ):
        session = session_of(folder, f"{tower}_model")
        assert {value.name: value.shape for value in session.get_inputs()} == inputs
        assert [(value.name, value.shape) for value in session.get_outputs()] == [(output, ["batch_size", 48])]


WITHOUT_TORCH = """
import sys
from pathlib import Path
import numpy as np
import worldclip
from worldclip.cli import main

if __name__ == "__main__":
    folder, place, *texts = sys.argv[1:]
    clip = worldclip.load(folder)
    images = sorted(str(path) for path in Path(place, "photos").iterdir())
    np.savez(
        f"{place}/result.npz",
        text=clip.encode_text(texts),
        image=clip.encode_image(images),
        classify=clip.classify(images, ["a", "b"], templates=("a photo of {}",)),
        reference=worldclip.load(folder, preprocess="reference").encode_image(images),
    )
    codes = [
        main(["classify", folder, images[0], "--labels", "cat", "dog"]),
        main(["embed", folder, f"{place}/photos", "--out", f"{place}/embedded"]),
        main(["search", f"{place}/embedded", "a red apple"]),
        main(["search", f"{place}/embedded", images[1]]),
    ]
    print(codes, "torch" in sys.modules)
"""


def test_exported_folder_runs_without_torch(source, folder, clip, encoders, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(sample_inputs.images()):
        picture.save(tmp_path / "photos" / f"{number}.png")
    hidden = ["torch", "torchvision", "transformers", "safetensors", "huggingface_hub", "open_clip", "timm", "onnx"]
    printed = python("-c", WITHOUT_TORCH, folder, tmp_path, *TEXTS, **environment_without(hidden))
    assert printed.splitlines()[-1] == "[0, 0, 0, 0] False"
    result = np.load(tmp_path / "result.npz")
    photos = sorted((tmp_path / "photos").iterdir())
    labels = clip.classify(photos, ["a", "b"], templates=("a photo of {}",))
    assert sample_inputs.min_cosine(result["text"], clip.encode_text(TEXTS)) > 0.99999
    assert sample_inputs.min_cosine(result["image"], clip.encode_image(photos)) > 0.99999
    np.testing.assert_allclose(result["classify"], labels, atol=1e-3)
    reference = worldclip.load(source, device="cpu", preprocess="reference").encode_image(photos)
    assert sample_inputs.max_difference(result["reference"], reference) <= sample_inputs.TOLERANCE
    embedded = np.load(segment_of(tmp_path / "embedded", "files_000000", "npy"))
    for with_torch, without in (
        (encoders.encode_image(photos), result["image"]),
        (encoders.encode_image(photos), embedded),
        (encoders.classify(photos, ["a", "b"], templates=("a photo of {}",)), result["classify"]),
    ):
        assert sample_inputs.max_difference(with_torch, without) <= sample_inputs.TOLERANCE


def test_pixels_without_torch_are_those_of_transformers_but_for_two_levels(clip, encoders):
    images = sample_inputs.images()
    ours = encoders.processor(images=images)["pixel_values"]
    theirs = clip.processor(images=images, return_tensors="pt")
    levels = np.abs(ours - theirs["pixel_values"].numpy()) * 255 * np.array(IMAGE_STD).reshape(3, 1, 1)
    print(f"{(levels > 0.5).mean():.2%} of the pixels differ, by at most {levels.max():.2f} levels")
    assert levels.max() < 2.01
    assert (levels > 0.5).mean() < 0.2


@pytest.mark.parametrize(("suffix", "tolerance"), [("", 1e-5), ("_fp16", 0.01), ("_quantized", 0.03)])
def test_joint_graph_gives_embeddings_and_logits_of_images_and_texts(folder, clip, suffix, tolerance):
    session = session_of(folder, f"model{suffix}")
    pixels, tokens = random_pixels(28, num=3), clip.tokenizer.encode(["a red apple", "", "ein Hund", "x " * 200])
    ids = tokens.padded()
    mask = (np.arange(ids.shape[1]) < tokens.lengths[:, None]).astype(np.int64)
    outputs = session.run(None, {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels.numpy()})
    by_name = dict(zip((value.name for value in session.get_outputs()), outputs, strict=True))
    images, texts = clip.backend.encode_pixels(pixels), clip.backend.encode_tokens(tokens, 1)
    np.testing.assert_allclose(by_name["image_embeds"], images, atol=tolerance)
    np.testing.assert_allclose(by_name["text_embeds"], texts, atol=tolerance)
    logits = clip.logit_scale * images @ texts.T
    np.testing.assert_allclose(by_name["logits_per_image"], logits, atol=20 * tolerance)
    np.testing.assert_array_equal(by_name["logits_per_text"], by_name["logits_per_image"].T)


SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (5, 7), (7, 5), (20, 20), (16, 2), (2, 16), (1, 7), (4, 1)]


@pytest.mark.parametrize("suffix", ["", "_fp16", "_quantized"])
def test_joint_graph_runs_on_any_numbers_in_any_order_and_its_towers_share_no_dimension(folder, clip, suffix):
    """onnxruntime plans memory by the names of dimensions; the runs of one session share it."""
    session = session_of(folder, f"model{suffix}")
    tokens = clip.tokenizer.encode(["a red apple", "ein Hund"] * 10)
    pixels = random_pixels(28, num=20).numpy()
    fresh = {}
    for num_images, num_texts in [*SHAPES, *reversed(SHAPES)]:
        ids = tokens.padded(np.arange(num_texts))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "pixel_values": pixels[:num_images]}
        if (num_images, num_texts) not in fresh:
            fresh[num_images, num_texts] = session_of(folder, f"model{suffix}").run(None, inputs)
        for actual, expected in zip(session.run(None, inputs), fresh[num_images, num_texts], strict=True):
            np.testing.assert_array_equal(actual, expected)
    graph = onnx.load(folder / "onnx" / f"model{suffix}.onnx").graph
    names: dict[str, set[str]] = {"image_": set(), "text_": set()}
    for value in graph.value_info:
        tower = next((tower for tower in names if value.name.startswith(tower)), None)
        if tower is not None:  # else a value of the graph behind the towers
            names[tower] |= {dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param}
    assert "batch_size" in names["image_"]
    assert {"text_batch_size", "sequence_length"} <= names["text_"]
    assert not names["image_"] & names["text_"]


def test_a_joint_graph_that_does_not_run_on_every_shape_is_not_exported(clip, other, monkeypatch):
    def rename_batch_alone(model, names):
        for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
            for dim in value.type.tensor_type.shape.dim:
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)

    towers = [onnx_folder.model_path(other, tower, "int8") for tower in ("vision_model", "text_model", "model")]
    monkeypatch.setattr(onnx_joint, "rename_dimensions", rename_batch_alone)
    onnx_joint.write_joint(*towers, clip.logit_scale, onnx_graphs.MAX_FILE_BYTES)
    with pytest.raises(UserError, match=r"model_quantized\.onnx does not run on 16 images and 2 texts"):
        onnx_folder.compare(clip, other, ("int8",))


def test_text_that_was_cut_after_its_end_token_embeds_as_the_truncated_one(folder, clip):
    """transformers.js adds special tokens, then truncates."""
    session = session_of(folder, "text_model")
    row = clip.tokenizer.hf("x " * 200)["input_ids"][:77]
    assert clip.tokenizer.eos_id not in row
    short = clip.tokenizer.hf("a red")["input_ids"]
    ids = np.array([row, [*short, *[clip.tokenizer.pad_id] * (77 - len(short))]])
    mask = np.array([[1] * 77, [1] * len(short) + [0] * (77 - len(short))])
    embeds = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    np.testing.assert_allclose(embeds, clip.encode_text(["x " * 200, "a red"]), atol=1e-5)


@pytest.mark.slow
def test_large_weights_are_shared_by_the_joint_graph(source, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "MAX_FILE_BYTES", 100_000)
    report = export_model(source, tmp_path, ExportConfig(formats=("onnx",)))
    encoders = [f"{tower}_model{suffix}.onnx" for tower in ("text", "vision") for suffix in ("", "_fp16", "_quantized")]
    names = {"model.onnx", "model_fp16.onnx", "model_quantized.onnx", *encoders, *(f"{name}_data" for name in encoders)}
    assert {path.name for path in (tmp_path / "onnx" / "onnx").iterdir()} == names
    weights = sum(path.stat().st_size for path in (tmp_path / "onnx" / "onnx").glob("*.onnx_data"))
    assert report["formats"]["onnx"]["joint_bytes"] < weights / 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in published.FAMILY])
def test_each_published_model_embeds_alike_in_onnxruntime(name, published_model, tmp_path):
    export_onnx(published_model(name), tmp_path)


@pytest.mark.parametrize(("precision", "name"), [(None, "model"), ("fp16", "model_fp16"), ("int8", "model_quantized")])
def test_only_the_requested_precision_is_downloaded(folder, precision, name, tmp_path, monkeypatch):
    hub, local = Path(shutil.copytree(folder, tmp_path / "hub")), tmp_path / "local"
    for tower in ("vision", "text"):  # large encoders have their weights in a second file
        (hub / "onnx" / f"{tower}_{name}.onnx_data").touch()

    def download(repository, allow_patterns):
        for path in hub.rglob("*"):
            place = path.relative_to(hub).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(place, pattern) for pattern in allow_patterns):
                (local / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, local / place)
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert worldclip.load("me/x", precision=precision).embed_dim == 48
    expected = {f"{tower}_{name}.{suffix}" for tower in ("vision", "text") for suffix in ("onnx", "onnx_data")}
    assert {path.name for path in (local / "onnx").iterdir()} == expected


def test_missing_precision_is_refused_with_the_available_ones(clip, other):
    (other / "onnx" / "text_model.onnx").unlink()
    (other / "onnx" / "vision_model_fp16.onnx").write_bytes(b"cut")
    for precision, said in (
        (None, "has no fp32 encoders; choose a precision: fp16, int8"),
        ("q4", "precision = 'q4': ONNX encoders have one of fp32, fp16, int8"),
        ("fp16", "vision_model_fp16.onnx does not load in onnxruntime"),
    ):
        assert said in load_error(other, precision=precision)
    with pytest.raises(UserError, match="ONNX folders run on the CPU"):
        worldclip.load(other, device="cuda", precision="int8")
    with pytest.raises(UserError, match=r"vision_model_fp16\.onnx is not valid ONNX"):
        onnx_folder.compare(clip, other, ("fp16",))
    with pytest.raises(UserError, match="this needs a model of the Meta CLIP family in torch"):
        _ = worldclip.load(other, precision="int8").model
    edit(other / "preprocessor_config.json", crop_size={"height": 30, "width": 30}, size={"shortest_edge": 30})
    assert "makes images of 30 px, the model reads 28 px" in load_error(other, precision="int8")
    edit(other / "config.json", "text_config", eos_token_id=49407)
    assert "eos_token_id is 49407, the tokenizer's is" in load_error(other, precision="int8")
