"""faiss, usearch, autofaiss, DuckDB, pandas and LanceDB read what `worldclip embed` writes."""

from __future__ import annotations

import pytest

from client_tools import run_python
from embedded_world import write_world
from worldclip.core.execute import LocalExecutor
from worldclip.tools.embed import embed

pytestmark = pytest.mark.slow


def test_each_tool_finds_a_row_by_its_own_vector(tmp_path):
    write_world(tmp_path)
    out = tmp_path / "embedded"
    embed(tmp_path / "model", tmp_path / "pool", out, vectors_in_table=True, executor=LocalExecutor(quiet=True))
    one = tmp_path / "one"
    one.mkdir()
    for end in ("npy", "parquet"):
        (out / "images" / f"00000.tar.{end}").rename(one / f"00000.tar.{end}")
    nearest = run_python("search", "search_vectors.py", one, tmp_path)["nearest"]
    assert set(nearest.values()) == {0}, nearest
