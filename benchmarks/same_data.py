"""Compare the data of two runs: tables by content, arrays, weights, features and results byte for byte.

    python benchmarks/same_data.py RUN RUN

Records of how a run was made (manifests, reports, recipe, markers, logs) are left out, as they hold versions and times.
Exits with 1 and names the files if any differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

RECORDS = {
    "manifest.json",
    "report.json",
    "report.html",
    "recipe.toml",
    "run.json",
    "README.md",
    "DATA_CARD.md",
    ".lock",
}
RECORDS |= {"accounting.json", "config.json", "log.jsonl", "table.md", "table.tex", "state.json", "files.json"}
FOLDERS = {"done", "tensorboard"}


def data_files(run_dir: Path) -> Iterator[str]:
    """Yield the names of a run's data files, relative to the run."""
    for path in run_dir.rglob("*"):
        name = path.relative_to(run_dir)
        if path.is_file() and path.name not in RECORDS and not FOLDERS & set(name.parts):
            yield name.as_posix()


def content(path: Path) -> Any:
    """Return what must be equal of a file."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        return array.dtype, array.shape, array.tobytes()
    return path.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    first, second = parser.parse_args().runs
    names = sorted({*data_files(first), *data_files(second)})
    missing = [name for name in names if not ((first / name).exists() and (second / name).exists())]
    differing = [name for name in names if name not in missing and content(first / name) != content(second / name)]
    for name in missing:
        print(f"only in one run: {name}")
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(names) - len(missing) - len(differing)} of {len(names)} files are equal")
    return 1 if missing or differing or not names else 0


if __name__ == "__main__":
    sys.exit(main())
