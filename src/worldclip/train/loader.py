"""The curated pairs with their images, in the plan's order.  What is at any position is a pure function of it.

`pairs` decides which pairs there are, `plan` their order.  Kept keys without an image are counted and absent.  A few
threads make batches ahead of the loop, several at once; decode threads fill in their images.

B pairs of this rank's slice of a batch, S image side.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from worldclip.contracts import layout
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.curate import CurateWork
from worldclip.model.clip import TextChunks
from worldclip.model.decode import BadImage, decode
from worldclip.model.tokenizer import Tokenizer, Tokens
from worldclip.pool import is_table
from worldclip.train import plan
from worldclip.train.augment import augment, crop_draws, kept_patches, random_resized_crop
from worldclip.train.config import TrainConfig
from worldclip.train.distributed import ALONE, World, rank_cores
from worldclip.train.image_files import BadImages, ImageFiles
from worldclip.train.pairs import Pairs, PairSource, concat_pairs

MAX_GAP_BYTES = 256 * 2**10  # largest gap between two images that share a request to an object store
UNREADABLE = "unreadable"  # reason of an image whose file or page cannot be read any more, or is another
NEAR_REPLACEMENTS = 16  # draws among pairs that are read already, before those of the whole epoch: a shard may be lost
MAX_REPLACEMENTS = 1_000  # draws of a replacement before the pool counts as broken
CACHE_BYTES = 512 * 2**20  # decoded images kept in memory, first come, first kept
CACHED_IMAGE_BYTES = 64 * 2**10  # larger images (148 x 148 pixels) are decoded each time
# Minimum short side of a scaled decode, in crop sides.  The smallest crop of a square image at the recipe's settings
# has sqrt(0.9 * 3 / 4) = 0.82 of its side, so that no crop is enlarged.
SCALED_MARGIN = 1.25
BATCHES_AT_ONCE = 4  # batches in work: images of one are decoded while texts of another are tokenised
BATCHES_AHEAD = 16  # made while the step runs: some steps' time for a slow read
AHEAD_BYTES = 2 * 2**30  # memory of their images, but never fewer than BATCHES_AT_ONCE batches
IMAGES_PER_TASK = 4  # one hand-over to a decode thread costs about 50 us of the interpreter's lock

FOREIGN_SHARDS = 8  # cached shards of other ranks' streams, whose surplus pairs this rank reads


ModelInputs: TypeAlias = tuple[torch.Tensor, Tokens | TextChunks, torch.Tensor | None]
"""The inputs of the model's forward: images, texts, kept patches."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's pairs."""

    images: torch.Tensor
    """(B, 3, S, S) uint8."""
    tokens: Tokens
    keys: list[str]
    text_idx: np.ndarray
    langs: Counter[str]
    """Pairs by language."""
    patches: torch.Tensor | None = None
    """(B, kept) int64: the patches that patch dropout keeps; None: all."""
    texts: list[str] = field(default_factory=list)
    """The texts before tokenisation, for a teacher with another tokenizer."""
    bad: BadImages = field(default_factory=BadImages)
    inputs: list[ModelInputs] = field(default_factory=list)
    """Images, texts and patches of each micro-batch on a GPU; empty: the step takes those above."""


class Loader:
    """Batches of the plan.  `batch(step)` depends only on its arguments."""

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Shard],
        tokenizer: Tokenizer,
        config: TrainConfig,
        *,
        global_batch_size: int,
        world: World = ALONE,
        num_streams: int = 0,
        work: CurateWork | None = None,
        images: Sequence[Shard] | None = None,
        epochs_dir: Path | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Raises UserError if no kept pair has an image.

        shards: files of the matched pool.  images: files of train.pool, or None if the matched pool holds the images.
        num_streams: streams that the images are read in, or 0 for windows.  work: what online curation decides by, or
        None if curation is offline.  epochs_dir: where the ranks count the pairs of epochs together, see EpochCounts.
        pin_memory: whether images are in pinned memory, which a GPU copies while it computes.
        """
        self.tokenizer = tokenizer
        self.global_batch_size = global_batch_size
        self.world = world
        self.pin_memory = pin_memory
        self.seed = config.seed
        self.skipped = config.skip_samples or ()
        self.crop_scale_min = config.crop_scale_min
        self.augment = config.augment
        sizes = config.model.architecture()
        self.num_patches = (sizes.image_size // sizes.patch_size) ** 2
        self.patches_seen = config.patches_seen
        self.image_size = sizes.image_size
        self._min_side = math.ceil(SCALED_MARGIN * self.image_size) if config.scaled_decode else None
        self.shards = sorted(shards, key=lambda shard: shard.name)
        num_cached = shards_to_cache(len(self.shards), config.shuffle_shards, num_streams, world)
        self.source = PairSource(run_dir, self.shards, images, num_cached, work, world, epochs_dir)
        self._files = ImageFiles(images or self.shards, self.source.image_index)
        self.order: plan.Order
        if num_streams:
            self.order = plan.Streams(self.source, self.seed, num_streams)
        else:
            self.order = plan.Windows(self.source, self.seed, config.shuffle_shards)
        self._epoch_starts = [0]  # positions in the concatenation of epochs, for online curation
        self._epoch_starts_lock = threading.Lock()  # the loop asks `epochs_of` while threads make batches
        self._plan_lock, self._tables_lock, self._tokenizer_lock = (threading.Lock() for _ in range(3))
        self._cache: dict[tuple[int, int], torch.Tensor | BadImage] = {}
        self._cached_bytes = 0
        self._is_stopping = False
        self._num_threads = config.decode_threads or rank_cores()
        torch.get_num_threads()  # a thread's number is set at its first use: set this one's before those of others
        self._threads = _start_threads(self._num_threads, "decode")
        self.epoch_length = self.order.length(0)
        self.num_without_image = self.source.counts(0)[1]
        if self.epoch_length == 0:
            folder = layout.stage_dir(run_dir, "curate")
            remedy = "use a larger pool, or a train.pool that holds images with these keys (train.pool.key)"
            raise UserError(f"{folder} contains no pair with an image ({self.num_without_image} without): {remedy}")

    def epochs_of(self, samples_seen: int) -> float:
        """Return how many epochs `samples_seen` pairs are."""
        epochs, within = self._locate(plan.skip(np.array([samples_seen]), self.skipped))
        epoch = int(epochs[0])
        return epoch + int(within[0]) / self.order.length(epoch)

    def batch(self, step: int) -> Batch:
        """Return this rank's slice of batch `step`.  Safe to call from several threads."""
        with self._plan_lock:  # a window is read once, however many batches begin in it
            epochs, within = self._positions(step)
            parts = [self.order.pairs_at(int(epoch), within[epochs == epoch]) for epoch in np.unique(epochs)]
        pairs = concat_pairs(parts)
        size = self.image_size
        crops_B3SS = torch.empty((len(pairs), 3, size, size), dtype=torch.uint8, pin_memory=self.pin_memory)
        draws = crop_draws(pairs.keys.to_pylist(), pairs.text_idx, self.seed, epochs)
        bad = BadImages()
        replacements: list[Pairs] = []
        rows = np.arange(len(pairs))  # in the pairs and, after them, the replacements
        for i, image in self._fill(crops_B3SS, pairs, draws):
            bad.add(pairs.keys[i].as_py(), image)
            replacement, pair = self._replace(int(epochs[i]), int(within[i]), bad)
            rows[i] = len(pairs) + len(replacements)
            replacements.append(pair)
            draws[i] = crop_draws(pair.keys.to_pylist(), pair.text_idx, self.seed, epochs[i : i + 1])[0]
            crops_B3SS[i] = random_resized_crop(replacement, draws[i], self.crop_scale_min, size)
        if replacements:
            pairs = concat_pairs([pairs, *replacements]).take(rows)
        keys = pairs.keys.to_pylist()
        texts = pairs.texts.to_pylist()
        patches = None
        if self.patches_seen < self.num_patches:
            kept_BP = kept_patches(keys, pairs.text_idx, self.seed, epochs, self.num_patches, self.patches_seen)
            patches = torch.from_numpy(kept_BP)
        images_B3SS = augment(crops_B3SS, draws, self.augment)
        with self._tokenizer_lock:  # transformers sets the truncation of a tokenizer that encodes meanwhile
            tokens = self.tokenizer.encode(texts)
        return Batch(
            images=images_B3SS,
            tokens=tokens,
            keys=keys,
            text_idx=pairs.text_idx,
            langs=Counter(pairs.lang.to_pylist()),
            patches=patches,
            texts=texts,
            bad=bad,
        )

    def _fill(self, crops_B3SS: torch.Tensor, pairs: Pairs, draws: np.ndarray) -> list[tuple[int, BadImage]]:
        """Write the crop of each pair's image to its row, and return the rows and reasons of those without one.

        A decode thread reads, decodes and crops a few images one after another, so that whole images are freed at once.
        """
        content = self._read_ahead(pairs)
        places = list(zip(pairs.shard.tolist(), pairs.offset.tolist(), pairs.size.tolist(), content, strict=True))

        def fill(start: int) -> list[tuple[int, BadImage]]:
            if self._is_stopping:
                raise CancelledError
            bad = []
            for i in range(start, min(start + IMAGES_PER_TASK, len(places))):
                image = self._image(*places[i])
                if isinstance(image, BadImage):
                    bad.append((i, image))
                else:
                    crops_B3SS[i] = random_resized_crop(image, draws[i], self.crop_scale_min, self.image_size)
            return bad

        return list(itertools.chain.from_iterable(self._threads.map(fill, range(0, len(places), IMAGES_PER_TASK))))

    def _positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (epoch, position within it) of this rank's pairs of batch `step`."""
        world = self.world
        if not isinstance(self.order, plan.Streams):
            positions = plan.batch_positions(step, self.global_batch_size, world.rank, world.size)
            return self._locate(plan.skip(positions, self.skipped))
        epochs, within = self._locate(plan.skip(plan.batch_positions(step, self.global_batch_size), self.skipped))
        parts = [self.order.stream_of(int(epoch), within[epochs == epoch]) for epoch in np.unique(epochs)]
        rows = np.sort(plan.split_by_owner(np.concatenate(parts), self.order.num_streams, world.rank, world.size))
        return epochs[rows], within[rows]

    def _locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (epoch, position within it) of positions in the concatenation of epochs.

        Under online curation epochs differ in length, so that their starts are summed up as far as needed.
        """
        if not self.source.is_online:
            return np.divmod(positions, self.epoch_length)
        last = positions.max()
        with self._epoch_starts_lock:
            while self._epoch_starts[-1] <= last:
                last_epoch = len(self._epoch_starts) - 1
                self._epoch_starts.append(self._epoch_starts[-1] + self.order.length(last_epoch))
            starts = np.array(self._epoch_starts)
        if 2 * last > starts[-2] + starts[-1]:  # the latest epoch is half over
            self.source.count_ahead(len(starts) - 1)
        epochs = np.searchsorted(starts, positions, side="right") - 1
        return epochs, positions - starts[epochs]

    def _replace(self, epoch: int, position: int, bad: BadImages) -> tuple[torch.Tensor, Pairs]:
        """Return the first replacement of a position whose image decodes, in the order of plan.replacement.

        The first draws are among the pairs that are read already: one bad image must not cost a window of shards.
        """
        with self._plan_lock:
            near = self.order.neighbours(epoch, position)
        for draw in range(1, MAX_REPLACEMENTS + 1):
            if draw <= NEAR_REPLACEMENTS:
                pair = near.take(np.array([plan.replacement(position, draw, len(near), self.seed, epoch)]))
            else:
                other = plan.replacement(position, draw, self.order.length(epoch), self.seed, epoch)
                with self._plan_lock:
                    pair = self.order.pairs_at(epoch, np.array([other]))
            image = self._image(pair.shard[0], pair.offset[0], pair.size[0])
            if not isinstance(image, BadImage):
                return image, pair
            bad.add(pair.keys[0].as_py(), image)
        raise UserError(
            f"none of the {MAX_REPLACEMENTS} images drawn to replace position {position} can be used; check the pool's "
            f"images, for example {': '.join(next(iter(bad.samples.items())))}"
        )

    def _read_ahead(self, pairs: Pairs) -> Sequence[memoryview | bytes | BadImage | None]:
        """Return the bytes of images that are read faster together; None for one that `_image` reads."""
        if any(is_table(self._files.shards[shard].path) for shard in np.unique(pairs.shard).tolist()):
            with self._tables_lock:  # the next batch finds the row groups of this one in memory
                return self._read_row_groups(pairs)
        is_merged = isinstance(self.order, plan.Streams) and (pairs.offset >= 0).all()
        if is_merged:
            return self._read_merged(pairs)
        return [None] * len(pairs)

    def _read_row_groups(self, pairs: Pairs) -> list[bytes | BadImage | None]:
        """Return the bytes of the pairs' images that are not in the cache; each row group is read once."""
        order = np.lexsort((pairs.offset, pairs.shard))
        is_cached = [place in self._cache for place in zip(pairs.shard.tolist(), pairs.offset.tolist(), strict=True)]
        order = order[~np.array(is_cached)[order] & (pairs.offset[order] >= 0)]
        files, starts = np.unique(pairs.shard[order], return_index=True)
        rows_of_file = np.split(order, starts[1:])
        read = self._threads.map(self._files.read_rows, files.tolist(), [pairs.offset[rows] for rows in rows_of_file])
        content: list[bytes | BadImage | None] = [None] * len(pairs)
        for rows, images in zip(rows_of_file, read, strict=False):  # no file: one empty part
            for row, image in zip(rows.tolist(), images, strict=True):
                if isinstance(image, BadShard):
                    content[row] = BadImage(UNREADABLE, str(image))
                else:
                    content[row] = image
        return content

    def _read_merged(self, pairs: Pairs) -> list[memoryview | BadImage]:
        """Return the bytes of the pairs' images.  Pairs of a stream are neighbours in a tar and share a read."""
        reads, read_of = plan.merge_ranges(pairs.shard, pairs.offset, pairs.size, MAX_GAP_BYTES)
        starts = reads[:, 1]
        sizes = reads[:, 2] - starts
        content = list(self._threads.map(self._read, reads[:, 0].tolist(), starts.tolist(), sizes.tolist()))
        offsets = pairs.offset - starts[read_of]
        images: list[memoryview | BadImage] = []
        for read, start, size in zip(read_of.tolist(), offsets.tolist(), pairs.size.tolist(), strict=True):
            data = content[read]
            if isinstance(data, BadImage):
                images.append(data)
            else:
                images.append(memoryview(data)[start : start + size])
        return images

    def _read(self, shard: int, offset: int, size: int) -> bytes | BadImage:
        try:
            return self._files.read(shard, offset, size)
        except BadShard as error:
            return BadImage(UNREADABLE, str(error))

    def _image(
        self, shard: int, offset: int, size: int, content: memoryview | bytes | BadImage | None = None
    ) -> torch.Tensor | BadImage:
        """Return the decoded image at a place, or why it cannot be decoded.  Small images are cached."""
        place = (int(shard), int(offset))
        cached = self._cache.get(place)
        if cached is not None:
            return cached
        data = content or self._read(int(shard), int(offset), int(size))
        if isinstance(data, BadImage):
            return data
        try:
            image: torch.Tensor | BadImage = torch.from_numpy(decode(bytes(data), self._min_side)).permute(2, 0, 1)
        except BadImage as error:
            image = BadImage(error.reason, error.detail)  # a caught one keeps the bytes alive by its traceback
        num_bytes = image.numel() if isinstance(image, torch.Tensor) else 0
        if num_bytes <= CACHED_IMAGE_BYTES and self._cached_bytes + num_bytes <= CACHE_BYTES:
            self._cache[place] = image
            self._cached_bytes += num_bytes
        return image

    def batches(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Yield batches first_step ... num_steps - 1, made ahead by threads, whose errors are raised here."""
        ahead: deque[Future[Batch]] = deque()
        batch_bytes = self.global_batch_size // self.world.size * 3 * self.image_size**2
        num_ahead = min(BATCHES_AHEAD, max(BATCHES_AT_ONCE, AHEAD_BYTES // batch_bytes))
        threads = _start_threads(min(BATCHES_AT_ONCE, self._num_threads), "loader")
        try:
            for step in range(first_step, num_steps):
                ahead.append(threads.submit(self.batch, step))
                if len(ahead) > num_ahead:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # the loop stopped early: a rank that is to exit has seconds, so no batch is finished
            self._is_stopping = True
            threads.shutdown(cancel_futures=True)
            self._is_stopping = False


def shards_to_cache(num_shards: int, shuffle_shards: int, num_streams: int, world: World) -> int:
    """Return how many shards' pairs to keep in memory.

    All of a small pool, which are read again in each epoch.  Of a large one those of this rank's streams, and some of
    streams of others; with windows none, since the window has all of their pairs.
    """
    if num_streams:
        return 2 * -(-num_streams // world.size) + FOREIGN_SHARDS
    return num_shards if num_shards <= 2 * shuffle_shards else 0


def _start_threads(number: int, name: str) -> ThreadPoolExecutor:
    """Start threads whose torch operations run on one core each.

    With more OpenMP threads than cores, libgomp puts the threads of the training step to sleep after each operation:
    the emoji demo trains 1.16 times as fast without them (benchmarks/results/loader_threads.md).
    """
    return ThreadPoolExecutor(number, thread_name_prefix=name, initializer=torch.set_num_threads, initargs=(1,))
