"""Distillation: a teacher's view of each batch, and further students that learn from the same view.

The first student is the run's own model; each further one has its own size, tokenizer, optimizer and checkpoints, in
RUN/train/students/<name>/step_*, and is a run's model in every other way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from worldclip.core.layout import step_folder
from worldclip.model.tokenizer import Tokenizer, load_tokenizer
from worldclip.train.checkpoint import Writer
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.loader import Batch
from worldclip.train.step import Learner, StepResult, Taught, take_step
from worldclip.train.train_state import create_learner, pieces_of

if TYPE_CHECKING:
    from worldclip.model.inference import Clip


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that only looks; it reads pixels and texts by its own preprocessing and tokenizer."""

    clip: Clip
    device: torch.device
    precision: str

    @classmethod
    def load(cls, config: TrainConfig, device: torch.device) -> Teacher | None:
        from worldclip.model.load import load

        if config.distill.teacher is None:
            return None
        return cls(load(config.distill.teacher, device=device.type), device, config.precision)

    def look(self, batch: Batch) -> Taught:
        """(B, E) float32 features of unit length of the batch's images and texts.

        Images are resized bicubically from the students' crop to the teacher's size, the whole crop.
        """
        processor = self.clip.processor
        pixels = resize(batch.images.to(self.device), processor.crop_size["height"]).float() / 255
        mean, std = (torch.tensor(each, device=self.device)[:, None, None] for each in _statistics(processor))
        tokenizer = self.clip.tokenizer
        assert tokenizer is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            image_BE = self.clip.backend.encode_pixels((pixels - mean) / std)
            text_BE = self.clip.backend.encode_tokens(tokenizer.encode(batch.texts), num_chunks=4)
        return torch.from_numpy(image_BE).to(self.device), torch.from_numpy(text_BE).to(self.device)


def _statistics(processor: Any) -> tuple[Any, Any]:
    return processor.image_mean, processor.image_std


def resize(images_B3SS: torch.Tensor, size: int) -> torch.Tensor:
    """(B, 3, S, S) uint8 -> (B, 3, size, size) uint8, bicubic."""
    if images_B3SS.shape[-1] == size:
        return images_B3SS
    return torch.nn.functional.interpolate(images_B3SS, (size, size), mode="bicubic", antialias=True)


@dataclass(slots=True, kw_only=True)
class Student:
    """A further student and where it is kept."""

    name: str
    learner: Learner
    tokenizer: Tokenizer
    writer: Writer
    write_model: Callable[[Path], object]
    image_size: int
    updates: int = 0

    def step(self, batch: Batch, lr: float, taught: Taught) -> StepResult:
        """The same pairs, in its size and by its tokenizer."""
        tokens = self.tokenizer.encode(batch.texts)
        own = dataclasses.replace(batch, images=resize(batch.images, self.image_size), tokens=tokens)
        result = take_step(self.learner, own, lr, taught)
        self.updates += result.is_applied
        return result

    def save(self, step: int) -> None:
        """Write its checkpoint and wait: it must stand before the run's own."""
        self.writer.start(step, pieces_of(self.learner), {"updates": self.updates}, self.write_model)
        self.writer.wait()


def create_students(
    config: TrainConfig,
    train_dir: Path,
    world: World,
    device: torch.device,
    step: int,
    write_model: Callable[..., object],
) -> list[Student]:
    """The further students as they were at `step`, that of the run's own checkpoint; 0: fresh.

    write_model: called with folder, learner, tokenizer and image_size.
    """
    from worldclip.train.checkpoint import read_state

    students = []
    for name, of in config.distill.students.items():
        sizes, folder = of.model.architecture(), train_dir / "students" / name
        source = of.tokenizer.path or train_dir / "tokenizer"
        tokenizer = load_tokenizer(source, sizes.context_length)
        checkpoint = step_folder(folder, step) if step else None
        own = dataclasses.replace(config, model=of.model, tokenizer=of.tokenizer, initial_weights=None)
        learner = create_learner(own, tokenizer, world, device, checkpoint)

        def fill(aside: Path, learner: Learner = learner, tokenizer: Tokenizer = tokenizer) -> None:
            size = learner.config.model.architecture().image_size
            write_model(aside, learner=learner, tokenizer=tokenizer, image_size=size)

        students.append(
            Student(
                name=name,
                learner=learner,
                tokenizer=tokenizer,
                writer=Writer(folder, world, config.keep_last),
                write_model=fill,
                image_size=sizes.image_size,
                updates=read_state(checkpoint)["updates"] if checkpoint else 0,
            )
        )
    return students


def largest_image(config: TrainConfig) -> int:
    """Side of the crops that all students can be cut from."""
    models = [config.model, *(student.model for student in config.distill.students.values())]
    return max(model.architecture().image_size for model in models)
