"""Many small shards on a Ray cluster of two nodes on this machine, one of which is killed on the way.

    python benchmarks/lost_node.py [--shards 10000] [--write]     --write renews benchmarks/results/lost_node.md

Shards of 20 captions (benchmarks/recombine.py), so that what is done per shard takes the time.  All stages that curate
run three times: on processes of this machine; on two nodes of one CPU; on two nodes, one of which is killed half-way
through match.  All must leave the same bytes, or the benchmark stops.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from hundred_million import STAGES, World, digest_of
from match import describe_processor
from processes import Cost
from recombine import write_pool

from worldclip.contracts import layout
from worldclip.core.artifacts import versions, write_text

RESULTS = Path(__file__).parent / "results" / "lost_node.md"
NUM_SHARDS, TEXTS_PER_SHARD = 10_000, 20
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
POLL_S = 0.5  # interval at which the matched shards are counted
LOCAL, NODES, LOST = "2 processes", "2 nodes", "2 nodes, one killed in match"


@contextmanager
def cluster_of_two() -> Iterator[tuple[Any, Any]]:
    """Start a cluster of two nodes; yield (cluster, the node that is not the head)."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        yield cluster, cluster.add_node(**NODE)
    finally:
        cluster.shutdown()


def run_on_cluster(world: World, recipe: Path, out: Path, *, num_matched: int | None = None) -> dict[str, Cost]:
    """Run the stages on a new cluster; num_matched: matched shards after which a node is killed."""
    costs = {}
    with cluster_of_two() as (cluster, node):
        for stage in STAGES:
            is_over = threading.Event()
            arguments = (cluster, node, layout.matched_texts(out), num_matched, is_over)
            killer = threading.Thread(target=kill_node, args=arguments)
            is_killed = stage == "match" and num_matched is not None
            if is_killed:
                killer.start()
            costs[stage] = world.command(stage, recipe, "--out", out, "--executor", f"ray:{cluster.address}")
            is_over.set()
            if is_killed:
                killer.join()
                if len(cluster.list_all_nodes()) > 1:
                    raise SystemExit("match was over before a node was killed; give more --shards")
    return costs


def kill_node(cluster: Any, node: Any, texts: Path, num_files: int, is_over: threading.Event) -> None:
    """Kill a node as soon as a folder has so many files, unless the work is over."""
    while not is_over.wait(POLL_S):
        if texts.is_dir() and len(os.listdir(texts)) >= num_files:
            cluster.remove_node(node, allow_graceful=False)
            return


def measure(folder: Path, num_shards: int) -> str:
    world = World(folder, num_shards * TEXTS_PER_SHARD)
    write_pool(world.pool, world.num_pairs, rows_per_shard=TEXTS_PER_SHARD)
    recipe = world.recipe("small", world.pool)
    costs: dict[str, dict[str, Cost]] = {}
    digests = {}
    for name in (LOCAL, NODES, LOST):
        out = world.new_run(name.replace(" ", "_"))
        if name == LOCAL:
            costs[name] = world.run_stages(recipe, out, "--workers", "2")
        else:
            costs[name] = run_on_cluster(world, recipe, out, num_matched=num_shards // 2 if name == LOST else None)
        digests[name] = digest_of(out)
    if len(set(digests.values())) > 1:
        raise SystemExit(f"the bytes differ: {digests}")
    return page(costs, num_shards, digests[LOCAL], said(folder / LOST.replace(" ", "_")))


def said(run_dir: Path) -> list[str]:
    """Return what the run's log says of a lost node."""
    lines = (run_dir / "log.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "lost" in line]


def page(costs: Mapping[str, Mapping[str, Cost]], num_shards: int, digest: str, lines: list[str]) -> str:
    known = ", ".join(f"{name} {version}" for name, version in versions(("worldclip", "pyarrow", "ray")).items())
    rows = []
    for name, stages in costs.items():
        total = sum(cost.wall_s for cost in stages.values())
        cells = [f"{num_shards / cost.wall_s:,.0f}" for cost in stages.values()]
        rows.append(f"| {name} | {' | '.join(cells)} | {num_shards / total:,.0f} | {total:,.0f} |")
    return f"""# Small shards on two nodes, one of them lost

{date.today()}, {describe_processor()}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; \
{known}. {num_shards:,} Parquet shards of {TEXTS_PER_SHARD} captions; each stage is a command, the start of its \
processes included. Nodes of one CPU on this machine. All three left the same bytes (SHA-256 `{digest}`). Written by \
`benchmarks/lost_node.py`.

Shards per second:

| on | {" | ".join(STAGES)} | all stages | s |
|---|{"---:|" * (len(STAGES) + 2)}
{chr(10).join(rows)}

What the run's log says of the node:

{chr(10).join(f"    {line}" for line in lines) or "nothing"}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=NUM_SHARDS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("reads /proc")
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder), arguments.shards)
    print(text)
    if arguments.write:
        write_text(RESULTS, text)


if __name__ == "__main__":
    main()
