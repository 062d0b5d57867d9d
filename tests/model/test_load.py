"""Each published format loads and embeds like the library that wrote it; what does not fit together is refused."""

import functools
import json
import shutil
import sys
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MetaClip2Model, XLMRobertaTokenizer

import worldclip
from miniature import write_files
from model_folders import edit, load_error, put_in_hub_cache
from model_folders import folder as folder  # the fixture
from small_models import (
    TEXTS,
    random_open_clip,
    random_pixels,
    reduced_open_clip_config,
    save_mt5,
    save_xlm_v,
    unit,
    write_open_clip_config,
)
from worldclip.core.errors import UserError, install_hint
from worldclip.model import published
from worldclip.model.clip import model_config
from worldclip.model.formats.open_clip_folder import (
    CONFIG_FILE,
    WEIGHT_FILES,
    from_hugging_face_config,
    named_config,
    to_hugging_face_config,
)
from worldclip.model.load import find
from worldclip.model.weights import library_faults

REPOSITORY = Path(__file__).parents[2]
OPEN_CLIP_NAMES = (
    "ViT-H-14-worldwide",
    "ViT-H-14-worldwide-quickgelu",
    "ViT-H-14-worldwide-378",
    "ViT-bigG-14-worldwide",
    "ViT-bigG-14-worldwide-378",
)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("row", published.FAMILY, ids=lambda row: row.name)
def test_hugging_face_folder_embeds_like_transformers(row, published_model):
    folder = published_model(row.name)
    clip = worldclip.load(folder, device="cpu")
    theirs = MetaClip2Model.from_pretrained(folder).eval()
    assert theirs.config.vision_config.hidden_act == row.activation
    assert theirs.config.text_config.eos_token_id == row.tokenizer.eos_id
    pixels = random_pixels(theirs.config.vision_config.image_size)
    options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    ids = AutoTokenizer.from_pretrained(folder)(list(TEXTS), **options)["input_ids"]
    with torch.inference_mode():
        images = theirs.get_image_features(pixel_values=pixels)
        texts = theirs.get_text_features(input_ids=ids)
    assert_close(clip.backend.encode_pixels(pixels), unit(images))
    assert_close(clip.encode_text(TEXTS), unit(texts))


def test_special_ids_that_the_configuration_lacks_are_the_tokenizers(folder):
    """transformers takes OpenAI CLIP's end token for an absent one, and pools at an id that no text holds."""
    expected = worldclip.load(folder, device="cpu").encode_text(TEXTS)
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["eos_token_id"]
    config["text_config"]["pad_token_id"] = None
    (folder / "config.json").write_text(json.dumps(config))
    clip = worldclip.load(folder, device="cpu")
    assert_close(clip.encode_text(TEXTS), expected)
    ids = clip.model.config.text_config
    assert (ids.eos_token_id, ids.pad_token_id) == (clip.tokenizer.eos_id, clip.tokenizer.pad_id) == (2, 1)
    config["text_config"]["eos_token_id"] = 0  # is stated
    (folder / "config.json").write_text(json.dumps(config))
    assert "eos_token_id is 0, the tokenizer's is 2" in load_error(folder)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("xlm_v")
    save_xlm_v(folder)
    return folder


def write_checkpoint(folder, tokenizer_folder, name, file="model.pt", change=lambda state: state):
    """Write an open_clip model of this name at reduced size, and its configuration; return the model."""
    model_cfg = reduced_open_clip_config(name, len(AutoTokenizer.from_pretrained(tokenizer_folder)))
    write_open_clip_config(folder, model_cfg)
    model = random_open_clip(model_cfg)
    save = save_file if file.endswith(".safetensors") else torch.save
    save(change(model.state_dict()), folder / file)
    return model


def assert_same_images(clip, encode_image) -> None:
    pixels = random_pixels(28)
    with torch.inference_mode():
        assert_close(clip.backend.encode_pixels(pixels), unit(encode_image(pixels)))


@pytest.mark.parametrize("name", OPEN_CLIP_NAMES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_open_clip_checkpoint_embeds_like_open_clip(name, suffix, tokenizer_folder, tmp_path):
    (tmp_path / "config").mkdir()
    theirs = write_checkpoint(tmp_path / "config", tokenizer_folder, name, f"epoch_1{suffix}")
    file = shutil.move(tmp_path / "config" / f"epoch_1{suffix}", tmp_path)
    arch = tmp_path / "config" / CONFIG_FILE
    clip = worldclip.load(file, device="cpu", arch=str(arch), tokenizer=tokenizer_folder)
    assert_same_images(clip, theirs.encode_image)
    ids = open_clip.tokenizer.HFTokenizer(str(tokenizer_folder), context_length=77)(list(TEXTS))
    with torch.inference_mode():
        assert_close(clip.encode_text(TEXTS), unit(theirs.encode_text(ids)))
    assert clip.logit_scale == pytest.approx(theirs.logit_scale.exp().item())


REFERENCE_NAMES = [
    "ViT-H-14-quickgelu-worldwide",
    "ViT-H-14-378-worldwide",
    "ViT-bigG-14-worldwide",
    "ViT-bigG-14-378-worldwide",
    *(f"ViT-{size}-worldwide" for size in ("S-16", "M-16", "B-32", "B-16")),
    *(f"ViT-{size}-384-worldwide" for size in ("S-16", "M-16", "B-32", "B-16")),
    "ViT-L-14-worldwide",
    *(f"ViT-{size}-mT5-worldwide" for size in ("S-16", "M-16", "B-32")),
]


@pytest.mark.parametrize(("name", "row"), list(zip(REFERENCE_NAMES, published.FAMILY, strict=True)))
def test_names_of_the_reference_are_architectures(name, row):
    expected = model_config(row.model_config(), row.tokenizer)
    text_encoder = "mT5WorldWideCLIP" if "mT5" in name else "WorldWideCLIP"
    for arch in (name, f"{name}@{text_encoder}"):  # a configuration's file, and the README's model_name
        config = to_hugging_face_config(named_config(arch, row.tokenizer.vocab_size)["model_cfg"])
        assert config.vision_config.to_dict() == expected.vision_config.to_dict()
        actual = config.text_config.to_dict()
        assert actual | {"bos_token_id": 0} == expected.text_config.to_dict() | {"bos_token_id": 0}
        again = to_hugging_face_config(from_hugging_face_config(expected, row.tokenizer.hub_id))
        assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpoints_of_the_reference_load_with_wrapper_prefixes_in_half_precision_too(
    prefix, dtype, tokenizer_folder, tmp_path
):
    def wrap(state):
        prefixed = {prefix + name: tensor.to(dtype) for name, tensor in state.items()}
        return {"epoch": 3, "state_dict": prefixed} if prefix else prefixed

    theirs = write_checkpoint(tmp_path, tokenizer_folder, "ViT-H-14-worldwide-quickgelu", change=wrap)
    theirs.load_state_dict({name: tensor.to(dtype) for name, tensor in theirs.state_dict().items()})
    clip = worldclip.load(tmp_path / "model.pt", device="cpu", tokenizer=tokenizer_folder)
    assert_same_images(clip, theirs.encode_image)


def test_hub_id_loads_from_the_local_cache(hugging_face, tmp_path, monkeypatch):
    digests = []
    for commit in ("1" * 40, "2" * 40):
        put_in_hub_cache(hugging_face, "facebook/metaclip-2-worldwide-b32", tmp_path / "hub", monkeypatch, commit)
        digests.append(find("facebook/metaclip-2-worldwide-b32").digest())
    assert len(set(digests)) == 2, "another commit is another model"
    features = worldclip.load("facebook/metaclip-2-worldwide-b32", device="cpu").encode_text(TEXTS)
    assert_close(features, worldclip.load(hugging_face, device="cpu").encode_text(TEXTS))


def test_without_a_network_the_message_begins_with_it_and_says_how_to_bring_the_model(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    unreached = "no network, or the hub is busy or down: nobody/nothing was not downloaded before"
    error = load_error("nobody/nothing")
    assert error.startswith(unreached)
    assert "hf download nobody/nothing --local-dir MODEL, copy the folder" in error
    page, _, section = error.rpartition("(")[2].removesuffix(")").partition(", ")
    assert f"\n## {section}" in (REPOSITORY / page).read_text(encoding="utf-8")
    request = httpx.Request("GET", "http://x")

    def answer(status: int, *arguments: object, **options: object) -> None:
        raise RepositoryNotFoundError("no such", response=httpx.Response(status, request=request))

    missing = "nobody/nothing is neither a local path nor a repository"
    for status, said in ((404, missing), (503, unreached)):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", functools.partial(answer, status))
        assert load_error("nobody/nothing").startswith(said)


@pytest.mark.parametrize("source", ["runs/emoji", "models/emoji"])
def test_a_path_below_a_folder_that_is_here_is_no_hub_id(source, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub is asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/emojis").mkdir(parents=True)
    error = load_error(source)
    assert error.startswith(f"{source}: no such folder here; ")
    assert error.endswith("or a hub id (hf-hub:owner/name)")
    assert ("did you mean models/emojis?" in error) == (source == "models/emoji")


def test_a_model_of_the_hub_loads_where_a_folder_has_its_owners_name(hugging_face, tmp_path, monkeypatch):
    put_in_hub_cache(hugging_face, "models/emoji", tmp_path / "hub", monkeypatch)
    monkeypatch.chdir(tmp_path)
    for owner in ("models", "facebook"):
        (tmp_path / owner).mkdir()
    assert find("models/emoji").layout == "huggingface"
    assert find("hf-hub:models/emoji").layout == "huggingface"
    assert load_error("facebook/metaclip-2-worldwide-s16").startswith("no network")


def test_special_strings_stay_text_in_each_published_tokenizer(published_model):
    for row in (published.FAMILY[0], published.FAMILY[-1]):
        clip = worldclip.load(published_model(row.name), device="cpu")
        tokens = clip.tokenizer.encode(["a </s> red </s></s> apple", "<pad>", "<unk>"])
        assert (tokens.ids == row.tokenizer.eos_id).sum() == 3
        assert np.abs(clip.encode_text("a </s> red apple") - clip.encode_text("a")).max() > 1e-3


def test_digest_is_of_the_files_that_decide_the_embeddings(folder):
    before = find(folder).digest()
    (folder / "trainer").mkdir()
    for name in ("trainer/state.json", "README.md"):
        (folder / name).write_text("{}")
    assert find(folder).digest() == before
    (folder / "tokenizer_config.json").write_text("{}")
    assert find(folder).digest() != before


def test_digest_is_of_what_lies_behind_a_linked_folder(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    (folder / "onnx").symlink_to(tmp_path / "disk")
    before = find(folder).digest()
    (tmp_path / "disk/vision_model.onnx").write_bytes(b"other")
    assert find(folder).digest() != before


def test_digest_is_of_a_tokenizer_elsewhere_that_a_configuration_names(tmp_path):
    named = {"model_cfg": {"text_cfg": {"hf_tokenizer_name": str(tmp_path / "tokenizer")}}}
    write_files(tmp_path / "weights", {"open_clip_config.json": json.dumps(named), "model.pt": ""})
    write_files(tmp_path, {"tokenizer/tokenizer.json": "{}"})
    sources = (tmp_path / "weights", tmp_path / "weights/model.pt")
    before = [find(source).digest() for source in sources]
    (tmp_path / "tokenizer/tokenizer.json").write_text("{} ")
    assert all(find(source).digest() != digest for source, digest in zip(sources, before, strict=True))


@pytest.mark.parametrize("name", ["open_clip_config.json", "tokenizer.json", "special_tokens_map.json"])
def test_digest_of_a_checkpoint_file_is_of_what_is_read_next_to_it_too(name, tmp_path):
    weights = tmp_path / "model.pt"
    for path in (weights, tmp_path / name):
        path.write_bytes(b"{}")
    before = find(weights).digest()
    (tmp_path / "another.pt").write_bytes(b"")
    assert find(weights).digest() == before
    (tmp_path / name).write_bytes(b"{} ")
    assert find(weights).digest() != before


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tokenizer_folder, tmp_path_factory) -> Path:
    """Write an open_clip checkpoint with its configuration and tokenizer."""
    folder = Path(shutil.copytree(tokenizer_folder, tmp_path_factory.mktemp("open_clip"), dirs_exist_ok=True))
    write_checkpoint(folder, tokenizer_folder, "ViT-H-14-worldwide")
    return folder


def change(file: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of a file; None removes one."""
    changed = {**load_file(file), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, file, {"format": "pt"})


def name_a_missing_shard(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    edit(folder / f"{WEIGHTS}.index.json", weight_map=weight_map)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
NOT_LOADED = "does not load as a model in the layout huggingface"
DAMAGES = [
    (name_a_missing_shard, "lacks model-00002-of-00002.safetensors"),
    (lambda folder: change(folder / WEIGHTS, text_projection__weight=torch.zeros(48, 100)), NOT_LOADED),
    (lambda folder: change(folder / WEIGHTS, visual_projection__weight=None), "such as visual_projection.weight"),
    (lambda folder: change(folder / WEIGHTS, surplus=torch.zeros(2)), "such as surplus"),
    (lambda folder: cut(folder / WEIGHTS), NOT_LOADED),
    (lambda folder: (folder / WEIGHTS).unlink(), "holds config.json and no weights"),
    (lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")], "no tokenizer"),
    # transformers makes an empty one up
    (lambda folder: (folder / "tokenizer.json").unlink(), "use the model's own tokenizer"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "does not load"),
    (lambda folder: (folder / PROCESSOR).unlink(), NOT_LOADED),
    (
        lambda folder: edit(folder / PROCESSOR, crop_size={"height": 20, "width": 20}),
        "makes images of 20 px, the model reads 64 px",
    ),
    (lambda folder: edit(folder / CONFIG, "text_config", num_attention_heads=0), NOT_LOADED),
    (lambda folder: edit(folder / CONFIG, "vision_config", patch_size=0), NOT_LOADED),
    (
        lambda folder: edit(folder / CONFIG, "text_config", eos_token_id=49407),
        "eos_token_id is 49407, the tokenizer's is 2",
    ),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_damaged_folder_is_refused_with_the_reason(folder, damage, said):
    damage(folder)
    assert said in load_error(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "open_clip_config.json"])
@pytest.mark.parametrize("text", ["[]", '{"a": NaN}', "{", "[" * 100_000])
def test_records_that_are_no_objects_are_refused(folder, name, text):
    (folder / name).write_text(text)
    assert str(folder) in load_error(folder)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": {"shortest_edge": -1}}, "shortest_edge is -1; must be a whole number of pixels"),
        ({"size": {"height": -5, "width": "x"}}, "height is -5; "),
        ({"image_std": [0, 0, 0]}, "pixels are divided by it"),
        ({"image_std": "abc"}, "image_std is 'abc'; must be three numbers"),
        ({"image_mean": [0.5, 0.5]}, "must be three numbers"),
        ({"resample": 99}, "resample is 99; must be one of 0 (nearest), "),
        ({"rescale_factor": 0}, "rescale_factor is 0; must be a number above 0"),
    ],
)
def test_settings_that_make_no_pixels_are_refused(folder, values, said):
    edit(folder / PROCESSOR, **values)
    assert said in load_error(folder)


def test_a_deviation_of_0_is_refused_in_an_open_clip_folder(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    edit(folder / CONFIG_FILE, "preprocess_cfg", std=[0, 0, 0])
    (folder / "model.pt").rename(folder / "open_clip_pytorch_model.bin")
    assert "pixels are divided by it" in load_error(folder)


def test_of_several_weights_in_a_folder_those_are_read_that_open_clip_reads(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    state = torch.load(folder / "model.pt", weights_only=True)
    for scale, name in enumerate(WEIGHT_FILES):
        tensors = {**state, "logit_scale": torch.tensor(float(scale))}
        if name.endswith(".safetensors"):
            save_file(tensors, folder / name)
        else:
            torch.save(tensors, folder / name)
    while files := [name for name in WEIGHT_FILES if (folder / name).exists()]:
        theirs = open_clip.create_model(f"local-dir:{folder}").logit_scale.exp()
        assert float(worldclip.load(folder).logit_scale) == float(theirs)
        (folder / files[0]).unlink()


class PanicException(BaseException):
    """Stand for what pyo3 raises for a panic in Rust."""


def test_whatever_a_library_raises_is_a_fault_of_the_records_but_for_lack_of_memory_and_interrupts():
    for error in (ZeroDivisionError("division by zero"), PanicException("index out of bounds")):
        with pytest.raises(UserError, match=f"^the folder does not load \\({error}\\); copy"):  # noqa: SIM117
            with library_faults("the folder does not load"):
                raise error
    no_memory = RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model failed:std::bad_alloc")
    for error in (MemoryError(), no_memory, KeyboardInterrupt()):
        with pytest.raises(type(error)), library_faults("the folder does not load"):
            raise error


def test_errors_use_the_tensor_names_of_the_open_clip_file(checkpoint, tmp_path):
    state = torch.load(checkpoint / "model.pt", weights_only=True)
    bias = state.pop("ln_final.bias")
    for changed, said in (
        (state, "1 tensors are missing or unknown, such as ln_final.bias"),
        (state | {"ln_final.bias": bias, "surplus": bias}, "such as surplus"),
        (state | {"ln_final.bias": bias, "visual.proj": torch.zeros(160, 7)}, "does not load as a model"),
    ):
        torch.save(changed, tmp_path / "bad.pt")
        assert said in load_error(tmp_path / "bad.pt", arch=str(checkpoint / CONFIG_FILE), tokenizer=checkpoint)


@pytest.mark.parametrize(("package", "extra"), [("torch", "train"), ("onnxruntime", "export")])
def test_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, extra):
    (tmp_path / "onnx").mkdir()
    for tower in ("vision", "text"):
        (tmp_path / "onnx" / f"{tower}_model.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    assert load_error(tmp_path) == f"a model in the layout 'onnx' needs {package}: {install_hint(extra)}"


def test_files_that_hold_no_checkpoint_are_refused(checkpoint, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    shutil.copy(checkpoint / "model.pt", tmp_path / "cut.pt")
    cut(tmp_path / "cut.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "notes.txt").write_text("hello")
    for name, said in (
        ("script.pt", "TorchScript"),
        ("cut.pt", "is cut or corrupt"),
        ("list.pt", "holds no state dict"),
        ("notes.txt", "is not a checkpoint"),
    ):
        assert said in load_error(tmp_path / name)


def test_tokenizer_of_another_model_is_refused(folder, checkpoint, tmp_path):
    save_mt5(tmp_path / "mt5")
    assert "eos_token_id is 2, the tokenizer's is 1" in load_error(folder, tokenizer=tmp_path / "mt5")
    assert "holds no tokenizer" in load_error(checkpoint / "model.pt", tokenizer=tmp_path)
    # Far fewer ids than rows mean another tokenizer; a table padded to a round number does not.
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("<mask>", 0.0)]
    XLMRobertaTokenizer(vocab=vocab, model_max_length=77).save_pretrained(tmp_path / "small")
    assert "token rows, the tokenizer 6 ids" in load_error(folder, tokenizer=tmp_path / "small")


def test_bare_checkpoint_needs_its_own_architecture(checkpoint, folder, tmp_path):
    file = Path(shutil.copy(checkpoint / "model.pt", tmp_path / "model.pt"))
    assert "give arch=, the path of its open_clip_config.json or a name: ViT-H-14-worldwide-quickgelu" in load_error(
        file
    )
    assert "or a checkpoint file and its arch; it holds model, model.pt" in load_error(tmp_path)
    assert "unknown architecture 'ViT-Z-14-worldwide'; those of" in load_error(file, arch="ViT-Z-14-worldwide")
    assert "only used for open_clip checkpoints" in load_error(folder, arch="ViT-H-14-worldwide")
    arch = write_open_clip_config(tmp_path, reduced_open_clip_config("ViT-B-32", 49_408))
    assert "do its weights and its configuration match?" in load_error(file, arch=str(arch))
    state = torch.load(file, weights_only=True)
    torch.save(state | {"token_embedding.weight": torch.zeros(250_100, 1)}, tmp_path / "mt5_base.pt")
    said = load_error(tmp_path / "mt5_base.pt", arch="ViT-L-14-worldwide")
    assert "another model: its tokenizer is mT5-base with 250,100 ids" in said


@pytest.mark.parametrize(
    "values", [{"vision_cfg": None}, {"text_cfg": []}, {"embed_dim": None}, {"text_cfg": {"heads": 0}}]
)
def test_open_clip_configuration_without_its_values_is_refused(values, checkpoint, tmp_path):
    record = json.loads((checkpoint / CONFIG_FILE).read_text())["model_cfg"]
    for key, value in values.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    edit(tmp_path / "arch.json", **record)
    said = load_error(checkpoint / "model.pt", arch=str(tmp_path / "arch.json"), tokenizer=checkpoint)
    assert "does not load as a model in the layout open_clip" in said


def test_folder_with_a_model_in_two_layouts_is_read_in_a_fixed_order(folder, checkpoint):
    (folder / "onnx").mkdir()
    assert worldclip.load(folder, device="cpu").embed_dim == 48
    shutil.copy(checkpoint / CONFIG_FILE, folder / CONFIG_FILE)
    assert "holds open_clip_config.json and none of its weights" in load_error(folder)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        *((source, "must be a path or a hub id") for source in (None, "", 3, ["a"])),
        *((source, "does not exist; give a run") for source in ("runs/a/b", "hf-hub:runs/a/b")),
        *((source, "or a hub id (hf-hub:owner/name)") for source in ("runs/", "runs/my run", "runs/a--b")),
        ("metaclip-2-worldwide-s16", "the hub id of this model is facebook/metaclip-2-worldwide-s16"),
    ],
)
def test_source_that_is_no_path_and_no_hub_id_is_refused(source, said):
    assert said in load_error(source)
