"""Stage 0, pool: pairs in WebDataset tars, Parquet or JSONL files, or the emoji pool that a run draws itself.

shards: the files of the pool.  read_texts: the texts of one file.  read_index, read_member: its images.
A format of shards is one module of formats/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.pool.listing import list_shards as list_shards
    from worldclip.pool.read import holds_images as holds_images
    from worldclip.pool.read import image_places as image_places
    from worldclip.pool.read import index_of as index_of
    from worldclip.pool.read import is_table as is_table
    from worldclip.pool.read import read_images as read_images
    from worldclip.pool.read import read_index as read_index
    from worldclip.pool.read import read_keys as read_keys
    from worldclip.pool.read import read_member as read_member
    from worldclip.pool.read import read_members as read_members
    from worldclip.pool.read import read_records as read_records
    from worldclip.pool.read import read_texts as read_texts
    from worldclip.pool.read import rows_of_keys as rows_of_keys
    from worldclip.pool.stage import index as index
    from worldclip.pool.stage import indexed_shards as indexed_shards
    from worldclip.pool.stage import key_lists as key_lists
    from worldclip.pool.stage import open_pool as open_pool
    from worldclip.pool.stage import shards as shards
    from worldclip.pool.texts import PoolTexts as PoolTexts

__getattr__, __dir__, __all__ = lazy_names(__name__)
