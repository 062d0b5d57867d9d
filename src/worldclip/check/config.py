"""What `worldclip pool check` removes.  Undecodable images always go; every rule but the duplicates' is off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MAX_RADIUS = 16  # beyond it a quarter of all bits may differ, and unrelated photographs come near


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRules:
    """Texts that are rejected; a pair goes when its texts do (drop_pair_when)."""

    min_chars: int | None = None
    """Shorter texts are rejected; characters without blanks at the ends."""
    max_chars: int | None = None
    """Longer texts are rejected."""
    max_repeated: int | None = None
    """Texts with a longer run of one character are rejected."""
    max_digit_fraction: float | None = None
    """Texts whose share of digits, blanks not counted, is higher are rejected."""
    url_only: bool = False
    """Reject texts that are a web address or a file name and nothing else."""
    languages: tuple[str, ...] = ()
    """Reject texts in other languages than these (our codes); empty: any."""
    deny_phrases: tuple[str, ...] = ()
    """Files with a phrase a line, matched at word boundaries and regardless of case; texts with one are rejected."""
    personal_data: Literal["keep", "drop", "mask"] = "keep"
    """E-mail addresses and phone numbers: drop rejects the text, mask blots them out in what write = "tars" writes."""
    drop_pair_when: Literal["all", "any"] = "all"
    """A pair goes when all of its texts are rejected, or when any is."""

    def problems(self) -> list[str]:
        found = []
        for name in ("min_chars", "max_chars", "max_repeated"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"texts.{name} is {value}; it counts characters and must be at least 1")
        if self.min_chars and self.max_chars and self.min_chars > self.max_chars:
            found.append(
                f"texts.min_chars is {self.min_chars}, above texts.max_chars {self.max_chars}: no text is left"
            )
        if self.max_digit_fraction is not None and not 0 <= self.max_digit_fraction <= 1:
            found.append(f"texts.max_digit_fraction is {self.max_digit_fraction}; it is a share between 0 and 1")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRules:
    """Images that are removed with their pair."""

    min_side_px: int | None = None
    """Images whose shorter side is smaller go."""
    max_aspect_ratio: float | None = None
    """Images whose longer side is more than so many times the shorter go."""
    animated: bool = False
    """Remove images of more than one frame."""
    min_contrast: float | None = None
    """Images whose 32 x 32 grey levels (0 to 255) have a smaller standard deviation go: 2 is nearly blank."""

    def problems(self) -> list[str]:
        found = []
        if self.min_side_px is not None and self.min_side_px < 1:
            found.append(f"images.min_side_px is {self.min_side_px}; it is a length in pixels, at least 1")
        if self.max_aspect_ratio is not None and self.max_aspect_ratio < 1:
            found.append(
                f"images.max_aspect_ratio is {self.max_aspect_ratio}; it is long side / short side, at least 1"
            )
        if self.min_contrast is not None and not 0 <= self.min_contrast <= 127.5:
            found.append(f"images.min_contrast is {self.min_contrast}; a standard deviation of grey levels, 0 to 127.5")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class DenyRules:
    """Opt-out and take-down.  Files hold one item a line; `#` begins a comment."""

    keys: tuple[str, ...] = ()
    """Files of keys: a line each, keys.npy, or Parquet with a `key` column."""
    urls: tuple[str, ...] = ()
    """Files of image addresses, compared without scheme, `www.` and fragment."""
    hosts: tuple[str, ...] = ()
    """Files of hosts; `example.org` stands for its subdomains too."""
    url_field: str = "url"
    """Field of a sample's .json with the address of its image."""
    opt_out_fields: tuple[str, ...] = ()
    """Fields of a sample's .json that hold an opt-out: true, or directives such as "noai, noindex" (X-Robots-Tag)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierRule:
    """An ONNX image classifier: pairs whose label scores above a threshold go."""

    path: str = ""
    """The .onnx file: one image input (n, 3, h, w) or (n, h, w, 3), first output (n, labels) or (n,)."""
    label: int = 0
    """Position of the label in the output."""
    above: float = 0.5
    """Remove where the label's score is higher."""
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    """What makes scores of the model's output."""
    image_px: int = 224
    """Side of the input where the model leaves it open."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Subtracted from red, green, blue in 0 to 1."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Then divided by this."""

    def problems(self, name: str) -> list[str]:
        found = [] if self.path else [f"classifiers.{name}.path is not set; it is the .onnx file"]
        if self.label < 0:
            found.append(f"classifiers.{name}.label is {self.label}; it is a position in the output, from 0 on")
        return found + _input_problems(f"classifiers.{name}", self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceRule:
    """An ONNX face detector: boxes go to faces.parquet for img2dataset, and are blurred by write = "tars"."""

    path: str = ""
    """The .onnx file: one image input (n, 3, h, w) or (n, h, w, 3)."""
    boxes: str = "boxes"
    """Output (n, boxes, 4) with left, top, right, bottom."""
    scores: str = "scores"
    """Output (n, boxes) or (n, boxes, 2), the face's score last."""
    units: Literal["fraction", "pixels"] = "fraction"
    """Of the boxes: shares of the input's sides, or its pixels."""
    above: float = 0.7
    """Boxes with a lower score are no faces."""
    max_overlap: float = 0.3
    """Of two boxes with a larger intersection over union the one with the higher score stays."""
    image_px: int = 320
    """Side of the input where the model leaves it open."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Subtracted from red, green, blue in 0 to 1."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Then divided by this."""

    def problems(self) -> list[str]:
        return _input_problems("faces", self) if self.path else []


def _input_problems(name: str, rule: ClassifierRule | FaceRule) -> list[str]:
    found = []
    if rule.image_px < 1:
        found.append(f"{name}.image_px is {rule.image_px}; it is a side in pixels, at least 1")
    if len(rule.mean) != 3 or len(rule.std) != 3 or 0 in rule.std:
        found.append(f"{name}.mean is {rule.mean}, std is {rule.std}; each has three numbers, and std no zero")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """What goes and why."""

    duplicates: Literal["near", "bytes", "keep"] = "near"
    """near: images that look the same; bytes: the same files; keep: none is looked for."""
    radius: int = 4
    """Bits of 64 in which near duplicates may differ (docs/pool_check.md: what each radius finds)."""
    mirrored: bool = False
    """Also take an image and its mirror image as near duplicates, and in decontamination."""
    hash: Literal["phash", "embedding"] = "phash"
    """What is compared: the perceptual hash, or signs of a random projection of a model's image embeddings."""
    embedding_model: str | None = None
    """For hash = "embedding": a run, a Hugging Face folder or hub id."""
    merge_texts: bool = False
    """Give the texts of removed duplicates to the one that stays: merged_texts.parquet, and write = "tars"."""
    against: dict[str, str] = field(default_factory=dict)
    """Decontamination: name = folder of images or tars, a .tar, or a file of `worldclip pool hash`."""
    against_datasets: tuple[str, ...] = ()
    """Decontamination: data sets of `evaluate` by name (docs/datasets.md), their evaluation images alone."""
    data: str = ""
    """Folder below which these data sets lie, DATA/<name>; empty: evaluate.data of the recipe."""
    against_radius: int | None = None
    """Bits in which an image may differ from an evaluation image to be removed; unset: as radius."""
    texts: TextRules = field(default_factory=TextRules)
    images: ImageRules = field(default_factory=ImageRules)
    deny: DenyRules = field(default_factory=DenyRules)
    classifiers: dict[str, ClassifierRule] = field(default_factory=dict)
    faces: FaceRule = field(default_factory=FaceRule)
    write: Literal["keys", "tars"] = "keys"
    """keys: valid_keys.parquet and the lists of removals; tars: also the valid pairs as a new pool."""

    def problems(self) -> list[str]:
        found = []
        for name in ("radius", "against_radius"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_RADIUS:
                found.append(f"{name} is {value}; it counts differing bits of 64 and must be 0 to {MAX_RADIUS}")
        if (self.hash == "embedding") != (self.embedding_model is not None):
            found.append(
                'hash = "embedding" and embedding_model (a run or a Hugging Face folder) go together; set both'
            )
        if self.hash == "embedding" and self.mirrored:
            found.append('mirrored is true with hash = "embedding"; only the perceptual hash has a mirror image')
        if self.texts.personal_data == "mask" and self.write != "tars":
            found.append('texts.personal_data is "mask", which changes texts; set write = "tars" to have them written')
        rules = [problem for name, rule in self.classifiers.items() for problem in rule.problems(name)]
        return [*found, *self.texts.problems(), *self.images.problems(), *rules, *self.faces.problems()]

    @property
    def reference_sets(self) -> tuple[str, ...]:
        """Names of all sets of evaluation images."""
        return (*self.against, *self.against_datasets)

    @property
    def decontamination_radius(self) -> int:
        return self.radius if self.against_radius is None else self.against_radius
