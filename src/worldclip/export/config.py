"""What a checkpoint is exported to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["huggingface", "open_clip", "timm", "onnx"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """Formats to export to."""

    formats: tuple[Format, ...] = ("huggingface",)
    """Formats, each a folder RUN/export/<format>; timm takes the image tower alone."""
    tower: Literal["both", "vision"] = "both"
    """vision: only RUN/export/vision, the image tower for transformers' MetaClip2VisionModel, as MLLMs read it."""
    onnx_precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    """Of the ONNX encoders; int8 is dynamic quantisation of the weights."""
    languages: tuple[str, ...] = ()
    """Keep only the token rows that the texts of these languages use; none: all rows."""
    corpus: tuple[str, ...] = ()
    """Texts to find these rows by: .txt (one a line) or .parquet (columns text and, where languages are mixed, lang);
    none: the run's own matched texts."""

    def problems(self) -> list[str]:
        found = []
        if not self.formats:
            found.append("export.formats is empty; there is: huggingface, open_clip, timm, onnx")
        if not self.onnx_precisions:
            found.append("export.onnx_precisions is empty; there is: fp32, fp16, int8")
        if self.corpus and not self.languages:
            found.append("export.corpus is set and export.languages is empty; name the languages that the model keeps")
        found += [
            f"export.corpus names {name!r}; a corpus is .txt or .parquet"
            for name in self.corpus
            if not name.endswith((".txt", ".parquet"))
        ]
        return found
