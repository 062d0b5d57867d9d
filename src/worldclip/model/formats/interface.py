"""Define what every module of this package offers: recognise, read, write and compare one library's folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from worldclip.core.job import Report
from worldclip.model.inference import Clip

Layout = Literal["huggingface", "open_clip", "timm", "onnx", "peft"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """The options of worldclip.load; None is the source's own choice."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    arch: str | None = None
    """What a bare file does not say: a published name, or the path of an open_clip configuration."""
    tokenizer: str | None = None
    """Folder or hub id, for weights without a tokenizer."""
    precision: str | None = None
    """fp32, fp16, bf16 (torch), or of an ONNX folder as its files are named: fp16, int8, uint8, quantized, q4, bnb4."""


class Writer(Protocol):
    """A module that writes folders of one kind; precisions: of ONNX encoders, unused by the others."""

    def write(self, clip: Clip, folder: Path, precisions: Sequence[str]) -> None:
        """Write the model into an existing, empty folder."""

    def compare(self, clip: Clip, folder: Path, precisions: Sequence[str]) -> Report:
        """Load the folder in its own library and return the differences of embeddings, for export/report.json.

        Raises UserError where they differ too much.
        """


class Format(Protocol):
    """A module that recognises and reads them; OPTIONS: the fields of LoadOptions, device apart, that it reads."""

    OPTIONS: tuple[str, ...]

    def missing(self, folder: Path) -> str | None:
        """Return what the folder lacks to be in this layout, None where it is."""

    def read(self, path: Path, options: LoadOptions) -> Clip:
        """Load the model.  Raises UserError for anything incomplete, corrupt or of another family."""
