"""What is trained, on how many samples, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from worldclip.core.settings import Decides
from worldclip.model.config import ModelConfig, TokenizerConfig
from worldclip.pool.config import PoolConfig

LOSS_CHUNK_ROWS = 256  # of logits at a time (train/loss.py); with fewer, memory's speed would count more


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPoolConfig:
    """Tars with the images of the kept pairs, where the matched pool has none or others: joined to it by key."""

    path: str | None = None
    """Folder or URL of the tars; unset: the matched pool's."""
    roots: dict[str, str] = field(default_factory=dict)
    """Several folders instead, each under a name, as pool.roots."""
    key: str = "member"
    """Where the matched pool's identity is: `member` or `json:FIELD` of a tar's .json."""

    def as_pool(self) -> PoolConfig | None:
        """The pool of these tars; None where it is unset."""
        if self.path is None and not self.roots:
            return None
        return PoolConfig(path=self.path, roots=self.roots, key=self.key, format="tar")

    def problems(self) -> list[str]:
        pool = self.as_pool()
        return [f"train.{problem}" for problem in pool.problems()] if pool else []


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """The worldwide rule: an English run's samples and batch, grown by how much more there is than English."""

    english_samples_seen: int | None = None
    """Pairs that the English run sees; with english_batch_size it takes the place of train.samples_seen."""
    english_batch_size: int | None = None
    """Pairs a step of the English run; takes the place of train.global_batch_size."""
    english_fraction: float | None = None
    """Share of English among the curated pairs; unset: the expected one, from curate's report."""

    @property
    def is_set(self) -> bool:
        return self.english_samples_seen is not None and self.english_batch_size is not None

    def problems(self) -> list[str]:
        given = (self.english_samples_seen, self.english_batch_size)
        found = []
        if (given[0] is None) != (given[1] is None):
            unset, other = ("samples_seen", "batch_size") if given[0] is None else ("batch_size", "samples_seen")
            found.append(f"train.scale.english_{unset} is unset beside english_{other}; set both or neither")
        found += [
            f"train.scale.english_{name} is {value}; it counts pairs and must be at least {least}"
            for name, value, least in (("samples_seen", given[0], 1), ("batch_size", given[1], 2))
            if value is not None and value < least
        ]
        if self.english_fraction is not None and not 0 < self.english_fraction <= 1:
            found.append(f"train.scale.english_fraction is {self.english_fraction}; it is a share, above 0, at most 1")
        if self.english_fraction is not None and not self.is_set:
            found.append(
                "train.scale.english_fraction is set alone; name the English run too: english_samples_seen and "
                "english_batch_size"
            )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """A further student of the same teacher: it sees the same pairs, at its own size, by its own tokenizer."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The two towers."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Text to tokens; without a path the run's own tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """A teacher whose softmax the model learns beside the pairs; several students for each pass of the teacher."""

    teacher: str | None = None
    """Anything that worldclip.load takes; unset: no teacher."""
    weight: float = 1.0
    """Of the distillation loss beside the contrastive one."""
    teacher_scale: float = 200.0
    """Factor of the teacher's cosines, in place of its own."""
    students: dict[str, StudentConfig] = field(default_factory=dict)
    """Further students by name, in RUN/train/students/<name>; the first one is train.model."""

    def problems(self) -> list[str]:
        if self.teacher is None:
            unset = "unset beside train.distill.students; name the model that they learn from"
            return [f"train.distill.teacher is {unset}"] if self.students else []
        found = [
            f"train.distill.{key} is {getattr(self, key)}; it is a factor above 0"
            for key in ("weight", "teacher_scale")
            if getattr(self, key) <= 0
        ]
        for name, student in self.students.items():
            if not name or "/" in name:
                found.append(f"train.distill.students has the name {name!r}; it names a folder: not empty, without /")
            said = [*student.model.problems(), *student.tokenizer.problems()]
            found += [problem.replace("train.", f"train.distill.students.{name}.", 1) for problem in said]
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareConfig:
    """What the run is planned for, for the table of --dry-run (memory, hours); it decides nothing."""

    devices: int | None = None
    """Processes, one a device; unset: as many as are started."""
    memory_gib: float | None = None
    """Memory of a device; unset: what is here."""
    flops_per_s: float | None = None
    """Peak of a device in train.precision, operations a second; unset: the data sheet's of a known one that is here."""
    utilisation: float = 0.4
    """Share of the peak that the model's own operations reach."""

    def problems(self) -> list[str]:
        found = [
            f"train.hardware.{key} is {value}; it must be above 0"
            for key in ("devices", "memory_gib", "flops_per_s")
            if (value := getattr(self, key)) is not None and value <= 0
        ]
        if not 0 < self.utilisation <= 1:
            found.append(f"train.hardware.utilisation is {self.utilisation}; it is a share, above 0, at most 1")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The training loop; durations in samples seen."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The two towers."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Text to tokens."""
    pool: TrainPoolConfig = field(default_factory=TrainPoolConfig)
    """Where the images are, where not in the matched pool."""
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    """Samples and batch from an English run's."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """A teacher, and further students."""
    hardware: Annotated[HardwareConfig, Decides()] = field(default_factory=HardwareConfig)
    """What it is planned for."""
    samples_seen: int = 170_000
    """Image-text pairs seen in all; rounded to whole batches."""
    global_batch_size: int = 256
    """Pairs a step, over all processes."""
    accum_steps: Annotated[int, Decides()] = 1
    """Parts that a process runs its share of a batch in, with the whole batch's gradient; more take less memory."""
    loss: Literal["contrastive", "siglip"] = "contrastive"
    """contrastive: softmax over the global batch, as the recipe; siglip: a sigmoid for each pair."""
    lr: float = 5e-4
    """Peak learning rate."""
    warmup_samples: int = 10_000
    """Samples of linear warm-up, under train.scale the English run's; cosine to 0 after it."""
    weight_decay: float = 0.1
    """AdamW's; none on one-dimensional parameters (gains, biases, class embedding, logit scale)."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients."""
    beta2: float = 0.95
    """AdamW's decay of the mean of squared gradients."""
    eps: float = 1e-6
    """AdamW's divisor floor."""
    max_grad_norm: float = 0.0
    """Gradients with a larger norm are scaled down to it; 0, as the recipe: never."""
    ema_decay: float = 0.0
    """Of a slow copy of the weights, which is then what a checkpoint's folder holds; 0: none."""
    initial_weights: str | None = None
    """Run, Hugging Face folder or hub id that training starts from; unset: fresh weights."""
    freeze: tuple[Literal["vision", "text"], ...] = ()
    """Towers that keep their weights; their projections learn."""
    token_table: Literal["dense", "rows"] = "dense"
    """dense: AdamW on the whole table of tokens; rows: on the rows of a batch's tokens alone, spread over processes."""
    patch_dropout: float = 0.0
    """Share of an image's patches that a step leaves out, drawn from the hash; 0, as the recipe: none."""
    parallel: Annotated[Literal["ddp", "fsdp"], Decides()] = "ddp"
    """Several processes (torchrun): each has the whole model (ddp), or a share of its weights and moments (fsdp)."""
    activation_checkpointing: Annotated[bool, Decides()] = False
    """Compute each block again in the backward pass: less memory, a third more time."""
    compile: Annotated[bool, Decides()] = False
    """Compile both towers with torch.compile."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the towers' arithmetic (bf16: autocast); weights, optimizer and loss are always float32."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Decides()] = "auto"
    """Where the model runs; auto: cuda, else mps, else cpu."""
    seed: int = 0
    """Of the initial weights, the order of pairs and the crops."""
    crop_scale_min: float = 0.9
    """Least share of the image's area in RandomResizedCrop."""
    rotate_deg: float = 0.0
    """Images are turned by up to so many degrees either way; 0, as the recipe: not."""
    zoom_out_min: float = 1.0
    """Least size that images are shrunk to, as a share of their side, their border drawn on; 1, as the recipe: not."""
    backdrop_min: float = 1.0
    """Least factor that each channel of a one-coloured background is multiplied by; 1, as the recipe: not."""
    warp_share: float = 1.0
    """Share of the images that rotate_deg, zoom_out_min and backdrop_min change."""
    curation: Literal["offline", "online"] = "offline"
    """offline: the list in RUN/curate in every epoch; online: a new draw in each epoch, the first one the same."""
    shuffle_shards: int = 64
    """Shards in a window of the epoch's plan; pairs are shuffled within a window."""
    num_streams: int | None = None
    """Fixed streams of whole shards, read one after another; 0: windows, and reads of ranges.  Unset: 64 where the
    images are in an object store, else 0."""
    scaled_decode: bool = False
    """Decode JPEGs of more than twice the size that is needed at a half, quarter or eighth: faster, other pixels."""
    decode_threads: Annotated[int | None, Decides()] = None
    """Threads that decode; unset: one a core."""
    checkpoint_every_samples: Annotated[int, Decides()] = 50_000
    """A checkpoint after each so many samples."""
    checkpoint_every_minutes: Annotated[float, Decides()] = 10.0
    """And one after so many minutes without."""
    keep_last: Annotated[int, Decides()] = 2
    """Checkpoints kept, besides the best one where there are evaluations."""
    evaluate_every_samples: Annotated[int, Decides()] = 0
    """A checkpoint and its evaluation after each so many samples; 0: none while training."""
    evaluate_datasets: Annotated[tuple[str, ...], Decides()] = ()
    """Data sets of it; empty: evaluate.datasets."""
    wandb: Annotated[str | None, Decides()] = None
    """Project on Weights & Biases that logs go to as well (package wandb); unset: none."""

    def problems(self) -> list[str]:
        found = self.model.problems() + self.tokenizer.problems() + self.pool.problems() + self.scale.problems()
        found += self.distill.problems() + self.hardware.problems()
        counts = {
            "samples_seen": "image-text pairs",
            "global_batch_size": "pairs a step",
            "accum_steps": "parts of a batch",
            "shuffle_shards": "shards in a window",
            "checkpoint_every_samples": "samples between checkpoints",
            "keep_last": "checkpoints kept",
        }
        found += [
            f"train.{key} is {getattr(self, key)}; it counts {what} and must be at least 1"
            for key, what in counts.items()
            if getattr(self, key) < 1
        ]
        if self.global_batch_size == 1:
            found.append("train.global_batch_size is 1; a contrastive batch needs at least 2 pairs")
        key = "scale.english_samples_seen" if self.scale.is_set else "samples_seen"
        samples = (self.scale.english_samples_seen if self.scale.is_set else None) or self.samples_seen
        if not 0 <= self.warmup_samples < max(1, samples):
            found.append(
                f"train.warmup_samples is {self.warmup_samples}; it must be at least 0 and less than "
                f"train.{key} ({samples})"
            )
        if self.lr <= 0:
            found.append(f"train.lr is {self.lr}; a learning rate is above 0")
        if self.weight_decay < 0:
            found.append(f"train.weight_decay is {self.weight_decay}; it is at least 0")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                found.append(f"train.{key} is {getattr(self, key)}; it is at least 0 and less than 1")
        if self.eps <= 0:
            found.append(f"train.eps is {self.eps}; it is above 0")
        if not 0 < self.crop_scale_min <= 1:
            found.append(
                f"train.crop_scale_min is {self.crop_scale_min}; it is a share of the area, above 0, at most 1"
            )
        if not 0 <= self.rotate_deg <= 180:
            found.append(f"train.rotate_deg is {self.rotate_deg}; it is an angle from 0 to 180 degrees")
        for key in ("zoom_out_min", "backdrop_min"):
            if not 0 < getattr(self, key) <= 1:
                found.append(f"train.{key} is {getattr(self, key)}; it is a factor above 0, at most 1 (not at all)")
        if not 0 < self.warp_share <= 1:
            found.append(f"train.warp_share is {self.warp_share}; it is a share of the images, above 0, at most 1")
        if self.checkpoint_every_minutes <= 0:
            found.append(f"train.checkpoint_every_minutes is {self.checkpoint_every_minutes}; it is above 0")
        return found + self._problems_of_options()

    def _problems_of_options(self) -> list[str]:
        found = [
            f"train.{key} is {getattr(self, key)}; it is at least 0 (none)"
            for key in ("max_grad_norm", "evaluate_every_samples", "num_streams")
            if (getattr(self, key) or 0) < 0
        ]
        found += [
            f"train.{key} is {getattr(self, key)}; it is a share from 0 (none) to below 1"
            for key in ("ema_decay", "patch_dropout")
            if not 0 <= getattr(self, key) < 1
        ]
        if self.distill.teacher is not None and self.patch_dropout:
            found.append(
                "train.patch_dropout is set beside train.distill.teacher; students of several sizes have no patches in "
                "common: unset it"
            )
        if self.decode_threads is not None and self.decode_threads < 1:
            found.append(f"train.decode_threads is {self.decode_threads}; it counts threads and must be at least 1")
        if self.token_table == "rows" and self.ema_decay:
            found.append(
                'train.ema_decay is set beside train.token_table = "rows"; its rows have no slow copy: '
                "unset one of the two"
            )
        if self.token_table == "rows" and "text" in self.freeze:
            found.append('train.freeze names text, whose table learns under train.token_table = "rows"; unset one')
        return found
