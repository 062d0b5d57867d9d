"""A pool format and a pool builder of another package: the Arrow files and grey levels that docs/plugins.md shows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import worldclip
from plugin_package import installed, page_code, write_package
from pools import write_table
from stages import QUIET
from worldclip import pool
from worldclip.config import load_recipe
from worldclip.core.errors import StageFailed, UserError
from worldclip.pool.config import PoolConfig

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


def write_arrow(path: Path, columns: dict[str, object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    table = pa.table(columns)
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    return path


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    return write_package(tmp_path / "site", "arrow_files", page_code("arrow_files.py"), GROUP)


def test_shards_of_another_packages_format_hold_the_same_pairs(tmp_path, monkeypatch, plugin) -> None:
    for number, columns in enumerate(ROWS):
        write_table(tmp_path / "parquet" / f"{number}.parquet", columns)
        write_arrow(tmp_path / "arrow" / f"{number}.arrow", columns)
    with installed(monkeypatch, plugin):
        found = index_and_texts(tmp_path / "arrow", tmp_path / "run_a")
    assert found == index_and_texts(tmp_path / "parquet", tmp_path / "run_b")
    assert found[0][0] == ["a red cat", "eine Katze", "x"]


def test_a_format_that_cannot_be_imported_is_named_where_the_recipe_asks_for_it(tmp_path, monkeypatch) -> None:
    write_table(tmp_path / "0.parquet", ROWS[0])
    points = {"worldclip.pool_formats": "feather = no_feather:FORMAT"}
    package = write_package(tmp_path / "site", "no_feather", "import nowhere", points)
    with installed(monkeypatch, package), pytest.raises(UserError, match="'feather' of the package no_feather cannot"):
        pool.list_shards(PoolConfig(path=str(tmp_path), format="feather"))
    assert pool.list_shards(PoolConfig(path=str(tmp_path), format="parquet"))


def test_a_damaged_shard_of_another_packages_format_fails_alone(tmp_path, monkeypatch, plugin) -> None:
    whole = write_arrow(tmp_path / "arrow" / "0.arrow", ROWS[0])
    (tmp_path / "arrow" / "1.arrow").write_bytes(whole.read_bytes()[:-20])
    with installed(monkeypatch, plugin), pytest.raises(StageFailed) as failure:
        index_and_texts(tmp_path / "arrow", tmp_path / "run")
    assert list(failure.value.failures) == ["1.arrow"]


def test_a_run_draws_the_pool_of_another_package_once(tmp_path, monkeypatch) -> None:
    recipe = tmp_path / "letters.toml"
    recipe.write_text('[pool]\nbuild = "letters"\n[balance]\ntail_fraction = 0.06\n', encoding="utf-8")
    group = {"worldclip.pool_builders": "letters = letters"}
    package = write_package(tmp_path / "site", "letters", page_code("letters.py"), group)
    with installed(monkeypatch, package):
        run_dir = worldclip.run(recipe, out=tmp_path / "run", until="pool")
        run = pool.open_pool(run_dir)
        (shard,) = pool.shards(run)
        assert pool.read_texts(shard, run.section(PoolConfig)).text.to_pylist() == ["black", "grey", "white"]
        before = (run_dir / "pool/pairs/000000.tar").stat().st_mtime_ns
        worldclip.run(recipe, out=tmp_path / "run", until="pool")
        assert (run_dir / "pool/pairs/000000.tar").stat().st_mtime_ns == before
        with pytest.raises(UserError, match=r"pool\.parts\.x.*is no part of the letters"):
            load_recipe(recipe, ["pool.parts.x=here"])
    with pytest.raises(UserError, match=r'pool\.build = "letters": unknown pool builder; '):
        load_recipe(recipe)
