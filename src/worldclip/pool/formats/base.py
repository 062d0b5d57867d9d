"""A format of pool shards: what its `read` finds in a shard.

A format knows its own bytes and nothing else.  pool/pairs.py asks pool.where, finds repeated keys, empty texts and bad
UTF-8, and counts, for all formats alike.
Legend: P pairs of the shard, in order; V values of a field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.suggest import nearest
from worldclip.pool.config import PoolConfig

ROW = "row"  # pool.key: the shard's name and the number of the row, unless a column has this name
DEFAULT_PLACES = ("txt", "texts", "text", "caption", "TEXT")
"""Where the texts are if pool.texts is not set, the first that exists: the .txt of a tar, img2dataset's `caption`,
LAION's `TEXT`."""


class WrongColumns(BadShard):
    """A shard lacks what the recipe names.  If every shard does, the recipe is wrong."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


def missing_column(setting: str, name: str, names: Sequence[str]) -> str:
    """Say that a shard lacks the column or field that a key of the recipe names, and which name is near."""
    remedy = f"there is: {', '.join(names) or 'nothing'}"
    near = nearest(name, names)
    if near:
        remedy = f"did you mean {near[0]!r}?"
    return f"{setting}: no column or field {name!r}; {remedy}"


class Values(NamedTuple):
    """The texts of a place of pool.texts, or the labels of language.  A pair has none, one, or a list of them."""

    pair: np.ndarray
    """(V,) int64, ascending: the pair of each value."""
    value: pa.LargeBinaryArray
    """(V,) as stored, which need not be UTF-8; null where a null is stored."""
    is_list: np.ndarray
    """(P,) bool: the pair has a list, of any length."""
    place: int = 0
    """Position in pool.texts; 0 for the default."""
    problem: pa.StringArray | None = None
    """(V,) why a value is no text; null where it is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPairs:
    """The pairs of a shard as they are stored: pair i is row i of a table, sample i of a tar, record i of JSONL."""

    names: Sequence[str]
    """Columns or fields that the shard has; of tars whose .json nobody asks for, only `txt`."""
    has_schema: bool = False
    """Whether every pair has every field: the columns of a table."""
    num_pairs: int
    keys: pa.LargeBinaryArray | None
    """(P,) values of the field that pool.key names; None if no pair has it."""
    texts: Sequence[Values]
    """The texts of each place of pool.texts, or of the default, that any pair has."""
    labels: Values | None = None
    """Labels of language, if pool.lang is set; None if no pair has the field."""
    fields: Mapping[str, pa.Array | pa.ChunkedArray] = field(default_factory=dict)
    """(P,) values of each field that pool.where compares and that some pair has."""
    images: pa.Table | None = None
    """Where the images are, at most one per pair; None if no shard like this one holds any.  Columns:
    row int64, ascending: the pair.  member string: name in the shard, or path next to a table.
    offset int64: byte of a tar; column and row of Parquet (row_groups.pack_places); below 0: a file of its own.
    size int64: bytes; -1 if unknown."""
    stems: pa.LargeBinaryArray | None = None
    """(P,) keys under pool.key = "member"; None: the pairs have no names of their own."""
    unreadable: Mapping[int, str] = field(default_factory=dict)
    """Why a pair cannot be read, by pair: a row with too few fields.  No pool.where leaves it out."""
    problems: Mapping[int, str] = field(default_factory=dict)
    """Why a pair that can be read cannot be used, by pair: its picture is gone, its key is a list."""
    num_ignored: int = 0
    """Members of a tar that belong to no pair."""


Read = Callable[[Shard, PoolConfig], ShardPairs]
ReadRows = Callable[[Shard, PoolConfig, np.ndarray], Sequence[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolFormat:
    """A format: an item of POOL_FORMATS."""

    name: str
    """As `worldclip init` prints it."""
    suffixes: tuple[str, ...]
    read: Read
    """Return what a shard holds.  Raises BadShard for a damaged one.  config: the options of the shard's place."""
    read_rows: ReadRows | None = None
    """Return all fields of the pairs in ascending rows, as JSON can hold them; None: there are no further fields."""
    is_table: bool = True
    """Whether pairs are rows, and images next to a shard may be those that it names; False: members of a tar."""
