"""A shard whose keys, once per text, pass 2 GiB: more than the 32-bit offsets of a string array reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tars import shard_of
from worldclip import pool
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.arrow import one_array
from worldclip.pool.config import PoolConfig

NUM_PAIRS, KEY_BYTES, TEXTS_PER_PAIR = 2100, 100_000, 11


@pytest.mark.slow
def test_keys_that_pass_two_gib_once_per_text_are_read_and_written(tmp_path: Path) -> None:
    keys = [f"{number:06}" + "k" * (KEY_BYTES - 6) for number in range(NUM_PAIRS)]
    texts = [[f"text {number}"] * TEXTS_PER_PAIR for number in range(NUM_PAIRS)]
    pq.write_table(pa.table({"url": keys, "texts": texts}), tmp_path / "0.parquet", compression="zstd")
    config = PoolConfig(path=str(tmp_path), key="url", texts=("texts",))
    read = pool.read_texts(shard_of(tmp_path / "0.parquet"), config)
    num_rows = NUM_PAIRS * TEXTS_PER_PAIR
    assert len(read.key) == num_rows
    assert read.key.nbytes > 2**31
    table = pa.table(
        {
            "key": read.key,
            "text_idx": read.text_idx,
            "text": read.text,
            "lang": ["en"] * num_rows,
            "keep_prob": np.ones(num_rows),
        }
    )
    del read
    artifacts.write_table(tmp_path / "curated.parquet", table, schemas.CURATED)
    del table
    whole = one_array(artifacts.read_table(tmp_path / "curated.parquet", schemas.CURATED, ["key"])["key"])
    assert len(whole) == num_rows
    assert [whole[row].as_py()[:6] for row in (0, TEXTS_PER_PAIR, num_rows - 1)] == ["000000", "000001", "002099"]
