"""A Ray cluster of several nodes on this machine, and this process connected to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
STARTS = 3  # a node that a busy machine does not start in 30 s is started again


@contextmanager
def running_cluster(num_nodes: int) -> Iterator[Any]:
    """Nodes of one CPU each; the first is the head."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    tests = Path(__file__).parents[1]
    folders = [str(tests), str(tests / "core"), str(tests / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)  # nodes import the tests' functions
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster()
    try:
        for _ in range(num_nodes):
            add_node(cluster)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster: Any) -> Any:
    for start in range(STARTS):
        try:
            return cluster.add_node(**NODE)
        except Exception:
            if start == STARTS - 1:
                raise
            time.sleep(1)
    raise AssertionError
