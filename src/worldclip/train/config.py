"""The options of training: model, data, samples, schedule."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Annotated, Literal

from worldclip.core.settings import Above, AtLeast, Between, Config, Decides, Place, Problems
from worldclip.model.config import ModelConfig, TokenizerConfig
from worldclip.pool.config import PoolConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPoolConfig(Config):
    """Tars or Parquet files with the images of the kept pairs, joined by key; else those of the matched pool."""

    path: Annotated[str | tuple[str, ...] | None, Decides(), Place()] = None  # its files are inputs
    """Folder or URL of the files, or a list of several.  Unset: those of the matched pool."""
    key: str = "member"
    """Where the matched pool's key is in these files: `member`, `json:FIELD` of a tar's .json, or a column."""
    image_field: str | None = None
    """Column of Parquet files that holds the images, needed if several do, or of any table that holds their paths."""

    def as_pool(self) -> PoolConfig | None:
        """Return the pool of these files; None if it is not set."""
        if not self.path:
            return None
        return PoolConfig(path=self.path, key=self.key, image_field=self.image_field)

    def own_problems(self) -> Problems:
        """Yield the problems of these files as a pool."""
        pool = self.as_pool()
        if pool is not None:
            yield from pool.own_problems()


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig(Config):
    """The worldwide rule: an English run's samples and batch, scaled by the ratio of all pairs to English pairs."""

    english_samples_seen: Annotated[int | None, AtLeast(1, "pairs")] = None
    """Pairs that the English run sees; with english_batch_size, replaces train.samples_seen."""
    english_batch_size: Annotated[int | None, AtLeast(2, "pairs per step")] = None
    """Pairs per step of the English run; replaces train.global_batch_size."""
    english_fraction: Annotated[float | None, Between(0, 1, "a share of the curated pairs", above=True)] = None
    """Share of English among the curated pairs.  Unset: the expected share, from curate's report."""

    @property
    def is_set(self) -> bool:
        """Return whether the rule applies."""
        return self.english_samples_seen is not None and self.english_batch_size is not None

    @property
    def needs_report(self) -> bool:
        """Return whether the share of English is known only from curate's report."""
        return self.is_set and self.english_fraction is None

    def own_problems(self) -> Problems:
        """Yield keys that are set without the ones they need."""
        if (self.english_samples_seen is None) != (self.english_batch_size is None):
            yield "", "english_samples_seen and english_batch_size need each other; set both or neither"
        elif self.english_fraction is not None and not self.is_set:
            yield "english_fraction", "needs english_samples_seen and english_batch_size; set both"


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig(Config):
    """A teacher whose softmax the model learns in addition to the pairs."""

    teacher: Annotated[str | None, Place(or_name=True)] = None
    """Model to learn from: anything that worldclip.load takes.  Unset: no teacher."""
    weight: Annotated[float, Above(0)] = 1.0
    """Weight of the distillation loss relative to the contrastive loss."""
    teacher_scale: Annotated[float, Above(0)] = 200.0
    """Logit scale of the teacher's cosines, in place of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Config):
    """The training loop; durations are in samples seen.

    Examples:
        worldclip train runs/my_images --dry-run
        worldclip train runs/my_images --model.preset vit_b32 --samples-seen 1000000
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    """The two towers."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    pool: TrainPoolConfig = field(default_factory=TrainPoolConfig)
    """The images, where they are not in the matched pool."""
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    """Samples and batch size, derived from an English run."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """A teacher."""
    samples_seen: Annotated[int, AtLeast(1, "image-text pairs")] = 170_000
    """Image-text pairs seen in total, rounded to whole batches; may change at a resume."""
    global_batch_size: Annotated[int, AtLeast(2, "pairs per step; a contrastive loss needs two")] = 256
    """Pairs per step, over all processes."""
    accum_steps: Annotated[int, AtLeast(1, "parts of a batch"), Decides()] = 1
    """Number of parts in which a process computes its share of a batch, with the gradient of the whole batch; more
    parts need less memory."""
    loss: Literal["contrastive", "siglip"] = "contrastive"
    """contrastive: softmax over the global batch, as in the recipe; siglip: a sigmoid per pair."""
    lr: Annotated[float, Above(0)] = 5e-4
    """Peak learning rate; may change at a resume."""
    warmup_samples: Annotated[int, AtLeast(0, "samples, 0 for no warm-up")] = 10_000
    """Samples of linear warm-up (under train.scale, the English run's), then cosine decay to 0."""
    weight_decay: Annotated[float, AtLeast(0)] = 0.1
    """Weight decay of AdamW; not on one-dimensional parameters (gains, biases, class embedding, logit scale)."""
    beta2: Annotated[float, Between(0, 1, below=True)] = 0.95
    """AdamW's decay of the mean of squared gradients; that of gradients is 0.9, epsilon 1e-6."""
    max_grad_norm: Annotated[float, AtLeast(0, "0 for no clipping")] = 0.0
    """Maximum norm of the gradient; larger ones are scaled down to it.  0, as in the recipe: no clipping."""
    initial_weights: Annotated[str | None, Place(or_name=True)] = None
    """Run, Hugging Face folder or hub id to start from.  Unset: random weights."""
    freeze: tuple[Literal["vision", "text"], ...] = ()
    """Towers whose weights stay fixed; their projections still learn."""
    lora_rank: Annotated[int | None, AtLeast(1, "the rank of the adapters; unset it for none")] = None
    """Rank of LoRA adapters in the towers outside `freeze` (package peft): the towers' weights stay fixed, adapters and
    projections learn.  Needs initial_weights.  Unset: no adapters."""
    patch_dropout: Annotated[float, Between(0, 1, "0 for none", below=True)] = 0.0
    """Share of an image's patches that a step drops, chosen by the hash; 0, as in the recipe: none."""
    parallel: Annotated[Literal["ddp", "fsdp", "hsdp"], Decides()] = "ddp"
    """With several processes (torchrun): each holds the whole model (ddp), a shard of weights and moments (fsdp), or a
    shard among the processes of its machine, with a copy on every machine (hsdp)."""
    activation_checkpointing: Annotated[bool | int, AtLeast(0, "blocks"), Decides()] = False
    """Recompute blocks in the backward pass, all (true) or the first N of each tower: less memory, at most a third more
    time."""
    compile: Annotated[bool, Decides()] = False
    """Compile both towers with torch.compile."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the towers' products; weights, optimizer and loss are always float32.  auto: bf16 where the device
    has hardware for it at the first start (CUDA from Ampere on, x86 with amx_bf16 or avx512_bf16), recorded in
    config.json; a run begun with --from-run keeps the precision of that one."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Decides()] = "auto"
    """Device to train on; auto: cuda if available, else mps, else cpu."""
    seed: int = 0
    """Seed of the initial weights, the order of pairs and the crops."""
    skip_samples: tuple[tuple[int, int], ...] | None = None
    """Stretches FIRST,LAST of the plan that are left out, counted in samples: FIRST is, LAST is not.  Those after the
    samples seen may change at a resume.  Unset: none."""
    augment: Literal["crop", "drawings", "photos"] = "crop"
    """crop: RandomResizedCrop, as in the recipe; photos: also mirror half of the images and change the colours of all,
    for small pools; drawings: also rotate, shrink and recolour a quarter of them, for plain backgrounds."""
    crop_scale_min: Annotated[float, Between(0, 1, "a share of the image's area", above=True)] = 0.9
    """Minimum share of the image's area in RandomResizedCrop."""
    curation: Literal["offline", "online"] = "offline"
    """offline: the list in RUN/curate in every epoch; online: a new draw in each epoch, the first one the same."""
    shuffle_shards: Annotated[int, AtLeast(1, "shards per window")] = 64
    """Shards per window of the epoch's plan; pairs are shuffled within a window."""
    num_streams: Annotated[int | None, Between(0, 65_536, "streams of shards, 0 for windows")] = None
    """Number of fixed streams of whole shards, each read sequentially; 0: windows with range reads.  Unset: 0, and
    if the images are in an object store six per process of the first start, 64 at least."""
    scaled_decode: bool = False
    """Decode large JPEGs at a half, quarter or eighth of their size: faster, with slightly different pixels."""
    decode_threads: Annotated[int | None, AtLeast(1, "threads"), Decides()] = None
    """Number of decoding threads (default: one per core, shared among the processes of a machine)."""
    checkpoint_every_samples: Annotated[int, AtLeast(1, "samples"), Decides()] = 50_000
    """Samples between checkpoints; there is one after ten minutes without one, too."""
    keep_last: Annotated[int, AtLeast(1, "checkpoints"), Decides()] = 2
    """Number of checkpoints to keep, in addition to the best one where there are evaluations."""
    keep_every_samples: Annotated[int, AtLeast(0, "samples, 0 for none"), Decides()] = 0
    """Samples between checkpoints that are kept for good; 0: only keep_last and the best."""
    evaluate_every_samples: Annotated[int, AtLeast(0, "samples, 0 for no evaluation"), Decides()] = 0
    """Samples between evaluations, each of a checkpoint; 0: no evaluation while training."""
    evaluate_datasets: Annotated[tuple[str, ...], Decides()] = ()
    """Datasets of these evaluations (default: evaluate.datasets)."""
    validation_shards: Annotated[int | None, AtLeast(1, "shards")] = None
    """Number of shards whose pairs are not trained on; every checkpoint_every_samples the loss on them is measured,
    into RUN/train/validation.jsonl.  Unset: none."""
    wandb: Annotated[str | None, Decides()] = None
    """Weights & Biases project to log to as well (package wandb).  Unset: none."""

    def recomputed_blocks(self, num_blocks: int) -> int:
        """Return how many blocks, from the first on, a tower of num_blocks recomputes in the backward pass."""
        if self.activation_checkpointing is True:
            return num_blocks
        return min(int(self.activation_checkpointing), num_blocks)

    @property
    def patches_seen(self) -> int:
        """Return how many patches of an image a step computes: all that patch_dropout does not leave out."""
        sizes = self.model.architecture()
        return max(1, round((1 - self.patch_dropout) * (sizes.image_size // sizes.patch_size) ** 2))

    @property
    def adapted_towers(self) -> tuple[Literal["vision", "text"], ...]:
        """Return the towers with LoRA adapters."""
        if self.lora_rank is None:
            return ()
        towers: tuple[Literal["vision", "text"], ...] = ("vision", "text")
        return tuple(tower for tower in towers if tower not in self.freeze)

    def own_problems(self) -> Problems:
        """Yield a warm-up without end, and options that exclude each other."""
        yield from self._lora_problems()
        key = "samples_seen"
        samples = self.samples_seen
        if self.scale.is_set:
            key = "scale.english_samples_seen"
            samples = self.scale.english_samples_seen or samples
        if self.warmup_samples >= max(1, samples):
            yield "warmup_samples", f"must be less than train.{key} ({samples})"
        stretches = self.skip_samples or ()
        numbers = list(itertools.chain.from_iterable(stretches))
        are_pairs = all(len(stretch) == 2 for stretch in stretches)
        if not are_pairs or numbers != sorted(set(numbers)) or min(numbers, default=0) < 0:
            yield "skip_samples", "must be pairs [FIRST, LAST] of ascending numbers, for example [[1000, 2000]]"

    def _lora_problems(self) -> Problems:
        """Yield what adapters lack, and the options that they exclude."""
        if self.lora_rank is None:
            return
        if self.initial_weights is None:
            yield "lora_rank", "adapters need a trained model to adapt; set train.initial_weights, or unset lora_rank"
        if not self.adapted_towers:
            yield "freeze", "leaves no tower to train.lora_rank; name one tower at most"
        if self.parallel != "ddp":
            yield "parallel", 'cannot be used with train.lora_rank, whose weights are not sharded; set "ddp"'
