"""Describe how an image becomes pixels in six facts, read from one library's settings and written in another's.

`reference` is the paper's way, whatever a model's folder states: Pillow's bicubic resize of the short side, the central
square, EXIF orientation ignored.

The libraries do not do the same with the same facts.  Each rounds the crop's offset and the resized side in its own
way, and Hugging Face resizes tensors where the others resize PIL images.  docs/7_export.md measures the effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from worldclip.core.errors import UserError
from worldclip.core.job import Report
from worldclip.model.images import to_pillow
from worldclip.model.tokenizer import require_transformers

if TYPE_CHECKING:
    import torch
    from transformers import CLIPImageProcessor

BICUBIC = 3  # PIL.Image.Resampling.BICUBIC, without importing Pillow
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", BICUBIC: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
# within these, normalised pixels are finite in float32
MIN_STD = 1e-6
MAX_NUMBER = 1e6
Mode = Literal["shortest", "squash", "longest"]
"""The resized side: the short one, both, or the long one, after which the short one is padded."""

Rule = Literal["source", "reference"]
"""The preprocessing of the model's source, or the paper's."""
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resize to `size`, take the central square, then pixels in [0, 1] less `mean` over `std`.

    Keys of caches use the repr, together with `describe`, which names the other facts.
    """

    size: int
    mode: Mode
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = field(default="bicubic", repr=False)


@dataclass(frozen=True, slots=True)
class PerImage:
    """A transform of one PIL image, called as Hugging Face's image processors are.

    It returns tensors of the library that the transform is of: torch, or numpy.
    """

    transform: Callable[[Any], Any] = field(repr=False)  # it shows addresses; keys of caches use the repr
    facts: Preprocess

    def __call__(self, images: list[Any], return_tensors: str = "pt") -> dict[str, Any]:
        return {"pixel_values": stack([self.transform(image) for image in images])}

    def of_array(self, pixels_HW3: np.ndarray) -> Any:
        """Return the transform of (height, width, 3) uint8."""
        return self.transform(to_pillow(pixels_HW3))


def stack(pixels: Sequence[Any]) -> Any:
    """Stack the pixels of several images, arrays or tensors alike."""
    if isinstance(pixels[0], np.ndarray):
        return np.stack(pixels)
    import torch

    return torch.stack(list(pixels))


def facts_of(processor: Any) -> Preprocess:
    """Return what a loaded model's processor does.

    Raises UserError for anything but a bicubic resize to one size, in one of the two modes.
    """
    if isinstance(processor, PerImage):
        return processor.facts
    size = dict(processor.size or {})
    crop = _crop_of(processor)
    crop_sides = set(crop.values())
    mean, std = per_channel(processor.image_mean), per_channel(processor.image_std)
    is_rescaled = processor.do_rescale and abs(processor.rescale_factor * 255 - 1) < 1e-6  # 1/255 as JSON writes it
    is_plain = processor.do_resize and processor.do_normalize and processor.resample == BICUBIC and is_rescaled
    shortest = size.get("shortest_edge")
    if is_plain and shortest is not None and crop_sides == {shortest}:
        return Preprocess(shortest, "shortest", mean, std)
    height = size.get("height")
    if is_plain and height is not None and size.get("width") == height and crop_sides <= {height}:
        return Preprocess(height, "squash", mean, std)
    raise UserError(
        f"the image processor resizes to {size}, crops to {crop}, resample {processor.resample}; only a bicubic resize "
        "to one size (shortest edge and central crop, or both sides) can be written for other libraries"
    )


def processor_problems(processor: Any) -> Iterator[str]:
    """Yield the settings of a loaded image processor, which others wrote, that make no finite pixels of an image."""
    if isinstance(processor, PerImage):
        facts = processor.facts
        sides = [("size", facts.size)]
        mean, std = facts.mean, facts.std
    else:
        sides = [*dict(processor.size or {}).items(), *_crop_of(processor).items()]
        mean, std = processor.image_mean, processor.image_std
        if processor.resample not in list(_FILTERS):
            filters = ", ".join(f"{number} ({name})" for number, name in _FILTERS.items())
            yield f"resample is {processor.resample!r:.80}; must be one of {filters}"
        if not (_is_number(processor.rescale_factor) and processor.rescale_factor > 0):
            yield f"rescale_factor is {processor.rescale_factor!r:.80}; must be a number above 0"
    for name, side in sides:
        if side is not None and not (isinstance(side, int) and side >= 1):
            yield f"{name} is {side!r:.80}; must be a whole number of pixels, at least 1"
    for name, value in (("image_mean", mean), ("image_std", std)):
        channels = per_channel(value)
        if len(channels) != 3 or not all(map(_is_number, channels)):
            yield f"{name} is {value!r:.80}; must be three numbers, one per channel"
        elif name == "image_std" and min(channels) < MIN_STD:
            yield f"image_std is {value!r:.80}; each number must be at least {MIN_STD}, since pixels are divided by it"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def per_channel(value: float | Sequence[float]) -> tuple[float, ...]:
    """Return a mean or deviation for three channels; transformers allow one number for all."""
    if not isinstance(value, Sequence):
        return (value,) * 3
    if len(value) == 1:
        return (value[0],) * 3
    return tuple(value)


def describe(processor: Any, *, applies_exif: bool) -> Report:
    """Return what a processor does to an image, in words, for the record of an evaluation."""
    if isinstance(processor, PerImage):
        facts = processor.facts
        edges, cropped = _edges_and_crop(facts)
        interpolation = facts.interpolation
        implementation = "Pillow"
        mean, std = facts.mean, facts.std
    else:
        edges = dict(processor.size or {}) if processor.do_resize else {}
        cropped = _crop_of(processor)
        interpolation = _FILTERS[int(processor.resample)]
        implementation = type(processor).__name__
        mean, std = per_channel(processor.image_mean), per_channel(processor.image_std)
    return {
        "resize": _in_words(edges),
        "crop": f"central {_in_words(cropped)}" if cropped else "none",
        "interpolation": interpolation,
        "exif": "applied" if applies_exif else "ignored",
        "implementation": implementation,
        "mean": [round(value, 4) for value in mean],
        "std": [round(value, 4) for value in std],
    }


def _edges_and_crop(facts: Preprocess) -> tuple[Report, Report]:
    """Return what the image is resized to and the central crop, {} for the whole image, as Hugging Face holds them."""
    square = {"height": facts.size, "width": facts.size}
    if facts.mode == "squash":
        return square, {}
    return {f"{facts.mode}_edge": facts.size}, square


def _crop_of(processor: Any) -> Report:
    """Return the central crop of a Hugging Face processor, {} where it crops nothing."""
    if not getattr(processor, "do_center_crop", False):
        return {}
    return dict(getattr(processor, "crop_size", None) or {})


def _in_words(edges: Report) -> str:
    """Write a size as Hugging Face's processors hold it."""
    if set(edges) == {"height", "width"}:
        return f"{edges['height']} x {edges['width']}"
    return ", ".join(f"{name.replace('_', ' ')} {side}" for name, side in edges.items()) or "none"


def reference(processor: Any, *, is_numpy: bool = False) -> PerImage:
    """Return the paper's preprocessing for a model of any source, at its image size and with its mean and deviation.

    It is open_clip's transform for `shortest`, pixel for pixel.  is_numpy: pixels are numpy arrays, for a model that
    does not run in torch.  Raises UserError for a processor without a size.
    """
    if isinstance(processor, PerImage):
        facts = replace(processor.facts, mode="shortest", interpolation="bicubic")
    else:
        edges = _crop_of(processor) or dict(processor.size or {})
        sides = set(edges.values())
        if len(sides) != 1:
            raise UserError(f"the image processor makes images of {_in_words(edges)}; preprocess='reference' is square")
        mean, std = per_channel(processor.image_mean), per_channel(processor.image_std)
        facts = Preprocess(sides.pop(), "shortest", mean, std)
    pixels = partial(pillow_pixels, facts, round_offset=round)
    if is_numpy:
        return PerImage(pixels, facts)
    import torch

    return PerImage(lambda image: torch.from_numpy(pixels(image)), facts)


def square_facts(processor: Any) -> Preprocess | None:
    """Return what a processor of Hugging Face does, if `to_square` and `normalise_squares` do the same.

    Their pixels are then the processor's, whose own batches take one thread.  None for a processor with other steps.
    """
    if isinstance(processor, PerImage) or getattr(processor, "backend", None) != "torchvision":
        return None
    try:
        return facts_of(processor)
    except UserError:
        return None


def to_square(facts: Preprocess, pixels_HW3: np.ndarray) -> torch.Tensor:
    """Map (height, width, 3) uint8 to (3, size, size) uint8; safe to call from several threads."""
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import crop, resize

    size = facts.size
    sides = [size, size]
    if facts.mode == "shortest":
        shorter = min(pixels_HW3.shape[:2])
        sides = [int(size * side / shorter) for side in pixels_HW3.shape[:2]]
    image_3HW = torch.from_numpy(pixels_HW3).permute(2, 0, 1)
    resized = resize(image_3HW, sides, interpolation=InterpolationMode.BICUBIC, antialias=True)
    cropped: torch.Tensor = crop(resized, (sides[0] - size) // 2, (sides[1] - size) // 2, size, size)
    return cropped


def normalise_squares(facts: Preprocess, device: str, squares: Sequence[torch.Tensor]) -> torch.Tensor:
    """Map B squares to (B, 3, S, S) float32 on a device, as Hugging Face's processors round.

    The bytes are copied to the device, a quarter of what floats take.
    """
    import torch

    squares_B3SS = torch.stack(list(squares)).to(device)
    mean = torch.tensor(facts.mean, device=device)[:, None, None] * 255.0
    std = torch.tensor(facts.std, device=device)[:, None, None] * 255.0
    return squares_B3SS.to(torch.float32).sub_(mean).div_(std)


def pillow_pixels(facts: Preprocess, image: Any, *, round_offset: Callable[[float], int] = int) -> np.ndarray:
    """Map an RGB PIL image to (3, size, size) float32 normalised pixels, using only Pillow and numpy.

    round_offset: rounds the crop's offset.  transformers truncates it; torchvision, thus the reference, rounds to even.
    """
    size = facts.size
    shortest = min(image.size)
    width = height = size
    if facts.mode != "squash":  # both libraries truncate the long side
        width = int(size * image.width / shortest)
        height = int(size * image.height / shortest)
    resized = image.resize((width, height), BICUBIC)
    left = round_offset((width - size) / 2)
    top = round_offset((height - size) / 2)
    square = resized.crop((left, top, left + size, top + size))
    pixels_3SS = np.array(square).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    mean = np.array(facts.mean, np.float32).reshape(3, 1, 1)
    std = np.array(facts.std, np.float32).reshape(3, 1, 1)
    return np.ascontiguousarray((pixels_3SS - mean) / std)


def to_hugging_face(facts: Preprocess) -> CLIPImageProcessor:
    """Return Hugging Face's processor of a model of our family."""
    edges, cropped = _edges_and_crop(facts)
    processor: CLIPImageProcessor = require_transformers().CLIPImageProcessor(
        size=edges,
        do_center_crop=bool(cropped),
        crop_size={"height": facts.size, "width": facts.size},
        resample=BICUBIC,
        image_mean=list(facts.mean),
        image_std=list(facts.std),
    )
    return processor
