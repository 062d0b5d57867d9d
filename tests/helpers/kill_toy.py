"""The small world that the commands of kill_scenarios.py read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from toy import build_toy_world
from worldclip.core.execute import LocalExecutor

QUIET = LocalExecutor(quiet=True)
Call = Callable[[Path], object]
CURATE = """
text_policy = "all"
write = "tars"
samples_per_tar = 20
max_pairs = 60
"""


def nothing(folder: Path) -> None:
    """Start in an empty folder."""


def toy(folder: Path) -> Path:
    """Write the toy world with lists of keys, caps and tars; return its recipe."""
    recipe = build_toy_world(folder).recipe
    for name, keys in (("valid", [f"{n:05}" for n in range(70)]), ("denied", ["00003", "00030"])):
        pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), folder / f"{name}.parquet")
    lists = f'valid_keys = "{folder}/valid.parquet"\ndeny_keys = ["{folder}/denied.parquet"]\n'
    text = recipe.read_text().replace("[pool]\n", f"[pool]\n{lists}")
    text = text.replace('\ntext_policy = "all"\n', CURATE).replace("[match]", '[match]\nisolate = "merged"')
    recipe.write_text(text)
    return recipe


def change(world: Path) -> None:
    """Remove a shard, change another, add a third; change a word list."""
    pool = world / "pool"
    shutil.copy(pool / "00000.tar", pool / "00003.tar")
    shutil.copy(pool / "00002.tar", pool / "00000.tar")
    (pool / "00002.tar").unlink()
    with open(world / "lists" / "en.txt", "a", encoding="utf-8") as file:
        file.write("photo\n")
