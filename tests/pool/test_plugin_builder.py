"""A pool builder of another package: the grey levels that docs/plugins.md shows."""

from __future__ import annotations

import pytest

import worldclip
from plugin_package import installed, page_code, write_package
from worldclip import pool
from worldclip.config import load_recipe
from worldclip.core.errors import UserError
from worldclip.pool.config import PoolConfig

GROUP = {"worldclip.pool_builders": "letters = letters"}
RECIPE = '[pool]\nbuild = "letters"\n[balance]\ntail_fraction = 0.06\n'


def test_a_run_draws_the_pool_of_another_package_once(tmp_path, monkeypatch, capsys) -> None:
    recipe = tmp_path / "letters.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    package = write_package(tmp_path / "site", "letters", page_code("letters.py"), GROUP)
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
