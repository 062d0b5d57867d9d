"""What pool.where leaves out is a reason like all others: counted, named, explained, and on the data card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plain_recipe import make_recipe, run_stages, write_metadata
from pools import write_lines
from tars import sample, write_tar
from worldclip.core.errors import UserError
from worldclip.tools.explain_text import key_to_text
from worldclip.tools.inspect_run import inspect_key

LISTS = {"en": ["red", "blue"]}
ROWS: list[dict[str, Any]] = [
    {"uid": "a", "text": "a red car", "lang": "en-GB", "width": 300},
    {"uid": "b", "text": "a blue car", "lang": "en", "width": 100},
    {"uid": "c", "text": "a red hat", "lang": "en", "width": None},
    {"uid": "d", "text": "a hat", "lang": "en", "width": 500},
]


def write_parquet(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "0.parquet")


def write_jsonl(folder: Path) -> None:
    write_lines(folder / "0.jsonl", ROWS)


def write_tars(folder: Path) -> None:
    write_tar(folder / "0.tar", [member for i, row in enumerate(ROWS) for member in sample(f"{i}", None, row)])


def run_where(tmp_path: Path, write: Callable[[Path], None], policy: str, **where: Any) -> tuple[Path, dict[str, Any]]:
    (tmp_path / "pool").mkdir()
    write(tmp_path / "pool")
    write_metadata(tmp_path / "run", LISTS)
    prefix = "json:" if write is write_tars else ""
    pool: dict[str, Any] = {"key": f"{prefix}uid", "texts": [f"{prefix}text"], "lang": f"{prefix}lang"}
    pool["where"] = {f"{prefix}{name}": condition for name, condition in where.items()}
    sections = {"languages": {"codes": ["en"]}, "curate": {"text_policy": policy}, "balance": {"tail_fraction": 1.0}}
    return tmp_path / "run", run_stages(make_recipe(tmp_path / "pool", pool=pool, **sections), tmp_path / "run")


@pytest.mark.parametrize("policy", ["all", "one"])
@pytest.mark.parametrize("write", [write_parquet, write_jsonl, write_tars])
def test_left_out_pairs_are_counted_and_explained(
    write: Callable[[Path], None], policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, reports = run_where(tmp_path, write, policy, width={">=": 200, "<": 1000})
    assert reports["match"]["pairs"] == reports["match"]["num_keys"] == len(ROWS)
    assert reports["match"]["texts"]["und"] == reports["match"]["keys"]["und"] == {"left_out": 2}
    total = reports["curate"]["total"]
    assert (total["pairs_in"], total["left_out"], total["no_match"], total["pairs_out"]) == (4, 2, 1, 1)
    said = capsys.readouterr().err
    assert "2 pairs in 1 shards" in said.replace(", 2 without an image", "")
    assert said.count("2 left out by pool.where") == 3  # pool, match, curate
    card = (run / "curate" / "DATA_CARD.md").read_text()
    assert "took only pairs with " in card
    assert "width` >= 200 and < 1000; 2 left out." in card
    assert f"- `pool.lang`: {'json:' if write is write_tars else ''}lang\n" in card
    explained = inspect_key(run, "b")
    assert explained["left_out_because"] == ["width is 100, must be >= 200"]
    assert explained["texts"][0]["reason"] == "left_out"
    assert key_to_text(explained).endswith("dropped: left out by pool.where (width is 100, must be >= 200)")
    assert "width is None" in key_to_text(inspect_key(run, "c"))
    with pytest.raises(UserError, match="not a key of this run's pool"):
        inspect_key(run, "z")
    json.dumps(explained)


def test_verdict_comes_first(tmp_path: Path) -> None:
    run, _ = run_where(tmp_path, write_jsonl, "all")
    assert key_to_text(inspect_key(run, "a")).splitlines()[0].startswith("a in 0.jsonl: kept: its draw 0.")
    assert "strongest entry 'red' (2 matches, 1.0000)" in key_to_text(inspect_key(run, "a"))
    dropped = "d in 0.jsonl: dropped: it contains no entry of the list of en"
    assert key_to_text(inspect_key(run, "d")).startswith(dropped)


def test_everything_left_out_stops_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all \d+ pairs are left out by pool\.where; see pool\.where"):
        run_where(tmp_path, write_jsonl, "all", width={">": 10_000})
