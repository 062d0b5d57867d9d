"""What the files of a model folder may make run or fetch: nothing.  Each way in is listed here with what is said."""

import json
import pickle
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch

import worldclip
from model_folders import edit, load_error
from worldclip.core.errors import UserError
from worldclip.export import ExportConfig, export_model
from worldclip.model.formats import onnx_folder, onnx_graphs

EVIL = """from pathlib import Path
Path({mark!r}).touch()
class Evil: pass
EvilConfig = EvilModel = EvilTokenizer = Evil
"""
MODULES = ("evil.py", "megatron/__init__.py", "megatron/core.py", "megatron/evil.py")


@pytest.fixture
def folder(hugging_face, tmp_path, monkeypatch):
    """Put modules that leave a mark when they run into a model folder, where Python finds them.

    Connections and questions fail the test.
    """
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    (folder / "megatron").mkdir()
    for name in MODULES:
        (folder / name).write_text(EVIL.format(mark=str(tmp_path / "mark")))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)

    def fail(*arguments, **_):
        (tmp_path / "mark").touch()  # a library may catch the error
        raise AssertionError(f"connected or asked: {arguments}")

    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr("builtins.input", fail)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("evil", "megatron")]:
        del sys.modules[name]  # of a test that failed: the next one imports it again


def load_or_refuse(folder: Path, is_ours: bool = True) -> str:
    """Return what worldclip.load says, "" where it loads; nothing of the folder ran.  is_ours: of our own family."""
    said = ""
    try:
        clip = worldclip.load(folder, device="cpu")
        clip.encode_text(["a"])
        if is_ours:
            assert type(clip.model).__module__.startswith("transformers.models.")
            assert type(clip.tokenizer.hf).__module__.startswith("transformers.")
            assert type(clip.processor).__module__.startswith("transformers.")
    except UserError as error:
        said = str(error)
    assert not (folder.parent / "mark").exists()
    assert not {"evil", "megatron"} & set(sys.modules)
    return said


AUTO_MAP = {
    "AutoConfig": "evil.EvilConfig",
    "AutoModel": "evil.EvilModel",
    "AutoTokenizer": ["evil.EvilTokenizer", None],
}
ELSEWHERE = {"AutoModel": "somebody/repository--evil.EvilModel", "AutoConfig": "somebody/repository--evil.EvilConfig"}
RECORDS = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
)


@pytest.mark.parametrize("auto_map", [AUTO_MAP, ELSEWHERE])
@pytest.mark.parametrize("file", RECORDS)
def test_code_that_auto_map_names_never_runs(folder, file, auto_map):
    auto_map = {**auto_map, "AutoImageProcessor": "evil.Evil", "AutoProcessor": "evil.Evil"}
    edit(folder / file, auto_map=auto_map)
    load_or_refuse(folder)
    edit(folder / "processor_config.json", image_processor={"auto_map": auto_map}, tokenizer={"auto_map": auto_map})
    load_or_refuse(folder)


@pytest.mark.parametrize("name", ["evil.Evil", "evil:Evil", "Evil", "megatron.evil"])
@pytest.mark.parametrize(
    "key", ["tokenizer_class", "image_processor_type", "feature_extractor_type", "processor_class", "backend"]
)
def test_classes_that_a_record_names_are_those_of_transformers(folder, key, name):
    for file in RECORDS:
        edit(folder / file, **{key: name})
    load_or_refuse(folder)
    for file in RECORDS[3:]:
        (folder / file).unlink()
        load_or_refuse(folder)


INDEX = "model.safetensors.index.json"
REFUSED = [
    ("config.json", {"model_type": "evil", "auto_map": AUTO_MAP}, "holds a 'evil' model; worldclip loads metaclip_2"),
    ("adapter_config.json", {"base_model_name_or_path": "somebody/repository"}, "adapter_config.json: is an adapter"),
    ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config = "),
    *(("config.json", {f"{_}attn_implementation": "somebody/kernel"}, "attn_implementation = ") for _ in ("", "_")),
    *(
        ("config.json", {"text_config": {"num_hidden_layers": layers}}, f"is {layers}; a tower has 1 to 512 layers")
        for layers in (0, -1, 10**9)
    ),
    *(
        (INDEX, {"weight_map": {"a": name}}, "which is not a file of this folder; it is refused")
        for name in (
            "../model.safetensors",
            "/model.safetensors",
            "sub/../../x.safetensors",
            "sub/x.safetensors",
            "..",
            "",
        )
    ),
    (INDEX, {"weight_map": []}, "has no weight_map"),
]


@pytest.mark.parametrize(("file", "values", "said"), REFUSED)
def test_what_would_fetch_or_run_something_else_is_refused(folder, file, values, said):
    shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
    edit(folder / file, **values)
    assert said in load_or_refuse(folder)


def test_an_export_holds_no_code_and_names_none(folder, monkeypatch):
    """Sentence Transformers 5 runs the modules that modules.json of a local folder names."""
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        edit(folder / file, auto_map={**AUTO_MAP, "AutoImageProcessor": "evil.Evil", "AutoProcessor": "evil.Evil"})
    out = folder.parent / "out"
    export_model(folder, out, ExportConfig(formats=("huggingface",)))
    (out / "onnx").mkdir()
    monkeypatch.setattr(onnx_graphs, "write_encoder", lambda *_: None)  # graphs take seconds, and are no records
    onnx_folder.write(worldclip.load(folder, device="cpu"), out / "onnx", ("fp32",), has_joint=False)
    assert not (folder.parent / "mark").exists()
    assert not list(out.rglob("*.py"))
    for path in out.rglob("*.json"):
        assert "evil" not in path.read_text(), path
    modules = json.loads((out / "huggingface" / "modules.json").read_text())
    assert [module["type"].partition(".")[0] for module in modules] == ["sentence_transformers"] * 2


@pytest.fixture
def open_clip_folder(folder, hugging_face) -> Path:
    """Return an open_clip folder that is not of our family: it sets an option of its tokenizer."""
    pytest.importorskip("open_clip")
    out = folder.parent / "exported"
    export_model(hugging_face, out, ExportConfig(formats=("open_clip",)))
    for path in (out / "open_clip").iterdir():
        shutil.copy(path, folder)
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    edit_text_cfg(folder, tokenizer_kwargs={"strip_sep_token": True})
    return folder


def edit_text_cfg(folder: Path, **values) -> None:
    edit(folder / "open_clip_config.json", "model_cfg.text_cfg", **values)


def test_an_open_clip_folder_cannot_trust_the_code_of_its_tokenizer(open_clip_folder):
    assert load_or_refuse(open_clip_folder, is_ours=False) == ""
    edit(open_clip_folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=AUTO_MAP)
    load_or_refuse(open_clip_folder, is_ours=False)
    edit_text_cfg(open_clip_folder, tokenizer_kwargs={"trust_remote_code": True})
    assert "tokenizer_kwargs trust_remote_code" in load_or_refuse(open_clip_folder, is_ours=False)
    edit_text_cfg(open_clip_folder, layers=10**9)
    assert "a tower has 1 to 512 layers" in load_or_refuse(open_clip_folder)


@pytest.mark.parametrize("model_type", ["evil", "roberta"])
def test_an_open_clip_folder_cannot_bring_the_code_of_its_text_tower(open_clip_folder, model_type):
    tower = open_clip_folder / "tower"
    tower.mkdir()
    (tower / "evil.py").write_text((open_clip_folder / "evil.py").read_text())
    edit(tower / "config.json", model_type=model_type, auto_map=AUTO_MAP)
    edit_text_cfg(open_clip_folder, hf_model_name="tower", hf_pooler_type="mean_pooler")
    assert load_or_refuse(open_clip_folder, is_ours=False)


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "hf_hub:somebody/model", "local-dir:/tmp", ["x"]])
def test_an_open_clip_folder_cannot_fetch_its_image_tower(open_clip_folder, name):
    edit(open_clip_folder / "open_clip_config.json", "model_cfg.vision_cfg", timm_model_name=name)
    assert "is no architecture of timm, and is refused" in load_or_refuse(open_clip_folder, is_ours=False)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused(folder):
    mark, path = folder.parent / "mark", folder / "model.pt"
    torch.save({"state_dict": {}, "args": Touch(mark)}, path)
    said = load_error(path)
    assert "holds more than tensors" in said
    assert "is refused" in said
    path.write_bytes(pickle.dumps(Touch(mark)))
    assert "holds more than tensors" in load_error(path)
    assert not mark.exists()
