"""Time on a clock, CPU and memory of the stages that read a pool, with a worker per core, under two checkouts.

    python before/clock.py OTHER_CHECKOUT/src FOLDER NUM_PAIRS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tomli_w

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
from processes import run  # noqa: E402
from recombine import LANGS, write_lists, write_pool  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True)
    lists = write_lists(folder / "lists")
    write_pool(folder / "pool", int(sys.argv[3]))
    settings = {
        "pool": {"path": str(folder / "pool"), "key": "uid", "texts": ["text"]},
        "languages": {"codes": list(LANGS)},
        "metadata": {"lists": {lang: str(path) for lang, path in lists.items()}},
        "balance": {"tail_fraction": 0.06},
    }
    recipe = folder / "recipe.toml"
    recipe.write_text(tomli_w.dumps(settings))
    for name, source in (("before", sys.argv[1]), ("now", str(REPOSITORY / "src"))):
        environment = {**os.environ, "PYTHONPATH": source}
        costs = []
        for stage in ("metadata", "pool", "match", "balance", "curate"):
            command = [sys.executable, "-m", "worldclip", stage, str(recipe), "--out", str(folder / name)]
            cost = run(command, folder / "log.txt", env=environment)
            print(f"{name} {stage}: {cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s, driver {cost.driver_own_bytes:,} bytes")
            costs.append(cost)
        total = costs[1]
        for cost in costs[2:]:
            total += cost
        print(f"{name}: {total.wall_s:.1f} s, CPU {total.cpu_s:.1f} s, driver {total.driver_own_bytes:,} bytes", flush=True)


if __name__ == "__main__":  # write_pool starts processes that import this module
    main()
