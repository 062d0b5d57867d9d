"""One shard of a pool, whatever its format: its texts, and the places of its images."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core.artifacts import POOL_INDEX, read_table, write_table
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report, Shard
from worldclip.kernels import tar_headers as tar
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import read_bytes, read_range
from worldclip.pool.formats import rows as table
from worldclip.pool.formats import tar as webdataset
from worldclip.pool.records import DEFAULT_FIELDS
from worldclip.pool.texts import PoolTexts, find_duplicates

USUAL_KEYS = ("key", "uid", "id", "hash", "url", "URL")  # offered where a table's key is not named
NUM_PROBED = 100  # records in which a field must occur before a recipe that names it is believed


class WrongColumns(BadShard):
    """A shard lacks what pool.key or pool.texts name; the recipe's mistake where no shard has it."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


def format_of(name: str) -> str:
    """tar, parquet or jsonl; "" for a file of another kind."""
    if name.endswith((".jsonl", ".jsonl.gz")):
        return "jsonl"
    return {".tar": "tar", ".parquet": "parquet"}.get(Path(name).suffix, "")


def read_texts(shard: Shard, config: PoolConfig) -> PoolTexts:
    """All texts of one shard.  Raises BadShard where it is cut, damaged, unreadable or lacks the recipe's columns."""
    match format_of(shard.name):
        case "tar":
            samples = webdataset.read_samples(shard, read_bytes(shard.path))
            return webdataset.read_texts(samples, config.key, config.texts, config.lang)
        case "parquet":
            key, columns = choose_columns(table.read_schema(shard).names, config)
            return table.texts_of_parquet(shard, key, columns, None if config.lang is None else _bare(config.lang))
        case _:
            lang = None if config.lang is None else _bare(config.lang)
            return table.texts_of_lines(shard, _bare(config.key), tuple(_bare(name) for name in config.texts), lang)


def _bare(name: str) -> str:
    return name.removeprefix("json:")


def choose_columns(names: Sequence[str], config: PoolConfig) -> tuple[str, tuple[str, ...]]:
    """(key column, text columns) of a table with the columns `names`.  Raises WrongColumns that suggests near names."""
    key = _bare(config.key)
    problems = _key_problems(names, key)
    columns = tuple(_bare(name) for name in config.texts)
    problems += [_missing("pool.texts", name, names) for name in columns if name not in names]
    if config.lang is not None and _bare(config.lang) not in names:
        problems.append(_missing("pool.lang", _bare(config.lang), names))
    if not columns:
        columns = tuple(name for name in DEFAULT_FIELDS if name in names)[:1]
        if not columns:
            problems.append(
                f"pool.texts is unset and there is no column {_list(DEFAULT_FIELDS)}; name one: {_list(names)}"
            )
    if problems:
        raise WrongColumns(problems)
    return key, columns


def _key_problems(names: Sequence[str], key: str) -> list[str]:
    if key == "member":
        usual = [name for name in USUAL_KEYS if name in names]
        return [f'pool.key is "member", which tars have; name the column of the identity: {_list(usual or names)}']
    return [] if key in names else [_missing("pool.key", key, names)]


def _missing(setting: str, name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [there.lower() for there in names], n=1)
    meant = [there for there in names if near and there.lower() == near[0]]
    return f"{setting} names {name!r}, which it lacks; " + (
        f"did you mean {meant[0]!r}?" if meant else f"it has {_list(names)}"
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "nothing"


def check_key(shard: Shard, config: PoolConfig) -> None:
    """As check_columns, of pool.key alone."""
    if format_of(shard.name) == "tar" and config.key == "member":
        return
    names, _ = _first_names(shard)
    if names and (problems := _key_problems(names, _bare(config.key))):
        raise WrongColumns(problems)


def check_columns(shard: Shard, config: PoolConfig) -> None:
    """Raise WrongColumns where the shard, as far as its first records tell, has nothing that the recipe names."""
    form = format_of(shard.name)
    names, has_txt = _first_names(shard)
    if form == "parquet" or (form == "jsonl" and config.key == "member"):
        choose_columns(names, config)
        return
    places = [name for name in config.texts if form == "jsonl" or name != "txt"]
    problems = []
    if config.key != "member" and names:
        problems += _key_problems(names, _bare(config.key))
    if (
        places
        and names
        and not any(_bare(name) in names for name in places)
        and not (has_txt and "txt" in config.texts)
    ):
        problems += [_missing("pool.texts", _bare(name), names) for name in places]
    if problems:
        raise WrongColumns(problems)


def _first_names(shard: Shard) -> tuple[list[str], bool]:
    """(columns, or fields of the first records; whether a tar has any .txt)."""
    form = format_of(shard.name)
    if form == "parquet":
        return table.read_schema(shard).names, False
    has_txt = False
    if form == "jsonl":
        records = table.read_lines(shard)[:NUM_PROBED]
    else:
        samples = webdataset.read_samples(shard, read_bytes(shard.path))
        records, has_txt = samples.records(NUM_PROBED), bool((samples.txt != webdataset.NO_MEMBER).any())
    return list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record)), has_txt


def read_keys(shard: Shard, config: PoolConfig) -> tuple[pa.Array, int, int]:
    """(identities of one shard's pairs in order, each once; pairs without one; repeats).  Raises BadShard.

    What match makes of the shard: a pair without an identity is bad, the first of a repeated one stays.
    """
    match format_of(shard.name):
        case "tar":
            keys, has_key, _ = webdataset.read_samples(shard, read_bytes(shard.path)).keys(config.key)
        case "parquet":
            key = _bare(config.key)
            if problems := _key_problems(table.read_schema(shard).names, key):
                raise WrongColumns(problems)
            keys, has_key = table.keys_of_parquet(shard, key)
        case _:
            keys, has_key = table.keys_of_lines(shard, _bare(config.key))
    is_repeat = find_duplicates(keys, has_key)
    first = keys.filter(pa.array(has_key & ~is_repeat))
    return first, int((~has_key).sum()), int(is_repeat.sum())


def write_index(shard: Shard, config: PoolConfig, path: Path) -> Report:
    """Write where each pair's image is in a tar; tables have none.  Report: pairs, images, ignored_members."""
    if format_of(shard.name) != "tar":
        num_pairs = table.count_rows(shard) if format_of(shard.name) == "parquet" else len(table.read_lines(shard))
        write_table(path, POOL_INDEX.empty_table(), POOL_INDEX)
        return {"pairs": num_pairs, "images": 0, "ignored_members": 0}
    index, counts = index_of(shard, config)
    write_table(path, index, POOL_INDEX)
    return counts


def index_of(shard: Shard, config: PoolConfig, content: np.ndarray | None = None) -> tuple[pa.Table, Report]:
    """(key, member, offset, size of the first image of each pair of a tar, the counts of write_index).

    content: the tar's bytes, where they are read already.
    """
    samples = webdataset.read_samples(shard, read_bytes(shard.path) if content is None else content)
    keys, has_key, _ = samples.keys(config.key)
    chosen = np.flatnonzero(has_key & ~find_duplicates(keys, has_key) & (samples.image != webdataset.NO_MEMBER))
    members = samples.image[chosen]
    index = {
        "key": keys.take(pa.array(chosen)),
        "member": pa.array([samples.member_name(member) for member in members], pa.string()),
        "offset": samples.members[members, tar.AT],
        "size": samples.members[members, tar.SIZE],
    }
    counts = {"pairs": len(samples), "images": len(chosen), "ignored_members": samples.num_ignored}
    return pa.table(index), counts


def read_images(shard: Shard, config: PoolConfig) -> tuple[pa.Table, Iterator[bytes]]:
    """(key, member, offset, size as index_of, the images in the same order), the tar read once; tables have none."""
    if format_of(shard.name) != "tar":
        return POOL_INDEX.empty_table(), iter(())
    content = read_bytes(shard.path)
    index, _ = index_of(shard, config, content)
    places = zip(index["offset"].to_pylist(), index["size"].to_pylist(), strict=True)
    return index, (content[offset : offset + size].tobytes() for offset, size in places)


def index_path(run_dir: Path, shard: Shard) -> Path:
    return run_dir / "pool" / "index" / f"{shard.name}.parquet"


def read_index(run_dir: Path, shard: Shard) -> pa.Table:
    """Rows of key, member, offset, size (bytes in the tar at `shard.path`): the first image of each sample."""
    return read_table(index_path(run_dir, shard), POOL_INDEX)


def read_member(path: str | Path, offset: int, size: int) -> bytes:
    """`size` bytes of a tar (local path or URL) from `offset` on.  Raises BadShard where there are fewer."""
    content = read_range(str(path), offset, size)
    if len(content) != size:
        raise BadShard(f"{path}: member at byte {offset:,} is cut off; the tar changed since it was indexed")
    return content
