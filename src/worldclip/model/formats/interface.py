"""Define what a model format is: a module that recognises, reads, writes, compares and describes one library's folders.

A format that is only written leaves out the attributes of `Format`, one that is only read those of `Writer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worldclip.core.job import Record, Report
from worldclip.core.registry import Requirement
from worldclip.model.inference import Clip

TORCH = Requirement(("torch", "torchvision", "transformers", "tokenizers", "safetensors", "PIL"), extra="train")
"""The packages that reading weights into torch needs."""
TEXT_FILES = ("*.json", "*.model", "merges.txt", "vocab.txt")
"""Patterns of the files of configuration, tokenizer and preprocessing."""


def about(what: str) -> str:
    """Return the first sentence of a card: `what`, exported by worldclip."""
    return f"{what}, exported by worldclip, an open implementation of the Meta CLIP 2 recipe (arXiv:2507.22062)."


def largest_difference(library: str) -> Callable[[Record], str]:
    """Return the function that says on a card what `compare` measured in a library."""
    return lambda report: f"in {library}: embeddings differ by at most {report['max_difference']:.1e} in any element"


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """The facts of a format on its model cards, and its files."""

    library: str
    """Library of the hub that loads the folder."""
    use: Sequence[str]
    """Lines of Python that use the folder."""
    checked: Callable[[Record], str]
    """Returns the measurement in the report of `compare` as text; follows "Checked against the source model"."""
    about: str = about("A CLIP that embeds images and texts of all its languages in one space")
    is_page: bool = False
    """Whether the folder is a static page rather than a model."""
    files: tuple[str, ...] = ()
    """Patterns of the files that it writes, which later uploads delete where they are gone; `*` matches a slash, too.
    Those of every export, the card and the recipe, are not among them."""
    arrays: tuple[str, ...] = ()
    """Files that end like pickles, which are never uploaded, and are arrays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """The options of worldclip.load; None is the source's own choice."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    arch: str | None = None
    """The architecture of a bare file: a published name, or the path of an open_clip configuration."""
    tokenizer: str | None = None
    """Folder or hub id, for weights without a tokenizer."""
    precision: str | None = None
    """fp32, fp16, bf16 (torch), or of an ONNX folder fp32, fp16, int8."""
    language: str | None = None
    """Language of the texts, for a text tower that is told it: a FLORES code or worldclip's."""


class Writer(Protocol):
    """A module that writes folders of one kind; precisions: of ONNX encoders, unused by the others.

    Two functions are only there where folders need more than the model:

    writer(source, clip, embedded) -> the Writer to use, for a source's folder; embedded: export.embedded.  Raises
        UserError if it does not fit
    problems() -> what is missing from this installation besides `requires`
    """

    requires: Requirement
    CARD: CardFacts

    def write(self, clip: Clip, folder: Path, precisions: Sequence[str]) -> None:
        """Write the model into an existing, empty folder."""

    def compare(self, clip: Clip, folder: Path, precisions: Sequence[str]) -> Report:
        """Load the folder in its own library and return the differences of embeddings, for export/report.json.

        Raises UserError where they differ too much.
        """


class Format(Protocol):
    """A module that recognises and reads them.  Two functions are only there where a format differs from others:

    needs(path, options) -> what reading this folder or file needs; without it, TORCH and `requires`
    hub_weights(folder, precision) -> patterns of the weights of a repository, whose small files are in
        `folder`, None if it is not of this format; without it, the loader's own pattern
    """

    requires: Requirement
    OPTIONS: tuple[str, ...]
    """The fields of LoadOptions, device and language apart, that it reads."""
    has_torch_weights: bool
    """Whether `precision` is a dtype of torch; else it names files."""
    yields_to: str
    """Name of the format that is loaded where a folder is in both; empty: the user must choose."""

    def missing(self, folder: Path) -> str | None:
        """Return what the folder lacks to be in this format, None where it is."""

    def read(self, path: Path, options: LoadOptions) -> Clip:
        """Load the model.  Raises UserError for anything incomplete, corrupt or of another family."""
