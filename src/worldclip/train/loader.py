"""The curated pairs with their images, in the plan's order: what is at any position is a pure function of it.

The curated tables say which pairs, the pool's index where their images are; kept keys without an image are counted
and absent from the plan.  Batches are made ahead of the loop by a thread.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from worldclip.coin import uniform
from worldclip.curate import read_curated
from worldclip.errors import UserError
from worldclip.execute import Shard, usable_cores
from worldclip.pool import read_index, read_member
from worldclip.tokenizer import Tokenizer, Tokens
from worldclip.train import plan
from worldclip.train.images import Augmentation, BadImage, decode, random_resized_crop, warp
from worldclip.train.join import file_positions, read_places

NO_IMAGE = "no_image"
MAX_REPLACEMENTS = 1_000  # draws of a stand-in before a pool counts as undecodable
CACHE_BYTES = 512 * 2**20  # decoded images kept, first come, first kept
CACHED_IMAGE_BYTES = 64 * 2**10  # larger ones (148 x 148 pixels) are decoded each time
PREFETCHED_BATCHES = 2
NUM_BAD_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Pairs:
    """The curated pairs of one shard or window that have an image; row i of each column is pair i."""

    keys: pa.Array
    text_idx: np.ndarray
    texts: pa.Array
    lang: pa.Array
    shard: np.ndarray
    """Index into the tars that hold the images."""
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> Pairs:
        columns = (self.keys, self.texts, self.lang)
        keys, texts, lang = (column.take(pa.array(rows)) for column in columns)
        return Pairs(keys, self.text_idx[rows], texts, lang, self.shard[rows], self.offset[rows], self.size[rows])


def concat(parts: Sequence[Pairs]) -> Pairs:
    """Pairs of several shards, in order."""
    keys, texts, lang = (
        pa.concat_arrays([getattr(part, name) for part in parts]) for name in ("keys", "texts", "lang")
    )
    text_idx, shard, offset, size = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("text_idx", "shard", "offset", "size")
    )
    return Pairs(keys, text_idx, texts, lang, shard, offset, size)


def read_pairs(
    run_dir: Path, shard: Shard, shard_idx: int, image_shards: Sequence[Shard] | None = None
) -> tuple[Pairs, int]:
    """The curated pairs of a shard with the places of their images, and how many had none.

    image_shards: the tars of train.pool, joined already; without, the pool's index is joined by key.
    """
    columns = ("key", "text_idx", "text", "lang")
    curated = read_curated(run_dir, shard, columns)
    if image_shards is None:
        index = read_index(run_dir, shard)
        file = np.full(len(index), shard_idx, np.int64)
    else:
        index = read_places(run_dir, shard)
        file = file_positions(index, image_shards)
    found = pc.index_in(curated["key"], value_set=index["key"]).combine_chunks()
    has_image = found.is_valid()
    curated = curated.filter(has_image).combine_chunks()
    rows = found.drop_null().to_numpy(zero_copy_only=False)

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.concat_arrays([*curated[name].cast(kind).chunks, pa.array([], kind)])

    pairs = Pairs(
        column("key", pa.large_string()),
        column("text_idx", pa.int32()).to_numpy(),
        column("text", pa.large_string()),
        column("lang", pa.string()),
        file[rows],
        index["offset"].to_numpy()[rows],
        index["size"].to_numpy()[rows],
    )
    return pairs, len(found) - len(rows)


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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.run_dir, self.tokenizer = run_dir, tokenizer
        self.shards = sorted(shards, key=lambda shard: shard.name)
        self.image_shards = image_shards
        self._files = image_shards or self.shards
        self.image_size, self.augmentation = image_size, augmentation
        self.global_batch_size, self.seed, self.shuffle_shards = global_batch_size, seed, shuffle_shards
        self.rank, self.world_size = rank, world_size
        self._read = functools.lru_cache(maxsize=2 * shuffle_shards)(self._read_shard)
        self._windows = functools.lru_cache(maxsize=2)(self._read_window)  # a batch may span two
        self._layout = functools.lru_cache(maxsize=2)(self._epoch_layout)
        self._cache: dict[tuple[int, int], torch.Tensor | BadImage] = {}
        self._cached_bytes = 0
        self._threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        counts = [self._read(i) for i in range(len(self.shards))]
        self.num_pairs = np.array([len(pairs) for pairs, _ in counts], np.int64)
        self.num_without_image = sum(missing for _, missing in counts)
        self.epoch_length = int(self.num_pairs.sum())
        if self.epoch_length == 0:
            raise UserError(
                f"{run_dir / 'curate'} holds no pair with an image ({self.num_without_image} without); "
                "there is nothing to train on: raise balance.tail_fraction or give a larger pool"
            )

    def batch(self, step: int) -> Batch:
        """The pairs of batch `step`, this rank's slice."""
        positions = plan.batch_positions(step, self.global_batch_size, self.rank, self.world_size)
        epochs, within = plan.locate(positions, self.epoch_length)
        pairs = concat([self._pairs_at(int(epoch), within[epochs == epoch]) for epoch in np.unique(epochs)])
        bad: Counter[str] = Counter()
        bad_keys: dict[str, str] = {}
        images: list[torch.Tensor] = []
        stand_ins: dict[int, Pairs] = {}
        for i, image in enumerate(self._threads.map(self._image, pairs.shard, pairs.offset, pairs.size)):
            if isinstance(image, BadImage):
                self._note(image, pairs.keys[i].as_py(), bad, bad_keys)
                image, stand_ins[i] = self._replace(int(epochs[i]), int(within[i]), bad, bad_keys)
            images.append(image)
        if stand_ins:
            pairs = concat([stand_ins.get(i, pairs.take(np.array([i]))) for i in range(len(pairs))])
        return self._finish(pairs, epochs, images, bad, bad_keys)

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
        tokens = self.tokenizer.encode(pairs.texts.to_pylist())
        return Batch(cropped, tokens, keys, pairs.text_idx, Counter(pairs.lang.to_pylist()), bad, bad_keys)

    def _replace(
        self, epoch: int, position: int, bad: Counter[str], bad_keys: dict[str, str]
    ) -> tuple[torch.Tensor, Pairs]:
        """The first stand-in whose image decodes, as plan.replacement draws them."""
        for draw in range(1, MAX_REPLACEMENTS + 1):
            other = plan.replacement(position, draw, self.epoch_length, self.seed, epoch)
            pair = self._pairs_at(epoch, np.array([other]))
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

    def _pairs_at(self, epoch: int, positions: np.ndarray) -> Pairs:
        """The pairs at positions of an epoch, in the order of `positions`."""
        starts = self._layout(epoch)[1]
        window_of = np.searchsorted(starts, positions, side="right") - 1
        parts = [
            self._windows(epoch, int(window)).take(positions[window_of == window] - starts[window])
            for window in np.unique(window_of)
        ]
        if len(parts) == 1:
            return parts[0]
        back = np.argsort(np.argsort(window_of, kind="stable"), kind="stable")
        return concat(parts).take(back)

    def _epoch_layout(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The epoch's windows (shard indices) and the position at which each starts."""
        names = [shard.name for shard in self.shards]
        found = plan.windows(plan.shard_order(names, self.seed, epoch), self.shuffle_shards)
        lengths = [int(self.num_pairs[window].sum()) for window in found]
        return found, np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)

    def _read_window(self, epoch: int, window: int) -> Pairs:
        """A window's pairs in their order."""
        pairs = concat([self._read(int(shard))[0] for shard in self._layout(epoch)[0][window]])
        return pairs.take(plan.pair_order(pairs.keys, pairs.text_idx, self.seed, epoch))

    def _read_shard(self, shard_idx: int) -> tuple[Pairs, int]:
        return read_pairs(self.run_dir, self.shards[shard_idx], shard_idx, self.image_shards)

    def _image(self, shard: int, offset: int, size: int) -> torch.Tensor | BadImage:
        """The decoded image of a member, or why there is none; small ones are kept."""
        where = (int(shard), int(offset))
        if (kept := self._cache.get(where)) is not None:
            return kept
        try:
            image: torch.Tensor | BadImage = decode(read_member(self._files[shard].path, int(offset), int(size)))
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
    """NUM_BAD_SAMPLES of the bad keys, chosen by the coin, so that the same ones stand in every run's report."""
    chosen = sorted(samples, key=lambda key: (uniform(key, 0, 0, 0), key))[:NUM_BAD_SAMPLES]
    return {key: samples[key] for key in chosen}
