"""The options of `worldclip pool check`: it removes undecodable images and near duplicates by default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from worldclip.core.settings import AtLeast, Between, Config, Place, Problems

MAX_RADIUS = 16  # beyond it a quarter of all bits may differ, so that unrelated photographs match

_Chars = Annotated[int | None, AtLeast(1, "characters")]
_Radius = Between(0, MAX_RADIUS, "differing bits of 64")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRules(Config):
    """Texts to reject; drop_pair_when says when their pair goes, too."""

    min_chars: _Chars = None
    """Reject shorter texts, not counting whitespace at both ends."""
    max_chars: _Chars = None
    """Reject longer texts."""
    max_repeated: _Chars = None
    """Reject texts with a longer run of one character."""
    max_digit_fraction: Annotated[float | None, Between(0, 1, "a share of the characters")] = None
    """Reject texts with a larger share of digits, not counting whitespace."""
    url_only: bool = False
    """Reject texts that are only a web address or a file name."""
    languages: tuple[str, ...] = ()
    """Reject texts in other languages than these (our codes; default: none)."""
    deny_phrases: Annotated[tuple[str, ...], Place()] = ()
    """Files with one phrase per line: reject texts that contain one, at word boundaries, in any case."""
    personal_data: Literal["keep", "drop", "mask"] = "keep"
    """E-mail addresses and phone numbers: drop rejects the text; mask blots them out in what write = "tars" writes."""
    drop_pair_when: Literal["all", "any"] = "all"
    """Drop a pair when all of its texts are rejected, or when any is."""

    def own_problems(self) -> Problems:
        """Yield limits that no text can meet."""
        if self.min_chars and self.max_chars and self.min_chars > self.max_chars:
            yield "min_chars", f"must not be above texts.max_chars ({self.max_chars}): no text remains"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRules(Config):
    """Images to remove together with their pair."""

    min_side_px: Annotated[int | None, AtLeast(1, "pixels")] = None
    """Remove images whose shorter side is smaller."""
    max_aspect_ratio: Annotated[float | None, AtLeast(1, "longer side / shorter side")] = None
    """Remove images with a larger ratio of the longer side to the shorter one."""
    animated: bool = False
    """Remove images of more than one frame."""
    min_contrast: Annotated[float | None, Between(0, 127.5, "a standard deviation of grey levels")] = None
    """Remove images whose 32 x 32 grey levels (0 to 255) have a smaller standard deviation; 2 is nearly blank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRule(Config):
    """An ONNX file and the images that it takes."""

    path: Annotated[str, Place()] = ""
    """The .onnx file: one image input (n, 3, h, w) or (n, h, w, 3)."""
    image_px: Annotated[int, AtLeast(1, "pixels")] = 224
    """Side of the input in pixels, where the model leaves it open."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Subtracted from red, green and blue, in 0 to 1."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Red, green and blue are then divided by these."""

    def own_problems(self) -> Problems:
        """Yield a mean or standard deviation that is not one of three channels."""
        if len(self.mean) != 3:
            yield "mean", "must be three numbers: red, green, blue"
        if len(self.std) != 3 or 0 in self.std:
            yield "std", "must be three numbers other than 0: red, green, blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierRule(OnnxRule):
    """An ONNX image classifier with output (n, labels) or (n,): pairs whose label scores above a threshold go."""

    label: Annotated[int, AtLeast(0, "a position in the output")] = 0
    """Position of the label in the output."""
    above: float = 0.5
    """Remove pairs whose label has a higher score."""
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    """Function that turns the model's output into scores."""

    def own_problems(self) -> Problems:
        """Yield a missing path, and the problems of the model."""
        if not self.path:
            yield "path", "must be the .onnx file"
        yield from OnnxRule.own_problems(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceRule(OnnxRule):
    """An ONNX face detector: boxes go to faces.parquet for img2dataset, and are blurred by write = "tars"."""

    image_px: Annotated[int, AtLeast(1, "pixels")] = 320
    """Side of the input in pixels, where the model leaves it open."""
    boxes: str = "boxes"
    """Output (n, boxes, 4) with left, top, right, bottom."""
    scores: str = "scores"
    """Output (n, boxes) or (n, boxes, 2), with the face's score last."""
    units: Literal["fraction", "pixels"] = "fraction"
    """Units of the boxes: fractions of the input's sides, or its pixels."""
    above: float = 0.7
    """Minimum score of a face."""
    max_overlap: float = 0.3
    """Maximum intersection over union of two boxes; beyond it only the one with the higher score stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityRule(Config):
    """Image-text similarity, the cosine of a model's embeddings: texts below their language's threshold are rejected.

    As for the rules of texts, texts.drop_pair_when says when their pair goes, too.
    """

    model: Annotated[str | None, Place(or_name=True)] = None
    """A model that worldclip.load takes: a run, a folder, a checkpoint or a hub id."""
    percentile: Annotated[float | None, Between(0, 100, "percent of a language's texts")] = None
    """Reject this percentage of the texts of each language: those least like their images."""
    threshold: Annotated[float | None, Between(-1, 1, "a cosine")] = None
    """Reject texts with a smaller similarity, the same in all languages."""
    min_texts: Annotated[int, AtLeast(1, "texts")] = 100
    """Languages with fewer texts take the percentile of the whole pool."""

    def own_problems(self) -> Problems:
        """Yield a model without a threshold, a threshold without a model, and two thresholds."""
        is_set = [value is not None for value in (self.percentile, self.threshold)]
        if self.model is not None and sum(is_set) != 1:
            yield "model", "needs exactly one of percentile and threshold"
        if self.model is None and any(is_set):
            yield "model", "must be set for percentile and threshold: a run, a model's folder or a hub id"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig(Config):
    """The rules by which to remove pairs from a pool."""

    SECTION: ClassVar[str | None] = ""  # a file of its own, not a section of the recipe

    duplicates: Literal["near", "bytes", "keep"] = "near"
    """near: remove images that look the same; bytes: remove identical files; keep: remove none."""
    radius: Annotated[int, _Radius] = 4
    """Maximum number of differing bits, of 64, between near duplicates (docs/pool_check.md: what each radius finds)."""
    mirrored: bool = False
    """Treat an image and its mirror image as near duplicates, in decontamination as well."""
    hash: Literal["phash", "embedding"] = "phash"
    """The values to compare: perceptual hashes, or the signs of a random projection of a model's image embeddings."""
    embedding_model: Annotated[str | None, Place(or_name=True)] = None
    """For hash = "embedding": a run, a Hugging Face folder or a hub id."""
    merge_texts: bool = False
    """Give the texts of removed duplicates to the pair that stays: merged_texts.parquet, and write = "tars"."""
    against: Annotated[dict[str, str], Place()] = field(default_factory=dict)
    """Decontamination: name = folder of images or tars, a .tar, or a file of `worldclip pool hash`."""
    against_datasets: tuple[str, ...] = ()
    """Decontamination: datasets of `evaluate` by name (docs/datasets.md), their evaluation images only."""
    data: Annotated[str, Place()] = ""
    """Folder of these datasets, DATA/<name> (default: evaluate.data of the recipe)."""
    against_radius: Annotated[int | None, _Radius] = None
    """Maximum number of differing bits between an image and an evaluation image (default: radius)."""
    texts: TextRules = field(default_factory=TextRules)
    images: ImageRules = field(default_factory=ImageRules)
    classifiers: dict[str, ClassifierRule] = field(default_factory=dict)
    faces: FaceRule = field(default_factory=FaceRule)
    similarity: SimilarityRule = field(default_factory=SimilarityRule)
    write: Literal["keys", "tars"] = "keys"
    """keys: write valid_keys.parquet and the lists of removals; tars: also write the valid pairs as a new pool."""

    def own_problems(self) -> Problems:
        """Yield options that need or exclude each other."""
        if (self.hash == "embedding") != (self.embedding_model is not None):
            yield "hash", 'hash = "embedding" and embedding_model need each other; set both or neither'
        if self.hash == "embedding" and self.mirrored:
            yield "mirrored", 'cannot be used with hash = "embedding": only the perceptual hash has a mirror image'
        if self.texts.personal_data == "mask" and self.write != "tars":
            yield "texts.personal_data", '"mask" changes texts, which only write = "tars" writes; set it'

    @property
    def reference_sets(self) -> tuple[str, ...]:
        """Return the names of all sets of evaluation images."""
        return (*self.against, *self.against_datasets)

    @property
    def decontamination_radius(self) -> int:
        """Return the maximum number of differing bits between an image and an evaluation image."""
        return self.radius if self.against_radius is None else self.against_radius
