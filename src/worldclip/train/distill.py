"""Distillation: a teacher's features of each batch, and further students that learn from the same features.

The first student is the run's own model.  Each further one has its own size, tokenizer, optimizer and checkpoints, in
RUN/train/students/<name>/step_*, which are like those of a run.

B pairs, S image side, E embed_dim of the teacher.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from worldclip.contracts.layout import checkpoints, step_folder, step_of
from worldclip.core.artifacts import remove
from worldclip.model.inference import Clip
from worldclip.model.preprocess import facts_of
from worldclip.model.tokenizer import Tokenizer, load_tokenizer
from worldclip.train.checkpoint import read_state
from worldclip.train.checkpoint_writer import CheckpointWriter
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import World
from worldclip.train.dual_encoder import TEXT_CHUNKS
from worldclip.train.loader import Batch
from worldclip.train.step import Features, train_step
from worldclip.train.train_state import TrainState, copy_to_cpu, create_train_state, folder_writer


def encode_by_teacher(clip: Clip, batch: Batch, device: torch.device, precision: str) -> Features:
    """Return (B, E) float32 features of unit length of the batch's images and texts.

    clip: train.distill.teacher, which reads them with its own preprocessing and tokenizer.  Images are resized
    bicubically from the students' crop to the teacher's size, the whole crop.
    """
    facts = facts_of(clip.processor)
    pixels = resize(batch.images.to(device), facts.size).float() / 255
    mean = torch.tensor(facts.mean, device=device)[:, None, None]
    std = torch.tensor(facts.std, device=device)[:, None, None]
    tokens = clip.tokenizer.encode(batch.texts)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        image_BE = clip.backend.encode_pixels((pixels - mean) / std)
        text_BE = clip.backend.encode_tokens(tokens, num_chunks=TEXT_CHUNKS)
    return torch.from_numpy(image_BE).to(device), torch.from_numpy(text_BE).to(device)


def resize(images_B3SS: torch.Tensor, size: int) -> torch.Tensor:
    """Resize (B, 3, S, S) uint8 bicubically to (B, 3, size, size) uint8."""
    if images_B3SS.shape[-1] == size:
        return images_B3SS
    return torch.nn.functional.interpolate(images_B3SS, (size, size), mode="bicubic", antialias=True)


@dataclass(slots=True)
class Student:
    """A further student, its tokenizer and the writer of its checkpoints."""

    name: str
    state: TrainState
    tokenizer: Tokenizer
    writer: CheckpointWriter
    updates: int = 0
    skipped_in_a_row: int = 0

    def own_batch(self, batch: Batch) -> Batch:
        """Return the same pairs at this student's size and with its tokenizer."""
        size = self.state.config.model.architecture().image_size
        images, tokens = resize(batch.images, size), self.tokenizer.encode(batch.texts)
        return dataclasses.replace(batch, images=images, tokens=tokens)

    def step(self, batch: Batch, lr: float, teacher_features: Features) -> None:
        """Take a step on the same pairs."""
        is_applied = train_step(self.state, self.own_batch(batch), lr, teacher_features).is_applied
        self.updates += is_applied
        self.skipped_in_a_row = 0 if is_applied else self.skipped_in_a_row + 1

    def save(self, step: int, samples_seen: int) -> None:
        """Write a checkpoint and wait until it is complete: it must exist before the run's own of the same step."""
        write_model = folder_writer(self.state, self.tokenizer)
        counters = {"samples_seen": samples_seen, "updates": self.updates, "skipped_in_a_row": self.skipped_in_a_row}
        self.writer.start(step, copy_to_cpu(self.state), counters, write_model)
        self.writer.wait()


def create_students(
    config: TrainConfig, train_dir: Path, world: World, device: torch.device, step: int
) -> list[Student]:
    """Create the further students from their checkpoints at `step`, that of the run's own checkpoint; 0: fresh.

    Removes newer checkpoints of theirs: the run died before its own of that step was complete, or that one was corrupt.
    """
    students = []
    for name, student in config.distill.students.items():
        folder = train_dir / "students" / name
        if world.is_first:
            for newer in (path for path in checkpoints(folder) if step_of(path) > step):
                remove(newer)
        tokenizer = load_tokenizer(
            student.tokenizer.path or train_dir / "tokenizer", student.model.architecture().context_length
        )
        checkpoint = step_folder(folder, step) if step else None
        own_config = dataclasses.replace(
            config, model=student.model, tokenizer=student.tokenizer, initial_weights=None, lora_rank=None, freeze=()
        )
        counters = read_state(checkpoint) if checkpoint else {}
        students.append(
            Student(
                name=name,
                state=create_train_state(own_config, tokenizer, world, device, checkpoint),
                tokenizer=tokenizer,
                # the run's own writer removes old checkpoints, once its own of the step is complete
                writer=CheckpointWriter(folder, world, keep_last=None),
                updates=counters.get("updates", 0),
                skipped_in_a_row=counters.get("skipped_in_a_row", 0),
            )
        )
    return students
