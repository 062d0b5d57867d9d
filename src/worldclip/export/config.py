"""The options of export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from worldclip.core.settings import Config, NotEmpty, Place, Problems

Format = Literal["huggingface", "open_clip", "onnx", "web"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig(Config):
    """Formats of the exported model, and which of its tokens to keep.

    Examples:
        worldclip export runs/my_images --formats huggingface onnx
        worldclip export runs/my_images --formats web --embedded embedded
    """

    formats: Annotated[tuple[Format, ...], NotEmpty("for example huggingface")] = ("huggingface",)
    """Formats to write, each into RUN/export/<format>; web is a page for browsers."""
    onnx_precisions: Annotated[tuple[Precision, ...], NotEmpty("fp32, fp16, int8")] = ("fp32", "fp16", "int8")
    """Precisions of the ONNX encoders; int8 is dynamic quantisation of the weights.  web takes the smallest."""
    embedded: Annotated[str, Place()] = ""
    """Folder that `worldclip embed` wrote with this model: the page of format web searches it."""
    pictures_from: Annotated[tuple[str, ...] | None, Place()] = None
    """Folders and URLs whose pictures the page may hold.  Unset: the local folders of the embedded pool."""
    languages: tuple[str, ...] = ()
    """Keep only the token rows that texts in these languages use (default: all rows)."""
    corpus: Annotated[tuple[str, ...], Place()] = ()
    """Texts that decide which rows are used: .txt files, one text per line.  Default: the run's own matched texts."""

    def own_problems(self) -> Problems:
        """Yield a corpus and an embedded folder that are of no use, and files of an unknown kind."""
        if self.embedded and "web" not in self.formats:
            yield "embedded", "has no effect without the format web; add web to export.formats, or leave it out"
        if self.pictures_from and not self.embedded:
            yield "pictures_from", "has no effect without export.embedded; set the embedded folder, or leave it out"
        if self.corpus and not self.languages:
            yield "corpus", "has no effect without export.languages; set the languages to keep"
        for name in self.corpus:
            if not name.endswith(".txt"):
                yield "corpus", f'unknown kind of file "{name}"; a corpus is a .txt, one text per line'
