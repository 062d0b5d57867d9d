"""The options of `worldclip pool check`: it removes undecodable images and near duplicates by default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from worldclip.core.settings import Between, Config, Place

MAX_RADIUS = 16  # beyond it a quarter of all bits may differ, so that unrelated photographs match

_Radius = Between(0, MAX_RADIUS, "differing bits of 64")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig(Config):
    """The rules by which to remove pairs from a pool."""

    SECTION: ClassVar[str | None] = ""  # a file of its own, not a section of the recipe

    duplicates: Literal["near", "bytes", "keep"] = "near"
    """near: remove images that look the same; bytes: remove identical files; keep: remove none."""
    radius: Annotated[int, _Radius] = 4
    """Maximum number of differing bits, of 64, between near duplicates (docs/pool_check.md: what each radius finds)."""
    embedding_model: Annotated[str | None, Place(or_name=True)] = None
    """Compare the signs of a random projection of the image embeddings of this model: a run, a Hugging Face folder or a
    hub id.  Unset: compare perceptual hashes."""
    against: Annotated[dict[str, str], Place()] = field(default_factory=dict)
    """Decontamination: name = folder of images, tars or Parquet files with images, or one .tar or .parquet."""
    against_datasets: tuple[str, ...] = ()
    """Decontamination: datasets of `evaluate` by name (docs/6_evaluate.md), their evaluation images only."""
    data: Annotated[str, Place()] = ""
    """Folder of these datasets, DATA/<name> (default: evaluate.data of the recipe)."""
    against_radius: Annotated[int | None, _Radius] = None
    """Maximum number of differing bits between an image and an evaluation image (default: radius)."""
