"""ViT-H/14 at full size with random weights embeds alike in every library.

    pytest -m slow -s tests/export/test_export_full_size.py       prints the time and the peak memory of each step

The weights are 7.5 GB, half of them the token table of 901,629 rows.  A step holds them at most twice, while a library
fills its model from a file; each library's file is written before its step and removed after it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from programs import python
from worldclip.model import published
from worldclip.model.clip import model_config

pytestmark = pytest.mark.slow

NEEDED_BYTES = 20 * 2**30
ROW = published.find("metaclip-2-worldwide-huge-quickgelu")

# each step is its own process, which frees one library's copy of the weights before the next one's
COMMON = """
import resource, sys, time
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(max(1, int(sys.argv[2])))
started_at = time.perf_counter()
place = Path(sys.argv[1])
pixels = torch.from_numpy(np.load(place / "pixels.npy"))
ids = torch.from_numpy(np.load(place / "ids.npy"))
def keep(name, features):
    np.save(place / f"{name}.npy", torch.nn.functional.normalize(features.detach().float(), dim=-1).numpy())
"""
PEAK = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of KiB
print(f"{time.perf_counter() - started_at:.0f} s, peak {peak:.1f} GiB")
"""
STEPS = {
    "make": """
import transformers
config = transformers.MetaClip2Config.from_pretrained(place / "model")
with torch.device("meta"):
    model = transformers.MetaClip2Model(config)
model.to_empty(device="cpu")
torch.manual_seed(0)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.ndim:
            parameter.normal_(std=0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    model.logit_scale.fill_(3.0)
for name, buffer in model.named_buffers():
    if name.endswith("position_ids"):
        buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
model.save_pretrained(place / "model")
""",
    "transformers": """
import transformers
model = transformers.MetaClip2Model.from_pretrained(place / "model").eval()
with torch.inference_mode():
    keep("transformers_image", model.get_image_features(pixel_values=pixels).pooler_output)
    keep("transformers_text", model.get_text_features(input_ids=ids).pooler_output)
""",
    "worldclip": """
import transformers
from worldclip.model.clip import image_features, text_features
from worldclip.model.tokenizer import Tokens
model = transformers.MetaClip2Model.from_pretrained(place / "model").eval()
lengths = np.array([int((row == 2).nonzero()[0, 0]) + 1 for row in ids])
ragged = np.concatenate([row[:n].numpy() for row, n in zip(ids, lengths)])
tokens = Tokens(ragged, np.concatenate([[0], lengths.cumsum()]), 1)
with torch.inference_mode():
    keep("worldclip_image", image_features(model, pixels))
    keep("worldclip_text", text_features(model, tokens, num_chunks=4))
""",
    "to open_clip": """
import transformers
from safetensors.torch import save_file
from worldclip.model.tensor_names import open_clip_rules, to_theirs
model = transformers.MetaClip2Model.from_pretrained(place / "model")
save_file(to_theirs(open_clip_rules(model.config), model.state_dict()), place / "open_clip.safetensors")
""",
    "open_clip": """
import open_clip
model = open_clip.create_model("ViT-H-14-worldwide-quickgelu", pretrained=str(place / "open_clip.safetensors")).eval()
with torch.inference_mode():
    keep("open_clip_image", model.encode_image(pixels))
    keep("open_clip_text", model.encode_text(ids))
""",
    "timm": """
import timm
overlay = {"file": str(place / "open_clip.safetensors"), "num_classes": 1024}
name = "vit_huge_patch14_clip_quickgelu_224"
model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=1024).eval()
(place / "open_clip.safetensors").unlink()
with torch.inference_mode():
    keep("timm_image", model(pixels))
""",
    "to ONNX": """
from types import SimpleNamespace
import transformers
from worldclip.model.formats import onnx_graphs
tower = transformers.MetaClip2VisionModelWithProjection.from_pretrained(place / "model").eval()
config = SimpleNamespace(vision_config=tower.config)
model = SimpleNamespace(vision_model=tower.vision_model, visual_projection=tower.visual_projection, config=config)
(place / "onnx").mkdir()
onnx_graphs.write_encoder(model, onnx_graphs.IMAGE, place, ("fp32",))
""",
    "ONNX": """
import onnxruntime
from worldclip.model.formats import onnx_graphs
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = torch.get_num_threads()
session = onnxruntime.InferenceSession(onnx_graphs.model_path(place, onnx_graphs.IMAGE, "fp32"), options)
keep("ONNX_image", torch.from_numpy(session.run(["image_embeds"], {"pixel_values": pixels.numpy()})[0]))
""",
}


def free_bytes(folder: Path) -> tuple[int, int]:
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(memory.split()[1]) * 1024, shutil.disk_usage(folder).free


def run_step(name: str, place: Path) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    printed = python("-c", COMMON + STEPS[name] + PEAK, place, threads)
    print(f"{name}: {printed.splitlines()[-1]}", flush=True)


def test_vit_h14_embeds_alike_in_every_library(tmp_path):
    if not Path("/proc/meminfo").exists():
        pytest.skip("free memory is only known on Linux here")
    memory, disk = free_bytes(tmp_path)
    if min(memory, disk) < NEEDED_BYTES:
        pytest.skip(f"needs 20 GiB each of free memory and disk; there are {memory >> 30} and {disk >> 30} GiB")
    model_config(ROW.model_config(), ROW.tokenizer).save_pretrained(tmp_path / "model")
    random = np.random.default_rng(0)
    np.save(tmp_path / "pixels.npy", random.normal(size=(4, 3, 224, 224)).astype(np.float32))
    ids = np.ones((16, 77), np.int64)  # 1 is the padding
    for row in ids:
        length = random.integers(2, 77)
        row[: length + 1] = [0, *random.integers(4, ROW.tokenizer.vocab_size, length - 1), ROW.tokenizer.eos_id]
    np.save(tmp_path / "ids.npy", ids)
    for name in STEPS:
        run_step(name, tmp_path)
    for kind, libraries in (
        ("image", ("worldclip", "open_clip", "timm", "ONNX")),
        ("text", ("worldclip", "open_clip")),
    ):
        expected = np.load(tmp_path / f"transformers_{kind}.npy")
        assert np.abs(expected @ expected.T - np.eye(len(expected))).max() > 1e-3
        for library in libraries:
            actual = np.load(tmp_path / f"{library}_{kind}.npy")
            print(f"{library} {kind}: {np.abs(actual - expected).max():.1e}")
            np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=library)
