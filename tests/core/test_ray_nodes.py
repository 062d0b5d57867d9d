"""What is said when nodes of a Ray cluster are lost, by a made-up cluster; test_execute_ray.py has real ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worldclip.core.console import logged_to
from worldclip.core.errors import WorkStopped
from worldclip.core.execute import ray_nodes
from worldclip.core.execute.ray_nodes import Nodes


class MadeUpRay:
    """As much of the module ray as Nodes asks."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.cpus = {"10.0.0.1": 2, "10.0.0.2": 4, "10.0.0.3": 4}
        self.lost: set[str] = set()

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address=self.address)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": address,
                "NodeManagerAddress": address,
                "NodeManagerHostname": f"node{address[-1]}",
                "Alive": address not in self.lost,
                "Resources": {} if address in self.lost else {"CPU": float(cpus)},
            }
            for address, cpus in self.cpus.items()
        ]


@pytest.fixture
def head() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def ray(head: socket.socket, monkeypatch: pytest.MonkeyPatch) -> MadeUpRay:
    monkeypatch.setattr(ray_nodes, "LOOK_S", 0.0)
    monkeypatch.setattr(ray_nodes, "SETTLE_S", -1.0)
    return MadeUpRay(f"127.0.0.1:{head.getsockname()[1]}")


@pytest.fixture
def nodes(ray: MadeUpRay) -> Nodes:
    nodes = Nodes(ray, "match")
    nodes.look()
    return nodes


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capfd.readouterr().err.splitlines()]


def test_a_lost_node_is_said_in_one_line_which_the_log_has_too(ray, nodes, tmp_path: Path, capfd) -> None:
    with logged_to(tmp_path / "log.txt"):
        assert nodes.num_cpus == 10
        assert lines(capfd) == []
        ray.lost.add("10.0.0.2")
        for _ in range(17):
            nodes.count_again("10.0.0.2")
        nodes.look()
        nodes.look()
        assert nodes.num_cpus == 6
        ray.lost.add("10.0.0.3")
        nodes.count_again("10.0.0.3")
        nodes.look()
    expected = ["node2 (10.0.0.2) was lost; 17 shards run again", "node3 (10.0.0.3) was lost; 1 shard runs again"]
    assert lines(capfd) == [f"match  node {line}" for line in expected]
    assert [line.partition("match  node ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == expected


def test_shards_of_a_loss_are_counted_until_ray_has_told_all(ray, nodes, capfd, monkeypatch) -> None:
    monkeypatch.setattr(ray_nodes, "SETTLE_S", 60.0)
    ray.lost |= {"10.0.0.2", "10.0.0.3"}
    for _ in range(3):
        for lost in ray.lost:
            nodes.count_again(lost)
        nodes.look()
    assert lines(capfd) == []
    nodes.say_losses()
    nodes.say_losses()
    assert lines(capfd) == ["match  nodes node2 (10.0.0.2), node3 (10.0.0.3) were lost; 6 shards run again"]
    nodes.count_again("")
    nodes.say_losses()
    assert lines(capfd) == ["match  a node was lost; 1 shard runs again"]


def test_a_node_that_ray_does_not_list_as_lost_yet_is_named_once(ray, nodes, capfd) -> None:
    nodes.count_again("10.0.0.2")
    nodes.say_losses()
    nodes.look()
    ray.lost.add("10.0.0.2")
    nodes.look()
    nodes.say_losses()
    assert lines(capfd) == ["match  node node2 (10.0.0.2) was lost; 1 shard runs again"]


def test_a_cluster_without_cpus_is_said_once_and_so_is_its_return(ray, nodes, capfd) -> None:
    ray.lost |= set(ray.cpus)
    for _ in range(3):
        nodes.look()
    said = lines(capfd)
    assert len(said) == 2
    assert said[0].endswith("were lost; 0 shards run again")
    assert said[1] == (
        f"match  no node of the Ray cluster at {ray.address} has a CPU; waits for one (ray start --address="
        f"{ray.address}). After Ctrl-C the same command resumes."
    )
    ray.lost.clear()
    nodes.look()
    nodes.look()
    assert lines(capfd) == ["match  goes on with 10 CPUs"]


def test_a_lost_head_stops_the_map_in_one_line(ray, nodes, head, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("RAY_IGNORE_UNHANDLED_ERRORS", "0")
    head.close()
    with logged_to(tmp_path / "log.txt"), pytest.raises(WorkStopped) as stopped:
        nodes.look()
    assert str(stopped.value) == (
        f"match: the head of the Ray cluster at {ray.address} was lost; start a cluster, then run the same command, "
        "which resumes"
    )
    assert nodes.is_headless
    assert lines(capfd) == []
    assert f"the head of the Ray cluster at {ray.address} was lost" in (tmp_path / "log.txt").read_text()
