"""A pool format of another package: the Arrow files that docs/plugins.md shows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plugin_package import installed, page_code, write_package
from stages import QUIET
from worldclip import pool
from worldclip.core.errors import StageFailed

GROUP = {"worldclip.pool_formats": "arrow = arrow_files:ARROW"}
ROWS = (
    {"uid": ["a", "b"], "texts": [["a red cat", "eine Katze"], ["x"]]},
    {"uid": ["c", None], "texts": [[], ["no key"]]},
)


def index_and_texts(folder: Path, run_dir: Path) -> list[list[object]]:
    run = pool.open_pool(folder, key="uid")
    run.dir, run.executor = run_dir, QUIET
    pool.index(run)
    texts = [pool.read_texts(shard, run.sections["pool"]) for shard in pool.shards(run)]
    return [[table.text.to_pylist(), table.reason.tolist(), table.text_idx.to_pylist()] for table in texts]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    return write_package(tmp_path / "site", "arrow_files", page_code("arrow_files.py"), GROUP)


def test_shards_of_another_packages_format_hold_the_same_pairs(tmp_path, monkeypatch, plugin) -> None:
    for number, columns in enumerate(ROWS):
        table = pa.table(columns)
        for kind in ("parquet", "arrow"):
            (tmp_path / kind).mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "parquet" / f"{number}.parquet")
        with pa.ipc.new_file(tmp_path / "arrow" / f"{number}.arrow", table.schema) as file:
            file.write_table(table)
    with installed(monkeypatch, plugin):
        found = index_and_texts(tmp_path / "arrow", tmp_path / "run_a")
    assert found == index_and_texts(tmp_path / "parquet", tmp_path / "run_b")
    assert found[0][0] == ["a red cat", "eine Katze", "x"]


def test_a_damaged_shard_of_another_packages_format_fails_alone(tmp_path, monkeypatch, plugin) -> None:
    folder = tmp_path / "arrow"
    folder.mkdir()
    table = pa.table(ROWS[0])
    with pa.ipc.new_file(folder / "0.arrow", table.schema) as file:
        file.write_table(table)
    (folder / "1.arrow").write_bytes((folder / "0.arrow").read_bytes()[:-20])
    with installed(monkeypatch, plugin), pytest.raises(StageFailed) as failure:
        index_and_texts(folder, tmp_path / "run")
    assert list(failure.value.failures) == ["1.arrow"]
