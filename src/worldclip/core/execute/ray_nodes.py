"""Watch the nodes of a Ray cluster, and say in a line what the loss of one costs."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any

from worldclip.core.console import say, say_detail
from worldclip.core.errors import WorkStopped

LOOK_S = 1.0  # interval of the questions to the head
CONNECT_S = 10.0  # timeout of the check that a cluster listens
NODE_ID = re.compile(r"node ID: ([0-9a-f]+)")  # part of Ray's error for a task whose node was lost
SETTLE_S = 3.0  # time after which Ray has reported the tasks of a lost node


class Nodes:
    """The nodes of the cluster while a map goes on."""

    def __init__(self, ray: Any, label: str) -> None:
        """label: of the map, for messages."""
        self.num_cpus = 0
        self.is_headless = False
        self._ray = ray
        self._label = label
        self._head = ray.get_runtime_context().gcs_address
        self._alive: dict[str, str] = {}
        self._lost: dict[str, str] = {}  # names of all lost nodes by id
        self._unsaid: list[str] = []  # names of nodes whose loss is not said yet
        self._num_again = 0  # shards that were lost with them
        self._lost_at = 0.0
        self._looked_at = float("-inf")
        self._is_waiting = False

    def look(self) -> None:
        """Say which nodes were lost, and that none is left.  Raises WorkStopped if the head was lost."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            check_port(self._head)  # Ray itself would wait for a minute, then end the process
        except OSError as error:
            self.is_headless = True
            os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # such tasks cannot be cancelled
            problem = f"the head of the Ray cluster at {self._head} was lost"
            say_detail(self._label, problem)  # goes to the log of the run
            raise WorkStopped(
                f"{self._label}: {problem}; start a cluster, then run the same command, which resumes"
            ) from error
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        alive = {node["NodeID"]: _name(node) for node in nodes}
        self.num_cpus = int(sum(node["Resources"].get("CPU", 0) for node in nodes))
        for node in self._alive.keys() - alive.keys():
            self._note_loss(node)
        self._alive = alive
        if self._unsaid and now - self._lost_at > SETTLE_S:
            self.say_losses()
        self._say_if_empty()

    def say_losses(self) -> None:
        """Say which nodes were lost since the last call, and how many shards that costs."""
        if not self._unsaid and not self._num_again:
            return
        names = sorted(self._unsaid)
        lost = f"nodes {', '.join(names)} were" if len(names) > 1 else f"node {names[0]} was" if names else "a node was"
        shards = "1 shard runs" if self._num_again == 1 else f"{self._num_again:,} shards run"
        say(self._label, f"{lost} lost; {shards} again")
        self._unsaid = []
        self._num_again = 0

    def count_again(self, node: str) -> None:
        """Count a shard that runs again because the node with this id was lost; Ray may not list it as lost yet."""
        self._num_again += 1
        self._note_loss(node)

    def _note_loss(self, node: str) -> None:
        if node in self._alive and node not in self._lost:
            self._lost[node] = self._alive[node]
            self._unsaid.append(self._alive[node])
            self._lost_at = time.monotonic()

    def _say_if_empty(self) -> None:
        if not self.num_cpus and not self._is_waiting:
            self.say_losses()
            say(
                self._label,
                f"no node of the Ray cluster at {self._head} has a CPU; waits for one (ray start --address="
                f"{self._head}). After Ctrl-C the same command resumes.",
            )
        elif self.num_cpus and self._is_waiting:
            say(self._label, f"goes on with {self.num_cpus:,} CPUs")
        self._is_waiting = not self.num_cpus


def _name(node: dict[str, Any]) -> str:
    """Return what a person calls a node: its host, and its address where that is another word."""
    host, address = str(node.get("NodeManagerHostname", "")), str(node["NodeManagerAddress"])
    return address if host in ("", address) else f"{host} ({address})"


def check_port(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray itself would wait for minutes and end the process."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
