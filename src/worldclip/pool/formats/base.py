"""The interface of a format of pool shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import pyarrow as pa

from worldclip.contracts.schemas import POOL_INDEX
from worldclip.core.execute import Report, Shard
from worldclip.pool.config import PoolConfig
from worldclip.pool.records import KeyedRecords
from worldclip.pool.texts import PairKeys, PoolTexts

# pairs; images; members of a tar that belong to no sample; rows that pool.where leaves out
INDEX_COUNTS = ("pairs", "images", "ignored_members", "left_out")


class PoolFormat(ABC):
    """How shards of one kind are read; every method raises BadShard for a shard that is damaged or unreadable.

    Images are the business of formats that override `holds_images` and the methods below it.
    """

    name: str
    """As `worldclip init` prints it."""
    suffixes: tuple[str, ...]
    is_table = True
    """Whether pool.key names a column; False: the samples of a tar have keys of their own."""

    @abstractmethod
    def read_texts(self, shard: Shard, config: PoolConfig) -> PoolTexts:
        """Return all texts of a shard."""

    @abstractmethod
    def read_keys(self, shard: Shard, config: PoolConfig) -> PairKeys:
        """Return the identity of each pair in order, repeated ones included."""

    @abstractmethod
    def field_names(self, shard: Shard, config: PoolConfig) -> list[str]:
        """Return the columns of a table, or the fields of the first records."""

    @abstractmethod
    def check_columns(self, shard: Shard, config: PoolConfig, *, is_key_only: bool = False) -> None:
        """Raise WrongColumns if the head of the shard has nothing that pool.key, pool.texts or pool.lang names.

        is_key_only: look for pool.key only.  Raises another BadShard where it has neither columns nor pairs, which
        tells nothing of the recipe.
        """

    def holds_images(self, shard: Shard, config: PoolConfig) -> bool:
        """Return whether shards like this one hold images; not every pair must have one."""
        return False

    @abstractmethod
    def index_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Report]:
        """Return where the first image of each pair is (schema POOL_INDEX), and INDEX_COUNTS."""

    def read_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Iterator[bytes]]:
        """Return the index as `index_images` does and the images in the same order; the shard is read once."""
        return POOL_INDEX.empty_table(), iter(())

    def read_records(self, shard: Shard, config: PoolConfig) -> KeyedRecords:
        """Return the identity of each pair, and what JSON can hold of it."""
        return [], []
