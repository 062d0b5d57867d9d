"""Stage 0, pool: pairs in WebDataset tars, Parquet or JSONL files, or the emoji pool that a run draws itself.

The stage reads each shard once.  read_pairs: the pairs of a shard.  read_images, read_members: its images.
A format of shards is one function of formats/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.pool.excluded_keys import key_lists as key_lists
    from worldclip.pool.excluded_keys import older_lists as older_lists
    from worldclip.pool.listing import list_shards as list_shards
    from worldclip.pool.listing import options_of as options_of
    from worldclip.pool.pairs import left_out_by as left_out_by
    from worldclip.pool.pairs import may_hold_images as may_hold_images
    from worldclip.pool.pairs import read_columns as read_columns
    from worldclip.pool.pairs import read_shard as read_shard
    from worldclip.pool.read import EVERY_KEY as EVERY_KEY
    from worldclip.pool.read import holds_images as holds_images
    from worldclip.pool.read import image_places as image_places
    from worldclip.pool.read import is_table as is_table
    from worldclip.pool.read import read_contents as read_contents
    from worldclip.pool.read import read_images as read_images
    from worldclip.pool.read import read_keys as read_keys
    from worldclip.pool.read import read_member as read_member
    from worldclip.pool.read import read_members as read_members
    from worldclip.pool.read import read_pairs as read_pairs
    from worldclip.pool.shards_of_run import expected_files as expected_files
    from worldclip.pool.shards_of_run import indexed_shards as indexed_shards
    from worldclip.pool.shards_of_run import list_pool as list_pool
    from worldclip.pool.shards_of_run import refuse_changed_keys as refuse_changed_keys
    from worldclip.pool.shards_of_run import refuse_replaced_files as refuse_replaced_files
    from worldclip.pool.stage import index as index
    from worldclip.pool.stage import is_run as is_run
    from worldclip.pool.stage import num_left_out as num_left_out
    from worldclip.pool.stage import open_pool as open_pool
    from worldclip.pool.stage import read_pool as read_pool
    from worldclip.pool.texts import PoolTexts as PoolTexts

__getattr__, __dir__, __all__ = lazy_names(__name__)
