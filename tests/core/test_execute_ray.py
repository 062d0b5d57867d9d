"""The executor on Ray: what the local one promises, on several nodes, one of which goes on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_execute
from test_execute import SHARDS, write_number

import worldclip
from killed import contents, digests_of_curation
from programs import output_of
from ray_cluster import add_node, running_cluster
from tars import wat_of
from worldclip.cli import main
from worldclip.core.errors import UserError
from worldclip.core.execute import RayExecutor, Shard
from worldclip.core.execute import ray as ray_executor
from worldclip.core.execute.shards import ShardWork
from worldclip.language.config import AddedLanguage
from worldclip.language.table import Languages

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    with running_cluster(2) as cluster:
        yield cluster


@pytest.fixture
def run_map(cluster, tmp_path: Path):
    """Map over SHARDS on the cluster."""
    return partial(RayExecutor(quiet=True).map, shards=SHARDS, label="x", done_dir=tmp_path / "done", key={})


# What the local executor promises, by its tests with the `run_map` of this file.
test_order = test_execute.test_reports_come_in_shard_order_and_a_second_call_does_nothing
test_failed_shard = test_execute.test_only_the_failed_shard_is_retried
test_killed_worker = test_execute.test_shards_of_a_killed_worker_are_retried
test_lost_workers = test_execute.test_shards_that_raise_or_lose_their_workers_fail_alone
test_error_of_every_shard = test_execute.test_error_of_every_shard_stops_the_map_and_blames_none


def name_of_kea(languages: Languages, shard: Shard) -> dict:
    return {"name": languages.get("kea").name}


def test_nodes_get_the_languages_of_the_recipe_with_their_work(run_map) -> None:
    added = Languages((AddedLanguage(name="Kabuverdianu", script="Latn").row("kea"),))
    assert {report["name"] for report in run_map(partial(name_of_kea, added))} == {"Kabuverdianu"}


def slow_number(out: Path, shard: Shard) -> dict:
    import ray

    node = ray.get_runtime_context().get_node_id()
    (out / f"{shard.name}.{node}").touch()
    time.sleep(600 if node == (out / "doomed").read_text() else 0.2)
    return write_number(out, shard)


@contextmanager
def removed_once(cluster, node, is_time: Callable[[], object]) -> Iterator[None]:
    """Let a node of the cluster be lost in the block."""

    def remove() -> None:
        while not is_time():
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=remove)
    killer.start()
    yield
    killer.join()


def test_lost_node_costs_only_its_running_shards(cluster, run_map, tmp_path: Path) -> None:
    node = add_node(cluster)
    (tmp_path / "doomed").write_text(node.node_id)
    many = [Shard(name=f"{n:03}.tar", path="") for n in range(16)]

    with removed_once(cluster, node, lambda: list(tmp_path.glob(f"*.{node.node_id}"))):
        reports = run_map(partial(slow_number, tmp_path), shards=many)
    assert [report["number"] for report in reports] == list(range(16))
    tried = [path.name[:7] for path in tmp_path.glob("*.tar.*")]
    assert len(tried) - len(set(tried)) == 1, "the lost node had one shard running, and it was tried elsewhere"


def test_workers_limit_the_parallel_shards() -> None:
    ray = SimpleNamespace(put=id, remote=lambda **_: id, cluster_resources=lambda: {"CPU": 8.0})
    for workers, expected in ((1, 1), (20, 8), (None, 16)):
        assert ray_executor._Tasks(ray, None, None, workers).num_at_once(is_retry=False) == expected


@pytest.mark.parametrize("loses_node", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_leaves_the_bytes_of_one_process(loses_node, cluster, toy_world, curated, tmp_path) -> None:
    is_matching = (tmp_path / "run" / "match" / "done").exists
    lost = removed_once(cluster, add_node(cluster), is_matching) if loses_node else nullcontext()
    with lost:
        worldclip.run(str(toy_world.recipe), out=tmp_path / "run", until="curate", executor=RayExecutor(quiet=True))
    assert digests_of_curation(tmp_path / "run") == curated


@pytest.mark.parametrize("command", ["check", "dedup", "wat"])
def test_pool_commands_give_the_same_bytes(cluster, toy_world, tmp_path, command) -> None:
    sources = [str(toy_world.recipe)]
    if command == "wat":
        sources = [write_wat(tmp_path / f"{n}.wat.gz", range(n, 300, 4)) for n in range(4)]
    for executor in ("local", "ray"):
        assert main(["pool", command, *sources, "--out", str(tmp_path / executor), "--executor", executor]) == 0
    local, ray = (contents(tmp_path / executor, ["log.txt", "listed_at.json"]) for executor in ("local", "ray"))
    assert local == ray
    assert any(name.endswith(".parquet") for name in local)


def write_wat(path: Path, numbers: range) -> str:
    links = [{"path": "IMG@/src", "url": f"/{n % 40}.jpg", "alt": f"text {n % 60}"} for n in numbers]
    path.write_bytes(wat_of(links))
    return str(path)


@pytest.mark.slow  # a busy machine makes Ray lose its only node, which looks like another failure
@pytest.mark.parametrize(("signal_sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupted_map_leaves_no_task_and_resumes(cluster, toy_world, curated, tmp_path, signal_sent, code) -> None:
    command = [sys.executable, "-m", "worldclip", "run", str(toy_world.recipe), "--out", str(tmp_path / "run")]
    command += ["--until", "curate", "--executor", f"ray:{cluster.address}"]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "metadata").glob("*.parquet")):
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal_sent)
    assert started.wait(60) == code
    assert not (tmp_path / "run" / "curate").exists()
    worldclip.run(str(toy_world.recipe), out=tmp_path / "run", until="curate", executor=RayExecutor(quiet=True))
    assert digests_of_curation(tmp_path / "run") == curated


def test_sigterm_keeps_its_handler_in_a_process_that_joins_a_cluster(monkeypatch) -> None:
    def init(address: str, **options: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init does

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    before = signal.getsignal(signal.SIGTERM)
    ray_executor.connect("auto", None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_the_example_runs_on_the_cluster(cluster, toy_world, curated, tmp_path) -> None:
    program = tmp_path / "worldclip"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -m worldclip "$@"\n')
    program.chmod(0o755)
    script = Path(__file__).parents[2] / "examples" / "ray_cluster" / "curate.sh"
    command = ["bash", script, toy_world.recipe, "run"]  # a relative path, which nodes begin elsewhere
    output_of(command, cwd=tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}", RAY_ADDRESS=cluster.address)
    assert digests_of_curation(tmp_path / "run") == curated


def test_node_without_the_shared_folders_or_the_version_is_refused(tmp_path: Path) -> None:
    version, elsewhere = worldclip.__version__, tmp_path / "elsewhere"
    work, shard = ShardWork(fn=lambda shard: {}, done_dir=tmp_path / "done", key=""), Shard(name="a.tar", path="a.tar")
    for place, words in (
        ((elsewhere / "token", version, tmp_path), r"does not see .*token"),
        ((tmp_path, "0.0.1", tmp_path), "use one version"),
        ((tmp_path, version, elsewhere), r"does not see .*elsewhere"),
    ):
        with pytest.raises(UserError, match=words):
            ray_executor.run_on_node(work, shard, ray_executor.Place(*place))


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ("local:x", "use local"),
        ("ray://10.0.0.1:10001", "Ray's client"),
        ("ray:127.0.0.1:1", "no cluster answers at '127.0.0.1:1'"),
    ],
)
def test_unusable_executors_are_refused(toy_world, executor, words, tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert main(["pool", str(toy_world.recipe), "--out", str(tmp_path), "--executor", executor]) == 2
    assert words in capfd.readouterr().err


@pytest.mark.slow
def test_local_ray_is_started_without_a_cluster(toy_world, tmp_path) -> None:
    command = [sys.executable, "-m", "worldclip", "pool", str(toy_world.recipe), "--out", str(tmp_path / "run")]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command, "--executor", "ray", "--workers", "1"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "pool" / "manifest.json").exists()
