"""The curated pairs with their images, in the plan's order: what is at any position is a pure function of it.

Which pairs there are, `pairs` says, and in which order, `order`; kept keys without an image are counted and absent.
Batches are made ahead of the loop by a thread.
"""

from __future__ import annotations

import functools
import math
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from worldclip.core.coin import sample_rows
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard, usable_cores
from worldclip.curate.stage import CurateWork
from worldclip.model.tokenizer import Tokenizer, Tokens
from worldclip.pool import read_member
from worldclip.train import plan
from worldclip.train.decode import Augmentation, BadImage, decode, random_resized_crop, warp
from worldclip.train.order import Order, Streams, Windows
from worldclip.train.pairs import Pairs, PairSource, concat

NO_IMAGE = "no_image"
MAX_GAP_BYTES = 256 * 2**10  # between images that one read takes together
MAX_REPLACEMENTS = 1_000  # draws of a stand-in before a pool counts as undecodable
CACHE_BYTES = 512 * 2**20  # decoded images kept, first come, first kept
CACHED_IMAGE_BYTES = 64 * 2**10  # larger ones (148 x 148 pixels) are decoded each time
SCALED_MARGIN = 1.25  # short side of a scaled decode in crops' sides: none is enlarged
PREFETCHED_BATCHES = 2
NUM_BAD_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's pairs, and what went wrong on the way to them."""

    images: torch.Tensor
    """(B, 3, S, S) uint8."""
    tokens: Tokens
    keys: list[str]
    text_idx: np.ndarray
    langs: Counter[str]
    """Pairs by language."""
    patches: torch.Tensor | None = None
    """(B, kept) int64: the patches that patch dropout leaves; None: all."""
    texts: list[str] = field(default_factory=list)
    """As they were tokenised, for other tokenizers."""
    bad: Counter[str] = field(default_factory=Counter)
    """Images that could not be used, by reason; each was replaced."""
    bad_keys: dict[str, str] = field(default_factory=dict)
    """Some of them, with the detail."""


class Loader:
    """Batches of the plan.  `batch(step)` depends on its arguments alone."""

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Shard],
        tokenizer: Tokenizer,
        *,
        image_size: int,
        global_batch_size: int,
        seed: int,
        shuffle_shards: int,
        augmentation: Augmentation,
        image_shards: Sequence[Shard] | None = None,
        num_patches: int = 0,
        patch_dropout: float = 0.0,
        workers: int | None = None,
        num_streams: int = 0,
        scaled_decode: bool = False,
        work: CurateWork | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.run_dir, self.tokenizer = run_dir, tokenizer
        self.shards = sorted(shards, key=lambda shard: shard.name)
        self.image_shards = image_shards
        self._files = image_shards or self.shards
        self.image_size, self.augmentation = image_size, augmentation
        self.global_batch_size, self.seed, self.shuffle_shards = global_batch_size, seed, shuffle_shards
        self._least_side = math.ceil(SCALED_MARGIN * image_size) if scaled_decode else None
        self.num_patches, self.patch_dropout = num_patches, patch_dropout
        self.rank, self.world_size = rank, world_size
        names = [shard.name for shard in self.shards]
        self.source = PairSource(run_dir, self.shards, image_shards, max(2 * shuffle_shards, 2 * num_streams), work)
        self.order: Order = (
            Streams(self.source, names, seed, num_streams)
            if num_streams
            else Windows(self.source, names, seed, shuffle_shards)
        )
        self._starts = [0]  # positions at which the epochs begin, in the endless sequence
        self._cache: dict[tuple[int, int], torch.Tensor | BadImage] = {}
        self._cached_bytes = 0
        self._threads = ThreadPoolExecutor(workers or usable_cores(), thread_name_prefix="decode")
        self.epoch_length = self.order.length(0)
        self.num_without_image = self.source.counts(0)[1]
        if self.epoch_length == 0:
            raise UserError(
                f"{run_dir / 'curate'} holds no pair with an image ({self.num_without_image} without); "
                "there is nothing to train on: raise balance.tail_fraction or give a larger pool"
            )

    def epochs_of(self, samples_seen: int) -> float:
        """Epochs that so many samples are."""
        epoch, within = (int(each[0]) for each in self._locate(np.array([samples_seen])))
        return epoch + within / self.order.length(epoch)

    def batch(self, step: int) -> Batch:
        """The pairs of batch `step`, this rank's slice."""
        epochs, within = self._positions(step)
        pairs = concat([self.order.pairs_at(int(epoch), within[epochs == epoch]) for epoch in np.unique(epochs)])
        bad: Counter[str] = Counter()
        bad_keys: dict[str, str] = {}
        images: list[torch.Tensor] = []
        stand_ins: dict[int, Pairs] = {}
        content = self._read_spans(pairs) if self.order.num_owners > 1 else [None] * len(pairs)
        for i, image in enumerate(self._threads.map(self._image, pairs.shard, pairs.offset, pairs.size, content)):
            if isinstance(image, BadImage):
                self._note(image, pairs.keys[i].as_py(), bad, bad_keys)
                image, stand_ins[i] = self._replace(int(epochs[i]), int(within[i]), bad, bad_keys)
            images.append(image)
        if stand_ins:
            pairs = concat([stand_ins.get(i, pairs.take(np.array([i]))) for i in range(len(pairs))])
        return self._finish(pairs, epochs, images, bad, bad_keys)

    def _positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, position within it) of this rank's pairs of batch `step`."""
        if self.order.num_owners == 1:
            return self._locate(plan.batch_positions(step, self.global_batch_size, self.rank, self.world_size))
        epochs, within = self._locate(plan.batch_positions(step, self.global_batch_size))
        owner = np.concatenate([self.order.owner(int(epoch), within[epochs == epoch]) for epoch in np.unique(epochs)])
        rows = np.sort(plan.share_by_owner(owner, self.order.num_owners, self.rank, self.world_size))
        return epochs[rows], within[rows]

    def _locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, position within it) of positions in the endless sequence, whose epochs may differ in length."""
        if not self.source.is_online:
            return plan.locate(positions, self.epoch_length)
        while self._starts[-1] <= positions.max():
            self._starts.append(self._starts[-1] + self.order.length(len(self._starts) - 1))
        epochs = np.searchsorted(self._starts, positions, side="right") - 1
        return epochs, positions - np.array(self._starts)[epochs]

    def _finish(
        self,
        pairs: Pairs,
        epochs: np.ndarray,
        images: list[torch.Tensor],
        bad: Counter[str],
        bad_keys: dict[str, str],
    ) -> Batch:
        keys = pairs.keys.to_pylist()
        draws = plan.crop_draws(keys, pairs.text_idx, self.seed, epochs)
        crop = functools.partial(random_resized_crop, scale_min=self.augmentation.crop_scale_min, size=self.image_size)
        cropped = torch.stack(list(self._threads.map(crop, images, draws)))
        if self.augmentation.warps:
            cropped = warp(cropped, draws, self.augmentation)
        texts = pairs.texts.to_pylist()
        tokens = self.tokenizer.encode(texts)
        langs = Counter(pairs.lang.to_pylist())
        patches = self._patches(keys, pairs.text_idx, epochs) if self.patch_dropout else None
        return Batch(cropped, tokens, keys, pairs.text_idx, langs, patches, texts, bad, bad_keys)

    def _patches(self, keys: list[str], text_idx: np.ndarray, epochs: np.ndarray) -> torch.Tensor:
        kept = plan.kept_patches(keys, text_idx, self.seed, epochs, self.num_patches, self.patch_dropout)
        return torch.from_numpy(kept)

    def _replace(
        self, epoch: int, position: int, bad: Counter[str], bad_keys: dict[str, str]
    ) -> tuple[torch.Tensor, Pairs]:
        """The first stand-in whose image decodes, as plan.replacement draws them."""
        for draw in range(1, MAX_REPLACEMENTS + 1):
            other = plan.replacement(position, draw, self.order.length(epoch), self.seed, epoch)
            pair = self.order.pairs_at(epoch, np.array([other]))
            image = self._image(pair.shard[0], pair.offset[0], pair.size[0])
            if not isinstance(image, BadImage):
                return image, pair
            self._note(image, pair.keys[0].as_py(), bad, bad_keys)
        raise UserError(
            f"none of {MAX_REPLACEMENTS} images drawn in place of {position} decodes; "
            f"the pool's images are broken: {', '.join(bad_keys)}"
        )

    def _note(self, image: BadImage, key: str, bad: Counter[str], bad_keys: dict[str, str]) -> None:
        bad[image.reason] += 1
        if len(bad_keys) < NUM_BAD_SAMPLES:
            bad_keys[key] = str(image)

    def _read_spans(self, pairs: Pairs) -> list[memoryview]:
        """The bytes of the pairs' images, neighbours in a tar by one read: a stream's pairs stand side by side."""
        spans, span_of = plan.spans(pairs.shard, pairs.offset, pairs.size, MAX_GAP_BYTES)
        paths = [self._files[int(shard)].path for shard in spans[:, 0]]
        read = list(self._threads.map(read_member, paths, spans[:, 1].tolist(), (spans[:, 2] - spans[:, 1]).tolist()))
        starts = pairs.offset - spans[span_of, 1]
        return [
            memoryview(read[span])[start : start + size]
            for span, start, size in zip(span_of.tolist(), starts.tolist(), pairs.size.tolist(), strict=True)
        ]

    def _image(self, shard: int, offset: int, size: int, content: memoryview | None = None) -> torch.Tensor | BadImage:
        """The decoded image of a member, or why there is none; small ones are kept."""
        where = (int(shard), int(offset))
        if (kept := self._cache.get(where)) is not None:
            return kept
        try:
            data = content or read_member(self._files[shard].path, int(offset), int(size))
            image: torch.Tensor | BadImage = decode(bytes(data), self._least_side)
        except BadImage as error:
            image = error
        num_bytes = image.numel() if isinstance(image, torch.Tensor) else 0
        if num_bytes <= CACHED_IMAGE_BYTES and self._cached_bytes + num_bytes <= CACHE_BYTES:
            self._cache[where] = image
            self._cached_bytes += num_bytes
        return image

    def batches(self, first_step: int, num_steps: int) -> Iterator[Batch]:
        """Batches first_step ... num_steps - 1, made ahead by a thread; its errors are raised here."""
        made: queue.Queue[Batch | BaseException] = queue.Queue(PREFETCHED_BATCHES)
        stopped = threading.Event()

        def put(item: Batch | BaseException) -> bool:
            while not stopped.is_set():
                try:
                    made.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for step in range(first_step, num_steps):
                    if not put(self.batch(step)):
                        return
            except BaseException as error:  # noqa: BLE001  raised in the loop's thread
                put(error)

        thread = threading.Thread(target=work, name="loader", daemon=True)
        thread.start()
        try:
            for _ in range(first_step, num_steps):
                item = made.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()


def pick_samples(samples: dict[str, str]) -> dict[str, str]:
    """Return NUM_BAD_SAMPLES of the bad keys, chosen by hash, so that every run reports the same ones."""
    keys = sorted(samples)
    rows, _ = sample_rows(keys, 0, NUM_BAD_SAMPLES)
    return {keys[row]: samples[keys[row]] for row in rows}
